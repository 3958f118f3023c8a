#!/usr/bin/env python3
"""nginx and HAProxy in front of the real program, with the files in deploy/.

    tests/proxies/run.py BINARY

A hundred and more users, each at an address of 127.0.0.0/8 of its own, connect to a proxy that connects
to fanwire from 127.0.0.1. Each must have the limits of its own address, and what clients say about
themselves must not count. Needs nginx with its stream module, and haproxy; every process listens on a
free port of the loopback interface and keeps its files in a temporary folder.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
USERS = 150
PER_ADDRESS = 2
# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 20
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def with_ports(file, listen, upstream):
    """A file of deploy/ with other ports, and nothing else changed."""
    text = (DEPLOY / file).read_text()
    for shipped, ours in (("127.0.0.1:8080", listen), ("127.0.0.1:8765", upstream)):
        assert text.count(shipped) == 1, f"{file} has not one {shipped}"
        text = text.replace(shipped, f"127.0.0.1:{ours}")
    return text


def settings_in(file):
    """The settings that a file of deploy/ says belong to it."""
    lines = re.findall(r"^#   (\w+ = .*?)(?:  +.*)?$", (DEPLOY / file).read_text(), re.M)
    assert len(lines) == 2, f"{file} names {lines}"
    return "\n".join(lines)


@contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def fanwire(binary, settings, folder):
    """The server with these settings; its port."""
    tokens = ", ".join(f'"user{user}=token{user}"' for user in range(USERS + PER_ADDRESS + 1))
    file = folder / "fanwire.toml"
    file.write_text(
        f"{settings}\nlisten = \"127.0.0.1:0\"\nshards = 2\nstatic_tokens = [{tokens}]\n"
        f"unauthenticated_per_ip_max = {PER_ADDRESS}\n"
        f"[gateway]\nsessions_per_ip_max = {PER_ADDRESS}\n"
    )
    command = [binary, "serve", "--config", str(file)]
    environment = {"PATH": os.environ["PATH"], "RUST_LOG": "warn", "FANWIRE_CLIENT_HTTP": "health,metrics"}
    with running(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline()
        listening = re.search(r"listening on 127\.0\.0\.1:(\d+)", first)
        assert listening, f"the server did not start: {first}"
        yield int(listening[1])


@contextmanager
def nginx(folder, http="", outside=""):
    modules = f"load_module {STREAM_MODULE};" if outside and STREAM_MODULE.exists() else ""
    user = "user root;" if os.geteuid() == 0 else ""
    paths = " ".join(
        f"{name}_temp_path {folder}/{name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = folder / "nginx.conf"
    file.write_text(
        f"{modules}\n{user}\ndaemon off;\npid {folder}/nginx.pid;\nworker_processes 2;\n"
        f"error_log stderr warn;\nevents {{ worker_connections 2048; }}\n"
        f"http {{ access_log off; {paths}\n{http} }}\n{outside}\n"
    )
    with running(["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)]) as process:
        yield process


@contextmanager
def haproxy(folder, text):
    file = folder / "haproxy.cfg"
    file.write_text(text)
    with running(["haproxy", "-db", "-f", str(file)]) as process:
        yield process


def await_port(port, process):
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()
        except ConnectionRefusedError:
            assert process.poll() is None, f"{process.args} has ended"
            assert time.monotonic() < end, f"{process.args} does not listen"
            time.sleep(0.02)


class Client:
    """A WebSocket client at an address of its own."""

    def __init__(self, port, address, target, headers=""):
        source = (address, 0)
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, source)
        self.received = b""
        request = (
            f"GET {target} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        )
        self.socket.sendall(request.encode())
        while b"\r\n\r\n" not in self.received:
            self.fill()
        head, self.received = self.received.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def fill(self):
        more = self.socket.recv(4096)
        assert more, f"the connection has ended after {self.received}"
        self.received += more

    def frame(self):
        """Opcode and payload of the next frame; all are short here."""
        while len(self.received) < 2 or len(self.received) < 2 + self.received[1]:
            self.fill()
        opcode, length = self.received[0] & 0xF, self.received[1]
        assert length < 126, self.received
        payload, self.received = self.received[2 : 2 + length], self.received[2 + length :]
        return opcode, payload


def check(name, port, metric):
    """Users behind the proxy at `port`; `metric` reads one of the server."""
    users = []
    for user in range(USERS):
        # What the client says about itself would make all of them one.
        forged = "X-Forwarded-For: 203.0.113.9\r\nForwarded: for=203.0.113.9\r\n"
        client = Client(port, f"127.0.1.{user + 1}", f"/ws?token=token{user}", forged)
        opcode, payload = client.frame()
        assert opcode == 1 and json.loads(payload)["type"] == "auth_success", (name, user, payload)
        users.append(client)
    count = metric("fanwire_authenticated_sessions")
    assert count == USERS, f"{name}: {count} sessions"
    # One address is one address, also behind the proxy.
    same = [Client(port, "127.0.1.7", f"/ws?token=token{USERS + n}") for n in range(PER_ADDRESS)]
    for client in same[: PER_ADDRESS - 1]:
        assert json.loads(client.frame()[1])["type"] == "auth_success", name
    last = same[-1].frame()
    assert last == (8, (1008).to_bytes(2, "big") + b"quota"), (name, last)
    print(f"  ok    {name}: {USERS} users are {USERS} addresses, and one address has its limit")
    for client in users + same:
        client.socket.close()


def metric_of(port, before=b""):
    """Reads a metric at `port`, as a proxy for itself if it must begin with a header."""

    def read(name):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
            connection.sendall(before + b"GET /metrics/prometheus HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            text = b""
            while more := connection.recv(65536):
                text += more
        lines = [line for line in text.decode().splitlines() if re.match(rf"{name}[{{ ]", line)]
        assert lines, f"no series {name}"
        return sum(int(line.rsplit(" ", 1)[1]) for line in lines)

    return read


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    binary = str(Path(sys.argv[1]).resolve())
    # Where Debian has them, and users who are not root do not look.
    os.environ["PATH"] += ":/usr/sbin"
    for program in ("nginx", "haproxy"):
        if not shutil.which(program):
            sys.exit(f"proxies: {program} is missing; tests/run.sh installs it")

    def case(name, file, proxy, before=b""):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            upstream = stack.enter_context(fanwire(binary, settings_in(file), folder))
            listen = free_port()
            process = stack.enter_context(proxy(folder, with_ports(file, listen, upstream)))
            await_port(listen, process)
            check(name, listen, metric_of(upstream, before=before))

    local = b"PROXY UNKNOWN\r\n"
    case("nginx, X-Forwarded-For", "nginx/fanwire.conf", nginx)
    case(
        "nginx, PROXY protocol 1",
        "nginx/fanwire-stream.conf",
        lambda folder, text: nginx(folder, outside=text),
        local,
    )
    case("HAProxy, PROXY protocol 2", "haproxy/fanwire.cfg", haproxy, local)
    print("proxies: all passed")


if __name__ == "__main__":
    main()

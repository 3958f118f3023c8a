#!/usr/bin/env python3
"""Do programs in C, C++, Go and Python publish into the real server through shared memory?

    tests/publishers/run.py FANWIRE [--rates]

Builds the examples of ring/capi, and the Python package as a wheel. Subscribers receive by the `websockets` package, which
the first run installs in target/publishers. With --rates, publishes from Python instead, as fast as it goes, through shared
memory and by `POST /api/publish`, in turns, and prints how often each goes in a second; use release builds (FANWIRE_RING_LIBRARY
names the library). Exits with 1 at the first check that fails.
"""

import contextlib
import http.client
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPI = ROOT / "ring/capi"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
PLACE = TARGET / "publishers"
LIBRARY = pathlib.Path(os.environ.get("FANWIRE_RING_LIBRARY", TARGET / "debug/libfanwire_ring.so"))


def prepare():
    """The virtual environment, with the package that is there now."""
    if "FANWIRE_RING_LIBRARY" not in os.environ:
        build = ["cargo", "build", "--quiet", "--package", "fanwire-ring-capi"]
        subprocess.run(build, check=True, cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
    python = PLACE / "venv/bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", PLACE / "venv"], check=True)
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-r", ROOT / "tests/publishers/requirements.txt"], check=True)
    wheels = PLACE / "wheel"
    for wheel in wheels.glob("*.whl"):
        wheel.unlink()
    variables = {**os.environ, "FANWIRE_RING_LIBRARY": str(LIBRARY)}
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, CAPI / "python"], check=True, env=variables)
    subprocess.run([*pip, "install", "--force-reinstall", *wheels.glob("*.whl")], check=True)
    return python


if "--prepared" not in sys.argv:
    venv = prepare()
    os.execv(venv, [venv, *sys.argv, "--prepared"])

from fanwire_ring import Disconnected, Publisher, RingError  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 60
COUNT = 2000


class Server:
    """The real program."""

    def __init__(self, binary, ingest, **variables):
        environment = {"RUST_LOG": "warn", "FANWIRE_INGEST__SHARED_MEMORY": str(ingest), **variables}
        command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        first = self.process.stdout.readline()
        assert "listening on" in first, first
        self.port = int(first.rsplit(":", 1)[1])
        # What it prints must not fill the pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def metric(self, name):
        """The sum over all labels."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", "/metrics/prometheus")
        lines = connection.getresponse().read().decode().splitlines()
        return {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")}

    def subscriber(self, channel):
        client = connect(f"ws://127.0.0.1:{self.port}/ws", open_timeout=PATIENCE_S, max_queue=None, proxy=None, legacy=True)
        client.send(json.dumps({"type": "subscribe", "data": {"channel": channel}}))
        while json.loads(client.recv(PATIENCE_S))["type"] != "subscribed":
            pass
        return client

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def compiled():
    """The examples, each as a command."""
    PLACE.mkdir(parents=True, exist_ok=True)
    flags = ["-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{CAPI / 'include'}"]
    libraries = [f"-L{LIBRARY.parent}", f"-Wl,-rpath,{LIBRARY.parent}", "-lfanwire_ring", "-lpthread"]
    for compiler, source, name in ((["cc"], "publish.c", "c"), (["c++", "-std=c++17"], "publish.cpp", "cpp")):
        program = PLACE / f"publish-{name}"
        subprocess.run([*compiler, *flags, CAPI / "examples" / source, *libraries, "-o", program], check=True)
        yield name, [program]
    variables = {**os.environ, "CGO_CFLAGS": f"-I{CAPI / 'include'}", "CGO_LDFLAGS": " ".join(libraries), "GOFLAGS": "-mod=mod",
                 "CGO_LDFLAGS_ALLOW": "-Wl,-rpath,.*"}
    program = PLACE / "publish-go"
    subprocess.run(["go", "build", "-o", program, "./publish"], check=True, cwd=CAPI / "examples/go", env=variables)
    yield "go", [program]
    yield "python", [sys.executable, CAPI / "examples/publish.py"]


def check_languages(server, path):
    """All at a time: two subscribers receive each one's messages once, and in order."""
    programs = dict(compiled())
    subscribers = [server.subscriber("news") for _ in range(2)]
    running = [subprocess.Popen([*command, path, "news", str(COUNT)], stdout=subprocess.PIPE) for command in programs.values()]
    for number, subscriber in enumerate(subscribers):
        following = dict.fromkeys(programs, 0)
        for _ in range(COUNT * len(programs)):
            data = json.loads(subscriber.recv(PATIENCE_S))["data"]
            assert data["number"] == following[data["from"]], (number, data, following)
            following[data["from"]] += 1
        subscriber.close()
    for process in running:
        said, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0 and said == f"published {COUNT} messages\n".encode(), said
    published = server.metric("fanwire_ingest_publications_total")
    assert sum(published.values()) == COUNT * len(programs), published
    assert len(published) == len(programs), published
    print(f"{COUNT} messages from each of {', '.join(programs)}: received in order, twice")


def check_kinds(server, path):
    """What the Python package offers beside plain messages, and what it rejects."""
    subscriber = server.subscriber("kinds")
    with Publisher(path) as publisher:
        publisher.publish("kinds", "m", "1", user="nobody")
        publisher.publish("kinds", "m", "2", tenant="acme")
        publisher.publish("kinds", "m", "not JSON")
        publisher.publish("kinds", "m", bytearray(b'{"a":"\xc3\xa4"}'), except_session="f" * 16)
        publisher.flush()
        assert json.loads(subscriber.recv(PATIENCE_S)) == {"type": "m", "channel": "kinds", "data": {"a": "ä"}}
        for arguments, error in (({"user": "a", "role": "b"}, ValueError), ({"tenant": "a", "all_tenants": True}, ValueError)):
            with contextlib.suppress(error):
                publisher.publish("kinds", "m", "1", **arguments)
                raise AssertionError(arguments)
        try:
            publisher.publish("kinds", "m", b"1" * (1 << 20))
            raise AssertionError("too large")
        except RingError as error:
            assert error.status == 3, error
    rejected = server.metric("fanwire_ingest_rejected_total")
    assert sum(rejected.values()) == 1 and any('reason="data"' in name and count for name, count in rejected.items()), rejected
    subscriber.close()
    print("targets, tenants and what is rejected: as documented")


def check_killed_publisher(server, path):
    """A publisher that is killed at any time takes nothing with it that it has written, and leaves nobody waiting."""
    endless = "import sys\nfrom fanwire_ring import Publisher\np = Publisher(sys.argv[1])\nn = 0\nwhile True:\n" \
        "    p.publish('killed', 'm', str(n), timeout=10)\n    n += 1\n    n % 100 or print(n, flush=True)\n"
    for round_number in range(10):
        subscriber = server.subscriber("killed")
        process = subprocess.Popen([sys.executable, "-c", endless, path], stdout=subprocess.PIPE, text=True)
        for _ in range(1 + 3 * round_number):
            said = int(process.stdout.readline())
        process.kill()
        said = [said, *map(int, process.stdout.read().split())][-1]
        process.wait()
        for number in range(said):
            assert json.loads(subscriber.recv(PATIENCE_S))["data"] == number
        subscriber.close()
    deadline = time.monotonic() + PATIENCE_S
    while sum(server.metric("fanwire_ingest_sources").values()):
        assert time.monotonic() < deadline, "a source stays"
        time.sleep(0.05)
    print("a publisher that is killed 10 times: all it had written arrives, none stays")


def check_end(server, path):
    """A server that ends, or is killed, is noticed; one that starts anew is found at the same place."""
    publisher = Publisher(path)
    publisher.publish("news", "m", "1")
    publisher.flush()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE_S) == 0
    assert not pathlib.Path(path).exists()
    try:
        publisher.publish("news", "m", "2")
        raise AssertionError("published for nobody")
    except Disconnected:
        print("a server that ends: its publishers learn of it")


def check_killed_server(binary, path):
    with Server(binary, path) as server:
        publisher = Publisher(path)
        server.process.kill()
        server.process.wait()
        written = 0
        try:
            while True:
                publisher.publish("news", "m", "1" * 1000, timeout=1)
                written += 1
        except Disconnected:
            pass
        assert written < 10_000, written
    with Server(binary, path), Publisher(path) as publisher:
        publisher.publish("news", "m", "1")
        publisher.flush()
    print(f"a server that is killed: its publisher learns of it after {written} messages of 1 KB; the next one is found")


def print_rates(server, path, rounds=5, time_s=2.0):
    """How often a program in Python publishes 64 bytes in a second."""
    data = json.dumps({"text": "x" * 50})
    body = json.dumps({"channel": "rates", "type": "m", "data": {"text": "x" * 50}})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    headers = {"Content-Type": "application/json"}

    def by_http():
        connection.request("POST", "/api/publish", body, headers)
        answer = connection.getresponse()
        assert answer.read() and answer.status == 200, answer.status

    def rate(publish):
        count, began = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - began) < time_s:
            for _ in range(100):
                publish()
            count += 100
        return count / elapsed

    found = {"shared memory": [], "POST /api/publish": []}
    with Publisher(path) as publisher:
        for _ in range(rounds):
            found["shared memory"].append(rate(lambda: publisher.publish("rates", "m", data, 10)))
            publisher.flush()
            found["POST /api/publish"].append(rate(by_http))
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):,.0f} publications/s ({min(rates):,.0f}-{max(rates):,.0f}), {rounds} rounds")


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--prepared"]
    binary = str(pathlib.Path(arguments[0]).absolute())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "ingest")
        with Server(binary, path) as server:
            if "--rates" in arguments:
                return print_rates(server, path)
            check_languages(server, path)
            check_kinds(server, path)
            check_killed_publisher(server, path)
            check_end(server, path)
        check_killed_server(binary, path)


main()

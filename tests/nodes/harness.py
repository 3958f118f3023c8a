"""What the tests of several nodes share: a real redis-server, real nodes, and clients that speak WebSocket by hand."""

import asyncio
import base64
import concurrent.futures
import contextlib
import hashlib
import hmac
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 60


def free_port():
    """A port that nobody has now. A cluster also takes the one 10,000 above."""
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        if port < 55_000:
            return port


def until(what, condition, patience_s=PATIENCE_S):
    """Waits until a condition holds; returns its value."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not in {patience_s} s: {what}"
        time.sleep(0.02)


class Process:
    """A program that ends with the test."""

    def __init__(self, command, **options):
        self.command = [str(part) for part in command]
        self.options = options
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, **self.options)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        if self.process:
            self.process.wait()

    def __enter__(self):
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_):
        self.kill()


class Redis(Process):
    """A redis-server with a port and a folder of its own."""

    host = "127.0.0.1"

    def __init__(self, folder, *options, program="redis-server"):
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
        path = shutil.which(program) or f"/usr/bin/{program}"
        common = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", "--loglevel", "warning"]
        log = open(self.folder / "log", "ab")
        super().__init__([path, *common, *options], stdout=log, stderr=log)

    def start(self):
        super().start()
        until("redis-server answers", lambda: self.command_or_none("PING") in ("PONG", None) and self.is_open())

    def is_open(self):
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
            return True
        return False

    def command_or_none(self, *words):
        with contextlib.suppress(OSError, RuntimeError):
            return self.ask(*words)
        return None

    def ask(self, *words):
        """The answer to a command."""
        with socket.create_connection((self.host, self.port), timeout=PATIENCE_S) as connection:
            text = b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in (str(word).encode() for word in words))
            connection.sendall(b"*%d\r\n" % len(words) + text)
            return read_answer(connection.makefile("rb"))

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"


def read_answer(file):
    line = file.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"-":
        raise RuntimeError(rest)
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == "-1" else file.read(int(rest) + 2)[:-2].decode(errors="replace")
    if kind == b"*":
        return [read_answer(file) for _ in range(int(rest))]
    return rest


SECRET = "a secret of the tests, which nobody else uses"


def token(user, **claims):
    """A token of a user (RFC 7515, HS256)."""
    text = lambda part: base64.urlsafe_b64encode(part).rstrip(b"=")
    claims = {"sub": user, "exp": int(time.time()) + 3600, **claims}
    signed = b".".join(text(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    signature = hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + text(signature)).decode()


class Node(Process):
    """A fanwire node."""

    def __init__(self, binary, url, **settings):
        environment = {"RUST_LOG": "info", "FANWIRE_REDIS_URL": url, "FANWIRE_SHARDS": "1", **settings}
        self.settings = environment
        command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        super().__init__(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log = []

    def start(self):
        super().start()
        threading.Thread(target=self.read_log, daemon=True).start()
        first = self.process.stdout.readline()
        assert "listening on" in first, (first, self.log[-5:])
        self.port = int(first.rsplit(":", 1)[1])
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"content-type": "application/json"} if text else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def health(self):
        return json.loads(self.request("GET", "/health")[1])

    def is_healthy(self):
        return self.health()["status"] == "healthy"

    def metrics(self):
        """Values by name and labels, without the label of the shard."""
        values = {}
        for line in self.request("GET", "/metrics/prometheus")[1].splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name] = values.get(name, 0) + float(value)
        return values

    def metric(self, name):
        """The sum over all labels."""
        pattern = re.compile(re.escape(name) + r"(\{.*)?$")
        return sum(value for key, value in self.metrics().items() if pattern.match(key))

    def publish(self, channel, data, **more):
        status, answer = self.request("POST", "/api/publish", {"channel": channel, "type": "m", "data": data, **more})
        assert status == 200, answer


class Front(Process):
    """The nginx of deploy/ in front of nodes."""

    def __init__(self, folder, text, nodes):
        self.port = free_port()
        for index, node in enumerate(nodes, 1):
            text = text.replace(f"node{index}:8765", f"127.0.0.1:{node.port}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};")
        folder = pathlib.Path(tempfile.mkdtemp(dir=folder))
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {temporary}\n{text}\n}}\n"
        )
        program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        super().__init__([program, "-p", folder, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    host = Redis.host
    is_open = Redis.is_open

    def kill(self):
        # Its workers end with it, unless it is killed.
        self.process.terminate()
        self.process.wait()


class Delay:
    """Passes bytes on to a port of this host, each some time later."""

    @classmethod
    async def begin(cls, target, delay_s):
        self = cls()
        self.target, self.delay_s, self.writers = target, delay_s, []
        # Whether what comes back is lost.
        self.loses_answers = False
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def serve(self, reader, writer):
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, other_writer]
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(self.pass_on(reader, other_writer), self.pass_on(other_reader, writer, True))

    async def pass_on(self, reader, writer, are_answers=False):
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while chunk := await reader.read(65_536):
                if are_answers and self.loses_answers:
                    continue
                loop.call_later(self.delay_s, writer.write, chunk)
            loop.call_later(self.delay_s, writer.close)

    def cut(self):
        """Ends all connections."""
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    def end(self):
        self.server.close()


class Client:
    """A client of the gateway dialect, as little as one can be."""

    def __init__(self):
        self.received = {}
        self.positions = []
        self.presence_events = []
        self.messages = asyncio.Queue()
        self.is_closed = False

    @classmethod
    async def connect(cls, node, path="/ws"):
        self = cls()
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", node.port, limit=1 << 22)
        self.port = self.writer.get_extra_info("sockname")[1]
        self.writer.write(
            f"GET {path} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert b" 101 " in head, head
        self.task = asyncio.create_task(self.read())
        return self

    async def read(self):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                first, length = await self.reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await self.reader.readexactly(2), "big")
                elif length == 127:
                    length = int.from_bytes(await self.reader.readexactly(8), "big")
                payload = await self.reader.readexactly(length)
                if first == 0x89:
                    self.frame(0x8A, payload)
                elif first == 0x81:
                    self.handle(payload)
                elif first == 0x88:
                    break
        self.is_closed = True
        self.messages.put_nowait({"type": "closed"})

    def handle(self, payload):
        message = json.loads(payload)
        if message["type"] == "m":
            self.received.setdefault(message["channel"], []).append(message["data"])
            self.positions.append(message.get("position"))
        elif message["type"] == "presence_event":
            self.presence_events.append(message["data"])
        else:
            self.messages.put_nowait(message)

    def frame(self, first, payload):
        length = len(payload)
        head = bytes([first, 0x80 | length]) if length < 126 else bytes([first, 0x80 | 126]) + length.to_bytes(2, "big")
        self.writer.write(head + bytes(4) + payload)

    def send(self, kind, **data):
        self.frame(0x81, json.dumps({"type": kind, "data": data}).encode())

    async def expect(self, kind):
        while True:
            message = await asyncio.wait_for(self.messages.get(), PATIENCE_S)
            if message["type"] == kind:
                return message
            assert message["type"] not in ("error", "closed"), message

    async def subscribe(self, channel, **more):
        self.send("subscribe", channel=channel, **more)
        return (await self.expect("subscribed"))["data"]

    def publish(self, channel, data):
        self.send("publish", channel=channel, type="m", data=data)

    async def leave(self):
        """Closes in order: what was sent before is received."""
        self.frame(0x88, b"\x03\xe8")
        while not self.is_closed:
            await asyncio.sleep(0.001)
        self.close()

    def close(self):
        self.task.cancel()
        self.writer.transport.abort()


async def settle(condition, what, patience_s=PATIENCE_S):
    """The same as `until` among tasks."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"not in {patience_s} s: {what}"
        await asyncio.sleep(0.02)


async def settle_healthy(*nodes):
    """Waits for nodes that need tasks of this thread."""
    loop = asyncio.get_running_loop()
    for node in nodes:
        await loop.run_in_executor(None, lambda node=node: until("the node is healthy", node.is_healthy))


# Most of the time each case waits.
CASES_AT_ONCE = 3


class NotPossible(Exception):
    """A case cannot run here."""


def run_cases(cases):
    """Runs those that the command line names, or all, for the program that it names first; ends with 1 if one fails.

    What cannot run here counts as failed with REQUIRE_ALL=1.
    """
    os.environ["PATH"] += ":/usr/sbin"
    binary, *names = (word for word in sys.argv[1:] if word != "--long")
    chosen = [case for case in cases if not names or case.__name__ in names]
    with concurrent.futures.ThreadPoolExecutor(CASES_AT_ONCE) as pool:
        results = list(pool.map(lambda case: run_case(case, binary), chosen))
    sys.exit(not results or not all(results))


def run_case(case, binary):
    """Whether it is as it should be."""
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="fanwire-nodes-") as folder:
            asyncio.run(case(binary, folder))
    except NotPossible as error:
        print(f"*** {case.__name__}: NOT RUN: {error}", flush=True)
        return not os.environ.get("REQUIRE_ALL")
    except BaseException:
        print(f"{case.__name__}: FAILED\n{traceback.format_exc()}", flush=True)
        return False
    print(f"{case.__name__}: {case.__doc__} ({time.monotonic() - began:.1f} s)", flush=True)
    return True

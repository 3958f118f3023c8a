#!/usr/bin/env python3
"""Do the spans of the real server reach an OpenTelemetry collector, with the right parents?

    tests/otlp/run.py FANWIRE

A collector of this program receives them and decodes them with OpenTelemetry's own messages (PyPI:
opentelemetry-proto), which the first run installs in target/otlp. Exits with 1 at the first check that fails.
"""

import base64
import contextlib
import http.server
import json
import os
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent

try:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
    from opentelemetry.proto.trace.v1 import trace_pb2
except ImportError:
    place = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"), "otlp").absolute()
    python = place / "venv/bin/python"
    if sys.executable == str(python):
        raise
    subprocess.run([sys.executable, "-m", "venv", "--clear", place / "venv"], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    os.execv(python, [python, *sys.argv])

# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 60
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
KEY = "0123456789abcdef"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
Kind = trace_pb2.Span


class Collector(http.server.ThreadingHTTPServer):
    """Receives spans; `answer` says how a request is answered."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans, self.resources, self.headers, self.requests = [], [], [], 0
        # A status, or None = never.
        self.answer = lambda number: 200
        self.rejected_spans = 0
        self.asked = []
        self.changed = threading.Condition()
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def wait_for(self, what, is_there):
        with self.changed:
            if self.changed.wait_for(is_there, PATIENCE_S):
                return
        names = [(span.name, attributes(span)) for span in self.spans]
        raise AssertionError(f"no {what}; spans: {names}")

    def named(self, name):
        return [span for span in self.spans if span.name == name]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        collector = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/whose":
            return self.whose(json.loads(body))
        assert self.path == "/v1/traces", self.path
        assert self.headers["Content-Type"] == "application/x-protobuf", self.headers
        request = service.ExportTraceServiceRequest.FromString(body)
        with collector.changed:
            collector.requests += 1
            status = collector.answer(collector.requests)
            collector.changed.notify_all()
        if status is None:
            collector.released.wait()
            return self.close_connection
        answer = service.ExportTraceServiceResponse()
        if collector.rejected_spans:
            answer.partial_success.rejected_spans = collector.rejected_spans
            answer.partial_success.error_message = "the tests reject them"
        with collector.changed:
            if status == 200:
                for resource_spans in request.resource_spans:
                    collector.resources.append(resource_spans.resource)
                    for scope_spans in resource_spans.scope_spans:
                        assert scope_spans.scope.name == "fanwire", scope_spans
                        collector.spans.extend(scope_spans.spans)
                collector.headers.append(dict(self.headers))
            collector.changed.notify_all()
        self.reply(status, answer.SerializeToString(), "application/x-protobuf")

    def whose(self, question):
        self.server.asked.append(self.headers["traceparent"])
        if question["token"] == "wrong":
            return self.reply(401, b"", "text/plain")
        identity = json.dumps({"user": "ann", "permissions": ["publish"]}).encode()
        self.reply(200, identity, "application/json")

    def reply(self, status, body, content_type):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server:
    """The real program."""

    def __init__(self, binary, **variables):
        environment = {"RUST_LOG": "warn", "FANWIRE_ADMIN_LISTEN": "127.0.0.1:0", **variables}
        environment.setdefault("FANWIRE_API_KEYS", f"tests={KEY} publish read admin")
        command = [binary, "serve", "--shards", "2", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        first = self.process.stdout.readline()
        assert "listening on" in first, first
        self.port = int(first.rsplit(":", 1)[1])
        for line in self.process.stdout:
            if line.startswith("  admin"):
                self.admin = line.split()[1].removesuffix("/docs")
                break

    def fetch(self, path, body=None, **headers):
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-API-Key": KEY, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = urllib.request.Request(self.admin + path, data, headers)
        with DIRECT.open(request, timeout=PATIENCE_S) as answer:
            return answer.read().decode(), answer.headers

    def publish(self, data=1, **headers):
        return self.fetch("/api/publish", {"channel": "news", "data": data}, **headers)

    def spans(self, outcome):
        text, _ = self.fetch("/metrics/prometheus")
        name = f'fanwire_trace_spans_total{{outcome="{outcome}"}} '
        return int(next(line for line in text.splitlines() if line.startswith(name)).removeprefix(name))

    def await_spans(self, outcome, is_enough):
        deadline = time.monotonic() + PATIENCE_S
        while not is_enough(count := self.spans(outcome)):
            assert time.monotonic() < deadline, f"{outcome}: {count}"
            time.sleep(0.05)
        return count

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Session:
    """A client of the gateway dialect, in the few bytes that this needs."""

    def __init__(self, port, token=None, **headers):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        target = "/ws" if token is None else f"/ws?token={token}"
        request = (
            f"GET {target} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{''.join(lines)}\r\n"
        )
        self.socket.sendall(request.encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline().decode()
        assert " 101 " in status, status
        while self.stream.readline() != b"\r\n":
            pass

    def send(self, kind, **data):
        text = json.dumps({"type": kind, "data": data}).encode()
        assert len(text) < 126
        self.socket.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)

    def receive(self, kind):
        while True:
            first, length = self.stream.read(2)
            if length == 126:
                (length,) = struct.unpack(">H", self.stream.read(2))
            payload = self.stream.read(length)
            if first == 0x81 and (message := json.loads(payload))["type"] == kind:
                return message

    def subscribe(self):
        self.send("subscribe", channel="news")
        self.receive("subscribed")


def attributes(span):
    def value(any_value):
        return getattr(any_value, any_value.WhichOneof("value"))

    return {it.key: value(it.value) for it in span.attributes}


def check_span(span, trace, parent, kind, **expected):
    """Its place in the trace, its times and its attributes."""
    assert span.trace_id.hex() == trace, span
    assert span.parent_span_id.hex() == parent, (span, parent)
    assert span.kind == kind, span
    assert len(span.span_id) == 8 and any(span.span_id), span
    age_s = time.time() - span.end_time_unix_nano / 1e9
    assert span.start_time_unix_nano <= span.end_time_unix_nano and -1 < age_s < 2 * PATIENCE_S, span
    found = attributes(span)
    for name, value in expected.items():
        name = name.replace("__", ".")
        assert found.get(name) == value, (name, value, found)


def only(spans):
    assert len(spans) == 1, [(span.name, attributes(span)) for span in spans]
    return spans[0]


def check_request(binary):
    """A request with a key that asks for a trace gets one, from the request to the sockets."""
    collector = Collector()
    with Server(
        binary,
        FANWIRE_DEV="true",
        FANWIRE_OTLP_ENDPOINT=collector.url,
        FANWIRE_TRACE_SAMPLE_RATIO="0",
        # A record has at most an eighth of it.
        FANWIRE_RING_BYTES="64 KiB",
    ) as server:
        # Whoever connects may ask for a trace, and gets none.
        sessions = [Session(server.port, traceparent=TRACEPARENT) for _ in range(8)]
        for session in sessions:
            session.subscribe()
        for malformed in ["", "00", TRACEPARENT.upper(), f"00-{'0' * 32}-{PARENT}-01", TRACEPARENT + "-x"]:
            server.publish(traceparent=malformed)
        server.publish(traceparent=TRACEPARENT[:-1] + "0")
        for session in sessions:
            for _ in range(6):
                session.receive("message")
        # In several records.
        _, headers = server.publish("x" * 20_000, traceparent=TRACEPARENT, x_request_id="request-17")
        assert headers["X-Request-Id"] == "request-17", headers
        for session in sessions:
            session.receive("message")
        collector.wait_for("fan-out", lambda: collector.named("fan_out") and len(collector.spans) >= 3)
        server.stop()
        request = only(collector.named("POST /api/publish"))
        check_span(
            request, TRACE, PARENT, Kind.SPAN_KIND_SERVER,
            http__request__method="POST", http__route="/api/publish", http__response__status_code=200,
            fanwire__correlation_id="request-17",
        )
        publish = only(collector.named("publish"))
        check_span(
            publish, TRACE, request.span_id.hex(), Kind.SPAN_KIND_PRODUCER,
            messaging__system="fanwire", messaging__operation__type="send",
            messaging__destination__name="news", messaging__message__body__size=20_002,
        )
        fan_outs = collector.named("fan_out")
        assert len({attributes(span)["fanwire.shard"] for span in fan_outs}) == len(fan_outs) <= 2
        for span in fan_outs:
            check_span(span, TRACE, publish.span_id.hex(), Kind.SPAN_KIND_INTERNAL)
            assert attributes(span)["fanwire.fan_out.sent"] is True
            assert span.start_time_unix_nano >= publish.start_time_unix_nano
        assert len(collector.spans) == 2 + len(fan_outs), [span.name for span in collector.spans]
        names = attributes(collector.resources[0])
        assert names["service.name"] == "fanwire" and names["service.instance.id"], names
    print(f"a request: {len(collector.spans)} spans in {collector.requests} requests")


def check_connection(binary):
    """Where everybody is trusted, a connection brings its trace, and the callback is told of it."""
    collector = Collector()
    with Server(
        binary,
        FANWIRE_OTLP_ENDPOINT=collector.url + "/",
        FANWIRE_TRACE_SAMPLE_RATIO="0",
        FANWIRE_TRACE_PARENT_TRUST="all",
        FANWIRE_AUTH_CALLBACK_URL=collector.url + "/whose",
    ) as server:
        untraced = Session(server.port, "any")
        untraced.receive("auth_success")
        session = Session(server.port, "another", traceparent=TRACEPARENT)
        session.receive("auth_success")
        untraced.subscribe()
        session.subscribe()
        session.send("publish", channel="news", data=1)
        session.receive("message")
        untraced.send("publish", channel="news", data=1)
        session.receive("message")
        wrong = Session(server.port, "wrong", traceparent=TRACEPARENT.replace("4bf9", "5bf9"))
        assert wrong.stream.read(2)[0] == 0x81
        collector.wait_for("spans", lambda: collector.named("fan_out") and len(collector.named("authenticate")) == 2)
        server.stop()
    mine = [span for span in collector.spans if span.trace_id.hex() == TRACE]
    others = [span for span in collector.spans if span.trace_id.hex() != TRACE]
    handshake = only([span for span in mine if span.name == "GET /ws"])
    check_span(
        handshake, TRACE, PARENT, Kind.SPAN_KIND_SERVER,
        http__response__status_code=101, fanwire__dialect="gateway", network__protocol__name="websocket",
    )
    authenticate = only([span for span in mine if span.name == "authenticate"])
    check_span(authenticate, TRACE, handshake.span_id.hex(), Kind.SPAN_KIND_INTERNAL)
    publish = only([span for span in mine if span.name == "publish"])
    check_span(publish, TRACE, handshake.span_id.hex(), Kind.SPAN_KIND_PRODUCER)
    for span in mine:
        if span.name == "fan_out":
            check_span(span, TRACE, publish.span_id.hex(), Kind.SPAN_KIND_INTERNAL)
    assert {span.name for span in mine} == {"GET /ws", "authenticate", "publish", "fan_out"}
    failed = only([span for span in others if span.name == "authenticate"])
    assert attributes(failed)["error.type"] == "callback", failed
    assert failed.status.code == trace_pb2.Status.STATUS_CODE_ERROR, failed
    told = f"00-{TRACE}-{authenticate.span_id.hex()}-01"
    assert collector.asked[0] is None and told in collector.asked, collector.asked
    assert f"00-5bf9{TRACE[4:]}-{failed.span_id.hex()}-01" in collector.asked, collector.asked
    print(f"a connection: {len(collector.spans)} spans")


def check_variables(binary):
    """The variables of OpenTelemetry, and a rejected upgrade."""
    collector = Collector()
    with Server(
        binary,
        FANWIRE_DEV="true",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b,authorization=Bearer%20c",
        OTEL_SERVICE_NAME="chat",
        OTEL_TRACES_SAMPLER="parentbased_always_on",
    ) as server:
        with contextlib.suppress(AssertionError):
            Session(server.port, Origin="http://a", **{"Sec-WebSocket-Version": "8"})
        session = Session(server.port)
        session.subscribe()
        session.send("publish", channel="news", data=1)
        session.receive("message")
        # Scrapes and probes are not traced.
        server.fetch("/health")
        server.stop()
    names = attributes(collector.resources[0])
    assert names["service.name"] == "chat", names
    sent = {name.lower(): value for name, value in collector.headers[0].items()}
    assert (sent["x-key"], sent["authorization"]) == ("a b", "Bearer c"), sent
    found = {span.name for span in collector.spans}
    assert found == {"GET", "GET /ws", "publish", "fan_out"}, found
    rejected = only(collector.named("GET"))
    assert attributes(rejected)["http.response.status_code"] in (400, 426), rejected
    assert attributes(rejected)["error.type"] in ("bad_request", "version"), rejected
    print("the variables of OpenTelemetry: passed")


def check_failures(binary):
    """A collector that hangs, refuses, is busy or rejects disturbs nobody, and what is lost is counted."""
    hanging = Collector()
    hanging.answer = lambda number: None
    with Server(binary, FANWIRE_DEV="true", FANWIRE_OTLP_ENDPOINT=hanging.url, FANWIRE_TRACE_SAMPLE_RATIO="1") as server:
        session = Session(server.port)
        session.subscribe()
        began = time.monotonic()
        batch = {"publications": [{"channel": "news", "data": number} for number in range(1_000)]}
        # Each is a publish and a fan-out, of which not all are awaited at a time.
        for _ in range(15):
            server.fetch("/api/batch", batch)
            for _ in range(1_000):
                session.receive("message")
        elapsed = time.monotonic() - began
        dropped = server.await_spans("queue_full", lambda count: count > 0)
        assert server.spans("exported") == 0
        hanging.wait_for("request", lambda: hanging.requests)
        began = time.monotonic()
        server.stop()
        stopped = time.monotonic() - began
        assert stopped < 20, stopped
        hanging.released.set()
    print(f"a collector that hangs: 15,000 publications in {elapsed:.1f} s, {dropped} spans dropped, stopped in {stopped:.1f} s")

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with Server(binary, FANWIRE_DEV="true", FANWIRE_OTLP_ENDPOINT=url, FANWIRE_TRACE_SAMPLE_RATIO="1") as server:
            server.publish()
            failed = server.await_spans("failed", lambda count: count > 0)
            server.stop()
    print(f"a collector that is not there: {failed} spans failed")

    busy = Collector()
    busy.answer = lambda number: 503 if number == 1 else 200
    with Server(binary, FANWIRE_DEV="true", FANWIRE_OTLP_ENDPOINT=busy.url, FANWIRE_TRACE_SAMPLE_RATIO="1") as server:
        server.publish()
        server.await_spans("exported", lambda count: count == 2)
        assert server.spans("failed") == 0
        busy.rejected_spans = 1
        server.publish()
        server.await_spans("failed", lambda count: count == 1)
        busy.answer = lambda number: 400
        server.publish()
        server.await_spans("failed", lambda count: count == 3)
        server.stop()
    assert len(busy.named("publish")) == 2
    print("a collector that is busy, or rejects: passed")


def check_off(binary):
    """Without an endpoint there are no spans and no metric of them."""
    with Server(binary, FANWIRE_DEV="true", OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as server:
        server.publish(traceparent=TRACEPARENT)
        text, _ = server.fetch("/metrics/prometheus")
        assert "fanwire_trace_spans" not in text
        server.stop()
    print("off: passed")


def main(binary):
    check_request(binary)
    check_connection(binary)
    check_variables(binary)
    check_failures(binary)
    check_off(binary)
    print("tests/otlp/run.py: passed")


if __name__ == "__main__":
    main(sys.argv[1])

#!/usr/bin/env python3
"""Does Prometheus understand the metrics of the real server, its alert rules and its dashboard?

    tests/prometheus/run.py FANWIRE

Needs promtool and prometheus (Debian: apt install prometheus). Exits with 1 at the first check that fails.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

DEPLOY = pathlib.Path(__file__).parents[2] / "deploy/grafana"
METRICS = DEPLOY.parents[1] / "docs" / "METRICS.md"
# Longest wait for anything; a machine under load gets its time.
PATIENCE_S = 60
# No proxy of the environment comes between.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# The address of the admin listener belongs to one server; in development mode all ports answer.
ENVIRONMENT = {"RUST_LOG": "warn", "FANWIRE_ADMIN_LISTEN": "none"}
# What a legacy document prints for its operators.
PRINTED = [
    "websocket_active_connections",
    "rate(websocket_messages_total[5m])",
    "rate(websocket_message_duration_seconds_sum[5m])"
    " / rate(websocket_message_duration_seconds_count[5m])",
    "sum(websocket_subscriptions_total) by (property_id)",
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(url, accept="*/*"):
    request = urllib.request.Request(url, headers={"Accept": accept})
    with DIRECT.open(request, timeout=PATIENCE_S) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


@contextlib.contextmanager
def running(command, **options):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Session:
    """A client of the monitoring dialect, in the few bytes that this needs."""

    def __init__(self, port, path):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET {path} HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self.socket.sendall(request.encode())
        while not self.socket.recv(4096).startswith(b"HTTP/1.1 101"):
            pass

    def send(self, message):
        text = json.dumps(message).encode()
        assert len(text) < 126
        self.socket.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)


def check_text(port):
    """promtool reads every line, and complains of nothing but the one name that a document fixes."""
    text, content_type = fetch(f"http://127.0.0.1:{port}/metrics/prometheus")
    assert content_type.startswith("text/plain; version=0.0.4"), content_type
    check = ["promtool", "check", "metrics"]
    done = subprocess.run(check, input=text, capture_output=True, text=True, check=False)
    complaints = (done.stdout + done.stderr).splitlines()
    others = [line for line in complaints if "websocket_subscriptions_total" not in line]
    assert not others, others
    # Without this line the check above would pass if promtool said nothing at all.
    assert complaints, "promtool says nothing of websocket_subscriptions_total"
    print(f"promtool check metrics: {len(text.splitlines())} lines, {complaints}")


def expressions():
    """What the dashboard asks, with values for its variables."""
    dashboard = json.loads((DEPLOY / "fanwire.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m")
            yield expression.replace("$job", "fanwire").replace("$instance", ".*")


def query(prometheus, expression):
    parameters = urllib.parse.urlencode({"query": expression})
    text, _ = fetch(f"http://127.0.0.1:{prometheus}/api/v1/query?{parameters}")
    answer = json.loads(text)
    assert answer["status"] == "success", answer
    return answer["data"]["result"]


def await_result(prometheus, expression):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            if result := query(prometheus, expression):
                return result
        time.sleep(0.2)
    raise AssertionError(f"no result of {expression}")


def main(binary):
    rules = DEPLOY / "alerts.yml"
    subprocess.run(["promtool", "check", "rules", rules], check=True)
    with contextlib.ExitStack() as stack:
        port, prometheus = free_port(), free_port()
        command = [binary, "serve", "--dev", "--shards", "2", "--listen", f"127.0.0.1:{port}"]
        server = stack.enter_context(
            running(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
        )
        assert "listening on" in server.stdout.readline()
        sessions = [Session(port, "/monitoring") for _ in range(8)]
        for number, session in enumerate(sessions):
            session.send({"type": "SUBSCRIBE", "property_id": f'a "b" \\ {number}'})
        check_text(port)

        folder = stack.enter_context(tempfile.TemporaryDirectory())
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {
                    "job_name": "fanwire",
                    "metrics_path": "/metrics/prometheus",
                    "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
                }
            ],
        }
        file = pathlib.Path(folder, "prometheus.yml")
        # JSON is YAML.
        file.write_text(json.dumps(config))
        log = stack.enter_context(open(pathlib.Path(folder, "log"), "w+"))
        stack.enter_context(
            running(
                [
                    "prometheus",
                    f"--config.file={file}",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{prometheus}",
                ],
                stdout=log,
                stderr=log,
            )
        )
        # It asks for OpenMetrics, which promtool does not check.
        up = await_result(prometheus, 'up{job="fanwire"} == 1')
        assert len(up) == 1, up
        # Traffic between two scrapes, so that rates have values.
        for session in sessions:
            for _ in range(40):
                session.send({"type": "PING"})
        for printed in PRINTED:
            assert await_result(prometheus, printed), printed
        names = set(json.loads(fetch(f"http://127.0.0.1:{prometheus}/api/v1/label/__name__/values")[0])["data"])
        # These are there with a store, TLS, a webhook, callbacks or traces; tests/tidy.rs compares the document with the code.
        documented = set(re.findall(r"^\| `(fanwire_(?:store|tls|webhook|trace|callbacks)_[a-z_]+)`", METRICS.read_text(), re.M))
        count = 0
        asked = [(str(rules), line.split("expr:", 1)[1]) for line in rules.read_text().splitlines() if "expr:" in line]
        asked += [("fanwire.json", expression) for expression in expressions()]
        for source, expression in asked:
            query(prometheus, expression)
            for name in re.findall(r"\b(?:fanwire|websocket|process)_[a-z_]+", expression):
                assert name in names | documented, f"{source}: there is no {name}"
            count += 1
        loaded = json.loads(fetch(f"http://127.0.0.1:{prometheus}/api/v1/rules")[0])
        rules_loaded = [rule for group in loaded["data"]["groups"] for rule in group["rules"]]
        bad = [rule["name"] for rule in rules_loaded if rule["health"] == "err"]
        assert rules_loaded and not bad, bad
        targets = json.loads(fetch(f"http://127.0.0.1:{prometheus}/api/v1/targets")[0])
        for target in targets["data"]["activeTargets"]:
            assert target["lastError"] == "", target
            took = target["lastScrapeDuration"]
        print(f"Prometheus: {len(names)} names, {count} expressions, {len(rules_loaded)} rules, "
              f"last scrape {took * 1000:.1f} ms")
        for session in sessions:
            session.socket.close()
    print("tests/prometheus/run.py: passed")


if __name__ == "__main__":
    main(sys.argv[1])

#!/usr/bin/env python3
"""The WebSocket conformance suite Autobahn|Testsuite against the example `echo`, and against the client that the
load generator is.

    tests/conformance/run.py ECHO [--full] [--tls] [--if-possible] [CASE...]
    tests/conformance/run.py --client LOADTEST [--full] [--if-possible] [CASE...]

ECHO is the program (target/debug/examples/echo). Without an option, the 301 cases without compression (groups 1
to 7, 9 and 10), over TCP and then over TLS: half a minute. With `--full`, all 517 cases over both: half an
hour. CASE names cases instead, such as `12.1.1` or '6.*'; `--tls` runs them over TLS.

LOADTEST is the load generator (target/debug/fanwire-loadtest). It offers compression for cases of the groups 12
and 13 and for no others, and must have received compressed messages then. Without an option, the 301 cases and
those of the groups 12 and 13 with the shortest messages; with `--full`, all 517.

Every case must be OK, but for those of `expected.json` and `expected-client.json`, which say what they are
instead, and why. `wstest` itself is content with anything, so the reports are read and the cases counted.

The suite is Python 2 code. It runs on a Python 2.7: that of $PYTHON27, on the path, or of pyenv (`pyenv
install 2.7.18`); where there is none, `--if-possible` makes that no failure. What else is missing is
installed in target/conformance at the first run, which needs gcc.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
AGENT = "fanwire"
UNCOMPRESSED = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
COMPRESSED = ["12.*", "13.*"]
# Of each subgroup the first three cases, with 16, 64 and 256 bytes in a message, and one with fragments. Each is
# named: for the suite `12.*.1` means 12.1.10, too.
SUBGROUPS = [f"12.{number}" for number in range(1, 6)] + [f"13.{number}" for number in range(1, 8)]
QUICKLY_COMPRESSED = [f"{subgroup}.{size}" for subgroup in SUBGROUPS for size in [1, 2, 3, 11]]
# How many cases the suite has, so that none is missed silently.
COUNTS = {"uncompressed": 301, "quickly compressed": 48, "compressed": 216, "full": 517}
# What an echo may take for all cases, seconds; the slowest ones are those with compression.
PATIENCE_S = {"quick": 300, "full": 7_200}
START_PATIENCE_S = 60
# If nothing works, there are hundreds.
COMPLAINTS_SHOWN = 20


def fail(text):
    sys.exit(f"conformance: {text}")


def python27():
    """A Python 2.7."""
    places = [os.environ.get("PYTHON27"), shutil.which("python2.7")]
    pyenv = shutil.which("pyenv")
    if pyenv:
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout
        places += sorted(map(str, pathlib.Path(root.strip()).glob("versions/2.7.*/bin/python2.7")))
    # What pyenv puts on the path fails if no version is chosen.
    for place in filter(None, places):
        version = subprocess.run([place, "--version"], capture_output=True, text=True, check=False)
        if "Python 2.7" in version.stdout + version.stderr:
            return place
    return None


def install(place, is_optional):
    """Installs the suite where it is not; returns its program."""
    requirements = HERE / "requirements.txt"
    stamp, wstest = place / "stamp", place / "suite/bin/wstest"
    if stamp.exists() and stamp.read_text() == requirements.read_text():
        return wstest
    interpreter = python27()
    if interpreter is None:
        needed = "the suite needs a Python 2.7: pyenv install 2.7.18, or PYTHON27=..."
        if is_optional:
            print(f"conformance: SKIPPED: {needed}")
            sys.exit(0)
        fail(needed)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    tools = place / "tools"
    subprocess.run([sys.executable, "-m", "venv", tools], check=True)
    # The last one that makes environments of Python 2.7.
    subprocess.run([tools / "bin/pip", "install", *quiet, "virtualenv==20.21.1"], check=True)
    subprocess.run([tools / "bin/virtualenv", "-q", "-p", interpreter, place / "suite"], check=True)
    pip = [place / "suite/bin/python", "-W", "ignore", "-m", "pip", "install", *quiet]
    subprocess.run([*pip, "--no-python-version-warning", "-r", requirements], check=True)
    stamp.write_text(requirements.read_text())
    return wstest


class Echo:
    """The program under test."""

    def __init__(self, program, options):
        self.process = subprocess.Popen(
            [program, "127.0.0.1:0", *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.url = self.process.stdout.readline().strip()
        if not re.fullmatch(r"wss?://[0-9.:]+/\S*", self.url):
            fail(f"{program} says no URL: {self.url!r}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


def empty(reports):
    """Makes the folder anew."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)


def read(name, reports):
    """Each case's behaviour, and how the connection was closed."""
    index = reports / "index.json"
    if not index.exists():
        fail(f"{name}: no report; see {reports}/log")
    results = json.loads(index.read_text())[AGENT]
    return {case: (result["behavior"], result["behaviorClose"]) for case, result in results.items()}


def run(wstest, place, echo, name, cases, patience_s):
    """Runs cases against a server, and returns what came out."""
    reports = place / "reports" / name
    empty(reports)
    spec = {
        "outdir": str(reports),
        "servers": [{"agent": AGENT, "url": echo.url}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (reports / "spec.json").write_text(json.dumps(spec))
    with open(reports / "log", "w", encoding="utf-8") as log:
        command = [wstest, "-m", "fuzzingclient", "-s", str(reports / "spec.json")]
        subprocess.run(command, stdout=log, stderr=log, timeout=patience_s, check=False, cwd=reports)
    if echo.process.poll() is not None:
        fail(f"{name}: the echo has ended")
    return read(name, reports)


def free_port():
    """A port on which nothing listens; the suite cannot choose one."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_client(wstest, place, loadtest, name, cases, patience_s):
    """Runs cases against the load generator, and returns what came out."""
    reports = place / "reports" / name
    empty(reports)
    url = f"ws://127.0.0.1:{free_port()}"
    spec = {"url": url, "outdir": str(reports), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    (reports / "spec.json").write_text(json.dumps(spec))
    has_deflate = all(case.startswith(("12", "13")) for case in cases)
    command = [loadtest, "conformance", "--url", url, "--agent", AGENT, "--json"]
    with open(reports / "log", "w", encoding="utf-8") as log:
        suite = subprocess.Popen(
            [wstest, "-m", "fuzzingserver", "-s", str(reports / "spec.json"), "--webport", "0"],
            stdout=log, stderr=log, cwd=reports,
        )
        try:
            await_listener(suite, url)
            ended = subprocess.run(
                [*command, *(["--deflate"] if has_deflate else [])],
                capture_output=True, text=True, timeout=patience_s, check=False,
            )
        finally:
            suite.terminate()
            suite.wait(30)
    if ended.returncode != 0:
        fail(f"{name}: the load generator: {ended.stderr or ended.stdout}")
    if has_deflate and json.loads(ended.stdout)["compressed_messages"] == 0:
        fail(f"{name}: no message was compressed")
    return read(name, reports)


def await_listener(suite, url):
    """Waits until the suite listens."""
    host, port = url.removeprefix("ws://").split(":")
    ends = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < ends and suite.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    fail(f"{url}: the suite does not listen")


def number(case):
    return [int(part) for part in case.split(".")]


def judge(name, results, count, expected):
    """Compares what came out with what must; returns the complaints."""
    complaints = []
    if count is not None and len(results) != count:
        complaints.append(f"{len(results)} cases ran, not {count}")
    seen = collections.Counter()
    for case in sorted(results, key=number):
        behaviour, close = results[case]
        seen[behaviour] += 1
        allowed = expected.get(case, {}).get("behavior", "OK")
        # What an informational case leaves to the server includes how it closes.
        if behaviour != allowed or close not in ("OK", allowed):
            complaints.append(f"case {case}: {behaviour}, close {close}; expected {allowed}")
    summary = ", ".join(f"{seen[behaviour]} {behaviour}" for behaviour in sorted(seen))
    print(f"{name}: {len(results)} cases: {summary}", flush=True)
    return [f"{name}: {complaint}" for complaint in complaints]


def expectations(name):
    return json.loads((HERE / name).read_text())


def judge_server(wstest, place, program, arguments, patience_s):
    """Runs the cases that are wanted against a server; returns the complaints."""
    expected = expectations("expected.json")
    if arguments.cases:
        options = ["--tls"] if arguments.tls else []
        runs = [("named", options, arguments.cases, None)]
    else:
        cases = UNCOMPRESSED + COMPRESSED if arguments.full else UNCOMPRESSED
        count = COUNTS["full" if arguments.full else "uncompressed"]
        runs = [("tcp", [], cases, count), ("tls", ["--tls"], cases, count)]
    complaints = []
    for name, options, cases, count in runs:
        began = time.monotonic()
        with Echo(program, options) as server:
            results = run(wstest, place, server, name, cases, patience_s)
        complaints += judge(name, results, count, expected)
        print(f"{name}: {time.monotonic() - began:.0f} s; reports in {place}/reports/{name}", flush=True)
    return complaints


def judge_client(wstest, place, program, arguments, patience_s):
    """The same against the load generator."""
    expected = expectations("expected-client.json")
    compressed, count = QUICKLY_COMPRESSED, COUNTS["quickly compressed"]
    if arguments.full:
        compressed, count = COMPRESSED, COUNTS["compressed"]
    runs = [
        ("client", UNCOMPRESSED, COUNTS["uncompressed"]),
        ("client with compression", compressed, count),
    ]
    if arguments.cases:
        runs = [("named client", arguments.cases, None)]
    complaints = []
    for name, cases, count in runs:
        began = time.monotonic()
        results = run_client(wstest, place, program, name, cases, patience_s)
        complaints += judge(name, results, count, expected)
        print(f"{name}: {time.monotonic() - began:.0f} s; reports in {place}/reports/{name}", flush=True)
    return complaints


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("program")
    parser.add_argument("--client", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--if-possible", action="store_true")
    parser.add_argument("cases", nargs="*")
    arguments = parser.parse_args()
    program = os.path.realpath(arguments.program)
    if not os.access(program, os.X_OK):
        fail(f"{arguments.program} is not a program (cargo build --example echo; cargo build -p fanwire-loadtest)")
    if arguments.client and arguments.tls:
        fail("--client has no --tls")
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target"))
    place = target.resolve() / "conformance"
    wstest = install(place, arguments.if_possible)
    patience_s = PATIENCE_S["full" if arguments.full or arguments.cases else "quick"]
    if arguments.client:
        complaints = judge_client(wstest, place, program, arguments, patience_s)
    else:
        complaints = judge_server(wstest, place, program, arguments, patience_s)
    if complaints:
        print("\n".join(complaints[:COMPLAINTS_SHOWN]), file=sys.stderr)
        fail(f"FAILED: {len(complaints)} complaints")
    print("conformance: all as expected")


if __name__ == "__main__":
    main()

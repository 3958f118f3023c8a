#!/usr/bin/env python3
"""mitmproxy in front of the real server: it parses every frame of both sides by its own code.

    tests/proxies/mitmproxy.py FANWIRE

With TLS to the server and without, and with compression. The first run installs mitmproxy in target/mitmproxy. Exits with 1 at the first
check that fails.
"""

import asyncio
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = ["mitmproxy==11.0.2", "websockets==17.4"]
PATIENCE_S = 30
LENGTHS = [0, 1, 125, 126, 65_535, 65_536, 300_000]
# What mitmproxy runs: it notes each message that it has parsed, and each error.
ADDON = '''
import os

LOG = open(os.environ["NOTES"], "w", buffering=1)


def websocket_message(flow):
    message = flow.websocket.messages[-1]
    print("client" if message.from_client else "server", len(message.content), file=LOG)


def websocket_end(flow):
    print("end", flow.websocket.close_code, file=LOG)


def error(flow):
    print("error", flow.error, file=LOG)
'''

place = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"), "mitmproxy").absolute()
python = place / "venv/bin/python"
stamp = place / "stamp"
if pathlib.Path(sys.executable) != python:
    if not stamp.exists() or stamp.read_text() != str(REQUIREMENTS):
        subprocess.run([sys.executable, "-m", "venv", "--clear", place / "venv"], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
        stamp.write_text(str(REQUIREMENTS))
    os.execv(python, [python, *sys.argv])

import websockets  # noqa: E402


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_port(port, process):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < deadline, f"{process.args} does not listen"
            time.sleep(0.1)


async def talk(url):
    """Returns the lengths of what was sent and received, bytes."""
    sent, received = [], []
    async with websockets.connect(url, max_size=None) as client:

        async def ask(message):
            text = json.dumps(message, ensure_ascii=False)
            sent.append(len(text.encode()))
            await client.send(text)
            answer = await client.recv()
            received.append(len(answer.encode()))
            return json.loads(answer)

        subscribed = await ask({"type": "subscribe", "data": {"channel": "news"}})
        assert subscribed["type"] == "subscribed", subscribed
        for length in LENGTHS:
            data = "é" * (length // 2) + "x" * (length % 2)
            message = {"type": "m", "channel": "news", "data": data}
            answer = await ask({"type": "publish", "data": message})
            assert answer == message, f"{length} bytes do not come back"
        await (await client.ping())
    assert client.close_code == 1000, client.close_code
    return sent, received


def check(binary, folder, *options):
    scheme = "https" if "--tls" in options else "http"
    command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "none", *options]
    environment = {"PATH": os.environ["PATH"], "RUST_LOG": "error"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            port = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())[1]
            notes, addon, here = folder / "notes", folder / "addon.py", free_port()
            addon.write_text(ADDON)
            command = [place / "venv/bin/mitmdump", "--quiet", "--ssl-insecure", "--listen-host", "127.0.0.1"]
            command += ["--mode", f"reverse:{scheme}://127.0.0.1:{port}", "--listen-port", str(here)]
            command += ["--scripts", addon, "--set", f"confdir={folder}"]
            with subprocess.Popen(command, env={**environment, "NOTES": str(notes)}) as proxy:
                try:
                    await_port(here, proxy)
                    url = f"ws://127.0.0.1:{here}/ws"
                    sent, received = asyncio.run(asyncio.wait_for(talk(url), PATIENCE_S))
                    deadline = time.monotonic() + PATIENCE_S
                    while "end" not in notes.read_text() and time.monotonic() < deadline:
                        time.sleep(0.1)
                finally:
                    proxy.terminate()
        finally:
            server.terminate()
    lines = notes.read_text().splitlines()
    of = lambda who: [int(line.split()[1]) for line in lines if line.startswith(who)]
    assert (of("client"), of("server")) == (sent, received), lines
    assert lines[-1] == "end 1000" and not any("error" in line for line in lines), lines
    print(f"{scheme} {' '.join(options)}: {len(sent)} messages of the client and {len(received)} of the server")


def main(binary):
    for options in ([], ["--tls"], ["--compression", "deflate"]):
        with tempfile.TemporaryDirectory() as folder:
            check(binary, pathlib.Path(folder), *options)
    print("tests/proxies/mitmproxy.py: passed")


if __name__ == "__main__":
    main(sys.argv[1])

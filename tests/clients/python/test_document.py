"""The client that the monitoring document prints, changed in nothing but URL and secret."""

import ast
import asyncio
import os
import queue
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server import PATIENCE_S, SECRET, Server
from session import publisher

DOCUMENT = Path(__file__).with_name("monitoring_client.py").read_text()


class Client:
    """The document's program as a process, and the lines it prints."""

    def __init__(self, url):
        program = DOCUMENT
        for printed, ours in [("'ws://localhost:8765'", url), ("'your-secret-key'", SECRET)]:
            assert program.count(printed) == 1
            program = program.replace(printed, repr(ours))
        environment = {name: os.environ[name] for name in os.environ if "proxy" not in name.lower()}
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", program],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)

    def printed(self, label):
        """The message of the next line, which must begin with `label`."""
        line = self.lines.get(timeout=PATIENCE_S)
        assert line.startswith(f"{label}: "), line
        return ast.literal_eval(line.removeprefix(f"{label}: "))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def running():
    """A server that the test may end."""
    with Server() as server:
        yield server


async def publish(url, messages):
    async with publisher(url) as session:
        # Another property's update must not be printed.
        await session.publish("2012650001", {"type": "VIOLATION_UPDATE", "count": 0})
        for message in messages:
            await session.publish("1012650001", message)


def test_the_printed_client_prints_every_answer_and_every_update(running):
    with Client(running.url()) as client:
        welcome = client.printed("Connected")
        assert set(welcome) == {"type", "connection_id", "server_time"}
        assert welcome["type"] == "WELCOME"
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d{10}\.\d{3}", welcome["connection_id"])
        assert isinstance(welcome["server_time"], float)
        assert abs(welcome["server_time"] - time.time()) < PATIENCE_S
        assert client.printed("Authenticated") == {"type": "AUTHENTICATED", "user_id": "user123"}
        subscribed = {"type": "SUBSCRIBED", "property_id": "1012650001"}
        assert client.printed("Subscribed") == subscribed

        # Both forms that the document shows: the quick start's and the reference's.
        property_id, timestamp = "1012650001", 1234567890.123
        updates = [
            {"type": "VIOLATION_UPDATE", "property_id": property_id, "new_violations": 5, "timestamp": timestamp},
            {"type": "VIOLATION_UPDATE", "property_id": property_id, "violation_type": "DOB", "count": 5, "timestamp": timestamp},
            {"type": "VIOLATION_UPDATE", "property_id": property_id, "text": 'é "€" \U0001f600\\', "deep": [[{}], None, True]},
        ]
        asyncio.run(publish(running.url(), updates))
        for update in updates:
            assert client.printed("Received") == update

        assert client.process.poll() is None
        running.ask_to_end()
        _, errors = client.process.communicate(timeout=PATIENCE_S)
        assert "received 1001 (going away) shutdown" in errors
        assert client.lines.empty()
    assert running.exit_code() == 0

"""The published client of the monitoring server, changed in nothing but URL and secret."""

import asyncio
import re
import time

import pytest

from program import Program, printed
from server import PATIENCE_S, SECRET, Server
from session import publisher

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
    program = printed(
        "monitoring_client.py",
        {"'ws://localhost:8765'": running.url(), "'your-secret-key'": SECRET},
    )
    with Program(program) as client:
        welcome = client.printed("Connected")
        assert set(welcome) == {"type", "connection_id", "server_time"}
        assert welcome["type"] == "WELCOME"
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d{10}\.\d{3}", welcome["connection_id"])
        assert isinstance(welcome["server_time"], float)
        assert abs(welcome["server_time"] - time.time()) < PATIENCE_S
        assert client.printed("Authenticated") == {"type": "AUTHENTICATED", "user_id": "user123"}
        subscribed = {"type": "SUBSCRIBED", "property_id": "1012650001"}
        assert client.printed("Subscribed") == subscribed

        # Both forms that the legacy server documents: the quick start's and the reference's.
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

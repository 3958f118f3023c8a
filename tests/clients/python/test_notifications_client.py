"""The published client and lines for curl of the notification server, changed in the URL only."""

import json
import subprocess
from pathlib import Path

import pytest

from program import Program, printed
from server import PATIENCE_S, Server

CURL = Path(__file__).with_name("notifications_curl.sh")


@pytest.fixture
def running():
    """A server set up as the legacy one, but for the time between notifications and for the end."""
    with Server("--profile", "notifications", NOTIFICATION_INTERVAL="0", SHUTDOWN_TIMEOUT="1") as server:
        yield server


def program(server):
    url = server.url("/ws")
    return printed("notifications_client.py", {'"ws://localhost:8000/ws"': url})


def curl(server, path):
    """What the published curl command for a path prints."""
    commands = CURL.read_text().split("\n\n")
    [command] = [command for command in commands if f"localhost:8000{path} " in f"{command.strip()} "]
    command = command.replace("http://localhost:8000", f"http://{server.address}")
    # No proxy of the environment comes between.
    command = command.replace("curl ", "curl --silent --show-error --fail --noproxy '*' ", 1)
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    return done.stdout


def test_the_printed_client_is_answered_notified_and_told_of_the_end(running):
    with Program(program(running)) as client:
        pong = client.printed("Received")
        assert set(pong) == {"type", "timestamp"} and pong["type"] == "pong"

        curl(running, "/notify")
        notification = client.printed("Received")
        assert set(notification) == {"type", "message", "data", "timestamp", "id"}
        assert notification["type"] == "alert"
        assert notification["message"] == "Hello, WebSocket clients!"
        assert notification["data"] == {"priority": "high"}

        assert json.loads(curl(running, "/health"))["status"]
        metrics = curl(running, "/metrics/prometheus")
        assert 'fanwire_sessions{dialect="notifications"} 1\n' in metrics

        running.ask_to_end()
        shutdown = client.printed("Received")
        assert shutdown["type"] == "shutdown"
        assert shutdown["data"] == {"timeout_seconds": 1}
        # It does not leave by itself, and is closed with 1001 when the time is over.
        assert client.exit_code() == 0
    assert running.exit_code() == 0


def test_periodic_notifications_come_as_often_as_the_variable_says():
    with Server("--profile", "notifications", NOTIFICATION_INTERVAL="1") as server:
        with Program(program(server)) as client:
            kinds = [client.printed("Received") for _ in range(3)]
            first, second = [message for message in kinds if message["type"] == "notification"]
            assert second["data"]["sequence"] == first["data"]["sequence"] + 1
            assert second["id"] != first["id"]

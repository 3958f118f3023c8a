"""The published client of the analytics server, changed in nothing but URL and token."""

import asyncio
import json
from pathlib import Path

import pytest
import websockets

from program import Program, printed
from server import PATIENCE_S, Server, library_token, program_token

LISTENERS = Path(__file__).parent.with_name("three_listeners.toml")
ANALYTICS, PUBLISHING = 0, 2


@pytest.fixture(scope="module")
def running():
    """A server of the analytics profile, and of a listener where programs publish."""
    with Server("--config", str(LISTENERS)) as server:
        yield server


def program(server, token):
    url = f"ws://{server.addresses[ANALYTICS]}"
    return printed("analytics_client.py", {"'ws://localhost:8765'": url, "'your-token'": token})


def test_the_printed_client_authenticates_and_waits(running):
    # By `sub`, and by `user_id` where there is no `sub`.
    for token in [program_token("ann"), library_token()]:
        with Program(program(running, token)) as client:
            assert client.line() == "Authentication successful"
            assert client.process.poll() is None


def test_the_printed_client_ends_when_the_server_does():
    with Server("--profile", "analytics") as server:
        with Program(program(server, program_token("ann"))) as client:
            assert client.line() == "Authentication successful"
            server.ask_to_end()
            # Code 1001 is a regular end to `websockets`.
            assert client.exit_code() == 0
        assert server.exit_code() == 0


async def publish(server, channel, data):
    url = f"ws://{server.addresses[PUBLISHING]}/ws?token={program_token('publisher', 'publish')}"
    async with websockets.connect(url, proxy=None) as socket:
        assert "auth_success" in await asyncio.wait_for(socket.recv(), PATIENCE_S)
        message = {"channel": channel, "type": "data", "data": data}
        await socket.send(json.dumps({"type": "publish", "data": message}))
        await socket.send('{"type":"ping"}')
        assert await asyncio.wait_for(socket.recv(), PATIENCE_S) == '{"type":"pong"}'


def test_the_printed_class_prints_data_and_errors(running, monkeypatch):
    """Its example never subscribes; here somebody does, with the class as it is."""
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]:
        monkeypatch.delenv(name, raising=False)
    text = program(running, program_token("ann"))
    last = "asyncio.run(main())\n"
    assert text.endswith(last)

    async def scene():
        lines = asyncio.Queue()
        names = {"print": lines.put_nowait}
        exec(text.removesuffix(last), names)

        async def line():
            return await asyncio.wait_for(lines.get(), PATIENCE_S)

        url = f"ws://{running.addresses[ANALYTICS]}"
        client = names["StreamingClient"](url, program_token("ann"))
        connection = asyncio.create_task(client.connect())
        assert await line() == "Authentication successful"
        await client.subscribe("events", {"event_type": ["login", "purchase"], "user.id": "123"})
        await client.subscribe("nonsense")
        assert await line() == "Error: Invalid message format: Invalid type"
        event = {"event_type": "purchase", "user": {"id": "123"}}
        await publish(running, "stream:events", {**event, "user": {"id": "456"}})
        await publish(running, "stream:events", event)
        data = {"event": event, "subscription_type": "events"}
        assert await line() == f"Received data: {data}"
        connection.cancel()

    asyncio.run(scene())

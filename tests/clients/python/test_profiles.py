"""Each profile listens where its legacy server does, and speaks its dialect there."""

import asyncio
import json
import socket
import subprocess
import tomllib

import pytest
import websockets

from server import BINARY, PATIENCE_S, Server, environment, library_token

TOKEN = library_token({"sub": "user123"})
# Host, port and path of each legacy server, and how a conversation begins: what is sent there, and what is answered.
LEGACY_SERVERS = {
    "gateway": (
        ("0.0.0.0", 8765, "/ws"),
        {"type": "auth", "data": {"token": TOKEN}},
        {"type": "auth_success", "data": {"user_id": "user123"}},
    ),
    "monitoring": (
        ("0.0.0.0", 8765, "/"),
        {"type": "AUTHENTICATE", "token": TOKEN},
        {"type": "AUTHENTICATED", "user_id": "user123"},
    ),
    "analytics": (
        ("0.0.0.0", 8765, "/"),
        {"type": "auth", "data": {"token": TOKEN}},
        {"type": "auth_success"},
    ),
    "assist": (
        ("0.0.0.0", 8000, "/ws/connect"),
        {"type": "auth", "token": TOKEN},
        {"type": "connection", "status": "connected", "user_id": "user123"},
    ),
    "notifications": (("0.0.0.0", 8000, "/ws"), {"type": "ping"}, {"type": "pong"}),
}


async def converses(url, sent, expected):
    async with websockets.connect(url, proxy=None) as client:
        await client.send(json.dumps(sent))
        while True:
            answer = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
            if answer["type"] not in ["WELCOME", "notification"]:
                break
        assert expected.items() <= answer.items()


@pytest.mark.parametrize("profile", LEGACY_SERVERS)
def test_a_profile_asked_nothing_else_is_where_its_legacy_server_listens(profile):
    done = subprocess.run(
        [BINARY, "config", "--profile", profile],
        env=environment(), capture_output=True, text=True, check=True,
    )
    settings = tomllib.loads(done.stdout)
    where = tuple(settings[name] for name in ["host", "port", "path"])
    assert where == LEGACY_SERVERS[profile][0]


@pytest.mark.parametrize("profile", LEGACY_SERVERS)
def test_a_profile_speaks_at_its_path_at_the_root_and_at_ws(profile):
    (_, _, path), sent, expected = LEGACY_SERVERS[profile]
    with Server("--profile", profile) as server:
        for at in {path, "/", "/ws"}:
            asyncio.run(converses(server.url(at), sent, expected))
        with pytest.raises(websockets.InvalidStatus, match="404"):
            asyncio.run(converses(server.url("/elsewhere"), sent, expected))


def test_the_gateways_tenants_are_below_its_path():
    token = library_token({"sub": "user123", "tenant_id": "tenant_123"})
    with Server("--profile", "gateway") as server:
        async def scene():
            url = server.url(f"/ws/tenant/tenant_123?token={token}")
            async with websockets.connect(url, proxy=None) as client:
                await client.recv()
                await client.send('{"type":"status"}')
                status = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
                assert status["data"]["tenant_id"] == "tenant_123"

        asyncio.run(scene())


def is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("profile", ["notifications", "monitoring"])
def test_a_profile_is_found_at_the_port_of_its_legacy_server(profile):
    (_, port, path), sent, expected = LEGACY_SERVERS[profile]
    if not is_free(port):
        pytest.skip(f"port {port} of this machine is in use")
    with Server("--profile", profile, "--host", "127.0.0.1") as server:
        assert server.address == f"127.0.0.1:{port}"
        asyncio.run(converses(f"ws://localhost:{port}{path}", sent, expected))

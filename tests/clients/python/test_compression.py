"""permessage-deflate, with zlib itself on the other side."""

import asyncio
import json

import pytest
import websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from server import PATIENCE_S, Server


@pytest.fixture(scope="module")
def compressing():
    with Server("--dev", "--compression", "deflate") as server:
        yield server


def items(length):
    return [{"id": n * n, "user": f"user {n % 9}"} for n in range(length // 40)]


async def talk(url, **options):
    async with websockets.connect(url, proxy=None, max_size=None, **options) as client:
        extensions = [extension.name for extension in client.protocol.extensions]
        assert extensions == ["permessage-deflate"]

        async def ask(message):
            await client.send(json.dumps(message))
            return json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))

        answer = await ask({"type": "subscribe", "data": {"channel": "news"}})
        assert answer["type"] == "subscribed"
        for length in (1, 400, 5_000, 70_000, 900_000):
            data = {"channel": "news", "data": items(length)}
            for _ in range(2):
                message = await ask({"type": "publish", "data": data})
                assert message["data"] == data["data"]
        # In fragments.
        text = json.dumps({"type": "publish", "data": {"channel": "news", "data": items(9_000)}})
        await client.send([text[:10], text[10:5_000], text[5_000:]])
        message = json.loads(await asyncio.wait_for(client.recv(), PATIENCE_S))
        assert message["data"] == items(9_000)
        await (await client.ping())


def test_the_default_offer_is_accepted(compressing):
    before = compressing.metric("fanwire_compressions_total")
    asyncio.run(talk(compressing.url("/ws"), compression="deflate"))
    assert compressing.metric("fanwire_compressions_total") >= before + 9
    assert compressing.metric("fanwire_inflations_total") >= 10


@pytest.mark.parametrize("bits", range(9, 16))
def test_each_size_of_windows_is_kept(compressing, bits):
    offer = ClientPerMessageDeflateFactory(
        server_max_window_bits=bits, client_max_window_bits=bits
    )
    asyncio.run(talk(compressing.url("/ws"), compression=None, extensions=[offer]))


def test_the_profile_of_analytics_compresses_as_its_legacy_server():
    def extensions(**variables):
        with Server("--profile", "analytics", **variables) as server:

            async def connect():
                async with websockets.connect(server.url("/"), proxy=None) as client:
                    return [extension.name for extension in client.protocol.extensions]

            return asyncio.run(connect())

    assert extensions() == ["permessage-deflate"]
    assert extensions(STREAMING_WEBSOCKET__COMPRESSION="deflate") == ["permessage-deflate"]
    assert extensions(STREAMING_WEBSOCKET__COMPRESSION="none") == []

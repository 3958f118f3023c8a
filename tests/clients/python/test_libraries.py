"""The same conversation through the client libraries that programs in Python use, with TLS and without.

The server compresses for those that offer it.
"""

import asyncio
import contextlib
import json
import ssl

import aiohttp
import picows
import pytest
import websocket
import websockets

from server import PATIENCE_S, Server

LENGTHS = [0, 1, 125, 126, 65_535, 65_536, 300_000]


@pytest.fixture(scope="module", params=["ws", "wss"])
def server(request, certificate):
    """Its URL, and what to trust."""
    options = ["--dev", "--compression", "deflate"]
    trusting = None
    if request.param == "wss":
        options += ["--tls-certificates", f"{certificate[0]} {certificate[1]}"]
        trusting = ssl.create_default_context(cafile=certificate[0])
    with Server(*options) as server:
        port = server.address.rsplit(":", 1)[1]
        yield f"{request.param}://localhost:{port}/ws", trusting


@contextlib.asynccontextmanager
async def by_websockets(url, trusting):
    async with websockets.connect(url, ssl=trusting, max_size=None) as client:
        assert client.protocol.extensions
        yield client.send, client.recv
    assert client.close_code == 1000


@contextlib.asynccontextmanager
async def by_aiohttp(url, trusting):
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, ssl=trusting or True, compress=15, max_msg_size=0) as client:
            assert client.compress
            yield client.send_str, client.receive_str
        assert client.close_code == 1000


@contextlib.asynccontextmanager
async def by_websocket_client(url, trusting):
    """It blocks, so each call has a thread."""
    options = {"context": trusting} if trusting else None
    client = await asyncio.to_thread(
        websocket.create_connection, url, timeout=PATIENCE_S, sslopt=options
    )

    async def send(text):
        await asyncio.to_thread(client.send, text)

    async def receive():
        return await asyncio.to_thread(client.recv)

    yield send, receive
    await asyncio.to_thread(client.close)
    assert not client.connected


@contextlib.asynccontextmanager
async def by_picows(url, trusting):
    received = asyncio.Queue()

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport, frame):
            if frame.msg_type == picows.WSMsgType.CLOSE:
                received.put_nowait(frame.get_close_code())
            else:
                assert frame.fin
                received.put_nowait(frame.get_payload_as_utf8_text())

    options = {"ssl_context": trusting} if trusting else {}
    transport, _ = await picows.ws_connect(Listener, url, max_frame_size=1 << 20, **options)

    async def send(text):
        transport.send(picows.WSMsgType.TEXT, text.encode())

    yield send, received.get
    transport.send_close(picows.WSCloseCode.OK)
    assert await received.get() == picows.WSCloseCode.OK
    transport.disconnect()
    await transport.wait_disconnected()


LIBRARIES = [by_websockets, by_aiohttp, by_websocket_client, by_picows]


@pytest.mark.parametrize("library", LIBRARIES, ids=[library.__name__ for library in LIBRARIES])
def test_messages_of_all_lengths_come_back_and_the_end_is_orderly(server, library):
    async def talk():
        async with library(*server) as (send, receive):
            await send(json.dumps({"type": "subscribe", "data": {"channel": library.__name__}}))
            assert json.loads(await receive())["type"] == "subscribed"
            for length in LENGTHS:
                data = "é" * (length // 2) + "x" * (length % 2)
                publication = {"channel": library.__name__, "type": "m", "data": data}
                await send(json.dumps({"type": "publish", "data": publication}, ensure_ascii=False))
                message = json.loads(await receive())
                assert message == {"type": "m", "channel": library.__name__, "data": data}

    asyncio.run(asyncio.wait_for(talk(), PATIENCE_S))

"""A monitoring session over the `websockets` client."""

import asyncio
import contextlib
import json

import websockets

from server import PATIENCE_S, program_token


class Session:
    def __init__(self, socket):
        self.socket = socket
        self.welcome = None

    async def send(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def receive(self):
        return json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE_S))

    async def ask(self, kind, **fields):
        await self.send(kind, **fields)
        return await self.receive()

    async def authenticate(self, token):
        return await self.ask("AUTHENTICATE", token=token)

    async def publish(self, property_id, message):
        answer = await self.ask("PUBLISH", property_id=property_id, message=message)
        assert answer == {"type": "PUBLISHED", "property_id": property_id}

    async def closed(self):
        """Code and reason of the server's close frame, after all that came before it."""
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                await asyncio.wait_for(self.socket.recv(), PATIENCE_S)
        return self.socket.close_code, self.socket.close_reason


@contextlib.asynccontextmanager
async def connected(url, **options):
    """A session that has been welcomed. No proxy of the environment comes between."""
    async with websockets.connect(url, proxy=None, **options) as socket:
        session = Session(socket)
        session.welcome = await session.receive()
        assert session.welcome["type"] == "WELCOME"
        yield session


@contextlib.asynccontextmanager
async def authenticated(url, token, **options):
    async with connected(url, **options) as session:
        answer = await session.authenticate(token)
        assert answer["type"] == "AUTHENTICATED", answer
        yield session


@contextlib.asynccontextmanager
async def publisher(url):
    async with authenticated(url, program_token("publisher", "publish")) as session:
        yield session

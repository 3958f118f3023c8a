"""Many subscribers of one property: all receive all messages, in order."""

import asyncio
import contextlib
import json

from server import library_token
from session import authenticated, publisher

SUBSCRIBERS = 300
# Under the hundred messages a minute that a session may send.
PUBLICATIONS = 90


def test_300_subscribers_receive_90_messages_in_order(server):
    # Every thirtieth message is longer than a 16-bit length.
    messages = [
        {"type": "VIOLATION_UPDATE", "n": n, "pad": "x" * (70_000 if n % 30 == 0 else n)}
        for n in range(PUBLICATIONS)
    ]
    expected = [json.dumps(message) for message in messages]
    deliveries_before = server.metric("fanwire_deliveries_total")
    encodes_before = server.metric("fanwire_encodes_total", variant="monitoring")

    async def receive_all(session):
        return [await asyncio.wait_for(session.socket.recv(), 60) for _ in expected]

    async def scene():
        token = library_token()
        async with contextlib.AsyncExitStack() as stack:
            sessions = []
            for _ in range(SUBSCRIBERS):
                session = await stack.enter_async_context(authenticated(server.url(), token))
                await session.ask("SUBSCRIBE", property_id="many")
                sessions.append(session)
            source = await stack.enter_async_context(publisher(server.url()))
            receiving = asyncio.gather(*map(receive_all, sessions))
            for message in messages:
                await source.publish("many", message)
            return await receiving

    for received in asyncio.run(scene()):
        assert received == expected
    deliveries = deliveries_before + SUBSCRIBERS * PUBLICATIONS
    server.await_metric(deliveries, "fanwire_deliveries_total")
    encodes = encodes_before + PUBLICATIONS
    server.await_metric(encodes, "fanwire_encodes_total", variant="monitoring")

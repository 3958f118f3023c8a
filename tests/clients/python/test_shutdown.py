"""SIGTERM, as a client sees it and as a supervisor does."""

import asyncio

from server import Server
from session import connected

# Far below the five seconds that a peer gets to answer a close frame.
SOON_S = 3


def test_the_server_ends_as_soon_as_its_last_session_has():
    async def scene(server):
        async with connected(server.url()) as session:
            server.ask_to_end()
            assert await session.closed() == (1001, "shutdown")

    with Server() as server:
        asyncio.run(scene(server))
        assert server.exit_code(within_s=SOON_S) == 0

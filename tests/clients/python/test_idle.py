"""Sessions that say nothing: heartbeats keep them, silence without a token ends them."""

import asyncio
import logging
import time

from server import library_token
from session import authenticated, connected

# The server pings after 30 s of silence and gives 10 s to answer.
IDLE_S = 42


class Pings(logging.Handler):
    """Counts the ping frames that the `websockets` client logs as received."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.count = 0

    def emit(self, record):
        self.count += record.getMessage().startswith("< PING")


def counting_logger():
    pings = Pings()
    logger = logging.Logger("idle", logging.DEBUG)
    logger.addHandler(pings)
    return logger, pings


async def kept_by_the_servers_pings(url):
    """A client that sends no pings of its own."""
    logger, pings = counting_logger()
    token = library_token()
    async with authenticated(url, token, ping_interval=None, logger=logger) as session:
        await asyncio.sleep(IDLE_S)
        status = await session.ask("GET_STATUS")
        return pings.count, status["uptime"]


async def kept_by_its_own_pings(url):
    """A client whose pings must be answered within two seconds."""
    token = library_token()
    async with authenticated(url, token, ping_interval=1, ping_timeout=2) as session:
        await asyncio.sleep(IDLE_S)
        return session.socket.latency, await session.ask("PING")


async def without_a_token(url):
    began = time.monotonic()
    async with connected(url) as session:
        await asyncio.wait_for(session.socket.wait_closed(), IDLE_S)
        return session.socket.close_code, session.socket.close_reason, time.monotonic() - began


def test_idle_sessions_are_kept_and_silent_strangers_are_not(server):
    async def scene():
        url = server.url()
        return await asyncio.gather(
            kept_by_the_servers_pings(url), kept_by_its_own_pings(url), without_a_token(url)
        )

    (pings, uptime), (latency, answer), (code, reason, lasted) = asyncio.run(scene())
    assert pings == 1
    assert uptime >= IDLE_S
    assert 0 < latency < 2 and answer == {"type": "PONG"}
    assert (code, reason) == (1008, "auth_timeout")
    assert 29 < lasted < 35

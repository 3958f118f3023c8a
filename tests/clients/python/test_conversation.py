"""Monitoring by the `websockets` client: answers, refusals, tokens, fragments, closes."""

import asyncio
import json
import time

import jwt
import pytest
import websockets
import websockets.sync.client

from server import SECRET, library_token, program_token
from session import Session, authenticated, connected, publisher

MESSAGE_BYTES_MAX = 10 * 1024 * 1024


def test_status_tells_everything_in_the_legacy_types(server):
    async def conversation():
        async with connected(server.url()) as session:
            status = await session.ask("GET_STATUS")
            assert status["authenticated"] is False and status["subscriptions"] == []

            await session.authenticate(library_token())
            for property_id in ["1012650001", "2012650001"]:
                await session.ask("SUBSCRIBE", property_id=property_id)
            status = await session.ask("GET_STATUS")
            assert set(status) == {
                "type", "connection_id", "authenticated", "subscriptions", "connected_at", "uptime",
            }
            assert status["type"] == "STATUS"
            assert status["authenticated"] is True
            assert status["subscriptions"] == ["1012650001", "2012650001"]
            assert type(status["connected_at"]) is float and type(status["uptime"]) is float
            assert abs(status["connected_at"] + status["uptime"] - time.time()) < 5
            host, port = session.socket.local_address
            assert status["connection_id"] == f"{host}:{port}:{status['connected_at']:.3f}"
            assert status["connection_id"] == session.welcome["connection_id"]

    asyncio.run(conversation())


def test_pings_of_both_kinds_are_answered(server):
    async def conversation():
        async with connected(server.url()) as session:
            assert await session.ask("PING") == {"type": "PONG"}
            # Six bytes and the most that a control frame may carry (RFC 6455 5.5).
            for payload in [b"beat-1", bytes(125)]:
                pong = await session.socket.ping(payload)
                assert await asyncio.wait_for(pong, 10) > 0

    asyncio.run(conversation())


def test_tokens_of_the_program_and_of_pyjwt_are_accepted(server):
    async def conversation():
        # `user_id` is the legacy servers' claim; `sub` alone is what other issuers write.
        for token in [
            program_token("ann"),
            library_token({"user_id": "ann"}),
            library_token({"user_id": None, "sub": "ann"}),
        ]:
            async with connected(server.url()) as session:
                answer = await session.authenticate(token)
                assert answer == {"type": "AUTHENTICATED", "user_id": "ann"}

    asyncio.run(conversation())


def test_the_programs_token_is_read_by_pyjwt():
    claims = jwt.decode(program_token("ann", "publish", ttl="90s"), SECRET, algorithms=["HS256"])
    assert claims["sub"] == claims["user_id"] == "ann"
    assert claims["permissions"] == ["publish"]
    assert claims["exp"] - claims["iat"] == 90


WRONG_TOKENS = {
    "another secret": (lambda: library_token(secret="another secret of thirty-two bytes"), "Invalid token"),
    "another algorithm": (lambda: library_token(secret=SECRET * 2, algorithm="HS512"), "Invalid token"),
    "no signature": (lambda: library_token(secret=None, algorithm="none"), "Invalid token"),
    "expired": (lambda: library_token(lasts_s=-1), "Token expired"),
    "no user": (lambda: library_token({"user_id": None}), "Invalid token"),
    "no expiry": (lambda: jwt.encode({"user_id": "ann"}, SECRET), "Invalid token"),
    "not a token": (lambda: "nonsense", "Invalid token"),
}


@pytest.mark.parametrize("fault", WRONG_TOKENS)
def test_a_wrong_token_is_refused_and_the_third_ends_the_session(server, fault):
    issue, message = WRONG_TOKENS[fault]

    async def conversation():
        async with connected(server.url()) as session:
            for _ in range(3):
                answer = await session.authenticate(issue())
                assert answer == {"type": "ERROR", "message": message}
            assert await session.closed() == (1008, "unauthorized")

    asyncio.run(conversation())


def test_after_a_wrong_token_a_right_one_is_accepted(server):
    async def conversation():
        async with connected(server.url()) as session:
            assert (await session.authenticate("nonsense"))["type"] == "ERROR"
            refusal = {"type": "ERROR", "message": "Authentication required"}
            assert await session.ask("SUBSCRIBE", property_id="1") == refusal
            assert (await session.authenticate(library_token()))["type"] == "AUTHENTICATED"
            assert (await session.ask("SUBSCRIBE", property_id="1"))["type"] == "SUBSCRIBED"

    asyncio.run(conversation())


def test_a_token_in_the_handshake_is_answered_at_once(server):
    token = library_token()
    ways = [
        (server.url(f"/monitoring?token={token}"), {}),
        (server.url(), {"additional_headers": {"Authorization": f"Bearer {token}"}}),
        (server.url(), {"subprotocols": ["bearer", token]}),
    ]

    async def conversation():
        for url, options in ways:
            async with connected(url, **options) as session:
                assert await session.receive() == {"type": "AUTHENTICATED", "user_id": "user123"}
        async with connected(server.url("/monitoring?token=nonsense")) as session:
            assert await session.receive() == {"type": "ERROR", "message": "Invalid token"}
            assert await session.closed() == (1008, "unauthorized")

    asyncio.run(conversation())


def test_the_subprotocol_chooses_the_dialect(server):
    async def conversation():
        name = "fanwire.monitoring.v1"
        async with connected(server.url("/"), subprotocols=["other", name]) as session:
            assert session.socket.subprotocol == name
        with pytest.raises(websockets.InvalidStatus, match="404"):
            await websockets.connect(server.url("/nowhere"), proxy=None)

    asyncio.run(conversation())


def test_a_token_that_expires_ends_the_session(server):
    async def conversation():
        token = library_token(lasts_s=2)
        async with authenticated(server.url(), token) as session:
            assert await session.receive() == {"type": "ERROR", "message": "Token expired"}
            assert await session.closed() == (1008, "token_expired")

    asyncio.run(conversation())


def test_after_unsubscribing_nothing_is_delivered(server):
    async def conversation():
        token = library_token()
        async with authenticated(server.url(), token) as session, publisher(server.url()) as source:
            for property_id in ["left", "kept"]:
                await session.ask("SUBSCRIBE", property_id=property_id)
            await source.publish("left", {"type": "VIOLATION_UPDATE", "n": 1})
            assert await session.receive() == {"type": "VIOLATION_UPDATE", "n": 1}

            answer = await session.ask("UNSUBSCRIBE", property_id="left")
            assert answer == {"type": "UNSUBSCRIBED", "property_id": "left"}
            for n in range(2, 20):
                await source.publish("left", {"type": "VIOLATION_UPDATE", "n": n})
            # One publisher's messages stay in order: what came before this one would be seen first.
            await source.publish("kept", {"type": "VIOLATION_UPDATE", "n": 20})
            assert await session.receive() == {"type": "VIOLATION_UPDATE", "n": 20}
            assert (await session.ask("GET_STATUS"))["subscriptions"] == ["kept"]

    asyncio.run(conversation())


def test_faults_are_named_and_the_session_goes_on(server):
    faults = [
        ("no json", "Invalid JSON"),
        ("[1]", "Invalid JSON"),
        ('{"type":"DANCE"}', "Unknown message type"),
        ('{"type":"SUBSCRIBE"}', "Missing property_id"),
        ('{"type":"SUBSCRIBE","property_id":5.5}', "Invalid property_id"),
        ('{"type":"PUBLISH","property_id":"1","message":{"type":"X"}}', "Permission denied"),
    ]

    async def conversation():
        async with authenticated(server.url(), library_token()) as session:
            for text, message in faults:
                await session.socket.send(text)
                assert await session.receive() == {"type": "ERROR", "message": message}
            assert await session.ask("PING") == {"type": "PONG"}

    asyncio.run(conversation())


def test_the_hundred_and_first_message_of_a_minute_is_refused(server):
    async def conversation():
        async with connected(server.url()) as session:
            for _ in range(100):
                assert await session.ask("PING") == {"type": "PONG"}
            refusal = {"type": "ERROR", "message": "Rate limit exceeded"}
            assert await session.ask("PING") == refusal
            assert session.socket.state is websockets.State.OPEN

    asyncio.run(conversation())


def test_fragments_are_joined_also_inside_a_character(server):
    # Pieces of one byte split the euro sign and the emoji; a ping comes between two fragments.
    text = json.dumps({"type": "SUBSCRIBE", "property_id": "é€\U0001f600"}, ensure_ascii=False)
    pieces = [bytes([byte]) for byte in text.encode()]

    async def conversation():
        async with authenticated(server.url(), library_token()) as session:

            async def fragments():
                for index, piece in enumerate(pieces):
                    if index == len(pieces) // 2:
                        await asyncio.wait_for(await session.socket.ping(), 10)
                    yield piece

            subscribed = {"type": "SUBSCRIBED", "property_id": "é€\U0001f600"}
            await session.socket.send(fragments(), text=True)
            assert await session.receive() == subscribed
            await session.socket.send(['{"type":', "", '"PING"}'])
            assert await session.receive() == {"type": "PONG"}

    asyncio.run(conversation())


def test_a_message_of_ten_mebibytes_is_read_and_a_longer_one_ends_the_session(server):
    def padded(length):
        head, tail = '{"type":"PING","pad":"', '"}'
        return head + "x" * (length - len(head) - len(tail)) + tail

    async def conversation():
        # Not `async with`: leaving it aborts a transport that was lost with bytes to write, which
        # Python 3.11's asyncio answers with an AttributeError.
        session = Session(await websockets.connect(server.url(), proxy=None, compression=None))
        assert (await session.receive())["type"] == "WELCOME"
        # Before it has authenticated a session may send only little.
        assert (await session.authenticate(library_token()))["type"] == "AUTHENTICATED"
        await session.socket.send(padded(MESSAGE_BYTES_MAX))
        assert await session.receive() == {"type": "PONG"}
        await session.socket.send(padded(MESSAGE_BYTES_MAX + 1))
        code, _ = await session.closed()
        assert code == 1009

    asyncio.run(conversation())


def test_close_codes_are_clean(server):
    async def conversation():
        for code in [1000, 1001, 3000, 4999]:
            async with connected(server.url()) as session:
                await session.socket.close(code, "goodbye")
                # The server's close frame arrived and repeats the code (RFC 6455 5.5.1).
                assert session.socket.protocol.close_rcvd.code == code
                assert session.socket.protocol.close_rcvd_then_sent is False
        async with websockets.connect(server.url("/ws/connect"), proxy=None) as socket:
            await socket.send(b"\x00\x01")
            code, _ = await Session(socket).closed()
            assert code == 1003

    asyncio.run(conversation())


def test_text_in_a_binary_frame_is_json(server):
    async def conversation():
        async with connected(server.url()) as session:
            await session.socket.send(b'{"type":"PING"}')
            assert await session.receive() == {"type": "PONG"}
            await session.socket.send(b"\x00\x01")
            assert (await session.receive())["type"] == "ERROR"

    asyncio.run(conversation())


def test_the_threaded_client_speaks_too(server):
    with websockets.sync.client.connect(server.url(), proxy=None) as socket:
        assert json.loads(socket.recv(10))["type"] == "WELCOME"
        socket.send(json.dumps({"type": "AUTHENTICATE", "token": library_token()}))
        assert json.loads(socket.recv(10)) == {"type": "AUTHENTICATED", "user_id": "user123"}
        socket.send(json.dumps({"type": "PING"}))
        assert json.loads(socket.recv(10)) == {"type": "PONG"}

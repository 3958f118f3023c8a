"""TLS, with the OpenSSL of Python on the other side."""

import asyncio
import json
import socket
import ssl

import pytest
import websockets

from server import PATIENCE_S, Server


@pytest.fixture(scope="module")
def secure(certificate):
    """A server with a certificate for localhost, and the file of that certificate."""
    with Server("--dev", "--tls-certificates", f"{certificate[0]} {certificate[1]}") as server:
        yield server, certificate[0]


def context(certificate, version):
    trusting = ssl.create_default_context(cafile=certificate)
    trusting.minimum_version = trusting.maximum_version = version
    return trusting


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_client_that_verifies_the_certificate_talks(secure, version):
    server, certificate = secure
    port = server.address.rsplit(":", 1)[1]

    async def talk():
        url = f"wss://localhost:{port}/ws"
        trusting = context(certificate, version)
        async with websockets.connect(url, ssl=trusting, max_size=None) as client:
            await client.send(json.dumps({"type": "subscribe", "data": {"channel": "news"}}))
            answer = json.loads(await client.recv())
            assert answer["type"] == "subscribed"
            for length in (1, 16_000, 16_384, 16_385, 70_000, 900_000):
                data = {"channel": "news", "data": "x" * length}
                await client.send(json.dumps({"type": "publish", "data": data}))
                message = json.loads(await client.recv())
                assert message["data"] == "x" * length
            await (await client.ping())
        return client.close_code

    assert asyncio.run(asyncio.wait_for(talk(), PATIENCE_S)) == 1000


@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
def test_a_session_is_resumed_with_a_ticket(secure, version):
    server, certificate = secure
    host, port = server.address.rsplit(":", 1)
    trusting = context(certificate, version)
    session = None
    for is_second in (False, True):
        plain = socket.create_connection((host, int(port)), PATIENCE_S)
        with trusting.wrap_socket(plain, server_hostname="localhost", session=session) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := client.recv(4096):
                answer += part
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert client.session_reused == is_second
            session = client.session


def test_a_stranger_is_not_trusted(secure):
    server, _ = secure
    host, port = server.address.rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), PATIENCE_S)
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")

#!/usr/bin/env python3
"""The client of tests/tls/kernel.sh: does the server with `tls_kernel` do what the other one does?

    tests/tls/kernel.py KERNEL_PORT PROCESS_PORT STATUS_PORT

Two servers listen, one for which the kernel encrypts and one that does it itself; what they and the kernel have
counted is at the third port. Exits with 1 when anything is not as it should be.
"""

import hashlib
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

BOOT_S = 180
PATIENCE_S = 180
SUBSCRIBERS = 50
SUITES_1_2 = ["AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305"]
SUITES_1_3 = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
REQUEST = "GET /ws HTTP/1.1\r\nHost: f\r\nUpgrade: websocket\r\nConnection: upgrade\r\n" \
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
TEXT, CLOSE = 1, 8
V1_2, V1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Client:
    """A WebSocket client with TLS."""

    # Where each close has a close_notify ahead of it. The server that encrypts itself sends none after a
    # closing handshake that the client has begun.
    kernel_port = None

    def __init__(self, port, version, receive_bytes=None, suite=None):
        self.is_notified = port == self.kernel_port
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        if suite:
            context.set_ciphers(f"ECDHE-ECDSA-{suite}")
        plain = socket.socket()
        plain.settimeout(PATIENCE_S)
        if receive_bytes:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        plain.connect(("127.0.0.1", port))
        # An end without close_notify is an error.
        self.socket = context.wrap_socket(plain, suppress_ragged_eofs=False)
        self.unread = b""

    def fill(self, count):
        while len(self.unread) < count:
            received = self.socket.recv(65_536)
            assert received, "the server has ended"
            self.unread += received

    def take(self, count):
        self.fill(count)
        taken, self.unread = self.unread[:count], self.unread[count:]
        return taken

    def upgrade(self):
        self.socket.sendall(REQUEST.encode())
        while b"\r\n\r\n" not in self.unread:
            self.fill(len(self.unread) + 1)
        head, self.unread = self.unread.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def send(self, opcode, payload):
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            header = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 1 << 16:
            header = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            header = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        whole = mask * (length // 4 + 1)
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(whole[:length], "big")
        self.socket.sendall(header + mask + masked.to_bytes(length, "big"))

    def receive(self):
        first, second = self.take(2)
        length = second
        if second == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif second == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        return first & 15, self.take(length)

    def subscribe(self, channel):
        self.send(TEXT, json.dumps({"type": "subscribe", "data": {"channel": channel}}).encode())
        opcode, answer = self.receive()
        assert opcode == TEXT and b'"subscribed"' in answer, answer[:200]
        return self

    def publish(self, channel, data):
        message = {"type": "publish", "data": {"channel": channel, "data": data}}
        self.send(TEXT, json.dumps(message).encode())

    def publication(self):
        opcode, message = self.receive()
        assert opcode == TEXT, (opcode, message[:100])
        return json.loads(message)["data"]

    def close(self):
        """The closing handshake, then the server's close_notify."""
        self.send(CLOSE, struct.pack("!H", 1000))
        while self.receive()[0] != CLOSE:
            pass
        self.end()

    def end(self):
        """The server's close_notify."""
        try:
            assert self.socket.recv(1) == b"", "something follows the close frame"
        except ssl.SSLEOFError:
            assert not self.is_notified, "no close_notify"
        self.socket.close()


def data(number, size):
    """What no other publication has."""
    seed = hashlib.sha256(f"{number} {size}".encode()).hexdigest()
    return f"{number} " + (seed * (size // len(seed) + 1))[:size]


def status(port):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        text = b""
        while received := connection.recv(65_536):
            text += received
    return text.decode()


class Counted:
    """What was counted until now."""

    def __init__(self, port):
        self.text = status(port)
        servers = self.text.split("metrics 8443\n")[1].split("tls_stat\n")[0].split("metrics 8444\n")
        self.metrics = dict(zip(("kernel", "process"), servers))

    def metric(self, server, name, labels=""):
        found = re.findall(rf"^{name}{{([^}}]*)}} (\d+)", self.metrics[server], re.MULTILINE)
        return sum(int(value) for those, value in found if labels in those)

    def ticks(self, server):
        port = {"kernel": 8443, "process": 8444}[server]
        return int(re.search(rf"^ticks {port} (\d+)", self.text, re.MULTILINE)[1])

    def kernel(self, name):
        return int(re.search(rf"^{name}\s+(\d+)", self.text, re.MULTILINE)[1])

    def release(self):
        return tuple(int(it) for it in re.findall(r"\d+", self.text.strip().splitlines()[-1])[:2])


def in_threads(tasks):
    failures = []

    def run(task):
        try:
            task()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def fan_out(port, sizes, subscribers=SUBSCRIBERS):
    """All publications reach all subscribers in their order; the seconds that takes."""
    clients = [
        Client(port, V1_3 if number % 2 else V1_2, suite=None if number % 2 else SUITES_1_2[number // 2 % 3])
        for number in range(subscribers)
    ]
    for client in clients:
        client.upgrade().subscribe("c")
    publisher = Client(port, V1_3).upgrade()
    began = time.monotonic()

    def publish():
        for number, size in enumerate(sizes):
            publisher.publish("c", data(number, size))

    def read(client):
        for number, size in enumerate(sizes):
            received = client.publication()
            assert received == data(number, size), f"publication {number} of {size}: {str(received)[:60]}"

    in_threads([publish, *(lambda it=it: read(it) for it in clients)])
    took = time.monotonic() - began
    in_threads([it.close for it in clients])
    publisher.close()
    return took


def check_requests(port):
    """curl, with each cipher suite."""
    ways = [["--tls-max", "1.2", "--ciphers", f"ECDHE-ECDSA-{suite}"] for suite in SUITES_1_2]
    ways += [["--tlsv1.3", "--tls13-ciphers", suite] for suite in SUITES_1_3]
    for way in ways:
        command = ["curl", "-sSk", "--http1.1", "-m", str(PATIENCE_S), *way]
        # Two requests on one connection, then one on which the server ends the stream.
        for more in (["-o", "/dev/null"], ["-H", "Connection: close"]):
            address = f"https://127.0.0.1:{port}/health"
            urls = [address, address] if more[0] == "-o" else [address]
            answer = subprocess.run([*command, *more, *urls], capture_output=True, text=True, check=False)
            assert answer.returncode == 0 and '"status"' in answer.stdout, (way, answer)


def check_slow_reader(port):
    """A reader that does not read for a while gets everything, and the end too."""
    slow = Client(port, V1_3, receive_bytes=8_192).upgrade().subscribe("slow")
    publisher = Client(port, V1_2).upgrade()
    sizes = [900_000] * 12 + [128] * 100
    for number, size in enumerate(sizes):
        publisher.publish("slow", data(number, size))
    time.sleep(3)
    # Its close frame arrives while most of that waits.
    slow.send(CLOSE, struct.pack("!H", 1000))
    time.sleep(1)
    received = 0
    while True:
        opcode, message = slow.receive()
        if opcode == CLOSE:
            break
        assert json.loads(message)["data"] == data(received, sizes[received]), received
        received += 1
    assert received > 0
    slow.end()
    publisher.close()
    return received


def check_slow_end(port):
    """The last record and the end reach a reader whose socket was full."""
    slow = Client(port, V1_2, receive_bytes=4_096).upgrade().subscribe("end")
    publisher = Client(port, V1_3).upgrade()
    for number in range(8):
        publisher.publish("end", data(number, 500_000))
    time.sleep(2)
    for number in range(8):
        time.sleep(0.2)
        assert slow.publication() == data(number, 500_000), number
    slow.close()
    publisher.close()


def check_half_close(port):
    """A request is answered although the client's side of the socket ends right behind it."""
    for version in (V1_2, V1_3):
        client = Client(port, version)
        client.socket.sendall(b"GET /health HTTP/1.1\r\nHost: f\r\n\r\n")
        with socket.socket(fileno=os.dup(client.socket.fileno())) as plain:
            plain.shutdown(socket.SHUT_WR)
        while b'"status"' not in client.unread:
            client.fill(len(client.unread) + 1)
        while received := client.socket.recv(65_536):
            client.unread += received
        client.socket.close()


def key_update(port, key):
    """What openssl reads after it has changed its keys, and has asked for the server's with a `K`."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3"]
    client = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    for line in (f"{key}\n", "GET /health HTTP/1.1\r\nHost: f\r\nConnection: close\r\n\r\n"):
        time.sleep(2)
        try:
            client.stdin.write(line.encode())
            client.stdin.flush()
        except BrokenPipeError:
            break
    time.sleep(3)
    try:
        client.stdin.close()
    except BrokenPipeError:
        pass
    output = client.stdout.read()
    client.wait(PATIENCE_S)
    return b'"status"' in output


def check_key_updates(port, status_port):
    before = Counted(status_port)
    assert key_update(port, "k"), "no answer after new keys of the client"
    is_answered = key_update(port, "K")
    after = Counted(status_port)
    name, labels = "fanwire_kernel_tls_errors_total", 'error="key_update"'
    closed = after.metric("kernel", name, labels) - before.metric("kernel", name, labels)
    can_change = after.release() >= (6, 14)
    assert is_answered == can_change and closed == (not can_change), (is_answered, closed, can_change)
    return "new keys" if can_change else "closed, as the kernel cannot change keys"


def cost(port, server, status_port, sizes):
    """Ticks of the server's CPU per 1,000 deliveries."""
    before = Counted(status_port)
    fan_out(port, sizes)
    after = Counted(status_port)
    return (after.ticks(server) - before.ticks(server)) / (len(sizes) * SUBSCRIBERS) * 1_000


def await_servers(ports):
    deadline = time.monotonic() + BOOT_S
    for port in ports:
        while True:
            try:
                Client(port, V1_3).upgrade().close()
                break
            except (OSError, AssertionError):
                assert time.monotonic() < deadline, "the machine does not start"
                time.sleep(1)


def main():
    kernel_port, process_port, status_port = map(int, sys.argv[1:])
    Client.kernel_port = kernel_port
    await_servers([kernel_port, process_port])
    for port in (kernel_port, process_port):
        check_requests(port)
        check_half_close(port)
    print("health by curl: three suites of TLS 1.2, three of TLS 1.3; and with half a close")
    for size, count in ((128, 500), (65_536, 40), (1_000_000, 4)):
        took = fan_out(kernel_port, [size] * count)
        print(f"{count} publications of {size} bytes to {SUBSCRIBERS} subscribers: {took:.1f} s")
    mixed = [[128, 30_000, 16_384, 1, 200_000, 16_300][number % 6] for number in range(60)]
    fan_out(kernel_port, mixed)
    before = Counted(status_port)
    received = check_slow_reader(kernel_port)
    check_slow_end(kernel_port)
    after = Counted(status_port)
    name = "fanwire_short_sends_total"
    short = after.metric("kernel", name) - before.metric("kernel", name)
    assert short > 0, "no send was short"
    print(f"slow readers: {short} short sends, {received} publications before a close frame, then the end")
    print(f"key updates: {check_key_updates(kernel_port, status_port)}")
    for size, count in ((128, 400), (16_000, 60)):
        costs = {"kernel": [], "process": []}
        for _ in range(3):
            costs["kernel"].append(cost(kernel_port, "kernel", status_port, [size] * count))
            costs["process"].append(cost(process_port, "process", status_port, [size] * count))
        shown = {server: [round(it, 1) for it in those] for server, those in costs.items()}
        print(f"CPU ticks per 1,000 deliveries of {size} bytes: {shown}")
    counted = Counted(status_port)
    senders = {
        server: {sender: counted.metric(server, "fanwire_tls_connections_total", f'sender="{sender}"')
                 for sender in ("kernel", "process")}
        for server in ("kernel", "process")
    }
    print(f"connections by sender: {senders}")
    print(counted.text.split("tls_stat\n")[1])
    assert senders["kernel"]["kernel"] > 0 and senders["kernel"]["process"] == 0, senders
    assert senders["process"]["kernel"] == 0 and senders["process"]["process"] > 0, senders
    assert counted.metric("kernel", "fanwire_kernel_tls_errors_total", 'error="send_keys"') == 0
    assert counted.kernel("TlsTxSw") == senders["kernel"]["kernel"]
    assert counted.kernel("TlsDecryptError") == 0


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How much a node takes from Redis, and how fast it subscribes there.

    tests/nodes/rates.py FANWIRE [PUBLICATIONS_PER_SECOND]

Use a release build. First, publications of 180 bytes come to one node at the given rate (100,000 by default) on ten channels that
it is subscribed to; then 200 clients subscribe to 10,000 channels, and leave them. Prints what that took.
"""

import asyncio
import os
import socket
import sys
import tempfile
import threading
import time

from harness import Client, Node, Redis, settle, until

PUBLICATIONS = 500_000
BATCH = 1_000


def cpu_of_redis_thread(node):
    """Seconds of the node's thread that speaks to Redis."""
    folder = f"/proc/{node.process.pid}/task"
    for thread in os.listdir(folder):
        text = open(f"{folder}/{thread}/stat").read()
        if "(redis)" in text:
            fields = text[text.rindex(")") + 2 :].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def commands(first):
    """The commands of a batch, as another node would publish."""
    for number in range(first, first + BATCH):
        channel = b"fanwire:{c:news:%d}" % (number % 10)
        data = b'{"a":"%s"}' % (b"x" * 100)
        message = b"fw1 0 0 0000000000000001 %d 1700000000000 j 1:m 0: 0: 0: 0: %s" % (number, data)
        yield b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(channel), channel, len(message), message)


async def inbound(binary, folder, rate):
    with Redis(folder) as redis, Node(binary, redis.url) as node:
        until("the node is healthy", node.is_healthy)
        client = await Client.connect(node)
        for number in range(10):
            await client.subscribe(f"news:{number}")
        # The node stays subscribed for a while, and nobody holds it up.
        client.close()
        await asyncio.sleep(0.3)
        batches = [b"".join(commands(first)) for first in range(1, PUBLICATIONS, BATCH)]
        connection = socket.create_connection(("127.0.0.1", redis.port))
        threading.Thread(target=lambda: [None for _ in iter(lambda: connection.recv(1 << 20), b"")], daemon=True).start()
        cpu, began = cpu_of_redis_thread(node), time.monotonic()
        for index, batch in enumerate(batches, 1):
            connection.sendall(batch)
            time.sleep(max(0, began + index * BATCH / rate - time.monotonic()))
        until("all is received", lambda: node.metric("fanwire_redis_publications_received_total") >= PUBLICATIONS)
        seconds, cpu = time.monotonic() - began, cpu_of_redis_thread(node) - cpu
        lost = node.metric("fanwire_redis_connections_lost_total")
        print(f"{PUBLICATIONS / seconds:,.0f} publications/s, {cpu / PUBLICATIONS * 1e6:.1f} us of CPU each, {lost:.0f} connections lost")
        connection.close()


async def channels(binary, folder):
    settings = {"FANWIRE_REDIS_LEAVE_DELAY": "1s", "FANWIRE_GATEWAY__SUBSCRIPTIONS_PER_SESSION_MAX": "100"}
    with Redis(folder) as redis, Node(binary, redis.url, FANWIRE_HISTORY="x:* messages=10", **settings) as node:
        until("the node is healthy", node.is_healthy)
        clients = [await Client.connect(node) for _ in range(200)]
        began = time.monotonic()
        for index, client in enumerate(clients):
            for number in range(50):
                client.send("subscribe", channel=f"x:{index}:{number}")
        for client in clients:
            for _ in range(50):
                await client.expect("subscribed")
        print(f"10,000 channels with a history subscribed to in {time.monotonic() - began:.2f} s")
        began = time.monotonic()
        for client in clients:
            client.close()
        await settle(lambda: not redis.ask("PUBSUB", "CHANNELS", "*{c:x:*"), "they are left")
        print(f"left in {time.monotonic() - began:.2f} s, of which 1 s is redis_leave_delay and up to 1 s the wait for the next look")


def main():
    binary = sys.argv[1]
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    with tempfile.TemporaryDirectory(prefix="fanwire-nodes-") as folder:
        asyncio.run(inbound(binary, folder, rate))
        asyncio.run(channels(binary, folder))


main()

#!/usr/bin/env python3
"""How much a node takes from Redis, and how fast it subscribes there.

    tests/nodes/rates.py FANWIRE [PUBLICATIONS_PER_SECOND]

Use a release build. First, publications of 180 bytes come to one node at the given rate (100,000 by default) on ten channels that
it is subscribed to; then 200 clients subscribe to 10,000 channels, and leave them. Prints what that took. With fanwire-loadtest beside
FANWIRE, it also prints what a shard of the node spends on deliveries with such publications and without them, in turn.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from harness import Client, Node, Redis, settle, until

PUBLICATIONS = 500_000
BATCH = 1_000


def cpu_of_thread(node, name):
    """Seconds of the threads of the node whose names begin so."""
    folder, ticks = f"/proc/{node.process.pid}/task", 0
    for thread in os.listdir(folder):
        text = open(f"{folder}/{thread}/stat").read()
        if f"({name}" in text:
            fields = text[text.rindex(")") + 2 :].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


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
        cpu, began = cpu_of_thread(node, "redis"), time.monotonic()
        for index, batch in enumerate(batches, 1):
            connection.sendall(batch)
            time.sleep(max(0, began + index * BATCH / rate - time.monotonic()))
        until("all is received", lambda: node.metric("fanwire_redis_publications_received_total") >= PUBLICATIONS)
        seconds, cpu = time.monotonic() - began, cpu_of_thread(node, "redis") - cpu
        lost = node.metric("fanwire_redis_connections_lost_total")
        print(f"{PUBLICATIONS / seconds:,.0f} publications/s, {cpu / PUBLICATIONS * 1e6:.1f} us of CPU each, {lost:.0f} connections lost")
        connection.close()


ROUNDS = 7
ROUND_S = 3


async def beside_deliveries(binary, folder, rate):
    """CPU of the shard for 1,000 subscribers at 50 publications/s of its own, without publications on other channels and with them."""
    with Redis(folder) as redis, Node(binary, redis.url, FANWIRE_REDIS_LEAVE_DELAY="10m") as node:
        until("the node is healthy", node.is_healthy)
        client = await Client.connect(node)
        for number in range(10):
            await client.subscribe(f"news:{number}")
        client.close()
        duration = str((2 * ROUNDS + 2) * ROUND_S)
        url = f"ws://127.0.0.1:{node.port}/ws"
        command = [f"{os.path.dirname(binary)}/fanwire-loadtest", "fanout", "--url", url, "--subscribers", "1000", "--rate", "50", "--seconds", duration, "--core", "1"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
            time.sleep(2 * ROUND_S)
            connection = socket.create_connection(("127.0.0.1", redis.port))
            threading.Thread(target=lambda: [None for _ in iter(lambda: connection.recv(1 << 20), b"")], daemon=True).start()
            spent = ([], [])
            first = 1
            for turn in range(2 * ROUNDS):
                began, cpu = time.monotonic(), cpu_of_thread(node, "shard-0")
                index = 0
                while (now := time.monotonic()) < began + ROUND_S:
                    if turn % 2 and now >= began + index * BATCH / rate:
                        connection.sendall(b"".join(commands(first)))
                        first, index = first + BATCH, index + 1
                    else:
                        time.sleep(0.001)
                spent[turn % 2].append((cpu_of_thread(node, "shard-0") - cpu) / (50 * ROUND_S * 1000) * 1e6)
            connection.close()
            load.terminate()
        without, beside = (statistics.median(it) for it in spent)
        lost = node.metric("fanwire_redis_connections_lost_total")
        ranges = " and ".join(f"{min(it):.3f} to {max(it):.3f}" for it in spent)
        print(f"{beside / without:.2f} x the CPU of the shard per delivery beside {first / ROUNDS / ROUND_S:,.0f} publications/s: {beside:.3f} and {without:.3f} us ({ranges}; {ROUNDS} turns each), {lost:.0f} connections lost")


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
        if os.path.exists(f"{os.path.dirname(binary)}/fanwire-loadtest"):
            asyncio.run(beside_deliveries(binary, folder, rate))


main()

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
    """Seconds that the threads of the node whose names begin so have run (proc_pid_schedstat: nanoseconds)."""
    folder, nanos = f"/proc/{node.process.pid}/task", 0
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/comm") as comm, open(f"{folder}/{thread}/schedstat") as schedstat:
            if comm.read().startswith(name):
                nanos += int(schedstat.read().split()[0])
    return nanos / 1e9


def commands(first, name="news"):
    """The commands of a batch, as another node would publish."""
    for number in range(first, first + BATCH):
        channel = b"fanwire:{c:%s:%d}" % (name.encode(), number % 10)
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


ROUNDS = 15
ROUND_S = 2
# Keeps the shard busy for most of the time: what publications take from it that nobody here has subscribed to is a part of all it can do.
FANOUTS_PER_SECOND = 200
# The channels that publications come on in a turn: none, those of another node, those of the node.
TURNS = {"without": None, "of another node": "other", "of the node": "news"}


async def beside_deliveries(binary, folder, rate):
    """CPU of the shard for 1,000 subscribers at 200 publications/s of its own: alone, beside publications on other channels that another
    node takes from Redis, which shows what the machine does to a busy neighbour, and beside those that the node takes itself."""
    settings = {"FANWIRE_REDIS_LEAVE_DELAY": "10m", "FANWIRE_SHARDS": "1"}
    with Redis(folder) as redis, Node(binary, redis.url, **settings) as node, Node(binary, redis.url, **settings) as other:
        for taker, name in ((node, "news"), (other, "other")):
            until("the node is healthy", taker.is_healthy)
            client = await Client.connect(taker)
            for number in range(10):
                await client.subscribe(f"{name}:{number}")
            client.close()
        duration = str(len(TURNS) * ROUNDS * (ROUND_S + 1))
        url = f"ws://127.0.0.1:{node.port}/ws"
        command = [f"{os.path.dirname(binary)}/fanwire-loadtest", "fanout", "--url", url, "--subscribers", "1000", "--rate", str(FANOUTS_PER_SECOND), "--samples", "0", "--seconds", duration, "--core", "1"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
            time.sleep(2 * ROUND_S)
            connection = socket.create_connection(("127.0.0.1", redis.port))
            threading.Thread(target=lambda: [None for _ in iter(lambda: connection.recv(1 << 20), b"")], daemon=True).start()
            spent, rates = {turn: [] for turn in TURNS}, {turn: [] for turn in TURNS}
            first, sent = 1, 0
            for _ in range(ROUNDS):
                for turn, name in TURNS.items():
                    time.sleep(0.2)
                    began, ran, delivered = time.monotonic(), cpu_of_thread(node, "shard-0"), node_deliveries(node)
                    index = 0
                    while (now := time.monotonic()) < began + ROUND_S:
                        if name and now >= began + index * BATCH / rate:
                            connection.sendall(b"".join(commands(first, name)))
                            first, index, sent = first + BATCH, index + 1, sent + BATCH
                        else:
                            time.sleep(0.001)
                    ran = cpu_of_thread(node, "shard-0") - ran
                    delivered = node_deliveries(node) - delivered
                    spent[turn].append(ran / delivered * 1e6)
                    rates[turn].append(delivered / (time.monotonic() - began))
            connection.close()
            load.terminate()
        received = [it.metric("fanwire_redis_publications_received_total") for it in (node, other)]
        lost = sum(it.metric("fanwire_redis_connections_lost_total") for it in (node, other))
        for turn, figures in spent.items():
            print(f"publications {turn}: {statistics.median(figures):.3f} us of the shard per delivery ({min(figures):.3f} to {max(figures):.3f}; {ROUNDS} turns), {statistics.median(rates[turn]):,.0f} deliveries/s")
        ratios = [[a / b for a, b in zip(spent["of the node"], spent[turn])] for turn in ("without", "of another node")]
        print("of the node / without: {:.2f}; of the node / of another node: {:.2f} (medians of the ratios in each round)".format(*map(statistics.median, ratios)))
        print(f"received {received[0]:,.0f} and {received[1]:,.0f} of {sent // 2:,.0f} each, {sent / 2 / ROUNDS / ROUND_S:,.0f}/s, {lost:.0f} connections lost")


def node_deliveries(node):
    return node.metric("fanwire_deliveries_total")


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

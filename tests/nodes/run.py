#!/usr/bin/env python3
"""Do several nodes, connected by a real redis-server, work as one, and what happens when Redis is away?

    tests/nodes/run.py FANWIRE [--long] [CASE…]

With --long, Redis is killed more often and stopped for half a minute, and connections are cut for a minute. Needs redis-server and redis-sentinel (Debian: `redis-server redis-sentinel`). Each case starts its own Redis and nodes.
Exits with 1 at the first check that fails.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time

from harness import ROOT, Client, Delay, Front, Node, Redis, free_port, run_cases, settle, settle_healthy, until

HISTORY = {"FANWIRE_HISTORY": "hist:* messages=10000"}
SUBSCRIBERS = 3000
PUBLICATIONS = 60
IS_LONG = "--long" in sys.argv


def healthy(*nodes):
    for node in nodes:
        until("the node is healthy", node.is_healthy)


async def acquainted(*nodes):
    """All know how many they are: each has sent a message to all after the last one came."""
    healthy(*nodes)
    await asyncio.sleep(1.5)


async def clients_of(nodes, count, channels):
    """Clients spread over the nodes, each subscribed to all the channels."""
    clients = []
    for begin in range(0, count, 100):
        some = range(begin, min(begin + 100, count))
        clients += await asyncio.gather(*(Client.connect(nodes[index % len(nodes)]) for index in some))
    for begin in range(0, count, 100):
        some = clients[begin : begin + 100]
        for channel in channels:
            await asyncio.gather(*(client.subscribe(channel) for client in some))
    return clients


def check_received(clients, channel, expected):
    """All have received the same, in the same order, once; for each publisher in its order."""
    orders = {json.dumps(client.received.get(channel)) for client in clients}
    assert len(orders) == 1, f"{channel}: {len(orders)} different orders"
    received = clients[0].received[channel]
    assert sorted(received) == sorted(expected), f"{channel}: {len(received)} of {len(expected)}"
    for publisher in {first for first, _ in expected}:
        own = [number for first, number in received if first == publisher]
        assert own == sorted(own), f"{channel}: publisher {publisher} is out of order"


async def one_order_on_three_nodes(binary, folder):
    """3,000 subscribers on three nodes, publications from all three: one order, nothing lost, nothing twice."""
    with Redis(folder) as redis, Node(binary, redis.url, **HISTORY) as a, Node(binary, redis.url, **HISTORY) as b, Node(
        binary, redis.url, **HISTORY
    ) as c:
        nodes = [a, b, c]
        healthy(*nodes)
        channels = ["news", "hist:1"]
        clients = await clients_of(nodes, SUBSCRIBERS, channels)
        publishers = [await Client.connect(node) for node in nodes]
        for number in range(PUBLICATIONS):
            for index, publisher in enumerate(publishers):
                publisher.publish(channels[number % 2], [index, number])
            await asyncio.sleep(0.002)
        per_channel = 3 * PUBLICATIONS // 2
        complete = lambda: all(len(client.received.get(it, ())) >= per_channel for client in clients for it in channels)
        await settle(complete, "all have received everything")
        for parity, channel in enumerate(channels):
            expected = [[index, number] for number in range(parity, PUBLICATIONS, 2) for index in range(3)]
            check_received(clients, channel, expected)
        # Without gaps, and the same everywhere.
        for client in clients[:6]:
            offsets = [int(it.split("-")[1], 16) for it in client.positions if it]
            assert offsets == list(range(1, per_channel + 1)), offsets[:10]
        # What one node serves, others can go on with.
        middle = next(it for it in clients[0].positions if it and it.endswith(f"{per_channel // 2:013x}"))
        returning = await Client.connect(c)
        answer = await returning.subscribe("hist:1", recover=middle)
        assert answer["recovered"], answer
        rest = clients[0].received["hist:1"][per_channel // 2 :]
        await settle(lambda: len(returning.received.get("hist:1", ())) >= len(rest), "the rest is recovered")
        assert returning.received["hist:1"] == rest
        sent = sum(node.metric("fanwire_redis_publications_sent_total") for node in nodes)
        assert sent == 3 * PUBLICATIONS, sent
        for client in clients:
            client.close()


def ids_of(node, clients):
    """The clients of a node by the ids of their sessions."""
    by_port = {client.port: client for client in clients}
    connections = json.loads(node.request("GET", "/api/connections?limit=1000")[1])["connections"]
    return {it["id"]: by_port[port] for it in connections if (port := int(it["address"].rsplit(":", 1)[1])) in by_port}


async def a_channel_is_subscribed_to_while_it_has_subscribers(binary, folder):
    """Interest by node, and targets among the nodes."""
    settings = {**HISTORY, "FANWIRE_REDIS_LEAVE_DELAY": "1s"}
    with Redis(folder) as redis, Node(binary, redis.url, **settings) as a, Node(binary, redis.url, **settings) as b:
        healthy(a, b)

        def subscribers(channel):
            return redis.ask("PUBSUB", "NUMSUB", f"fanwire:{{c:{channel}}}")[1]

        first, second = await Client.connect(a), await Client.connect(b)
        assert subscribers("news") == 0
        await first.subscribe("news")
        assert subscribers("news") == 1, "it is there when it is acknowledged"
        await second.subscribe("news")
        assert subscribers("news") == 2
        received = b.metric("fanwire_redis_publications_received_total")
        a.publish("other", 0)
        await asyncio.sleep(0.2)
        assert b.metric("fanwire_redis_publications_received_total") == received, "nobody here wants it"
        # To all but one session, whichever node is told.
        for client in (first, second):
            await client.subscribe("targets")
        [session] = ids_of(a, [first])
        b.publish("targets", 1, exclude_session=session)
        a.publish("targets", 2)
        await settle(lambda: second.received.get("targets") == [1, 2], "the other node's session receives it")
        await settle(lambda: first.received.get("targets") == [2], "this one does not")
        second.send("unsubscribe", channel="targets")
        await settle(lambda: subscribers("targets") == 1, "the node leaves the channel")
        # History that nobody here was subscribed to.
        count = 120
        for number in range(count):
            a.publish("hist:quiet", number)
        page = json.loads(b.request("GET", "/api/channels/hist%3Aquiet/history?limit=1000")[1])
        assert [it["data"] for it in page["publications"]] == list(range(count)), page
        await second.subscribe("hist:quiet")
        second.send("history", channel="hist:quiet", limit=5)
        answer = (await second.expect("history"))["data"]
        assert [it["data"] for it in answer["messages"]] == list(range(count - 5, count)), answer
        assert "hist:quiet" not in second.received, "what was before is for those who ask"


async def redis_killed_under_load(binary, folder):
    """kill -9 and a new start under load: everything arrives once on channels with a history, health tells the truth."""
    settings = {**HISTORY, "FANWIRE_REDIS_TIMEOUT": "1s"}
    with Redis(folder, "--appendonly", "yes", "--appendfsync", "always") as redis, Node(binary, redis.url, **settings) as a, Node(
        binary, redis.url, **settings
    ) as b:
        nodes = [a, b]
        await acquainted(*nodes)
        clients = await clients_of(nodes, 200, ["hist:1", "news"])
        publishers = [await Client.connect(node) for node in nodes]
        counts = [0, 0]

        async def load(seconds):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for index, publisher in enumerate(publishers):
                    for channel in ("hist:1", "news"):
                        publisher.publish(channel, [index, counts[index]])
                    counts[index] += 1
                await asyncio.sleep(0.005)

        rounds = 5 if IS_LONG else 1
        for _ in range(rounds):
            await load(1)
            redis.kill()
            await load(1)
            for node in nodes:
                health = node.health()
                assert health["status"] == "degraded", health
                assert health["components"]["scaling_backend"]["status"] == "unhealthy", health
            # Clients of one node still hear each other.
            own = clients[0].received["news"]
            before = len(own)
            await load(0.5)
            assert len(own) > before, "local delivery goes on"
            redis.start()
            await load(1)
            healthy(*nodes)
            await load(1)
        expected = [[index, number] for index in range(2) for number in range(counts[index])]
        for at, client in enumerate(clients):
            await settle(lambda: len(client.received["hist:1"]) >= len(expected), f"client {at} has received all")
            assert sorted(client.received["hist:1"]) == expected, f"client {at}: {len(client.received['hist:1'])} of {len(expected)}"
        # Without a history, what Redis was about to deliver when it was killed may be lost.
        for at, client in enumerate(clients):
            received = client.received["news"]
            lost = [it for it in expected if it not in received]
            assert len(received) == len(set(map(tuple, received))), f"client {at}: something came twice"
            assert all(index != at % 2 for index, _ in lost), "what its own node has accepted is there"
            assert len(lost) <= rounds * 8, f"client {at}: {len(lost)} lost"
        for node in nodes:
            for name in ("dropped_total", "missed_total"):
                assert node.metric(f"fanwire_redis_publications_{name}") == 0, name
            assert node.metric("fanwire_redis_connections_lost_total") >= rounds


async def redis_stopped(binary, folder):
    """SIGSTOP: local delivery goes on, what is published is sent afterwards, once."""
    settings = {**HISTORY, "FANWIRE_REDIS_TIMEOUT": "1s"}
    with Redis(folder) as redis, Node(binary, redis.url, **settings) as a, Node(binary, redis.url, **settings) as b:
        await acquainted(a, b)
        clients = await clients_of([a, b], 20, ["hist:1", "news"])
        redis.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        number = 0
        while time.monotonic() < stopped + (30 if IS_LONG else 6):
            for node, name in ((a, 0), (b, 1)):
                for channel in ("hist:1", "news"):
                    node.publish(channel, [name, number])
            number += 1
            await asyncio.sleep(0.1)
        assert a.health()["status"] == "degraded"
        own = [name for name, _ in clients[0].received["hist:1"]]
        assert own and set(own) == {0}, "its node's alone"
        redis.signal(signal.SIGCONT)
        healthy(a, b)
        a.publish("hist:1", [0, number])
        b.publish("hist:1", [1, number])
        expected = [[name, it] for name in range(2) for it in range(number + 1)]
        await settle(lambda: all(len(it.received["hist:1"]) >= len(expected) for it in clients), "all has arrived")
        await asyncio.sleep(0.5)
        for client in clients:
            assert sorted(client.received["hist:1"]) == expected, "nothing twice"
            assert sorted(client.received["news"]) == [it for it in expected if it[1] < number]


async def a_backlog_is_bounded(binary, folder):
    """What exceeds the backlog is dropped and counted; a node that ends counts the rest."""
    settings = {**HISTORY, "FANWIRE_REDIS_BACKLOG_BYTES_MAX": "64 KiB", "FANWIRE_REDIS_TIMEOUT": "500ms"}
    with Redis(folder) as redis, Node(binary, redis.url, **settings) as a, Node(binary, redis.url, **settings) as b:
        await acquainted(a, b)
        (here, there) = await clients_of([a, b], 2, ["news"])
        redis.kill()
        until("the node notices", lambda: not a.is_healthy())
        count = 300
        for number in range(count):
            a.publish("news", [0, number, "x" * 1000])
        await settle(lambda: len(here.received.get("news", ())) == count, "local subscribers receive all")
        dropped = a.metric("fanwire_redis_publications_dropped_total")
        assert 200 < dropped < count, dropped
        redis.start()
        healthy(a, b)
        await settle(lambda: len(there.received.get("news", ())) == count - dropped, "the newest ones arrive")
        assert [it[1] for it in there.received["news"]] == list(range(int(dropped), count))
        assert len(here.received["news"]) == count, "and not again"


async def redis_that_forgets(binary, folder):
    """Without persistence, a restart of Redis begins new offsets: nothing is lost, and recovery says that it cannot."""
    with Redis(folder) as redis, Node(binary, redis.url, **HISTORY) as a, Node(binary, redis.url, **HISTORY) as b:
        healthy(a, b)
        clients = await clients_of([a, b], 10, ["hist:1"])
        for number in range(10):
            a.publish("hist:1", [0, number])
        await settle(lambda: all(len(it.received.get("hist:1", ())) == 10 for it in clients), "ten arrive")
        before = clients[0].positions[-1]
        redis.kill()
        until("the nodes notice", lambda: not a.is_healthy() and not b.is_healthy())
        redis.start()
        healthy(a, b)
        for number in range(10, 20):
            b.publish("hist:1", [0, number])
        await settle(lambda: all(len(it.received["hist:1"]) == 20 for it in clients), "ten more arrive")
        for client in clients:
            assert [number for _, number in client.received["hist:1"]] == list(range(20))
        after = clients[0].positions[-1]
        assert before.split("-")[0] != after.split("-")[0], (before, after)
        returning = await Client.connect(a)
        answer = await returning.subscribe("hist:1", recover=before)
        assert answer["recovered"] is False, answer
        again = await returning.subscribe("hist:2", recover=before)
        assert again["recovered"] is False, again


async def wrong_settings(binary, folder):
    """A wrong password, a missing permission and a wrong address say so at the start."""

    def ended(url, **settings):
        command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "none"]
        environment = {"FANWIRE_REDIS_URL": url, "FANWIRE_REDIS_TIMEOUT": "1s", **settings}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        return done.returncode, done.stderr

    with Redis(folder, "--requirepass", "right") as redis:
        for url in (f"redis://:wrong@127.0.0.1:{redis.port}", redis.url):
            code, text = ended(url)
            assert code == 1 and "cannot use Redis" in text and "wrong" not in text, (code, text)
        code, text = ended("redis:/h")
        assert code == 2 and "redis_url" in text and "redis-cluster://" in text, (code, text)
        with Node(binary, f"redis://127.0.0.1:{redis.port}", FANWIRE_REDIS_PASSWORD="right") as node:
            healthy(node)
    acl = "user default off\nuser reader on >pw ~* &* +@read +@connection +@pubsub\n"
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".acl") as file:
        file.write(acl)
        file.flush()
        with Redis(folder, "--aclfile", file.name) as redis:
            code, text = ended(f"redis://reader:pw@127.0.0.1:{redis.port}")
            assert code == 1 and "no permissions" in text, (code, text)
    # Nobody is there: the node serves, says so, and goes on trying.
    port = free_port()
    with Node(binary, f"redis://127.0.0.1:{port}") as node:
        assert node.health()["status"] == "degraded"
        assert any("cannot connect to Redis" in line for line in node.log), node.log
        client = await Client.connect(node)
        await client.subscribe("news")
        node.publish("news", 1)
        await settle(lambda: client.received.get("news") == [1], "it is delivered on the node")


async def sentinels(binary, folder):
    """The master dies: the nodes go on with the replica that Sentinel promotes."""
    with Redis(folder) as first, Redis(folder, "--replicaof", "127.0.0.1", str(first.port)) as second:
        until("the replica is in step", lambda: "master_link_status:up" in second.ask("INFO", "replication"))
        watchers = []
        for _ in range(3):
            sentinel = Redis(folder, program="redis-sentinel")
            config = sentinel.folder / "sentinel.conf"
            config.write_text(
                f"port {sentinel.port}\nbind 127.0.0.1\ndir {sentinel.folder}\n"
                f"sentinel monitor main 127.0.0.1 {first.port} 2\nsentinel down-after-milliseconds main 1000\n"
                "sentinel failover-timeout main 5000\n"
            )
            sentinel.command = [sentinel.command[0], str(config)]
            sentinel.start()
            watchers.append(sentinel)
        try:
            others = lambda it: "num-other-sentinels" in (fields := it.ask("SENTINEL", "MASTER", "main")) and int(
                fields[fields.index("num-other-sentinels") + 1]
            )
            until("the Sentinels know each other", lambda: all(others(it) == 2 for it in watchers))
            url = f"redis-sentinel://{','.join(f'127.0.0.1:{it.port}' for it in watchers)}/main"
            settings = {**HISTORY, "FANWIRE_REDIS_TIMEOUT": "1s"}
            with Node(binary, url, **settings) as a, Node(binary, url, **settings) as b:
                healthy(a, b)
                clients = await clients_of([a, b], 20, ["hist:1"])
                for number in range(20):
                    a.publish("hist:1", [0, number])
                await settle(lambda: all(len(it.received.get("hist:1", ())) == 20 for it in clients), "twenty arrive")
                until("the replica has them", lambda: second.ask("XLEN", "fanwire:{c:hist:1}:history") == 20)
                first.kill()
                for number in range(20, 200):
                    a.publish("hist:1", [0, number])
                    b.publish("hist:1", [1, number])
                    await asyncio.sleep(0.02)
                healthy(a, b)
                assert second.ask("ROLE")[0] == "master"
                expected = [[0, it] for it in range(200)] + [[1, it] for it in range(20, 200)]
                await settle(lambda: all(len(it.received["hist:1"]) >= len(expected) for it in clients), "all arrive")
                for client in clients:
                    assert sorted(client.received["hist:1"]) == expected
        finally:
            for sentinel in watchers:
                sentinel.kill()


async def a_cluster(binary, folder):
    """Three masters: channels are sharded; one of them dies and comes back."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--appendonly", "yes", "--appendfsync", "always")
    servers = [Redis(folder, *options) for _ in range(3)]
    try:
        for server in servers:
            server.start()
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        until("the cluster is up", lambda: all("cluster_state:ok" in it.ask("CLUSTER", "INFO") for it in servers))
        url = f"redis-cluster://{','.join(addresses)}"
        settings = {**HISTORY, "FANWIRE_REDIS_TIMEOUT": "1s"}
        with Node(binary, url, **settings) as a, Node(binary, url, **settings) as b:
            await acquainted(a, b)
            channels = [f"{kind}:{number}" for kind in ("hist", "news") for number in range(10)]
            clients = await clients_of([a, b], 10, channels)

            async def publish(begin, end):
                for number in range(begin, end):
                    for node, name in ((a, 0), (b, 1)):
                        for channel in channels:
                            node.publish(channel, [name, number])

            await publish(0, 10)
            every = lambda count: all(len(it.received.get(channel, ())) >= count for it in clients for channel in channels)
            await settle(lambda: every(20), "all arrive")
            for channel in channels:
                check_received(clients, channel, [[name, number] for name in range(2) for number in range(10)])
            counts = [server.ask("PUBSUB", "SHARDCHANNELS") for server in servers]
            assert all(counts), "the channels are on all masters"
            servers[1].kill()
            until("the nodes notice", lambda: not a.is_healthy() and not b.is_healthy())
            await publish(10, 15)
            servers[1].start()
            healthy(a, b)
            await publish(15, 20)
            await settle(lambda: every(40), "all arrive")
            for client in clients:
                for channel in channels:
                    expected = [[name, number] for name in range(2) for number in range(20)]
                    assert sorted(client.received[channel]) == expected, channel
    finally:
        for server in servers:
            server.kill()


async def behind_nginx(binary, folder):
    """The nginx of deploy/ spreads clients; a node is killed, and its clients recover on the others."""
    text = (ROOT / "deploy/nginx/fanwire-nodes.conf").read_text()
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(Node(binary, redis.url, **HISTORY)) for _ in range(3)]
        healthy(*nodes)
        front = Front(folder, text, nodes)
        stack.enter_context(front)
        until("nginx answers", front.is_open)
        clients = [await Client.connect(front) for _ in range(30)]
        for client in clients:
            client.place = await client.subscribe("hist:1")
        shares = [node.health()["sessions"] for node in nodes]
        assert min(shares) >= 5, shares
        for number in range(10):
            nodes[number % 3].publish("hist:1", number)
        await settle(lambda: all(len(it.received.get("hist:1", ())) == 10 for it in clients), "ten arrive")
        nodes[0].kill()
        await settle(lambda: sum(it.is_closed for it in clients) == shares[0], "its clients notice")
        for number in range(10, 20):
            nodes[1 + number % 2].publish("hist:1", number)
        for client in [it for it in clients if it.is_closed]:
            back = await Client.connect(front)
            answer = await back.subscribe("hist:1", recover=client.positions[-1])
            assert answer["recovered"], answer
            back.received["hist:1"] = client.received["hist:1"] + back.received.get("hist:1", [])
            clients[clients.index(client)] = back
        await settle(lambda: all(len(it.received["hist:1"]) >= 20 for it in clients), "all arrive")
        assert all(it.received["hist:1"] == list(range(20)) for it in clients)


async def a_slow_way_to_redis(binary, folder):
    """Every byte to and from Redis takes 50 ms: everything arrives once and in order, and acknowledgements wait."""
    with Redis(folder) as redis:
        slow = await Delay.begin(redis.port, 0.05)
        try:
            url = f"redis://127.0.0.1:{slow.port}"
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                start = lambda: stack.enter_context(Node(binary, url, **HISTORY))
                nodes = [await loop.run_in_executor(None, start) for _ in range(2)]
                for node in nodes:
                    await loop.run_in_executor(None, healthy, node)
                clients = await clients_of(nodes, 20, ["hist:1"])
                began = time.monotonic()
                await loop.run_in_executor(None, nodes[0].publish, "hist:1", [0, 0])
                assert time.monotonic() - began > 0.1, "it is acknowledged when Redis has it"
                for number in range(1, 200):
                    for index, node in enumerate(nodes):
                        if index or number < 100:
                            clients[index].publish("hist:1", [index, number])
                    await asyncio.sleep(0.002)
                expected = [[0, it] for it in range(100)] + [[1, it] for it in range(1, 200)]
                await settle(lambda: all(len(it.received.get("hist:1", ())) >= len(expected) for it in clients), "all arrive")
                check_received(clients, "hist:1", expected)
        finally:
            slow.end()


async def a_connection_that_is_cut(binary, folder):
    """One node loses its connections again and again under load: everything arrives once everywhere."""
    with Redis(folder) as redis:
        way = await Delay.begin(redis.port, 0.002)
        try:
            loop = asyncio.get_running_loop()
            with contextlib.ExitStack() as stack:
                start = lambda port: stack.enter_context(Node(binary, f"redis://127.0.0.1:{port}", **HISTORY))
                nodes = [await loop.run_in_executor(None, start, port) for port in (way.port, redis.port)]
                for node in nodes:
                    await loop.run_in_executor(None, healthy, node)
                clients = await clients_of(nodes, 20, ["hist:1"])
                number, due = 0, time.monotonic()
                end = due + (60 if IS_LONG else 5)
                while time.monotonic() < end:
                    for index, client in enumerate(clients[:2]):
                        for more in range(3):
                            client.publish("hist:1", [index, number + more])
                    number += 3
                    if time.monotonic() > due:
                        way.cut()
                        due += 0.4
                    await asyncio.sleep(0.002)
                expected = [[index, it] for index in range(2) for it in range(number)]
                await settle(lambda: all(len(it.received.get("hist:1", ())) >= len(expected) for it in clients), "all arrive")
                for client in clients:
                    assert sorted(client.received["hist:1"]) == expected
        finally:
            way.end()


async def an_answer_that_is_lost(binary, folder):
    """Redis has a publication and the connection is lost before it says so: sent again, it is stored once."""
    with Redis(folder) as redis:
        way = await Delay.begin(redis.port, 0)
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            start = lambda: stack.enter_context(Node(binary, f"redis://127.0.0.1:{way.port}", **HISTORY))
            node = await loop.run_in_executor(None, start)
            await settle_healthy(node)
            publisher = await Client.connect(node)
            stored = lambda: [entry[1][1].split()[-1] for entry in redis.ask("XRANGE", "fanwire:{c:hist:1}:history", "-", "+")]
            for number in range(5):
                way.loses_answers = True
                publisher.publish("hist:1", number)
                await settle(lambda: len(stored()) == number + 1, "Redis has it")
                way.cut()
                lost = lambda: node.metric("fanwire_redis_connections_lost_total")
                await settle(lambda: lost() == number + 1, "the node has noticed it")
                way.loses_answers = False
                await settle_healthy(node)
            assert len(stored()) == 5, stored()
            # Another node, which has seen none of it, shows each once.
            with Node(binary, redis.url, **HISTORY) as other:
                await settle_healthy(other)
                client = await Client.connect(other)
                client.send("history", channel="hist:1", limit=100)
                answer = (await client.expect("history"))["data"]
                messages = answer["messages"]
                assert [it["data"] for it in messages] == list(range(5)), messages
        way.end()


async def what_redis_evicts(binary, folder):
    """The hash of a channel is gone, as Redis may evict it: offsets begin anew, and nothing is lost."""
    with Redis(folder) as redis, Node(binary, redis.url, **HISTORY) as a, Node(binary, redis.url, **HISTORY) as b:
        healthy(a, b)
        clients = await clients_of([a, b], 4, ["hist:1"])
        for number in range(30):
            if number in (10, 20):
                redis.ask("DEL", "fanwire:{c:hist:1}:meta")
            a.publish("hist:1", number)
        await settle(lambda: all(len(it.received.get("hist:1", ())) >= 30 for it in clients), "all arrive")
        assert all(it.received["hist:1"] == list(range(30)) for it in clients)
        assert len({it.split("-")[0] for it in clients[0].positions}) == 3


async def recovery_while_redis_is_away(binary, folder):
    """Who comes back in an outage is told that something may be missing."""
    with Redis(folder) as redis, Node(binary, redis.url, **HISTORY) as node:
        healthy(node)
        (client,) = await clients_of([node], 1, ["hist:1"])
        node.publish("hist:1", 0)
        await settle(lambda: client.positions, "it has a position")
        redis.kill()
        until("the node notices", lambda: not node.is_healthy())
        node.publish("hist:1", 1)
        back = await Client.connect(node)
        answer = await back.subscribe("hist:1", recover=client.positions[0])
        assert answer["recovered"] is False, answer


async def who_comes_while_redis_is_away(binary, folder):
    """The first subscriber of a channel in an outage receives what other nodes publish from then on."""
    with Redis(folder, "--appendonly", "yes", "--appendfsync", "always") as redis, Node(binary, redis.url, **HISTORY) as a, Node(
        binary, redis.url, **HISTORY
    ) as b:
        healthy(a, b)
        for number in range(3):
            a.publish("hist:1", number)
        redis.kill()
        until("the nodes notice", lambda: not a.is_healthy() and not b.is_healthy())
        client = await Client.connect(b)
        await client.subscribe("hist:1")
        for number in range(3, 9):
            a.publish("hist:1", number)
        redis.start()
        healthy(a, b)
        a.publish("hist:1", 9)
        await settle(lambda: 9 in client.received.get("hist:1", ()), "the last one arrives")
        assert client.received["hist:1"] == list(range(3, 10)), client.received


async def one_channel_that_redis_rejects(binary, folder):
    """A key of another kind in the place of a history: that channel has none, and all others go on."""
    with Redis(folder) as redis, Node(binary, redis.url, **HISTORY) as a, Node(binary, redis.url, **HISTORY) as b:
        healthy(a, b)
        redis.ask("SET", "fanwire:{c:hist:bad}:meta", "x")
        client = await Client.connect(b)
        await client.subscribe("hist:bad")
        await client.subscribe("hist:1")
        await client.subscribe("news")
        for channel in ("hist:1", "news"):
            a.publish(channel, 1)
        await settle(lambda: client.received.get("hist:1") == [1] and client.received.get("news") == [1], "they arrive")
        assert b.is_healthy() and b.metric("fanwire_redis_connections_lost_total") == 0
        answer = b.request("POST", "/api/publish", {"channel": "hist:bad", "type": "m", "data": 2})
        assert answer[0] == 500, answer
        await settle(lambda: client.received.get("hist:bad") == [2], "it is delivered on its node")
        assert b.metric("fanwire_redis_publications_dropped_total") == 1


CASES = [
    a_connection_that_is_cut,
    an_answer_that_is_lost,
    who_comes_while_redis_is_away,
    one_channel_that_redis_rejects,
    what_redis_evicts,
    recovery_while_redis_is_away,
    behind_nginx,
    a_slow_way_to_redis,
    one_order_on_three_nodes,
    a_channel_is_subscribed_to_while_it_has_subscribers,
    redis_killed_under_load,
    redis_stopped,
    a_backlog_is_bounded,
    redis_that_forgets,
    wrong_settings,
    sentinels,
    a_cluster,
]


if __name__ == "__main__":
    run_cases(CASES)

#!/usr/bin/env python3
"""What several nodes do while the network or Redis fails in ways that are neither a kill nor a stop.

    tests/nodes/faults.py FANWIRE [--long] [CASE…]

Needs redis-server, redis-cli and openssl, and for packets that are lost root, `ip` and `nft` (Debian: `redis-server openssl
iproute2 nftables`): the test makes a network namespace, which is gone when it ends. Where that is not possible, it says so; with
REQUIRE_ALL=1, that is a failure. Three cases at a time; with --long, faults last longer.
Exits with 1 if a check fails.
"""

import asyncio
import atexit
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from harness import PATIENCE_S, Client, Node, NotPossible, Redis, free_port, run_cases, settle, until
from run import HISTORY, IS_LONG, acquainted, clients_of

SETTINGS = {**HISTORY, "FANWIRE_REDIS_TIMEOUT": "1s"}
CHANNELS = ("hist:1", "news")


class Scene:
    """Nodes, subscribers on each of them, and a publisher on each that does not pause."""

    def __init__(self, nodes, channels):
        self.nodes, self.channels, self.count, self.is_over = nodes, channels, 0, False

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, binary, urls, channels=CHANNELS, **settings):
        with contextlib.ExitStack() as stack:
            nodes = [stack.enter_context(Node(binary, url, **{**SETTINGS, **settings})) for url in urls]
            await acquainted(*nodes)
            self = cls(nodes, channels)
            self.clients = await clients_of(nodes, 2 * len(nodes), channels)
            self.publishers = [await Client.connect(node) for node in nodes]
            self.task = asyncio.create_task(self.publish())
            try:
                yield self
            finally:
                self.is_over = True
                await self.task

    async def publish(self):
        while not self.is_over:
            for index, publisher in enumerate(self.publishers):
                for channel in self.channels:
                    publisher.publish(channel, [index, self.count])
            self.count += 1
            await asyncio.sleep(0.01)

    def sum(self, name):
        return sum(node.metric(f"fanwire_redis_{name}") for node in self.nodes)

    async def degraded(self, *nodes):
        """Health says so, in both places."""
        for node in nodes or self.nodes:
            await settle(lambda: not node.is_healthy(), "the node says that it is degraded")
            assert node.health()["components"]["scaling_backend"]["status"] == "unhealthy"
            assert node.metric("fanwire_redis_up") == 0

    async def healthy(self, patience_s=PATIENCE_S):
        for node in self.nodes:
            await settle(node.is_healthy, "the node is healthy again", patience_s)

    async def in_step(self):
        """Everybody receives again what is published everywhere, soon."""
        wanted = self.count + 5

        def is_there():
            for client in self.clients:
                for channel in self.channels:
                    for index in range(len(self.nodes)):
                        # From the end, as that is where they are.
                        newest = next((it for it in reversed(client.received.get(channel, ())) if it[0] == index), (0, -1))
                        if newest[1] < wanted:
                            return False
            return True

        await settle(is_there, "all receive what is published now", 10)

    def lost(self, channel="news"):
        """How many of the publications of others each client has not received; its own node's must be there."""
        counts = []
        for at, client in enumerate(self.clients):
            received = {tuple(it) for it in client.received.get(channel, ())}
            missing = [it for it in self.expected() if tuple(it) not in received]
            own = [it for it in missing if it[0] == at % len(self.nodes)]
            assert not own, f"{channel}: client {at} has not received {own[:5]} of its own node"
            counts.append(len(missing))
        return max(counts)

    def expected(self):
        return [[index, number] for index in range(len(self.nodes)) for number in range(self.count)]

    async def finish(self, news_lost_max=0, missed_max=0):
        """All is well again: nothing is lost on channels with a history, nothing twice, and publishers are in their order."""
        await self.healthy()
        await asyncio.sleep(0.3)
        self.is_over = True
        await self.task
        expected = self.expected()
        for channel in self.channels:
            is_kept = channel.startswith("hist:")
            wanted = len(expected) - (0 if is_kept else news_lost_max)
            for at, client in enumerate(self.clients):
                received = lambda: client.received.get(channel, ())
                what = lambda: f"{channel}: client {at} has {len(received())} of {len(expected)}"
                try:
                    await settle(lambda: len(received()) >= wanted, "all is received", 10)
                except AssertionError as error:
                    raise AssertionError(what()) from error
                assert len(received()) == len(set(map(tuple, received()))), f"{what()}: something came twice"
                if is_kept:
                    assert sorted(received()) == expected, what()
                for publisher in range(len(self.nodes)):
                    own = [number for index, number in received() if index == publisher]
                    assert own == sorted(own), f"{what()}: publisher {publisher} is out of order"
            if not is_kept:
                self.lost(channel)
        assert self.sum("publications_dropped_total") == 0
        assert self.sum("publications_missed_total") <= missed_max


def aside(function, *arguments):
    """Something that waits, while the rest goes on."""
    return asyncio.get_running_loop().run_in_executor(None, function, *arguments)


async def redis_pauses(binary, folder):
    """CLIENT PAUSE and DEBUG SLEEP: unnoticed if shorter than redis_timeout, else an outage from which everything comes back."""
    with Redis(folder, "--enable-debug-command", "yes") as redis:
        async with Scene.on(binary, [redis.url] * 2) as scene:
            for command in (("CLIENT", "PAUSE", 300), ("DEBUG", "SLEEP", 0.3)):
                await aside(redis.ask, *command)
                await asyncio.sleep(0.7)
            assert scene.sum("connections_lost_total") == 0, "what is shorter than redis_timeout is no outage"
            assert scene.sum("publications_delivered_alone_total") == 0
            for number, command in enumerate((("CLIENT", "PAUSE", 2200), ("CLIENT", "PAUSE", 2200, "WRITE"), ("DEBUG", "SLEEP", 2.2)), 1):
                asked = aside(redis.ask, *command)
                await scene.degraded()
                await asked
                await scene.healthy()
                assert scene.sum("connections_lost_total") >= 2 * number
            # What Redis takes at the end of a pause is for connections that are given up.
            await scene.finish(news_lost_max=1000)


async def redis_becomes_a_replica(binary, folder):
    """REPLICAOF leaves connections open and forbids writing: degraded until it is a master again, and then all is sent."""
    with Redis(folder) as redis:
        with Node(binary, redis.url, **SETTINGS) as idle:
            await acquainted(idle)
            redis.ask("REPLICAOF", "127.0.0.1", free_port())
            await settle(lambda: not idle.is_healthy(), "a node that publishes nothing notices")
            redis.ask("REPLICAOF", "NO", "ONE")
            await settle(idle.is_healthy, "and that it is over")
        async with Scene.on(binary, [redis.url] * 2) as scene:
            redis.ask("REPLICAOF", "127.0.0.1", free_port())
            await scene.degraded()
            end = time.monotonic() + (20 if IS_LONG else 3)
            while time.monotonic() < end:
                assert not any(node.is_healthy() for node in scene.nodes), "it is degraded all the time"
                await asyncio.sleep(0.02)
            redis.ask("REPLICAOF", "NO", "ONE")
            await scene.finish(news_lost_max=1000)


async def connections_are_killed(binary, folder):
    """CLIENT KILL of the connections that subscribe, or of those that send: everything comes back."""
    with Redis(folder) as redis:
        async with Scene.on(binary, [redis.url] * 2) as scene:
            for number in range(1, (20 if IS_LONG else 2) + 1):
                for kind in ("pubsub", "normal"):
                    before = scene.sum("connections_lost_total")
                    killed = redis.ask("CLIENT", "KILL", "TYPE", kind)
                    assert killed == 2, f"{killed} of {kind}"
                    await settle(lambda: scene.sum("connections_lost_total") == before + 2, "both notice")
                    await scene.healthy()
            redis.ask("SCRIPT", "FLUSH")
            await asyncio.sleep(0.5)
            await scene.finish(news_lost_max=200)


async def a_node_that_reads_too_slowly(binary, folder):
    """A node is stopped until Redis cuts it off, as its output buffer is full: it reads the rest from the history."""
    with Redis(folder, "--client-output-buffer-limit", "pubsub 1mb 0 0") as redis:
        with Node(binary, redis.url, **SETTINGS) as a, Node(binary, redis.url, **SETTINGS) as b:
            await acquainted(a, b)
            clients = await clients_of([a, b], 2, ["hist:1"])
            text = "x" * 20_000
            subscribers = lambda: redis.ask("PUBSUB", "NUMSUB", "fanwire:{c:hist:1}")[1]
            assert subscribers() == 2
            b.signal(signal.SIGSTOP)
            count = 0
            while subscribers() == 2:
                assert count < 5_000, "Redis cuts it off"
                a.publish("hist:1", [0, count, text])
                count += 1
            b.signal(signal.SIGCONT)
            until("b notices", lambda: b.metric("fanwire_redis_connections_lost_total") >= 1)
            for _ in range(20):
                a.publish("hist:1", [0, count, text])
                count += 1
            for client in clients:
                await settle(lambda: len(client.received.get("hist:1", ())) >= count, "all arrive")
                assert [number for _, number, _ in client.received["hist:1"]] == list(range(count))
            until("b is healthy", b.is_healthy)
            assert a.metric("fanwire_redis_connections_lost_total") == 0
            assert b.metric("fanwire_redis_publications_recovered_total") > 0


async def redis_does_not_take_more(binary, folder):
    """Out of memory, or with too few replicas: channels with a history are rejected, and their publishers and health say so."""
    with Redis(folder, "--maxmemory-policy", "noeviction") as redis:
        settings = {**SETTINGS, "FANWIRE_REDIS_NODE_LEASE": "5s"}
        with Node(binary, redis.url, **settings) as a, Node(binary, redis.url, **settings) as b:
            await acquainted(a, b)
            here, there = await clients_of([a, b], 2, CHANNELS)
            number, dropped, expected = 0, 0, []

            def publish(status):
                nonlocal number
                number += 1
                answer = a.request("POST", "/api/publish", {"channel": "hist:1", "type": "m", "data": number})
                assert answer[0] == status, answer
                a.publish("news", number)

            for name, bad, good in (("maxmemory", 1, 0), ("min-replicas-to-write", 1, 0)):
                publish(200)
                expected.append(number)
                redis.ask("CONFIG", "SET", name, bad)
                publish(500)
                publish(500)
                dropped += 2
                assert a.metric("fanwire_redis_publications_dropped_total") == dropped
                for node in (a, b):
                    await settle(lambda: not node.is_healthy(), "the node says that Redis takes nothing")
                # Who comes now gets what there is.
                other = await Client.connect(b)
                await other.subscribe("hist:1")
                other.close()
                # Longer than a node waits before it renews its lease.
                await asyncio.sleep(0.7)
                redis.ask("CONFIG", "SET", name, good)
                for node in (a, b):
                    await settle(node.is_healthy, "the node says that Redis takes everything again")
                publish(200)
                expected.append(number)
            every = list(range(1, number + 1))
            await settle(lambda: there.received["hist:1"] == expected and there.received["news"] == every, "all arrive on b")
            await settle(lambda: here.received["hist:1"] == every and here.received["news"] == every, "all arrive on a")
            lost = [line for node in (a, b) for line in node.log if "Redis is away" in line]
            assert not lost, lost
            assert any("Redis rejects publications" in line for line in a.log)


async def publishers_wait_for_redis(binary, folder):
    """POST /api/publish while Redis is stopped: answered when it goes on, or by the node alone after redis_timeout."""
    with Redis(folder) as redis:
        with Node(binary, redis.url, **SETTINGS) as a, Node(binary, redis.url, **SETTINGS) as b:
            await acquainted(a, b)
            clients = await clients_of([a, b], 2, ["hist:1"])

            async def publish(number, stopped_s):
                redis.signal(signal.SIGSTOP)
                began = time.monotonic()
                answers = [aside(a.publish, "hist:1", [0, number + more]) for more in range(5)]
                done = asyncio.gather(*answers)
                await asyncio.sleep(min(stopped_s, 0.4))
                assert not done.done(), "it waits"
                if stopped_s > 1:
                    await done
                    waited, lost = time.monotonic() - began, a.metric("fanwire_redis_connections_lost_total")
                    assert lost == 1 and waited < stopped_s, f"{lost} lost, answered after {waited:.1f} s"
                    await asyncio.sleep(began + stopped_s - time.monotonic())
                redis.signal(signal.SIGCONT)
                await done

            await publish(0, 0.4)
            assert a.metric("fanwire_redis_connections_lost_total") == 0
            await publish(5, 3)
            for node in (a, b):
                await settle(node.is_healthy, "the node is healthy")
            for client in clients:
                await settle(lambda: len(client.received.get("hist:1", ())) >= 10, "all arrive")
                assert sorted(it for _, it in client.received["hist:1"]) == list(range(10))


async def a_node_ends_while_redis_is_stopped(binary, folder):
    """SIGTERM: it ends in time and in order, and says how many publications other nodes will not receive."""
    with Redis(folder) as redis:
        for is_noticed in (False, True):
            with Node(binary, redis.url, **SETTINGS, FANWIRE_DRAIN_CLOSE_TIMEOUT="1s") as node:
                await acquainted(node)
                (client,) = await clients_of([node], 1, ["news"])
                redis.signal(signal.SIGSTOP)
                if is_noticed:
                    until("the node notices", lambda: not node.is_healthy())
                for number in range(20):
                    client.publish("news", number)
                if is_noticed:
                    await settle(lambda: len(client.received.get("news", ())) == 20, "they are delivered on the node")
                else:
                    await settle(lambda: node.metric("fanwire_redis_queue_bytes") > 0, "they are on their way")
                node.signal(signal.SIGTERM)
                began = time.monotonic()
                code = await aside(lambda: node.process.wait(timeout=10))
                assert code == 0, code
                redis.signal(signal.SIGCONT)
                told = [re.search(r"publications=(\d+)|\"publications\":(\d+)", line) for line in node.log if "other nodes" in line]
                assert any(it and "20" in it.groups() for it in told), (is_noticed, node.log[-6:])


def moved_by_hand(servers, slot, target, pause):
    """Moves a slot as redis-cli does, with time between the steps."""
    ids = [server.ask("CLUSTER", "MYID") for server in servers]
    shards = {row[0]: row for row in (line.split() for line in servers[0].ask("CLUSTER", "NODES").splitlines())}

    def owns(at):
        ranges = [it.split("-") for it in shards[ids[at]][8:] if not it.startswith("[")]
        return any(int(it[0]) <= slot <= int(it[-1]) for it in ranges)

    source = next(at for at in range(len(servers)) if owns(at))
    if source == target:
        return False
    servers[target].ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    servers[source].ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    time.sleep(pause)
    while keys := servers[source].ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        servers[source].ask("MIGRATE", "127.0.0.1", servers[target].port, "", 0, 5000, "KEYS", *keys)
        time.sleep(pause)
    for at in [target, source, *(it for it in range(len(servers)) if it not in (source, target))]:
        servers[at].ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    return True


@contextlib.contextmanager
def cluster(folder, *options, connect=(), kind=Redis):
    """Three masters, and their addresses."""
    common = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
    servers = [kind(folder, *common, *options) for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        addresses = [f"127.0.0.1:{server.tls_port if connect else server.port}" for server in servers]
        command = ["redis-cli", *connect, "--cluster", "create", *addresses, "--cluster-yes"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        until("the cluster is up", lambda: all("cluster_state:ok" in it.ask("CLUSTER", "INFO") for it in servers))
        yield servers, addresses


async def slots_that_move(binary, folder):
    """Slots of channels with subscribers move to another master of the cluster: nodes follow them, and nothing is lost."""
    with cluster(folder) as (servers, addresses):
        slot_of = lambda channel: servers[0].ask("CLUSTER", "KEYSLOT", f"fanwire:{{c:{channel}}}")
        # Where redis-cli begins.
        low = sorted((slot_of(name), name) for name in (f"hist:{it}" for it in range(2_000)))[0]
        channels = ("hist:1", "news", low[1])
        async with Scene.on(binary, [f"redis-cluster://{','.join(addresses)}"] * 2, channels) as scene:
            canary = servers[0].ask("CLUSTER", "KEYSLOT", "fanwire:{nodes}")
            for slot in (slot_of("hist:1"), slot_of("news"), canary):
                moves = 0
                for target in range(3):
                    moves += await aside(moved_by_hand, servers, slot, target, 0.2)
                    await asyncio.sleep(0.3)
                assert moves >= 2, "it has gone around"
                await scene.healthy()
                await scene.in_step()
            # The lowest ones, of the channel among them.
            ids = [server.ask("CLUSTER", "MYID") for server in servers]
            command = ["redis-cli", "--cluster", "reshard", addresses[0], "--cluster-from", ids[0], "--cluster-to", ids[1]]
            command += ["--cluster-slots", low[0] + 1, "--cluster-yes"]
            run = lambda: subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            await aside(run)
            subscribed = lambda: servers[1].ask("PUBSUB", "SHARDNUMSUB", f"fanwire:{{c:{low[1]}}}")[1]
            await settle(lambda: subscribed() == 2, "both nodes are subscribed at its new master", 5)
            await asyncio.sleep(0.5)
            # Without a history, what is sent to a slot on its way may be lost for other nodes.
            await scene.finish(news_lost_max=200)
            print(f"  news lost: {scene.lost()}, connections lost: {scene.sum('connections_lost_total'):.0f}")


def openssl(*words):
    subprocess.run(["openssl", *(str(word) for word in words)], check=True, capture_output=True)


def authority(folder, name):
    """A certificate authority: its key and certificate."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", 2, "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE", "-keyout", key, "-out", certificate)  # fmt: skip
    return key, certificate


def certificate(folder, name, issuer, names):
    """The options of a redis-server with a certificate for names."""
    key, request, signed = (folder / f"{name}.{it}" for it in ("key", "csr", "crt"))
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\n")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-CA", issuer[1], "-CAkey", issuer[0], "-days", 1, "-extfile", extensions, "-out", signed)
    files = ("--tls-cert-file", key.with_suffix(".crt"), "--tls-key-file", key, "--tls-ca-cert-file", issuer[1])
    return (*files, "--tls-auth-clients", "no", "--tls-replication", "yes")


class TlsRedis(Redis):
    """A redis-server with a port for TLS beside its own."""

    def __init__(self, folder, *options, **more):
        self.tls_port = free_port()
        super().__init__(folder, "--tls-port", str(self.tls_port), *options, **more)


def check_rejected(binary, url, reason, settings):
    """A node does not start, and says why."""
    command = [binary, "serve", "--dev", "--listen", "127.0.0.1:0", "--admin-listen", "none"]
    environment = {"FANWIRE_REDIS_URL": url, "FANWIRE_REDIS_TIMEOUT": "1s", **settings}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "cannot use Redis" in done.stderr and reason in done.stderr, done


async def redis_over_tls(binary, folder):
    """rediss and rediss-sentinel with an authority of one's own; a wrong authority or name ends the start."""
    folder = pathlib.Path(folder)
    issuer, other = authority(folder, "issuer"), authority(folder, "other")
    right = certificate(folder, "right", issuer, "IP:127.0.0.1")
    elsewhere = certificate(folder, "elsewhere", issuer, "DNS:elsewhere.example")
    roots = {"FANWIRE_REDIS_TLS_ROOTS": str(issuer[1])}
    with TlsRedis(folder, *right) as redis, TlsRedis(folder, *elsewhere) as wrong:
        async with Scene.on(binary, [f"rediss://127.0.0.1:{redis.tls_port}"] * 2, **roots) as scene:
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(1)
            await scene.finish(news_lost_max=200)
        for server, settings in ((redis, {"FANWIRE_REDIS_TLS_ROOTS": str(other[1])}), (redis, {}), (wrong, roots)):
            check_rejected(binary, f"rediss://127.0.0.1:{server.tls_port}", "certificate", settings)
        sentinel = TlsRedis(folder, *right, program="redis-sentinel")
        config = sentinel.folder / "sentinel.conf"
        words = [str(word) for word in sentinel.command[1:]]
        lines = [f"{name[2:]} {value or repr('')}" for name, value in zip(words[::2], words[1::2]) if name != "--save"]
        config.write_text("\n".join([*lines, f"sentinel monitor main 127.0.0.1 {redis.tls_port} 1"]) + "\n")
        sentinel.command = [sentinel.command[0], str(config)]
        with sentinel:
            url = f"rediss-sentinel://127.0.0.1:{sentinel.tls_port}/main"
            async with Scene.on(binary, [url] * 2, **roots) as scene:
                await asyncio.sleep(0.5)
                await scene.finish()


async def a_cluster_over_tls(binary, folder):
    """rediss-cluster with an authority of one's own; a wrong authority or password ends the start."""
    folder = pathlib.Path(folder)
    issuer, other = authority(folder, "issuer"), authority(folder, "other")
    options = certificate(folder, "right", issuer, "IP:127.0.0.1")
    options += ("--tls-cluster", "yes")
    tls = ("--tls", "--cacert", str(issuer[1]))
    with cluster(folder, *options, connect=tls, kind=TlsRedis) as (servers, addresses):
        url, roots = f"rediss-cluster://{','.join(addresses)}", {"FANWIRE_REDIS_TLS_ROOTS": str(issuer[1])}
        async with Scene.on(binary, [url] * 2, ("hist:1", "hist:2", "hist:3", "news"), **roots) as scene:
            await asyncio.sleep(0.5)
            await scene.finish()
        check_rejected(binary, url, "certificate", {"FANWIRE_REDIS_TLS_ROOTS": str(other[1])})
        for server in servers:
            server.ask("CONFIG", "SET", "requirepass", "right")
        check_rejected(binary, url, "NOAUTH", roots)
        check_rejected(binary, url, "WRONGPASS", {**roots, "FANWIRE_REDIS_PASSWORD": "wrong"})


class Network:
    """A network namespace, and a way to it on which packets can be lost. It has two addresses."""

    def __init__(self):
        if os.geteuid() != 0:
            raise NotPossible("a network namespace needs root")
        for program, package in (("ip", "iproute2"), ("nft", "nftables")):
            if not shutil.which(program):
                raise NotPossible(f"{program} is missing (Debian: {package})")
        self.name = f"fanwire-{os.getpid()}"
        number = os.getpid() % 10_000
        self.ends = f"fwa{number}", f"fwb{number}"
        start = f"10.213.{number % 250}"
        self.here, self.addresses = f"{start}.1", [f"{start}.2", f"{start}.3"]

    def __enter__(self):
        atexit.register(self.end)
        try:
            self.do("ip", "netns", "add", self.name)
            self.do("ip", "link", "add", self.ends[0], "type", "veth", "peer", "name", self.ends[1], "netns", self.name)
            self.do("ip", "addr", "add", f"{self.here}/29", "dev", self.ends[0])
            self.do("ip", "link", "set", self.ends[0], "up")
            for address in self.addresses:
                self.within("ip", "addr", "add", f"{address}/29", "dev", self.ends[1])
            for device in (self.ends[1], "lo"):
                self.within("ip", "link", "set", device, "up")
            self.lose("", [], [])
        except subprocess.CalledProcessError as error:
            self.end()
            raise NotPossible(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
        return self

    def do(self, *words, **more):
        return subprocess.run(words, check=True, capture_output=True, text=True, **more).stdout

    def within(self, *words, **more):
        return self.do("ip", "netns", "exec", self.name, *words, **more)

    def lose(self, condition, to, out_of):
        """Packets to and from some addresses of the namespace are lost from now on, under a condition."""
        rules = [f"add rule inet loss i ip daddr {it} {condition} counter drop" for it in to]
        rules += [f"add rule inet loss o ip saddr {it} {condition} counter drop" for it in out_of]
        text = [
            "add table inet loss",
            "delete table inet loss",
            "add table inet loss",
            "add chain inet loss i { type filter hook input priority 0; }",
            "add chain inet loss o { type filter hook output priority 0; }",
        ]
        self.within("nft", "-f", "-", input="\n".join([*text, *rules, ""]))

    def heal(self):
        """How many packets were lost in each direction."""
        text = self.within("nft", "list", "table", "inet", "loss")
        self.lose("", [], [])
        return [int(it) for it in re.findall(r"counter packets (\d+)", text)]

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Removes it all, also after a failure in between. The other end of the way goes with it."""
        for words in (("ip", "netns", "del", self.name), ("ip", "link", "del", self.ends[0])):
            subprocess.run(words, capture_output=True, check=False)
        atexit.unregister(self.end)


class FarRedis(Redis):
    """A redis-server in the namespace."""

    def __init__(self, folder, network, *options):
        super().__init__(folder, *options)
        self.host = network.addresses[0]
        at = self.command.index("--bind")
        self.command[at + 1 : at + 2] = [*network.addresses, "127.0.0.1"]
        self.command = ["ip", "netns", "exec", network.name, *self.command, "--protected-mode", "no"]


async def packets_are_lost(binary, folder):
    """Packets between nodes and Redis are lost, some of them, or all in one direction or both."""
    with Network() as network, FarRedis(folder, network) as redis:
        urls = [f"redis://{address}:{redis.port}" for address in network.addresses]
        one, both = network.addresses[:1], network.addresses
        async with Scene.on(binary, urls) as scene:
            for percent in (5, 20):
                network.lose(f"numgen random mod 100 < {percent}", both, both)
                await asyncio.sleep(20 if IS_LONG else 3)
                packets = network.heal()
                assert all(packets), packets
                print(f"  {percent} %: {packets} packets lost, {scene.sum('connections_lost_total'):.0f} connections so far", flush=True)
                await scene.healthy()
            for name, to, out_of in (("all", both, both), ("to Redis", one, []), ("from Redis", [], one)):
                network.lose("", to, out_of)
                cut = scene.nodes if len(to) == 2 else scene.nodes[:1]
                await scene.degraded(*cut)
                await asyncio.sleep(30 if IS_LONG else 5 if len(to) == 2 else 2)
                assert not any(node.is_healthy() for node in cut), f"{name}: it is degraded all the time"
                assert all(node.is_healthy() for node in scene.nodes if node not in cut), f"{name}: the other node is healthy"
                packets, began = network.heal(), time.monotonic()
                assert sum(packets) > 0, "packets were lost"
                await scene.healthy()
                print(f"  {name}: {packets} packets lost, healthy after {time.monotonic() - began:.1f} s", flush=True)
            await scene.finish(news_lost_max=10_000)
            print(f"  news lost: {scene.lost()} of {len(scene.expected())}", flush=True)


CASES = [
    packets_are_lost,
    slots_that_move,
    redis_over_tls,
    a_cluster_over_tls,
    redis_pauses,
    redis_becomes_a_replica,
    connections_are_killed,
    a_node_that_reads_too_slowly,
    redis_does_not_take_more,
    publishers_wait_for_redis,
    a_node_ends_while_redis_is_stopped,
]


if __name__ == "__main__":
    run_cases(CASES)

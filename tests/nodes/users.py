#!/usr/bin/env python3
"""Do several nodes know together where users stopped, what they want to be subscribed to, and how many sessions they have?

    tests/nodes/users.py FANWIRE [CASE…]

Each case starts its own redis-server and nodes. Exits with 1 at the first check that fails.
"""

import asyncio
import contextlib
import time

from harness import SECRET, Client, Delay, Node, Redis, run_cases, settle, settle_healthy, token

LEASE_S = 2
SETTINGS = {
    "FANWIRE_JWT_SECRET": SECRET,
    "FANWIRE_HISTORY": "hist:* messages=100",
    "FANWIRE_GATEWAY__OFFLINE_QUEUE": "true",
    "FANWIRE_GATEWAY__PERSISTENT_SUBSCRIPTIONS_MAX": "10",
    "FANWIRE_GATEWAY__TENANT_ISOLATION": "true",
    "FANWIRE_REDIS_NODE_LEASE": f"{LEASE_S}s",
}


def nodes_of(binary, redis, **settings):
    return Node(binary, redis.url, **{**SETTINGS, **settings})


async def healthy(*nodes):
    await settle(lambda: all(node.is_healthy() for node in nodes), "the nodes are healthy")


async def client(node, user, *channels, **claims):
    connected = await Client.connect(node, f"/ws?token={token(user, **claims)}")
    for channel in channels:
        await connected.subscribe(channel)
    return connected


async def publish(node, channel, *numbers):
    for number in numbers:
        node.publish(channel, number)


async def settle_received(one, channel, expected):
    await settle(lambda: len(one.received.get(channel, ())) >= len(expected), f"{channel} has {expected}")
    await asyncio.sleep(0.1)
    assert one.received.get(channel, []) == expected, one.received


def known(redis, user):
    answer = redis.ask("HGETALL", f"fanwire:{{u:gateway::{user}}}")
    fields = dict(zip(answer[::2], answer[1::2]))
    return {(it if isinstance(it, str) else it.decode()): value for it, value in fields.items()}


async def leave(redis, one, user):
    """Ends a session and waits until Redis knows of it."""
    before = known(redis, user)
    one.close()
    await settle(lambda: known(redis, user) != before, "Redis knows where the user stopped")


async def what_was_missed_on_another_node(binary, folder):
    """Who comes back to another node receives there what was missed, and nothing twice."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b, nodes_of(binary, redis) as c:
        await healthy(a, b, c)
        ann = await client(a, "ann", "hist:1", "hist:2")
        await publish(b, "hist:1", 1, 2, 3)
        await settle_received(ann, "hist:1", [1, 2, 3])
        await leave(redis, ann, "ann")
        await publish(c, "hist:1", 4, 5)
        await publish(c, "hist:2", 1)
        ann = await client(b, "ann", "hist:1", "hist:2")
        await settle_received(ann, "hist:1", [4, 5])
        await settle_received(ann, "hist:2", [1])
        # She is there: another device misses nothing.
        other = await client(c, "ann", "hist:1")
        await publish(a, "hist:1", 6)
        await settle_received(other, "hist:1", [6])
        other.close()
        await asyncio.sleep(0.2)
        await publish(a, "hist:1", 7)
        await settle_received(ann, "hist:1", [4, 5, 6, 7])
        await leave(redis, ann, "ann")
        await publish(a, "hist:1", 8)
        # Also on the node where she was first, which knows of an older place.
        ann = await client(a, "ann", "hist:1")
        await settle_received(ann, "hist:1", [8])
        # Who unsubscribes wants no more of it.
        ann.send("unsubscribe", channel="hist:1")
        await ann.expect("unsubscribed")
        await settle(lambda: "phist:1" not in known(redis, "ann"), "Redis has forgotten it")
        ann.close()
        await publish(a, "hist:1", 9)
        ann = await client(b, "ann", "hist:1")
        await publish(a, "hist:1", 10)
        await settle_received(ann, "hist:1", [10])
        # Users of tenants are others.
        stranger = await client(b, "ann", "hist:1", tenant_id="acme")
        await asyncio.sleep(0.1)
        assert stranger.received == {}


async def after_a_node_died(binary, folder):
    """Of a node that is killed it is not known how far its users had come: they receive what came since they subscribed."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        await publish(b, "hist:1", 0)
        ann = await client(a, "ann", "hist:1")
        await settle(lambda: "phist:1" in known(redis, "ann"), "Redis knows that she is there")
        await publish(b, "hist:1", 1, 2)
        await settle_received(ann, "hist:1", [1, 2])
        await asyncio.sleep(LEASE_S)
        a.process.kill()
        await publish(b, "hist:1", 3)
        await settle(lambda: b.metric("fanwire_redis_nodes") == 1, "the node is gone")
        ann = await client(b, "ann", "hist:1")
        await settle_received(ann, "hist:1", [1, 2, 3])


async def persistent_subscriptions(binary, folder):
    """What a user wants to be subscribed to again is restored on another node."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann")
        for channel in ("news", "hist:1"):
            await ann.subscribe(channel, persistent=True)
        other = await client(b, "ann")
        await settle(lambda: len([it for it in known(redis, "ann") if it[0] == "s"]) == 2, "Redis knows them")
        await other.subscribe("more", persistent=True)
        ann.send("unsubscribe", channel="news")
        await ann.expect("unsubscribed")
        await settle(lambda: {it for it in known(redis, "ann") if it[0] == "s"} == {"shist:1", "smore"}, "Redis knows all")
        for node in (a, b):
            again = await client(node, "ann")
            again.send("restore")
            assert (await again.expect("restored"))["data"]["restored"] == 2
            again.close()
        # A user of a tenant is another one.
        stranger = await client(b, "ann", tenant_id="acme")
        stranger.send("restore")
        assert (await stranger.expect("restored"))["data"]["restored"] == 0


# Until the end, so that none is closed before.
CLIENTS = []


async def is_admitted(node, user, **claims):
    one = await client(node, user, **claims)
    CLIENTS.append(one)
    one.send("ping")
    try:
        await one.expect("pong")
    except AssertionError:
        return None
    return one


async def limits_over_all_nodes(binary, folder):
    """A user and a tenant have as many sessions as they may on all nodes together."""
    limits = {"FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX": "2", "FANWIRE_GATEWAY__SESSIONS_PER_TENANT_MAX": "3"}
    with Redis(folder) as redis, nodes_of(binary, redis, **limits) as a, nodes_of(binary, redis, **limits) as b:
        await healthy(a, b)
        first, second = await is_admitted(a, "ann"), await is_admitted(b, "ann")
        assert first and second
        assert not await is_admitted(a, "ann") and not await is_admitted(b, "ann")
        assert await is_admitted(a, "bob"), "another user"
        # At once, in the place of one that has ended.
        for _ in range(5):
            first.close()
            end = time.monotonic() + 5
            while not (first := await is_admitted(b, "ann")):
                assert time.monotonic() < end, "there is room"
            assert not await is_admitted(a, "ann")
        # Many at once, on both nodes: no more than there is room for.
        many = await asyncio.gather(*(is_admitted((a, b)[index % 2], "cem") for index in range(20)))
        assert len([it for it in many if it]) == 2, many
        of_tenant = [await is_admitted((a, b)[index % 2], f"u{index}", tenant_id="acme") for index in range(5)]
        assert [bool(it) for it in of_tenant] == [True] * 3 + [False] * 2
        # What was rejected does not count for long.
        await asyncio.sleep(2.5)
        of_tenant[0].close()
        end = time.monotonic() + 5
        while not await is_admitted(b, "late", tenant_id="acme"):
            assert time.monotonic() < end, "there is room"
        # Those of a node that is killed count no more when its lease is over.
        assert await is_admitted(a, "dan") and await is_admitted(a, "dan") and not await is_admitted(b, "dan")
        a.process.kill()
        end = time.monotonic() + 3 * LEASE_S
        while not await is_admitted(b, "dan"):
            assert time.monotonic() < end, "its sessions are gone"


async def while_redis_is_away(binary, folder):
    """Users come and go without Redis, and what they did is known everywhere when it is back."""
    with Redis(folder, "--appendonly", "yes") as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann", "hist:1")
        await publish(b, "hist:1", 1)
        await settle_received(ann, "hist:1", [1])
        await settle(lambda: "phist:1" in known(redis, "ann"), "Redis knows her")
        redis.kill()
        await settle(lambda: not a.is_healthy(), "Redis is away")
        await ann.subscribe("news", persistent=True)
        ann.close()
        began = time.monotonic()
        bob = await client(a, "bob", "hist:1")
        assert time.monotonic() - began < 2, "nobody waits for Redis"
        redis.start()
        await healthy(a, b)
        await settle(lambda: "snews" in known(redis, "ann"), "it is made up for")
        await publish(a, "hist:1", 2)
        ann = await client(b, "ann", "hist:1")
        await settle_received(ann, "hist:1", [2])
        await settle_received(bob, "hist:1", [2])
        # Also what a node knows that ends in order.
        await publish(a, "hist:1", 3)
        b.process.terminate()
        assert b.process.wait() == 0
        await publish(a, "hist:1", 4)
        ann = await client(a, "ann", "hist:1")
        await settle(lambda: ann.received.get("hist:1", [])[-1:] == [4], "what was missed")
        assert ann.received["hist:1"] in ([4], [3, 4]), ann.received


async def who_returns_at_once(binary, folder):
    """Over a slow way to Redis, who comes back at once to the same node or another one misses nothing and receives nothing twice."""
    with Redis(folder) as redis:
        way = await Delay.begin(redis.port, 0.005)
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            far = f"redis://127.0.0.1:{way.port}"
            start = lambda url: stack.enter_context(Node(binary, url, **SETTINGS))
            a = await loop.run_in_executor(None, start, far)
            b = await loop.run_in_executor(None, start, redis.url)
            await settle_healthy(a, b)
            received, ann = [], await client(a, "ann", "hist:1")
            await settle(lambda: "phist:1" in known(redis, "ann"), "Redis knows that she is there")
            for number in range(20):
                if number % 2:
                    # The new session logs in, then the old one ends.
                    before, ann = ann, await client((a, b)[number % 4 // 2], "ann")
                    await before.leave()
                    await publish(b, "hist:1", number)
                else:
                    before = ann
                    await before.leave()
                    await publish(b, "hist:1", number)
                    ann = await client((b, a)[number % 4 // 2], "ann")
                await ann.subscribe("hist:1")
                await settle(lambda: number in ann.received.get("hist:1", []) + before.received.get("hist:1", []), f"{number} is there")
                await asyncio.sleep(0.15)
                received += before.received.pop("hist:1", [])
            received += ann.received["hist:1"]
            assert received == list(range(20)), received
        way.end()


async def counts_without_redis(binary, folder):
    """Sessions that begin or end while Redis is away, or before it loses its memory, count rightly afterwards."""
    limits = {"FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX": "2", "FANWIRE_GATEWAY__SESSIONS_PER_TENANT_MAX": "20"}
    with Redis(folder) as redis, nodes_of(binary, redis, **limits) as a, nodes_of(binary, redis, **limits) as b:
        await healthy(a, b)
        there = [await is_admitted(a, "ann"), await is_admitted(b, "ann"), await is_admitted(a, "bob"), await is_admitted(a, "bob")]
        assert all(there)
        redis.kill()
        await settle(lambda: not a.is_healthy() and not b.is_healthy(), "Redis is away")
        there[2].close()
        there[3].close()
        assert await is_admitted(a, "cem") and await is_admitted(a, "cem")
        redis.start()
        await healthy(a, b)
        await asyncio.sleep(0.5)
        assert not await is_admitted(a, "ann") and not await is_admitted(b, "ann"), "those before"
        assert not await is_admitted(b, "cem"), "those meanwhile"
        assert await is_admitted(b, "bob") and await is_admitted(b, "bob"), "those that have ended"
        # Who is rejected as a user takes no place from the tenant.
        assert await is_admitted(a, "dan", tenant_id="acme") and await is_admitted(b, "dan", tenant_id="acme")
        many = await asyncio.gather(*(is_admitted((a, b)[index % 2], "dan", tenant_id="acme") for index in range(60)))
        assert not any(many)
        for index in range(10):
            assert await is_admitted((a, b)[index % 2], f"u{index}", tenant_id="acme"), index


async def persistent_for_longer_than_they_are_remembered(binary, folder):
    """Persistent subscriptions stay while a session has them, however long, and for their time after that."""
    settings = {"FANWIRE_GATEWAY__PERSISTENT_SUBSCRIPTIONS_TTL": "2s", "FANWIRE_GATEWAY__OFFLINE_QUEUE": "false"}
    with Redis(folder) as redis, nodes_of(binary, redis, **settings) as a, nodes_of(binary, redis, **settings) as b:
        await healthy(a, b)

        async def restored(node):
            one = await client(node, "ann")
            one.send("restore")
            count = (await one.expect("restored"))["data"]["restored"]
            one.close()
            await asyncio.sleep(0.2)
            return count

        ann = await client(a, "ann")
        await ann.subscribe("news", persistent=True)
        await asyncio.sleep(3)
        ann.close()
        await asyncio.sleep(0.2)
        assert await restored(b) == 1 and await restored(a) == 1
        await asyncio.sleep(3)
        assert await restored(b) == 0 and await restored(a) == 0
        assert redis.ask("KEYS", "*u:gateway*") == []


async def active_jobs(client):
    client.send("get_active_jobs")
    message = await client.expect("job_updates")
    assert message["data"]["snapshot"], message
    return sorted(it["job_id"] for it in message["data"]["jobs"])


async def jobs_of_all_nodes(binary, folder):
    """The active jobs of assist are the same on all nodes, also on one where nobody was in their room."""
    with Redis(folder, "--appendonly", "yes") as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)

        def publish(node, job, status):
            data = {"job_id": job, "status": status}
            body = {"channel": "room:background_jobs", "type": "job_updates", "data": data}
            assert node.request("POST", "/api/publish", body)[0] == 200

        assistant = lambda node: Client.connect(node, f"/ws/connect?token={token('root', roles=['admin'])}")
        for job in ("1", "2", "3"):
            publish(a, job, "running")
        publish(b, "2", "completed")
        for node in (b, a):
            assert await active_jobs(await assistant(node)) == ["1", "3"]
        publish(a, "4", "running")
        assert await active_jobs(await assistant(b)) == ["1", "3", "4"]
        redis.kill()
        await settle(lambda: not a.is_healthy() and not b.is_healthy(), "Redis is away")
        redis.start()
        await healthy(a, b)
        publish(b, "1", "failed")
        assert await active_jobs(await assistant(a)) == ["3", "4"]
        with nodes_of(binary, redis) as late:
            await healthy(late)
            assert await active_jobs(await assistant(late)) == ["3", "4"]


async def a_job_that_is_over_stays_so(binary, folder):
    """A publication of a job is sent again after a lost answer: a job that ended meanwhile does not become active again."""
    with Redis(folder) as redis:
        way = await Delay.begin(redis.port, 0)
        loop = asyncio.get_running_loop()
        aside = lambda function, *arguments: loop.run_in_executor(None, function, *arguments)
        # Without a history, and with one: two scripts.
        for history in ({}, {"FANWIRE_HISTORY": "room:* messages=100"}):
            with contextlib.ExitStack() as stack:
                start = lambda url: stack.enter_context(Node(binary, url, **{**SETTINGS, **history}))
                a = await aside(start, f"redis://127.0.0.1:{way.port}")
                b = await aside(start, redis.url)
                await settle_healthy(a, b)

                def publish(node, job, status):
                    data = {"job_id": job, "status": status}
                    body = {"channel": "room:background_jobs", "type": "job_updates", "data": data}
                    assert node.request("POST", "/api/publish", body)[0] == 200

                in_redis = lambda: redis.ask("HKEYS", "fanwire:{c:room:background_jobs}:retained")
                for number in range(3):
                    job = f"{len(history)}-{number}"
                    way.loses_answers = True
                    publishing = aside(publish, a, job, "running")
                    await settle(lambda: in_redis() == [job], "Redis has it")
                    await aside(publish, b, job, "completed")
                    assert in_redis() == []
                    way.cut()
                    way.loses_answers = False
                    await publishing
                    sent = a.metric("fanwire_redis_publications_sent_total")
                    await settle_healthy(a, b)
                    await settle(lambda: a.metric("fanwire_redis_publications_sent_total") > sent, "it is sent again", 10)
                    assert in_redis() == [], f"{in_redis()} with {history}"
                    # What is new counts.
                    await aside(publish, a, "last", "running")
                    assert in_redis() == ["last"]
                    await aside(publish, b, "last", "completed")
                    await settle(lambda: in_redis() == [], "it is over")
        way.end()


if __name__ == "__main__":
    run_cases(
        [
            what_was_missed_on_another_node,
            after_a_node_died,
            persistent_subscriptions,
            limits_over_all_nodes,
            while_redis_is_away,
            jobs_of_all_nodes,
            a_job_that_is_over_stays_so,
            who_returns_at_once,
            counts_without_redis,
            persistent_for_longer_than_they_are_remembered,
        ]
    )

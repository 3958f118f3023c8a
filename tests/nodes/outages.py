#!/usr/bin/env python3
"""Do nodes know together of users when a node or Redis was away, or stored nothing?

    tests/nodes/outages.py FANWIRE [CASE…]

Each case starts its own redis-server and nodes. Exits with 1 at the first check that fails.
"""

import asyncio
import contextlib
import signal

from harness import Redis, run_cases, settle
from users import LEASE_S, client, healthy, is_admitted, known, leave, nodes_of, publish, settle_received

OFFLINE_QUEUE_TTL_S = 2
# How Redis stores nothing, and how it does again.
REFUSALS = (("maxmemory", "1", "0"), ("min-replicas-to-write", "1", "0"))


async def who_comes_back_from_a_killed_node_at_once(binary, folder):
    """Nobody waits for the end of the lease of a node that is gone to receive what was published."""
    with Redis(folder) as redis:
        for wait_s in (0, 0.3, 1):
            with nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
                await healthy(a, b)
                channel = f"hist:{wait_s}"
                before = await client(a, "ann", channel)
                await settle(lambda: f"p{channel}" in known(redis, "ann"), "Redis knows that she is there")
                a.process.kill()
                before.close()
                a.process.wait()
                await publish(b, channel, *range(10))
                await asyncio.sleep(wait_s)
                ann = await client(b, "ann", channel)
                await settle_received(ann, channel, list(range(10)))
                await leave(redis, ann, "ann")


async def changes_while_nothing_is_stored(binary, folder):
    """Where users stop while Redis stores nothing is told when it stores again, and so is how many sessions they have."""
    limit = {"FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX": "2"}
    with Redis(folder) as redis, nodes_of(binary, redis, **limit) as a, nodes_of(binary, redis, **limit) as b:
        await healthy(a, b)
        for name, on, off in REFUSALS:
            user, channel = f"ann-{name}", f"hist:{name}"
            first, second = await client(a, user, channel), await is_admitted(a, user)
            assert second
            await settle(lambda: f"p{channel}" in known(redis, user), "Redis knows that she is there")
            assert not await is_admitted(b, user)
            redis.ask("CONFIG", "SET", name, on)
            await asyncio.sleep(0.2)
            late = await is_admitted(a, f"late-{name}")
            assert late
            first.close()
            second.close()
            await asyncio.sleep(0.5)
            redis.ask("CONFIG", "SET", name, off)
            await settle(lambda: not any(it[0] in "ln" for it in known(redis, user)), "Redis knows that she is gone")
            await settle(lambda: "1" in [value for it, value in known(redis, f"late-{name}").items() if it[0] == "n"], "who came is counted")
            await healthy(a, b)
            for number in range(3):
                await publish(a, channel, number)
                back = await client(b, user, channel)
                await settle_received(back, channel, [number])
                await leave(redis, back, user)
            late.close()


async def a_node_that_was_taken_for_dead(binary, folder):
    """Who has a session on a node that lost its lease for a moment still misses nothing: another device receives nothing again."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        desk = await client(a, "ann", "hist:1")
        await settle(lambda: "phist:1" in known(redis, "ann"), "Redis knows that she is there")
        a.signal(signal.SIGSTOP)
        await settle(lambda: b.metric("fanwire_redis_nodes") == 1, "the node is gone")
        phone = await client(b, "ann", "hist:1")
        await settle(lambda: len([it for it in known(redis, "ann") if it[0] == "l"]) == 1, "the other session is forgotten")
        a.signal(signal.SIGCONT)
        await settle(lambda: len([it for it in known(redis, "ann") if it[0] == "l"]) == 2, "the other session is told again")
        await leave(redis, phone, "ann")
        await publish(b, "hist:1", 1, 2, 3)
        await settle_received(desk, "hist:1", [1, 2, 3])
        phone = await client(b, "ann", "hist:1")
        await publish(b, "hist:1", 4)
        await settle_received(phone, "hist:1", [4])


async def a_tenant_that_many_join_at_once(binary, folder):
    """Sessions that are counted and wait are not forgotten when those of their tenant are counted again."""
    limit = {"FANWIRE_GATEWAY__SESSIONS_PER_TENANT_MAX": "20"}
    with Redis(folder) as redis, nodes_of(binary, redis, **limit) as a, nodes_of(binary, redis, **limit) as b:
        await healthy(a, b)
        for number in range(3):
            tenant = f"acme{number}"
            here = [await client(a, f"user{it}", "hist:1", tenant_id=tenant) for it in range(10)]
            key = f"fanwire:{{t:gateway:{tenant}}}"
            await settle(lambda key=key: "10" in (redis.ask("HVALS", key) or []), "those here are counted")
            # Sessions on another node: all are asked about twice.
            there = await asyncio.gather(*(client(b, f"user{it % 10}", tenant_id=tenant) for it in range(40)), return_exceptions=True)
            there = [it for it in there if not isinstance(it, BaseException)]
            count = len(here) + sum(await asyncio.gather(*map(answers, there)))
            assert count == 20, count
            for one in here + there:
                one.close()


async def answers(one):
    """Whether a session is let in."""
    with contextlib.suppress(AssertionError, ConnectionError, asyncio.IncompleteReadError):
        one.send("ping")
        await one.expect("pong")
        return True
    return False


async def what_is_remembered_of_users_who_are_counted(binary, folder):
    """Redis keeps it no longer than the offline queue does, though their sessions were counted."""
    settings = {"FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX": "5", "FANWIRE_GATEWAY__OFFLINE_QUEUE_TTL": f"{OFFLINE_QUEUE_TTL_S}s"}
    with Redis(folder) as redis, nodes_of(binary, redis, **settings) as a:
        await healthy(a)
        users = [await client(a, f"user{number}", "hist:1") for number in range(50)]
        await settle(lambda: len(redis.ask("KEYS", "*{u:*")) == 50, "Redis knows them")
        for one in users:
            one.close()
        await settle(lambda: all(redis.ask("PTTL", it) <= 1000 * OFFLINE_QUEUE_TTL_S for it in redis.ask("KEYS", "*{u:*")), "it is to be forgotten")
        await settle(lambda: not redis.ask("KEYS", "*{u:*"), "all is forgotten")


CASES = [
    who_comes_back_from_a_killed_node_at_once,
    changes_while_nothing_is_stored,
    a_node_that_was_taken_for_dead,
    a_tenant_that_many_join_at_once,
    what_is_remembered_of_users_who_are_counted,
]

if __name__ == "__main__":
    run_cases(CASES)

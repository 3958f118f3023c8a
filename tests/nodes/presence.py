#!/usr/bin/env python3
"""Do several nodes know who is on a channel of all of them, who comes and goes, and who is gone with a node?

    tests/nodes/presence.py FANWIRE [CASE…]

Each case starts its own redis-server and nodes. Exits with 1 at the first check that fails.
"""

import asyncio
import contextlib
import json
import signal
import time

from harness import SECRET, Client, Delay, Node, Redis, run_cases, settle, settle_healthy, token

LEASE_S = 2
SETTINGS = {
    "FANWIRE_JWT_SECRET": SECRET,
    "FANWIRE_PRESENCE": "team:* events, list:* members",
    "FANWIRE_PRESENCE_INTERVAL": "100ms",
    "FANWIRE_REDIS_NODE_LEASE": f"{LEASE_S}s",
    "FANWIRE_REDIS_LEAVE_DELAY": "1s",
}


def nodes_of(binary, redis, **settings):
    return Node(binary, redis.url, **SETTINGS, **settings)


async def healthy(*nodes):
    await settle(lambda: all(node.is_healthy() for node in nodes), "the nodes are healthy")


async def client(node, user, *channels, path="/ws"):
    connected = await Client.connect(node, f"{path}?token={token(user)}")
    for channel in channels:
        await connected.subscribe(channel)
    return connected


async def members(asker, channel):
    asker.send("presence", channel=channel)
    answer = (await asker.expect("presence"))["data"]
    return {it["user_id"]: it["sessions"] for it in answer["members"]}, answer["sessions"]


def members_by_http(node, channel):
    status, answer = node.request("GET", f"/api/channels/{channel}/presence")
    assert status == 200, answer
    return {it["user"]: it["sessions"] for it in json.loads(answer)["members"]}


async def settle_members(asker, channel, expected):
    end = time.monotonic() + 20
    while (seen := await members(asker, channel))[0] != expected:
        assert time.monotonic() < end, (seen, expected)
        await asyncio.sleep(0.05)
    assert seen[1] == sum(expected.values()), seen


async def settle_seen(asker, channel, user):
    end = time.monotonic() + 20
    while user not in (await members(asker, channel))[0]:
        assert time.monotonic() < end, user
        await asyncio.sleep(0.01)


def told(listener):
    """Users by how often it was told that they have joined, and left."""
    joined, left = {}, {}
    for event in listener.presence_events:
        for names, counts in ((event["joined"], joined), (event["left"], left)):
            for name in names:
                counts[name] = counts.get(name, 0) + 1
    return joined, left


async def members_of_all_nodes(binary, folder):
    """Who is there is the same on all nodes, and each subscriber is told once of who comes and goes."""
    with Redis(folder) as redis, nodes_of(binary, redis, FANWIRE_SHARDS="2") as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann", "team:1")
        await settle(lambda: len(redis.ask("KEYS", "*presence*")) == 1, "the nodes know of ann")
        bob = await client(b, "bob", "team:1")
        for one in (ann, bob):
            await settle_members(one, "team:1", {"ann": 1, "bob": 1})
        # Who came first is told of the second, and nobody of who was there before.
        await settle(lambda: told(ann)[0] == {"ann": 1, "bob": 1}, "ann is told")
        assert told(bob)[0] == {"bob": 1}, bob.presence_events
        # The same user on another node is nothing new.
        ann_too = await client(b, "ann", "team:1")
        await settle_members(ann, "team:1", {"ann": 2, "bob": 1})
        ann.close()
        await settle_members(bob, "team:1", {"ann": 1, "bob": 1})
        cem = await client(a, "cem", "team:1")
        await settle(lambda: told(bob)[0] == {"bob": 1, "cem": 1} and told(bob)[1] == {}, "bob is told of cem only")
        ann_too.close()
        await settle(lambda: told(cem)[1] == {"ann": 1} and told(bob)[1] == {"ann": 1}, "ann has left")
        assert bob.presence_events[-1]["users"] == 2, bob.presence_events
        # Fifty who come and go together, on both nodes.
        many = [await client((a, b)[index % 2], f"u{index}", "team:1") for index in range(50)]
        expected = {**{f"u{index}": 1 for index in range(50)}, "bob": 1, "cem": 1}
        for one in (bob, cem):
            await settle_members(one, "team:1", expected)
            await settle(lambda: sum(count for name, count in told(one)[0].items() if name[0] == "u") == 50, "all are told")
        for one in many:
            one.close()
        for one in (bob, cem):
            await settle_members(one, "team:1", {"bob": 1, "cem": 1})
            await settle(lambda: len(told(one)[1]) == 51 and set(told(one)[1].values()) == {1}, "each once")


async def who_asks_from_outside(binary, folder):
    """A node without subscribers of a channel knows who is there when it is asked; so do channels without events."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann", "team:1", "list:1")
        await settle(lambda: len(redis.ask("KEYS", "*presence*")) == 2, "the nodes know of ann")
        stranger = await client(b, "zoe")
        assert members_by_http(b, "team:1") == {"ann": 1}
        assert (await members(stranger, "list:1"))[0] == {"ann": 1}
        assert json.loads(b.request("GET", "/api/channels/list:1")[1])["presence"] == {"users": 1, "sessions": 1}
        # Later, when the node has left the channels again.
        followers = lambda channel: redis.ask("PUBSUB", "NUMSUB", f"fanwire:{{c:{channel}}}")[1]
        await settle(lambda: followers("team:1") == followers("list:1") == 1, "the node leaves them")
        ann.close()
        await settle(lambda: members_by_http(a, "team:1") == {}, "ann has left")
        await settle(lambda: redis.ask("KEYS", "*presence*") == [], "nothing stays in Redis")
        assert members_by_http(b, "team:1") == {}
        assert members_by_http(b, "list:1") == {}


async def a_node_killed(binary, folder):
    """The users of a node that is killed vanish within the lease; those of one that stands still do too, and return."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b, nodes_of(binary, redis) as c:
        await healthy(a, b, c)
        ann = await client(a, "ann", "team:1")
        bobs = [await client(b, "bob", "team:1") for _ in range(3)]
        cem = await client(c, "cem", "team:1")
        await settle_members(ann, "team:1", {"ann": 1, "bob": 3, "cem": 1})
        # The first lease protects those who come back.
        await asyncio.sleep(LEASE_S)
        assert a.metric("fanwire_redis_nodes") == 3
        began = time.monotonic()
        b.process.kill()
        await settle_members(ann, "team:1", {"ann": 1, "cem": 1})
        took = time.monotonic() - began
        assert took < LEASE_S + 0.5, took
        await settle(lambda: told(ann)[1] == {"bob": 1} and told(cem)[1] == {"bob": 1}, "bob has left")
        await settle(lambda: a.metric("fanwire_redis_nodes") == 2, "two nodes are left")
        # Who comes later does not see a ghost.
        assert members_by_http(c, "team:1") == {"ann": 1, "cem": 1}
        with nodes_of(binary, redis) as d:
            await healthy(d)
            assert members_by_http(d, "team:1") == {"ann": 1, "cem": 1}
        c.process.send_signal(signal.SIGSTOP)
        await settle_members(ann, "team:1", {"ann": 1})
        c.process.send_signal(signal.SIGCONT)
        await settle_members(ann, "team:1", {"ann": 1, "cem": 1})
        await settle(lambda: told(ann)[1]["cem"] == 1 and told(ann)[0]["cem"] == 2, "ann is told that cem is back")
        for one in bobs:
            one.close()


async def a_node_that_ends(binary, folder):
    """The users of a node that ends are gone at once, and no key of it stays."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann", "team:1")
        await client(b, "bob", "team:1")
        await settle_members(ann, "team:1", {"ann": 1, "bob": 1})
        await settle(lambda: told(ann)[0] == {"ann": 1, "bob": 1}, "ann is told that bob is there")
        began = time.monotonic()
        b.process.terminate()
        await settle(lambda: told(ann)[1] == {"bob": 1}, "bob has left")
        assert b.process.wait() == 0
        assert time.monotonic() - began < LEASE_S, "it did not wait for the lease"
        assert len(redis.ask("KEYS", "*presence*")) == 1


async def redis_restarts(binary, folder):
    """Redis that comes back without what it knew: nobody is told that others have left, and who went meanwhile is gone."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann = await client(a, "ann", "team:1")
        bob = await client(b, "bob", "team:1")
        dan = await client(b, "dan", "team:1")
        await settle_members(ann, "team:1", {"ann": 1, "bob": 1, "dan": 1})
        await asyncio.sleep(LEASE_S)
        redis.kill()
        await settle(lambda: not a.is_healthy() and not b.is_healthy(), "Redis is away")
        dan.close()
        assert members_by_http(a, "team:1") == {"ann": 1, "bob": 1, "dan": 1}, "what is known stays"
        redis.start()
        await healthy(a, b)
        for one in (ann, bob):
            await settle_members(one, "team:1", {"ann": 1, "bob": 1})
        await settle(lambda: told(ann)[1] == {"dan": 1}, "ann is told of dan")
        await asyncio.sleep(LEASE_S + 0.5)
        assert told(ann) == ({"ann": 1, "bob": 1, "dan": 1}, {"dan": 1}), ann.presence_events
        assert told(bob)[1] == {"dan": 1}, bob.presence_events


async def a_leave_that_is_lost(binary, folder):
    """Connections are lost while it is told who has left: nobody stays as a ghost."""
    with Redis(folder) as redis:
        way = await Delay.begin(redis.port, 0.02)
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            start = lambda url: stack.enter_context(Node(binary, url, **SETTINGS))
            a = await loop.run_in_executor(None, start, f"redis://127.0.0.1:{way.port}")
            b = await loop.run_in_executor(None, start, redis.url)
            await settle_healthy(a, b)
            watcher = await client(b, "eve", *(f"team:{index}" for index in range(8)))
            for index in range(8):
                user = await client(a, f"u{index}", f"team:{index}")
                await settle_members(watcher, f"team:{index}", {"eve": 1, f"u{index}": 1})
                user.close()
                await asyncio.sleep(0.005 * (index + 1))
                way.cut()
                await settle_healthy(a)
            for index in range(8):
                await settle_members(watcher, f"team:{index}", {"eve": 1})
        way.end()


async def redis_is_flushed(binary, folder):
    """FLUSHALL behind the nodes' backs: nobody is told that others have left, and what was lost is told again."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        ann, bob = await client(a, "ann", "team:1"), await client(b, "bob", "team:1")
        for one in (ann, bob):
            await settle_members(one, "team:1", {"ann": 1, "bob": 1})
        await asyncio.sleep(LEASE_S)
        for _ in range(3):
            redis.ask("FLUSHALL")
            await settle(lambda: len(redis.ask("KEYS", "*presence*")) == 2, "it is told again", 5)
            await asyncio.sleep(0.5)
        for one in (ann, bob):
            await settle_members(one, "team:1", {"ann": 1, "bob": 1})
            assert told(one)[1] == {}, one.presence_events


async def redis_is_full(binary, folder):
    """Redis is out of memory for longer than the lease: nobody is told that others have left; a node that dies is noticed later."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b, nodes_of(binary, redis) as c:
        await healthy(a, b, c)
        ann, bob = await client(a, "ann", "team:1"), await client(b, "bob", "team:1")
        cem = await client(c, "cem", "team:1")
        everybody = {"ann": 1, "bob": 1, "cem": 1}
        passing = [await client(node, f"p{index}", "team:1") for index, node in enumerate((a, b))]
        for one in (ann, bob):
            await settle_members(one, "team:1", {**everybody, "p0": 1, "p1": 1})
        await asyncio.sleep(LEASE_S)
        left = lambda one: set(told(one)[1]) - {"p0", "p1"}
        redis.ask("CONFIG", "SET", "maxmemory", 1)
        await asyncio.sleep(1)
        # Changes that Redis does not take hold up what else is told.
        for one in passing:
            one.close()
        end = time.monotonic() + 4 * LEASE_S
        while time.monotonic() < end:
            for one in (ann, bob):
                assert not left(one), f"told while Redis is full: {one.presence_events}"
            await asyncio.sleep(0.05)
        redis.ask("CONFIG", "SET", "maxmemory", 0)
        await healthy(a, b, c)
        for one in (ann, bob):
            await settle_members(one, "team:1", everybody)
        await asyncio.sleep(2 * LEASE_S)
        for one in (ann, bob):
            await settle_members(one, "team:1", everybody)
            assert not left(one), f"told after Redis was full: {one.presence_events}"
        c.process.kill()
        for one in (ann, bob):
            await settle(lambda: left(one) == {"cem"}, "cem has left")
            await settle_members(one, "team:1", {"ann": 1, "bob": 1})


async def damaged_messages(binary, folder):
    """What is no presence is counted and changes nothing."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a:
        await healthy(a)
        ann = await client(a, "ann", "team:1")
        texts = ["fwp1 ", "fwp1 x c {}", "fwp1 00000000000000aa c {\"sessions\":1}", "fwp1 00000000000000aa a " + "[" * 100_000]
        for text in texts:
            redis.ask("PUBLISH", "fanwire:{c:team:1}", text)
        await settle(lambda: a.metric("fanwire_redis_malformed_total") == len(texts), "they are counted")
        huge = 'fwp1 00000000000000aa c {"sessions":18446744073709551615,"users":[["eve",4294967295]]}'
        redis.ask("PUBLISH", "fanwire:{c:team:1}", huge)
        await settle_seen(ann, "team:1", "eve")
        # A node that nobody knows: it is gone with the next look.
        redis.ask("PUBLISH", "fanwire:{c:team:1}", 'fwp1 00000000000000aa c {"sessions":9,"users":[["eve",7],["eve",8],["",1]]}')
        await asyncio.sleep(LEASE_S * 1.5)
        await settle_members(ann, "team:1", {"ann": 1})
        assert a.is_healthy()


async def users_online(binary, folder):
    """The admins of assist are told who is online on all nodes."""
    with Redis(folder) as redis, nodes_of(binary, redis) as a, nodes_of(binary, redis) as b:
        await healthy(a, b)
        admin = await Client.connect(a, f"/ws/connect?token={token('root', roles=['admin'])}")
        admin.activity = []
        handle = admin.handle

        def note(payload):
            message = json.loads(payload)
            if message.get("type") == "user_activity":
                data = message.get("data", message)
                admin.activity.append((data["event"], data["user_id"]))
            handle(payload)

        admin.handle = note
        await asyncio.sleep(0.5)
        bob = await Client.connect(b, f"/ws/connect?token={token('bob')}")
        await settle(lambda: ("connected", "bob") in admin.activity, "bob is online")
        again = await Client.connect(a, f"/ws/connect?token={token('bob')}")
        bob.close()
        await asyncio.sleep(0.5)
        assert admin.activity.count(("connected", "bob")) == 1 and ("disconnected", "bob") not in admin.activity
        again.close()
        await settle(lambda: ("disconnected", "bob") in admin.activity, "bob is offline")


if __name__ == "__main__":
    run_cases(
        [
            members_of_all_nodes,
            who_asks_from_outside,
            a_node_killed,
            a_node_that_ends,
            redis_restarts,
            redis_is_full,
            damaged_messages,
            a_leave_that_is_lost,
            redis_is_flushed,
            users_online,
        ]
    )

#!/usr/bin/env python3
"""Is what is asked of one node, and done on one, asked of and done on all?

    tests/nodes/admin.py FANWIRE [CASE…]

Needs redis-server and redis-cli (Debian: `redis-server`). Each case starts its own Redis and nodes.
Exits with 1 at the first check that fails.
"""

import contextlib
import json
import signal
import subprocess
import time
import urllib.parse

from harness import Client, Node, Redis, run_cases, settle, until

TIMEOUT_S = 1
SETTINGS = {
    "FANWIRE_HISTORY": "hist:* messages=1000",
    "FANWIRE_REDIS_TIMEOUT": f"{TIMEOUT_S}s",
    "FANWIRE_STATIC_TOKENS": "ann=the-token-of-ann,bob=the-token-of-bob",
}
ANN, BOB = "/ws?token=the-token-of-ann", "/ws?token=the-token-of-bob"


def nodes_of(stack, binary, url, count):
    nodes = [stack.enter_context(Node(binary, url, **SETTINGS)) for _ in range(count)]
    for node in nodes:
        until("the node is healthy", node.is_healthy)
    # Each knows all others when all have sent a message to all.
    until("all nodes answer", lambda: all(ask(node, "/api/channels")["is_complete"] for node in nodes))
    return nodes


def ask(node, path, method="GET", body=None, status=200):
    was, answer = node.request(method, path, body)
    assert was == status, (method, path, was, answer)
    return json.loads(answer)


def quoted(text):
    return urllib.parse.quote(text, safe="")


def connections(node, **query):
    """All sessions, page by page."""
    found, after = [], {}
    while True:
        page = ask(node, "/api/connections?" + urllib.parse.urlencode({**query, **after}))
        assert page["is_complete"], page
        assert len(page["connections"]) <= int(query.get("limit", 100))
        found += page["connections"]
        if "next" not in page:
            return found
        assert page["next"] == page["connections"][-1]["id"], page
        after = {"after": page["next"]}


def history(node, channel):
    page = ask(node, f"/api/channels/{quoted(channel)}/history?limit=1000")
    return [it["data"] for it in page["publications"]]


async def sessions_on_three_nodes(binary, folder):
    """Sessions are listed, shown and changed, and subscribers counted, whichever node is asked."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        nodes = nodes_of(stack, binary, redis.url, 3)
        clients = [await Client.connect(nodes[index % 3], ANN if index < 4 else BOB) for index in range(11)]
        for index, client in enumerate(clients):
            await client.subscribe("news")
            if index % 2:
                await client.subscribe(f"room:{index % 3}")
        by_port = {client.port: client for client in clients}
        of = lambda it: by_port[int(it["address"].rsplit(":", 1)[1])]
        for limit in (1, 2, 5, 11, 100):
            orders = []
            for node in nodes:
                found = connections(node, limit=limit)
                orders.append([it["id"] for it in found])
                assert {of(it) for it in found} == set(clients) and len(found) == len(clients), (limit, found)
            assert orders[0] == orders[1] == orders[2], (limit, orders)
            assert orders[0] == sorted(orders[0], key=lambda id: (id[:12], id[18:])), (limit, orders)
        found = connections(nodes[1], user="ann", limit=3)
        assert {of(it) for it in found} == set(clients[:4]), found
        found = connections(nodes[2], channel="room:1", limit=1)
        assert {of(it) for it in found} == {clients[1], clients[7]}, found
        # One session, from a node that it is not on.
        other = {it["id"]: it for it in connections(nodes[0])}
        session = next(id for id, it in other.items() if of(it) is clients[4])
        for node in nodes:
            assert ask(node, f"/admin/connections/{session}")["user_id"] == "bob"
        connection = quoted(other[session]["connection_id"])
        assert ask(nodes[2], f"/admin/connections/{connection}")["id"] == session
        path = f"/admin/connections/{session}/subscriptions"
        assert ask(nodes[0], path, "POST", {"channel": "extra"})["status"] == "subscribed"
        assert ask(nodes[2], "/api/channels/extra")["subscribers"] == 1
        nodes[2].publish("extra", 1)
        await settle(lambda: clients[4].received.get("extra") == [1], "it is subscribed")
        assert ask(nodes[2], f"{path}/extra", "DELETE")["status"] == "unsubscribed"
        assert ask(nodes[0], "/api/channels/extra")["subscribers"] == 0
        body = {"type": "hello", "data": {"a": 1}}
        assert ask(nodes[2], f"/api/connections/{session}/messages", "POST", body)["status"] == "sent"
        assert (await clients[4].expect("hello"))["data"] == {"a": 1}
        assert ask(nodes[0], f"/admin/connections/{session}", "DELETE")["status"] == "disconnected"
        await settle(lambda: clients[4].is_closed, "it is closed")
        assert not any(it.is_closed for index, it in enumerate(clients) if index != 4), "and no other one"
        # The same place on another node, or on none.
        for unknown in (session, session[8:], "00000001" + session[8:], "1.2.3.4:5:6.0"):
            for method in ("GET", "DELETE"):
                ask(nodes[0], f"/admin/connections/{quoted(unknown)}", method, status=404)
        # Subscribers of all nodes, in pages.
        expected = {"news": 10, "room:0": 2, "room:1": 2, "room:2": 1}
        for node in nodes:
            for limit in (1, 2, 3, 100):
                counts, after = {}, ""
                while True:
                    page = ask(node, f"/api/channels?limit={limit}{after}")
                    assert page["is_complete"] and len(page["channels"]) <= limit, page
                    counts.update({it["name"]: it["subscribers"] for it in page["channels"]})
                    if "next" not in page:
                        break
                    after = f"&after={quoted(page['next'])}"
                assert counts == expected, (limit, counts)
            assert ask(node, "/api/channels/news")["subscribers"] == 10
        answer = ask(nodes[2], "/admin/users/ann/connections", "DELETE")
        assert answer == {"disconnected": 4, "is_complete": True}, answer
        await settle(lambda: all(it.is_closed for it in clients[:5]), "they are closed")
        assert not any(it.is_closed for it in clients[5:])
        assert sum(node.metric("fanwire_redis_malformed_total") for node in nodes) == 0


async def a_history_is_deleted(binary, folder):
    """In Redis and on all nodes; offsets go on, and who recovers is told."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        a, b, c = nodes_of(stack, binary, redis.url, 3)
        subscribers = [await Client.connect(node) for node in (a, b)]
        for client in subscribers:
            await client.subscribe("hist:1")
            await client.subscribe("hist:2")
        for number in range(10):
            a.publish("hist:1", number)
            b.publish("hist:2", number)
        await settle(lambda: all(len(it.received.get("hist:1", ())) == 10 for it in subscribers), "they arrive")
        before = subscribers[0].positions[4]
        assert history(a, "hist:1") == history(b, "hist:1") == history(c, "hist:1") == list(range(10))
        answer = ask(a, "/api/channels/hist%3A1/history", "DELETE")
        assert answer == {"status": "deleted", "is_complete": True}, answer
        for node in (a, b, c):
            assert history(node, "hist:1") == [] and history(node, "hist:2") == list(range(10))
        assert redis.ask("EXISTS", "fanwire:{c:hist:1}:history") == 0
        for node in (a, b, c):
            returning = await Client.connect(node)
            assert (await returning.subscribe("hist:1", recover=before))["recovered"] is False
        b.publish("hist:1", 10)
        await settle(lambda: all(it.received["hist:1"] == list(range(11)) for it in subscribers), "it goes on")
        epoch, offset = subscribers[0].positions[-1].split("-")
        assert int(offset, 16) == 11 and epoch != before.split("-")[0], subscribers[0].positions
        for node in (a, b, c):
            assert history(node, "hist:1") == [10]
            returning = await Client.connect(node)
            answer = await returning.subscribe("hist:1", recover=f"{epoch}-{10:013x}")
            assert answer["recovered"], answer
            await settle(lambda: returning.received.get("hist:1") == [10], "it recovers")
        ask(a, "/api/channels/news/history", "DELETE", status=404)


async def what_is_for_a_user_is_deleted(binary, folder):
    """In the histories of Redis and of all nodes; all else stays, and is recovered."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        a, b = nodes_of(stack, binary, redis.url, 2)
        client = await Client.connect(b)
        await client.subscribe("hist:1")
        count = 120
        for number in range(count):
            a.publish("hist:1", number, **({"user": "ann"} if number % 3 == 1 else {}))
            a.publish("hist:quiet", number, **({"user": "ann" if number % 2 else "bob"}))
        others = [number for number in range(count) if number % 3 != 1]
        await settle(lambda: client.received.get("hist:1") == others, "those for all arrive")
        first = client.positions[0]
        for node in (a, b):
            assert len(history(node, "hist:1")) == count
        assert ask(b, "/admin/users/ann/history?tenant=acme", "DELETE")["is_complete"]
        assert redis.ask("XLEN", "fanwire:{c:hist:1}:history") == count
        answer = ask(b, "/admin/users/ann/history", "DELETE")
        assert answer == {"status": "deleted", "is_complete": True}, answer
        for node in (a, b):
            assert history(node, "hist:1") == others
            assert history(node, "hist:quiet") == list(range(0, count, 2))
        assert redis.ask("XLEN", "fanwire:{c:hist:1}:history") == len(others)
        assert redis.ask("XLEN", "fanwire:{c:hist:quiet}:history") == count // 2
        returning = await Client.connect(b)
        assert (await returning.subscribe("hist:1", recover=first))["recovered"]
        await settle(lambda: returning.received.get("hist:1") == others[1:], "the others are recovered")
        assert b.metric("fanwire_redis_connections_lost_total") == 0


async def deleted_while_a_node_is_away(binary, folder):
    """What was deleted while a node did not listen is not shown by it afterwards."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        a, b = nodes_of(stack, binary, redis.url, 2)
        client = await Client.connect(b)
        for number in range(6):
            a.publish("hist:1", number)
            a.publish("hist:2", number, **({"user": "ann"} if number % 2 else {}))
        for channel in ("hist:1", "hist:2"):
            await client.subscribe(channel)
            assert len(history(b, channel)) == 6
        # Each alone: what is read anew for one may hide what is missed of the other.
        deletions = [
            ("/api/channels/hist%3A1/history", {"hist:1": [], "hist:2": [0, 1, 2, 3, 4, 5, 6]}),
            ("/admin/users/ann/history", {"hist:1": [], "hist:2": [0, 2, 4, 6, 7]}),
        ]
        for number, (path, expected) in enumerate(deletions, 6):
            lost = [node.metric("fanwire_redis_connections_lost_total") for node in (a, b)]
            b.signal(signal.SIGSTOP)
            redis.ask("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
            until("a knows it", lambda: a.metric("fanwire_redis_connections_lost_total") > lost[0])
            until("a is back", a.is_healthy)
            answer = ask(a, path, "DELETE")
            assert answer["is_complete"] is False, answer
            a.publish("hist:2", number)
            b.signal(signal.SIGCONT)
            await settle(lambda: number in client.received.get("hist:2", ()), "it is back")
            until("they are healthy", lambda: a.is_healthy() and b.is_healthy())
            for channel, publications in expected.items():
                assert history(b, channel) == publications, (path, channel, history(b, channel))
            assert client.received == {"hist:2": list(range(6, number + 1))}, client.received
            assert b.metric("fanwire_redis_connections_lost_total") > lost[1]
        until("all answer", lambda: ask(b, "/api/channels")["is_complete"])
        assert ask(b, "/api/channels/hist%3A2/history", "DELETE")["is_complete"]
        assert history(a, "hist:2") == history(b, "hist:2") == []


async def a_node_that_does_not_answer(binary, folder):
    """A stopped node is awaited for a time, one that is killed is not; the answers say that they may not be complete."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        a, b, c = nodes_of(stack, binary, redis.url, 3)
        clients = [await Client.connect(node, ANN) for node in (a, b, c)]
        for client in clients:
            await client.subscribe("news")
        [there] = [it["id"] for it in connections(a) if it["address"].endswith(f":{clients[1].port}")]
        assert len(connections(a)) == 3

        def check_incomplete(fastest, longest, count):
            began = time.monotonic()
            page = ask(a, "/api/connections")
            took = time.monotonic() - began
            assert page["is_complete"] is False and len(page["connections"]) == count, page
            assert fastest <= took < longest, took
            assert ask(a, "/api/channels/news") | {"presence": None} == {
                "name": "news", "subscribers": count, "is_complete": False, "presence": None,
            }  # fmt: skip
            ask(a, f"/admin/connections/{there}", status=503)
            ask(a, f"/admin/connections/{there[:8]}{'0' * 16}", "DELETE", status=503)

        b.signal(signal.SIGSTOP)
        unanswered = a.metric("fanwire_redis_questions_unanswered_total")
        check_incomplete(0.9 * TIMEOUT_S, 1.8 * TIMEOUT_S, 2)
        assert a.metric("fanwire_redis_questions_unanswered_total") == unanswered + 4
        b.signal(signal.SIGCONT)
        until("it answers again", lambda: ask(a, "/api/connections")["is_complete"])
        assert len(connections(a)) == 3
        b.kill()
        until("Redis knows that it is gone", lambda: redis.ask("PUBSUB", "NUMSUB", "fanwire:{nodes}")[1] == 2)
        check_incomplete(0, 0.7 * TIMEOUT_S, 2)
        answer = ask(c, "/admin/users/ann/connections", "DELETE")
        assert answer == {"disconnected": 2, "is_complete": False}, answer
        # Another one in its place.
        with Node(binary, redis.url, **SETTINGS) as d:
            until("it is there", lambda: ask(a, "/api/connections")["is_complete"])
            ask(a, f"/admin/connections/{there}", status=404)
            assert ask(d, "/api/connections")["is_complete"]


async def garbage(binary, folder):
    """Whatever somebody publishes on the channel of the nodes, they go on, and count what they cannot read."""
    with Redis(folder) as redis, contextlib.ExitStack() as stack:
        a, b = nodes_of(stack, binary, redis.url, 2)
        clients = [await Client.connect(node) for node in (a, b)]
        unreadable = [
            "", "hello", "q", "q 1 2", "q 0123456789abcdef 1 0", "q 0123456789abcdef x 0 {}", "a", "a b c d",
            "a 0123456789abcdef 0123456789abcdef x {}", "0123456789abcdef x", "q " * 1000,
            'q 0123456789abcdef 1 0 {"connections"', "q 0123456789abcdef 1 0 []",
            'q 0123456789abcdef 1 0 {"session":{"id":"x","tenant":null,"action":"explode"}}',
            'q 0123456789abcdef 1 0 {"connections":{"search":{"dialect":"none"},"after":null,"limit":1}}',
            'q 0123456789abcdef 1 0 {"connections":{"search":{},"after":"x","limit":1}}',
        ]  # fmt: skip
        before = [node.metric("fanwire_redis_malformed_total") for node in (a, b)]
        for text in unreadable:
            subprocess.run(["redis-cli", "-p", str(redis.port), "PUBLISH", "fanwire:{nodes}", text], check=True, stdout=subprocess.DEVNULL)
        # Late answers, answers of nobody, and questions whose numbers are at the ends of their ranges.
        for text in ("a 0123456789abcdef 0123456789abcdef 1 {}", "0123456789abcdef 1", f"q {'f' * 16} {2**64 - 1} {2**64 - 1} \"delivered\""):
            redis.ask("PUBLISH", "fanwire:{nodes}", text)
        for index, node in enumerate((a, b)):
            count = lambda: node.metric("fanwire_redis_malformed_total") - before[index]
            until("all is counted", lambda: count() >= len(unreadable))
            assert count() == len(unreadable), count()
            assert node.is_healthy() and node.metric("fanwire_redis_connections_lost_total") == 0
            assert len(connections(node)) == 2
        # A flood of questions, and answers of somebody who is no node.
        question = 'q 0123456789abcdef %d 0 {"channels":{"search":{"prefix":null,"tenant":null,"after":""},"limit":10}}'
        for number in range(2_000):
            redis.ask("PUBLISH", "fanwire:{nodes}", question % number)
        until("they answer", lambda: ask(a, "/api/connections")["is_complete"])
        assert all(node.is_healthy() for node in (a, b))
        for client in clients:
            client.close()


async def redis_away(binary, folder):
    """A node answers for itself, and says so."""
    with Redis(folder, "--appendonly", "yes", "--appendfsync", "always") as redis, contextlib.ExitStack() as stack:
        a, b = nodes_of(stack, binary, redis.url, 2)
        clients = [await Client.connect(node, ANN) for node in (a, b)]
        for client in clients:
            await client.subscribe("hist:1")
        a.publish("hist:1", 1)
        await settle(lambda: all(it.received.get("hist:1") for it in clients), "it arrives")
        ids = {it["address"].rsplit(":", 1)[1]: it["id"] for it in connections(a)}
        here, there = (ids[str(client.port)] for client in clients)
        redis.kill()
        until("it is noticed", lambda: not a.is_healthy() and not b.is_healthy())
        began = time.monotonic()
        page = ask(a, "/api/connections")
        assert [it["id"] for it in page["connections"]] == [here] and page["is_complete"] is False, page
        assert ask(a, f"/admin/connections/{here}")["id"] == here
        ask(a, f"/admin/connections/{there}", status=503)
        page = ask(a, "/api/channels")
        assert page["is_complete"] is False and page["channels"][0]["subscribers"] == 1, page
        for path in ("/api/channels/hist%3A1/history", "/admin/users/ann/history"):
            assert ask(a, path, "DELETE") == {"status": "deleted", "is_complete": False}
        assert ask(a, "/admin/users/ann/connections", "DELETE") == {"disconnected": 1, "is_complete": False}
        assert time.monotonic() - began < TIMEOUT_S, "nobody is waited for"
        redis.start()
        until("all is well", lambda: a.is_healthy() and b.is_healthy())
        until("all answer", lambda: ask(a, "/api/connections")["is_complete"])
        assert [it["id"] for it in connections(a)] == [there]
        assert ask(a, "/api/channels/hist%3A1/history", "DELETE")["is_complete"]
        assert history(a, "hist:1") == history(b, "hist:1") == []


async def a_count_that_is_damaged(binary, folder):
    """A count of deletions that Redis cannot have made is counted as damaged, and the node goes on."""
    for count in (2**64 - 1, "x"):
        with Redis(folder) as redis:
            redis.ask("SET", "fanwire:{nodes}:deletions", count)
            with Node(binary, redis.url, **SETTINGS) as a, Node(binary, redis.url, **SETTINGS) as b:
                for node in (a, b):
                    until("the node is healthy", node.is_healthy)
                    assert node.metric("fanwire_redis_malformed_total") == 1
                # Some other program's, about a deletion.
                redis.ask("PUBLISH", "fanwire:{nodes}", 'q 0000000000000001 1 1 {"connections":{}}')
                status, answer = a.request("DELETE", "/admin/users/ann/history")
                assert status == 200 and not json.loads(answer)["is_complete"], answer
                a.publish("hist:1", 1)
                assert history(b, "hist:1") == [1]
                assert not any("panicked" in line for line in (*a.log, *b.log))


async def a_cluster(binary, folder):
    """The same on three masters."""
    servers = [Redis(folder, "--cluster-enabled", "yes") for _ in range(3)]
    with contextlib.ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        addresses = [f"127.0.0.1:{server.port}" for server in servers]
        subprocess.run(["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"], check=True, stdout=subprocess.DEVNULL)
        until("the cluster is up", lambda: all("cluster_state:ok" in it.ask("CLUSTER", "INFO") for it in servers))
        a, b = nodes_of(stack, binary, f"redis-cluster://{','.join(addresses)}", 2)
        client = await Client.connect(b)
        channels = [f"hist:{number}" for number in range(12)]
        for channel in channels:
            await client.subscribe(channel)
            for number in range(3):
                a.publish(channel, number, **({"user": "ann"} if number == 1 else {}))
        await settle(lambda: all(client.received.get(it) == [0, 2] for it in channels), "they arrive")
        assert len(connections(a)) == 1
        assert ask(a, "/admin/users/ann/history", "DELETE") == {"status": "deleted", "is_complete": True}
        assert ask(a, "/api/channels/hist%3A1/history", "DELETE") == {"status": "deleted", "is_complete": True}
        for channel in channels:
            expected = [] if channel == "hist:1" else [0, 2]
            for node in (a, b):
                until(f"{channel} is deleted", lambda: history(node, channel) == expected, patience_s=1)
        with Node(binary, f"redis-cluster://{addresses[0]}", **SETTINGS) as c:
            for channel in channels:
                assert history(c, channel) == ([] if channel == "hist:1" else [0, 2]), channel


CASES = [
    sessions_on_three_nodes,
    a_history_is_deleted,
    what_is_for_a_user_is_deleted,
    deleted_while_a_node_is_away,
    a_node_that_does_not_answer,
    garbage,
    redis_away,
    a_count_that_is_damaged,
    a_cluster,
]


if __name__ == "__main__":
    run_cases(CASES)

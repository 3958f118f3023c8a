// The published programs of the legacy servers, changed in nothing but URL and token, by both kinds of
// WebSocket that such programs meet. What a test adds stands behind the program.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import ws from "ws";
import { Inbox, patiently, startServer, token } from "./server.mjs";

const ANALYTICS = 0;
const ASSIST = 1;
const PUBLISHING = 2;

let server;
let notifications;
before(async () => {
  server = await startServer({ config: "three_listeners.toml" });
  notifications = await startServer({
    profile: "notifications",
    variables: { NOTIFICATION_INTERVAL: "0", SHUTDOWN_TIMEOUT: "1" },
  });
});
after(() => Promise.all([server.stop(), notifications.stop()]));

/** The program's text with what it has of URLs and tokens replaced. */
function printed(name, replacements) {
  let program = readFileSync(`legacy/${name}.js`, "utf8");
  for (const [text, ours] of Object.entries(replacements)) {
    assert.equal(program.split(text).length, 2, `${name} has ${text} once`);
    program = program.replace(text, () => ours);
  }
  return program;
}

/** Runs a program with its surroundings as parameters; `wanted` are names of its own. */
function run(program, surroundings, wanted) {
  const names = Object.keys(surroundings);
  const body = `"use strict";\n${program}\nreturn { ${wanted.join(", ")} };`;
  return new Function(...names, body)(...Object.values(surroundings));
}

/** A console whose lines are waited for. */
function recorder() {
  const lines = new Inbox();
  const put = (...words) => lines.put(words);
  return { log: put, error: put, lines };
}

async function expectLine(console, ...words) {
  assert.deepEqual(await console.lines.next(), words);
}

/** A gateway client that publishes, beside the published program. */
async function publisher() {
  const socket = new ws(server.url(`/ws?token=${token("publisher", "publish")}`, PUBLISHING));
  const inbox = new Inbox();
  socket.on("message", (data) => inbox.put(data.toString()));
  assert.match(await inbox.next(), /auth_success/);
  return {
    publish(channel, data) {
      socket.send(JSON.stringify({ type: "publish", data: { channel, type: "m", data } }));
    },
    close: () => socket.close(),
  };
}

const opened = (socket) =>
  patiently(
    new Promise((resolve) => socket.addEventListener("open", resolve)),
    "the connection",
  );

const closed = (socket) =>
  patiently(
    new Promise((resolve) =>
      socket.addEventListener("close", ({ code, reason }) => resolve({ code, reason })),
    ),
    "the close",
  );

for (const [name, WebSocket] of [["Node's own WebSocket", globalThis.WebSocket], ["ws", ws]]) {
  describe(`by ${name}`, () => {
    function analytics(bearer) {
      const console = recorder();
      const program = printed("analytics", {
        "ws://localhost:8765": server.url("/", ANALYTICS),
        "your-token": bearer,
      });
      const wanted = ["StreamingClient", "client"];
      return { console, ...run(program, { WebSocket, console }, wanted) };
    }

    test("the analytics program authenticates and hangs up", async () => {
      const { client, console } = analytics(token("ann"));
      await expectLine(console, "Connected to streaming server");
      await expectLine(console, "Authentication successful");
      client.ws.close();
      await expectLine(console, "Disconnected from streaming server");
    });

    test("the analytics program prints errors", async () => {
      const { client, console } = analytics("your-token");
      await expectLine(console, "Connected to streaming server");
      // `auth_failed` is none of the messages that it knows; the session goes on.
      client.subscribe("metrics");
      await expectLine(console, "Server error:", "Authentication required");
      client.send({ type: "dance" });
      await expectLine(console, "Server error:", "Unknown message type");
      client.ws.close();
    });

    test("the analytics program receives data once it knows its subscriptions' ids", async () => {
      const { StreamingClient, client, console } = analytics(token("ann"));
      await expectLine(console, "Connected to streaming server");
      await expectLine(console, "Authentication successful");
      client.ws.close();
      await expectLine(console, "Disconnected from streaming server");

      // As printed it subscribes before it is connected, which sends nothing, and stores no callback:
      // the acknowledgement is where an id and a callback come together.
      const subscribed = new Inbox();
      const received = new Inbox();
      class Subscriber extends StreamingClient {
        handleMessage(message) {
          if (message.type === "subscribed") {
            this.subscriptions.set(message.subscription_id, (data) => received.put(data));
            subscribed.put(message);
          }
          super.handleMessage(message);
        }
      }
      const subscriber = new Subscriber(server.url("/", ANALYTICS), token("ann"));
      await expectLine(console, "Connected to streaming server");
      await expectLine(console, "Authentication successful");
      // The published program's two subscriptions.
      subscriber.subscribe("events", {
        event_type: "user_action",
        "payload.user_id": "user123",
      });
      const events = await subscribed.next();
      assert.deepEqual(events.data.filters, {
        event_type: "user_action",
        "payload.user_id": "user123",
      });
      subscriber.subscribe("metrics");
      const metrics = await subscribed.next();
      assert.equal(metrics.data.type, "metrics");
      assert.notEqual(metrics.subscription_id, events.subscription_id);

      const source = await publisher();
      const event = (user_id) => ({ event_type: "user_action", payload: { user_id } });
      source.publish("stream:events", event("user456"));
      source.publish("stream:events", event("user123"));
      source.publish("stream:metrics", { cpu: 0.5 });
      assert.deepEqual(await received.next(), {
        event: event("user123"),
        subscription_type: "events",
      });
      assert.deepEqual(await received.next(), {
        metrics: { cpu: 0.5 },
        subscription_type: "metrics",
      });
      subscriber.unsubscribe(events.subscription_id);
      subscriber.subscribe("metrics");
      await subscribed.next();
      source.publish("stream:events", event("user123"));
      source.publish("stream:metrics", { cpu: 0.6 });
      // Both subscriptions to metrics, and no event.
      for (let count = 0; count < 2; count += 1) {
        const { subscription_type } = await received.next();
        assert.equal(subscription_type, "metrics");
      }
      source.close();
      subscriber.ws.close();
      await expectLine(console, "Disconnected from streaming server");
    });

    /** The assist program, of which `keep` is left, and what its socket receives. */
    function assist(keep, bearer) {
      const program = printed("assist", {
        "ws://localhost:8000/ws/connect": server.url("/ws/connect", ASSIST),
      });
      const { ws: socket } = run(keep(program), { WebSocket, jwtToken: bearer }, ["ws"]);
      const inbox = new Inbox();
      socket.addEventListener("message", ({ data }) => inbox.put(JSON.parse(data)));
      return { socket, inbox };
    }

    async function isConnected({ inbox }, user) {
      const { connection_id, timestamp, ...rest } = await inbox.next();
      assert.deepEqual(rest, { type: "connection", status: "connected", user_id: user });
      assert.ok(Date.parse(timestamp));
      return connection_id;
    }

    test("the assist program connects by its query, by its message, and by both", async () => {
      const byQuery = (program) => program.split("// Or send")[0];
      const byMessage = (program) => program.replace("?token=${jwtToken}", "");
      for (const [keep, times] of [[byQuery, 1], [byMessage, 1], [(program) => program, 2]]) {
        const client = assist(keep, token("user123"));
        const ids = new Set();
        for (let count = 0; count < times; count += 1) ids.add(await isConnected(client, "user123"));
        assert.equal(ids.size, 1);
        client.socket.send('{"type":"ping"}');
        assert.deepEqual(await client.inbox.next(), { type: "pong" });
        client.socket.close();
      }
    });

    test("an invalid token ends the assist program at once, both ways", async () => {
      for (const keep of [(program) => program, (program) => program.replace("?token=${jwtToken}", "")]) {
        const client = assist(keep, "nonsense");
        const end = closed(client.socket);
        assert.deepEqual(await client.inbox.next(), { type: "error", message: "Invalid token" });
        assert.deepEqual(await end, { code: 1008, reason: "unauthorized" });
      }
    });

    test("a room of the assist profile carries what is sent to it", async () => {
      const client = assist((program) => program, token("user123"));
      await isConnected(client, "user123");
      await isConnected(client, "user123");
      client.socket.send('{"type":"join_room","room":"chat_room_123"}');
      const { timestamp, ...joined } = await client.inbox.next();
      assert.deepEqual(joined, {
        type: "room_event",
        event: "join",
        room: "chat_room_123",
        user_id: "user123",
      });
      assert.ok(Date.parse(timestamp));
      const source = await publisher();
      const message = { type: "custom_event", data: { message: "Hello room!" } };
      source.publish("room:chat_room_123", message);
      assert.deepEqual(await client.inbox.next(), message);
      source.close();
      client.socket.close();
    });

    test("the notifications program prints what comes and that it is over", async () => {
      const console = recorder();
      const program = printed("notifications", {
        "ws://localhost:8000/ws": notifications.url(),
      });
      const { ws: socket } = run(program, { WebSocket, console }, ["ws"]);
      await opened(socket);
      await expectLine(console, "Connected to WebSocket server");
      socket.send('{"type": "ping"}');
      const [label, pong] = await console.lines.next();
      assert.deepEqual([label, pong.type], ["Received:", "pong"]);
      // The published request to /notify.
      const answer = await fetch(notifications.http("/notify"), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({
          message: "Hello, WebSocket clients!",
          type: "alert",
          data: { priority: "high" },
        }),
      });
      assert.ok(answer.ok);
      const [, { id, timestamp, ...alert }] = await console.lines.next();
      assert.ok(id && Date.parse(timestamp));
      assert.deepEqual(alert, {
        type: "alert",
        message: "Hello, WebSocket clients!",
        data: { priority: "high" },
      });
      socket.close();
      await expectLine(console, "WebSocket connection closed");
    });

    test("the notifications program prints that nobody is there", async () => {
      const console = recorder();
      const program = printed("notifications", {
        "ws://localhost:8000/ws": notifications.url("/nowhere"),
      });
      run(program, { WebSocket, console }, []);
      const [label] = await console.lines.next();
      // Node's own of version 20 tells nobody of the close of a connection that never was.
      assert.equal(label, "WebSocket error:");
    });

    test("the notifications program is told of the shutdown before it comes", async () => {
      const ending = await startServer({
        profile: "notifications",
        variables: { NOTIFICATION_INTERVAL: "0", SHUTDOWN_TIMEOUT: "1" },
      });
      try {
        const console = recorder();
        const program = printed("notifications", { "ws://localhost:8000/ws": ending.url() });
        run(program, { WebSocket, console }, []);
        await expectLine(console, "Connected to WebSocket server");
        ending.signal("SIGTERM");
        const [, { timestamp, ...shutdown }] = await console.lines.next();
        assert.ok(Date.parse(timestamp));
        assert.deepEqual(shutdown, {
          type: "shutdown",
          message: "The server is shutting down",
          data: { timeout_seconds: 1 },
        });
        await expectLine(console, "WebSocket connection closed");
      } finally {
        await ending.stop();
      }
    });
  });
}

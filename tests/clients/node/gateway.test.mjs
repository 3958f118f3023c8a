// The gateway dialect by the npm package `ws`.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { after, before, test } from "node:test";
import WebSocket from "ws";
import { Inbox, PATIENCE_MS, patiently, startServer, token } from "./server.mjs";
import { converse, firstConversation } from "./transcript.mjs";

const SUBSCRIBERS = 200;
const PUBLISHERS = 4;
const PUBLICATIONS_EACH = 18;

const AUTHENTICATED = '{"type":"auth_success","data":{"user_id":"ann"}}';

let server;
before(async () => {
  server = await startServer({
    variables: { FANWIRE_PUBLISH_RULES: "prop:* permission=publish" },
  });
});
after(() => server.stop());

/** A connected client with an inbox. */
async function connect(url = server.url(), protocols = [], options = {}) {
  const socket = new WebSocket(url, protocols, { handshakeTimeout: PATIENCE_MS, ...options });
  const inbox = new Inbox();
  socket.on("message", (data, isBinary) => inbox.put(isBinary ? data : data.toString()));
  socket.on("close", (code, reason) => inbox.finish({ code, reason: reason.toString() }));
  await once(socket, "open");
  return { socket, inbox, send: (text) => socket.send(text) };
}

async function authenticated(...permissions) {
  const client = await connect(server.url(`/ws?token=${token("ann", ...permissions)}`));
  assert.equal(await client.inbox.next(), AUTHENTICATED);
  return client;
}

test("the first conversation", async () => {
  const client = await connect();
  await converse(client, firstConversation(token("ann", "publish")));
  client.socket.close(1000, "goodbye");
  assert.deepEqual(await client.inbox.end(), { code: 1000, reason: "" });
  assert.ok(client.inbox.isEmpty);
});

test("a token in the query", async () => {
  const client = await connect(server.url(`/ws?token=${token("ann")}`));
  assert.equal(await client.inbox.next(), AUTHENTICATED);
  client.socket.close();
});

test("a token in the Authorization header", async () => {
  const headers = { Authorization: `Bearer ${token("ann")}` };
  const client = await connect(server.url(), [], { headers });
  assert.equal(await client.inbox.next(), AUTHENTICATED);
  client.socket.close();
});

test("a token in the pair of subprotocols that browsers can send", async () => {
  const client = await connect(server.url(), ["bearer", token("ann")]);
  assert.equal(client.socket.protocol, "bearer");
  assert.equal(await client.inbox.next(), AUTHENTICATED);
  client.socket.close();
});

test("a wrong token in the handshake is closed with 1008", async () => {
  const failed = '{"type":"auth_failed","data":{"error":"Invalid token"}}';
  const headers = { Authorization: "Bearer nonsense" };
  for (const client of [
    await connect(server.url("/ws?token=nonsense")),
    await connect(server.url(), [], { headers }),
    await connect(server.url(), ["bearer", "nonsense"]),
  ]) {
    assert.equal(await client.inbox.next(), failed);
    assert.deepEqual(await client.inbox.end(), { code: 1008, reason: "unauthorized" });
  }
});

test("the third wrong token by message is closed with 1008", async () => {
  const client = await connect();
  for (let attempt = 0; attempt < 3; attempt += 1) {
    client.send('{"type":"auth","data":{"token":"nonsense"}}');
    assert.equal(
      await client.inbox.next(),
      '{"type":"auth_failed","data":{"error":"Invalid token"}}',
    );
  }
  assert.deepEqual(await client.inbox.end(), { code: 1008, reason: "unauthorized" });
});

test("faults are named and the session goes on", async () => {
  const client = await authenticated("read");
  await converse(client, `
    > no json
    < {"type":"error","data":{"error":"Invalid JSON"}}
    > {"type":"dance"}
    < {"type":"error","data":{"error":"Unknown message type"}}
    > {"type":"subscribe"}
    < {"type":"error","data":{"error":"Missing data"}}
    > {"type":"subscribe","data":{}}
    < {"type":"error","data":{"error":"Missing channel"}}
    > {"type":"subscribe","data":{"channel":7}}
    < {"type":"error","data":{"error":"Invalid channel"}}
    > {"type":"subscribe","data":{"channel":"user:bob"}}
    < {"type":"error","data":{"error":"Channel is reserved"}}
    > {"type":"publish","data":{"channel":"news","data":1}}
    < {"type":"error","data":{"error":"Permission denied"}}
    > {"type":"ping"}
    < {"type":"pong"}
  `);
  client.socket.close();
});

test("the status of a session", async () => {
  const client = await authenticated();
  client.send('{"type":"subscribe","data":{"channel":"news"}}');
  await client.inbox.next();
  client.send('{"type":"status"}');
  const { type, data } = JSON.parse(await client.inbox.next());
  const { connected_at: connectedAt, uptime, ...rest } = data;
  assert.equal(type, "status");
  assert.deepEqual(rest, {
    authenticated: true,
    user_id: "ann",
    tenant_id: null,
    channels: ["news"],
  });
  assert.ok(uptime >= 0 && Math.abs(connectedAt + uptime - Date.now() / 1000) < 5);
  client.socket.close();
});

test("ping frames are answered with their payload", async () => {
  const client = await connect();
  for (const payload of [Buffer.alloc(0), Buffer.from("are you there"), randomBytes(125)]) {
    const pong = once(client.socket, "pong");
    client.socket.ping(payload);
    const [answer] = await patiently(pong, "a pong");
    assert.deepEqual(answer, payload);
  }
  client.socket.close();
});

test("fragments are joined", async () => {
  const client = await connect();
  const text = Buffer.from('{"type":"subscribe","data":{"channel":"é€😀"}}');
  for (let index = 0; index < text.length; index += 1) {
    const fin = index === text.length - 1;
    client.socket.send(text.subarray(index, index + 1), { binary: false, fin });
  }
  assert.equal(
    await client.inbox.next(),
    '{"type":"error","data":{"error":"Authentication required"}}',
  );
  client.socket.close();
});

test("binary publications reach who asked for them and nobody else", async () => {
  // Another user than in the other tests, for the rate limit.
  const open = () => connect(server.url(`/ws?token=${token("bob", "publish")}`));
  const [taker, other] = [await open(), await open()];
  for (const client of [taker, other]) await client.inbox.next();
  const channel = Buffer.from("bytes");
  const subscribe = (binary) => `{"type":"subscribe","data":{"channel":"bytes"${binary}}}`;
  taker.send(subscribe(',"binary":true'));
  const subscribed = '{"type":"subscribed","data":{"channel":"bytes","binary":true}}';
  assert.equal(await taker.inbox.next(), subscribed);
  other.send(subscribe(""));
  await other.inbox.next();
  for (const payload of [Buffer.of(0, 0xff), Buffer.alloc(0), randomBytes(100_000)]) {
    const frame = (kind) => Buffer.concat([Buffer.of(1, kind, 0, channel.length), channel, payload]);
    taker.send(frame(1));
    assert.deepEqual(await taker.inbox.next(), frame(2));
  }
  taker.send('{"type":"publish","data":{"channel":"bytes","data":1}}');
  const text = '{"type":"message","channel":"bytes","data":1}';
  assert.equal(await taker.inbox.next(), text);
  assert.equal(await other.inbox.next(), text);
  // JSON may come in a binary frame, too.
  taker.send(Buffer.from('{"type":"ping"}'));
  assert.equal(await taker.inbox.next(), '{"type":"pong"}');
  taker.send(Buffer.of(2, 1, 0, 0));
  assert.equal(await taker.inbox.next(), '{"type":"error","data":{"error":"Invalid version"}}');
  taker.socket.close();
  other.socket.close();
});

test("a message over a mebibyte is closed with 1009", async () => {
  // Before it has authenticated a session may send only little.
  const long = await authenticated();
  const padded = (bytes) => `{"type":"ping","pad":"${"x".repeat(bytes - 24)}"}`;
  long.send(padded(1024 * 1024));
  assert.equal(await long.inbox.next(), '{"type":"pong"}');
  // The server may end before the client has written all.
  long.socket.on("error", () => {});
  long.send(padded(1024 * 1024 + 1));
  assert.equal((await long.inbox.end()).code, 1009);
});

test("an unknown path is answered with 404", async () => {
  const socket = new WebSocket(server.url("/nowhere"));
  const [error] = await patiently(once(socket, "error"), "a refusal");
  assert.match(error.message, /404/);
});

test("the 21st message at once is refused and the session lives on", async () => {
  const client = await connect();
  for (let count = 0; count < 21; count += 1) client.send('{"type":"ping"}');
  const answers = [];
  for (let count = 0; count < 21; count += 1) answers.push(await client.inbox.next());
  const refusal = '{"type":"error","data":{"error":"Rate limit exceeded"}}';
  assert.deepEqual(answers, [...Array(20).fill('{"type":"pong"}'), refusal]);
  client.socket.close();
});

test("a gateway client's publication reaches a monitoring client", async () => {
  const monitoring = await connect(server.url("/monitoring"));
  await monitoring.inbox.next();
  monitoring.send(JSON.stringify({ type: "AUTHENTICATE", token: token("user123") }));
  await monitoring.inbox.next();
  monitoring.send('{"type":"SUBSCRIBE","property_id":"1012650001"}');
  await monitoring.inbox.next();
  const gateway = await authenticated("publish");
  const data = '{"channel":"prop:1012650001","type":"VIOLATION_UPDATE","data":{"count":5.0}}';
  gateway.send(`{"type":"publish","data":${data}}`);
  assert.equal(await monitoring.inbox.next(), '{"type":"VIOLATION_UPDATE","count":5.0}');
  monitoring.socket.close();
  gateway.socket.close();
});

test("200 subscribers see four publishers' messages in one order", async () => {
  // One user from one address may not do that unless the operator says so.
  const server = await startServer({
    variables: {
      FANWIRE_GATEWAY__RATE_LIMIT: "off",
      FANWIRE_GATEWAY__SESSIONS_PER_IP_MAX: "0",
      FANWIRE_GATEWAY__SESSIONS_PER_USER_MAX: "0",
    },
  });
  after(() => server.stop());
  const subscribers = [];
  const bearer = token("ann", "publish");
  for (let index = 0; index < SUBSCRIBERS; index += 1) {
    const client = await connect(server.url(`/ws?token=${bearer}`));
    client.send('{"type":"subscribe","data":{"channel":"many"}}');
    assert.equal(await client.inbox.next(), AUTHENTICATED);
    assert.equal(await client.inbox.next(), '{"type":"subscribed","data":{"channel":"many"}}');
    subscribers.push(client);
  }
  const series = 'fanwire_encodes_total{variant="gateway"';
  const encodesBefore = await server.metric(series);
  const deliveriesBefore = await server.metric("fanwire_deliveries_total");
  const publishers = [];
  for (let index = 0; index < PUBLISHERS; index += 1) {
    const client = await connect(server.url(`/ws?token=${bearer}`));
    assert.equal(await client.inbox.next(), AUTHENTICATED);
    publishers.push(client);
  }
  for (let number = 0; number < PUBLICATIONS_EACH; number += 1) {
    for (const [publisher, { send }] of publishers.entries()) {
      const data = { publisher, number, pad: "x".repeat(number === 9 ? 70_000 : number) };
      send(JSON.stringify({ type: "publish", data: { channel: "many", type: "m", data } }));
    }
  }
  const count = PUBLISHERS * PUBLICATIONS_EACH;
  const received = await Promise.all(
    subscribers.map(async ({ inbox }) => {
      const texts = [];
      while (texts.length < count) texts.push(await inbox.next());
      return texts;
    }),
  );
  for (const texts of received) assert.deepEqual(texts, received[0]);
  const next = Array(PUBLISHERS).fill(0);
  for (const { channel, data } of received[0].map(JSON.parse)) {
    assert.equal(channel, "many");
    assert.equal(data.number, next[data.publisher]);
    next[data.publisher] += 1;
  }
  assert.deepEqual(next, Array(PUBLISHERS).fill(PUBLICATIONS_EACH));
  assert.ok(subscribers.every(({ inbox }) => inbox.isEmpty));
  await server.awaitMetric(series, encodesBefore + count);
  await server.awaitMetric("fanwire_deliveries_total", deliveriesBefore + count * SUBSCRIBERS);
  for (const { socket } of [...subscribers, ...publishers]) socket.close();
});

test("SIGTERM closes sessions with 1001", async () => {
  const ending = await startServer();
  try {
    const client = await connect(ending.url());
    ending.signal("SIGTERM");
    assert.deepEqual(await client.inbox.end(), { code: 1001, reason: "shutdown" });
  } finally {
    await ending.stop();
  }
});

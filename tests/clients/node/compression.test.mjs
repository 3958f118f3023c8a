// permessage-deflate, by `ws` with the zlib of Node, and by the WebSocket of Node itself, which offers
// what browsers do.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import WebSocketOfWs from "ws";
import { Inbox, patiently, startServer } from "./server.mjs";

let server;
before(async () => {
  server = await startServer({
    variables: { FANWIRE_COMPRESSION: "deflate", FANWIRE_DEV: "true" },
  });
});
after(() => server.stop());

function items(length) {
  return Array.from({ length: length / 40 }, (_, n) => ({ id: n * n, user: `user ${n % 9}` }));
}

async function converse(socket) {
  const inbox = new Inbox();
  socket.addEventListener("message", ({ data }) => inbox.put(data));
  socket.addEventListener("close", ({ code }) => inbox.finish({ code }));
  const opened = new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", () => reject(new Error("the connection failed")));
  });
  await patiently(opened, "the connection");
  assert.match(socket.extensions, /^permessage-deflate/);
  socket.send(JSON.stringify({ type: "subscribe", data: { channel: "news" } }));
  assert.equal(JSON.parse(await inbox.next()).type, "subscribed");
  const before = await server.metric("fanwire_compressions_total");
  for (const length of [400, 5_000, 70_000]) {
    const data = { channel: "news", type: "m", data: items(length) };
    socket.send(JSON.stringify({ type: "publish", data }));
    assert.deepEqual(JSON.parse(await inbox.next()).data, data.data);
  }
  assert.ok((await server.metric("fanwire_compressions_total")) >= before + 3);
  socket.close(1000);
  assert.equal((await inbox.end()).code, 1000);
}

test("the WebSocket of Node itself", async () => {
  await converse(new WebSocket(server.url()));
});

test("ws, which compresses from the first byte", async () => {
  const before = await server.metric("fanwire_inflations_total");
  await converse(new WebSocketOfWs(server.url(), { perMessageDeflate: { threshold: 0 } }));
  assert.ok((await server.metric("fanwire_inflations_total")) >= before + 4);
});

test("ws, with small windows", async () => {
  const perMessageDeflate = { threshold: 0, serverMaxWindowBits: 10, clientMaxWindowBits: 10 };
  await converse(new WebSocketOfWs(server.url(), { perMessageDeflate }));
});

// The gateway dialect by the WebSocket of Node itself, which is the one of browsers: no headers, no
// ping frames.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Inbox, patiently, startServer, token } from "./server.mjs";
import { converse, firstConversation } from "./transcript.mjs";

let server;
before(async () => {
  server = await startServer();
});
after(() => server.stop());

async function connect(url, protocols = []) {
  const socket = new WebSocket(url, protocols);
  const inbox = new Inbox();
  socket.addEventListener("message", ({ data }) => inbox.put(data));
  socket.addEventListener("close", ({ code, reason, wasClean }) =>
    inbox.finish({ code, reason, wasClean }),
  );
  const opened = new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("error", () => reject(new Error("the connection failed")));
  });
  await patiently(opened, "the connection");
  return { socket, inbox, send: (text) => socket.send(text) };
}

test("the first conversation", async () => {
  const client = await connect(server.url());
  await converse(client, firstConversation(token("ann", "publish")));
  client.socket.close(1000, "goodbye");
  const { code, wasClean } = await client.inbox.end();
  assert.deepEqual({ code, wasClean }, { code: 1000, wasClean: true });
});

test("a token in the pair of subprotocols", async () => {
  const client = await connect(server.url(), ["bearer", token("ann")]);
  assert.equal(client.socket.protocol, "bearer");
  const authenticated = '{"type":"auth_success","data":{"user_id":"ann"}}';
  assert.equal(await client.inbox.next(), authenticated);
  client.socket.close();
  assert.equal((await client.inbox.end()).wasClean, true);
});

test("a wrong token is closed with 1008", async () => {
  const client = await connect(server.url("/ws?token=nonsense"));
  const failed = '{"type":"auth_failed","data":{"error":"Invalid token"}}';
  assert.equal(await client.inbox.next(), failed);
  const end = await client.inbox.end();
  assert.deepEqual(end, { code: 1008, reason: "unauthorized", wasClean: true });
});

test("an unknown path fails the connection", async () => {
  await assert.rejects(connect(server.url("/nowhere")), /the connection failed/);
});

// One conversation through wscat, as somebody has it in a terminal.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { patiently, startServer, token } from "./server.mjs";

const WSCAT = fileURLToPath(new URL("node_modules/wscat/bin/wscat", import.meta.url));

let server;
before(async () => {
  server = await startServer();
});
after(() => server.stop());

/** What wscat prints. */
async function wscat(...options) {
  // Its input is a pipe that stays open: at the end of its input it hangs up.
  const child = spawn(process.execPath, [WSCAT, ...options], { stdio: ["pipe", "pipe", "inherit"] });
  let printed = "";
  child.stdout.on("data", (data) => {
    printed += data;
  });
  const [code] = await patiently(once(child, "close"), "wscat");
  assert.equal(code, 0);
  return printed.trimEnd().split("\n");
}

test("a ping is answered", async () => {
  const lines = await wscat("-c", server.url(), "-w", "1", "-x", '{"type":"ping"}');
  assert.deepEqual(lines, ['{"type":"pong"}']);
});

test("a subscriber hears what it publishes itself", async () => {
  const bearer = token("ann", "publish");
  const lines = await wscat(
    "-c", server.url(),
    "-H", `Authorization: Bearer ${bearer}`,
    "-w", "1",
    "-x", '{"type":"subscribe","data":{"channel":"news"}}',
    "-x", '{"type":"publish","data":{"channel":"news","type":"headline","data":"hello"}}',
  );
  assert.deepEqual(lines, [
    '{"type":"auth_success","data":{"user_id":"ann"}}',
    '{"type":"subscribed","data":{"channel":"news"}}',
    '{"type":"headline","channel":"news","data":"hello"}',
  ]);
});

test("the notification server's two published messages", async () => {
  const notifications = await startServer({
    profile: "notifications",
    variables: { NOTIFICATION_INTERVAL: "0" },
  });
  try {
    const lines = await wscat(
      "-c", notifications.url("/ws"),
      "-w", "1",
      "-x", '{"type": "ping"}',
      "-x", '{"type": "status_request"}',
    );
    const [pong, status] = lines.map((line) => JSON.parse(line));
    assert.equal(lines.length, 2);
    assert.equal(pong.type, "pong");
    assert.equal(status.type, "status_response");
    assert.equal(status.data.active_connections, 1);
  } finally {
    await notifications.stop();
  }
});

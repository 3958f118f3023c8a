// A page in Chromium, with the browser's own WebSocket, with TLS and without.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { startServer, token } from "./server.mjs";

const BROWSER = process.env.CHROMIUM ?? "/usr/bin/chromium-headless-shell";
const folder = mkdtempSync(join(tmpdir(), "browser-"));
const certificate = join(folder, "certificate.pem");
const key = join(folder, "key.pem");

let browser, pages, servers;

before(async () => {
  execFileSync("openssl", [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
    "-subj", "/CN=localhost", "-keyout", key, "-out", certificate,
  ], { stdio: "ignore" });
  pages = createServer((_, response) => {
    response.setHeader("Content-Type", "text/html");
    response.end("<!doctype html><title>a page</title>");
  });
  pages.listen(0, "127.0.0.1");
  await once(pages, "listening");
  const variables = { FANWIRE_ALLOWED_ORIGINS: origin(), FANWIRE_COMPRESSION: "deflate" };
  const secure = { ...variables, FANWIRE_TLS_CERTIFICATES: `${certificate} ${key}` };
  servers = {
    ws: await startServer({ variables }),
    wss: await startServer({ variables: secure }),
  };
  browser = await chromium.launch({
    executablePath: BROWSER,
    args: ["--no-sandbox", "--ignore-certificate-errors"],
  });
});

after(async () => {
  await browser?.close();
  for (const server of Object.values(servers ?? {})) await server.stop();
  pages?.close();
  rmSync(folder, { recursive: true });
});

function origin() {
  return `http://127.0.0.1:${pages.address().port}`;
}

/** Runs in the page: sends `messages` one by one, each after an answer, and says how all ended. */
async function converse([url, messages]) {
  const socket = new WebSocket(url);
  const received = [];
  const closed = new Promise((resolve) => {
    socket.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
  });
  socket.onmessage = ({ data }) => {
    received.push(data);
    if (messages.length > 0) socket.send(messages.shift());
    else socket.close(1000);
  };
  const end = await closed;
  return { received, end, extensions: socket.extensions };
}

for (const scheme of ["ws", "wss"]) {
  test(`a page subscribes and receives what it publishes, by ${scheme}`, async () => {
    const page = await browser.newPage();
    await page.goto(origin());
    const bearer = token("ann", "publish");
    const url = servers[scheme].url(`/ws?token=${bearer}`).replace("ws:", `${scheme}:`);
    const lengths = [1, 126, 65_536, 300_000];
    const published = lengths.map((length) => "é".repeat(length / 2) + "x");
    const messages = [
      { type: "subscribe", data: { channel: "news" } },
      ...published.map((data) => ({ type: "publish", data: { channel: "news", type: "m", data } })),
    ];
    const texts = messages.map((message) => JSON.stringify(message));
    const { received, end, extensions } = await page.evaluate(converse, [url, texts]);
    assert.match(extensions, /^permessage-deflate/);
    const [welcome, subscribed, ...rest] = received.map((text) => JSON.parse(text));
    assert.equal(welcome.type, "auth_success");
    assert.equal(subscribed.type, "subscribed");
    assert.deepEqual(rest, published.map((data) => ({ type: "m", channel: "news", data })));
    assert.deepEqual(end, { code: 1000, reason: "", wasClean: true });
    await page.close();
  });
}

test("a page of another origin does not come in", async () => {
  const page = await browser.newPage();
  await page.goto(origin().replace("127.0.0.1", "localhost"));
  const url = servers.ws.url(`/ws?token=${token("ann")}`);
  const { received, end } = await page.evaluate(converse, [url, []]);
  assert.deepEqual(received, []);
  assert.notEqual(end.code, 1000);
  await page.close();
});

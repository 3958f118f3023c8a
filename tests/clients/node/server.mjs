// The real program as a process, its metrics, and tokens that it prints.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

const BINARY = process.env.SERVER_BINARY;
// Only what the program needs: every other FANWIRE_ variable would be a setting. With a log of text it
// prints on which port it listens.
const ENVIRONMENT = {
  FANWIRE_LOG_FILE: "",
  FANWIRE_LOG_FORMAT: "text",
  FANWIRE_JWT_SECRET: "a secret of the client tests, longer than thirty-two bytes",
  PATH: process.env.PATH,
  // The tests read metrics at the port of clients; the address of the admin listener belongs to one server.
  FANWIRE_ADMIN_LISTEN: "none",
  FANWIRE_CLIENT_HTTP: "health,metrics,notify",
  RUST_LOG: "warn",
};
/** Longest wait for anything; a machine under load gets its time. */
export const PATIENCE_MS = 20_000;

/**
 * Starts a secured server of two shards on a port of its own: of no profile, of `profile`, or as the
 * file of the name `config` in this folder says. `variables` are settings.
 */
export async function startServer({ profile, config, variables = {} } = {}) {
  const options = ["serve", "--shards", "2"];
  if (config) options.push("--config", config);
  else options.push("--listen", "127.0.0.1:0");
  if (profile) options.push("--profile", profile);
  const child = spawn(BINARY, options, {
    env: { ...ENVIRONMENT, ...variables },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout });
  const [first] = await Promise.race([
    once(lines, "line"),
    once(child, "exit").then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
  ]);
  const addresses = /listening on (.+)/.exec(first)[1].split(", ");
  const [address] = addresses;
  /** The sum over shards of the series that begin with `series`. */
  async function metric(series) {
    const answer = await fetch(`http://${address}/metrics/prometheus`);
    const found = (await answer.text()).split("\n").filter((line) => line.startsWith(series));
    if (found.length === 0) throw new Error(`no series ${series}`);
    return found.map((line) => Number(line.split(" ").at(-1))).reduce((sum, value) => sum + value);
  }
  return {
    url: (path = "/ws", listener = 0) => `ws://${addresses[listener]}${path}`,
    http: (path) => `http://${address}${path}`,
    metric,
    /** Waits for a value: a server counts a delivery after its client may have it. */
    async awaitMetric(series, expected) {
      const began = Date.now();
      let value = await metric(series);
      while (value < expected && Date.now() < began + PATIENCE_MS) value = await metric(series);
      if (value !== expected) throw new Error(`${series} is ${value}, not ${expected}`);
    },
    signal: (name) => child.kill(name),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
  };
}

/** A token by `fanwire token`. */
export function token(user, ...permissions) {
  const options = permissions.flatMap((permission) => ["--permission", permission]);
  const printed = execFileSync(BINARY, ["token", "--user", user, ...options], { env: ENVIRONMENT });
  return printed.toString().trim();
}

/** `promise`, or an error when it takes too long. */
export function patiently(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited too long for ${what}`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Messages in the order of their arrival, and the end of the connection, for both kinds of client. */
export class Inbox {
  #messages = [];
  #waiting = [];
  #end = withResolvers();

  put(message) {
    const waiting = this.#waiting.shift();
    if (waiting) waiting.resolve(message);
    else this.#messages.push(message);
  }

  /** No more messages come; `how` says why. */
  finish(how) {
    this.#end.resolve(how);
    const error = new Error(`the connection ended: ${JSON.stringify(how)}`);
    for (const waiting of this.#waiting.splice(0)) waiting.reject(error);
  }

  /** The next message's text. */
  next() {
    if (this.#messages.length > 0) return Promise.resolve(this.#messages.shift());
    const waiting = withResolvers();
    this.#waiting.push(waiting);
    return patiently(waiting.promise, "a message");
  }

  /** How the connection ended. */
  end() {
    return patiently(this.#end.promise, "the end of the connection");
  }

  get isEmpty() {
    return this.#messages.length === 0;
  }
}

function withResolvers() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}

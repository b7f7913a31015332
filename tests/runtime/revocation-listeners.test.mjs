// A thousand listeners of the feed: a revocation and an idle minute cost the database what they cost with one; the last
// listener is told like the first; an outage of the database and a listener that does not read.
import assert from "node:assert/strict";
import http from "node:http";
import { after, before, test } from "node:test";

import { percentile, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

const FEED = "a-sidecars-token-for-tests-000000000";
const bindings = { ADMIN_TOKEN: ADMIN, FEED_TOKEN: FEED };
const PATH = "/v1/events/revocations";
const ALL = 1000;
const SPEED = 60; // of timers: a minute is a second

let world;
const open = [];
before(async () => {
  world = await start({ bindings, hooks: true });
});
after(() => {
  for (const listener of open) listener.stop();
  return world?.stop();
});

const bearer = (token, rest = {}) => ({ headers: { authorization: `Bearer ${token}`, ...rest } });
const agent = new http.Agent({ keepAlive: false, maxSockets: Infinity });

/** A stream, over a connection of its own: its numbers, when each came, its comments. */
function listen() {
  const url = new URL(PATH, world.proxyUrl);
  const listener = { seqs: [], at: new Map(), alive: 0, degraded: 0, ended: false };
  open.push(listener);
  return new Promise((opened, failed) => {
    const request = http.get(url, { agent, ...bearer(FEED) }, (response) => {
      if (response.statusCode !== 200) return failed(new Error(`status ${response.statusCode}`));
      Object.assign(listener, { response, stop: () => request.destroy() });
      let text = "";
      response.setEncoding("utf8").on("data", (chunk) => {
        text += chunk;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const block = text.slice(0, end);
          if (block.startsWith(": degraded")) listener.degraded += 1;
          else if (block.startsWith(":")) listener.alive += 1;
          else {
            const seq = Number(/^id: (\d+)$/m.exec(block)[1]);
            listener.seqs.push(seq);
            listener.at.set(seq, performance.now());
          }
        }
      });
      response.on("close", () => (listener.ended = true));
      opened(listener);
    });
    request.on("error", (error) => (listener.response ? undefined : failed(error)));
  });
}

const revoke = async () =>
  (await world.send("POST", "/admin/v1/revocations", { ...bearer(ADMIN), body: JSON.stringify({ kind: "agent", agentDid: `did:cdi:registry.test:agent:${ulid()}` }) })).json;

/** Questions to D1 for one revocation, until every listener has it; how long the operator and the listeners waited. */
async function cost() {
  await world.counts(true);
  const started = performance.now();
  const { seq } = await revoke();
  const answeredMs = performance.now() - started;
  await eventually(() => open.every((listener) => listener.at.has(seq)), { deadlineMs: 30_000, everyMs: 5, what: "everyone is told" });
  const lastMs = Math.max(...open.map((listener) => listener.at.get(seq))) - started;
  return { queries: (await world.counts()).database, answeredMs, lastMs };
}

/** Questions to D1 in so many idle minutes. */
async function idle(minutes) {
  await world.counts(true);
  await world.hurryTimers(SPEED);
  await new Promise((resolve) => setTimeout(resolve, (minutes * 60_000) / SPEED));
  await world.hurryTimers(1);
  return (await world.counts()).database;
}

const report = (costs) => ({
  queries: Math.max(...costs.map((each) => each.queries)),
  answered: `p50 ${Math.round(percentile(costs.map((each) => each.answeredMs), 0.5))} ms`,
  last: `p50 ${Math.round(percentile(costs.map((each) => each.lastMs), 0.5))} ms, worst ${Math.round(Math.max(...costs.map((each) => each.lastMs)))} ms`,
});

test("a thousand listeners cost the database what one does, and one more is refused", async (t) => {
  await listen();
  await eventually(() => open[0].alive > 0, { what: "the greeting" });
  const one = [];
  for (let run = 0; run < 20; run++) one.push(await cost());
  t.diagnostic(`1 listener: ${JSON.stringify(report(one))}`);

  while (open.length < ALL) await Promise.all(Array.from({ length: Math.min(50, ALL - open.length) }, listen));
  refused(await world.send("GET", PATH, bearer(FEED)), 429, "PROXY_FEED_STREAM_LIMIT_EXCEEDED");
  await eventually(() => open.every((listener) => listener.seqs.length === 20), { deadlineMs: 30_000, what: "everyone has what was there" });
  const all = [];
  for (let run = 0; run < 20; run++) all.push(await cost());
  t.diagnostic(`${ALL} listeners: ${JSON.stringify(report(all))}`);
  assert.equal(report(all).queries, report(one).queries);

  const minutes = await idle(5);
  t.diagnostic(`questions to D1 in 5 idle minutes with ${ALL} listeners: ${minutes}`);
  assert.ok(minutes <= 6, `${minutes} in 5 minutes`);
});

// Two minutes of it, by the listeners' timers: a listener is told so every 15 s.
const OUTAGE_COMMENTS = 8;

test("two minutes without the database under all of them: degraded, then everything that was missed, once", async () => {
  const had = open[0].seqs.length;
  await world.database("fails");
  await world.hurryTimers(SPEED);
  const degraded = open.map((listener) => listener.degraded);
  await eventually(() => open.every((listener, n) => listener.degraded >= degraded[n] + OUTAGE_COMMENTS), { deadlineMs: 60_000, what: "degraded for two minutes" });
  await world.db.prepare(`INSERT INTO revocations (kind, agent_did, source, revoked_at_ms, recorded_at_ms)
    SELECT 'agent', value, 'queue', 1, 1 FROM json_each(?1)`)
    .bind(JSON.stringify(Array.from({ length: 30 }, () => `did:cdi:registry.test:agent:${ulid()}`))).run();
  await world.database("well");
  await eventually(() => open.every((listener) => listener.seqs.length >= had + 30), { deadlineMs: 60_000, what: "what was missed" });
  await world.hurryTimers(1);
  const expect = Array.from({ length: had + 30 }, (_, n) => n + 1);
  for (const listener of open) assert.deepEqual(listener.seqs, expect);
  assert.ok(open.every((listener) => !listener.ended));
});

test("a listener that does not read loses its seat, with a line; those who read do not", async () => {
  for (const listener of open.splice(0)) listener.stop();
  await world.stop();
  world = await start({ bindings, hooks: true });
  const [deaf, ...others] = [await listen(), await listen(), await listen()];
  deaf.response.pause();
  const dropped = () => world.logged("proxy.feed.listener_dropped");
  // What fits into the buffers of the connection is read, as far as anybody here can see.
  for (let n = 0; dropped().length === 0 && n < 40; n++) {
    await world.db.prepare(`INSERT INTO revocations (kind, agent_did, reason, source, revoked_at_ms, recorded_at_ms)
      SELECT 'agent', value, ?2, 'queue', 1, 1 FROM json_each(?1)`)
      .bind(JSON.stringify(Array.from({ length: 2000 }, () => `did:cdi:registry.test:agent:${ulid()}`)), "x".repeat(280)).run();
    const { seq } = await revoke();
    await eventually(() => others.every((listener) => listener.at.has(seq)), { deadlineMs: 60_000, what: "those who read have it" });
    await world.hurryTimers(SPEED);
    await new Promise((resolve) => setTimeout(resolve, 300));
    await world.hurryTimers(1);
  }
  assert.deepEqual(dropped().map((line) => line.reason), ["it does not read"]);
  deaf.response.resume();
  await eventually(() => deaf.ended, { deadlineMs: 30_000, what: "its end" });
  assert.ok(others.every((listener) => !listener.ended));
});

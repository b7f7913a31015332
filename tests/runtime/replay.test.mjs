// A captured request is accepted once, ever: docs/design.md §1, docs/wire.md §3.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, test } from "node:test";

import { newNonce, nowSeconds, pair } from "../support/agent.mjs";
import { admitted, probe, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";

let world;
let agent;
before(async () => {
  world = await start({ hooks: true });
  agent = await world.agent();
});
after(() => world?.stop());

const replayed = (answer) => refused(answer, 401, "PROXY_AUTH_REPLAY");
const fresh = () => ({ timestamp: nowSeconds(), nonce: newNonce() });

test("the same request a second time is refused, however it differs otherwise", async () => {
  const once = fresh();
  admitted(await probe(agent, once));
  replayed(await probe(agent, once));
  replayed(await probe(agent, { ...once, timestamp: once.timestamp - 100 }));
  replayed(await agent.post("/pair/start", {}, once));
});

test("of twenty at the same moment one is accepted", async () => {
  const once = fresh();
  const answers = await Promise.all(Array.from({ length: 20 }, () => probe(agent, once)));
  const codes = answers.map((answer) => answer.json.error.code).sort();
  assert.equal(codes.filter((code) => code === "PROXY_AUTH_REPLAY").length, 19, codes.join());
});

test("a nonce is its agent's own, and a bad signature burns none", async () => {
  const other = await world.agent();
  const once = fresh();
  refused(await probe(agent, { ...once, privateKey: other.privateKey }), 401, "PROXY_AUTH_INVALID_PROOF");
  admitted(await probe(agent, once));
  admitted(await probe(other, once));
});

test("a request refused after its admission has burnt its nonce", async () => {
  const [one, two] = await world.agents(2);
  await pair(one, two);
  const once = fresh();
  const madeUp = { headers: { "x-claw-agent-access": "made-up" } };
  refused(await one.message(two, {}, { ...once, ...madeUp }), 401, "PROXY_AGENT_ACCESS_INVALID");
  replayed(await one.message(two, {}, once));
});

test("after an eviction, a restart and a kill on the same storage", async () => {
  const once = fresh();
  admitted(await probe(agent, once));
  await world.evict("PROXY_TRUST_STATE", agent.id);
  replayed(await probe(agent, once));
  await world.restart();
  world.adopt(agent);
  replayed(await probe(agent, once));
  const last = fresh();
  admitted(await probe(agent, last));
  await world.killAndRestart();
  world.adopt(agent);
  replayed(await probe(agent, last));
  replayed(await probe(agent, once));
});

test("a nonce that an older version stored counts until it expires, and its table goes with the last of them", async () => {
  const [one, two] = await world.agents(2);
  const once = fresh();
  const bucket = Math.floor((once.timestamp + 301) / 60);
  const hash = createHash("sha256").update(once.nonce).digest("hex");
  admitted(await probe(one));
  await world.sql("PROXY_TRUST_STATE", one.id, `
    CREATE TABLE nonces (
      bucket INTEGER NOT NULL, hash BLOB NOT NULL, attempt BLOB NOT NULL, seen_at_ms INTEGER NOT NULL, PRIMARY KEY (bucket, hash)
    ) WITHOUT ROWID;
    INSERT INTO nonces VALUES (${bucket}, x'${hash}', x'${"00".repeat(16)}', ${Date.now()});`);
  await world.evict("PROXY_TRUST_STATE", one.id);
  replayed(await probe(one, once));
  admitted(await probe(one));
  admitted(await probe(two, once));
  await world.moveClock(100_000);
  replayed(await probe(one, once));
  await world.moveClock(25 * 60_000);
  await world.alarm("PROXY_TRUST_STATE", one.id);
  assert.deepEqual(await world.tables("PROXY_TRUST_STATE", one.id, "nonces%"), []);
  await world.moveClock(0);
  refused(await probe(one, once), 401, "PROXY_AUTH_TIMESTAMP_SKEW");
});

test("290 s in the future, again 310 s later: a nonce is kept as long as its timestamp could be accepted", async () => {
  const once = { timestamp: nowSeconds() + 290, nonce: newNonce() };
  admitted(await probe(agent, once));
  for (const laterMs of [310_000, 580_000]) {
    await world.moveClock(laterMs);
    replayed(await probe(agent, once));
  }
  await world.evict("PROXY_TRUST_STATE", agent.id);
  replayed(await probe(agent, once));
  await world.moveClock(600_000);
  refused(await probe(agent, once), 401, "PROXY_AUTH_TIMESTAMP_SKEW");
  await world.moveClock(0);
});

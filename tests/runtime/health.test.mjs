// /health says ready:false in every state in which some route can only refuse, what that state is and since when, and
// ready:true again once it is over. docs/wire.md §5.2. One state at a time.
import assert from "node:assert/strict";
import { test } from "node:test";

import { answered, probe, refused } from "../support/expect.mjs";
import { eventually, inWorld } from "../support/harness.mjs";

const UNAVAILABLE = [503, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE"];

async function health(world, headers = {}) {
  const { ready, readiness } = answered(await world.send("GET", "/health", { headers }), 200);
  for (const { since, effect } of readiness.problems) {
    assert.ok(Math.abs(Date.now() - Date.parse(since)) < 120_000, since);
    assert.ok(effect.length > 10);
  }
  return { ready, what: readiness.problems.map(({ what }) => what), since: readiness.problems.map(({ since }) => since) };
}

/** Not ready for this reason alone, dated the same however often it is asked; then `mend`, and ready again. */
async function isNotReady(world, what, mend) {
  const first = await eventually(async () => {
    const found = await health(world);
    return !found.ready && found;
  }, { what: "not ready" });
  assert.deepEqual(first.what, [what]);
  await new Promise((resolve) => setTimeout(resolve, 1100)); // the isolate looks again
  assert.deepEqual(await health(world), first);
  await mend?.();
  if (mend) await eventually(async () => (await health(world)).ready, { what: "ready" });
}

test("a deployment that is well is ready, and being asked costs it no more than a look a second", () =>
  inWorld({ hooks: true, bindings: { CRL_STALE_BEHAVIOR: "fail-closed" } }, async (world) => {
    assert.deepEqual(await health(world), { ready: true, what: [], since: [] });
    await world.counts(true);
    await world.counters(true);
    const began = performance.now();
    for (let i = 0; i < 50; i++) assert.equal((await health(world)).ready, true);
    const looks = Math.ceil((performance.now() - began) / 1000) + 1;
    const { database } = await world.counts();
    assert.ok(database <= looks, `${database} questions to D1`);
    assert.deepEqual(await world.counters(), { keys: 0, crl: 0, validate: 0, ownership: 0, membership: 0 });
  }));

test("without migrations", () =>
  inWorld({ migrate: false }, (world) => isNotReady(world, "migrations_missing", () => world.migrate())));

for (const is of ["fails", "hangs"]) {
  test(`D1 ${is}, from a cold start`, () =>
    inWorld({ hooks: true, bindings: { TRUST_TIMEOUT_MS: "300" } }, async (world) => {
      await world.database(is);
      await isNotReady(world, "database_unreachable", () => world.database("well"));
    }));
}

test("fail-closed without a CRL, before and after a request was refused for it", () =>
  inWorld({ bindings: { CRL_STALE_BEHAVIOR: "fail-closed" } }, async (world) => {
    await world.fault("crl", "500");
    await isNotReady(world, "crl_unavailable");
    refused(await probe(await world.agent()), ...UNAVAILABLE);
    assert.deepEqual((await health(world)).what, ["crl_unavailable"]);
    await world.fault("crl", "none");
    await eventually(async () => (await health(world)).ready, { what: "ready" });
  }));

test("fail-closed with a CRL that is dead", () =>
  inWorld({ hooks: true, bindings: { CRL_STALE_BEHAVIOR: "fail-closed" } }, async (world) => {
    assert.equal((await health(world)).ready, true);
    await world.fault("crl", "down");
    await world.moveClock(3_600_001);
    const found = answered(await world.send("GET", "/health"), 200);
    assert.deepEqual([found.ready, found.readiness.crl, found.readiness.problems[0]?.what], [false, "dead", "crl_unavailable"]);
  }));

test("fail-open goes on without a CRL, and is ready", () =>
  inWorld({}, async (world) => {
    await world.fault("crl", "500");
    assert.equal((await health(world)).ready, true);
  }));

test("no signing keys", () =>
  inWorld({}, async (world) => {
    await world.fault("keys", "500");
    await isNotReady(world, "signing_keys_unavailable", () => world.fault("keys", "none"));
  }));

for (const [at, what] of [[0, "trust_state_unreachable"], [1, "relay_session_unreachable"]]) {
  test(`${what}`, () =>
    inWorld({ hooks: true }, async (world) => {
      await world.lose("health-is-asked", at, "before");
      const found = await health(world, { "x-request-id": "health-is-asked" });
      assert.deepEqual([found.ready, found.what], [false, [what]], JSON.stringify(await world.callsOf("health-is-asked")));
      await eventually(async () => (await health(world)).ready, { what: "ready" });
    }));
}

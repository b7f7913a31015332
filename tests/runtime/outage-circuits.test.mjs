// A registry that fails is left alone: docs/design.md §1 and §4. One story, on one clock that the test moves:
//   1. 50 agents are paired; none was ever validated, and nothing that is cached lives for longer than a moment
//   2. everything answers 500: the circuit of the signing keys opens, and nothing else is asked
//   3. the keys are back: the circuits of the CRL and of access validation open
//   4. pairs are started: the circuit of ownership opens
//   5. a pause later, and again: one probe each, however many requests there are
//   6. the registry is back: one probe each closes them, and everybody is served
//   7. a Retry-After lengthens the pause
//   8. made-up access tokens open no circuit for others
import assert from "node:assert/strict";
import { test } from "node:test";

import { nowSeconds, pair } from "../support/agent.mjs";
import { accepted, refused, statuses } from "../support/expect.mjs";
import { eightAtATime, start } from "../support/harness.mjs";

const AGENTS = 50;
const MANY = 1000;
const PAUSE_MS = 30_000;
// Five, and those in flight at that moment: the fifth failure, and the seven others of eight.
const MOST_CALLS = 13;

test("a registry that fails is left alone", async () => {
  const world = await start({
    hooks: true,
    bindings: {
      RELAY_QUEUE_MAX_MESSAGES_PER_AGENT: "10000",
      REGISTRY_KEYS_FRESH_MS: "1", REGISTRY_KEYS_STALE_MS: "1", CRL_REFRESH_INTERVAL_MS: "1", CRL_MAX_AGE_MS: "1",
    },
  });
  let clockMs = 0;
  try {
    // 1
    const [hub] = await world.agents(1);
    const agents = await world.agents(AGENTS);
    for (const agent of agents) await pair(hub, agent);
    const over = () => ({ timestamp: nowSeconds() + clockMs / 1000 });
    const message = (at) => agents[at % AGENTS].message(hub, {}, over());
    const pass = async (ms) => world.moveClock((clockMs += ms));
    const opened = (dependency, reason) =>
      world.logged("proxy.registry.circuit").filter((line) => line.dependency === dependency && line.reason === reason);
    const few = (calls, what) => assert.ok(calls >= 5 && calls <= MOST_CALLS, `${calls} calls for ${what}`);

    // 2
    await world.fault("all", "500");
    await world.counters(true);
    const answers = await eightAtATime(MANY, message);
    assert.deepEqual(statuses(answers), { 503: MANY });
    for (const answer of answers) refused(answer, 503, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE");
    const { keys, ...others } = await world.counters();
    few(keys, "keys");
    assert.deepEqual(others, { crl: 0, validate: 0, ownership: 0, membership: 0 });
    const [line, ...more] = opened("registry_keys", "failures");
    assert.deepEqual([more, line.from, line.to, line.failures, line.pauseMs, line.lastFailure],
      [[], "closed", "open", 5, PAUSE_MS, "5xx"]);

    // 3
    await world.fault("keys", "none");
    await pass(PAUSE_MS);
    await world.counters(true);
    // The probe for the keys goes first, by itself: who asks beside it is refused.
    assert.equal((await message(0)).status, 503);
    assert.deepEqual(statuses(await eightAtATime(MANY, message)), { 503: MANY });
    const failing = await world.counters();
    few(failing.crl, "the CRL");
    few(failing.validate, "access");

    // 4
    const startPair = (at) =>
      agents[at % AGENTS].post("/pair/start", { initiatorProfile: { agentName: "a", humanName: "b" } }, over());
    for (const answer of await eightAtATime(200, startPair)) refused(answer, 503, "PROXY_PAIR_OWNERSHIP_UNAVAILABLE");
    few((await world.counters()).ownership, "ownership");
    for (const dependency of ["registry_crl", "registry_access", "registry_ownership"]) {
      assert.equal(opened(dependency, "failures").length, 1, dependency);
    }

    // 5
    for (let round = 1; round <= 3; round++) {
      await pass(PAUSE_MS);
      await world.counters(true);
      assert.deepEqual(statuses(await eightAtATime(100, message)), { 503: 100 });
      await eightAtATime(40, startPair);
      const { crl, validate, ownership } = await world.counters();
      assert.deepEqual({ crl, validate, ownership }, { crl: 1, validate: 1, ownership: 1 }, `round ${round}`);
      assert.equal(opened("registry_access", "probe_failed").length, round);
    }

    // 6
    await world.fault("all", "none");
    await pass(PAUSE_MS);
    accepted(await message(0));
    assert.equal((await startPair(0)).status, 200);
    assert.deepEqual(statuses(await eightAtATime(2 * AGENTS, message)), { 202: 2 * AGENTS });
    for (const dependency of ["registry_keys", "registry_crl", "registry_access", "registry_ownership"]) {
      assert.equal(opened(dependency, "probe_succeeded").length, 1, dependency);
    }

    // 7
    await world.fault("ownership", "429", { retryAfterSeconds: 100 });
    await eightAtATime(20, startPair);
    await world.counters(true);
    await pass(2 * PAUSE_MS);
    const told = await startPair(0);
    refused(told, 503, "PROXY_PAIR_OWNERSHIP_UNAVAILABLE");
    assert.ok(Number(told.headers.get("retry-after")) > 30, told.headers.get("retry-after"));
    assert.equal((await world.counters()).ownership, 0);

    // 8
    await world.counters(true);
    const madeUp = (at) => agents[0].message(hub, {}, { ...over(), headers: { "x-claw-agent-access": `made-up-${at}` } });
    const tried = await eightAtATime(100, madeUp);
    assert.ok(tried.every(({ status }) => status === 401 || status === 503), JSON.stringify(statuses(tried)));
    assert.ok((await world.counters()).validate <= 5);
    accepted(await message(1));
    assert.equal(opened("registry_access", "failures").length, 1);
  } finally {
    await world.stop();
  }
});

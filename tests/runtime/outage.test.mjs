// The registry is down or slow, D1 is down, or a clock is off: known agents do not notice, and unknown ones are told
// when to come back. docs/design.md §1 and §4. What a failing registry is asked is in outage-circuits.test.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";

import { nowSeconds, pair } from "../support/agent.mjs";
import { accepted, admitted, probe, refused, statuses } from "../support/expect.mjs";
import { DEPLOYED, eightAtATime, eventually, inWorld as withWorld } from "../support/harness.mjs";

const UNAVAILABLE = [503, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE"];
const MANY = 1000;
// Everything is past its fresh time at once, and within its stale limit as in production.
const STALE_AT_ONCE = { REGISTRY_KEYS_FRESH_MS: "1", CRL_REFRESH_INTERVAL_MS: "1", AGENT_ACCESS_FRESH_MS: "1" };
const ROOM = { RELAY_QUEUE_MAX_MESSAGES_PER_AGENT: "10000" };

const inWorld = (options, work) =>
  withWorld({ ...options, hooks: true, bindings: { ...ROOM, ...options.bindings } }, work);

const dependencies = (lines) => [...new Set(lines.map(({ dependency }) => dependency))].sort();
const sources = (lines, of) => [...new Set(lines.map(({ evidence }) => evidence[of]?.source))].sort();

test("the registry goes down after a first request: 1,000 of 1,000, and again after a restart", () =>
  inWorld({ bindings: STALE_AT_ONCE }, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
    await eventually(async () => (await world.counts()).trust.store_validation, { what: "the validation is kept" });
    await world.fault("all", "down");
    assert.deepEqual(statuses(await eightAtATime(MANY, () => one.message(two, {}))), { 202: MANY });
    // Each such line comes once in 10 s at most, with how many were left out.
    assert.deepEqual(dependencies(world.logged("proxy.registry.stale_served")),
      ["registry_access", "registry_crl", "registry_keys"]);
    const verified = world.logged("proxy.auth.verified").slice(-MANY);
    for (const of of ["keys", "crl", "access"]) assert.deepEqual(sources(verified, of), ["stale"], of);
    assert.ok(verified.every(({ evidence }) => Object.values(evidence).every(({ ageMs }) => ageMs >= 0)));

    await world.restart();
    world.adopt(one, two);
    world.logs.length = 0;
    accepted(await one.message(two, {})); // alone, so that the first line is of who came first
    assert.deepEqual(statuses(await eightAtATime(MANY, () => one.message(two, {}))), { 202: MANY });
    assert.ok(dependencies(world.logged("proxy.registry.stale_served")).includes("registry_access"));
    assert.ok(world.logged("proxy.registry.crl_unavailable").length >= 1);
    const first = world.logged("proxy.auth.verified")[0].evidence;
    assert.deepEqual([first.keys.source, first.crl, first.access.source], ["durable", undefined, "durable"]);
  }));

test("what is stale does not outlast the registry's word: the very next request is refused", () =>
  inWorld({ bindings: { ...STALE_AT_ONCE, GROUP_MEMBERSHIP_FRESH_MS: "1", REGISTRY_STALE_WAIT_MS: "5000" } }, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    const { groupId } = await world.registry("/dev/groups", { members: [one.agentDid, two.agentDid] });
    const grouped = () => one.message(two, {}, { headers: { "x-claw-group-id": groupId } });
    accepted(await grouped());
    await world.registry("/dev/groups", { groupId, members: [one.agentDid] });
    refused(await grouped(), 403, "PROXY_AUTH_FORBIDDEN");
    accepted(await one.message(two, {}));
    const { accessToken } = one;
    await one.atRegistry("end-session", { event: false });
    refused(await one.message(two, {}, { headers: { "x-claw-agent-access": accessToken } }), 401, "PROXY_AGENT_ACCESS_INVALID");
  }));

test("a slow registry: who is not cached fails within its 5 s, who is cached does not wait", () =>
  inWorld({ bindings: STALE_AT_ONCE }, async (world) => {
    const [cached, stranger] = await world.agents(2);
    await pair(cached, stranger);
    accepted(await cached.message(stranger, {}));
    await world.fault("all", "slow", { ms: 15_000 });
    const started = performance.now();
    let failed = false;
    const failing = stranger.message(cached, {}).then((answer) => {
      failed = true;
      refused(answer, ...UNAVAILABLE);
      return performance.now() - started;
    });
    assert.deepEqual(statuses(await eightAtATime(40, () => cached.message(stranger, {}))), { 202: 40 });
    assert.ok(!failed, "the cached agent waited for as long as the one that failed");
    const took = await failing;
    assert.ok(took > 4500 && took < 8000, `${Math.round(took)} ms`);

    // A new isolate waits for its first CRL within the 5 s, and for nothing else.
    await world.restart();
    world.adopt(cached, stranger);
    const again = performance.now();
    assert.deepEqual(statuses(await eightAtATime(8, () => cached.message(stranger, {}))), { 202: 8 });
    assert.ok(performance.now() - again < 8000);
  }));

test("a clock that is 250 s off is warned of once a minute, one that is 301 s off is refused", () =>
  inWorld({ bindings: DEPLOYED }, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    const header = (answer) => Number(answer.headers.get("x-claw-clock-skew") ?? NaN);
    const near = (answer, seconds) => assert.ok(Math.abs(header(answer) - seconds) <= 2, `${header(answer)}`);
    for (const off of [250, -250]) {
      for (let i = 0; i < 3; i++) {
        const answer = await one.message(two, {}, { timestamp: nowSeconds() - off });
        accepted(answer);
        near(answer, off);
      }
    }
    // Also where the handler or a later check refuses.
    near(await probe(one, { timestamp: nowSeconds() - 250 }), 250);
    const warned = world.logged("proxy.auth.clock_skew");
    assert.deepEqual(warned.map(({ level, agentDid }) => [level, agentDid]), [["warn", one.agentDid]]);
    assert.ok(Math.abs(warned[0].skewSeconds - 250) <= 2);
    for (const off of [302, -302]) {
      const answer = await two.message(one, {}, { timestamp: nowSeconds() - off });
      const { details } = refused(answer, 401, "PROXY_AUTH_TIMESTAMP_SKEW");
      assert.ok(Math.abs(details.skewSeconds - off) <= 2);
      near(answer, off);
    }
    for (const off of [190, 0, -190]) {
      const answer = await two.message(one, {}, { timestamp: nowSeconds() - off });
      accepted(answer);
      assert.equal(answer.headers.get("x-claw-clock-skew"), null);
      assert.ok(Math.abs(world.logged("proxy.auth.verified").at(-1).skewSeconds - off) <= 2);
    }
  }));

for (const is of ["fails", "hangs"]) {
  test(`D1 ${is} for an hour: every known pair is served, by hook and by frame, in fresh isolates and with new tokens`, () =>
    inWorld({ bindings: { TRUST_TIMEOUT_MS: "300" } }, async (world) => {
      const [one, two, late] = await world.agents(3);
      await pair(one, two);
      accepted(await one.message(two, {}));
      await world.database(is);
      const forbidden = (answer) => {
        const { details } = refused(answer, 403, "PROXY_AUTH_FORBIDDEN");
        assert.deepEqual(details, { reason: "trust_store_unavailable" });
        assert.match(answer.headers.get("retry-after"), /^[1-9]\d*$/);
      };
      forbidden(await late.message(two, {}));
      const hourLater = { timestamp: nowSeconds() + 3600 };
      for (const again of [{}, hourLater]) {
        if (again.timestamp) await world.moveClock(3600_000);
        assert.deepEqual(statuses(await eightAtATime(50, () => one.message(two, {}, again))), { 202: 50 });
        await one.atRegistry("refresh");
        accepted(await one.message(two, {}, again));
        await world.evict("PROXY_TRUST_STATE", one.id);
        accepted(await one.message(two, {}, again));
        const socket = await one.connect({ ...again });
        socket.send({ type: "enqueue", toAgentDid: two.agentDid, payload: { by: "frame" } });
        const ack = await socket.next("enqueue_ack");
        assert.equal(ack.accepted, true, ack.reason);
        // A pair that does not exist is refused as such, and not because D1 is down.
        const refusal = refused(await one.message(late, {}, again), 403, "PROXY_AUTH_FORBIDDEN");
        assert.equal(refusal.details, undefined);
        await socket.close();
      }
      await world.database("well");
      await eventually(async () => refused(await late.message(two, {}, hourLater), 403, "PROXY_AUTH_FORBIDDEN").details === undefined, {
        what: "the new agent's look into the record",
      });
    }));
}

test("a signing key that another isolate found before the registry went is found in D1", () =>
  inWorld({}, async (world) => {
    const agent = await world.agent();
    admitted(await probe(agent));
    await eventually(() => world.db.prepare("SELECT 1 FROM signing_keys").first(), { what: "the keys are kept" });
    await world.registry("/dev/keys/rotate");
    const later = await world.agent();
    const document = await (await fetch(new URL("/.well-known/claw-keys.json", world.registryUrl))).text();
    await world.fault("all", "down");
    refused(await probe(later), ...UNAVAILABLE);
    // What the other isolate writes.
    await world.db.prepare("UPDATE signing_keys SET document = ?, fetched_at_ms = ?").bind(document, Date.now()).run();
    await eventually(async () => (await probe(later)).status === 400, { what: "the key is found", everyMs: 200 });
    assert.equal(world.logged("proxy.auth.verified").at(-1).evidence.keys.source, "durable");
    admitted(await probe(agent));
  }));

test("the first request with such a key finds it, though the registry takes all the time that it is given", () =>
  inWorld({ bindings: { REGISTRY_BUDGET_MS: "3000", TRUST_TIMEOUT_MS: "1000" } }, async (world) => {
    admitted(await probe(await world.agent()));
    await eventually(() => world.db.prepare("SELECT 1 FROM signing_keys").first(), { what: "the keys are kept" });
    await world.registry("/dev/keys/rotate");
    const later = await world.agent();
    const document = await (await fetch(new URL("/.well-known/claw-keys.json", world.registryUrl))).text();
    await world.fault("all", "slow", { ms: 15_000 });
    await world.db.prepare("UPDATE signing_keys SET document = ?, fetched_at_ms = ?").bind(document, Date.now()).run();
    admitted(await probe(later));
  }));

test("a peer that leaves while the registry is down takes nobody's access along", () =>
  inWorld({}, async (world) => {
    const [one, two, leaving] = await world.agents(3);
    await pair(one, two);
    await pair(one, leaving);
    accepted(await one.message(two, {}));
    await eventually(async () => (await world.counts()).trust.store_validation, { what: "the validation is kept" });
    await world.fault("all", "down");
    const left = await leaving.post("/pair/remove", { peerAgentDid: one.agentDid });
    assert.deepEqual(left.json, { removed: true });
    refused(await one.message(leaving, {}), 403, "PROXY_AUTH_FORBIDDEN");
    accepted(await one.message(two, {}));
    assert.equal(world.logged("proxy.auth.verified").at(-1).evidence.access.source, "fresh");
  }));

test("a token that is refreshed while D1 is down takes nobody's pairs along", () =>
  inWorld({}, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
    await world.database("fails");
    await one.atRegistry("refresh");
    await eventually(async () => (await world.counts()).trust.replace_generation, { what: "the event is applied" });
    accepted(await one.message(two, {}));
  }));

test("a session ended: the next request asks the registry, however fresh the cache", () =>
  inWorld({}, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
    accepted(await one.message(two, {}));
    assert.equal((await world.counters()).validate, 1);
    await world.counts(true);
    const { accessToken } = one;
    await one.atRegistry("end-session");
    await eventually(async () => (await world.counts()).trust.replace_generation, { what: "the event is applied" });
    one.accessToken = accessToken;
    refused(await one.message(two, {}), 401, "PROXY_AGENT_ACCESS_INVALID");
    assert.equal((await world.counters()).validate, 2);
    // The same where only the event says so: a redelivery costs one call.
    await world.counts(true);
    accepted(await two.message(one, {}));
    const event = { id: "event-1", type: "agent.auth.revoked", version: "v1", timestampUtc: new Date().toISOString() };
    await world.enqueue({ ...event, data: { agentId: two.id, reason: "owner_auth_revoke" } });
    await eventually(async () => (await world.counts()).trust.replace_generation, { what: "the event is applied" });
    accepted(await two.message(one, {}));
    assert.equal((await world.counters()).validate, 4);
  }));

test("a message asks D1 nothing, in any cache state", () =>
  inWorld({}, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
    // Half of what the clock is moved by, so that one timestamp is near enough before and after: with seconds to spare.
    const BETWEEN_S = 4 * 60;
    for (const lose of [
      async () => {},
      () => world.evict("PROXY_TRUST_STATE", one.id),
      () => world.evict("AGENT_RELAY_SESSION", two.agentDid),
      () => world.moveClock(2 * BETWEEN_S * 1000),
    ]) {
      await lose();
      // An isolate looks at the row of the signing keys at most once in 30 s, beside a request: this one.
      accepted(await one.message(two, {}, { timestamp: nowSeconds() + BETWEEN_S }));
      await lose();
      await world.counts(true);
      accepted(await one.message(two, {}, { timestamp: nowSeconds() + BETWEEN_S }));
      assert.equal((await world.counts()).database, 0);
    }
  }));

test("a warm request: no registry call, one trust-state call", () =>
  inWorld({}, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
    await eventually(async () => (await world.counts()).trust.store_validation, { what: "the validation is kept" });
    await world.counters(true);
    await world.counts(true);
    assert.deepEqual(statuses(await eightAtATime(100, () => one.message(two, {}))), { 202: 100 });
    assert.deepEqual(await world.counters(), { keys: 0, crl: 0, validate: 0, ownership: 0, membership: 0 });
    const { database, trust } = await world.counts();
    assert.deepEqual({ database, trust }, { database: 0, trust: { admit: 100 } });
  }));

// The CRL brings what the queue has lost: within one run, in batches, across interruptions, and within the
// platform's limits.
import assert from "node:assert/strict";
import { test } from "node:test";

import { admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, event } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";


// The isolate's own copy of the CRL is kept out of it: what refuses is the overlay.
const bindings = { ADMIN_TOKEN: ADMIN, CRL_REFRESH_INTERVAL_MS: "86400000", CRL_MAX_AGE_MS: "604800000" };

async function withWorld(run) {
  const world = await start({ hooks: true, bindings });
  try {
    await run(world, {
      reconcile: (work) =>
        world.send("POST", "/admin/v1/reconcile", { headers: { authorization: `Bearer ${ADMIN}`, ...(work && { "x-request-id": work }) } }),
      state: () => world.db.prepare("SELECT * FROM reconciliation").first(),
      count: async (where = "1 = 1") => {
        const { results } = await world.db.prepare(`SELECT COUNT(*) AS n FROM revocations WHERE ${where}`).all();
        return results[0].n;
      },
    });
  } finally {
    await world.stop();
  }
}

test("a reissue that no event told: refused and its socket closed by the next run, the new token admitted", () =>
  withWorld(async (world, { reconcile, count }) => {
    const agent = await world.agent();
    admitted(await probe(agent)); // the isolate has its list now, an empty one
    assert.deepEqual(answered(await reconcile(), 200), { outcome: "nothing", listed: 0, added: 0, told: 0 });
    const socket = await agent.connect();
    const old = { ait: agent.ait };
    await agent.atRegistry("reissue");
    admitted(await probe(agent, old));
    const report = answered(await reconcile(), 200);
    assert.deepEqual(report, { outcome: "complete", listed: 1, added: 1, told: 1 });
    refused(await probe(agent, old), 401, "PROXY_AUTH_REVOKED");
    assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" });
    admitted(await probe(agent));
    assert.equal(await count("kind = 'token' AND source = 'crl' AND expires_at_ms > 0"), 1);
    assert.deepEqual(answered(await reconcile(), 200), { outcome: "complete", listed: 1, added: 0, told: 0 });
    const applied = world.logged("proxy.revocation.applied");
    assert.deepEqual(applied.map((line) => [line.source, line.socketsClosed]), [["crl", 1]]);
  }));

test("queue and CRL in either order: the same rows", () =>
  withWorld(async (world, { reconcile, count }) => {
    const [first, second] = await world.agents(2);
    const told = (agent) => event({ agentDid: agent.agentDid, reason: "reissued", jti: agent.aitJti });
    const listed = (agent) => world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid, reason: "reissued" });
    await world.enqueue(told(first));
    await eventually(async () => (await count()) === 1, { what: "the row" });
    await listed(first);
    await listed(second);
    answered(await reconcile(), 200);
    await world.enqueue(told(second));
    await eventually(() => world.logged("proxy.revocation.applied").length >= 2, { what: "the event" });
    assert.equal(await count(), 2);
    for (const agent of [first, second]) refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  }));

test("an ETag is used, but not while a run is unfinished; a registry that is down is a 503", () =>
  withWorld(async (world, { reconcile }) => {
    await world.registry("/dev/settings", { etag: true });
    await world.registry("/dev/crl", { jti: ulid(), agentDid: (await world.agent()).agentDid });
    assert.equal(answered(await reconcile(), 200).outcome, "complete");
    assert.equal(answered(await reconcile(), 200).outcome, "not_modified");
    await world.db.prepare("UPDATE reconciliation SET cursor = '00000000000000000000000000'").run();
    assert.equal(answered(await reconcile(), 200).outcome, "complete");
    await world.fault("crl", "500");
    refused(await reconcile(), 503, "PROXY_REVOCATION_UNAVAILABLE");
    await world.moveClock(16 * 60_000); // a run is due every quarter of an hour
    await world.runScheduled(); // a line, and no more
    assert.ok(world.logged("proxy.reconcile.failed").length > 0);
  }));

test("ten thousand entries are one run; an interrupted one loses nothing", (t) =>
  withWorld(async (world, { reconcile, count }) => {
    const agents = await world.agents(5);
    for (const agent of agents) admitted(await probe(agent));
    const entry = (jti, agentDid) => ({ jti, agentDid, reason: "reissued" });
    const strangers = Array.from({ length: 10_000 - 5 }, () => entry(ulid(), agents[0].agentDid.slice(0, -26) + ulid()));
    const entries = [...strangers, ...agents.map((agent) => entry(agent.aitJti, agent.agentDid))];
    for (let at = 0; at < entries.length; at += 2500) await world.registry("/dev/crl", { entries: entries.slice(at, at + 2500) });

    const started = performance.now();
    const report = answered(await reconcile(), 200);
    t.diagnostic(`10,000 entries: ${Math.round(performance.now() - started)} ms`);
    assert.deepEqual(report, { outcome: "complete", listed: 10_000, added: 10_000, told: 5 });
    for (const agent of agents) refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
    const again = performance.now();
    assert.equal(answered(await reconcile(), 200).added, 0);
    t.diagnostic(`again: ${Math.round(performance.now() - again)} ms`);

    // As a run leaves it that was cut off after it recorded and before it told.
    const late = await world.agent();
    admitted(await probe(late));
    await world.registry("/dev/crl", entry(late.aitJti, late.agentDid));
    await world.db.prepare(`INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
      VALUES ('token', ?1, ?2, 'crl', 1, 1, ?3)`).bind(late.agentDid, late.aitJti, Date.now() + 3_600_000).run();
    await world.db.prepare("UPDATE reconciliation SET cursor = ?1, pending = ?2").bind(entries[5000].jti, JSON.stringify([late.aitJti])).run();
    admitted(await probe(late));
    assert.deepEqual(answered(await reconcile(), 200), { outcome: "complete", listed: 10_001, added: 0, told: 1 });
    refused(await probe(late), 401, "PROXY_AUTH_REVOKED");
    assert.equal(await count(), 10_001);
  }));

test("a run tells so many agents and no more; the next goes on", () =>
  withWorld(async (world, { reconcile, count }) => {
    const agents = await Promise.all(Array.from({ length: 110 }, () => world.agent()));
    await Promise.all(agents.map(async (agent) => admitted(await probe(agent))));
    // Many tokens in the table at once, so that every batch has some to tell.
    const others = Array.from({ length: 600 }, () => ({ jti: ulid(), agentDid: agents[0].agentDid.slice(0, -26) + ulid() }));
    await world.registry("/dev/crl", { entries: [...others, ...agents.map((agent) => ({ jti: agent.aitJti, agentDid: agent.agentDid }))] });
    let told = 0;
    let outcome;
    for (let run = 0; run < 5 && outcome !== "complete"; run++) {
      const report = answered(await reconcile(), 200);
      told += report.told;
      outcome = report.outcome;
    }
    assert.deepEqual([outcome, told, await count()], ["complete", 110, 710]);
    for (const agent of agents) refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  }));

test("what was lifted while a run was interrupted stays lifted, and what the list no longer names is still taken", () =>
  withWorld(async (world, { reconcile, state }) => {
    const [lifted, dropped, other] = await world.agents(3);
    for (const agent of [lifted, dropped]) admitted(await probe(agent));
    await world.registry("/dev/crl", { jti: ulid(), agentDid: other.agentDid });
    answered(await reconcile(), 200);
    // As the run left it: both recorded, neither told; then an operator gave one back, and the list was cut.
    const row = `INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms, lifted_by)
      VALUES ('token', ?1, ?2, 'crl', 1, 1, ?3, ?4)`;
    for (const [agent, by] of [[lifted, 999], [dropped, null]]) {
      await world.db.prepare(row).bind(agent.agentDid, agent.aitJti, Date.now() + 3_600_000, by).run();
    }
    await world.db.prepare("UPDATE reconciliation SET pending = ?").bind(JSON.stringify([lifted.aitJti, dropped.aitJti])).run();
    const socket = await lifted.connect();
    assert.equal(answered(await reconcile(), 200).told, 1);
    refused(await probe(dropped), 401, "PROXY_AUTH_REVOKED");
    admitted(await probe(lifted));
    socket.send({ type: "heartbeat" });
    await socket.next("heartbeat_ack");
    assert.equal((await state()).pending, null);
  }));

// A run's calls, where one token is lacking: state, begin, lacking, pending, agents, …
const [BEGIN, PENDING, AGENTS] = [1, 3, 4];

test("two runs at once: what the one dies of is the other's to finish", () =>
  withWorld(async (world, { reconcile, state, count }) => {
    const agent = await world.agent();
    admitted(await probe(agent));
    await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid });
    await world.lose("work:slow-to-begin", BEGIN, "held");
    const slow = reconcile("work:slow-to-begin");
    await eventually(async () => (await world.callsOf("work:slow-to-begin")).length > BEGIN, { what: "the first run" });
    await world.lose("work:dies", PENDING, "after");
    refused(await reconcile("work:dies"), 503, "PROXY_REVOCATION_UNAVAILABLE");
    // It recorded before it died, and told nobody.
    await world.db.prepare(`INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
      VALUES ('token', ?1, ?2, 'crl', 1, 1, ?3)`).bind(agent.agentDid, agent.aitJti, Date.now() + 3_600_000).run();
    admitted(await probe(agent));
    await world.release("work:slow-to-begin");
    assert.deepEqual(answered(await slow, 200), { outcome: "complete", listed: 1, added: 0, told: 1 });
    refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
    assert.deepEqual([(await state()).pending, await count()], [null, 1]);
  }));

test("two runs at once: the later one takes over, the other ends and keeps nothing", () =>
  withWorld(async (world, { reconcile, state, count }) => {
    const agents = await world.agents(2);
    for (const agent of agents) {
      admitted(await probe(agent));
      await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid });
    }
    await world.lose("work:earlier", AGENTS, "held");
    const earlier = reconcile("work:earlier");
    await eventually(async () => (await world.callsOf("work:earlier")).length > AGENTS, { what: "the earlier run" });
    assert.deepEqual(answered(await reconcile("work:later"), 200), { outcome: "complete", listed: 2, added: 2, told: 2 });
    for (const agent of agents) refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
    const left = await state();
    await world.release("work:earlier");
    assert.deepEqual(answered(await earlier, 200), { outcome: "partial", listed: 2, added: 0, told: 2 });
    assert.deepEqual([await state(), await count()], [left, 2]);
    assert.equal(left.cursor, null);
  }));

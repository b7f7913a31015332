// What an operator lifts: it is served again everywhere within 30 s, is not revoked again by the same event, and
// never lifts another revocation that is in force.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator as byOperator, event } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
});
after(() => world?.stop());

const asOperator = (...request) => byOperator(world, ...request);
const rows = async (where, ...values) =>
  (await world.db.prepare(`SELECT * FROM revocations WHERE ${where} ORDER BY seq`).bind(...values).all()).results;
const rowsOf = (agent) => rows("agent_did = ? AND kind <> 'lift'", agent.agentDid);
const isRevoked = (answer) => answer.status === 401 && answer.json.error.code === "PROXY_AUTH_REVOKED";
const untilRevoked = (agent) => eventually(async () => isRevoked(await probe(agent)), { what: "the refusal" });
// Isolates remember a refusal for 30 s; the tests move the clock past that.
let offsetMs = 0;
const after30s = () => world.moveClock((offsetMs += 31_000));
const probeNow = (agent) => probe(agent, { timestamp: Math.floor((Date.now() + offsetMs) / 1000) });

test("a lift: served again after 30 s everywhere, once, and not revoked again by the same event", async () => {
  const agent = await world.agent();
  admitted(await probe(agent));
  const told = event({ agentId: agent.id, reason: "agent_revoked", jti: agent.aitJti });
  await world.enqueue(told);
  await untilRevoked(agent);
  const [row] = await eventually(async () => {
    const found = await rows("kind = 'agent' AND agent_did = ?", agent.agentDid);
    return found.length > 0 && found;
  });
  const path = `/admin/v1/revocations/${row.seq}/lift`;
  refused(await asOperator("POST", path), 409, "PROXY_REVOCATION_NEEDS_FORCE");
  const lift = answered(await asOperator("POST", path, { force: true }), 201);
  assert.deepEqual([lift.kind, lift.lifts, lift.source], ["lift", row.seq, "operator"]);
  assert.deepEqual(answered(await asOperator("POST", path, { force: true }), 200), lift);
  await after30s();
  admitted(await probeNow(agent));

  await world.enqueue(told); // a redelivery
  const bystander = await world.agent();
  await world.enqueue(event({ agentId: bystander.id, reason: "agent_revoked" }));
  await eventually(async () => isRevoked(await probeNow(bystander)), { what: "the next event" });
  await eventually(async () => !isRevoked(await probeNow(agent)), { what: "the ledger's word" , deadlineMs: 3000 })
    .catch(async () => { await after30s(); });
  admitted(await probeNow(agent));
  assert.equal((await rowsOf(agent)).length, 2);

  await world.wipe("PROXY_TRUST_STATE", agent.id);
  admitted(await probeNow(agent));
  await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }));
  await eventually(async () => isRevoked(await probeNow(agent)), { what: "the refusal after another event" });
  offsetMs = 0;
  await world.moveClock(0);
});

test("an operator's revocation and the registry's of the same agent, in either order: one row, the registry's", async () => {
  const [first, second] = await world.agents(2);
  const revoke = (agent) => asOperator("POST", "/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid, reason: "mine" });
  const events = Object.fromEntries([first, second].map((agent) => [agent.id, event({ agentId: agent.id, reason: "agent_revoked" })]));
  const told = async (agent) => {
    const before = world.logged("proxy.revocation.applied").length;
    await world.enqueue(events[agent.id]);
    await eventually(() => world.logged("proxy.revocation.applied").length > before, { what: "the event" });
  };
  answered(await revoke(first), 201);
  await told(first);
  await told(second);
  await eventually(async () => (await rowsOf(second)).length === 1, { what: "the row" });
  answered(await revoke(second), 200);
  for (const agent of [first, second]) {
    const registrys = async () => (await rowsOf(agent)).map((row) => [row.source, row.event_id]);
    await eventually(async () => (await registrys())[0][0] === "queue", { what: "the registry's row" });
    assert.deepEqual(await registrys(), [["queue", events[agent.id].id]]);
    const path = `/admin/v1/revocations/${(await rowsOf(agent))[0].seq}/lift`;
    refused(await asOperator("POST", path), 409, "PROXY_REVOCATION_NEEDS_FORCE");
    answered(await asOperator("POST", path, { force: true }), 201);

    // Taken by the operator once more, and told by the registry once more what was lifted.
    answered(await revoke(agent), 201);
    await told(agent);
    await after30s();
    refused(await probeNow(agent), 401, "PROXY_AUTH_REVOKED");
    assert.deepEqual(await registrys(), [["queue", events[agent.id].id], ["operator", null]]);
  }
  offsetMs = 0;
  await world.moveClock(0);
});

test("with an agent go the tokens that are listed because of it, but a lift asked for again lifts nothing that came later", async () => {
  const agent = await world.agent();
  const revoke = async () => answered(await asOperator("POST", "/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid }), 201).seq;
  const lift = (seq, body) => asOperator("POST", `/admin/v1/revocations/${seq}/lift`, body);
  const token = async () => (await rows("kind = 'token' AND jti = ?", agent.aitJti)).map((row) => row.lifted_by !== null);
  const first = await revoke();
  answered(await lift(first), 201);
  const second = await revoke();
  await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid, reason: "agent_revoked" });
  answered(await asOperator("POST", "/admin/v1/reconcile"), 200);
  assert.deepEqual(await token(), [false]);
  answered(await lift(first), 200);
  assert.deepEqual(await token(), [false]);
  answered(await lift(second, { force: true }), 201);
  assert.deepEqual(await token(), [true]);
});

test("revoked and lifted, in two isolates: each refuses at once, each forgets its refusal after 30 s and not before", async () => {
  const own = await start({ hooks: true, second: true, bindings: { ADMIN_TOKEN: ADMIN } });
  const headers = { authorization: `Bearer ${ADMIN}` };
  const order = async (path, body) => answered(await own.send("POST", path, { headers, body: JSON.stringify(body) }), 201);
  try {
    const agent = await own.agent();
    const there = Object.assign(Object.create(agent), { proxyUrl: own.secondUrl });
    for (const each of [agent, there]) admitted(await probe(each));
    const { seq } = await order("/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid });
    for (const each of [there, agent]) refused(await probe(each), 401, "PROXY_AUTH_REVOKED");
    await order(`/admin/v1/revocations/${seq}/lift`, {});
    // Of both isolates the memory is what still refuses: nobody asks the object.
    await own.counts(true);
    for (const each of [there, agent]) refused(await probe(each), 401, "PROXY_AUTH_REVOKED");
    assert.deepEqual((await own.counts()).trust, {});
    await own.moveClock(29_000);
    for (const each of [there, agent]) refused(await probe(each), 401, "PROXY_AUTH_REVOKED");
    await own.moveClock(30_001);
    for (const each of [there, agent]) admitted(await probe(each));
  } finally {
    await own.stop();
  }
});

test("a lift that comes while an object waits for the ledger's word on a revocation has the last word", async () => {
  const own = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN, REVOKED_MEMORY_MS: "0" } });
  const headers = { authorization: `Bearer ${ADMIN}` };
  const order = async (path, body) => answered(await own.send("POST", path, { headers, body: JSON.stringify(body) }), 201);
  try {
    for (const subject of [({ agentDid }) => ({ kind: "agent", agentDid }), ({ aitJti }) => ({ kind: "token", jti: aitJti })]) {
      const agent = await own.agent();
      admitted(await probe(agent));
      const { seq, kind } = await order("/admin/v1/revocations", subject(agent));
      await own.wipe("PROXY_TRUST_STATE", agent.id);
      const work = `trust:${agent.id}`;
      await own.lose(work, (await own.callsOf(work)).length, "late");
      const asking = probe(agent);
      await eventually(async () => (await own.callsOf(work)).length > 1, { what: "the question" });
      await order(`/admin/v1/revocations/${seq}/lift`, {});
      await own.release(work);
      await asking;
      admitted(await probe(agent), kind);
    }
  } finally {
    await own.stop();
  }
});

test("a revocation that comes while an earlier one is being lifted holds: requests, sockets and mail", async () => {
  const own = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN, REVOKED_MEMORY_MS: "0" } });
  const order = async (path, body, work = `work:${ulid()}`) => {
    const headers = { authorization: `Bearer ${ADMIN}`, "x-request-id": work };
    return answered(await own.send("POST", path, { headers, body: JSON.stringify(body) }), 201);
  };
  try {
    const [agent, peer] = await own.agents(2);
    await pair(agent, peer);
    const { seq } = await order("/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid });
    const [work, calls] = ["work:the-lift", ["D1", "D1", "D1", "D1", "feed /poke", "trust lift", "relay liftRevocation"]];
    const held = async (at) => {
      await own.lose(work, at, "held");
      await eventually(async () => (await own.callsOf(work)).length > at, { what: calls[at] });
    };
    const toOverlay = held(calls.indexOf("trust lift"));
    const lift = order(`/admin/v1/revocations/${seq}/lift`, {}, work);
    await toOverlay;
    await order("/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid });
    // The lift has seen nothing of it, and opens what it then closes again.
    await held(calls.indexOf("relay liftRevocation"));
    const socket = await agent.connect();
    await own.release(work);
    await lift;
    assert.deepEqual((await own.callsOf(work)).slice(0, calls.length), calls);
    refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
    assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" });
    accepted(await peer.message(agent, {}), { state: "dead_lettered" });
  } finally {
    await own.stop();
  }
});

test("a lifted token is admitted though the CRL goes on listing it", async () => {
  const own = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
  try {
    const agent = await own.agent();
    const old = { ait: agent.ait };
    const jti = agent.aitJti;
    await agent.atRegistry("reissue");
    refused(await probe(agent, old), 401, "PROXY_AUTH_REVOKED");
    await own.runScheduled();
    const { results } = await own.db.prepare("SELECT * FROM revocations WHERE jti = ?").bind(jti).all();
    assert.deepEqual(results.map((row) => [row.kind, row.source, row.agent_did]), [["token", "crl", agent.agentDid]]);
    const headers = { authorization: `Bearer ${ADMIN}` };
    const body = JSON.stringify({ force: true });
    answered(await own.send("POST", `/admin/v1/revocations/${results[0].seq}/lift`, { headers, body }), 201);
    await own.moveClock(31_000);
    const later = { ...old, timestamp: Math.floor((Date.now() + 31_000) / 1000) };
    admitted(await probe(agent, later));
    await own.runScheduled();
    await own.wipe("PROXY_TRUST_STATE", agent.id);
    admitted(await probe(agent, { ...later, nonce: undefined }));
  } finally {
    await own.stop();
  }
});

test("mail for a revoked agent whose session never was, or was lost, is dead-lettered; after the lift it waits", async () => {
  const own = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
  try {
    for (const isLost of [false, true]) {
      const [alice, bob] = await own.couple();
      if (isLost) accepted(await alice.message(bob, {}), { state: "queued" });
      const { seq } = answered(await byOperator(own, "POST", "/admin/v1/revocations", { kind: "agent", agentDid: bob.agentDid }), 201);
      await (isLost ? own.wipe : own.evict).call(own, "AGENT_RELAY_SESSION", bob.agentDid);
      accepted(await alice.message(bob, {}), { state: "dead_lettered" });
      answered(await byOperator(own, "POST", `/admin/v1/revocations/${seq}/lift`), 201);
      accepted(await alice.message(bob, {}), { state: "queued", queueDepth: 1 });
    }
  } finally {
    await own.stop();
  }
});

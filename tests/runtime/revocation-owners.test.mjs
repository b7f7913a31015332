// Whoever presents what is revoked is struck, for as long as it lives, and once: an event or an order that names another
// agent than the token's owner, one event for several agents, an expiry that is told too early, duplicates after a lift.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator as byOperator, event } from "../support/revocation.mjs";
import { ackAll } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN, REVOKED_MEMORY_MS: "0" } });
});
after(() => world?.stop());

const asOperator = (...request) => byOperator(world, ...request);
const rowsOf = async (event_id) =>
  (await world.db.prepare("SELECT * FROM revocations WHERE event_id = ? ORDER BY seq").bind(event_id).all()).results;
const rowOfToken = (jti) => world.db.prepare("SELECT * FROM revocations WHERE kind = 'token' AND jti = ?").bind(jti).first();
const isRevoked = async (agent) => (await probe(agent)).json?.error?.code === "PROXY_AUTH_REVOKED";


test("an operator who names another agent than the token's owner is told so, and nothing is revoked", async () => {
  const [a, b] = await world.agents(2);
  admitted(await probe(a));
  const order = { kind: "token", jti: a.aitJti, agentDid: b.agentDid };
  const error = refused(await asOperator("POST", "/admin/v1/revocations", order), 409, "PROXY_REVOCATION_AGENT_MISMATCH");
  assert.equal(error.details.ownerAgentDid, a.agentDid);
  assert.equal(await rowOfToken(a.aitJti), null);
  for (const agent of [a, b]) admitted(await probe(agent));
});

test("an event that names another agent strikes the token's owner, whose row it is, and a lift gives it back", async () => {
  const [a, b] = await world.agents(2);
  for (const agent of [a, b]) admitted(await probe(agent));
  const socket = await a.connect();
  await world.enqueue(event({ agentId: b.id, reason: "reissued", jti: a.aitJti }));
  assert.equal((await socket.closed).code, 1008);
  refused(await probe(a), 401, "PROXY_AUTH_REVOKED");
  admitted(await probe(b));
  const row = await eventually(() => rowOfToken(a.aitJti), { what: "the row" });
  assert.equal(row.agent_did, a.agentDid);
  assert.equal(world.logged("proxy.revocation.agent_mismatch").length, 1);
  answered(await asOperator("POST", `/admin/v1/revocations/${row.seq}/lift`, { force: true }), 201);
  admitted(await probe(a));
});

test("a token that nobody has shown is recorded under the agent that is named, and strikes whoever shows it", async () => {
  const [a, b] = await world.agents(2);
  const told = event({ agentId: b.id, reason: "reissued", jti: a.aitJti });
  await world.enqueue(told);
  const row = await eventually(() => rowOfToken(a.aitJti), { what: "the row" });
  assert.equal(row.agent_did, b.agentDid);
  refused(await probe(a), 401, "PROXY_AUTH_REVOKED");
  assert.equal((await rowOfToken(a.aitJti)).agent_did, a.agentDid);
});

test("one event for several agents is a row for each", async () => {
  const agents = await world.agents(2);
  const id = event({}).id;
  for (const agent of agents) await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }, { id }));
  await eventually(async () => (await rowsOf(id)).length === 2, { what: "two rows" });
  for (const agent of agents) {
    await world.wipe("PROXY_TRUST_STATE", agent.id);
    refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  }
});

test("an expiry that is told can only lengthen a revocation: the token stays refused for as long as it lives", async () => {
  const [seen, unseen] = await world.agents(2);
  admitted(await probe(seen));
  for (const agent of [seen, unseen]) {
    const expiresAt = new Date(Date.now() + 15 * 60_000).toISOString();
    await world.enqueue(event({ agentId: agent.id, reason: "reissued", jti: agent.aitJti, expiresAt }));
    await eventually(() => rowOfToken(agent.aitJti), { what: "the row" });
  }
  const { exp } = JSON.parse(Buffer.from(seen.ait.split(".")[1], "base64url"));
  for (const agent of [seen, unseen]) assert.ok((await rowOfToken(agent.aitJti)).expires_at_ms >= exp * 1000);
  refused(await probe(unseen), 401, "PROXY_AUTH_REVOKED");
});

test("a duplicate changes nothing after a lift, whichever of two events it repeats, and whether or not it has an id", async () => {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  const first = event({ agentId: agent.id, reason: "agent_revoked" });
  const second = event({ agentId: agent.id, reason: "agent_revoked" });
  const { id: _, ...nameless } = event({ agentId: agent.id, reason: "agent_revoked" });
  for (const told of [first, second, nameless]) {
    await world.enqueue(told);
    await eventually(async () => isRevoked(agent), { what: "the refusal" });
  }
  await eventually(async () => (await world.db.prepare("SELECT COUNT(*) AS n FROM applied_events WHERE subject = ?")
    .bind(agent.agentDid).first()).n === 3, { what: "three remembered events" });
  const { seq } = await world.db.prepare("SELECT seq FROM revocations WHERE agent_did = ? AND kind = 'agent'").bind(agent.agentDid).first();
  answered(await asOperator("POST", `/admin/v1/revocations/${seq}/lift`, { force: true }), 201);
  admitted(await probe(agent));
  accepted(await peer.message(agent, { waits: true }), { state: "queued" });
  for (const told of [first, second, nameless]) {
    const before = world.logged("proxy.revocation.applied").length;
    await world.enqueue(told);
    await eventually(() => world.logged("proxy.revocation.applied").length > before, { what: "the duplicate" });
    await eventually(async () => !(await isRevoked(agent)), { what: "that it is given back" });
  }
  const { n } = await world.db.prepare("SELECT COUNT(*) AS n FROM revocations WHERE agent_did = ? AND kind = 'agent' AND lifted_by IS NULL")
    .bind(agent.agentDid).first();
  assert.equal(n, 0);
  // What waited was held, not given up.
  const inbox = await agent.connect(ackAll);
  assert.deepEqual((await inbox.next("deliver")).payload, { waits: true });
  await inbox.close();
});

test("a duplicate of a session's end takes nothing from the next session, and a lost object knows of it from the record", async () => {
  const [agent, peer, other] = await world.agents(3);
  for (const one of [peer, other]) await pair(agent, one);
  const told = event({ agentId: agent.id, reason: "owner_auth_revoke" });
  const tell = async (tries) => {
    await world.enqueue(told);
    const ended = async () => (await world.callsOf(told.id)).filter((call) => call === "feed /poke").length === tries;
    await eventually(ended, { what: "the end of the session" });
  };
  for (const one of [peer, other]) accepted(await agent.message(one, { of: "the first session" }), { state: "queued" });
  await tell(1);
  await agent.atRegistry("refresh", { event: false });
  accepted(await agent.message(peer, { of: "the second session" }), { state: "queued" });
  await tell(2);
  accepted(await agent.message(peer, { of: "the second session, later" }), { state: "queued" });
  accepted(await agent.message(other, { of: "the second session" }), { state: "queued" });

  const inbox = await peer.connect(ackAll);
  for (const of of ["the second session", "the second session, later"]) assert.deepEqual((await inbox.next("deliver")).payload, { of });
  await inbox.close();
  await world.wipe("PROXY_TRUST_STATE", agent.id);
  const others = await other.connect(ackAll);
  assert.deepEqual((await others.next("deliver")).payload, { of: "the second session" });
  await others.close();
});

// The ledger behind the kill switch: it has one row for each thing that is revoked, however often and in whatever
// order events come; an object that lost its storage is right from its first admission; and what an operator does
// with the ledger.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator as byOperator, event } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
});
after(() => world?.stop());

const asOperator = (...request) => byOperator(world, ...request);
const rows = async (where = "1 = 1", ...values) =>
  (await world.db.prepare(`SELECT * FROM revocations WHERE ${where} ORDER BY seq`).bind(...values).all()).results;
const rowsOf = (agent) => rows("agent_did = ? AND kind <> 'lift'", agent.agentDid);
const isRevoked = (answer) => answer.status === 401 && answer.json.error.code === "PROXY_AUTH_REVOKED";
const untilRevoked = (agent) => eventually(async () => isRevoked(await probe(agent)), { what: "the refusal" });

test("the same event a hundred times is one row; what it names are rows of their own", async () => {
  const agent = await world.agent();
  admitted(await probe(agent));
  const told = event({ agentId: agent.id, reason: "agent_revoked", jtis: [agent.aitJti, ulid()] });
  await Promise.all(Array.from({ length: 100 }, () => world.enqueue(told)));
  await eventually(async () => (await rowsOf(agent)).length === 3, { what: "three rows" });
  await eventually(async () => isRevoked(await probe(agent)), { what: "the refusal" });
  const found = await rowsOf(agent);
  assert.deepEqual(found.map((row) => row.kind).sort(), ["agent", "token", "token"]);
  for (const row of found) {
    assert.deepEqual([row.source, row.event_id, row.reason], ["queue", told.id, "agent_revoked"]);
    assert.equal(row.expires_at_ms === null, row.kind === "agent");
  }
});

const KINDS = {
  agent: { data: (a) => ({ agentId: a.id, reason: "agent_revoked" }), code: "PROXY_AUTH_REVOKED" },
  "token, its agent named": { data: (a) => ({ agentId: a.id, reason: "reissued", jti: a.aitJti }), code: "PROXY_AUTH_REVOKED" },
  "token, its agent not named": { data: (a) => ({ reason: "reissued", jti: a.aitJti }), code: "PROXY_AUTH_REVOKED" },
  "token, never seen here": { unseen: true, data: (a) => ({ reason: "reissued", jti: a.aitJti }), code: "PROXY_AUTH_REVOKED" },
  session: { data: (a) => ({ agentId: a.id, reason: "owner_auth_revoke" }), code: "PROXY_AGENT_ACCESS_INVALID" },
};

test("every kind of revocation holds past an eviction, a lost overlay and a restart: requests, sockets, queued mail", async () => {
  // What refuses is the object and the ledger, no isolate's memory.
  const own = await start({ hooks: true, bindings: { REVOKED_MEMORY_MS: "0" } });
  try {
    const peer = await own.agent();
    const gone = {};
    for (const [kind, { data, unseen, code }] of Object.entries(KINDS)) {
      const agent = (gone[kind] = await own.agent());
      let socket;
      if (!unseen) {
        await pair(agent, peer);
        accepted(await agent.message(peer, { of: kind }), { state: "queued" });
        socket = await agent.connect();
      }
      await agent.registry("/dev/agents/end-session", { agentDid: agent.agentDid, event: false });
      await own.enqueue(event(data(agent)));
      if (socket) {
        assert.equal((await socket.closed).code, 1008, kind);
        socket.send({ type: "enqueue", toAgentDid: peer.agentDid, payload: { of: "a closed socket" } });
      }
      const row = "SELECT * FROM revocations WHERE agent_did = ?1 OR jti = ?2";
      await eventually(() => own.db.prepare(row).bind(agent.agentDid, agent.aitJti).first(), { what: `the row of ${kind}` });
      const holds = async (when) => {
        for (const answer of [await agent.message(peer, {}), await agent.get("/v1/relay/delivery-receipts")]) {
          assert.deepEqual([answer.status, answer.json.error.code], [401, code], `${kind}, ${when}`);
        }
        const refusal = await agent.connect().catch((error) => error);
        assert.deepEqual([refusal.status, refusal.json?.error?.code], [401, code], `${kind}, ${when}`);
      };
      KINDS[kind].holds = holds;
      await own.evict("PROXY_TRUST_STATE", agent.id);
      await holds("evicted");
      await own.wipe("PROXY_TRUST_STATE", agent.id);
      await holds("wiped");
      await own.wipe("PROXY_TRUST_STATE", agent.id);
    }
    await own.killAndRestart();
    own.adopt(peer, ...Object.values(gone));
    for (const { holds } of Object.values(KINDS)) await holds("restarted");

    // The queue asks about senders: what the wiped objects know of them, they know from the ledger.
    await own.wipe("PROXY_TRUST_STATE", gone.agent.id);
    const carol = await own.agent();
    await pair(carol, peer);
    accepted(await carol.message(peer, { of: "carol" }), { state: "queued" });
    const inbox = await peer.connect(ackAll);
    const mail = [];
    while (mail.at(-1) !== "carol") mail.push((await inbox.next("deliver")).payload.of);
    assert.ok(!mail.includes("agent") && !mail.includes("a closed socket"), `${mail}`);
    await inbox.close();
  } finally {
    await own.stop();
  }
});

test("rows of tokens are swept a day after they expire; agents' rows and the last number stay", async () => {
  const old = Date.now() - 2 * 24 * 3_600_000;
  const row = `INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
    SELECT 'token', 'did:cdi:registry.test:agent:' || printf('%026d', value), printf('%026d', value), 'crl', 1, 1, ?1
    FROM json_each(?2)`;
  await world.db.prepare(row).bind(old, JSON.stringify(Array.from({ length: 2500 }, (_, n) => n))).run();
  await world.db.prepare("INSERT INTO agent_tokens SELECT jti, agent_did, expires_at_ms FROM revocations WHERE expires_at_ms = ?").bind(old).run();
  const agents = (await rows("kind = 'agent'")).length;
  const [{ latest }] = (await world.db.prepare("SELECT MAX(seq) AS latest FROM revocations").all()).results;
  await world.runScheduled();
  assert.deepEqual((await rows("expires_at_ms = ?", old)).map((left) => left.seq), [latest]);
  assert.equal((await rows("kind = 'agent'")).length, agents);
  const { results } = await world.db.prepare("SELECT COUNT(*) AS n FROM agent_tokens WHERE expires_at_ms = ?").bind(old).all();
  assert.equal(results[0].n, 0);
});

test("an operator revokes: an agent, a token, a session", async () => {
  const [agent, token, session, peer] = await world.agents(4);
  await pair(session, peer);
  const socket = await agent.connect();
  const asked = { kind: "agent", agentDid: agent.agentDid, reason: "at three in the morning" };
  const item = answered(await asOperator("POST", "/admin/v1/revocations", asked), 201);
  assert.deepEqual([item.kind, item.agentDid, item.source, item.reason], ["agent", agent.agentDid, "operator", asked.reason]);
  assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" });
  refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  assert.deepEqual(answered(await asOperator("POST", "/admin/v1/revocations", asked), 200), item);

  admitted(await probe(token));
  const expiresAt = Date.now() + 3_600_000;
  const ofToken = { kind: "token", jti: token.aitJti, expiresAt };
  const tokenItem = answered(await asOperator("POST", "/admin/v1/revocations", ofToken), 201);
  // What is told can only lengthen what is known of the token's life, and this token has been shown.
  const { exp } = JSON.parse(Buffer.from(token.ait.split(".")[1], "base64url"));
  const known = Math.max(expiresAt, exp * 1000);
  assert.deepEqual([tokenItem.jti, tokenItem.expiresAt, tokenItem.agentDid], [token.aitJti, known, token.agentDid]);
  refused(await probe(token), 401, "PROXY_AUTH_REVOKED");

  const open = await session.connect();
  answered(await asOperator("POST", "/admin/v1/revocations", { kind: "session", agentDid: session.agentDid }), 201);
  assert.equal((await open.closed).code, 1008);
  admitted(await probe(session));

  const page = answered(await asOperator("GET", `/admin/v1/revocations?since=${item.seq - 1}`), 200);
  assert.deepEqual(page.items.map((each) => each.kind), ["agent", "token", "session"]);
  const status = answered(await asOperator("GET", "/admin/v1/status"), 200);
  assert.equal(status.latest, page.latest);
});

test("who may: no token 401, a wrong one 401 and after ten 429 for that address alone, none set 404", async () => {
  const as = (token, from) =>
    world.send("GET", "/admin/v1/status", {
      headers: { "cf-connecting-ip": from, ...(token && { authorization: `Bearer ${token}` }) },
    });
  refused(await as(undefined, "1.1.1.1"), 401, "PROXY_BEARER_REQUIRED");
  for (let n = 0; n < 10; n++) refused(await as("wrong".repeat(10), "1.1.1.1"), 401, "PROXY_BEARER_INVALID");
  const stopped = await as("wrong".repeat(10), "1.1.1.1");
  refused(stopped, 429, "PROXY_SIGN_IN_LIMIT_EXCEEDED");
  assert.match(stopped.headers.get("retry-after"), /^[1-9]/);
  answered(await as(ADMIN, "1.1.1.1"), 200); // the right token is never refused because of failed attempts
  answered(await as(ADMIN, "2.2.2.2"), 200);
  const lines = world.logged("proxy.admin.sign_in_failed");
  assert.ok(lines.every((line) => typeof line.address === "string") && lines.some((line) => line.address === "1.1.1.1"));
  assert.ok(!JSON.stringify(world.logs).includes(ADMIN), "the token is in no line");

  const own = await start();
  try {
    for (const [method, path] of [["GET", "/admin/v1/status"], ["DELETE", "/admin/v1/status"], ["POST", "/admin/v1/revocations"]]) {
      refused(await own.send(method, path, { headers: { authorization: `Bearer ${ADMIN}` } }), 404, "PROXY_NOT_FOUND");
    }
  } finally {
    await own.stop();
  }
});

test("what an operator mistypes is refused whole", async () => {
  const did = (await world.agent()).agentDid;
  for (const body of [
    {}, [], null, { kind: "agent" }, { kind: "agent", agentDid: "x" }, { kind: "agent", agentDid: did, jti: ulid() },
    { kind: "agent", agentDid: did.replace("registry.test", "evil.test") }, { kind: "lift", agentDid: did },
    { kind: "token", jti: "x" }, { kind: "token", jti: ulid(), expiresAt: 5 }, { kind: "agent", agentDid: did, surprise: 1 },
  ]) {
    refused(await asOperator("POST", "/admin/v1/revocations", body), 400, "PROXY_ADMIN_INVALID_INPUT");
  }
  refused(await asOperator("POST", "/admin/v1/revocations/999999/lift"), 404, "PROXY_REVOCATION_NOT_FOUND");
  refused(await asOperator("POST", "/admin/v1/revocations/x/lift"), 400, "PROXY_ADMIN_INVALID_INPUT");
  refused(await asOperator("GET", "/admin/v1/revocations?since=x"), 400, "PROXY_ADMIN_INVALID_INPUT");
});

test("a ledger that fails in between: refused at once, and the next try completes it, for the queue and for an operator", async () => {
  const [byEvent, byOperator] = await world.agents(2);
  for (const agent of [byEvent, byOperator]) admitted(await probe(agent));
  const socket = await byEvent.connect();
  const asked = { kind: "agent", agentDid: byOperator.agentDid };
  await world.db.prepare("ALTER TABLE revocations RENAME TO away").run();
  try {
    await world.enqueue(event({ agentId: byEvent.id, reason: "agent_revoked" }));
    await untilRevoked(byEvent);
    assert.equal((await socket.closed).code, 1008);
    refused(await asOperator("POST", "/admin/v1/revocations", asked), 503, "PROXY_REVOCATION_UNAVAILABLE");
    refused(await probe(byOperator), 401, "PROXY_AUTH_REVOKED");
  } finally {
    await world.db.prepare("ALTER TABLE away RENAME TO revocations").run();
  }
  answered(await asOperator("POST", "/admin/v1/revocations", asked), 201);
  await eventually(async () => (await rowsOf(byEvent)).length === 1, { what: "the row of the retry", deadlineMs: 10_000 });
  assert.equal((await rowsOf(byOperator)).length, 1);
});

// Storage that a newer version has written, which this one must neither stumble over nor lose.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator, event } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const RELAY = "AGENT_RELAY_SESSION";
const TRUST = "PROXY_TRUST_STATE";

test("a message that cannot be read is kept, with an error line, and the rest is served", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [from, to] = await world.agents(2);
  await pair(from, to);
  for (const n of [1, 2, 3]) accepted(await from.message(to, { n }), { state: "queued" });
  const rewrite = async (sql) => {
    await world.sql(RELAY, to.agentDid, sql);
    await world.evict(RELAY, to.agentDid);
  };
  // The first, and the last: the next message must not get its number.
  await rewrite("UPDATE mail SET sender_did = 'later:' || sender_did WHERE seq IN (1, 3)");

  accepted(await from.message(to, { n: 4 }), { state: "queued" });
  const socket = await to.connect(ackAll);
  assert.equal((await socket.next("deliver")).payload.n, 2);
  assert.equal((await socket.next("deliver")).payload.n, 4);
  await socket.close();
  const numbers = new Set(world.logged("proxy.relay.mail_unreadable").map((line) => line.number));
  assert.deepEqual([...numbers], [1, 3]);

  await rewrite("UPDATE mail SET sender_did = substr(sender_did, 7) WHERE sender_did LIKE 'later:%'");
  const again = await to.connect(ackAll);
  assert.equal((await again.next("deliver")).payload.n, 1);
  assert.equal((await again.next("deliver")).payload.n, 3);
});

test("rows and columns that this version does not know stop no agent", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [a, b] = await world.couple();
  const trust = [
    "INSERT INTO meta (name, value) VALUES ('of a later version', '{}')",
    "INSERT INTO ended_pairs (peer, pair_id, ended_at_ms, untold_by) VALUES ('later:x', 'p', 1, 'later:y')",
    "CREATE TABLE of_a_later_version (x)",
    "ALTER TABLE peers ADD COLUMN of_a_later_version TEXT",
  ];
  const relay = [
    "INSERT INTO meta (key, value) VALUES ('of a later version', '{}')",
    "CREATE TABLE of_a_later_version (x)",
    "ALTER TABLE mail ADD COLUMN of_a_later_version TEXT",
  ];
  accepted(await a.message(b, {}), { state: "queued" });
  for (const agent of [a, b]) {
    admitted(await probe(agent));
    for (const sql of trust) await world.sql(TRUST, agent.id, sql);
    await world.evict(TRUST, agent.id);
  }
  for (const sql of relay) await world.sql(RELAY, b.agentDid, sql);
  await world.evict(RELAY, b.agentDid);

  accepted(await a.message(b, {}), { state: "queued" });
  const socket = await b.connect(ackAll);
  await socket.next("deliver");
  await socket.next("deliver");
  accepted(await a.message(b, {}), { state: "delivered" });
});

test("a socket whose attachment has a field more goes on", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [a, b] = await world.couple();
  const socket = await b.connect(ackAll);
  await world.attach(RELAY, b.agentDid, { ofALaterVersion: { x: [1] } });
  accepted(await a.message(b, {}), { state: "delivered" });
  socket.send({ type: "heartbeat" });
  await socket.next("heartbeat_ack");
  await b.atRegistry("revoke");
  assert.equal((await socket.closed).code, 1008);
});

// The table of revocations as a version would rebuild it that knows more kinds and sources.
const WITHOUT_CHECKS = [
  "CREATE TABLE rebuilt (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, agent_did TEXT, jti TEXT, lifts INTEGER, reason TEXT, source TEXT NOT NULL, event_id TEXT, revoked_at_ms INTEGER NOT NULL, recorded_at_ms INTEGER NOT NULL, expires_at_ms INTEGER, lifted_by INTEGER)",
  "INSERT INTO rebuilt SELECT * FROM revocations",
];

/** The database after a later version has been at work: columns everywhere, and rows of which this one knows nothing. */
async function madeLater(db, agent) {
  const run = async (sql, ...values) => db.prepare(sql).bind(...values).run();
  const { results } = await db.prepare("SELECT name, sql FROM sqlite_master WHERE tbl_name = 'revocations' AND type = 'index' AND sql IS NOT NULL").all();
  for (const sql of WITHOUT_CHECKS) await run(sql);
  await run("DROP TABLE revocations");
  await run("ALTER TABLE rebuilt RENAME TO revocations");
  for (const { sql } of results) await run(sql);
  const tables = (await db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '\\_%' ESCAPE '\\' AND name <> 'd1_migrations'").all())
    .results.map(({ name }) => name);
  for (const name of tables) await run(`ALTER TABLE ${name} ADD COLUMN of_a_later_version TEXT DEFAULT '{}'`);
  await run("CREATE TABLE of_a_later_version (x)");

  const far = Date.now() + 9e9;
  const rows = [
    ["later", agent.agentDid, null, null, "queue"],
    ["later", "later:x", "later", 7, "later"],
    ["agent", "later:x", null, null, "queue"],
    ["agent", "did:cdi:registry.test:agent:01J00000000000000000000000", null, null, "later"],
    ["token", agent.agentDid, "later", null, "later"],
    ["token", "later:x", "01J00000000000000000000001", null, "later"],
    ["session", "later:x", null, null, "later"],
    ["lift", null, null, null, "later"],
  ];
  for (const values of rows) {
    await run(`INSERT INTO revocations (kind, agent_did, jti, lifts, source, revoked_at_ms, recorded_at_ms, expires_at_ms) VALUES (?, ?, ?, ?, ?, 1, 1, ${far})`, ...values);
  }
  await run("INSERT INTO pairs (agent_did, peer_did, pair_id, paired_at_ms, untold_since_ms) VALUES (?, 'later:x', 'p', 1, 1)", agent.agentDid);
  await run("INSERT INTO pairs (agent_did, peer_did, pair_id, paired_at_ms) VALUES (?, ?, '', 1)", agent.agentDid, "did:cdi:registry.test:agent:01J00000000000000000000002");
  await run("INSERT INTO pair_tickets (kid, issuer, public_key_x, expires_at_ms, initiator_did, initiator_profile) VALUES ('later', 'later', 'later', ?, 'later:x', '[]')", far);
  await run("INSERT INTO agent_tokens (jti, agent_did, expires_at_ms) VALUES ('later', 'later:x', ?), ('01J00000000000000000000003', 'later:x', ?)", far, far);
  await run("INSERT INTO applied_events (event_id, kind, subject, applied_at_ms) VALUES ('later', 'later', 'later', ?)", far);
  await run("INSERT INTO ended_pairs (agent_did, peer_did, pair_id, untold_since_ms) VALUES ('later:x', 'later:y', 'p', 1), (?, 'later:y', '', 1)", agent.agentDid);
  await run("INSERT INTO canary_runs (way, started_at_ms, finished_at_ms) VALUES ('later', ?, NULL), ('later', ?, 1)", far, Date.now());
  await run("INSERT INTO dead_letters (message_id, queue, type, subject, revocation, reason, body, dead_lettered_at_ms) VALUES ('later', 'later', 'later', 'later:x', 7, 'later', '[]', ?)", far);
  await run("UPDATE signing_keys SET document = json_set(document, '$.later', json('{}'), '$.keys[0].later', 1)");
  return tables;
}

test("a database that a later version has written: every door serves, and what is not understood is kept", async (t) => {
  const world = await start({
    hooks: true, consumer: { maxRetries: 0 }, bindings: { ADMIN_TOKEN: ADMIN, FEED_TOKEN: ADMIN, REVOKED_MEMORY_MS: "0", CANARY_INTERVAL_SECONDS: "300" },
  });
  t.after(() => world.stop());
  const operator = async (method, path, body, status = 200) => answered(await asOperator(world, method, path, body), status);
  // Every table has rows of this version, which the later one has kept.
  const [a, b] = await world.couple();
  const gone = await world.agent();
  admitted(await probe(gone));
  await world.registry("/dev/crl", { jti: ulid(), agentDid: b.agentDid, reason: "reissued" });
  await world.runScheduled();
  const first = await operator("POST", "/admin/v1/revocations", { kind: "agent", agentDid: gone.agentDid }, 201);
  await world.enqueue({ id: ulid(), type: "agent.auth.revoked", data: {} });
  await eventually(async () => (await world.deadLetters()).length === 1, { what: "the dead letter" });

  const tables = await madeLater(world.db, a);
  const count = async () => Object.fromEntries(await Promise.all(tables.map(async (name) => {
    const where = { revocations: "revoked_at_ms = 1", pairs: "paired_at_ms = 1", ended_pairs: "untold_since_ms = 1 OR agent_did LIKE 'later%' OR peer_did LIKE 'later%'", canary_runs: "way = 'later'", agent_tokens: "agent_did LIKE 'later%'", pair_tickets: "kid = 'later'", applied_events: "kind = 'later'", dead_letters: "message_id = 'later'" }[name] ?? "1 = 1";
    return [name, (await world.db.prepare(`SELECT COUNT(*) AS n FROM ${name} WHERE ${where}`).first()).n];
  })));
  const before = await count();
  for (const agent of [a, b, gone]) await world.wipe(TRUST, agent.id);

  // The gate, hooks, frames, pairs, receipts.
  for (const agent of [a, b]) admitted(await probe(agent));
  refused(await probe(gone), 401, "PROXY_AUTH_REVOKED");
  const socket = await b.connect(ackAll);
  accepted(await a.message(b, {}), { state: "delivered" });
  const sending = await a.connect(ackAll);
  const { id } = sending.send({ type: "enqueue", toAgentDid: b.agentDid, payload: {} });
  assert.equal((await sending.next((frame) => frame?.ackId === id)).accepted, true);
  const c = await world.agent();
  const { started } = await pair(a, c);
  assert.equal(answered(await a.post("/pair/status", { ticket: started.ticket }), 200).status, "confirmed");
  answered(await a.post("/pair/remove", { peerAgentDid: c.agentDid }), 200);
  refused(await c.message(a, {}), 403, "PROXY_AUTH_FORBIDDEN");
  assert.equal((await a.get(`/v1/relay/delivery-receipts?requestId=${id}&recipientAgentDid=${b.agentDid}`)).status, 200);

  // The kill switch by each of its ways, and its lift.
  const named = "01J00000000000000000000003"; // its owner's name cannot be read
  await world.enqueue(event({ agentId: c.id, reason: "stolen", jtis: [c.aitJti, named] }));
  await eventually(async () => (await probe(c)).json.error.code === "PROXY_AUTH_REVOKED", { what: "the kill" });
  await eventually(async () => (await world.db.prepare("SELECT COUNT(*) AS n FROM revocations WHERE jti IN (?, ?)").bind(c.aitJti, named).first()).n === 2, { what: "the rows" });
  await operator("POST", `/admin/v1/revocations/${first.seq}/lift`, {}, 201);
  admitted(await probe(gone));
  await world.registry("/dev/crl", { jti: gone.aitJti, agentDid: gone.agentDid, reason: "reissued" });
  assert.equal((await operator("POST", "/admin/v1/reconcile")).outcome, "complete");
  refused(await probe(gone), 401, "PROXY_AUTH_REVOKED");
  const { seq } = await operator("POST", "/admin/v1/revocations", { kind: "agent", agentDid: a.agentDid }, 201);
  await sending.closed;
  await operator("POST", `/admin/v1/revocations/${seq}/lift`, {}, 201);
  admitted(await probe(a));
  await eventually(async () => (await world.logged("proxy.queue.message_failed")).filter((line) => line.then === "retried").length === 0, { what: "no retry" });

  // The feed and what an operator sees.
  const page = await operator("GET", "/v1/revocations?limit=1000");
  assert.ok(page.items.every((item) => ["agent", "token", "session", "lift"].includes(item.kind)));
  assert.ok(page.items.some((item) => item.source === "other"), "a revocation of an unknown source is one");
  const bundle = await world.send("GET", "/v1/bundles/revocations.tar.gz", { headers: { authorization: `Bearer ${ADMIN}` } });
  assert.equal(bundle.status, 200);
  for (const path of ["/admin/v1/revocations", "/admin/v1/status", `/admin/v1/status?agentDid=${a.agentDid}`, "/admin/v1/dead-letters", "/admin/v1/import", "/health?detail"]) {
    await operator("GET", path);
  }
  await operator("POST", "/admin/v1/keys/refresh");
  const letter = (await world.deadLetters()).find((row) => row.message_id === "later");
  await operator("GET", `/admin/v1/dead-letters/${letter.id}`);
  await world.moveClock(20_000);
  await world.runScheduled();
  await world.moveClock(0);
  assert.deepEqual(world.logged("proxy.housekeeping.failed"), []);
  assert.deepEqual(world.logged("proxy.reconcile.failed"), []);

  const kept = await count();
  for (const name of ["revocations", "pairs", "pair_tickets", "agent_tokens", "applied_events", "ended_pairs", "canary_runs", "dead_letters", "feed_epoch", "takeover"]) {
    assert.equal(kept[name], before[name], name);
  }
  await socket.close();
});

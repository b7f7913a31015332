// The trust objects and D1 when something around them is lost: an object's storage, D1 itself, or a binding; and
// what housekeeping deletes.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";

const DAY_MS = 24 * 3600_000;


const count = async (world, table) => (await world.db.prepare(`SELECT count(*) AS n FROM ${table}`).first()).n;

test("an object that lost its storage is right from its first admission: it asks the ledger", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [agent, token, other] = await world.agents(3);
  for (const one of [agent, token, other]) admitted(await probe(one));
  await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }));
  await world.enqueue(event({ jti: token.aitJti, reason: "reissued" })); // names no agent: found by its token
  await eventually(async () => (await count(world, "revocations")) === 2, { what: "the ledger's rows" });

  for (const one of [agent, token, other]) await world.wipe("PROXY_TRUST_STATE", one.id);
  await world.restart(); // a fresh isolate remembers nothing either
  world.adopt(agent, token, other);
  refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  refused(await probe(token), 401, "PROXY_AUTH_REVOKED");
  admitted(await probe(other));
});

test("without D1 identity still works, and trust fails closed and says so", async (t) => {
  const world = await start({ without: ["DB"] });
  t.after(() => world.stop());
  const [a, b] = await world.agents(2);
  admitted(await probe(a));
  const answer = await a.message(b, {});
  const error = refused(answer, 403, "PROXY_AUTH_FORBIDDEN");
  assert.equal(error.details.reason, "trust_store_unavailable");
  assert.match(answer.headers.get("retry-after"), /^[1-9]/);
});

test("while D1 fails, a pair is served by the object that knows it, an agent that is new is refused", async (t) => {
  const world = await start();
  t.after(() => world.stop());
  const [a, b, c] = await world.agents(3);
  await pair(a, b);
  accepted(await a.message(b, {}));
  await world.db.prepare("ALTER TABLE pairs RENAME TO pairs_gone").run();
  for (let i = 0; i < 8; i++) accepted(await a.message(b, {}));
  assert.equal(refused(await c.message(b, {}), 403, "PROXY_AUTH_FORBIDDEN").details.reason, "trust_store_unavailable");

  await world.db.prepare("ALTER TABLE pairs_gone RENAME TO pairs").run();
  const plain = async () => {
    const error = refused(await c.message(b, {}), 403, "PROXY_AUTH_FORBIDDEN");
    return error.details?.reason !== "trust_store_unavailable";
  };
  await eventually(plain, { what: "the circuit's closing" });
});

test("either side ends a pair, once: the next message of either is refused", async (t) => {
  const world = await start();
  t.after(() => world.stop());
  const [a, b, c] = await world.agents(3);
  await pair(a, b);
  await pair(a, c);
  accepted(await a.message(b, {}));
  const remove = (body) => b.post("/pair/remove", body);
  assert.deepEqual(answered(await remove({ peerAgentDid: a.agentDid }), 200), { removed: true });
  assert.deepEqual(answered(await remove({ peerAgentDid: a.agentDid }), 200), { removed: false });
  refused(await a.message(b, {}), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await b.message(a, {}), 403, "PROXY_AUTH_FORBIDDEN");
  accepted(await a.message(c, {}));
  for (const body of [{ peerAgentDid: "x" }, {}, [a.agentDid], { peerAgentDid: 7 }]) {
    refused(await remove(body), 400, "PROXY_PAIR_INVALID_BODY");
  }
});

test("without the trust object nobody is admitted and no revocation is acknowledged", async (t) => {
  const world = await start({ without: ["PROXY_TRUST_STATE"] });
  t.after(() => world.stop());
  const agent = await world.agent();
  refused(await probe(agent), 503, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE");
  await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }));
  await eventually(() => world.logged("proxy.queue.message_failed").length >= 2, { what: "the second try" });
});

test("housekeeping sweeps what expired more than a day ago, and no agent's revocation", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [long, just] = [Date.now() - DAY_MS - 3600_000, Date.now() - 1000];
  await world.db.prepare("INSERT INTO agent_tokens VALUES ('J', 'a', ?1), ('K', 'a', ?2)").bind(long, just).run();
  await world.db
    .prepare(
      "INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms) VALUES " +
        "('token', 'a', 'J', 'queue', 1, 1, ?1), ('agent', 'a', NULL, 'queue', 1, 1, NULL), ('token', 'a', 'K', 'queue', 1, 1, ?2)",
    )
    .bind(long, just)
    .run();
  await world.runScheduled();
  await eventually(async () => (await count(world, "agent_tokens")) === 1, { what: "the sweep of agent_tokens" });
  const left = await world.db.prepare("SELECT kind, jti FROM revocations ORDER BY seq").all();
  assert.deepEqual(left.results.map(({ kind, jti }) => [kind, jti]), [["agent", null], ["token", "K"]]);
});

// Storage that a newer version has written, which this one must neither stumble over nor lose.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, probe } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { ackAll } from "../support/socket.mjs";

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

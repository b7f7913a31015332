// A removed pair stays removed, whoever was not told of it and whichever object then loses its storage.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, answered, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const TRUST = "PROXY_TRUST_STATE";
const AFTER_GRACE_MS = 11_000;

const rowsOf = async (world, table) => (await world.db.prepare(`SELECT count(*) AS n FROM ${table}`).first()).n;
const isApart = (answer) => answer.status === 403 && answer.json.error.code === "PROXY_AUTH_FORBIDDEN";

async function remove(agent, peer) {
  const work = ulid();
  const headers = { "x-request-id": work };
  const answer = await agent.post("/pair/remove", { peerAgentDid: peer.agentDid }, { headers });
  assert.equal(answered(answer, 200).removed, true);
  return work;
}

/** Which call of a removal tells the other one's object. */
async function numberOfTelling(world) {
  const [c, d] = await world.couple();
  const work = await remove(c, d);
  const at = (await world.callsOf(work)).indexOf("trust pair_ended");
  assert.ok(at >= 0, JSON.stringify(await world.callsOf(work)));
  return at;
}

test("the other one was not told, and the remover loses its storage: the minute's run tells it", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const at = await numberOfTelling(world);
  const [a, b, other] = await world.agents(3);
  await pair(a, b);
  for (const agent of [a, b]) await pair(agent, other);
  accepted(await a.message(b, {}), { state: "queued" });

  const work = ulid();
  await world.lose(work, at, "before");
  const answer = await b.post("/pair/remove", { peerAgentDid: a.agentDid }, { headers: { "x-request-id": work } });
  assert.equal(answered(answer, 200).removed, true);
  await world.wipe(TRUST, b.id);
  // Each of the two is still to be told, and so is the one that removed a pair above.
  assert.equal(await rowsOf(world, "ended_pairs"), 3);

  await world.moveClock(AFTER_GRACE_MS);
  await world.runScheduled();
  await world.moveClock(0);
  await eventually(async () => isApart(await a.message(b, {})), { what: "the end of the pair" });
  refused(await b.message(a, {}), 403, "PROXY_AUTH_FORBIDDEN");
  await eventually(async () => (await rowsOf(world, "ended_pairs")) === 0, { what: "everybody told" });
  accepted(await a.message(other, {}), { state: "queued" });
});

test("the record was not told, and the remover loses its storage: the other one's object tells it", async (t) => {
  const world = await start({ hooks: true });
  t.after(() => world.stop());
  const [a, b, other] = await world.agents(3);
  await pair(a, b);
  for (const agent of [a, b]) await pair(agent, other);
  for (const agent of [a, b]) accepted(await agent.message(other, {}), { state: "queued" });

  await world.database("fails");
  await remove(b, a);
  await world.wipe(TRUST, b.id);
  await world.database("well");
  refused(await a.message(b, {}), 403, "PROXY_AUTH_FORBIDDEN");
  await eventually(async () => (await rowsOf(world, "pairs")) === 4, { what: "the end of the pair in the record" });
  await eventually(async () => isApart(await b.message(a, {})), { what: "the end of the pair" });
  accepted(await b.message(other, {}), { state: "queued" });
});

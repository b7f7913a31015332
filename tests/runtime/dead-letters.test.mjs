// Dead letters: what cannot be applied is kept in D1, and the operator lists, reads, retries and drops it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { answered, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const LETTERS = "/admin/v1/dead-letters";

let world;
before(async () => {
  world = await start({ bindings: { ADMIN_TOKEN: ADMIN }, consumer: { maxRetries: 1 } });
});
after(() => world?.stop());

const ask = (method, path) => world.send(method, path, { headers: { authorization: `Bearer ${ADMIN}` } });
const event = (data) => ({
  id: ulid(),
  type: "agent.auth.revoked",
  version: "v1",
  timestampUtc: new Date().toISOString(),
  initiatedByAccountId: "a",
  data,
});
const listed = async () => answered(await ask("GET", LETTERS), 200);

async function deadLetter(body) {
  const before = (await listed()).items.map(({ id }) => id);
  await world.enqueue(body);
  return eventually(async () => (await listed()).items.find(({ id }) => !before.includes(id)), {
    deadlineMs: 15_000,
    what: "a dead letter",
  });
}

test("an unreadable revocation is kept whole, is counted as a revocation, and can be read and dropped", async () => {
  const body = event({ agentId: "not-an-agent", reason: "agent_revoked" });
  const letter = await deadLetter(body);
  assert.equal(letter.queue, "clawdentity-events-dlq-local");
  assert.equal(letter.type, "agent.auth.revoked");
  assert.equal(letter.subject, "not-an-agent");
  assert.equal(letter.revocation, true);
  assert.match(letter.reason, /cannot be read/);
  assert.equal(letter.body, undefined, "the list has no bodies");
  const { total, revocations } = await listed();
  assert.deepEqual([total, revocations], [1, 1]);
  assert.ok(
    world.logs.some((line) => line.level === "error" && line.message === "proxy.dead_letter.kept" && line.revocation),
  );

  assert.deepEqual(JSON.parse(answered(await ask("GET", `${LETTERS}/${letter.id}`), 200).body), body);
  const retried = answered(await ask("POST", `${LETTERS}/${letter.id}/retry`), 200);
  assert.equal(retried.outcome, "failed");
  const kept = (await listed()).items[0];
  assert.equal(kept.id, letter.id, "what failed again is kept");
  assert.ok(kept.retriedAt);

  assert.deepEqual(answered(await ask("POST", `${LETTERS}/${letter.id}/drop`), 200), { dropped: true });
  assert.equal((await listed()).total, 0);
  for (const [method, path] of [
    ["GET", ""],
    ["POST", "/retry"],
    ["POST", "/drop"],
  ]) {
    refused(await ask(method, `${LETTERS}/${letter.id}${path}`), 404, "PROXY_DEAD_LETTER_NOT_FOUND");
    refused(await ask(method, `${LETTERS}/x${path}`), 400, "PROXY_ADMIN_INVALID_INPUT");
  }
});

test("a retry applies what can be applied by now, and the letter is gone", async () => {
  const agent = await world.agent();
  const revocation = event({ agentId: agent.id, reason: "agent_revoked" });
  // As it is after an outage that outlasted the queue's tries.
  const columns = "(message_id, queue, type, subject, revocation, reason, body, dead_lettered_at_ms)";
  await world.db
    .prepare(`INSERT INTO dead_letters ${columns} VALUES (?, ?, ?, ?, 1, ?, ?, ?)`)
    .bind(
      "m1",
      "clawdentity-events-dlq-local",
      revocation.type,
      agent.id,
      "it was tried",
      JSON.stringify(revocation),
      Date.now(),
    )
    .run();
  const [letter] = (await listed()).items;
  assert.deepEqual(answered(await ask("POST", `${LETTERS}/${letter.id}/retry`), 200), { outcome: "applied" });
  assert.equal((await listed()).total, 0);
  const { items } = answered(await ask("GET", "/admin/v1/revocations"), 200);
  assert.equal(items.at(-1).agentDid, agent.agentDid);
});

test("the number of letters is bounded, and revocations are the last to go", async () => {
  const insert =
    world.db.prepare(`INSERT INTO dead_letters (message_id, queue, revocation, reason, body, dead_lettered_at_ms)
    SELECT 'old-' || value, 'q-dlq', value <= 5, 'r', 'b', 0 FROM json_each(?)`);
  await insert.bind(JSON.stringify(Array.from({ length: 1000 }, (_, n) => n + 1))).run();
  await world.enqueue(event({ agentId: "another", reason: "agent_revoked" }));
  await eventually(() => world.logs.some((line) => line.message === "proxy.dead_letter.lost"), {
    deadlineMs: 15_000,
    what: "the line",
  });
  const { total, revocations } = await listed();
  assert.deepEqual([total, revocations], [1000, 6]);
});

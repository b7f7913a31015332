// What a message costs, as budgets: rows that objects write, calls to trust objects, questions to D1, alarms. docs/design.md §1, §5.
import assert from "node:assert/strict";
import { test } from "node:test";

import { accepted } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";
import { ackAll } from "../support/socket.mjs";

const COUNT = 60;

/** What one of `COUNT` messages costs, on average, after a few that made all warm. */
async function costs(world, one) {
  for (let n = 0; n < 5; n++) await one(n);
  await world.counts(true);
  for (let n = 0; n < COUNT; n++) await one(n);
  const { rows, database, alarms, trust } = await world.counts(true);
  const calls = Object.values(trust).reduce((sum, count) => sum + count, 0);
  return { rows: rows / COUNT, database: database / COUNT, calls: calls / COUNT, alarms: alarms / COUNT };
}

test("a hook to a connected recipient", (t) =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect(ackAll);
    const each = await costs(world, async (n) => accepted(await alice.message(bob, { n }), { state: "delivered" }));
    t.diagnostic(JSON.stringify(each));
    assert.ok(each.rows <= 4.3, `${each.rows} rows: its mail, the end of that, its outcome, its nonce`);
    assert.deepEqual([each.calls, each.database], [1, 0]);
    assert.ok(each.alarms < 0.1, `${each.alarms} alarms`);
    // And all later expiry: of the nonces in twenty minutes, of the outcomes in a day and a half.
    await world.moveClock(21 * 60_000);
    await world.alarm("PROXY_TRUST_STATE", alice.id);
    await world.moveClock(37 * 3_600_000);
    await world.alarm("AGENT_RELAY_SESSION", bob.agentDid);
    const { rows } = await world.counts(true);
    t.diagnostic(`${rows} rows for the expiry of all`);
    assert.ok(each.rows + rows / (COUNT + 5) <= 4.5, `${rows} rows for the expiry of all`);
    assert.deepEqual(await world.tables("PROXY_TRUST_STATE", alice.id, "nonces%"), []);
    assert.deepEqual(await world.tables("AGENT_RELAY_SESSION", bob.agentDid, "outcomes%"), []);
    await socket.close();
  }));

test("a hook to a recipient that connects later, and its delivery", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const each = await costs(world, async (n) => accepted(await alice.message(bob, { n }), { state: "queued" }));
    assert.ok(each.rows <= 2.5, `${each.rows} rows: its mail and its nonce`);
    const socket = await bob.connect(ackAll);
    for (let n = 0; n < COUNT + 5; n++) await socket.next("deliver");
    socket.send({ type: "heartbeat" });
    await socket.next("heartbeat_ack");
    const { rows, trust } = await world.counts();
    assert.ok(rows / COUNT <= 3, `${rows / COUNT} rows: the end of its mail, its outcome`);
    assert.ok((trust.check ?? 0) < 15, `${trust.check} questions about one sender`);
    await socket.close();
  }));

test("an idle connected agent costs nothing but its heartbeats' answers", () =>
  inWorld({ hooks: true }, async (world) => {
    const alice = await world.agent();
    const socket = await alice.connect();
    await world.counts(true);
    for (let second = 25; second <= 250; second += 25) {
      await world.moveClock(second * 1_000);
      socket.send({ type: "heartbeat" });
      await socket.next("heartbeat_ack");
    }
    const { rows, alarms, database, trust } = await world.counts();
    assert.deepEqual([rows, alarms, database, trust], [0, 0, 0, {}]);
    assert.deepEqual(socket.pending, [], "and no probe is sent to it");
    await socket.close();
  }));

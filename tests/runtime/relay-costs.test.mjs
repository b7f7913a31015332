// What a message costs, as budgets: rows that objects write, calls to objects, questions to D1, alarms. docs/design.md §1, §5.
import assert from "node:assert/strict";
import { test } from "node:test";

import { accepted, answered } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const COUNT = 60;

/** What one of `COUNT` messages costs, on average, after a few that made all warm. */
async function costs(world, one) {
  for (let n = 0; n < 5; n++) await one(n);
  await world.counts(true);
  for (let n = 0; n < COUNT; n++) await one(n);
  const { rows, database, alarms, trust, relay } = await world.counts(true);
  const calls = (of) => Object.values(of).reduce((sum, count) => sum + count, 0) / COUNT;
  return { rows: rows / COUNT, database: database / COUNT, trust: calls(trust), relay: calls(relay), alarms: alarms / COUNT };
}

test("a hook to a connected recipient", (t) =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect(ackAll);
    const each = await costs(world, async (n) => accepted(await alice.message(bob, { n }), { state: "delivered" }));
    t.diagnostic(JSON.stringify(each));
    assert.ok(each.rows <= 4.3, `${each.rows} rows: its mail, the end of that, its outcome, its nonce`);
    assert.deepEqual([each.trust, each.relay, each.database], [1, 1, 0]);
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

test("an enqueue frame, and a delivery with its receipt", (t) =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
    const enqueue = await costs(world, async (n) => {
      const { id } = from.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: { n } });
      const ack = await from.next((frame) => frame.type === "enqueue_ack" && frame.ackId === id);
      assert.equal(ack.accepted, true);
      await to.next((frame) => frame.payload?.n === n);
    });
    t.diagnostic(JSON.stringify(enqueue));
    assert.ok(enqueue.rows <= 3.3, `${enqueue.rows} rows: its mail, the end of that, its outcome`);
    assert.deepEqual([enqueue.relay, enqueue.database], [1, 0]);
    assert.ok(enqueue.trust < 0.1, `${enqueue.trust} questions about a pair that is known`);
    const receipt = await costs(world, async (n) => {
      const requestId = ulid();
      accepted(await alice.message(bob, { n }, { headers: { "x-request-id": requestId } }), { state: "delivered" });
      const said = { requestId, senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "delivered_to_webhook" };
      answered(await bob.post("/v1/relay/delivery-receipts", said), 202);
      await from.next("receipt");
      const probe = from.pending.find((frame) => frame.type === "heartbeat");
      if (probe) from.send({ type: "heartbeat_ack", ackId: (await from.next("heartbeat")).id });
    });
    t.diagnostic(JSON.stringify(receipt));
    assert.ok(receipt.rows <= 10.5, `${receipt.rows} rows: a hook, a nonce, the outcome again, two at either end`);
    assert.deepEqual([receipt.trust, receipt.database], [2, 0]);
    assert.ok(receipt.relay <= 4.1, `${receipt.relay} calls: delivered, found, recorded, told`);
    await Promise.all([from.close(), to.close()]);
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

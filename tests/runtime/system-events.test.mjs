// The events that are delivered as messages, and the receipts queue: docs/wire.md §7. Revocations have their own
// files.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ consumer: { maxRetries: 1, retryDelay: 0 } });
});
after(() => world?.stop());

const joined = (recipient, who, over = {}) => ({
  id: ulid(), type: "group.member.joined", version: "v1", timestampUtc: new Date().toISOString(),
  initiatedByAccountId: "account",
  data: {
    recipientAgentDid: recipient.agentDid, joinedAgentDid: who.agentDid, joinedAgentName: "newcomer",
    groupId: `grp_${ulid()}`, groupName: "friends", role: "member", joinedAt: "2026-01-02T03:04:05.678Z", ...over,
  },
});

test("group.member.joined is delivered to its recipient, once however often it comes", async () => {
  const [recipient, who] = await world.agents(2);
  const socket = await recipient.connect(ackAll);
  const event = joined(recipient, who);
  for (let i = 0; i < 3; i++) await world.enqueue(event);
  const second = joined(recipient, who, { message: "Look who is here", role: "admin" });
  await world.enqueue(second);
  const frames = [await socket.next("deliver"), await socket.next("deliver")];
  const [first, last] = frames[0].payload.role === "member" ? frames : frames.reverse();
  assert.equal(first.fromAgentDid, who.agentDid);
  assert.equal(first.toAgentDid, recipient.agentDid);
  assert.equal(first.deliverySource, "proxy.events.queue.group_member_joined");
  const { event: inner, ...payload } = first.payload;
  assert.ok(inner);
  assert.deepEqual(payload, {
    type: "clawdentity:group-member-joined", message: "newcomer joined friends.", groupId: event.data.groupId,
    groupName: "friends", joinedAgentDid: who.agentDid, joinedAgentName: "newcomer", role: "member",
    joinedAt: event.data.joinedAt,
  });
  assert.equal(last.payload.message, "Look who is here");
  assert.deepEqual(socket.pending, []);
  await socket.close();
});

test("system messages wait in the queue for whoever is not connected", async () => {
  const [recipient, who] = await world.agents(2);
  await world.enqueue(joined(recipient, who));
  await pair(recipient, who); // and its pair.accepted
  const socket = await eventually(async () => {
    const open = await recipient.connect(ackAll);
    return open;
  });
  const sources = [await socket.next("deliver"), await socket.next("deliver")].map((frame) => frame.deliverySource);
  assert.deepEqual(sources.sort(),
    ["proxy.events.queue.group_member_joined", "proxy.events.queue.pair_accepted"]);
  await socket.close();
});

test("what cannot be read is acknowledged with a line, and what follows it is served", async () => {
  const [recipient, who] = await world.agents(2);
  const good = joined(recipient, who);
  for (const data of [
    undefined, null, [], { ...good.data, recipientAgentDid: "x" }, { ...good.data, groupId: "x" }, { ...good.data, role: "owner" },
    { ...good.data, joinedAt: "yesterday" }, { ...good.data, joinedAgentName: 7 },
  ]) {
    await world.enqueue({ ...good, data });
  }
  for (const event of [{ type: "pair.accepted" }, { type: "pair.accepted", initiatorAgentDid: recipient.agentDid }]) {
    await world.enqueue(event);
  }
  for (const body of ["", "null", "[]", "{}", { type: "delivery_receipt" }, { type: "else" }]) {
    await world.enqueue(body, { binding: "RECEIPT_QUEUE" });
  }
  const socket = await recipient.connect(ackAll);
  await world.enqueue(good);
  assert.equal((await socket.next("deliver")).payload.groupId, good.data.groupId);
  assert.deepEqual(await world.deadLetters(), []);
  await socket.close();
});

test("a delivery_receipt on its queue reaches the sender, now or when it connects", async () => {
  const [alice, bob] = await world.agents(2);
  await pair(alice, bob);
  const send = async (status, reason) => {
    const requestId = ulid();
    accepted(await alice.message(bob, {}, { headers: { "x-request-id": requestId } }));
    await world.enqueue({
      type: "delivery_receipt", requestId, senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status,
      reason, processedAt: new Date().toISOString(),
    }, { binding: "RECEIPT_QUEUE" });
    return requestId;
  };
  const isReceipt = (id) => (frame) => frame?.type === "receipt" && frame.originalFrameId === id;
  const before = await send("dead_lettered", "hook said no");
  await eventually(async () => {
    const path = `/v1/relay/delivery-receipts?requestId=${before}&recipientAgentDid=${encodeURIComponent(bob.agentDid)}`;
    return (await alice.get(path)).json.receipt.state === "dead_lettered";
  });
  const socket = await alice.connect(ackAll);
  const pushed = await socket.next(isReceipt(before));
  assert.deepEqual([pushed.status, pushed.reason, pushed.toAgentDid], ["dead_lettered", "hook said no", bob.agentDid]);
  // A heartbeat follows, and its answer says that the receipt has arrived.
  const arrived = async () => socket.send({ type: "heartbeat_ack", ackId: (await socket.next("heartbeat")).id });
  await arrived();
  const now = await send("delivered_to_webhook", null);
  assert.ok(!("reason" in (await socket.next(isReceipt(now)))));
  await arrived();
  socket.send({ type: "heartbeat" });
  await socket.next("heartbeat_ack");
  await socket.close();
  const again = await alice.connect(ackAll);
  again.send({ type: "heartbeat" });
  await again.next("heartbeat_ack");
  assert.deepEqual(again.pending.filter((frame) => frame.type === "receipt"), []);
  await again.close();
});

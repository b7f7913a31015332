// Authority is asked again before mail that waited is sent (docs/design.md §5.4): what ends it, by hook and by frame; what
// does not; who is told; and how many questions that takes.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, answered } from "../support/expect.mjs";
import { eventually, inWorld, start } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ hooks: true });
});
after(() => world?.stop());

/** One message by the hook and one by a frame, both accepted and waiting: their request ids, and the payloads. */
async function sent(from, to, { groupId } = {}) {
  const ids = [ulid(), ulid()];
  const headers = { "x-request-id": ids[0], ...(groupId ? { "x-claw-group-id": groupId } : {}) };
  accepted(await from.message(to, { by: "hook" }, { headers }), { state: "queued" });
  const socket = await from.connect();
  socket.send({ type: "enqueue", id: ids[1], toAgentDid: to.agentDid, payload: { by: "frame" }, ...(groupId ? { groupId } : {}) });
  const ack = await socket.next("enqueue_ack");
  assert.equal(ack.accepted, true, ack.reason);
  await socket.close();
  return ids;
}

const rowOf = (agent) =>
  eventually(() => world.db.prepare("SELECT 1 FROM revocations WHERE agent_did = ?").bind(agent.agentDid).first(), { what: "the ledger's row" });

/** What the recipient is sent when it connects, until it has been asked about everything. */
async function received(recipient, count) {
  const socket = await recipient.connect(ackAll);
  const payloads = [];
  while (payloads.length < count) payloads.push((await socket.next("deliver")).payload);
  await socket.close();
  return payloads;
}

const stateOf = async (from, to, id) =>
  answered(await from.get(`/v1/relay/delivery-receipts?requestId=${id}&recipientAgentDid=${encodeURIComponent(to.agentDid)}`), 200).receipt;

const stateOfDepth = async (agent) =>
  (await world.sql("AGENT_RELAY_SESSION", agent.agentDid, "SELECT count(*) AS n FROM mail"))[0].n;

const revoked = (data) => async (from) => {
  await world.enqueue(event({ agentId: from.id, ...data(from) }));
  await rowOf(from);
};

for (const [name, end, reason] of [
  ["the token, for any reason but a reissue", revoked((from) => ({ jti: from.aitJti, reason: "key_compromised" })), "sender_token_revoked"],
  ["the session, by its owner", revoked(() => ({ reason: "owner_auth_revoke" })), "sender_session_ended"],
  ["the pair, by its recipient", (from, to) => to.post("/pair/remove", { peerAgentDid: from.agentDid }), "pair_ended"],
  ["the pair, though the two pair again", async (from, to) => {
    await from.post("/pair/remove", { peerAgentDid: to.agentDid });
    await pair(to, from);
  }, "pair_ended"],
]) {
  test(`mail is not sent after the end of ${name}, and its sender is told`, async () => {
    const [alice, bob] = await world.couple();
    const carol = await world.agent();
    await pair(carol, bob);
    const ids = await sent(alice, bob);
    accepted(await carol.message(bob, { by: "carol" }), { state: "queued" });
    await end(alice, bob);
    const inbox = await bob.connect(ackAll);
    // A notice may come as well: that the two are paired again.
    const message = (frame) => frame.type === "deliver" && frame.payload.system === undefined;
    assert.deepEqual((await inbox.next(message)).payload, { by: "carol" });
    await alice.atRegistry("reissue");
    const outbox = await alice.connect();
    for (const id of ids) {
      const receipt = await outbox.next((frame) => frame.type === "receipt" && frame.originalFrameId === id);
      assert.deepEqual([receipt.status, receipt.reason], ["dead_lettered", reason]);
      const { state, reason: told } = await stateOf(alice, bob, id);
      assert.deepEqual([state, told], ["dead_lettered", reason]);
    }
    inbox.send({ type: "heartbeat" });
    await inbox.next("heartbeat_ack");
    assert.deepEqual(inbox.pending.filter(message), [], "nothing of it was sent");
    await Promise.all([inbox.close(), outbox.close()]);
  });
}

for (const [name, end] of [
  ["its token was reissued", revoked((from) => ({ jti: from.aitJti, reason: "reissued" }))],
  ["its refresh token expired", revoked(() => ({ reason: "refresh_token_expired" }))],
  ["another token of its sender was revoked", revoked(() => ({ jti: ulid(), reason: "key_compromised" }))],
]) {
  test(`mail arrives although ${name}`, async () => {
    const [alice, bob] = await world.couple();
    await sent(alice, bob);
    await end(alice);
    assert.deepEqual(await received(bob, 2), [{ by: "hook" }, { by: "frame" }]);
  });
}

test("a revoked agent's mail is not sent", async () => {
  const [alice, bob] = await world.couple();
  const ids = await sent(alice, bob);
  await alice.atRegistry("revoke");
  await rowOf(alice);
  const inbox = await bob.connect(ackAll);
  await eventually(() => world.logged("proxy.relay.dead_lettered").filter((line) => ids.includes(line.messageId)).length === 2);
  assert.deepEqual(inbox.pending, []);
  await inbox.close();
});

test("mail that waits behind what is in flight is asked about when its turn comes", async () => {
  const [alice, bob] = await world.couple();
  const inbox = await bob.connect();
  const answers = Array.from({ length: 7 }, (_, n) => alice.message(bob, { n }));
  const frames = [];
  while (frames.length < 5) frames.push(await inbox.next("deliver"));
  await eventually(async () => (await stateOfDepth(bob)) === 7);
  await bob.post("/pair/remove", { peerAgentDid: alice.agentDid });
  await world.moveClock(600); // longer than an admission is believed
  for (const frame of frames) inbox.ack(frame);
  const states = (await Promise.all(answers)).map((answer) => accepted(answer).state);
  assert.deepEqual(states.sort(), [...Array(5).fill("delivered"), "queued", "queued"]);
  await eventually(() => world.logged("proxy.relay.dead_lettered").filter((line) => line.agentDid === bob.agentDid).length === 2);
  assert.deepEqual(inbox.pending, []);
  await world.moveClock(0);
  await inbox.close();
});

test("a sender who left the group is asked about after a quarter of an hour; while nobody answers, the mail waits", () =>
  inWorld({ hooks: true, bindings: { GROUP_MEMBERSHIP_FRESH_MS: "1" } }, async (own) => {
    const [alice, bob, carol] = await own.agents(3);
    const members = [alice, bob, carol].map((agent) => agent.agentDid);
    const { groupId } = await own.registry("/dev/groups", { members });
    const ids = await sent(alice, bob, { groupId });
    await sent(carol, bob, { groupId });
    await own.registry("/dev/groups", { groupId, members: members.slice(1) });
    await own.moveClock(16 * 60_000);
    await own.fault("membership", "500");
    // A socket that is opened by a clock that is ahead needs a timestamp to match.
    const timestamp = () => Math.floor(Date.now() / 1000) + 16 * 60;
    const inbox = await bob.connect({ timestamp: timestamp(), ...ackAll });
    inbox.send({ type: "heartbeat" });
    await inbox.next("heartbeat_ack");
    await eventually(async () => (await own.counters()).membership > 0, { what: "the question" });
    assert.deepEqual(inbox.pending, [], "no answer holds the mail");
    await own.fault("membership", "none");
    await own.moveClock(17 * 60_000); // past the circuit's pause
    inbox.send({ type: "heartbeat" });
    for (const by of ["hook", "frame"]) assert.deepEqual((await inbox.next("deliver")).payload, { by });
    const dead = () => own.logged("proxy.relay.dead_lettered").filter((line) => line.reason === "sender_left_group");
    await eventually(() => dead().length === 2);
    assert.deepEqual(dead().map((line) => line.messageId).sort(), [...ids].sort());
    await inbox.close();
  }));

test("a hundred messages of one sender take few questions, and none of the database", () =>
  inWorld({ hooks: true }, async (own) => {
    const [alice, bob] = await own.couple();
    for (let n = 0; n < 100; n++) accepted(await alice.message(bob, { n }), { state: "queued" });
    await own.moveClock(2_000);
    await own.counts(true);
    const inbox = await bob.connect(ackAll);
    for (let n = 0; n < 100; n++) assert.equal((await inbox.next("deliver")).payload.n, n);
    const { trust, database } = await own.counts();
    assert.equal(database, 0);
    assert.ok(trust.check <= 1 + 20, `${trust.check} questions, the connection's among them`);
    await inbox.close();
  }));

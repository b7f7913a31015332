// The relay's finer promises: ids that are never shared, outcomes that are repeated, and mail that is dead-lettered.
// docs/wire.md §5, §6.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { ULID, accepted, answered, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const RECEIPTS = "/v1/relay/delivery-receipts";
const QUICK = { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40", RELAY_RETRY_JITTER_RATIO: "0" };

let world;
before(async () => {
  world = await start({ bindings: QUICK });
});
after(() => world?.stop());

const requestId = (id) => ({ headers: { "x-request-id": id } });
const receiptOf = (sender, id, recipient) =>
  sender.get(`${RECEIPTS}?requestId=${encodeURIComponent(id)}&recipientAgentDid=${encodeURIComponent(recipient.agentDid)}`);
const alive = async (socket) => {
  const { id } = socket.send({ type: "heartbeat" });
  await socket.next((frame) => frame?.type === "heartbeat_ack" && frame.ackId === id);
};

test("two senders with one request id never share a deliver id", async () => {
  const [alice, bob] = await world.couple();
  const carol = await world.agent();
  await pair(carol, bob);
  const socket = await bob.connect(ackAll);
  const id = ulid();
  accepted(await alice.message(bob, { from: "alice" }, requestId(id)), { state: "delivered" });
  accepted(await carol.message(bob, { from: "carol" }, requestId(id)), { state: "delivered" });
  const frames = [await socket.next("deliver"), await socket.next("deliver")];
  assert.equal(frames[0].id, id);
  assert.match(frames[1].id, ULID);
  assert.notEqual(frames[1].id, id);
  await socket.close();
});

test("one request id to two recipients is two messages", async () => {
  const [alice, bob] = await world.couple();
  const carol = await world.agent();
  await pair(alice, carol);
  const sockets = [await bob.connect(ackAll), await carol.connect(ackAll)];
  const id = ulid();
  for (const to of [bob, carol]) accepted(await alice.message(to, {}, requestId(id)), { state: "delivered" });
  for (const socket of sockets) assert.equal((await socket.next("deliver")).id, id);
  await Promise.all(sockets.map((socket) => socket.close()));
});

test("the same request again, at once, while queued and after: one delivery", async () => {
  const [alice, bob] = await world.couple();
  const over = requestId("again-and-again");
  const answers = await Promise.all(Array.from({ length: 5 }, () => alice.message(bob, { n: 1 }, over)));
  for (const answer of answers) accepted(answer, { state: "queued", deliveryId: answers[0].json.deliveryId, queueDepth: 1 });
  const socket = await bob.connect(ackAll);
  await socket.next("deliver");
  accepted(await alice.message(bob, { n: 1 }, over), { deliveryId: answers[0].json.deliveryId });
  refused(await alice.message(bob, { n: 2 }, over), 409, "PROXY_HOOK_REQUEST_ID_REUSED");
  await alive(socket);
  assert.deepEqual(socket.pending, []);
  await socket.close();
});

test("an enqueue frame sent twice is delivered once and acknowledged twice", async () => {
  const [alice, bob] = await world.couple();
  const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
  const frame = from.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: { n: 1 } });
  from.sendText(JSON.stringify(frame));
  for (let i = 0; i < 2; i++) {
    const ack = await from.next("enqueue_ack");
    assert.deepEqual([ack.ackId, ack.accepted], [frame.id, true]);
  }
  await to.next("deliver");
  await alive(to);
  assert.deepEqual(to.pending, []);
  await Promise.all([from.close(), to.close()]);
});

test("what was in flight when a new connection took over goes to that one, under the same id", async () => {
  const [alice, bob] = await world.couple();
  const first = await bob.connect();
  const answer = alice.message(bob, { n: 1 });
  const frame = await first.next("deliver");
  const second = await bob.connect(ackAll);
  assert.equal((await second.next("deliver")).id, frame.id);
  accepted(await answer);
  await second.close();
});

test("a payload comes out as it went in, to the last digit", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect(ackAll);
  const payload = '{"z":1,"a":12345678901234567890,"f":1.10,"e":1E+2,"u":"\\u00fc","dup":{"k":[ ]},"n":null}';
  accepted(await alice.message(bob, payload));
  const frame = await socket.next("deliver");
  assert.deepEqual(Object.keys(frame.payload), ["z", "a", "f", "e", "u", "dup", "n"]);
  assert.equal(frame.payload.u, "ü");
  for (const body of ['"text"', "7", "null", "[1,2]", "true"]) {
    accepted(await alice.message(bob, body));
    assert.deepEqual((await socket.next("deliver")).payload, JSON.parse(body));
  }
  await socket.close();
});

test("either id in a receipt finds its message", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect(ackAll);
  accepted(await alice.message(bob, {}, requestId("no-ulid-at-all")), { state: "delivered" });
  const { id } = await socket.next("deliver");
  const body = { requestId: id, senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "delivered_to_webhook" };
  answered(await bob.post(RECEIPTS, body), 202);
  await eventually(async () =>
    answered(await receiptOf(alice, "no-ulid-at-all", bob), 200).receipt.state === "delivered_to_webhook");
  await socket.close();
});

test("a message that expires, or is refused too often, is dead-lettered and says so", async () => {
  const own = await start({ bindings: { ...QUICK, RELAY_QUEUE_TTL_SECONDS: "1", RELAY_RETRY_MAX_ATTEMPTS: "3" } });
  try {
    const [alice, bob] = await own.couple();
    const dead = (id) => eventually(
      async () => answered(await receiptOf(alice, id, bob), 200).receipt.state === "dead_lettered", { what: id });
    accepted(await alice.message(bob, {}, requestId("will-expire-1")), { state: "queued" });
    await dead("will-expire-1");

    let seen = 0;
    const socket = await bob.connect({ onDeliver: (open, frame) => {
      seen += 1;
      open.ack(frame, { accepted: false, reason: "never" });
    } });
    const sender = await alice.connect(ackAll);
    const id = ulid();
    accepted(await alice.message(bob, {}, requestId(id)));
    await dead(id);
    assert.equal(seen, 3);
    const receipt = await sender.next("receipt");
    assert.deepEqual([receipt.originalFrameId, receipt.status], [id, "dead_lettered"]);
    await Promise.all([socket.close(), sender.close()]);
  } finally {
    await own.stop();
  }
});

test("pair/remove: either side, again, and what it ends", async () => {
  const [alice, bob] = await world.couple();
  const socket = await alice.connect(ackAll);
  accepted(await alice.message(bob, {}));
  assert.deepEqual(answered(await bob.post("/pair/remove", { peerAgentDid: alice.agentDid }), 200), { removed: true });
  assert.deepEqual(answered(await alice.post("/pair/remove", { peerAgentDid: bob.agentDid }), 200), { removed: false });
  refused(await alice.message(bob, {}), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await bob.message(alice, {}), 403, "PROXY_AUTH_FORBIDDEN");
  const { id } = socket.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: {} });
  const ack = await socket.next("enqueue_ack");
  assert.deepEqual([ack.ackId, ack.accepted], [id, false]);
  for (const body of [{}, { peerAgentDid: "bob" }, { peerAgentDid: bob.ownerDid }, "no json"]) {
    refused(await alice.post("/pair/remove", body), 400, "PROXY_PAIR_INVALID_BODY");
  }
  await pair(bob, alice);
  accepted(await alice.message(bob, {}));
  await socket.close();
});

test("the answer to an upgrade carries the request id", async () => {
  const [alice] = await world.couple();
  const { default: WebSocket } = await import("ws");
  const url = new URL("/v1/relay/connect", world.proxyUrl).href.replace("http", "ws");
  const headers = { ...alice.headers("GET", "/v1/relay/connect"), "x-request-id": "upgrade-id-1" };
  const socket = new WebSocket(url, { headers });
  const opened = new Promise((resolve, reject) => socket.once("open", resolve).once("error", reject));
  const response = await new Promise((resolve, reject) => socket.once("upgrade", resolve).once("error", reject));
  assert.equal(response.headers["x-request-id"], "upgrade-id-1");
  await opened;
  socket.terminate();
});

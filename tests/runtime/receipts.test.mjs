// Delivery receipts: who may write one, who may read one, and how the sender is told. docs/wire.md §5, §6, §7.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, answered, refused } from "../support/expect.mjs";
import { eventually, inWorld, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const PATH = "/v1/relay/delivery-receipts";

let world;
let alice;
let bob;
let stranger;
before(async () => {
  world = await start();
  [alice, bob, stranger] = await world.agents(3);
  await pair(alice, bob);
});
after(() => world?.stop());

const receipt = (requestId, fields = {}) => ({
  requestId, senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "delivered_to_webhook", ...fields,
});
const read = (agent, requestId, recipient = bob) =>
  agent.get(`${PATH}?requestId=${requestId}&recipientAgentDid=${encodeURIComponent(recipient.agentDid)}`);

test("a message has a receipt from its 202 on, and the recipient's word changes it and reaches the sender", async () => {
  const requestId = ulid();
  const sender = await alice.connect();
  const connector = await bob.connect(ackAll);
  const sent = accepted(await alice.message(bob, { a: 1 }, { headers: { "x-request-id": requestId } }));
  const { found, receipt: first } = answered(await read(alice, requestId), 200);
  assert.equal(found, true);
  assert.equal(first.requestId, requestId);
  assert.equal(first.deliveryId, sent.deliveryId);
  assert.equal(first.senderAgentDid, alice.agentDid);
  assert.equal(first.recipientAgentDid, bob.agentDid);
  assert.equal(first.state, "delivered");
  assert.equal(typeof first.expiresAtMs, "number");
  assert.ok(first.statusUpdatedAt);

  assert.deepEqual(answered(await bob.post(PATH, receipt(requestId, { reason: null, processedAt: "x" })), 202), { accepted: true });
  const frame = await sender.next("receipt");
  assert.equal(frame.originalFrameId, requestId);
  assert.equal(frame.toAgentDid, bob.agentDid);
  assert.equal(frame.status, "delivered_to_webhook");
  assert.ok(!("reason" in frame));
  await eventually(async () => (await read(alice, requestId)).json.receipt.state === "delivered_to_webhook");
  await Promise.all([sender.close(), connector.close()]);
});

test("nobody else's business", async () => {
  const requestId = ulid();
  accepted(await alice.message(bob, {}, { headers: { "x-request-id": requestId } }));
  refused(await alice.post(PATH, receipt(requestId)), 403, "PROXY_RELAY_RECEIPT_FORBIDDEN");
  refused(await stranger.post(PATH, receipt(requestId)), 403, "PROXY_RELAY_RECEIPT_FORBIDDEN");
  refused(await stranger.post(PATH, receipt(requestId, { recipientAgentDid: stranger.agentDid })), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await stranger.get(`${PATH}?requestId=${requestId}&recipientAgentDid=${encodeURIComponent(bob.agentDid)}`), 403, "PROXY_AUTH_FORBIDDEN");
  const none = await read(alice, ulid());
  assert.equal(none.status, 404);
  assert.deepEqual(none.json, { found: false });
});

test("bodies and queries that are not as they should be", async () => {
  const good = receipt(ulid());
  for (const body of [
    "", "no json", "[]", "null", { ...good, requestId: "" }, { ...good, requestId: undefined }, { ...good, status: "delivered" },
    { ...good, status: undefined }, { ...good, senderAgentDid: "alice" }, { ...good, recipientAgentDid: bob.ownerDid },
    { ...good, reason: 7 },
  ]) {
    refused(await bob.post(PATH, body), 400, "PROXY_RELAY_RECEIPT_INVALID_INPUT");
  }
  const did = encodeURIComponent(bob.agentDid);
  for (const query of ["", "?requestId=abcdefgh", `?recipientAgentDid=${did}`, `?requestId=&recipientAgentDid=${did}`, "?requestId=abcdefgh&recipientAgentDid=bob"]) {
    refused(await alice.get(`${PATH}${query}`), 400, "PROXY_RELAY_RECEIPT_INVALID_QUERY");
  }
});

test("receipts use up nothing of what their agent needs to connect and to pair, after an eviction either", () =>
  inWorld({ hooks: true, bindings: { AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE: "6" } }, async (own) => {
    const [one, two] = await own.couple(); // which took one request of each
    const requestId = ulid();
    accepted(await one.message(two, {}, { headers: { "x-request-id": requestId } }));
    const body = { ...receipt(requestId), senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid };
    for (let n = 0; n < 40; n++) assert.equal((await two.post(PATH, body)).status, 202);
    for (let n = 0; n < 20; n++) assert.equal((await read(one, requestId, two)).status, 200);
    await own.evict("PROXY_TRUST_STATE", two.id);
    const socket = await two.connect();
    for (let n = 0; n < 4; n++) answered(await two.post("/pair/start", { initiatorProfile: { agentName: "a", humanName: "b" } }), 200);
    refused(await two.post("/pair/start", {}), 429, "PROXY_RATE_LIMIT_EXCEEDED");
    assert.equal((await two.post(PATH, body)).status, 202, "and the other way round");
    await socket.close();
  }));

test("without its queue: 503", async () => {
  const own = await start({ without: ["RECEIPT_QUEUE"] });
  try {
    const [one, two] = await own.agents(2);
    await pair(one, two);
    const body = { ...receipt(ulid()), senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid };
    refused(await two.post(PATH, body), 503, "PROXY_RELAY_RECEIPT_QUEUE_UNAVAILABLE");
  } finally {
    await own.stop();
  }
});

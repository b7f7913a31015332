// The order in which queued mail goes out, whom a refusal holds up and whom it does not, and a queue whose owner is
// revoked. docs/wire.md §6, docs/design.md §5.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const QUEUE = 500; // the default limit
const IN_FLIGHT = 5; // likewise

let world;
before(async () => {
  world = await start({ bindings: { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40", RELAY_RETRY_JITTER_RATIO: "0" } });
});
after(() => world?.stop());

const numbered = (frame) => frame?.type === "deliver" && "n" in frame.payload;

/** Enqueues `count` numbered messages; all are taken. */
async function enqueueAll(from, to, count) {
  for (let n = 0; n < count; n++) from.send({ type: "enqueue", toAgentDid: to.agentDid, payload: { n } });
  for (let n = 0; n < count; n++) assert.equal((await from.next("enqueue_ack")).accepted, true);
}

test("a full queue drains in order on reconnect", async (t) => {
  const [alice, bob] = await world.couple();
  const from = await alice.connect();
  await enqueueAll(from, bob, QUEUE);
  refused(await alice.message(bob, {}), 507, "PROXY_RELAY_QUEUE_FULL");
  const started = performance.now();
  const socket = await bob.connect(ackAll);
  for (let n = 0; n < QUEUE; n++) assert.equal((await socket.next(numbered)).payload.n, n);
  t.diagnostic(`${QUEUE} messages in ${Math.round(performance.now() - started)} ms`);
  await Promise.all([socket.close(), from.close()]);
});

test("a refused message is retried before what waits behind it, and another sender's goes on", async () => {
  const [alice, bob, carol] = await world.agents(3);
  await pair(alice, bob);
  await pair(carol, bob);
  const from = await alice.connect();
  await enqueueAll(from, bob, 12);
  let refusals = 0;
  const onDeliver = (socket, frame) => socket.ack(frame, { accepted: frame.payload.n !== 0 || ++refusals > 3 });
  const socket = await bob.connect({ onDeliver });
  const order = [];
  while (order.length < 15) order.push((await socket.next(numbered)).payload.n);
  assert.deepEqual([...new Set(order)], [...Array(12).keys()], "first sights are in order");
  // What was in flight with it came; what was not waits for its retry, and goes out in flight with that.
  assert.ok(order.indexOf(IN_FLIGHT) > order.indexOf(0, 1), `retried first: ${order}`);
  accepted(await carol.message(bob, { other: 1 }), { state: "delivered" });
  await Promise.all([socket.close(), from.close()]);
});

test("a message in back-off holds up no other sender", async () => {
  const own = await start({ bindings: { RELAY_RETRY_INITIAL_MS: "60000", RELAY_RETRY_MAX_MS: "60000" } });
  try {
    const [alice, bob, carol] = await own.agents(3);
    await pair(alice, bob);
    await pair(carol, bob);
    const socket = await bob.connect({ onDeliver: (open, frame) => open.ack(frame, { accepted: !frame.payload.refuse }) });
    accepted(await alice.message(bob, { refuse: true }), { state: "queued" });
    accepted(await alice.message(bob, { n: 1 }), { state: "queued", queueDepth: 2 });
    accepted(await carol.message(bob, { n: 2 }), { state: "delivered", queueDepth: 2 });
    await socket.close();
  } finally {
    await own.stop();
  }
});

test("an agent is revoked: what waits for it is dead-lettered with receipts, and so is what comes later", async () => {
  const [alice, bob] = await world.couple();
  const ids = [ulid(), ulid(), ulid()];
  const send = (id) => alice.message(bob, {}, { headers: { "x-request-id": id } });
  for (const id of ids.slice(0, 2)) accepted(await send(id), { state: "queued" });
  const socket = await alice.connect();
  await bob.atRegistry("revoke");
  const told = [await socket.next("receipt"), await socket.next("receipt")];
  assert.deepEqual(told.map((receipt) => receipt.originalFrameId).sort(), ids.slice(0, 2).sort());
  accepted(await send(ids[2]), { state: "dead_lettered", delivered: false, queued: false, queueDepth: 0 });
  told.push(await socket.next("receipt"));
  for (const { status, reason } of told) assert.deepEqual([status, reason], ["dead_lettered", "recipient_revoked"]);
  await socket.close();
});

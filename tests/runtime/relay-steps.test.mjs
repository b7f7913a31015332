// A relay session dies at each step of its work, one after the other: the message arrives nevertheless, under one
// id, and its sender can ask what became of it. docs/design.md §1.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const RELAY = "AGENT_RELAY_SESSION";
const MAX_STEPS = 100; // of one story; more, and it does not end

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40" } });
});
after(() => world?.stop());

/** Keeps an agent connected; `seen` has every frame that came, `acks` what its enqueue frames were answered. */
function connector(agent, { refuseFirst = false } = {}) {
  const it = { seen: [], acks: [], socket: undefined, isOver: false };
  let refused = !refuseFirst;
  it.done = (async () => {
    while (!it.isOver) {
      const onDeliver = (socket, frame) => {
        it.seen.push(frame);
        socket.ack(frame, { accepted: refused });
        refused = true;
      };
      it.socket = await agent.connect({ onDeliver }).catch(() => undefined);
      if (!it.socket) continue;
      await it.socket.closed;
    }
  })();
  it.stop = () => {
    it.isOver = true;
    it.socket?.terminate();
    return it.done;
  };
  return it;
}

const byHook = async (alice, bob, id) => {
  await eventually(async () => {
    const answer = await alice.message(bob, { n: 1 }, { headers: { "x-request-id": id } });
    assert.ok(answer.status === 202 || answer.status >= 500, answer.text);
    return answer.status === 202;
  });
};

const byEnqueue = (side) => (_alice, bob, id) =>
  eventually(async () => {
    const { socket } = side;
    if (!socket) return false;
    try {
      socket.send({ type: "enqueue", id, toAgentDid: bob.agentDid, payload: { n: 1 } });
    } catch {
      return false; // cut off; the connector is opening another
    }
    const answer = socket.next((frame) => frame?.type === "enqueue_ack" && frame.ackId === id).catch(() => undefined);
    const end = await Promise.race([answer, socket.closed]);
    // Connectors take a refusal for final: only a socket that is gone is a reason to send it again.
    assert.notEqual(end?.accepted, false, end?.reason);
    return end?.accepted;
  });

const STORIES = {
  "a hook to a connected recipient": { dies: "bob", connected: true },
  "a hook to a recipient that connects later": { dies: "bob", connected: false },
  "a refused message and its retry": { dies: "bob", connected: true, refuseFirst: true },
  "an enqueue, its recipient dies": { dies: "bob", connected: true, enqueue: true },
  "an enqueue, its sender dies": { dies: "alice", connected: true, enqueue: true },
};

/** One story with a death at step `at`; says whether it came to that. */
async function live(name, { dies, connected, refuseFirst, enqueue }, at) {
  const what = `${name}, step ${at}`;
  const [alice, bob] = await world.couple();
  const id = ulid();
  await world.dieAt(RELAY, { alice, bob }[dies].agentDid, at);
  const sides = enqueue ? [connector(alice)] : [];
  try {
    const to = connected ? connector(bob, { refuseFirst }) : undefined;
    if (to) sides.push(to);
    await (enqueue ? byEnqueue(sides[0]) : byHook)(alice, bob, id);
    if (!to) sides.push(connector(bob, { refuseFirst }));
    const copies = () => sides.at(-1).seen.filter((frame) => frame.payload.n === 1);
    await eventually(() => copies().length > (refuseFirst ? 1 : 0), { what });
    await eventually(async () => {
      const query = new URLSearchParams({ requestId: id, recipientAgentDid: bob.agentDid });
      const answer = await alice.get(`/v1/relay/delivery-receipts?${query}`);
      return ["delivered", "delivered_to_webhook"].includes(answer.json?.receipt?.state);
    }, { what: `${what}: its state` });
    assert.deepEqual([...new Set(copies().map((frame) => frame.id))], [id], what);
    return await world.hasDied();
  } finally {
    await Promise.all(sides.map((side) => side.stop()));
  }
}

for (const [name, story] of Object.entries(STORIES)) {
  test(name, async (t) => {
    let at = 0;
    while (await live(name, story, at)) assert.ok(++at < MAX_STEPS);
    t.diagnostic(`died at each of ${at} steps`);
    assert.ok(at > 3, "it hardly died");
  });
}

// Some hundreds of messages while the sessions die at random steps of their work, and a check of the history at the end:
// nothing accepted is lost, nothing is out of order for its sender, nothing comes twice on a live connection unless it was
// refused there, and each dead letter has its receipt. docs/design.md §1. MESSAGES and SEED make it longer or repeat a run.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { eventually, inWorld } from "../support/harness.mjs";
import { randomFrom, SEED, sleep } from "../support/random.mjs";
import { ulid } from "../support/socket.mjs";

const MESSAGES = Number(process.env.MESSAGES ?? 400);
const ATTEMPTS = 4;
const RELAY = "AGENT_RELAY_SESSION";
/** Every fortieth is refused each time, and is dead-lettered in the end. */
const isCursed = (n) => n % 40 === 39;

test(`${MESSAGES} messages, and sessions that die at random steps`, { timeout: 240_000 }, (t) =>
  inWorld({ hooks: true, bindings: { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40", RELAY_RETRY_MAX_ATTEMPTS: String(ATTEMPTS) } }, async (world) => {
    t.diagnostic(`SEED=${SEED}`);
    const random = randomFrom(SEED);
    const [bob, ...senders] = await world.agents(4);
    for (const sender of senders) await pair(sender, bob);
    let isOver = false;
    let connections = 0;

    // The recipient: what it saw first of each sender, what it took, and nothing twice on one connection.
    const firstSeen = new Map(senders.map((sender) => [sender.agentDid, []]));
    const taken = new Set();
    const wrong = [];
    const connector = (async () => {
      while (!isOver) {
        const seen = new Map();
        const onDeliver = (socket, frame) => {
          const { fromAgentDid: from, id, payload: { n } } = frame;
          if (n === undefined) return socket.ack(frame);
          if (seen.get(id) === "not refused") wrong.push(`${n} of ${from} came twice on one connection`);
          const order = firstSeen.get(from);
          if (!order.includes(n)) order.push(n);
          const refuses = isCursed(n) || random() < 0.03;
          seen.set(id, refuses ? "refused" : "not refused");
          if (!refuses) taken.add(id);
          setTimeout(() => {
            try {
              socket.ack(frame, refuses ? { accepted: false } : {});
            } catch {
              // cut off meanwhile
            }
          }, random() * 30);
        };
        const socket = await bob.connect({ onDeliver }).catch(() => undefined);
        if (!socket) await sleep(20);
        else {
          connections += 1;
          if (isOver) socket.terminate();
          bob.socket = socket;
          await socket.closed;
        }
      }
    })();

    // A sender calls the hook again, under the same id, until it has an answer; what was accepted is noted.
    const accepted = new Map();
    const send = async (sender) => {
      for (let n = 0; n < MESSAGES / senders.length; n++) {
        const id = ulid();
        const headers = { "x-request-id": id };
        for (;;) {
          // Not waited for: it may be in flight for long.
          const answer = await sender.message(bob, { n }, { headers }).catch(() => undefined);
          if (answer?.status === 202) break;
          assert.ok(!answer || answer.status >= 500, `${answer?.status} ${answer?.text}`);
          await sleep(10);
        }
        accepted.set(id, { sender, n });
      }
    };
    const sending = Promise.all(senders.map(send)).then(() => "sent");

    let deaths = 0;
    for (;;) {
      await world.dieAt(RELAY, (random() < 0.8 ? bob : senders[0]).agentDid, Math.floor(random() * 40));
      if ((await Promise.race([sending, sleep(random() * 250)])) === "sent") break;
      if (await world.hasDied()) deaths += 1;
    }
    await world.dieAt(RELAY, bob.agentDid, 1e9);

    // All is settled, and what was dead-lettered has come to its sender.
    const receipts = new Map();
    const stateOf = async (id, { sender }) => {
      const query = new URLSearchParams({ requestId: id, recipientAgentDid: bob.agentDid });
      return (await sender.get(`/v1/relay/delivery-receipts?${query}`)).json?.receipt;
    };
    const open = new Map(accepted);
    const dead = new Map();
    await eventually(async () => {
      for (const [id, message] of open) {
        const receipt = await stateOf(id, message);
        assert.ok(receipt, `${message.n} is lost`);
        if (receipt.state === "queued") return false;
        if (receipt.state === "dead_lettered") dead.set(id, message);
        else assert.ok(taken.has(id), `${message.n} is ${receipt.state}, and was never taken`);
        open.delete(id);
      }
      return true;
    }, { deadlineMs: 60_000, what: "the end of every message" });
    isOver = true;
    bob.socket.terminate();
    await connector;
    const sockets = await Promise.all(senders.map((sender) => sender.connect()));
    for (const socket of sockets) {
      (async () => {
        for (;;) {
          const frame = await socket.next("receipt");
          receipts.set(frame.originalFrameId, frame.status);
        }
      })().catch(() => {});
    }
    await eventually(() => [...dead.keys()].every((id) => receipts.get(id) === "dead_lettered"), { what: "a receipt of each dead letter" });
    await Promise.all(sockets.map((socket) => socket.terminate()));

    assert.deepEqual(wrong, []);
    for (const [from, order] of firstSeen) assert.deepEqual(order, [...order].sort((a, b) => a - b), `${from}: in order`);
    assert.equal(accepted.size, senders.length * Math.ceil(MESSAGES / senders.length));
    for (const [id, { n }] of dead) assert.ok(isCursed(n) || !taken.has(id), `${n} was given up`);
    t.diagnostic(`${accepted.size} accepted, ${taken.size} taken, ${dead.size} dead letters; ${deaths} deaths, ${connections} connections`);
    assert.ok(deaths > 5 && dead.size > 5);
  }));

// Connections are cut at any byte and runtimes killed at any moment: whatever was accepted arrives, under one id and
// in order. docs/design.md §1. MESSAGES, FAULTS and SEED make it longer or repeat a run: 10,000 messages over 200
// faults take minutes.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { start } from "../support/harness.mjs";
import { Line } from "../support/line.mjs";
import { randomFrom, SEED, sleep } from "../support/random.mjs";
import { ulid } from "../support/socket.mjs";

const MESSAGES = Number(process.env.MESSAGES ?? 600);
const FAULTS = Number(process.env.FAULTS ?? 8);
const DEADLINE_MS = 60_000 + FAULTS * 5_000;

const until = async (isSo) => {
  while (!isSo()) await sleep(20);
};

/** Keeps `agent` connected until `isOver()`, whatever happens to its connections; `use(socket)` returns when it ended. */
async function stayConnected(agent, onDeliver, isOver, use) {
  while (!isOver()) {
    const socket = await agent.connect({ onDeliver }).catch(() => undefined);
    if (!socket) {
      await sleep(20);
      continue;
    }
    await Promise.race([socket.closed, use(socket)]);
    socket.terminate();
  }
}

/** Sends `numbers` one after the other by the hook, each again and again under its one id until it is taken. */
async function sendByHook(agent, to, numbers, random) {
  for (const n of numbers) {
    const headers = { "x-request-id": random() < 0.5 ? ulid() : `not-a-ulid-${ulid()}` };
    for (;;) {
      const answer = await agent.message(to, { from: agent.id, n }, { headers }).catch(() => undefined);
      if (answer?.status === 202) {
        assert.notEqual(answer.json.state, "dead_lettered");
        break;
      }
      assert.ok(!answer || answer.status >= 500, `${answer?.status} ${answer?.text}`);
      await sleep(20);
    }
  }
}

/** Sends `numbers` on a socket, ten at once: on each new socket what has no answer yet goes again, in order. */
async function sendBySocket(agent, to, numbers, onDeliver, isOver) {
  const waiting = numbers.map((n) => ({ id: ulid(), n }));
  const use = async (socket) => {
    let sent = 0;
    const sendMore = () => {
      for (; sent < Math.min(10, waiting.length); sent++) {
        const { id, n } = waiting[sent];
        socket.send({ type: "enqueue", id, toAgentDid: to.agentDid, payload: { from: agent.id, n } });
      }
    };
    sendMore();
    while (waiting.length > 0) {
      const answer = await socket.next("enqueue_ack", 2000).catch(() => undefined);
      const at = answer ? waiting.findIndex(({ id }) => id === answer.ackId) : -1;
      if (at < 0) continue;
      // Refused (its recipient's object was just killed): this and what is behind it goes again, on another socket.
      if (!answer.accepted) return;
      waiting.splice(at, 1);
      sent -= 1;
      sendMore();
    }
    await until(isOver); // stays for what is delivered here
  };
  await stayConnected(agent, onDeliver, isOver, use);
}

test(`${MESSAGES} messages over ${FAULTS} faults`, { timeout: DEADLINE_MS + 30_000 }, async (t) => {
  t.diagnostic(`SEED=${SEED}`);
  const random = randomFrom(SEED);
  const world = await start({ bindings: { RELAY_RETRY_INITIAL_MS: "50", RELAY_RETRY_MAX_MS: "200" } });
  const line = await Line.to(world.proxyUrl);
  let isOver = false;
  try {
    const [alice, bob, carol] = await world.agents(3);
    for (const agent of [alice, bob, carol]) agent.proxyUrl = line.url;
    await pair(alice, bob);
    await pair(carol, bob);
    await pair(alice, carol);

    // What arrived, by recipient and sender: the first sight of each number, and every id it came under.
    const seen = new Map();
    let again = 0;
    const collect = (recipient) => (socket, frame) => {
      if (frame.payload?.n !== undefined) {
        const lane = `${frame.payload.from}>${recipient.id}`;
        if (!seen.has(lane)) seen.set(lane, new Map());
        const ids = seen.get(lane);
        if (ids.has(frame.payload.n)) {
          again += 1;
          ids.get(frame.payload.n).add(frame.id);
        } else ids.set(frame.payload.n, new Set([frame.id]));
      }
      try {
        socket.ack(frame);
      } catch {
        // cut off meanwhile
      }
    };
    const arrived = () => [...seen.values()].reduce((sum, ids) => sum + ids.size, 0);

    const quarter = Array.from({ length: Math.floor(MESSAGES / 4) }, (_, n) => n);
    const expected = 4 * quarter.length;
    const over = () => isOver;
    const work = [
      sendByHook(alice, bob, quarter, random),
      sendByHook(bob, alice, quarter, random),
      sendBySocket(carol, bob, quarter, collect(carol), over),
      sendBySocket(alice, carol, quarter, collect(alice), over),
      stayConnected(bob, collect(bob), over, () => until(over)),
    ];
    const failed = Promise.all(work).then(() => assert.ok(isOver, "the work ended before it was over"));
    failed.catch(() => {});

    const untilArrived = async (count) => {
      const deadline = Date.now() + DEADLINE_MS;
      while (arrived() < count) {
        assert.ok(Date.now() < deadline, `${arrived()} of ${expected} arrived`);
        await Promise.race([sleep(5), failed]);
      }
    };
    const happened = { cut: 0, killed: 0 };
    for (let fault = 1; fault <= FAULTS; fault++) {
      // Each fault at its own moment of the work, in the middle of whatever goes on then.
      await untilArrived(Math.floor((expected * (fault - random())) / (FAULTS + 1)));
      if (fault % 4 === 0) {
        happened.killed += 1;
        await world.killAndRestart();
        line.moveTo(world.proxyUrl);
        for (const agent of [alice, bob, carol]) agent.registry = world.registry;
      } else {
        happened.cut += 1;
        line.cut(0.6, () => Math.floor(random() * 1500), random);
      }
    }
    await untilArrived(expected);
    isOver = true;
    await failed;

    assert.equal(seen.size, 4);
    for (const [lane, ids] of seen) {
      assert.deepEqual([...ids.keys()], quarter, `${lane}: all, in order of first sight`);
      for (const [n, of] of ids) assert.equal(of.size, 1, `${lane} ${n}: under one id`);
    }
    t.diagnostic(`${expected} messages, ${happened.cut} cuts, ${happened.killed} kills: each seen, ${again} more than once`);
    const lost = world.logged("proxy.relay.dead_lettered").length;
    assert.equal(lost, 0);
  } finally {
    isOver = true;
    await line.close();
    await world.stop();
  }
});

// The parts of `npm run bench`. Each gets a `say` for its lines.
import { Miniflare } from "miniflare";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { Agent, pair } from "../tests/support/agent.mjs";
import { accepted, percentile, probe } from "../tests/support/expect.mjs";
import { inWorld } from "../tests/support/harness.mjs";
import { event } from "../tests/support/revocation.mjs";
import { ackAll, ulid } from "../tests/support/socket.mjs";
import { ROOT } from "../scripts/setup.mjs";

export const parts = { request, enqueue, drain, costs, revocation };

const ROOMY = { RELAY_QUEUE_MAX_MESSAGES_PER_AGENT: "10000" };
const median = (values) => percentile(values, 0.5);
const ms = (value) => `${value.toFixed(2)} ms`;

/** CPU of the runtime per call of `one`, milliseconds: the median of `rounds`, each of `count` calls one after the other. */
async function cpuOf(world, one, count) {
  const before = world.cpuMs();
  for (let i = 0; i < count; i++) await one(i);
  return (world.cpuMs() - before) / count;
}

/** A warm hook request, held against a worker that does only what none can do without. */
async function request(say) {
  const bare = await startBare();
  await inWorld({ bindings: ROOMY }, async (world) => {
    const [alice, bob] = await world.agents(2);
    await pair(alice, bob);
    const ours = async () => accepted(await alice.message(bob, { n: 1 }), { state: "queued" });
    // The same client, the same bytes: only the far end differs.
    const client = new Agent({ ...alice, proxyUrl: bare.url });
    const theirs = () => client.message(bob, { n: 1 });
    for (let i = 0; i < 100; i++) await Promise.all([ours(), theirs()]);
    const took = { ours: [], bare: [] };
    for (let round = 0; round < 8; round++) {
      took.ours.push(await cpuOf(world, ours, 100));
      took.bare.push(await cpuOf(bare, theirs, 100));
    }
    say(`a hook request, CPU of the runtime: ${ms(median(took.ours))}`);
    say(`two signatures and two rows in JavaScript: ${ms(median(took.bare))}`);
    say(`ratio ${(median(took.ours) / median(took.bare)).toFixed(2)}`);
  });
  await bare.stop();
}

async function startBare() {
  const children = () => readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && isRuntime(pid));
  const isRuntime = (pid) => {
    try {
      return readFileSync(`/proc/${pid}/stat`, "utf8").includes("(workerd)");
    } catch {
      return false;
    }
  };
  const before = new Set(children());
  const miniflare = new Miniflare({
    name: "bare",
    compatibilityDate: "2026-04-26",
    modules: [{ type: "ESModule", path: "bare.js", contents: readFileSync(join(ROOT, "bench/bare.js"), "utf8") }],
    durableObjects: { ROWS: { className: "Rows", useSQLite: true } },
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
    cf: false,
  });
  await miniflare.ready;
  const pids = children().filter((pid) => !before.has(pid));
  return {
    url: (await miniflare.unsafeGetDirectURL("bare")).href,
    cpuMs: () => pids.flatMap((pid) => readdirSync(`/proc/${pid}/task`).map((id) => `/proc/${pid}/task/${id}/schedstat`))
      .reduce((sum, path) => sum + Number(readFileSync(path, "utf8").split(" ")[0]), 0) / 1e6,
    stop: () => miniflare.dispose(),
  };
}

const enqueueTo = (socket, to) => async () => {
  for (;;) {
    const { id } = socket.send({ type: "enqueue", toAgentDid: to.agentDid, payload: { n: 1 } });
    const answer = await socket.next((frame) => frame?.type === "enqueue_ack" && frame.ackId === id);
    if (answer.accepted) return;
    await new Promise((resolve) => setTimeout(resolve, 100)); // its queue is full: the connector is not that fast
  }
};

/** One enqueue frame for a recipient whose queue is empty, nearly full, or who has ten thousand outcomes kept. */
async function enqueue(say) {
  const KEPT = 10_000;
  const DEPTH = 440;
  const MEASURED = 55;
  await inWorld({}, async (world) => {
    const [alice, keeper, ...others] = await world.agents(10);
    for (const other of [keeper, ...others]) await pair(alice, other);
    const socket = await alice.connect();
    const keeping = await keeper.connect(ackAll);
    const keep = enqueueTo(socket, keeper);
    for (let i = 0; i < KEPT; i += 50) await Promise.all(Array.from({ length: 50 }, keep));
    while (keeping.pending.filter((frame) => frame.type === "deliver").length < KEPT) await keep();
    await keeping.close();
    const [deep, shallow] = [others.slice(0, 4), others.slice(4)];
    for (const to of deep) {
      const one = enqueueTo(socket, to);
      for (let i = 0; i < DEPTH; i += 10) await Promise.all(Array.from({ length: 10 }, one));
    }
    const took = { empty: [], deep: [], kept: [] };
    for (let round = 0; round < 4; round++) {
      took.empty.push(await cpuOf(world, enqueueTo(socket, shallow[round]), MEASURED));
      took.deep.push(await cpuOf(world, enqueueTo(socket, deep[round]), MEASURED));
      took.kept.push(await cpuOf(world, keep, MEASURED));
    }
    const empty = median(took.empty);
    say(`an enqueue frame, CPU of the runtime, at depth 0 to ${MEASURED}: ${ms(empty)}`);
    say(`at depth ${DEPTH} to ${DEPTH + MEASURED}: ${ms(median(took.deep))}, ratio ${(median(took.deep) / empty).toFixed(2)}`);
    say(`with ${KEPT} outcomes kept: ${ms(median(took.kept))}, ratio ${(median(took.kept) / empty).toFixed(2)}`);
  });
}

/** A full queue, from the connection to the last message. */
async function drain(say) {
  await inWorld({}, async (world) => {
    const [alice, bob] = await world.agents(2);
    await pair(alice, bob);
    const from = await alice.connect();
    const one = enqueueTo(from, bob);
    const took = [];
    for (let run = 0; run < 5; run++) {
      for (let n = 0; n < 500; n += 10) await Promise.all(Array.from({ length: 10 }, one));
      const started = performance.now();
      const socket = await bob.connect(ackAll);
      for (let n = 0; n < 500; n++) await socket.next((frame) => frame?.payload?.n !== undefined);
      took.push(performance.now() - started);
      socket.send({ type: "heartbeat" });
      await socket.next("heartbeat_ack");
      await socket.close();
    }
    say(`500 queued messages: ${took.map((each) => Math.round(each)).join(", ")} ms`);
  });
}

/** What is billed for one operation: rows that objects write, calls to trust objects, questions to D1, alarms. */
async function costs(say) {
  const COUNT = 100;
  await inWorld({ hooks: true }, async (world) => {
    const [alice, bob, carol] = await world.agents(3);
    await pair(alice, bob);
    await pair(alice, carol);
    const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
    const receipt = async (n) => {
      const headers = { "x-request-id": ulid() };
      accepted(await alice.message(bob, { n }, { headers }), { state: "delivered" });
      const said = { requestId: headers["x-request-id"], senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "delivered_to_webhook" };
      await bob.post("/v1/relay/delivery-receipts", said);
      await from.next("receipt");
      const probe = from.pending.find((frame) => frame.type === "heartbeat");
      if (probe) from.send({ type: "heartbeat_ack", ackId: (await from.next("heartbeat")).id });
    };
    const operations = {
      "a hook, delivered": async (n) => accepted(await alice.message(bob, { n }), { state: "delivered" }),
      "a hook, queued": async (n) => accepted(await alice.message(carol, { n }), { state: "queued" }),
      "an enqueue frame, delivered": enqueueTo(from, bob),
      "a hook, delivered, with its receipt": receipt,
    };
    for (const [name, one] of Object.entries(operations)) {
      for (let n = 0; n < 5; n++) await one(n);
      await world.counts(true);
      for (let n = 0; n < COUNT; n++) await one(n);
      const { rows, database, alarms, trust } = await world.counts(true);
      const calls = Object.values(trust).reduce((sum, count) => sum + count, 0);
      say(`${name}: ${rows / COUNT} rows, ${calls / COUNT} calls to trust objects, ${database / COUNT} questions to D1, ${alarms / COUNT} alarms`);
    }
    await Promise.all([from.close(), to.close()]);
  });
}

/** From an event on the queue to what it stops, beside a connector that acknowledges nothing. */
async function revocation(say) {
  const RUNS = 100;
  await inWorld({}, async (world) => {
    const [deaf, sender] = await world.agents(2);
    await pair(deaf, sender);
    const socket = await deaf.connect();
    const hanging = sender.message(deaf, { never: "acknowledged" });
    await socket.next("deliver");
    const stopped = {
      "the refusal of a new request": async (agent) => {
        while ((await probe(agent)).status !== 401);
      },
      "the close of an open socket": (_agent, open) => open.closed,
    };
    for (const [what, until] of Object.entries(stopped)) {
      const took = [];
      for (let run = 0; run < RUNS; run++) {
        const agent = await world.agent();
        const open = await agent.connect();
        const started = performance.now();
        await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }));
        await until(agent, open);
        took.push(performance.now() - started);
        open.terminate();
      }
      say(`from the event to ${what}: p50 ${ms(median(took))}, worst ${ms(Math.max(...took))}, of ${RUNS}`);
    }
    await socket.terminate();
    await hanging;
  });
}

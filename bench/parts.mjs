// The parts of `npm run bench`. Each gets a `say` for its lines.
import { Miniflare } from "miniflare";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Agent, pair, send } from "../tests/support/agent.mjs";
import { accepted, percentile, probe } from "../tests/support/expect.mjs";
import { inWorld } from "../tests/support/harness.mjs";
import { event } from "../tests/support/revocation.mjs";
import { ackAll, ulid } from "../tests/support/socket.mjs";
import { ROOT } from "../scripts/setup.mjs";
import { growth } from "./growth.mjs";

export const parts = { ratios, growth, enqueue, drain, costs, revocation };

const median = (values) => percentile(values, 0.5);
const ms = (value) => `${value.toFixed(2)} ms`;
const micros = (value) => `${Math.round(value * 1000)} µs`;

/** CPU of the runtime per call of `one`, milliseconds: the median of `rounds`, each of `count` calls one after the other. */
async function cpuOf(world, one, count) {
  const before = world.cpuMs();
  for (let i = 0; i < count; i++) await one(i);
  return (world.cpuMs() - before) / count;
}

/** Warm operations of every kind, each held against a Worker that does only what none can do without (`floor.js`). */
async function ratios(say) {
  const ROUNDS = 6;
  const COUNT = 150;
  const bare = await startFloor();
  await inWorld({ bindings: { LOG_SUCCESS_SAMPLE_RATE: "0.01" } }, async (world) => {
    const [alice, bob, carol] = await world.agents(3);
    await pair(alice, bob);
    await pair(alice, carol);
    const sides = {};
    for (const [side, url] of Object.entries({ ours: world.proxyUrl, floor: bare.url })) {
      const [from, to, enqueuer] = [alice, bob, alice].map((agent) => new Agent({ ...agent, proxyUrl: url }));
      const headersOf = (agent) => ({ "x-floor-agent": agent.agentDid });
      const silent = new Agent({ ...carol, proxyUrl: url });
      let socket;
      let receiver;
      // Opened anew for each operation: these sockets send no heartbeats, and are closed after a while.
      sides[side] = async () => {
        receiver?.terminate();
        socket?.terminate();
        receiver = await to.connect({ ...ackAll, headers: headersOf(to) });
        await silent.connect({ ...ackAll, headers: headersOf(silent) });
        socket = await enqueuer.connect({ headers: headersOf(enqueuer) });
      };
      const hook = async () => {
        const answer = await from.message(to, { n: 1 });
        if (answer.status !== 202) throw new Error(answer.text);
      };
      sides[side].operations = {
        "GET /health": () => send(url, "GET", "/health"),
        "authenticated, refused for its body": async () => {
          const answer = await from.message(to, "{");
          if (answer.status !== 400) throw new Error(answer.text);
        },
        "a hook, delivered, one at a time": hook,
        "a hook, delivered, eight at a time": () => Promise.all(Array.from({ length: 8 }, hook)),
        "an enqueue frame": () => enqueueTo(socket, silent)(),
      };
    }
    const cpu = { ours: world, floor: bare };
    for (const name of Object.keys(sides.ours.operations)) {
      const each = name.includes("eight") ? 8 : 1;
      const took = { ours: [], floor: [] };
      for (const side of ["ours", "floor"]) {
        await sides[side]();
        for (let n = 0; n < COUNT / each; n++) await sides[side].operations[name]();
      }
      for (let round = 0; round < ROUNDS; round++) {
        for (const side of ["ours", "floor"]) took[side].push((await cpuOf(cpu[side], sides[side].operations[name], COUNT / each)) / each);
      }
      const [ours, floor] = [median(took.ours), median(took.floor)];
      say(`${name}: ${micros(ours)}, floor ${micros(floor)}, ratio ${(ours / floor).toFixed(2)}`, { [name]: ours / floor });
    }
  });
  await bare.stop();
}

async function startFloor() {
  const children = () => readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && isRuntime(pid));
  const isRuntime = (pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      return stat.includes("(workerd)") && Number(/\) \S (\d+)/.exec(stat)[1]) === process.pid;
    } catch {
      return false;
    }
  };
  const before = new Set(children());
  const directory = mkdtempSync(join(tmpdir(), "clawdentity-floor-"));
  const miniflare = new Miniflare({
    name: "floor",
    compatibilityDate: "2026-04-26",
    modules: [{ type: "ESModule", path: "floor.js", contents: readFileSync(join(ROOT, "bench/floor.js"), "utf8") }],
    durableObjects: {
      NONCES: { className: "Nonces", useSQLite: true },
      SESSIONS: { className: "Session", useSQLite: true },
    },
    durableObjectsPersist: directory,
    unsafeDirectSockets: [{ host: "127.0.0.1", port: 0 }],
    cf: false,
  });
  await miniflare.ready;
  const pids = children().filter((pid) => !before.has(pid));
  return {
    url: (await miniflare.unsafeGetDirectURL("floor")).href,
    cpuMs: () => pids.flatMap((pid) => readdirSync(`/proc/${pid}/task`).map((id) => `/proc/${pid}/task/${id}/schedstat`))
      .reduce((sum, path) => sum + Number(readFileSync(path, "utf8").split(" ")[0]), 0) / 1e6,
    stop: async () => {
      await miniflare.dispose();
      rmSync(directory, { recursive: true, force: true });
    },
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
      const { rows, database, alarms, trust, relay } = await world.counts(true);
      const calls = (of) => Object.values(of).reduce((sum, count) => sum + count, 0) / COUNT;
      say(
        `${name}: ${rows / COUNT} rows, ${calls(trust)} calls to trust objects, ${calls(relay)} to relay sessions, ${database / COUNT} questions to D1, ${alarms / COUNT} alarms`,
        { [`${name}, rows`]: rows / COUNT, [`${name}, calls`]: calls(trust) + calls(relay), [`${name}, D1`]: database / COUNT },
      );
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

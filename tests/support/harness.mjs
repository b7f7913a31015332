// One proxy with everything around it, on the real runtime: the built worker, the development registry, which all
// outbound fetches reach, the queues and D1. `start()` makes a World; its methods say what can be done with it.
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { Log, LogLevel, Miniflare } from "miniflare";

import {
  PROXY, REGISTRY, applyMigrations, localSecrets, persistUnder, proxyWorker, registryWorker,
} from "../../scripts/local.mjs";
import { ROOT } from "../../scripts/setup.mjs";
import { Agent, pair, registryAt, send } from "./agent.mjs";

/** The registry's origin as the proxy knows it. It has no port of that name: requests go to it by service. */
export const ISSUER = "http://registry.test";
export const AUTHORITY = "registry.test";
const SECOND = "proxy-in-a-second-isolate";

// What hangs fails by this time; what is merely slow does not.
const DEADLINE_MS = 25_000;
const DIRECT = [{ host: "127.0.0.1", port: 0 }];

// D1 for the tests themselves. Miniflare's own way in blocks on a thread for every prepared statement, and is not always
// answered there.
const DATABASE = `
export default {
  async fetch(request, env) {
    const prepared = (await request.json()).map(({ sql, values }) => env.DB.prepare(sql).bind(...values));
    return env.DB.batch(prepared).then(Response.json, (error) => new Response(error.message, { status: 400 }));
  },
};`;

// Limits that no test but their own should meet.
const ROOMY = {
  AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE: "100000",
  PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE: "100000",
  ENQUEUE_RATE_LIMIT_PER_MINUTE: "100000",
};

// The kill switch measures itself where a test asks for it: elsewhere its rows would be counted.
const NO_CANARY = { CANARY_INTERVAL_SECONDS: "0" };

/** Variables for a world that has the settings of a deployed proxy. The registry is asked over https and keeps its name. */
export const DEPLOYED = {
  ENVIRONMENT: "production",
  REGISTRY_URL: `https://${AUTHORITY}`,
  REGISTRY_ISSUER: ISSUER,
  REGISTRY_INTERNAL_SERVICE_SECRET: "the-secret-of-a-deployment-in-tests",
};

// A world has the operator's and the feed's routes where a test asks for them.
const NO_TOKENS = { ADMIN_TOKEN: undefined, FEED_TOKEN: undefined };

/**
 * `bindings`: variables over those of wrangler.toml (undefined removes one). `consumer`: over the queues' consumer
 * settings. `hooks`: run main-for-tests.js in front of the worker. `without`: names of bindings to leave out. `migrate`:
 * false leaves D1 empty. `second`: the same worker once more, in an isolate of its own with the same objects and database,
 * at `secondUrl`. `instead`: another script, under the same name and on the same storage.
 */
export async function start(options = {}) {
  const world = new World(options);
  await world.up();
  return world;
}

/** A world for one piece of work. */
export async function inWorld(options, work) {
  const world = await start(options);
  try {
    await work(world);
  } finally {
    await world.stop();
  }
}

export class World {
  #options;
  #miniflare;
  #runtimePids = [];
  #secrets = [localSecrets().REGISTRY_INTERNAL_SERVICE_SECRET, DEPLOYED.REGISTRY_INTERNAL_SERVICE_SECRET];
  #directory = mkdtempSync(join(tmpdir(), "clawdentity-test-"));

  /** Every line the worker logged: parsed where it is JSON, else {text}. */
  logs = [];

  constructor(options) {
    this.#options = options;
  }

  async up() {
    const before = new Set(runtimeChildren());
    this.#miniflare = new Miniflare(this.#miniflareOptions());
    await this.#miniflare.ready;
    this.#runtimePids = runtimeChildren().filter((pid) => !before.has(pid));
    this.proxyUrl = (await this.#miniflare.unsafeGetDirectURL(PROXY)).href;
    this.registryUrl = (await this.#miniflare.unsafeGetDirectURL(REGISTRY)).href;
    if (this.#options.second) this.secondUrl = (await this.#miniflare.unsafeGetDirectURL(SECOND)).href;
    this.registry = registryAt(this.registryUrl);
    if (!this.#options.without?.includes("DB")) {
      this.db = databaseAt((await this.#miniflare.unsafeGetDirectURL("database")).href);
      if (this.#options.migrate !== false) await this.migrate();
    }
  }

  migrate() {
    return applyMigrations(this.db);
  }

  #miniflareOptions() {
    const { bindings, consumer = {}, hooks = false, instead, second = false, without = [] } = this.#options;
    const proxy = proxyWorker({
      bindings: { REGISTRY_URL: ISSUER, ...NO_TOKENS, ...ROOMY, ...NO_CANARY, ...bindings },
      extraMain: hooks ? readFileSync(join(ROOT, "tests/support/main-for-tests.js"), "utf8") : undefined,
      sockets: DIRECT,
      outboundService: REGISTRY,
    });
    if (instead) proxy.modules = [{ type: "ESModule", path: join(proxy.modulesRoot, "instead.js"), contents: instead }];
    for (const name of Object.keys(proxy.bindings)) if (proxy.bindings[name] === undefined) delete proxy.bindings[name];
    for (const queue of Object.values(proxy.queueConsumers)) if (queue.deadLetterQueue) Object.assign(queue, consumer);
    const registry = registryWorker(proxy, { bindings: { ISSUER, ...registrySecret(proxy.bindings) }, sockets: DIRECT });
    for (const kind of ["durableObjects", "d1Databases", "queueProducers"]) {
      for (const name of without) delete proxy[kind][name];
    }
    const elsewhere = Object.entries(proxy.durableObjects).map(([name, made]) => [name, { ...made, scriptName: PROXY }]);
    return {
      ...persistUnder(this.#directory),
      host: "127.0.0.1",
      port: 0,
      cf: false,
      log: new Log(process.env.TEST_LOG ? LogLevel.DEBUG : LogLevel.NONE),
      handleStructuredLogs: ({ message, level }) => this.#log(message, level),
      workers: [
        proxy,
        registry,
        ...(second
          ? [{ ...proxy, name: SECOND, durableObjects: Object.fromEntries(elsewhere), queueConsumers: {} }]
          : []),
        {
          name: "database",
          compatibilityDate: proxy.compatibilityDate,
          modules: true,
          script: DATABASE,
          d1Databases: proxy.d1Databases,
          unsafeDirectSockets: DIRECT,
        },
      ],
    };
  }

  #log(message, level) {
    if (process.env.TEST_LOG) console.log(`[worker ${level}] ${message}`);
    try {
      this.logs.push(JSON.parse(message));
    } catch {
      this.logs.push({ text: message });
    }
  }

  /** Log lines named `name`. */
  logged(name) {
    return this.logs.filter((line) => line.message === name);
  }

  async agent(options) {
    const agent = await Agent.register(this.registry, this.proxyUrl, options);
    this.#secrets.push(agent.ait, agent.accessToken);
    return agent;
  }

  agents(count) {
    return Promise.all(Array.from({ length: count }, () => this.agent()));
  }

  /** Two fresh agents that trust each other. */
  async couple() {
    const agents = await this.agents(2);
    await pair(...agents);
    return agents;
  }

  /** An unsigned request. */
  send(method, path, over) {
    return send(this.proxyUrl, method, path, over);
  }

  /** A message on a queue, by its binding; an object is sent as a JSON string, as docs/wire.md §7 wants it. */
  async enqueue(body, { binding = "EVENTS_QUEUE", contentType = "text" } = {}) {
    const producer = await this.#miniflare.getQueueProducer(binding, PROXY);
    await producer.send(contentType === "text" && typeof body !== "string" ? JSON.stringify(body) : body, { contentType });
  }

  /** What the proxy keeps of its dead-letter queues, oldest first. */
  async deadLetters() {
    return (await this.db.prepare("SELECT * FROM dead_letters ORDER BY id").all()).results;
  }

  /** How many objects of this class were ever made: each has a file. */
  objectsMade(className) {
    const files = readdirSync(this.#directory, { recursive: true }).map(String);
    return files.filter((path) => path.includes(className) && path.endsWith(".sqlite")).length;
  }

  fault(dependency, mode, rest = {}) {
    return this.registry("/dev/faults", { dependency, mode, ...rest });
  }

  counters(reset = false) {
    return this.registry("/dev/counters", { reset });
  }

  // Those below need `hooks`.
  async moveClock(offsetMs) {
    for (const url of [this.proxyUrl, this.secondUrl]) if (url) await send(url, "GET", `/__test/clock?offsetMs=${offsetMs}`);
  }
  async evict(binding, name) {
    await this.send("GET", `/__test/abort?binding=${binding}&name=${encodeURIComponent(name)}`);
  }
  async wipe(binding, name) {
    await this.send("GET", `/__test/wipe?binding=${binding}&name=${encodeURIComponent(name)}`);
  }
  /** Calls an object's alarm handler, whether its alarm is due or not. */
  async alarm(binding, name) {
    await this.send("GET", `/__test/alarm?binding=${binding}&name=${encodeURIComponent(name)}`);
  }
  /** When an object's alarm is set for, Unix milliseconds; null where it is not. */
  async alarmAt(binding, name) {
    return (await this.send("GET", `/__test/alarm-at?binding=${binding}&name=${encodeURIComponent(name)}`)).json;
  }
  /** Runs statements in an object's SQL storage -> the rows of the last. */
  async sql(binding, name, body) {
    const answer = await this.send("POST", `/__test/sql?binding=${binding}&name=${encodeURIComponent(name)}`, { body });
    if (answer.status !== 200) throw new Error(answer.text);
    return answer.json;
  }
  /** Puts values under these keys of an object's key-value storage -> all that is there. */
  async keep(binding, name, values = {}) {
    const path = `/__test/keep?binding=${binding}&name=${encodeURIComponent(name)}`;
    const answer = await this.send("POST", path, { body: JSON.stringify(values) });
    if (answer.status !== 200) throw new Error(answer.text);
    return answer.json;
  }
  /** Puts fields into the attachment of each of an object's sockets. */
  async attach(binding, name, fields) {
    const path = `/__test/attach?binding=${binding}&name=${encodeURIComponent(name)}`;
    const answer = await this.send("POST", path, { body: JSON.stringify(fields) });
    if (answer.status !== 200) throw new Error(answer.text);
  }
  /** The names of an object's tables that are LIKE this. */
  async tables(binding, name, like) {
    const rows = await this.sql(binding, name, `SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '${like}'`);
    return rows.map((row) => row.name);
  }
  /** The object dies at its next step (to its SQL storage, on a socket) but `at`. */
  async dieAt(binding, name, at) {
    await this.send("GET", `/__test/die?binding=${binding}&name=${encodeURIComponent(name)}&at=${at}`);
  }
  async hasDied() {
    return (await this.send("GET", "/__test/died")).json;
  }
  /** The run of every minute; with a name, it is a piece of work. */
  async runScheduled(work) {
    await this.send("GET", `/__test/scheduled${work ? `?work=${work}` : ""}`);
  }
  /** The worker's and its objects' timers go so many times faster; its clock, alarms and queues do not. */
  async hurryTimers(speed) {
    await this.send("GET", `/__test/timers?speed=${speed}`);
  }
  /**
   * A piece of work is what the request of this id, or the event of this id, asks of the worker; of its calls to D1 and to
   * objects the one numbered `at` (from 0), or the first of that name, is lost, "before" it was done or "after"; or it is "held" back until
   * `release`, or only its answer is ("late"). An event needs `maxBatchSize: 1`. What an agent's trust object asks of D1 is
   * the work `trust:<ULID>`. `on`: so are all calls after it.
   */
  async lose(work, at, when, { on = false } = {}) {
    const which = typeof at === "string" ? `name=${encodeURIComponent(at)}` : `at=${at}`;
    await this.send("GET", `/__test/lose?of=${work}&${which}&when=${when}&on=${on}`);
  }
  async release(work) {
    await this.send("GET", `/__test/release?of=${work}`);
  }
  /** The calls of a piece of work so far, by name. */
  async callsOf(work) {
    return (await this.send("GET", `/__test/calls?of=${work}`)).json;
  }
  /** D1 "well", "fails" or "hangs", for the worker and its objects; `world.db` itself is always well. */
  async database(is) {
    await this.send("GET", `/__test/database?is=${is}`);
  }
  /**
   * {database, alarms, rows, trust: {admit: 3, …}, relay: {deliver: 3, …}}: questions to D1, alarms, rows that objects wrote,
   * calls to trust objects and to relay sessions by name; since the start or a reset.
   */
  async counts(reset = false) {
    return (await this.send("GET", `/__test/counts${reset ? "?reset" : ""}`)).json;
  }

  /** The data points since the last call, where the variable `METRICS_ARE` is "kept". */
  async points() {
    return (await this.send("GET", "/__test/points")).json;
  }

  /** A new runtime on the same storage. Agents made before need the new `proxyUrl`: see `adopt`. */
  async restart(over = {}) {
    await this.#miniflare.dispose();
    Object.assign(this.#options, over);
    await this.up();
  }

  /** The same, but the runtime is killed in the middle of what it does. */
  async killAndRestart() {
    for (const pid of this.#runtimePids) process.kill(pid, "SIGKILL");
    await this.restart();
  }

  /** Points agents made before a restart at the new runtime. */
  adopt(...agents) {
    for (const agent of agents) Object.assign(agent, { proxyUrl: this.proxyUrl, registry: this.registry });
  }

  /** CPU that the runtime has used, milliseconds, all of its threads that live (Linux). */
  cpuMs() {
    const threads = this.#runtimePids.flatMap((pid) => readdirSync(`/proc/${pid}/task`).map((id) => `/proc/${pid}/task/${id}/schedstat`));
    return threads.reduce((sum, path) => sum + Number(readFileSync(path, "utf8").split(" ")[0]), 0) / 1e6;
  }

  /** Ends the runtime, and fails where its log shows what no log may show: a token, or a panic that nobody asked for. */
  async stop({ mayPanic = false } = {}) {
    await this.#miniflare.dispose();
    rmSync(this.#directory, { recursive: true, force: true });
    const text = this.logs.map((line) => JSON.stringify(line)).join("\n");
    if (text.includes("panicked") && !mayPanic) throw new Error(`the worker panicked: ${text.match(/.*panicked.*/)[0]}`);
    for (const secret of this.#secrets) if (text.includes(secret)) throw new Error("a log line holds a token");
  }
}

/** The registry has the secret of the local files, or that of DEPLOYED; any other that the proxy has is a wrong one. */
function registrySecret({ REGISTRY_INTERNAL_SERVICE_SECRET: ours }) {
  const deployed = DEPLOYED.REGISTRY_INTERNAL_SERVICE_SECRET;
  return { REGISTRY_INTERNAL_SERVICE_SECRET: ours === deployed ? deployed : localSecrets().REGISTRY_INTERNAL_SERVICE_SECRET };
}

/** The workerd processes that this process has started (Linux). */
function runtimeChildren() {
  const own = [];
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      const [, name, parent] = /^\d+ \((.*)\) \S (\d+)/.exec(stat);
      if (name.startsWith("workerd") && Number(parent) === process.pid) own.push(Number(pid));
    } catch {
      // it ended while we looked
    }
  }
  return own;
}

/** D1's own interface, as far as tests need it, over the worker at `url`. */
function databaseAt(url) {
  const batch = async (statements) => {
    const body = JSON.stringify(statements.map(({ sql, values }) => ({ sql, values })));
    const response = await fetch(url, { method: "POST", body });
    if (!response.ok) throw new Error(await response.text());
    return response.json();
  };
  const statement = (sql, values) => ({
    sql,
    values,
    bind: (...bound) => statement(sql, bound),
    all: async () => (await batch([{ sql, values }]))[0],
    run: async () => (await batch([{ sql, values }]))[0],
    first: async () => (await batch([{ sql, values }]))[0].results[0] ?? null,
  });
  return { prepare: (sql) => statement(sql, []), batch };
}

/** Asks until `check` returns something true, or the deadline: for what happens in its own time. */
export async function eventually(check, { deadlineMs = DEADLINE_MS, everyMs = 20, what = "it" } = {}) {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what} did not happen within ${deadlineMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

/** `count` requests, 8 at a time -> their answers; `send` is given the number of each. */
export async function eightAtATime(count, send) {
  const answers = [];
  const sender = async () => {
    while (answers.length < count) {
      const at = answers.push(undefined) - 1;
      answers[at] = await send(at);
    }
  };
  await Promise.all(Array.from({ length: 8 }, sender));
  return answers;
}

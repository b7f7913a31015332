// The main module of the worker under test, if a test asks for it (`hooks: true`). It is the real one with ways to
// do what the platform can do: move the clock, speed up timers, evict an object, lose its storage, lose the
// database, or lose one call of one piece of work. It counts the calls to the trust objects and to the database, and keeps
// data points. It is never part of a deployed build.
import worker, * as built from "./index.js";

const RealDate = Date;
let offsetMs = 0;

// Rust reads the clock through the global Date. Alarms and queue delays stay on real time.
globalThis.Date = class extends RealDate {
  constructor(...args) {
    if (args.length === 0) super(RealDate.now() + offsetMs);
    else super(...args);
  }
  static now() {
    return RealDate.now() + offsetMs;
  }
};

// Timers go so many times faster than they were asked to; the clock stays.
const realSetTimeout = globalThis.setTimeout;
let timersSpeed = 1;
globalThis.setTimeout = (act, ms = 0, ...args) => realSetTimeout(act, ms / timersSpeed, ...args);

// How D1 is: "well", "fails" (every question is refused) or "hangs" (none is answered while the test runs).
let database = "well";
const HANG_MS = 120_000;
const counts = { database: 0, alarms: 0, rows: 0, trust: {}, relay: {} };

function unanswered() {
  if (database === "fails") return Promise.reject(new Error("D1_ERROR: told to fail"));
  return new Promise((_, reject) => realSetTimeout(() => reject(new Error("D1_ERROR: told to hang")), HANG_MS));
}

// A statement or the database itself. D1 fails where it is asked to run something, never where that is prepared.
const originals = new WeakMap();
function watched(target, made = (_, run) => run()) {
  const proxy = new Proxy(target, {
    get(_, name) {
      const member = target[name];
      if (typeof member !== "function" || name === "constructor") return member;
      if (name === "prepare" || name === "bind") return (...args) => watched(member.apply(target, args), made);
      if (!["batch", "exec", "first", "run", "all", "raw"].includes(name)) return member.bind(target);
      return (...args) => {
        counts.database += 1;
        if (database !== "well") return unanswered();
        const of = name === "batch" ? [args[0].map((statement) => originals.get(statement))] : args;
        return made("D1", () => member.apply(target, of));
      };
    },
  });
  originals.set(proxy, target);
  return proxy;
}

// In place of Analytics Engine: data points are kept, or refused, as the variable `METRICS_ARE` says.
const points = [];
const METRICS = {
  kept: { writeDataPoint: (point) => void points.push(point) },
  refused: {
    writeDataPoint() {
      throw new Error("told to refuse data points");
    },
  },
};

function withWatchedDatabase(env, made) {
  const watchedEnv = { ...env };
  if (env.DB !== undefined) watchedEnv.DB = watched(env.DB, made);
  if (env.METRICS_ARE) watchedEnv.METRICS = METRICS[env.METRICS_ARE];
  return watchedEnv;
}

// A piece of work is what one request, or the only message of a batch, asks of the entry point: named by the request's
// id, or the event's, or the session that an event without an id names. Its calls to the database and to objects are numbered over all its tries; `losses` says of which
// one (or of the first of which name) nothing arrives ("before"), the answer is lost ("after"), or which is "held" back, or done and its answer held back
// ("late"). Objects' own calls are not among them; those of an agent's trust object are the work `trust:<ULID>`.
const works = new Map();
const losses = new Map();

function callsOf(work) {
  if (!works.has(work)) works.set(work, []);
  const calls = works.get(work);
  return async (name, run) => {
    const at = calls.push(name) - 1;
    const released = async (when) => {
      const isHeld = () => losses.get(work)?.at === at && losses.get(work).when === when;
      while (isHeld()) await new Promise((resolve) => realSetTimeout(resolve, 5));
    };
    await released("held");
    const loss = losses.get(work);
    if (loss?.name === name) Object.assign(loss, { at, name: undefined });
    if (loss?.at !== at && !(loss?.on && at > loss.at)) return run();
    if (loss.when === "late") {
      const answer = await run();
      await released("late");
      return answer;
    }
    if (loss.when === "after") await run();
    throw new Error(`${name} was lost ${loss.when} it was done`);
  };
}

// A call is a JSON enum: a word, or an object with one field that names it.
const only = (enumerated) => (typeof enumerated === "string" ? enumerated : Object.keys(enumerated)[0]);
const OBJECTS = { PROXY_TRUST_STATE: "trust", AGENT_RELAY_SESSION: "relay", REVOCATION_FEED: "feed" };

function watchedObjects(namespace, kind, made) {
  const wrap = (target, members) =>
    new Proxy(target, {
      get(_, name) {
        if (Object.hasOwn(members, name)) return members[name];
        const member = target[name];
        return typeof member !== "function" || name === "constructor" ? member : member.bind(target);
      },
    });
  const stub = (target) =>
    wrap(target, {
      async fetch(request) {
        return made(`${kind} ${new URL(request.url ?? request).pathname}`, () => target.fetch(request));
      },
      call(text) {
        const body = JSON.parse(text);
        return made(`${kind} ${only(body.call ?? body)}`, () => target.call(text));
      },
    });
  return wrap(namespace, { getByName: (name) => stub(namespace.getByName(name)) });
}

// One object dies at one of its steps: what it asks of its SQL storage, and what it sends on a socket.
let dying; // { id, stepsLeft, died }, where died is the ctx that did
const ownerOf = new WeakMap(); // an object's SQL storage, or one of its sockets -> its ctx

function step(ctx) {
  if (!dying || ctx?.id.toString() !== dying.id) return;
  if (!dying.died && dying.stepsLeft-- > 0) return;
  if (!dying.died) {
    dying.died = ctx;
    // Not at once: that would end JavaScript in the middle of wasm, which no kill of an object does.
    setTimeout(() => ctx.abort("killed at a step by a test"), 0);
  }
  if (dying.died === ctx) throw new Error("killed at a step by a test");
}

function watchSteps(ctx) {
  ownerOf.set(ctx.storage.sql, ctx);
  const storage = Object.getPrototypeOf(ctx.storage.sql);
  if (storage.isWatched) return;
  storage.isWatched = true;
  const { exec } = storage;
  storage.exec = function (...args) {
    step(ownerOf.get(this));
    const cursor = exec.apply(this, args);
    counts.rows += cursor.rowsWritten;
    return cursor;
  };
  // Setting an alarm is billed as a row.
  const stored = Object.getPrototypeOf(ctx.storage);
  const { setAlarm } = stored;
  stored.setAlarm = function (...args) {
    counts.rows += 1;
    return setAlarm.apply(this, args);
  };
  const object = Object.getPrototypeOf(ctx);
  const { acceptWebSocket, getWebSockets } = object;
  object.acceptWebSocket = function (socket, ...args) {
    ownerOf.set(socket, this);
    return acceptWebSocket.call(this, socket, ...args);
  };
  object.getWebSockets = function (...args) {
    const sockets = getWebSockets.apply(this, args);
    for (const socket of sockets) ownerOf.set(socket, this);
    return sockets;
  };
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (...args) {
    step(ownerOf.get(this));
    return send.apply(this, args);
  };
}

function withWatchedCalls(env, work) {
  if (!work) return withWatchedDatabase(env);
  const made = callsOf(work);
  const watchedEnv = withWatchedDatabase(env, made);
  for (const [binding, kind] of Object.entries(OBJECTS)) {
    if (env[binding]) watchedEnv[binding] = watchedObjects(env[binding], kind, made);
  }
  return watchedEnv;
}

function onlyEventOf({ messages }) {
  try {
    const event = messages.length === 1 ? JSON.parse(messages[0].body) : undefined;
    return event?.id ?? event?.data?.sessionId;
  } catch {
    return undefined; // what is not an event has no calls to lose
  }
}

function withHooks(Built, told = () => undefined) {
  return class extends Built {
    constructor(ctx, env) {
      const own = {};
      super(ctx, withWatchedDatabase(env, (name, run) => (own.work ? callsOf(own.work)(name, run) : run())));
      this.own = own;
      watchSteps(ctx);
    }
    async fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/__test/sql") {
        return Response.json([...this.ctx.storage.sql.exec(await request.text())]);
      }
      if (pathname === "/__test/keep") {
        const values = await request.json();
        if (Object.keys(values).length > 0) await this.ctx.storage.put(values);
        return Response.json(Object.fromEntries(await this.ctx.storage.list()));
      }
      if (pathname === "/__test/attach") {
        const more = await request.json();
        for (const socket of this.ctx.getWebSockets()) {
          socket.serializeAttachment(JSON.stringify({ ...JSON.parse(socket.deserializeAttachment()), ...more }));
        }
        return Response.json(null);
      }
      if (pathname === "/__test/alarm-at") return Response.json(await this.ctx.storage.getAlarm());
      if (pathname === "/__test/alarm") {
        await this.alarm();
        return new Response(null, { status: 204 });
      }
      if (pathname === "/__test/abort") this.ctx.abort("evicted by a test");
      if (pathname === "/__test/wipe") {
        await this.ctx.storage.deleteAlarm();
        await this.ctx.storage.deleteAll();
        this.ctx.abort("wiped by a test");
      }
      return super.fetch(request);
    }
    call(text) {
      this.own.work = told(JSON.parse(text));
      return super.call(text);
    }
    alarm(info) {
      counts.alarms += 1;
      return super.alarm(info);
    }
  };
}

const toldTrust = (call) => {
  const name = only(call);
  counts.trust[name] = (counts.trust[name] ?? 0) + 1;
  return `trust:${call[name].agent?.split(":").at(-1) ?? "import"}`;
};
const toldRelay = ({ call }) => {
  const name = only(call);
  counts.relay[name] = (counts.relay[name] ?? 0) + 1;
};
export const ProxyTrustState = withHooks(built.ProxyTrustState, toldTrust);
export const AgentRelaySession = withHooks(built.AgentRelaySession, toldRelay);
export const RevocationFeed = withHooks(built.RevocationFeed);

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    if (url.pathname === "/__test/clock") {
      offsetMs = Number(url.searchParams.get("offsetMs"));
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/timers") {
      timersSpeed = Number(url.searchParams.get("speed"));
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/lose") {
      const { of, at, name, when, on } = Object.fromEntries(url.searchParams);
      losses.set(of, { at: name ? undefined : Number(at), name, when, on: on === "true" });
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/release") {
      losses.delete(url.searchParams.get("of"));
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/calls") return Response.json(works.get(url.searchParams.get("of")) ?? []);
    if (url.pathname === "/__test/database") {
      database = url.searchParams.get("is");
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/points") return Response.json(points.splice(0));
    if (url.pathname === "/__test/counts") {
      const seen = Response.json(counts);
      if (url.searchParams.has("reset")) Object.assign(counts, { database: 0, alarms: 0, rows: 0, trust: {}, relay: {} });
      return seen;
    }
    if (url.pathname === "/__test/scheduled") {
      const watched = withWatchedCalls(env, url.searchParams.get("work"));
      await worker.scheduled({ cron: "*/15 * * * *", scheduledTime: Date.now() }, watched, ctx);
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/panic") {
      // Rust unwraps what the event of a scheduled run says: an event that throws makes it panic.
      const event = {
        get cron() {
          throw new Error("told to panic");
        },
      };
      await worker.scheduled(event, env, ctx).catch(() => {}); // the panic is its answer
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/instance") return Response.json(globalThis.__worker_init_state.instanceId);
    if (url.pathname === "/__test/die") {
      const { binding, name, at } = Object.fromEntries(url.searchParams);
      dying = { id: env[binding].idFromName(name).toString(), stepsLeft: Number(at) };
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/died") return Response.json(dying.died !== undefined);
    if (url.pathname === "/__test/alarm-at") {
      const namespace = env[url.searchParams.get("binding")];
      return namespace.get(namespace.idFromName(url.searchParams.get("name"))).fetch("https://object/__test/alarm-at");
    }
    if (["/__test/sql", "/__test/keep", "/__test/attach"].includes(url.pathname)) {
      const namespace = env[url.searchParams.get("binding")];
      const stub = namespace.get(namespace.idFromName(url.searchParams.get("name")));
      return stub.fetch(`https://object${url.pathname}`, { method: "POST", body: await request.text() });
    }
    if (["/__test/abort", "/__test/wipe", "/__test/alarm"].includes(url.pathname)) {
      const namespace = env[url.searchParams.get("binding")];
      const stub = namespace.get(namespace.idFromName(url.searchParams.get("name")));
      await stub.fetch(`https://object${url.pathname}`).catch(() => {}); // the abort is its answer
      return new Response(null, { status: 204 });
    }
    return worker.fetch(request, withWatchedCalls(env, request.headers.get("x-request-id")), ctx);
  },
  queue: (batch, env, ctx) => worker.queue(batch, withWatchedCalls(env, onlyEventOf(batch)), ctx),
};

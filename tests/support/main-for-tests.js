// The main module of the worker under test, where a test asks for it (`hooks: true`): the real one, and a way to do to
// it what the platform does: move the clock, evict an object, lose its storage, lose the database. It counts what goes
// to the trust objects and to the database. Never part of a deployed build.
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

// How D1 is: "well", "fails" (every question is refused) or "hangs" (none is answered while the test runs).
let database = "well";
const HANG_MS = 120_000;
const counts = { database: 0, alarms: 0, trust: {} };

function unanswered() {
  if (database === "fails") return Promise.reject(new Error("D1_ERROR: told to fail"));
  return new Promise((_, reject) => setTimeout(() => reject(new Error("D1_ERROR: told to hang")), HANG_MS));
}

// A statement or the database itself. D1 fails where it is asked to run something, never where that is prepared.
const originals = new WeakMap();
function watched(target) {
  const proxy = new Proxy(target, {
    get(_, name) {
      const member = target[name];
      if (typeof member !== "function" || name === "constructor") return member;
      if (name === "prepare" || name === "bind") return (...args) => watched(member.apply(target, args));
      if (!["batch", "exec", "first", "run", "all", "raw"].includes(name)) return member.bind(target);
      return (...args) => {
        counts.database += 1;
        if (database !== "well") return unanswered();
        return member.apply(target, name === "batch" ? [args[0].map((statement) => originals.get(statement))] : args);
      };
    },
  });
  originals.set(proxy, target);
  return proxy;
}

function withWatchedDatabase(env) {
  return env.DB === undefined ? env : { ...env, DB: watched(env.DB) };
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
    return exec.apply(this, args);
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

function withHooks(Built, count = () => {}) {
  return class extends Built {
    constructor(ctx, env) {
      super(ctx, withWatchedDatabase(env));
      watchSteps(ctx);
    }
    async fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/call") {
        const body = await request.text();
        count(JSON.parse(body));
        request = new Request(request.url, { method: "POST", body });
      }
      if (pathname === "/__test/abort") this.ctx.abort("evicted by a test");
      if (pathname === "/__test/wipe") {
        await this.ctx.storage.deleteAlarm();
        await this.ctx.storage.deleteAll();
        this.ctx.abort("wiped by a test");
      }
      return super.fetch(request);
    }
    alarm(info) {
      counts.alarms += 1;
      return super.alarm(info);
    }
  };
}

// A call is a JSON enum: a word, or an object with one field that names it.
const countTrust = (call) => {
  const name = typeof call === "string" ? call : Object.keys(call)[0];
  counts.trust[name] = (counts.trust[name] ?? 0) + 1;
};
export const ProxyTrustState = withHooks(built.ProxyTrustState, countTrust);
export const AgentRelaySession = withHooks(built.AgentRelaySession);
export const RevocationFeed = withHooks(built.RevocationFeed);

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    if (url.pathname === "/__test/clock") {
      offsetMs = Number(url.searchParams.get("offsetMs"));
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/database") {
      database = url.searchParams.get("is");
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/counts") {
      const seen = Response.json(counts);
      if (url.searchParams.has("reset")) Object.assign(counts, { database: 0, alarms: 0, trust: {} });
      return seen;
    }
    if (url.pathname === "/__test/scheduled") {
      await worker.scheduled({ cron: "*/15 * * * *", scheduledTime: Date.now() }, withWatchedDatabase(env), ctx);
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/die") {
      const { binding, name, at } = Object.fromEntries(url.searchParams);
      dying = { id: env[binding].idFromName(name).toString(), stepsLeft: Number(at) };
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/died") return Response.json(dying.died !== undefined);
    if (url.pathname === "/__test/abort" || url.pathname === "/__test/wipe") {
      const namespace = env[url.searchParams.get("binding")];
      const stub = namespace.get(namespace.idFromName(url.searchParams.get("name")));
      await stub.fetch(`https://object${url.pathname}`).catch(() => {}); // the abort is its answer
      return new Response(null, { status: 204 });
    }
    return worker.fetch(request, withWatchedDatabase(env), ctx);
  },
  queue: (batch, env, ctx) => worker.queue(batch, withWatchedDatabase(env), ctx),
};

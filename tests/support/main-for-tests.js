// The main module of the worker under test, where a test asks for it (`hooks: true`): the real one, and a way to do to
// it what the platform does: move the clock, evict an object, lose its storage. Never part of a deployed build.
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

function withHooks(Built) {
  return class extends Built {
    async fetch(request) {
      const { pathname } = new URL(request.url);
      if (pathname === "/__test/abort") this.ctx.abort("evicted by a test");
      if (pathname === "/__test/wipe") {
        await this.ctx.storage.deleteAlarm();
        await this.ctx.storage.deleteAll();
        this.ctx.abort("wiped by a test");
      }
      return super.fetch(request);
    }
  };
}

export const ProxyTrustState = withHooks(built.ProxyTrustState);
export const AgentRelaySession = withHooks(built.AgentRelaySession);

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    if (url.pathname === "/__test/clock") {
      offsetMs = Number(url.searchParams.get("offsetMs"));
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/scheduled") {
      await worker.scheduled({ cron: "*/15 * * * *", scheduledTime: Date.now() }, env, ctx);
      return new Response(null, { status: 204 });
    }
    if (url.pathname === "/__test/abort" || url.pathname === "/__test/wipe") {
      const namespace = env[url.searchParams.get("binding")];
      const stub = namespace.get(namespace.idFromName(url.searchParams.get("name")));
      await stub.fetch(`https://object${url.pathname}`).catch(() => {}); // the abort is its answer
      return new Response(null, { status: 204 });
    }
    return worker.fetch(request, env, ctx);
  },
};

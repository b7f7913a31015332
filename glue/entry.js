// The Worker's main module: what the runtime sees, and nothing else. Every handler goes straight to Rust.
//
// It also ensures that a panic hurts no later call. A Rust panic ends the wasm instance with everything that was in
// flight in it, and wasm-bindgen starts a new one with the next call (`worker` asks it to). What was in flight would
// then never settle, and a caller of a Durable Object would hang. So each call is remembered here until it settles,
// and all of them fail at once when the instance ends.
import { DurableObject } from "cloudflare:workers";
import { linesOf } from "./http.js";
import * as wasm from "./index.js";

// Rust's futures are woken by microtasks, some forty in a request. One by way of a settled promise is an order of
// magnitude cheaper than the runtime's own, which goes through its bookkeeping.
const settled = Promise.resolve();
globalThis.queueMicrotask = (act) => void settled.then(act);

const state = wasm.__worker_init_state(); // { criticalError, instanceId }, written by the Rust side
const inFlight = new Set();

let entering; // the call that is on its way into Rust: the one that starts a new instance belongs to that one

function failInFlight({ except } = {}) {
  for (const fail of [...inFlight]) {
    if (fail !== except) fail(new Error("the instance that served this call has ended"));
  }
}

// The panic hook sets `criticalError`; each new instance, also one after a trap that is no panic, sets `instanceId`.
function onSet(name, react) {
  let value = state[name];
  Object.defineProperty(state, name, {
    get: () => value,
    set(next) {
      value = next;
      react();
    },
  });
}
onSet("criticalError", () => failInFlight());
onSet("instanceId", () => failInFlight({ except: entering }));

function guarded(call) {
  return new Promise((resolve, reject) => {
    const settle = (how) => (value) => {
      inFlight.delete(fail);
      how(value);
    };
    const fail = settle(reject);
    inFlight.add(fail);
    entering = fail;
    try {
      call().then(settle(resolve), fail);
    } catch (error) {
      fail(error);
    } finally {
      entering = undefined;
    }
  });
}

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

function ulid() {
  let time = Date.now();
  let head = "";
  for (let i = 0; i < 10; i++, time = Math.floor(time / 32)) head = ALPHABET[time % 32] + head;
  return head + [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => ALPHABET[byte & 31]).join("");
}

// docs/wire.md §5: the envelope, for the one answer that Rust can no longer give.
function internalError(request) {
  const given = request.headers.get("x-request-id") ?? "";
  const requestId = /^[A-Za-z0-9._:-]{8,128}$/.test(given) ? given : ulid();
  const error = { code: "INTERNAL_SERVER_ERROR", message: "Internal server error", requestId };
  return Response.json({ error }, { status: 500, headers: { "x-request-id": requestId } });
}

function durable(Rust) {
  return class extends DurableObject {
    #object;
    #instanceId;

    // The old Rust object went with its instance: a new one starts from what is stored.
    get rust() {
      if (this.#object === undefined || this.#instanceId !== state.instanceId) {
        this.#object = new Rust(this.ctx, this.env);
        this.#instanceId = state.instanceId;
      }
      return this.#object;
    }

    fetch(request) {
      return guarded(() => this.rust.fetch(request));
    }
    call(text) {
      return guarded(() => this.rust.call(text));
    }
    alarm() {
      return guarded(() => this.rust.alarm());
    }
  };
}

export class ProxyTrustState extends durable(wasm.ProxyTrustState) {}

export class RevocationFeed extends durable(wasm.RevocationFeed) {}

export class AgentRelaySession extends durable(wasm.AgentRelaySession) {
  webSocketMessage(socket, message) {
    return guarded(() => this.rust.webSocketMessage(socket, message));
  }
  webSocketClose(socket, code, reason, wasClean) {
    return guarded(() => this.rust.webSocketClose(socket, code, reason, wasClean));
  }
  webSocketError(socket, error) {
    return guarded(() => this.rust.webSocketError(socket, error));
  }
}

export default {
  fetch: (request, env, ctx) => guarded(() => wasm.fetch(linesOf(request), request, env, ctx)).catch(() => internalError(request)),
  queue: (batch, env, ctx) => guarded(() => wasm.queue(batch, env, ctx)),
  scheduled: (event, env, ctx) => guarded(() => wasm.scheduled(event, env, ctx)),
};

// The development registry: a stand-in for the real one, FOR DEVELOPMENT AND TESTS ONLY. It gives an identity to
// anyone who asks, has no passwords, and misbehaves on request. It is deployed nowhere: `npm start` and the tests
// run it beside the proxy.
//
// It serves what a registry serves according to docs/wire.md §4, under the faults that it is told to have, and the
// routes under /dev/ (dev.js). One object holds everything, on disk where the runtime keeps a disk. Its issuer is
// the setting ISSUER, otherwise the origin at which it is asked.
import { DurableObject } from "cloudflare:workers";

import { BadRequest, DEV } from "./dev.js";
import { DEPENDENCIES, underFault } from "./faults.js";
import { SERVED, dependencyOf, refuse } from "./served.js";
import { Store } from "./store.js";
import { newSigningKey, ulid } from "./tokens.js";

// Not the object's: it is evicted where nobody asks it anything for a while, and there is only one.
const counters = Object.fromEntries(DEPENDENCIES.map((name) => [name, 0]));

export class DevRegistry extends DurableObject {
  #store = new Store(this.ctx.storage.sql);

  async fetch(request) {
    const url = new URL(request.url);
    const dependency = dependencyOf(request.method, url.pathname);
    if (dependency) return this.#serve(dependency, request);
    if (url.pathname in DEV) return this.#dev(DEV[url.pathname], request, url);
    if (url.pathname === "/") return new Response("The development registry: for development and tests only.\n");
    return refuse(404, "NOT_FOUND", "unknown path or method");
  }

  async #serve(dependency, request) {
    counters[dependency] += 1;
    const fault = this.#store.get("fault", dependency);
    const registry = await this.#registry(request);
    return underFault(fault, () => SERVED[dependency]({ ...registry, fault, request }));
  }

  async #dev(handler, request, url) {
    if (request.method !== "POST") return refuse(405, "METHOD_NOT_ALLOWED", "the /dev/ routes take POST");
    try {
      const text = await request.text();
      const body = url.pathname === "/dev/events" ? text : JSON.parse(text || "{}");
      return Response.json(await handler(await this.#registry(request), body, url));
    } catch (error) {
      if (error instanceof BadRequest || error instanceof SyntaxError) return refuse(400, "BAD_REQUEST", error.message);
      throw error;
    }
  }

  async #registry(request) {
    const issuer = this.env.ISSUER ?? new URL(request.url).origin;
    const host = new URL(issuer).hostname;
    return {
      env: this.env,
      store: this.#store,
      counters,
      issuer,
      signingKey: await this.#signingKey(),
      did: (entity) => `did:cdi:${host}:${entity}:${ulid()}`,
    };
  }

  // Made once and stored: agents outlive a restart. Two first requests at once must not make two.
  async #signingKey() {
    const current = () => this.#store.all("key").find((key) => key.status === "active" && !key.retired);
    return (
      current() ??
      this.ctx.blockConcurrencyWhile(async () => {
        if (current()) return current();
        const key = await newSigningKey();
        return this.#store.put("key", key.kid, key);
      })
    );
  }
}

export default {
  fetch: (request, env) => env.REGISTRY.get(env.REGISTRY.idFromName("registry")).fetch(request),
};

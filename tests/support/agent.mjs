// An agent as a client of the proxy. It has keys and an AIT, signs its requests (docs/wire.md §3), and can be made
// to sign them wrongly in one respect at a time.
import { createHash, generateKeyPairSync, randomBytes, sign } from "node:crypto";

import { RelaySocket } from "./socket.mjs";

export const nowSeconds = () => Math.floor(Date.now() / 1000);
export const newNonce = () => randomBytes(16).toString("base64url");

/** `registry(path, body)` -> its JSON answer: the development routes of the registry at `url`. */
export function registryAt(url) {
  return async (path, body = {}) => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const response = await fetch(new URL(path, url), { method: "POST", body: text });
    if (!response.ok) throw new Error(`${path}: the registry answered ${response.status} ${await response.text()}`);
    return response.json();
  };
}

export class Agent {
  /** Makes keys and registers them; `options` are those of /dev/agents. */
  static async register(registry, proxyUrl, options = {}) {
    const { publicKey, privateKey } = generateKeyPairSync("ed25519");
    const { x } = publicKey.export({ format: "jwk" });
    const registered = await registry("/dev/agents", { x, ...options });
    return new Agent({ registry, proxyUrl, privateKey, x, ...registered });
  }

  constructor(fields) {
    const none = { registry: null, proxyUrl: null, agentDid: null, ait: null, aitJti: null, accessToken: null };
    // How far its clock is ahead, milliseconds: for tests that move the proxy's.
    Object.assign(this, none, { clockMs: 0 }, fields);
  }

  /** The ULID of its DID. */
  get id() {
    return this.agentDid.split(":").at(-1);
  }

  /** An action at the registry for this agent (`revoke`, `refresh`, `reissue`, `end-session`); it takes on the answer. */
  async atRegistry(action, body = {}) {
    return Object.assign(this, await this.registry(`/dev/agents/${action}`, { agentDid: this.agentDid, ...body }));
  }

  /**
   * The headers of one signed request. `over` replaces what goes into the signature (`timestamp`, `nonce`, `bodyHash`,
   * `signedMethod`, `signedPath`, `signedBody`), or `headers` after it; a header set to undefined is left out.
   */
  headers(method, path, body = "", over = {}) {
    const timestamp = String(over.timestamp ?? Math.floor((Date.now() + this.clockMs) / 1000));
    const nonce = over.nonce ?? newNonce();
    const bodyHash = over.bodyHash ?? createHash("sha256").update(over.signedBody ?? body).digest("base64url");
    const text = ["CLAW-PROOF-V1", (over.signedMethod ?? method).toUpperCase(), over.signedPath ?? path, timestamp, nonce, bodyHash];
    const proof = sign(null, Buffer.from(text.join("\n")), over.privateKey ?? this.privateKey).toString("base64url");
    const headers = {
      authorization: `Claw ${over.ait ?? this.ait}`,
      "x-claw-timestamp": timestamp,
      "x-claw-nonce": nonce,
      "x-claw-body-sha256": bodyHash,
      "x-claw-proof": proof,
      "x-claw-agent-access": this.accessToken ?? undefined,
      ...over.headers,
    };
    return Object.fromEntries(Object.entries(headers).filter(([, value]) => value !== undefined));
  }

  /** A signed request -> {status, headers, text, json}. `body` is sent as it is, an object as JSON. */
  async call(method, path, { body, ...over } = {}) {
    const text = body === undefined ? "" : typeof body === "string" ? body : JSON.stringify(body);
    const json = body === undefined ? {} : { "content-type": "application/json" };
    const headers = { ...json, ...this.headers(method, path, text, over) };
    return send(this.proxyUrl, method, path, { headers, body: body === undefined ? undefined : text });
  }

  get(path, over) {
    return this.call("GET", path, over);
  }

  post(path, body, over) {
    return this.call("POST", path, { body, ...over });
  }

  /** A hook: `recipient` is an Agent or a DID. */
  message(recipient, payload, { headers, ...over } = {}) {
    const to = { "x-claw-recipient-agent-did": recipient.agentDid ?? recipient };
    return this.post("/hooks/message", payload, { headers: { ...to, ...headers }, ...over });
  }

  connect({ path = "/v1/relay/connect", onDeliver, ...over } = {}) {
    return RelaySocket.open(new URL(path, this.proxyUrl).href, this.headers("GET", path, "", over), { onDeliver });
  }
}

/** Any request -> {status, headers, text, json}. */
export async function send(proxyUrl, method, path, { headers = {}, body } = {}) {
  const response = await fetch(new URL(path, proxyUrl), { method, headers, body, redirect: "manual" });
  const text = await response.text();
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  return { status: response.status, headers: response.headers, text, json };
}

const profile = (name) => ({ agentName: name, humanName: `${name}'s human`, proxyOrigin: `https://${name}.example` });

/** Pairs two agents by a ticket; returns the two answers. */
export async function pair(initiator, responder) {
  const started = await initiator.post("/pair/start", { initiatorProfile: profile("alpha") });
  if (started.status !== 200) throw new Error(`/pair/start: ${started.status} ${started.text}`);
  const confirmed = await responder.post("/pair/confirm", {
    ticket: started.json.ticket,
    responderProfile: profile("beta"),
  });
  if (confirmed.status !== 201) throw new Error(`/pair/confirm: ${confirmed.status} ${confirmed.text}`);
  return { started: started.json, confirmed: confirmed.json };
}

// The routes under /dev/: what a person does at the real registry by other means, and what only a test does. Each is
// a POST with a JSON body (except /dev/events) and answers with JSON; each handler's comment shows its body.

import { DEPENDENCIES, MODES } from "./faults.js";
import { base64url, newSigningKey, sign, signTexts, ulid } from "./tokens.js";

const ACCESS_LIFE_MS = 15 * 60_000;
const AIT_LIFE_SECONDS = 90 * 24 * 3600;

/** A fault of the caller of a /dev/ route. */
export class BadRequest extends Error {}

export const DEV = {
  // {} -> {ownerDid}
  "/dev/humans": ({ did }) => ({ ownerDid: did("human") }),

  // {x, name?, framework?, description?, ownerDid?, ttlSeconds?, claims?} -> an agent
  async "/dev/agents"(registry, body) {
    if (typeof body.x !== "string") throw new BadRequest("x, the agent's public key, is missing");
    const agent = {
      agentDid: registry.did("agent"),
      ownerDid: body.ownerDid ?? registry.did("human"),
      status: "active",
      x: body.x,
      name: body.name ?? "dev-agent",
      framework: body.framework ?? "dev",
      description: body.description,
      ttlSeconds: body.ttlSeconds ?? AIT_LIFE_SECONDS,
      sessionId: ulid(),
      accessToken: newAccessToken(),
      accessExpiresAtMs: Date.now() + ACCESS_LIFE_MS,
    };
    return answer(await issueAit(registry, agent, body.claims));
  },

  // {agentDid, x?} -> the agent with a new AIT. The CRL lists the old jti; there is no event.
  async "/dev/agents/reissue"(registry, body) {
    const agent = find(registry, body.agentDid);
    listInCrl(registry, { jti: agent.aitJti, agentDid: agent.agentDid, reason: "reissued" });
    return answer(await issueAit(registry, { ...agent, x: body.x ?? agent.x }));
  },

  // {agentDid, event?: true} -> the agent with a new access token; the old one is dead
  async "/dev/agents/refresh"(registry, body) {
    const agent = find(registry, body.agentDid);
    agent.accessToken = newAccessToken();
    agent.accessExpiresAtMs = Date.now() + ACCESS_LIFE_MS;
    registry.store.put("agent", agent.agentDid, agent);
    if (body.event ?? true) await publish(registry, "agent.auth.refreshed", agent);
    return answer(agent);
  },

  // {agentDid, reason?: "owner_auth_revoke", event?: true} -> its access token is dead, the agent lives
  async "/dev/agents/end-session"(registry, body) {
    const agent = find(registry, body.agentDid);
    agent.accessToken = null;
    registry.store.put("agent", agent.agentDid, agent);
    const data = { reason: body.reason ?? "owner_auth_revoke" };
    if (body.event ?? true) await publish(registry, "agent.auth.revoked", agent, data);
    return answer(agent);
  },

  // {agentDid, event?: true, crl?: true} -> the agent is revoked: by an event, and listed in the CRL
  async "/dev/agents/revoke"(registry, body) {
    const agent = find(registry, body.agentDid);
    agent.status = "revoked";
    agent.accessToken = null;
    registry.store.put("agent", agent.agentDid, agent);
    const listed = { jti: agent.aitJti, agentDid: agent.agentDid, reason: "agent_revoked" };
    if (body.crl ?? true) listInCrl(registry, listed);
    if (body.event ?? true) await publish(registry, "agent.auth.revoked", agent, { reason: "agent_revoked" });
    return answer(agent);
  },

  // {jti, agentDid, reason?} -> a CRL entry and nothing else; {entries: [...]} -> many
  "/dev/crl": (registry, body) =>
    body.entries ? { listed: body.entries.map((entry) => listInCrl(registry, entry)).length } : listInCrl(registry, body),

  // {members: [did]} -> {groupId, members}; with a groupId it replaces that group's members
  "/dev/groups"({ store }, { groupId = `grp_${ulid()}`, members = [] }) {
    return store.put("group", groupId, { groupId, members });
  },

  // {dependency: one of DEPENDENCIES or "all", mode: one of MODES, ms?, retryAfterSeconds?} -> the faults that stand
  "/dev/faults"({ store }, { dependency = "all", ...fault }) {
    const named = dependency === "all" ? DEPENDENCIES : [dependency];
    const mode = String(fault.mode);
    if (!named.every((name) => DEPENDENCIES.includes(name)) || !(mode in MODES)) {
      throw new BadRequest(`dependency: all, ${DEPENDENCIES.join(", ")}; mode: ${Object.keys(MODES).join(", ")}`);
    }
    for (const name of named) {
      if (mode === "none") store.delete("fault", name);
      else store.put("fault", name, { ...fault, mode, dependency: name });
    }
    return { faults: store.all("fault") };
  },

  // {reset?: bool} -> calls per dependency since the start or the last reset
  "/dev/counters"({ counters }, { reset = false }) {
    const seen = { ...counters };
    if (reset) for (const name of DEPENDENCIES) counters[name] = 0;
    return seen;
  },

  // {etag?: bool} -> whether the CRL carries an ETag
  "/dev/settings": ({ store }, { etag = false }) => ({ etag: store.put("setting", "etag", etag) }),

  // {revokeOld?: false} -> {kid}: a new signing key; AITs of the old one verify while it is active
  async "/dev/keys/rotate"({ store }, { revokeOld = false }) {
    for (const key of store.all("key")) {
      store.put("key", key.kid, { ...key, status: revokeOld ? "revoked" : key.status, retired: true });
    }
    const key = await newSigningKey();
    store.put("key", key.kid, key);
    return { kid: key.kid };
  },

  // {header|headerText, payload|payloadText, stranger?: bool} -> {token, kid}: any compact JWS, signed as it is
  async "/dev/sign"({ signingKey }, body) {
    const key = body.stranger ? { ...(await newSigningKey()), kid: signingKey.kid } : signingKey;
    const header = body.headerText ?? JSON.stringify({ alg: "EdDSA", typ: "AIT", kid: key.kid, ...body.header });
    return { token: await signTexts(key, header, body.payloadText ?? JSON.stringify(body.payload)), kid: key.kid };
  },

  // the body as it is, ?as=string (a text message), json (the parsed value) or bytes -> the events queue
  async "/dev/events"({ env }, text, url) {
    const as = url.searchParams.get("as") ?? "string";
    if (as === "json") await env.EVENTS_QUEUE.send(JSON.parse(text), { contentType: "json" });
    else if (as === "bytes") await env.EVENTS_QUEUE.send(new TextEncoder().encode(text), { contentType: "bytes" });
    else await env.EVENTS_QUEUE.send(text, { contentType: "text" });
    return { sent: true };
  },

  // {} -> everything is forgotten, the signing key too
  "/dev/reset"({ store, counters }) {
    store.clear();
    for (const name of DEPENDENCIES) counters[name] = 0;
    return { reset: true };
  },
};

async function issueAit(registry, agent, claims = {}) {
  const iat = Math.floor(Date.now() / 1000);
  const aitJti = ulid();
  const payload = {
    iss: registry.issuer,
    sub: agent.agentDid,
    ownerDid: agent.ownerDid,
    name: agent.name,
    framework: agent.framework,
    description: agent.description,
    cnf: { jwk: { kty: "OKP", crv: "Ed25519", x: agent.x } },
    iat,
    nbf: iat,
    exp: iat + agent.ttlSeconds,
    jti: aitJti,
    ...claims,
  };
  const ait = await sign(registry.signingKey, "AIT", payload);
  return registry.store.put("agent", agent.agentDid, { ...agent, ait, aitJti: payload.jti });
}

function answer({ agentDid, ownerDid, status, ait, aitJti, accessToken, accessExpiresAtMs, sessionId }) {
  return { agentDid, ownerDid, status, ait, aitJti, accessToken, accessExpiresAtMs, sessionId };
}

function find({ store }, agentDid) {
  const agent = store.get("agent", agentDid);
  if (!agent) throw new BadRequest("no such agentDid");
  return agent;
}

function listInCrl({ store }, { jti, agentDid, reason }) {
  return store.put("crl", jti, { jti, agentDid, reason, revokedAt: Math.floor(Date.now() / 1000) });
}

// docs/wire.md §7: the envelope is a JSON string, not an object.
async function publish({ env }, type, agent, data = {}) {
  const event = {
    id: ulid(),
    type,
    version: "v1",
    timestampUtc: new Date().toISOString(),
    initiatedByAccountId: agent.ownerDid,
    data: {
      agentId: agent.agentDid.split(":").at(-1),
      sessionId: agent.sessionId,
      ...data,
      metadata: { agentDid: agent.agentDid },
    },
  };
  await env.EVENTS_QUEUE.send(JSON.stringify(event), { contentType: "text" });
}

const newAccessToken = () => `dev_${base64url(crypto.getRandomValues(new Uint8Array(32)))}`;

// What every registry serves: docs/wire.md §4, answered from the store.

import { newSigningKey, sign, ulid } from "./tokens.js";

const CRL_LIFE_SECONDS = 390; // today's registry: 6.5 min
const CACHEABLE = { "cache-control": "public, max-age=300" }; // misleading on purpose, as the real one is

/** Which dependency a request asks, or undefined. Both paths of the validation are served. */
export function dependencyOf(method, path) {
  return {
    "GET /.well-known/claw-keys.json": "keys",
    "GET /v1/crl": "crl",
    "POST /v1/agents/auth/validate": "validate",
    "POST /v1/auth/agent/validate": "validate",
    "POST /internal/v1/identity/agent-ownership": "ownership",
    "POST /internal/v1/groups/membership/check": "membership",
  }[`${method} ${path}`];
}

export const SERVED = {
  async keys({ store, fault }) {
    const keys = store.all("key").map(({ kid, status, x }) => ({ kid, alg: "EdDSA", crv: "Ed25519", x, status }));
    if (fault?.mode === "wrong-key") for (const key of keys) key.x = (await newSigningKey()).x;
    return Response.json({ keys }, { headers: CACHEABLE });
  },

  async crl({ store, fault, issuer, signingKey, request }) {
    const revocations = store.all("crl");
    if (revocations.length === 0) return refuse(404, "CRL_NOT_FOUND");
    const etag = store.get("setting", "etag") ? `"${revocations.length}-${revocations.at(-1).jti}"` : undefined;
    const headers = { ...CACHEABLE, ...(etag && { etag }) };
    if (etag && request.headers.get("if-none-match") === etag) return new Response(null, { status: 304, headers });
    const iat = Math.floor(Date.now() / 1000);
    const claims = { iss: issuer, jti: ulid(), iat, exp: iat + CRL_LIFE_SECONDS, revocations };
    const key = fault?.mode === "wrong-key" ? { ...(await newSigningKey()), kid: signingKey.kid } : signingKey;
    return Response.json({ crl: await sign(key, "CRL", claims) }, { headers });
  },

  async validate({ store, request }) {
    const { agentDid, aitJti } = await request.json();
    const agent = store.get("agent", agentDid);
    const token = request.headers.get("x-claw-agent-access") ?? "";
    const valid =
      agent?.status === "active" && agent.aitJti === aitJti && token !== "" && agent.accessToken === token &&
      agent.accessExpiresAtMs > Date.now();
    return valid ? new Response(null, { status: 204 }) : refuse(401, "AGENT_AUTH_INVALID");
  },

  async ownership({ store, request, env }) {
    if (!isOurService(request, env)) return refuse(401, "INTERNAL_SERVICE_UNAUTHORIZED");
    const { ownerDid, agentDid } = await request.json();
    const agent = store.get("agent", agentDid);
    return Response.json({ ownsAgent: agent?.ownerDid === ownerDid, agentStatus: agent?.status ?? null });
  },

  async membership({ store, request, env }) {
    if (!isOurService(request, env)) return refuse(401, "INTERNAL_SERVICE_UNAUTHORIZED");
    const { groupId, memberAgentDid } = await request.json();
    return Response.json({ isMember: store.get("group", groupId)?.members.includes(memberAgentDid) ?? false });
  },
};

function isOurService(request, env) {
  return (
    request.headers.get("x-claw-service-id") === env.REGISTRY_INTERNAL_SERVICE_ID &&
    request.headers.get("x-claw-service-secret") === env.REGISTRY_INTERNAL_SERVICE_SECRET
  );
}

export function refuse(status, code, message = code) {
  return Response.json({ error: { code, message } }, { status });
}

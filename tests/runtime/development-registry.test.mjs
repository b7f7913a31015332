// The development registry by itself. The other tests rely on it.
import assert from "node:assert/strict";
import { createPublicKey, verify } from "node:crypto";
import { after, before, test } from "node:test";

import { AUTHORITY, ISSUER, start } from "../support/harness.mjs";

let world;
before(async () => {
  world = await start();
});
after(() => world?.stop());

const ask = async (path, { method = "GET", headers, body } = {}) => {
  const response = await fetch(new URL(path, world.registryUrl), {
    method, headers, body: body === undefined ? undefined : JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, json: parse(text) };
};
const parse = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
};

async function opened(token) {
  const [header, payload, signature] = token.split(".");
  const { keys } = (await ask("/.well-known/claw-keys.json")).json;
  const { kid } = JSON.parse(Buffer.from(header, "base64url"));
  const { x } = keys.find((key) => key.kid === kid && key.status === "active");
  const key = createPublicKey({ key: { kty: "OKP", crv: "Ed25519", x }, format: "jwk" });
  assert.ok(verify(null, Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, "base64url")));
  return { header: JSON.parse(Buffer.from(header, "base64url")), claims: JSON.parse(Buffer.from(payload, "base64url")) };
}

const validate = (agent, over = {}, path = "/v1/agents/auth/validate") =>
  ask(path, {
    method: "POST",
    headers: { "x-claw-agent-access": over.token ?? agent.accessToken },
    body: { agentDid: agent.agentDid, aitJti: over.aitJti ?? agent.aitJti },
  });

test("an agent gets an AIT with every claim, signed by a published key", async () => {
  const agent = await world.agent({ name: "first", description: "one" });
  const { header, claims } = await opened(agent.ait);
  assert.deepEqual(Object.keys(header), ["alg", "typ", "kid"]);
  assert.equal(claims.iss, ISSUER);
  assert.equal(claims.sub, agent.agentDid);
  assert.match(agent.agentDid, new RegExp(`^did:cdi:${AUTHORITY}:agent:[0-7][0-9A-HJKMNP-TV-Z]{25}$`));
  assert.equal(claims.ownerDid, agent.ownerDid);
  assert.deepEqual(claims.cnf, { jwk: { kty: "OKP", crv: "Ed25519", x: agent.x } });
  assert.ok(claims.exp > claims.nbf && claims.exp - claims.iat <= 90 * 24 * 3600);
});

test("validation, at both paths: 204 for the present token, 401 for any other", async () => {
  const agent = await world.agent();
  assert.equal((await validate(agent)).status, 204);
  assert.equal((await validate(agent, {}, "/v1/auth/agent/validate")).status, 204);
  assert.equal((await validate(agent, { token: "made-up" })).status, 401);
  assert.equal((await validate(agent, { aitJti: "01ARZ3NDEKTSV4RRFFQ69G5FAV" })).status, 401);
  const old = agent.accessToken;
  await agent.atRegistry("refresh");
  assert.equal((await validate(agent, { token: old })).status, 401);
  assert.equal((await validate(agent)).status, 204);
  await agent.atRegistry("end-session");
  assert.equal((await validate(agent, { token: old })).status, 401);
});

test("the CRL: 404 CRL_NOT_FOUND, then a signed list; a conditional request where it has an ETag", async () => {
  await world.registry("/dev/reset");
  const empty = await ask("/v1/crl");
  assert.deepEqual([empty.status, empty.json.error.code], [404, "CRL_NOT_FOUND"]);
  const agent = await world.agent();
  const oldJti = agent.aitJti;
  await agent.atRegistry("reissue");
  await agent.atRegistry("revoke", { event: false });
  const { crl } = (await ask("/v1/crl")).json;
  const { header, claims } = await opened(crl);
  assert.equal(header.typ, "CRL");
  assert.deepEqual(claims.revocations.map(({ jti, reason }) => [jti, reason]).sort(),
    [[oldJti, "reissued"], [agent.aitJti, "agent_revoked"]].sort());
  assert.equal((await ask("/v1/crl")).headers.get("etag"), null);
  await world.registry("/dev/settings", { etag: true });
  const etag = (await ask("/v1/crl")).headers.get("etag");
  assert.equal((await ask("/v1/crl", { headers: { "if-none-match": etag } })).status, 304);
});

test("the internal routes want the service's credentials", async () => {
  const { readFileSync } = await import("node:fs");
  const { parseEnv } = await import("node:util");
  const { REGISTRY_INTERNAL_SERVICE_ID: id, REGISTRY_INTERNAL_SERVICE_SECRET: secret } =
    parseEnv(readFileSync(new URL("../../.dev.vars.example", import.meta.url), "utf8"));
  const headers = { "x-claw-service-id": id, "x-claw-service-secret": secret };
  const [agent, other] = await world.agents(2);
  const ownership = (ownerDid, over = headers) =>
    ask("/internal/v1/identity/agent-ownership",
      { method: "POST", headers: over, body: { ownerDid, agentDid: agent.agentDid } });
  assert.deepEqual((await ownership(agent.ownerDid)).json, { ownsAgent: true, agentStatus: "active" });
  assert.deepEqual((await ownership(other.ownerDid)).json, { ownsAgent: false, agentStatus: "active" });
  assert.equal((await ownership(agent.ownerDid, {})).status, 401);
  const { groupId } = await world.registry("/dev/groups", { members: [agent.agentDid] });
  for (const [member, isMember] of [[agent, true], [other, false]]) {
    const body = { groupId, memberAgentDid: member.agentDid };
    const asked = await ask("/internal/v1/groups/membership/check", { method: "POST", headers, body });
    assert.deepEqual(asked.json, { isMember });
  }
});

test("faults do what they say, are counted, and stop", async () => {
  const keys = "/.well-known/claw-keys.json";
  await world.counters(true);
  const honest = (await ask(keys)).json.keys[0];
  await world.fault("keys", "500");
  assert.equal((await ask(keys)).status, 500);
  await world.fault("keys", "down");
  assert.equal((await ask(keys)).status, 500);
  await world.fault("keys", "429", { retryAfterSeconds: 7 });
  assert.deepEqual([(await ask(keys)).status, (await ask(keys)).headers.get("retry-after")], [429, "7"]);
  await world.fault("keys", "garbage");
  assert.equal((await ask(keys)).json, undefined);
  for (const mode of ["slow", "slow-body"]) {
    await world.fault("keys", mode, { ms: 200 });
    const started = Date.now();
    assert.equal((await ask(keys)).json.keys[0].kid, honest.kid);
    assert.ok(Date.now() - started >= 190, mode);
  }
  await world.fault("keys", "wrong-key");
  const wrong = (await ask(keys)).json.keys[0];
  assert.equal(wrong.kid, honest.kid);
  assert.notEqual(wrong.x, honest.x);
  await world.fault("all", "none");
  assert.deepEqual((await ask(keys)).json.keys[0], honest);
  assert.equal((await world.counters()).keys, 10);
  await assert.rejects(world.fault("keys", "nonsense"), /400/);
});

test("a rotated key signs, the old one verifies until it is revoked, and all outlives a restart", async () => {
  const agent = await world.agent();
  const { kid } = await world.registry("/dev/keys/rotate");
  assert.equal((await opened((await world.agent()).ait)).header.kid, kid);
  await opened(agent.ait);
  await world.restart();
  await opened(agent.ait);
  assert.equal((await validate(agent)).status, 204);
  await world.registry("/dev/keys/rotate", { revokeOld: true });
  await assert.rejects(opened(agent.ait));
});

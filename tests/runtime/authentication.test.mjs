// Who is admitted, and what everybody else is told: the AIT, the proof of possession, known agents, access tokens,
// and the limit for each agent. One fault at a time, each with its code. docs/wire.md §2, §3, §5, §8.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { request as httpRequest } from "node:http";
import { after, before, test } from "node:test";

import { newNonce, nowSeconds, pair } from "../support/agent.mjs";
import { accepted, admitted, probe, refused } from "../support/expect.mjs";
import { AUTHORITY, DEPLOYED, ISSUER, start } from "../support/harness.mjs";

let world;
let alice; // paired with bob
let bob;
let stranger; // paired with nobody
before(async () => {
  world = await start();
  [alice, bob, stranger] = await world.agents(3);
  await pair(alice, bob);
});
after(() => world?.stop());

const INVALID_AIT = [401, "PROXY_AUTH_INVALID_AIT"];
const INVALID_PROOF = [401, "PROXY_AUTH_INVALID_PROOF"];
const INVALID_NONCE = [401, "PROXY_AUTH_INVALID_NONCE"];
const INVALID_TIMESTAMP = [401, "PROXY_AUTH_INVALID_TIMESTAMP"];

const without = (name) => ({ headers: { [name]: undefined } });
const withHeader = (name, value) => ({ headers: { [name]: value } });

test("Authorization: missing, or another scheme", async () => {
  refused(await probe(alice, without("authorization")), 401, "PROXY_AUTH_MISSING_TOKEN");
  for (const value of [`Bearer ${alice.ait}`, `claw ${alice.ait}`, `CLAW ${alice.ait}`, alice.ait]) {
    refused(await probe(alice, withHeader("authorization", value)), 401, "PROXY_AUTH_INVALID_SCHEME");
  }
});

const claimsOf = (ait) => JSON.parse(Buffer.from(ait.split(".")[1], "base64url"));
const signed = async (body) => (await world.registry("/dev/sign", body)).token;
const point = (first, middle, last) => Buffer.from([first, ...Array(30).fill(middle), last]).toString("base64url");
const SMALL_ORDER = [point(1, 0, 0), point(0xec, 0xff, 0x7f), point(0, 0, 0)]; // of order 1, 2 and 4
const jwk = (fields) => ({ cnf: { jwk: { kty: "OKP", crv: "Ed25519", x: claimsOf(alice.ait).cnf.jwk.x, ...fields } } });

test("an AIT is refused for any claim that is not as it should be", async () => {
  const good = claimsOf(alice.ait);
  const human = good.ownerDid;
  const faults = {
    "an unknown claim": { extra: 1 },
    "another issuer": { iss: "http://other.test" },
    "a trailing slash on the issuer": { iss: `${ISSUER}/` },
    "an issuer with a port": { iss: `${ISSUER}:8080` },
    "a human as subject": { sub: human },
    "a subject of another authority": { sub: good.sub.replace(AUTHORITY, "other.test") },
    "a lower-case subject": { sub: good.sub.toLowerCase() },
    "a subject of six parts": { sub: `${good.sub}:x` },
    "an agent as owner": { ownerDid: good.sub },
    "an owner of another authority": { ownerDid: human.replace(AUTHORITY, "other.test") },
    "an empty name": { name: "" },
    "a long name": { name: "n".repeat(65) },
    "a name with a slash": { name: "a/b" },
    "an empty framework": { framework: "" },
    "a long framework": { framework: "f".repeat(33) },
    "a control character in the framework": { framework: "a\u0007" },
    "a long description": { description: "d".repeat(281) },
    "a control character in the description": { description: "a\nb" },
    "a key of another type": jwk({ kty: "EC" }),
    "a key on another curve": jwk({ crv: "X25519" }),
    "a key with a private part": jwk({ d: "AAAA" }),
    "a key of 31 bytes": jwk({ x: randomBytes(31).toString("base64url") }),
    "a padded key": jwk({ x: `${good.cnf.jwk.x}=` }),
    "cnf with more than a jwk": { cnf: { ...good.cnf, kid: "x" } },
    ...Object.fromEntries(SMALL_ORDER.map((x, i) => [`small-order key ${i}`, jwk({ x })])),
    "an end in the past": { iat: 1, nbf: 1, exp: nowSeconds() - 1 },
    "a beginning in the future": { nbf: nowSeconds() + 100 },
    "an end before the beginning": { nbf: nowSeconds() + 100, exp: nowSeconds() + 50 },
    "an end at the issue": { iat: good.exp },
    "a negative time": { iat: -1 },
    "a fractional time": { exp: good.exp + 0.5 },
    "a time as text": { exp: String(good.exp) },
    "a lower-case jti": { jti: good.jti.toLowerCase() },
    "a jti beyond a ULID": { jti: `8${good.jti.slice(1)}` },
    "no jti": { jti: undefined },
    "no owner": { ownerDid: undefined },
    "no cnf": { cnf: undefined },
  };
  for (const [name, over] of Object.entries(faults)) {
    const ait = await signed({ payload: { ...good, ...over } });
    const answer = await probe(alice, { ait });
    assert.deepEqual([answer.status, answer.json?.error?.code], INVALID_AIT, name);
  }
});

test("an AIT is accepted at the edges of its rules", async () => {
  const good = claimsOf(alice.ait);
  for (const over of [
    { iat: nowSeconds() + 100 }, { description: undefined }, { description: "d".repeat(280) }, { name: "A b.c_d-1" },
    { name: "n".repeat(64) }, { framework: "ünï" },
  ]) {
    admitted(await probe(alice, { ait: await signed({ payload: { ...good, ...over } }) }));
  }
});

test("an AIT is refused for its header, its form or its signature", async () => {
  const [header, payload, signature] = alice.ait.split(".");
  const good = claimsOf(alice.ait);
  const { kid } = await world.registry("/dev/sign", { payload: good });
  const text = JSON.stringify(good);
  const bytes = Buffer.from(signature, "base64url");
  bytes[5] ^= 1;
  const tokens = {
    "nothing": "x",
    "two segments": `${header}.${payload}`,
    "four segments": `${alice.ait}.x`,
    "a padded signature": `${alice.ait}==`,
    "trailing bits": `${header}.${payload}.${signature.slice(0, -1)}${signature.endsWith("A") || signature.endsWith("Q") || signature.endsWith("g") || signature.endsWith("w") ? String.fromCharCode(signature.charCodeAt(signature.length - 1) + 1) : "B"}`,
    "another signature": `${header}.${payload}.${bytes.toString("base64url")}`,
    "no signature": `${header}.${payload}.`,
    "a stranger's signature": await signed({ stranger: true, payload: good }),
    "an unknown kid": await signed({ header: { kid: "unknown" }, payload: good }),
    "an empty kid": await signed({ header: { kid: "" }, payload: good }),
    "alg none": `${Buffer.from(`{"alg":"none","typ":"AIT","kid":"${kid}"}`).toString("base64url")}.${payload}.`,
    "alg HS256": await signed({ header: { alg: "HS256" }, payload: good }),
    "typ CRL": await signed({ header: { typ: "CRL" }, payload: good }),
    "typ JWT": await signed({ header: { typ: "JWT" }, payload: good }),
    "crit": await signed({ header: { crit: ["exp"] }, payload: good }),
    "a claim twice": await signed({ payloadText: `${text.slice(0, -1)},"name":"twice"}` }),
    "alg twice": await signed({ headerText: `{"alg":"EdDSA","typ":"AIT","kid":"${kid}","alg":"EdDSA"}`, payload: good }),
    "claims that are an array": await signed({ payloadText: "[]" }),
    "claims that are no JSON": await signed({ payloadText: "{" }),
    "an oversized token": await signed({ payloadText: `${" ".repeat(20_000)}${text}` }),
  };
  for (const [name, ait] of Object.entries(tokens)) {
    const answer = await probe(alice, { ait });
    assert.deepEqual([answer.status, answer.json?.error?.code], INVALID_AIT, name);
  }
});

test("the proof: one fault at a time, in the order timestamp, nonce, body hash and signature", async () => {
  const other = (await world.agent()).privateKey;
  const now = nowSeconds();
  const cases = [
    ["no timestamp", without("x-claw-timestamp"), INVALID_TIMESTAMP],
    ...["", "now", "-1", "1.5", "1e9", "0x10", "1234567890123", "１２３"].map((value) =>
      [`timestamp ${JSON.stringify(value)}`, { timestamp: value, headers: { "x-claw-timestamp": Buffer.from(value).toString("latin1") } }, INVALID_TIMESTAMP]),
    ["no nonce", without("x-claw-nonce"), INVALID_NONCE],
    ["a blank nonce", { nonce: " " }, INVALID_NONCE],
    ["a nonce of 1,025 characters", { nonce: "n".repeat(1025) }, INVALID_NONCE],
    ["no body hash", without("x-claw-body-sha256"), INVALID_PROOF],
    ["the hash of another body", { signedBody: "other" }, INVALID_PROOF],
    ["a hash in hex", { bodyHash: "0".repeat(64) }, INVALID_PROOF],
    ["no proof", without("x-claw-proof"), INVALID_PROOF],
    ["a short proof", withHeader("x-claw-proof", "AAAA"), INVALID_PROOF],
    ["another agent's key", { privateKey: other }, INVALID_PROOF],
    ["another method", { signedMethod: "GET" }, INVALID_PROOF],
    ["another path", { signedPath: "/pair/start" }, INVALID_PROOF],
    ["another query", { signedPath: "/pair/status?x=1" }, INVALID_PROOF],
    ["another timestamp than signed", withHeader("x-claw-timestamp", String(now - 1)), INVALID_PROOF],
    ["another nonce than signed", withHeader("x-claw-nonce", "other"), INVALID_PROOF],
    ["skewed 302 s back", { timestamp: now - 302 }, [401, "PROXY_AUTH_TIMESTAMP_SKEW"]],
    ["skewed 305 s ahead", { timestamp: now + 305 }, [401, "PROXY_AUTH_TIMESTAMP_SKEW"]],
    ["timestamp and nonce bad", { headers: { "x-claw-timestamp": "x", "x-claw-nonce": undefined } }, INVALID_TIMESTAMP],
    ["nonce and proof bad", { headers: { "x-claw-proof": "x", "x-claw-nonce": undefined } }, INVALID_NONCE],
  ];
  for (const [name, over, expected] of cases) {
    const answer = await probe(alice, over);
    assert.deepEqual([answer.status, answer.json?.error?.code], expected, `${name}: ${answer.text}`);
  }
  for (const over of [{ timestamp: now - 295 }, { timestamp: now + 295 }, { nonce: `${newNonce()}${"n".repeat(900)}` }]) {
    admitted(await probe(alice, over));
  }
});

test("the query is part of what is signed", async () => {
  const path = `/v1/relay/delivery-receipts?requestId=none-such-1&recipientAgentDid=${encodeURIComponent(bob.agentDid)}`;
  assert.equal((await alice.get(path)).status, 404);
  refused(await alice.get(path, { signedPath: "/v1/relay/delivery-receipts" }), ...INVALID_PROOF);
});

test("the hook wants a known agent, then its access token", async () => {
  refused(await stranger.message(stranger, {}), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await stranger.message(stranger, {}, without("x-claw-agent-access")), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await alice.message(bob, {}, without("x-claw-agent-access")), 401, "PROXY_AGENT_ACCESS_REQUIRED");
  refused(await alice.message(bob, {}, withHeader("x-claw-agent-access", " ")), 401, "PROXY_AGENT_ACCESS_REQUIRED");
  refused(await alice.message(bob, {}, withHeader("x-claw-agent-access", "made-up")), 401, "PROXY_AGENT_ACCESS_INVALID");
  refused(await alice.message(bob, {}, withHeader("x-claw-agent-access", "x".repeat(1025))), 401, "PROXY_AGENT_ACCESS_INVALID");
  accepted(await alice.message(bob, {}), { state: "queued" });
});

test("the relay's routes want the access token, not a known agent", async () => {
  for (const over of [{}, { path: "/relay/connect" }]) {
    const none = await stranger.connect({ ...over, ...without("x-claw-agent-access") }).catch((error) => error);
    assert.deepEqual([none.status, none.json?.error?.code], [401, "PROXY_AGENT_ACCESS_REQUIRED"]);
    const bad = await stranger.connect({ ...over, ...withHeader("x-claw-agent-access", "made-up") }).catch((error) => error);
    assert.deepEqual([bad.status, bad.json?.error?.code], [401, "PROXY_AGENT_ACCESS_INVALID"]);
    await (await stranger.connect(over)).close();
  }
  refused(await stranger.post("/v1/relay/delivery-receipts", {}, without("x-claw-agent-access")), 401, "PROXY_AGENT_ACCESS_REQUIRED");
});

test("a warm caller costs the registry nothing", async () => {
  accepted(await alice.message(bob, { warm: true }));
  await world.counters(true);
  for (let i = 0; i < 5; i++) accepted(await alice.message(bob, { i }));
  assert.deepEqual(Object.values(await world.counters()), [0, 0, 0, 0, 0]);
});

test("the per-agent limit is for that agent alone", async () => {
  const own = await start({ bindings: { AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE: "3" } });
  try {
    const [one, other] = await own.agents(2);
    for (let i = 0; i < 3; i++) admitted(await probe(one));
    refused(await probe(one), 429, "PROXY_RATE_LIMIT_EXCEEDED");
    admitted(await probe(other));
  } finally {
    await own.stop();
  }
});

test("locally, behind another host name, the issuer is expected at that host; never otherwise", async () => {
  const bindings = { REGISTRY_URL: "http://127.0.0.1:8788" };
  for (const [over, host, issuer, status] of [
    [{}, "proxy.example.test", "http://proxy.example.test", 400],
    [{}, "proxy.example.test:9999", "http://proxy.example.test:8788", 400],
    [{}, "proxy.example.test", "http://127.0.0.1:8788", 401],
    [{ REGISTRY_ISSUER: "http://127.0.0.1:8788" }, "proxy.example.test", "http://proxy.example.test", 401],
    [{ ...DEPLOYED, REGISTRY_ISSUER: undefined }, "proxy.example.test", "http://proxy.example.test", 401],
  ]) {
    const own = await start({ bindings: { ...bindings, ...over } });
    try {
      const agent = await own.agent();
      const authority = new URL(issuer).hostname;
      const claims = claimsOf(agent.ait);
      for (const name of ["sub", "ownerDid"]) claims[name] = claims[name].replace(AUTHORITY, authority);
      const { token } = await own.registry("/dev/sign", { payload: { ...claims, iss: issuer } });
      const body = JSON.stringify({ ticket: "none" });
      const headers = { ...agent.headers("POST", "/pair/status", body, { ait: token }), host, "content-type": "application/json" };
      assert.equal(await statusOf(own.proxyUrl, headers, body), status, `${host} ${issuer} ${JSON.stringify(over)}`);
    } finally {
      await own.stop();
    }
  }
});

function statusOf(url, headers, body) {
  return new Promise((resolve, reject) => {
    const request = httpRequest(new URL("/pair/status", url), { method: "POST", headers }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject);
    request.end(body);
  });
}

// Bad input of every kind on every route and socket: it gets a documented answer and never a 500, and the next
// honest request is served. The input is random but the same in each run; GARBAGE_SEED=<number> sends other input. A
// panic in any log fails the run (see the harness).
import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, probe } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const SEED = Number(process.env.GARBAGE_SEED ?? 1);

let world;
let alice;
let bob;
before(async () => {
  world = await start({ consumer: { maxRetries: 1, retryDelay: 0 } });
  [alice, bob] = await world.agents(2);
  await pair(alice, bob);
});
after(() => world?.stop());

// mulberry32
let state = SEED;
function random() {
  state = (state + 0x6d2b79f5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
}
const pick = (list) => list[Math.floor(random() * list.length)];

const VALUES = [
  null, true, false, 0, -1, 1.5, 1e308, 9007199254740993, "", " ", "\u0000", "x".repeat(3000), "ü€😀", "\ud800", [], [[]], {}, { a: {} },
  "did:cdi:registry.test:agent:01ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "2026-01-01T00:00:00Z", "null",
];

/** An object with some of its fields replaced, removed or added. */
function mutated(object) {
  const copy = structuredClone(object);
  for (let i = 0; i < 1 + random() * 3; i++) {
    const key = pick([...Object.keys(copy), "extra", "__proto__", ""]);
    const target = copy[key];
    if (target && typeof target === "object" && !Array.isArray(target) && random() < 0.5) copy[key] = mutated(target);
    else if (random() < 0.3) delete copy[key];
    else Object.defineProperty(copy, key, { value: pick(VALUES), enumerable: true, configurable: true, writable: true });
  }
  return copy;
}

/** Text with a few characters lost, doubled or changed. */
function torn(text) {
  let out = text;
  for (let i = 0; i < 1 + random() * 3; i++) {
    const at = Math.floor(random() * out.length);
    out = out.slice(0, at) + pick(["", "\u0000", "{", '"', "é", out.slice(at, at + 5), "]"]) + out.slice(at + 1);
  }
  return out;
}

const garbage = (object) => (random() < 0.7 ? JSON.stringify(mutated(object)) : torn(JSON.stringify(object)));

const PROFILE = { agentName: "a", humanName: "b", proxyOrigin: "https://a.example" };

function documented(answer, sent) {
  assert.ok(answer.status < 500, `seed ${SEED}: ${answer.status} ${answer.text} to ${sent}`);
  if (answer.status >= 400) assert.match(answer.json.error.code, /^PROXY_[A-Z_]+$/, sent);
}

test(`bodies of every route (seed ${SEED})`, async () => {
  const { ticket } = (await alice.post("/pair/start", { initiatorProfile: PROFILE })).json;
  const routes = {
    "/pair/start": { ttlSeconds: 60, initiatorProfile: PROFILE, allowResponderAgentDid: bob.agentDid },
    "/pair/confirm": { ticket: `x${ticket}`, responderProfile: PROFILE },
    "/pair/status": { ticket },
    "/v1/relay/delivery-receipts": {
      requestId: ulid(), senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "dead_lettered", reason: "x",
    },
    "/hooks/message": { message: "x", deep: { a: [1, { b: null }] } },
  };
  for (const [path, body] of Object.entries(routes)) {
    for (let i = 0; i < 60; i++) {
      const text = garbage(body);
      const headers = path === "/hooks/message" ? { "x-claw-recipient-agent-did": bob.agentDid } : {};
      const answer = await bob.post(path, text, { headers });
      if (answer.status === 507) continue;
      documented(answer, `${path} ${text.slice(0, 300)}`);
    }
  }
  admitted(await probe(alice));
});

test("headers", async () => {
  const names = [
    "authorization", "x-claw-timestamp", "x-claw-nonce", "x-claw-body-sha256", "x-claw-proof", "x-claw-agent-access",
    "x-claw-recipient-agent-did", "x-claw-group-id", "x-claw-conversation-id", "x-claw-delivery-receipt-url", "content-type",
    "x-request-id", "cf-connecting-ip",
  ];
  const texts = ["", " ", "x", "\u00ff\u00fe", "x".repeat(5000), "Claw ", "Claw a.b.c", "Claw ..", "-1", "999999999999", "null", "a,b", "\t", "%00", "did:cdi:"];
  for (let i = 0; i < 250; i++) {
    const name = pick(names);
    const value = random() < 0.3 ? torn(alice.headers("POST", "/hooks/message", "{}")[name] ?? "x").replace(/[\u0000\u0100-\uffff]/g, "?") : pick(texts);
    const answer = await alice.message(bob, {}, { headers: { [name]: value } });
    // Of made-up access tokens the registry is asked about a few a minute, and of no more (docs/design.md §4).
    if (name === "x-claw-agent-access" && answer.json.error?.code === "PROXY_AUTH_DEPENDENCY_UNAVAILABLE") continue;
    documented(answer, `${name}: ${value.slice(0, 200)}`);
  }
  admitted(await probe(alice));
});

test("tokens", async () => {
  const [header, payload] = alice.ait.split(".").map((part) => Buffer.from(part, "base64url").toString());
  for (let i = 0; i < 150; i++) {
    const parts = { headerText: header, payloadText: payload };
    const name = pick(Object.keys(parts));
    const { token } = await world.registry("/dev/sign", { ...parts, [name]: garbage(JSON.parse(parts[name])) });
    documented(await probe(alice, { ait: token }), `${name} ${token}`);
  }
  admitted(await probe(alice));
});

test("queries", async () => {
  for (const query of ["?", "?&&", "?=", "?requestId", "?requestId=%zz&recipientAgentDid=%00", `?${"a=b&".repeat(500)}`, "?requestId=%F0%9F&recipientAgentDid=x", "?requestId=a&requestId=b"]) {
    documented(await alice.get(`/v1/relay/delivery-receipts${query}`), query);
    documented(await alice.get(`/v1/relay/connect${query}`), query);
  }
});

test("frames", async () => {
  const socket = await alice.connect();
  const enqueue = () => ({ v: 1, type: "enqueue", id: ulid(), ts: new Date().toISOString(), toAgentDid: bob.agentDid, payload: { a: 1 }, conversationId: "c" });
  const ack = () => ({ v: 1, type: "deliver_ack", id: ulid(), ts: new Date().toISOString(), ackId: ulid(), accepted: true, reason: null });
  for (let i = 0; i < 300; i++) {
    const text = garbage(pick([enqueue, ack])());
    if (random() < 0.2) socket.sendBinary(text);
    else socket.sendText(text);
  }
  const { id } = socket.send({ type: "heartbeat" });
  assert.equal((await socket.next("heartbeat_ack")).ackId, id);
  await socket.close();
});

test("queue messages", async () => {
  const last = await world.agent();
  const revoke = (agent) => ({
    id: ulid(), type: "agent.auth.revoked", version: "v1", timestampUtc: new Date().toISOString(), initiatedByAccountId: "a",
    data: { agentId: agent.id, sessionId: ulid(), reason: "agent_revoked", jti: ulid(), expiresAt: 1, metadata: { agentDid: agent.agentDid, jtis: [] } },
  });
  const system = {
    id: ulid(), type: "group.member.joined", version: "v1", timestampUtc: new Date().toISOString(), initiatedByAccountId: "a",
    data: {
      recipientAgentDid: bob.agentDid, joinedAgentDid: alice.agentDid, joinedAgentName: "a", groupId: `grp_${ulid()}`,
      groupName: "g", role: "admin", joinedAt: "2026-01-02T03:04:05Z", message: "m",
    },
  };
  const receipt = {
    type: "delivery_receipt", requestId: ulid(), senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid,
    status: "dead_lettered", reason: "r", processedAt: "x",
  };
  const paired = {
    type: "pair.accepted", initiatorAgentDid: bob.agentDid, responderAgentDid: alice.agentDid, responderProfile: PROFILE,
    issuerProxyOrigin: "https://a.example", eventTimestampUtc: "2026-01-02T03:04:05Z", message: "m",
  };
  const victim = { id: "01ARZ3NDEKTSV4RRFFQ69G5FAV", agentDid: "did:cdi:registry.test:agent:01ARZ3NDEKTSV4RRFFQ69G5FAV" };
  for (let i = 0; i < 150; i++) {
    const event = pick([revoke(victim), revoke(victim), system, receipt, paired]);
    await world.enqueue(garbage(event), { binding: pick(["EVENTS_QUEUE", "RECEIPT_QUEUE"]) });
  }
  await world.enqueue(revoke(last));
  while ((await probe(last)).status !== 401);
  admitted(await probe(alice));
});

test("a request that breaks off leaves the next one unharmed", async () => {
  const { hostname, port } = new URL(world.proxyUrl);
  const headers = Object.entries(alice.headers("POST", "/hooks/message", "{}")).map(([k, v]) => `${k}: ${v}\r\n`).join("");
  for (const [length, body] of [["1000", "{"], ["5", ""], ["1000", "x".repeat(999)]]) {
    await new Promise((resolve) => {
      const socket = connect(Number(port), hostname, () => {
        socket.write(`POST /hooks/message HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}content-length: ${length}\r\n\r\n${body}`);
        setTimeout(() => socket.destroy(), 50);
      });
      socket.on("close", resolve).on("error", resolve);
    });
  }
  accepted(await alice.message(bob, { after: "the cuts" }));
});

// Every route and every frame type, tried by a revoked caller. The routes are the router's own table
// (tests/support/routes.json, which a native test of crates/core/src/router.rs keeps equal to it). The frame types
// are those in the protocol's own source. A route or frame type that is added without saying here what a revoked
// caller gets fails this test.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ROOT } from "../../scripts/setup.mjs";
import { pair } from "../support/agent.mjs";
import { accepted, answered, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { UpgradeRefused, ulid } from "../support/socket.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const ROUTES = JSON.parse(readFileSync(join(ROOT, "tests/support/routes.json"), "utf8"));

// What a request of each route looks like that a caller with good standing is served.
const REQUESTS = {
  "POST /hooks/message": (peer) => ({ body: { hello: 1 }, headers: { "x-claw-recipient-agent-did": peer.agentDid } }),
  "POST /hooks/agent": (peer) => ({ body: { hello: 1 }, headers: { "x-claw-recipient-agent-did": peer.agentDid } }),
  "GET /v1/relay/connect": () => ({ upgrade: true }),
  "GET /relay/connect": () => ({ upgrade: true }),
  "POST /v1/relay/delivery-receipts": (peer, caller) => ({
    body: { requestId: ulid(), senderAgentDid: peer.agentDid, recipientAgentDid: caller.agentDid, status: "delivered_to_webhook" },
  }),
  "GET /v1/relay/delivery-receipts": (peer) => ({ query: `?requestId=${ulid()}&recipientAgentDid=${peer.agentDid}`, status: 404 }),
  "POST /pair/start": () => ({ body: { initiatorProfile: { agentName: "a", humanName: "h" } } }),
  "POST /pair/confirm": () => ({ body: { ticket: "none", responderProfile: { agentName: "a", humanName: "h", proxyOrigin: "https://a.example" } }, status: 400 }),
  "POST /pair/status": () => ({ body: { ticket: "none" }, status: 400 }),
  "POST /pair/remove": () => ({ body: { peerAgentDid: "did:cdi:registry.test:agent:00000000000000000000000000" } }),
  "GET /v1/revocations": () => ({}),
  "GET /v1/bundles/revocations.tar.gz": () => ({}),
  "GET /v1/events/revocations": () => ({ stream: true }),
};
// Routes that are nobody's: a revoked agent is told no more and no less than a stranger.
const OPEN = ["GET /health", "GET /v1/time"];

let world;
let peer;
const callers = {};
before(async () => {
  world = await start({ bindings: { ADMIN_TOKEN: ADMIN } });
  peer = await world.agent();
  for (const kind of ["agent", "token", "crl"]) {
    callers[kind] = await world.agent();
    await pair(callers[kind], peer);
  }
});
after(() => world?.stop());

const nameOf = ({ method, path }) => `${method} ${path}`;
const revoke = async (body) => {
  const headers = { authorization: `Bearer ${ADMIN}` };
  const answer = await world.send("POST", "/admin/v1/revocations", { headers, body: JSON.stringify(body) });
  assert.ok([200, 201].includes(answer.status), answer.text);
};

/** The answer to a request of this route, as {status, json, headers, text}. */
async function ask(route, caller) {
  const { body, headers, query = "", upgrade, stream } = REQUESTS[nameOf(route)](peer, caller);
  const path = route.path + query;
  if (upgrade) {
    try {
      const socket = await caller.connect({ path });
      await socket.terminate();
      return { status: 101 };
    } catch (error) {
      if (!(error instanceof UpgradeRefused)) throw error;
      return { status: error.status, json: error.json, text: error.body, headers: new Headers(error.headers) };
    }
  }
  if (stream) {
    const stop = new AbortController();
    const response = await fetch(new URL(path, world.proxyUrl), { headers: caller.headers("GET", path), signal: stop.signal });
    if (response.status !== 200) {
      const text = await response.text();
      return { status: response.status, json: JSON.parse(text), text, headers: response.headers };
    }
    stop.abort();
    return { status: 200 };
  }
  return caller.call(route.method, path, { body, headers });
}

test("the table says of every route what a revoked caller gets", () => {
  const claw = ROUTES.filter((route) => ["claw", "feed"].includes(route.access)).map(nameOf);
  assert.deepEqual(Object.keys(REQUESTS).sort(), claw.sort());
  assert.deepEqual(OPEN, ROUTES.filter((route) => route.access === "open").map(nameOf));
  for (const route of ROUTES) assert.ok(["claw", "feed", "open", "admin", "page"].includes(route.access), nameOf(route));
});

test("in good standing every route serves; revoked, each refuses: as an agent, as a token, by the CRL", async () => {
  const routes = ROUTES.filter((route) => nameOf(route) in REQUESTS);
  for (const route of routes) {
    const { status } = REQUESTS[nameOf(route)](peer, callers.agent);
    const answer = await ask(route, callers.agent);
    assert.ok(status ? answer.status === status : answer.status < 300, `${nameOf(route)}: ${answer.status} ${answer.text}`);
  }
  await revoke({ kind: "agent", agentDid: callers.agent.agentDid });
  await revoke({ kind: "token", jti: callers.token.aitJti });
  await world.registry("/dev/crl", { jti: callers.crl.aitJti, agentDid: callers.crl.agentDid });
  const headers = { authorization: `Bearer ${ADMIN}` };
  answered(await world.send("POST", "/admin/v1/reconcile", { headers }), 200);
  for (const caller of Object.values(callers)) {
    for (const route of routes) {
      const answer = await ask(route, caller);
      refused(answer, 401, "PROXY_AUTH_REVOKED");
    }
  }
});

test("an agent's identity opens no admin route, revoked or not", async () => {
  const honest = await world.agent();
  for (const route of ROUTES.filter((each) => each.access === "admin")) {
    const path = route.path.replace(/\{\w+\}/, "1");
    const body = route.method === "POST" ? {} : undefined;
    for (const caller of [honest, callers.agent]) {
      refused(await caller.call(route.method, path, { body }), 401, "PROXY_BEARER_REQUIRED");
    }
  }
});

// Every frame type, both ways (docs/wire.md §6): what a connector still gets, and what it can still do.
const FRAMES = {
  heartbeat: (socket) => socket.send({ type: "heartbeat" }),
  heartbeat_ack: (socket) => socket.send({ type: "heartbeat_ack", ackId: ulid() }),
  deliver: (socket) => socket.send({ type: "deliver", fromAgentDid: peer.agentDid, toAgentDid: peer.agentDid, payload: {} }),
  deliver_ack: (socket, delivered) => socket.ack(delivered),
  enqueue: (socket) => socket.send({ type: "enqueue", toAgentDid: peer.agentDid, payload: { never: "sent" } }),
  enqueue_ack: (socket) => socket.send({ type: "enqueue_ack", ackId: ulid(), accepted: true }),
  receipt: (socket) => socket.send({ type: "receipt", originalFrameId: ulid(), toAgentDid: peer.agentDid, status: "delivered_to_webhook" }),
};

test("the table has every frame type that is read or written, and no other", () => {
  const source = (name) => readFileSync(join(ROOT, "crates/protocol/src", name), "utf8");
  const all = (text, pattern) => [...text.matchAll(pattern)].map(([, type]) => type);
  const inbound = all(source("frame/inbound.rs"), /Some\("(\w+)"\) =>/g);
  const outbound = all(source("frame.rs"), /\bframe\(\s*"(\w+)"/g);
  assert.ok(inbound.length > 0 && outbound.length > 0);
  assert.deepEqual(Object.keys(FRAMES).sort(), [...new Set([...inbound, ...outbound])].sort());
});

test("every frame type on a socket that was open: closed with 1008, and no frame has an effect or an answer", async () => {
  for (const kind of ["agent", "token", "session"]) {
    for (const [type, sendFrame] of Object.entries(FRAMES)) {
      const caller = await world.agent();
      await pair(caller, peer);
      const socket = await caller.connect();
      const waiting = peer.message(caller, { for: type });
      const delivered = await socket.next((frame) => frame.payload?.for === type);
      await revoke(kind === "token" ? { kind, jti: caller.aitJti } : { kind, agentDid: caller.agentDid });
      sendFrame(socket, delivered);
      assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" }, `${kind}: ${type}`);
      const answers = socket.pending.filter((frame) => ["heartbeat_ack", "enqueue_ack", "receipt"].includes(frame.type));
      assert.deepEqual(answers, [], `${kind}: ${type}`);
      // Mail is held until the ledger has confirmed the revocation.
      assert.equal(accepted(await waiting).state, "queued", `${kind}: ${type}`);
    }
  }
  const inbox = await peer.connect({ onDeliver: (socket, frame) => socket.ack(frame) });
  await new Promise((resolve) => setTimeout(resolve, 300));
  assert.deepEqual(inbox.pending.filter((frame) => frame.payload?.never), [], "nothing enqueued by a revoked caller arrives");
  await inbox.close();
});

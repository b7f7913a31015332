// A TypeScript proxy ran under this name before: its pairs, tickets, revoked agents and waiting mail are taken over, once,
// also where that is interrupted. The storage is written by JavaScript, under the keys and in the shapes of that proxy.
import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { AUTHORITY, ISSUER, eventually, inWorld } from "../support/harness.mjs";
import { ADMIN, asOperator } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const PAIRS = 200;
const MAIL = 50;
const PROFILE = { agentName: "alpha", humanName: "Ann", proxyOrigin: "https://alpha.example" };

const stranger = () => `did:cdi:${AUTHORITY}:agent:${ulid()}`;
const pairKey = (...dids) => dids.sort().join("|");

/** A ticket as that proxy makes and keeps it. */
function ticketOf(initiator, origin, over = {}) {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const exp = Math.floor(Date.now() / 1000) + 600;
  const unsigned = { v: 2, iss: origin, kid: ulid(), nonce: randomBytes(18).toString("base64url"), exp, pkid: ulid() };
  const sig = sign(null, Buffer.from(JSON.stringify(unsigned)), privateKey).toString("base64url");
  const ticket = `clwpair1_${Buffer.from(JSON.stringify({ ...unsigned, sig })).toString("base64url")}`;
  const kept = {
    ticket, expiresAtMs: exp * 1000, initiatorAgentDid: initiator.agentDid, initiatorProfile: PROFILE, issuerProxyUrl: origin,
    publicKeyX: publicKey.export({ format: "jwk" }).x, ...over,
  };
  return { kid: unsigned.kid, ticket, kept };
}

/** What that proxy would have stored for these agents; returns the tickets too. */
async function keep(world, { one, two, three, revoked }) {
  const origin = new URL(world.proxyUrl).origin;
  const pairs = [pairKey(one.agentDid, two.agentDid)];
  const peers = { [one.agentDid]: [two.agentDid], [two.agentDid]: [one.agentDid] };
  while (pairs.length < PAIRS) pairs.push(pairKey(stranger(), stranger()));
  const open = Array.from({ length: 5 }, () => ticketOf(one, origin));
  const confirmed = Array.from({ length: 5 }, () => {
    const made = ticketOf(one, origin, { responderAgentDid: two.agentDid, responderProfile: PROFILE, confirmedAtMs: Date.now() });
    const { publicKeyX: _gone, ...kept } = made.kept;
    return { ...made, kept };
  });
  const byKid = (tickets) => Object.fromEntries(tickets.map(({ kid, kept }) => [kid, kept]));
  await world.keep("PROXY_TRUST_STATE", "global-trust", {
    "trust:pairs": pairs.sort(),
    "trust:agent-peers": peers,
    "trust:revoked-agents": Object.fromEntries(
      [revoked.agentDid, ...Array.from({ length: 4 }, stranger)].map((did) => [did, { expiresAtMs: Date.now() + 3600_000 }]),
    ),
    "trust:pairing-tickets": byKid(open),
    "trust:pairing-tickets-confirmed": byKid(confirmed),
  });
  const deliveries = Array.from({ length: MAIL }, (_, n) => ({
    deliveryId: ulid(), requestId: `request-${String(n).padStart(4, "0")}`, senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid,
    payload: { n }, createdAtMs: Date.now(), attemptCount: 1, expiresAtMs: Date.now() + 3600_000, nextAttemptAtMs: Date.now(),
  }));
  const receipt = (requestId, state, deliveryId = ulid()) => ({
    requestId, deliveryId, expiresAtMs: Date.now() + 3600_000, senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid, state,
    statusUpdatedAt: new Date().toISOString(),
  });
  const receipts = [...deliveries.map(({ requestId, deliveryId }) => receipt(requestId, "queued", deliveryId)), receipt("request-done", "delivered")];
  await world.keep("AGENT_RELAY_SESSION", two.agentDid, {
    "relay:delivery-queue": { deliveries, receipts: Object.fromEntries(receipts.map((one) => [one.requestId, one])) },
  });
  return { open, confirmed, three };
}

async function prepared(world) {
  const [one, two, three, revoked] = await world.agents(4);
  return { one, two, three, revoked, kept: await keep(world, { one, two, three, revoked }) };
}

const rows = async (world, table, where = "true") =>
  (await world.db.prepare(`SELECT count(*) AS n FROM ${table} WHERE ${where}`).first()).n;

async function allIsThere(world, { one, two, three, revoked, kept }) {
  refused(await probe(revoked), 401, "PROXY_AUTH_REVOKED");
  assert.deepEqual(
    [await rows(world, "pairs"), await rows(world, "pair_tickets"), await rows(world, "revocations", "kind = 'agent'")],
    [PAIRS * 2, 10, 5],
  );
  refused(await one.message(three, {}), 403, "PROXY_AUTH_FORBIDDEN");
  const waits = await one.get(`/v1/relay/delivery-receipts?requestId=request-0007&recipientAgentDid=${encodeURIComponent(two.agentDid)}`);
  assert.equal(answered(waits, 200).receipt.state, "queued");
  const found = await one.get(`/v1/relay/delivery-receipts?requestId=request-done&recipientAgentDid=${encodeURIComponent(two.agentDid)}`);
  assert.equal(answered(found, 200).receipt.state, "delivered");

  accepted(await one.message(two, { n: MAIL }));
  const socket = await two.connect(ackAll);
  for (let n = 0; n <= MAIL; n++) assert.deepEqual((await socket.next("deliver")).payload, { n });
  await eventually(async () => accepted(await one.message(two, { after: true })).state === "delivered", { what: "an empty queue" });
  await socket.close();

  for (const { ticket } of kept.open) {
    assert.equal(answered(await one.post("/pair/status", { ticket }), 200).status, "pending");
  }
  answered(await three.post("/pair/confirm", { ticket: kept.open[0].ticket, responderProfile: PROFILE }), 201);
  accepted(await one.message(three, {}));
  for (const { ticket } of kept.confirmed) {
    assert.equal(answered(await two.post("/pair/status", { ticket }), 200).status, "confirmed");
    refused(await three.post("/pair/confirm", { ticket, responderProfile: PROFILE }), 409, "PROXY_PAIR_TICKET_ALREADY_CONFIRMED");
  }
  const { startedAtMs, finishedAtMs, ...imported } = answered(await asOperator(world, "GET", "/admin/v1/import"), 200);
  assert.ok(finishedAtMs >= startedAtMs);
  assert.deepEqual(imported, { state: "finished", pairs: PAIRS, tickets: 10, revocations: 5, skipped: 0 });
}

const OPTIONS = { hooks: true, bindings: { ADMIN_TOKEN: ADMIN, REGISTRY_URL: ISSUER } };

test("all that was kept is there, once, at the first request of anybody", () =>
  inWorld(OPTIONS, async (world) => {
    const its = await prepared(world);
    await allIsThere(world, its);
  }));

// From which of a run's calls to D1 on all are lost: a run asks where the import is, then writes a step, and so on.
const LOSSES = [[0, "before"], [1, "after"], [1, "before"], [0, "after"], [2, "before"]];

test("interrupted at each of its steps, it goes on, and until its end nobody is told that anything is unknown", () =>
  inWorld(OPTIONS, async (world) => {
    const its = await prepared(world);
    const { one, two } = its;
    const state = async () => answered(await asOperator(world, "GET", "/admin/v1/import"), 200).state;
    assert.equal(await state(), "notBegun");
    const madeUp = ticketOf(one, new URL(world.proxyUrl).origin).ticket;
    let interrupted = 0;
    for (; ; interrupted++) {
      const [ahead, when] = LOSSES[interrupted % LOSSES.length];
      await world.lose("trust:import", (await world.callsOf("trust:import")).length + ahead, when, { on: true });
      const asked = await one.post("/pair/status", { ticket: madeUp });
      if (asked.status !== 503) {
        refused(asked, 404, "PROXY_PAIR_TICKET_NOT_FOUND");
        break;
      }
      const told = await one.message(two, { n: "too early" });
      assert.deepEqual([told.status, told.json.error?.details], [403, { reason: "trust_store_unavailable" }]);
    }
    assert.equal(await state(), "finished");
    assert.ok(interrupted >= 10, `interrupted ${interrupted} times`);
    await world.release("trust:import");
    await world.killAndRestart();
    world.adopt(one, two, its.three, its.revoked);
    await allIsThere(world, its);
  }));

test("a session that dies while it takes its mail over goes on with what is missing", () =>
  inWorld(OPTIONS, async (world) => {
    const its = await prepared(world);
    const asked = `/v1/relay/delivery-receipts?requestId=request-done&recipientAgentDid=${encodeURIComponent(its.two.agentDid)}`;
    let died = 0;
    for (const at of [0, 1, 3, 7, 20, 60, 110, 150]) {
      await world.dieAt("AGENT_RELAY_SESSION", its.two.agentDid, at);
      const { status } = await its.one.get(asked);
      if (!(await world.hasDied())) break;
      died += 1;
      assert.notEqual(status, 404);
    }
    assert.ok(died >= 6, `died ${died} times`);
    await world.dieAt("AGENT_RELAY_SESSION", "nobody", 0);
    await allIsThere(world, its);
  }));

test("what cannot be read is set aside, and holds up nothing", () =>
  inWorld(OPTIONS, async (world) => {
    const [one, two] = await world.couple();
    const mail = (requestId, over) => ({
      deliveryId: ulid(), requestId, senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid, payload: { requestId },
      createdAtMs: Date.now(), attemptCount: 1, expiresAtMs: Date.now() + 3600_000, nextAttemptAtMs: Date.now(), unknown: true, ...over,
    });
    const bad = [{ requestId: "request-2" }, mail("request-3", { payload: "\ud800" }), 7];
    await world.keep("AGENT_RELAY_SESSION", two.agentDid, {
      "relay:delivery-queue": { deliveries: [mail("request-1", { deliverySource: "agent.enqueue" }), ...bad], receipts: null },
    });
    await world.keep("PROXY_TRUST_STATE", "global-trust", { "trust:pairs": [pairKey(one.agentDid, two.agentDid)] });
    const socket = await two.connect(ackAll);
    assert.deepEqual((await socket.next("deliver")).payload, { requestId: "request-1" });
    await socket.close();
    assert.equal(world.logged("proxy.takeover.mail_set_aside")[0].entries, 3);
    const kept = await world.keep("AGENT_RELAY_SESSION", two.agentDid);
    assert.deepEqual(JSON.parse(kept["relay:delivery-queue:set-aside"]).map(JSON.parse), bad);
    assert.equal(kept["relay:delivery-queue"], undefined);
  }));

test("revoked agents in the older form, an array, are taken over", () =>
  inWorld(OPTIONS, async (world) => {
    const [one, two] = await world.agents(2);
    await world.keep("PROXY_TRUST_STATE", "global-trust", { "trust:revoked-agents": [stranger(), one.agentDid, "no DID"] });
    refused(await probe(one), 401, "PROXY_AUTH_REVOKED");
    admitted(await probe(two));
    assert.equal(await rows(world, "revocations", "kind = 'agent'"), 2);
  }));

test("a pair that is removed does not come back, and the old storage stays for the way back", () =>
  inWorld(OPTIONS, async (world) => {
    const { one, two } = await prepared(world);
    admitted(await probe(one));
    assert.deepEqual(answered(await one.post("/pair/remove", { peerAgentDid: two.agentDid }), 200), { removed: true });
    await world.restart();
    world.adopt(one, two);
    for (const [from, to] of [[one, two], [two, one]]) refused(await from.message(to, {}), 403, "PROXY_AUTH_FORBIDDEN");
    await pair(one, two);
    accepted(await two.message(one, {}));
    const kept = await world.keep("PROXY_TRUST_STATE", "global-trust");
    assert.equal(kept["trust:pairs"].length, PAIRS);
  }));

// A script with the classes of the TypeScript proxy, which reads and writes their storage as that does.
const EARLIER = `
import { DurableObject } from "cloudflare:workers";
class Kept extends DurableObject {
  async fetch(request) {
    for (const [key, value] of Object.entries(await request.json())) await this.ctx.storage.put(key, value);
    return Response.json(Object.fromEntries(await this.ctx.storage.list()));
  }
}
export class AgentRelaySession extends Kept {}
export class ProxyTrustState extends Kept {}
export class RevocationFeed extends DurableObject {}
export default {
  fetch(request, env) {
    const { searchParams } = new URL(request.url);
    return env[searchParams.get("binding")].getByName(searchParams.get("name")).fetch(request);
  },
};`;

test("forward, back and forward again on the same storage: nothing is lost, and no mail is sent twice", () =>
  inWorld({ instead: EARLIER, ...OPTIONS }, async (world) => {
    const its = await prepared(world);
    const { one, two, three } = its;
    const written = await world.keep("PROXY_TRUST_STATE", "global-trust");

    await world.restart({ instead: undefined });
    world.adopt(one, two, three, its.revoked);
    await allIsThere(world, its);
    accepted(await one.message(two, { from: "here" }), { state: "queued" });

    await world.restart({ instead: EARLIER });
    assert.deepEqual(await world.keep("PROXY_TRUST_STATE", "global-trust"), written, "it finds its trust state as it was");
    const mail = await world.keep("AGENT_RELAY_SESSION", two.agentDid);
    assert.deepEqual(Object.keys(mail), [], "it sends none of the mail again");
    const delivery = {
      deliveryId: ulid(), requestId: "request-from-there", senderAgentDid: one.agentDid, recipientAgentDid: two.agentDid,
      payload: { from: "there" }, createdAtMs: Date.now(), attemptCount: 0, expiresAtMs: Date.now() + 3600_000, nextAttemptAtMs: Date.now(),
    };
    await world.keep("AGENT_RELAY_SESSION", two.agentDid, { "relay:delivery-queue": { deliveries: [delivery], receipts: {} } });

    await world.restart({ instead: undefined });
    world.adopt(one, two, three);
    const socket = await two.connect(ackAll);
    for (const from of ["here", "there"]) assert.deepEqual((await socket.next("deliver")).payload, { from });
    accepted(await one.message(three, {}));
    await socket.close();
  }));

// Pairing from start to end: the shapes, every refusal, single use, and what a pair allows. docs/wire.md §5.5.
import assert from "node:assert/strict";
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { after, before, test } from "node:test";

import { nowSeconds, pair } from "../support/agent.mjs";
import { ULID, accepted, answered, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
let alice;
let bob;
let carol;
before(async () => {
  world = await start({ hooks: true });
  [alice, bob, carol] = await world.agents(3);
});
after(() => world?.stop());

const ALPHA = { agentName: "alpha", humanName: "Ann", proxyOrigin: "https://alpha.example" };
const BETA = { agentName: "beta", humanName: "Ben", proxyOrigin: "https://beta.example" };
const BODY = [400, "PROXY_PAIR_INVALID_BODY"];

const begin = async (agent = alice, body = {}) =>
  answered(await agent.post("/pair/start", { initiatorProfile: ALPHA, ...body }), 200);
const confirm = (agent, ticket, responderProfile = BETA) => agent.post("/pair/confirm", { ticket, responderProfile });
const status = (agent, ticket) => agent.post("/pair/status", { ticket });
const opened = (ticket) => JSON.parse(Buffer.from(ticket.replace("clwpair1_", ""), "base64url"));
const sealed = (object) => `clwpair1_${Buffer.from(JSON.stringify(object)).toString("base64url")}`;

test("start, status, confirm, status: bodies and ticket", async () => {
  const started = await begin();
  assert.deepEqual(Object.keys(started).sort(), ["expiresAt", "initiatorAgentDid", "initiatorProfile", "ticket"]);
  assert.equal(started.initiatorAgentDid, alice.agentDid);
  assert.deepEqual(started.initiatorProfile, ALPHA);
  const ticket = opened(started.ticket);
  assert.deepEqual(Object.keys(ticket), ["v", "iss", "kid", "nonce", "exp", "pkid", "sig"]);
  assert.equal(ticket.v, 2);
  assert.equal(ticket.iss, new URL(world.proxyUrl).origin);
  assert.match(ticket.kid, ULID);
  assert.match(ticket.pkid, ULID);
  assert.equal(Buffer.from(ticket.nonce, "base64url").length, 18);
  assert.equal(Buffer.from(ticket.sig, "base64url").length, 64);
  assert.ok(Math.abs(ticket.exp - nowSeconds() - 300) < 5);

  const pending = answered(await status(alice, started.ticket), 200);
  assert.deepEqual(pending, {
    status: "pending", initiatorAgentDid: alice.agentDid, initiatorProfile: ALPHA, expiresAt: started.expiresAt,
  });

  const confirmed = answered(await confirm(bob, started.ticket), 201);
  assert.deepEqual(confirmed, {
    paired: true, initiatorAgentDid: alice.agentDid, initiatorProfile: ALPHA,
    responderAgentDid: bob.agentDid, responderProfile: BETA,
  });

  for (const participant of [alice, bob]) {
    const done = answered(await status(participant, started.ticket), 200);
    const { confirmedAt, ...rest } = done;
    assert.ok(confirmedAt);
    assert.deepEqual(rest, {
      status: "confirmed", initiatorAgentDid: alice.agentDid, initiatorProfile: ALPHA,
      responderAgentDid: bob.agentDid, responderProfile: BETA, expiresAt: started.expiresAt,
    });
  }
  refused(await status(carol, started.ticket), 403, "PROXY_PAIR_STATUS_FORBIDDEN");
});

test("the pair may write to each other, and nobody else to them", async () => {
  accepted(await alice.message(bob, { hello: "bob" }), { state: "queued" });
  accepted(await bob.message(alice, { hello: "alice" }), { state: "queued" });
  accepted(await alice.message(alice, { hello: "me" }), { state: "queued" });
  refused(await alice.message(carol, {}), 403, "PROXY_AUTH_FORBIDDEN");
  refused(await carol.message(alice, {}), 403, "PROXY_AUTH_FORBIDDEN");
});

test("the initiator gets pair.accepted", async () => {
  const [one, two] = await world.agents(2);
  const socket = await one.connect(ackAll);
  await pair(one, two);
  const frame = await socket.next("deliver");
  assert.equal(frame.fromAgentDid, two.agentDid);
  assert.equal(frame.toAgentDid, one.agentDid);
  assert.equal(frame.deliverySource, "proxy.events.queue.pair_accepted");
  const event = frame.payload.system;
  assert.equal(event.type, "pair.accepted");
  assert.equal(event.initiatorAgentDid, one.agentDid);
  assert.equal(event.responderAgentDid, two.agentDid);
  assert.equal(event.responderProfile.proxyOrigin, "https://beta.example");
  assert.equal(event.responderProfile.displayName, event.responderProfile.humanName);
  assert.equal(event.issuerProxyOrigin, new URL(world.proxyUrl).origin);
  assert.match(event.eventTimestampUtc, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert.equal(event.message, "Clawdentity pairing complete. You can now message this peer.");
  await socket.close();
});

test("a ticket is good once, for another agent than its maker's", async () => {
  const { ticket } = await begin();
  refused(await confirm(alice, ticket), 403, "PROXY_PAIR_RESPONDER_FORBIDDEN");
  const first = answered(await confirm(bob, ticket), 201);
  refused(await confirm(carol, ticket), 409, "PROXY_PAIR_TICKET_ALREADY_CONFIRMED");
  // Who did not get the answer asks again, and gets it, whatever profile it sends now.
  assert.deepEqual(answered(await confirm(bob, ticket, ALPHA), 201), first);
});

test("two agents confirm at the same moment: one 201, one 409; the same agent twice: 201 both times", async () => {
  const same = await begin();
  const twice = await Promise.all([bob, bob].map((agent) => confirm(agent, same.ticket)));
  assert.deepEqual(answered(twice[0], 201), answered(twice[1], 201));
  for (const responders of [[bob, carol], [carol, bob]]) {
    const { ticket } = await begin();
    const answers = await Promise.all(responders.map((agent) => confirm(agent, ticket)));
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [201, 409]);
    const lost = answers.find((answer) => answer.status === 409);
    refused(lost, 409, "PROXY_PAIR_TICKET_ALREADY_CONFIRMED");
  }
});

test("a ticket may come in back-ticks and broken over lines", async () => {
  for (const wrap of [
    (t) => `\`${t}\``, (t) => `\`\`\`\n${t}\n\`\`\``, (t) => t.match(/.{1,40}/g).join("\n"), (t) => ` ${t.match(/.{1,9}/g).join("\r\n ")} `,
  ]) {
    const { ticket } = await begin();
    answered(await status(alice, wrap(ticket)), 200);
    answered(await confirm(bob, wrap(ticket)), 201);
  }
});

test("a ticket for one agent alone", async () => {
  const { ticket } = await begin(alice, { allowResponderAgentDid: carol.agentDid });
  refused(await confirm(bob, ticket), 403, "PROXY_PAIR_RESPONDER_FORBIDDEN");
  answered(await confirm(carol, ticket), 201);
});

test("tickets that are none, another's, altered, unknown or too old", async () => {
  const { ticket } = await begin();
  const object = opened(ticket);
  const { sig: _sig, ...unsigned } = object;
  const { privateKey } = generateKeyPairSync("ed25519");
  const resign = (fields) => {
    const body = { ...unsigned, ...fields };
    return sealed({ ...body, sig: sign(null, Buffer.from(JSON.stringify(body)), privateKey).toString("base64url") });
  };
  const swapped = { ...object, sig: randomBytes(64).toString("base64url") };
  for (const [name, bad, code, number = 400] of [
    ["no text", 7, "PROXY_PAIR_INVALID_BODY"],
    ["not a ticket", "hello", "PROXY_PAIR_TICKET_INVALID_FORMAT"],
    ["no JSON", `clwpair1_${Buffer.from("{").toString("base64url")}`, "PROXY_PAIR_TICKET_INVALID_FORMAT"],
    ["padded", `${ticket}=`, "PROXY_PAIR_TICKET_INVALID_FORMAT"],
    ["a field less", sealed({ ...object, kid: undefined }), "PROXY_PAIR_TICKET_INVALID_FORMAT"],
    ["another version", sealed({ ...object, v: 3 }), "PROXY_PAIR_TICKET_UNSUPPORTED_VERSION"],
    ["another issuer", resign({ iss: "https://other.example" }), "PROXY_PAIR_TICKET_INVALID_ISSUER"],
    ["another signature", sealed(swapped), "PROXY_PAIR_TICKET_INVALID_SIGNATURE"],
    ["a later end", sealed({ ...object, exp: object.exp + 60 }), "PROXY_PAIR_TICKET_INVALID_SIGNATURE"],
    ["a stranger's signature", resign({}), "PROXY_PAIR_TICKET_INVALID_SIGNATURE"],
    ["unknown", resign({ kid: ulid(), pkid: ulid() }), "PROXY_PAIR_TICKET_NOT_FOUND", 404],
  ]) {
    for (const answer of [await confirm(bob, bad), await status(alice, bad)]) {
      assert.deepEqual([answer.status, answer.json?.error?.code], [number, code], name);
    }
  }
  answered(await confirm(bob, ticket), 201);

  const short = await begin(alice, { ttlSeconds: 1 });
  await world.moveClock(2500);
  refused(await confirm(bob, short.ticket), 410, "PROXY_PAIR_TICKET_EXPIRED");
  await world.moveClock(0);
});

test("bodies that are not as they should be", async () => {
  const profiles = [
    undefined, null, "alpha", {}, { ...ALPHA, agentName: "" }, { ...ALPHA, agentName: "   " },
    { ...ALPHA, agentName: "n".repeat(65) }, { ...ALPHA, humanName: "a\u0000b" }, { ...ALPHA, humanName: 7 },
    { ...ALPHA, proxyOrigin: "ftp://x" }, { ...ALPHA, proxyOrigin: "nowhere" },
  ];
  for (const initiatorProfile of profiles) refused(await alice.post("/pair/start", { initiatorProfile }), ...BODY);
  for (const ttlSeconds of [0, 901, -1, 1.5, "60", true]) {
    refused(await alice.post("/pair/start", { initiatorProfile: ALPHA, ttlSeconds }), ...BODY);
  }
  for (const more of [{ callbackUrl: "https://x.example" }, { allowResponderAgentDid: "did:x" }, { allowResponderAgentDid: alice.ownerDid }]) {
    refused(await alice.post("/pair/start", { initiatorProfile: ALPHA, ...more }), ...BODY);
  }
  for (const body of ["", "no json", "[]", "null", '{"initiatorProfile":{}']) {
    refused(await alice.post("/pair/start", body), ...BODY);
    refused(await alice.post("/pair/confirm", body), ...BODY);
    refused(await alice.post("/pair/status", body), ...BODY);
  }
  const { ticket } = await begin();
  const { proxyOrigin: _origin, ...withoutOrigin } = BETA;
  refused(await confirm(bob, ticket, withoutOrigin), ...BODY);
  refused(await bob.post("/pair/confirm", { ticket }), ...BODY);
  refused(await bob.post("/pair/confirm", { ticket, responderProfile: BETA, callbackUrl: "https://x.example" }), ...BODY);
  answered(await confirm(bob, ticket), 201);
});

test("profiles are trimmed, an origin is kept as an origin, and may be absent at the start", async () => {
  const initiatorProfile = { agentName: "  alpha ", humanName: "Ann", proxyOrigin: "https://alpha.example/path?x=1" };
  assert.deepEqual((await begin(alice, { initiatorProfile })).initiatorProfile, ALPHA);
  const bare = { agentName: "alpha", humanName: "Ann" };
  assert.deepEqual((await begin(alice, { initiatorProfile: bare })).initiatorProfile, bare);
});

test("the registry decides about ownership; without it nobody pairs", async () => {
  const { ownerDid } = await world.registry("/dev/humans");
  const stolen = await world.agent({ claims: { ownerDid } });
  refused(await stolen.post("/pair/start", { initiatorProfile: ALPHA }), 403, "PROXY_PAIR_OWNERSHIP_FORBIDDEN");
  for (const mode of ["500", "down", "429", "garbage"]) {
    await world.fault("ownership", mode);
    refused(await alice.post("/pair/start", { initiatorProfile: ALPHA }), 503, "PROXY_PAIR_OWNERSHIP_UNAVAILABLE");
  }
  await world.fault("ownership", "none");
});

test("our own credentials are wrong: said as such", async () => {
  const own = await start({ bindings: { REGISTRY_INTERNAL_SERVICE_SECRET: "not-the-secret-of-this-registry" } });
  try {
    // The registry reads the same file of secrets, so that only the proxy has the wrong one.
    const agent = await own.agent();
    refused(await agent.post("/pair/start", { initiatorProfile: ALPHA }), 503, "PROXY_INTERNAL_AUTH_UNAUTHORIZED");
  } finally {
    await own.stop();
  }
});

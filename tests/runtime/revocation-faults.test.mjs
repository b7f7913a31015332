// A fault between any two steps of a revocation or a lift: repeating the work leaves the same state as doing it
// once. A first, undisturbed run of each case shows how many calls it makes (to the agent's objects, the ledger and
// the feed). Then each of these calls is lost, once before it was carried out and once afterwards, together with its
// answer.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator, event } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const HOUR_MS = 3_600_000;
const MAX_TRIES = 3;
const REVOKED = { code: 1008, reason: "revoked" };

// The isolate's own copy of the CRL is kept out of it: what refuses is the overlay. A batch is one event, so that its
// calls are its own.
const bindings = {
  ADMIN_TOKEN: ADMIN, FEED_TOKEN: ADMIN, CRL_REFRESH_INTERVAL_MS: "86400000", CRL_MAX_AGE_MS: "604800000",
  RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40",
};
let world;
let carol;
before(async () => {
  world = await start({ hooks: true, bindings, consumer: { maxBatchSize: 1 } });
  carol = await world.agent();
  admitted(await probe(carol)); // the isolate has its list now, an empty one
});
after(() => world?.stop());

const rowsOf = async (subject) =>
  (await world.db.prepare("SELECT * FROM revocations WHERE agent_did = ?1 OR jti = ?2 ORDER BY seq")
    .bind(subject.agentDid, subject.jti).all()).results;
const itemsOf = async (subject) => {
  const page = await world.send("GET", `/v1/revocations?since=${subject.since}`, { headers: { authorization: `Bearer ${ADMIN}` } });
  return answered(page, 200).items.filter((item) => item.agentDid === subject.agentDid || item.jti === subject.jti);
};

/** An agent with an open socket, mail on that socket, and mail of its own that waits for its peer, before Carol's. */
async function inTheMiddleOfThings() {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  await pair(carol, peer);
  const socket = await agent.connect();
  const hanging = peer.message(agent, { to: "be revoked" });
  await socket.next("deliver");
  accepted(await agent.message(peer, { from: "the revoked" }), { state: "queued" });
  accepted(await carol.message(peer, { from: "carol" }), { state: "queued" });
  const since = answered(await world.send("GET", "/v1/revocations", { headers: { authorization: `Bearer ${ADMIN}` } }), 200).latest;
  return { agent, peer, socket, hanging, agentDid: agent.agentDid, jti: agent.aitJti, since, work: `work:${ulid()}` };
}

/** The calls of its work, without those that were made before it began. */
const callsNow = async ({ work, callsBefore }) => (await world.callsOf(work)).slice(callsBefore);

/** Sent once, and tried again by the queue. The feed is told last, by each try. */
const byEvent = (data) => async (subject) => {
  await world.enqueue(event(data(subject), { id: subject.work }));
  const { tries = 1 } = subject;
  const isDone = async () => (await callsNow(subject)).filter((call) => call === "feed /poke").length >= tries;
  await eventually(isDone, { what: "the last call of the last try" });
};

/** Sent until it is answered well. */
const byOperator = (path, body) => async (subject) => {
  for (let tries = 1; ; tries++) {
    const answer = await asOperator(world, "POST", path(subject), body(subject), { "x-request-id": subject.work });
    if ([200, 201].includes(answer.status)) return;
    refused(answer, 503, "PROXY_REVOCATION_UNAVAILABLE");
    assert.ok(tries < MAX_TRIES, answer.text);
  }
};
const revoking = (body) => byOperator(() => "/admin/v1/revocations", body);
const lifting = byOperator(({ seq }) => `/admin/v1/revocations/${seq}/lift`, () => ({ force: true }));
const reconciling = byOperator(() => "/admin/v1/reconcile", () => undefined);

/** Revoked by an event that names its token too, and another of its tokens listed because of that: not yet recorded. */
async function revokedWithItsTokens(subject) {
  const { agent, jti, agentDid } = subject;
  subject.first = `first:${ulid()}`;
  await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked", jti }, { id: subject.first }));
  const [row] = await eventually(async () => (await rowsOf(subject)).length === 2 && rowsOf(subject), { what: "the revocation" });
  assert.equal(row.kind, "agent");
  await world.registry("/dev/crl", { jti: ulid(), agentDid, reason: "agent_revoked" });
  subject.seq = row.seq;
  subject.since = Math.max(...(await rowsOf(subject)).map(({ seq }) => seq));
}

/** Whose mail came to the peer, until Carol's, which was sent last. */
async function sendersTo(peer) {
  const inbox = await peer.connect(ackAll);
  const senders = [];
  while (senders.at(-1) !== "carol") senders.push((await inbox.next("deliver")).payload.from);
  await inbox.close();
  return senders;
}

/** Its rows, and the feed's items, are one of each of these kinds. */
async function recorded(subject, kinds) {
  await eventually(async () => (await rowsOf(subject)).length > 0, { what: "a row" });
  assert.deepEqual((await rowsOf(subject)).map((row) => row.kind).sort(), kinds);
  assert.deepEqual((await itemsOf(subject)).map((item) => item.kind).sort(), kinds);
}

async function agentIsOut(subject) {
  const { agent, peer, socket, hanging } = subject;
  await recorded(subject, ["agent"]);
  assert.deepEqual(await socket.closed, REVOKED);
  // Its mail is held until the ledger has confirmed the revocation, and given up then.
  const { state } = accepted(await hanging);
  assert.ok(["queued", "dead_lettered"].includes(state), state);
  refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  await eventually(async () => accepted(await peer.message(agent, {})).state === "dead_lettered", { what: "that mail is given up" });
  assert.deepEqual(await sendersTo(peer), ["carol"]);
}

async function tokenIsOut(subject) {
  const { agent, socket, hanging } = subject;
  await recorded(subject, ["token"]);
  assert.deepEqual((await rowsOf(subject)).map((row) => row.agent_did), [agent.agentDid]);
  assert.deepEqual(await socket.closed, REVOKED);
  accepted(await hanging, { state: "queued" });
  refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
  await agent.atRegistry("reissue");
  admitted(await probe(agent));
}

async function agentAndTokenAreOut(subject) {
  const { agent, socket, hanging } = subject;
  await recorded(subject, ["agent", "token"]);
  assert.deepEqual(await socket.closed, REVOKED);
  const { state } = accepted(await hanging);
  assert.ok(["queued", "dead_lettered"].includes(state), state);
  await agent.atRegistry("reissue");
  refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
}

async function sessionIsOut(subject) {
  const { agent, peer, socket, hanging, ends = 1 } = subject;
  await recorded(subject, Array(ends).fill("session"));
  assert.deepEqual(await socket.closed, REVOKED);
  accepted(await hanging, { state: "queued" });
  refused(await agent.message(peer, {}), 401, "PROXY_AGENT_ACCESS_INVALID");
  admitted(await probe(agent));
}

async function agentIsBack(subject) {
  const { agent, peer, hanging } = subject;
  const { state } = accepted(await hanging);
  assert.ok(["queued", "dead_lettered"].includes(state), state);
  const rows = await rowsOf(subject);
  assert.deepEqual(rows.map((row) => row.kind).sort(), ["agent", "lift", "lift", "lift", "token", "token"]);
  for (const row of rows) assert.equal(row.lifted_by === null, row.kind === "lift", JSON.stringify(row));
  assert.deepEqual((await itemsOf(subject)).map((item) => item.kind).sort(), ["lift", "lift", "lift", "token"]);
  admitted(await probe(agent));
  const socket = await agent.connect(ackAll);
  accepted(await peer.message(agent, {}), { state: "delivered" });
  await socket.close();
}

// `calls`: in this order, undisturbed. The order is docs/design.md §3's: overlay; ledger and sockets side by side; then what
// the ledger has confirmed; then the feed is told.
const STRIKE = ["trust revoke", "relay revokeSockets", "D1", "trust revoke"];
const STRIKE_BY_CRL = ["trust revoke", "relay revokeSockets"];
const AFTER_30_S = 31_000;
const CASES = {
  "an agent, by an event": {
    act: byEvent(({ agent }) => ({ agentId: agent.id, reason: "agent_revoked" })),
    calls: [...STRIKE, "relay revokeSockets", "feed /poke"],
    then: agentIsOut,
  },
  "a token, its agent not named, by an event": {
    act: byEvent(({ jti }) => ({ reason: "reissued", jti, expiresAt: Date.now() + HOUR_MS })),
    calls: ["D1", ...STRIKE, "feed /poke"],
    then: tokenIsOut,
  },
  "an agent that only its token names, by an event": {
    act: byEvent(({ jti }) => ({ reason: "agent_revoked", jti })),
    calls: ["D1", ...STRIKE, "relay revokeSockets", "feed /poke"],
    then: agentAndTokenAreOut,
  },
  "a session, by an event": {
    prepare: ({ agentDid }) => world.registry("/dev/agents/end-session", { agentDid, event: false }),
    act: byEvent(({ agent }) => ({ agentId: agent.id, reason: "owner_auth_revoke" })),
    calls: ["trust replace_generation", "relay revokeSockets", "D1", "trust session_ended", "feed /poke"],
    then: sessionIsOut,
  },
  "an agent, by an operator": {
    act: revoking(({ agentDid }) => ({ kind: "agent", agentDid, reason: "why" })),
    calls: [...STRIKE, "relay revokeSockets", "D1", "feed /poke"],
    then: agentIsOut,
  },
  "a token, by an operator": {
    act: revoking(({ jti }) => ({ kind: "token", jti, expiresAt: Date.now() + HOUR_MS })),
    calls: ["D1", ...STRIKE, "D1", "feed /poke"],
    then: tokenIsOut,
  },
  "a session, by an operator": {
    prepare: ({ agentDid }) => world.registry("/dev/agents/end-session", { agentDid, event: false }),
    act: revoking(({ agentDid }) => ({ kind: "session", agentDid })),
    calls: ["trust replace_generation", "relay revokeSockets", "D1", "D1", "feed /poke"],
    // An order has no id that would tell it from the next: asked for again once it is recorded, it ends a session again.
    then: (subject) => {
      const notRecorded = subject.at === undefined || subject.at === 4 || (subject.at === 2 && subject.when === "before");
      return sessionIsOut({ ...subject, ends: notRecorded ? 1 : 2 });
    },
  },
  "an agent's lift": {
    prepare: revokedWithItsTokens,
    act: lifting,
    calls: ["D1", "D1", "D1", "D1", "D1", "feed /poke", "D1", "trust lift", "relay liftRevocation", "D1"],
    clockMs: AFTER_30_S,
    then: agentIsBack,
  },
  "the event again, of an agent that was lifted": {
    async prepare(subject) {
      await revokedWithItsTokens(subject);
      await lifting({ ...subject, work: `lift:${ulid()}` });
      subject.work = subject.first;
    },
    act: byEvent(({ agent, jti }) => ({ agentId: agent.id, reason: "agent_revoked", jti })),
    calls: ["trust revoke", "D1", "relay revokeSockets", "D1", "D1", "trust lift", "relay liftRevocation", "D1", "feed /poke"],
    clockMs: AFTER_30_S,
    then: agentIsBack,
  },
  "a token, by the CRL": {
    oneByOne: true,
    async prepare({ agentDid, jti }) {
      await reconciling({ work: `level:${ulid()}` });
      await world.registry("/dev/crl", { jti, agentDid, reason: "reissued" });
    },
    act: reconciling,
    calls: ["D1", "D1", "D1", "D1", "D1", ...STRIKE_BY_CRL, "D1", "D1", "D1", "D1", "feed /poke"],
    then: tokenIsOut,
  },
};

/** One undisturbed, then one with each of its calls lost, before and after. */
async function everyFault({ prepare, act, calls, clockMs = 0, oneByOne = false, then }) {
  const told = (subject, work) =>
    work.catch((error) => {
      throw new Error(`${subject.lost ?? "undisturbed"}: ${error.message}`, { cause: error });
    });
  const begin = async (at, when) => {
    const subject = await inTheMiddleOfThings();
    await prepare?.(subject);
    subject.callsBefore = (await world.callsOf(subject.work)).length;
    if (when) {
      Object.assign(subject, { at, when, tries: calls[at] === "feed /poke" ? 1 : 2 });
      subject.lost = `call ${at}, ${calls[at]}, lost ${when}`;
      await world.lose(subject.work, subject.callsBefore + at, when);
    }
    await told(subject, act(subject));
    if (oneByOne) await told(subject, then(subject));
    return subject;
  };
  const end = async (subjects) => {
    if (oneByOne) return;
    await world.moveClock(clockMs);
    try {
      await Promise.all(subjects.map((subject) => told(subject, then(subject))));
    } finally {
      await world.moveClock(0);
    }
  };
  const undisturbed = await begin();
  await end([undisturbed]);
  assert.deepEqual(await callsNow(undisturbed), calls);
  const faults = calls.flatMap((_, at) => [[at, "before"], [at, "after"]]);
  const subjects = [];
  if (oneByOne) for (const fault of faults) subjects.push(await begin(...fault));
  else subjects.push(...(await Promise.all(faults.map((fault) => begin(...fault)))));
  await end(subjects);
}

for (const [name, each] of Object.entries(CASES)) {
  test(`${name}: the same end, whichever call is lost`, () => everyFault(each));
}

// A fault at each step of what makes, ends and tells of a pair. A first, undisturbed run of each shows how many calls it
// makes; then each of these calls is lost, before it was done or afterwards, and with the object of neither, one or the
// other agent wiped before the client tries again: in turn, and with `ALL=1` each with each. In the end both objects and the
// record agree, and whoever has been answered that a pair is removed writes nothing to the other one any more.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accepted, answered, refused } from "../support/expect.mjs";
import { eightAtATime, start } from "../support/harness.mjs";
import { pair } from "../support/agent.mjs";
import { ulid } from "../support/socket.mjs";

const TRUST = "PROXY_TRUST_STATE";
const MAX_TRIES = 4;
const AFTER_GRACE_MS = 11_000;

let world;
before(async () => {
  world = await start({ hooks: true });
});
after(() => world?.stop());

const named = (work) => ({ headers: { "x-request-id": work } });
const rowsOf = async (a, b, table = "pairs") =>
  (await world.db.prepare(`SELECT * FROM ${table} WHERE (agent_did = ?1 AND peer_did = ?2) OR (agent_did = ?2 AND peer_did = ?1)`)
    .bind(a.agentDid, b.agentDid).all()).results;
const held = async (agent, peer) =>
  (await world.sql(TRUST, agent.id, "SELECT peer, pair_id FROM peers")).find((row) => row.peer === peer.agentDid)?.pair_id;

/** Asks until it is answered with this status, as a client does; between two tries `meanwhile` happens once. */
async function until(status, ask, meanwhile) {
  for (let tries = 1; ; tries++) {
    const answer = await ask();
    if (answer.status === status) return answer;
    assert.ok(answer.status === 503 && tries < MAX_TRIES, `${answer.status} ${answer.text}`);
    if (tries === 1) await meanwhile?.();
  }
}

const profiles = { initiatorProfile: { agentName: "a", humanName: "h" }, responderProfile: { agentName: "b", humanName: "h", proxyOrigin: "https://b.example" } };

async function ticketOf(a) {
  return answered(await a.post("/pair/start", { initiatorProfile: profiles.initiatorProfile }), 200).ticket;
}

async function strangers() {
  const [a, b] = await world.agents(2);
  return { a, b, work: `work:${ulid()}` };
}

const WORK = {
  "a confirmation": {
    async prepare(it) {
      it.ticket = await ticketOf(it.a);
    },
    act: ({ b, ticket, work }, meanwhile) =>
      until(201, () => b.post("/pair/confirm", { ticket, responderProfile: profiles.responderProfile }, named(work)), meanwhile),
    paired: true,
  },
  "a confirmation anew": {
    async prepare(it) {
      await pair(it.a, it.b);
      it.ticket = await ticketOf(it.a);
    },
    act: ({ b, ticket, work }, meanwhile) =>
      until(201, () => b.post("/pair/confirm", { ticket, responderProfile: profiles.responderProfile }, named(work)), meanwhile),
    paired: true,
  },
  "a removal": {
    prepare: ({ a, b }) => pair(a, b),
    act: ({ a, b, work }, meanwhile) => until(200, () => a.post("/pair/remove", { peerAgentDid: b.agentDid }, named(work)), meanwhile),
    paired: false,
  },
  "the status of a pair that nobody was told of": {
    async prepare(it) {
      await untold(it, await ticketOf(it.a));
    },
    act: ({ a, ticket, work }, meanwhile) => until(200, () => a.post("/pair/status", { ticket }, named(work)), meanwhile),
    paired: true,
  },
  "the removal of a pair, of whose confirmation anew nobody was told": {
    async prepare(it) {
      await pair(it.a, it.b);
      await untold(it, await ticketOf(it.a));
    },
    act: ({ a, b, work }, meanwhile) => until(200, () => a.post("/pair/remove", { peerAgentDid: b.agentDid }, named(work)), meanwhile),
    paired: false,
  },
};

/** The ticket is confirmed, and whoever is to be told of that is not. */
async function untold(it, ticket) {
  const work = `untold:${ulid()}`;
  it.ticket = ticket;
  await world.lose(work, "trust pair_changed", "before", { on: true });
  answered(await it.b.post("/pair/confirm", { ticket, responderProfile: profiles.responderProfile }, named(work)), 201);
}

/** Whoever was told that the pair is removed is not answered by it any more. */
async function isApart(a, b) {
  refused(await a.message(b, {}), 403, "PROXY_AUTH_FORBIDDEN");
}

async function agree({ a, b }, paired) {
  const rows = await rowsOf(a, b);
  assert.deepEqual(rows.map((row) => row.untold_since_ms), paired ? [null, null] : [], "rows of the record");
  assert.equal(new Set(rows.map((row) => row.pair_id)).size, paired ? 1 : 0);
  assert.deepEqual(await rowsOf(a, b, "ended_pairs"), []);
  for (const [one, other] of [[a, b], [b, a]]) {
    const answer = await one.message(other, {});
    if (paired) accepted(answer);
    else refused(answer, 403, "PROXY_AUTH_FORBIDDEN");
    assert.equal(await held(one, other), rows[0]?.pair_id);
  }
}

/** What is due is done: the alarms of both objects, and the run of the minute, which tells what these leave in the next. */
async function comeToRest(all) {
  for (let round = 1; round <= 2; round++) {
    await world.moveClock(round * AFTER_GRACE_MS);
    await Promise.all(all.flatMap(({ a, b }) => [a, b].map((agent) => world.alarm(TRUST, agent.id))));
    await world.runScheduled();
  }
  await world.moveClock(0);
}

const described = (it, work) =>
  work.catch((error) => {
    throw new Error(`${it.lost}: ${error.message}`, { cause: error });
  });

async function everyFault({ prepare, act, paired }, offset) {
  const first = await strangers();
  await prepare(first);
  await act(first);
  const calls = await world.callsOf(first.work);
  const kinds = ["before", "after"].flatMap((when) => [undefined, "a", "b"].map((wiped) => ({ when, wiped })));
  const chosen = calls.flatMap((name, at) =>
    (process.env.ALL ? kinds : [kinds[(at * 5 + offset) % kinds.length]]).map((kind) => ({ ...kind, name, at })));
  const all = await eightAtATime(chosen.length, async (nth) => {
    const fault = chosen[nth];
    const it = { ...(await strangers()), fault };
    it.lost = `call ${fault.at}, ${fault.name}, lost ${fault.when}${fault.wiped ? `, ${fault.wiped} wiped` : ""}`;
    await prepare(it);
    await world.lose(it.work, fault.at, fault.when);
    const wipe = async () => {
      if (fault.wiped) await world.wipe(TRUST, it[fault.wiped].id);
    };
    await described(it, act(it, wipe));
    if (!paired) await described(it, isApart(it.a, it.b));
    // What was answered at the first try may have been known to nobody but the object that answered: a promise of the
    // record only.
    if (paired) await wipe();
    return it;
  });
  await comeToRest([first, ...all]);
  const everyone = [first, ...all];
  await eightAtATime(everyone.length, (nth) => described(everyone[nth], agree(everyone[nth], paired)));
}

Object.entries(WORK).forEach(([name, work], offset) => {
  test(`${name}: whichever call is lost, both objects and the record agree`, () => everyFault(work, offset));
});

test("the minute's run: whichever call is lost, the next one tells everybody", async () => {
  const prepared = async (number) => {
    const all = [];
    for (let each = 0; each < number; each++) {
      const it = await strangers();
      await untold(it, await ticketOf(it.a));
      all.push(it);
    }
    return all;
  };
  // What could not be told is told again at the earliest after this time.
  let offsetMs = 0;
  const run = async (work) => {
    await world.moveClock((offsetMs += AFTER_GRACE_MS));
    await world.runScheduled(work);
  };
  const [first] = await prepared(1);
  await run("minute:first");
  await agree(first, true);
  const calls = await world.callsOf("minute:first");
  const from = calls.indexOf("trust pair_changed");
  for (let at = from - 2; at < calls.length; at++) {
    for (const when of process.env.ALL ? ["before", "after"] : [at % 2 ? "before" : "after"]) {
      await world.moveClock((offsetMs = 0));
      const [it] = await prepared(1);
      const work = `minute:${at}:${when}`;
      await world.lose(work, at, when);
      await run(work);
      await run(`${work}:again`);
      await agree(it, true).catch((error) => {
        throw new Error(`call ${at}, ${calls[at]}, lost ${when}: ${error.message}`, { cause: error });
      });
    }
  }
  await world.moveClock(0);
});

// Random courses of the kill switch: events with and without ids, duplicates, two subjects under one id, wrong agents
// named, operators' orders, lifts, the CRL, first sights, time that passes, lost objects, and a lost call in any of them.
// Whenever it has come to rest, the ledger, the feed, the bundle, the overlay, the sockets and a guard must say the same
// of every token, whoever presents it, and what a model of the ledger says.
//
// Several lanes, each with agents of its own, go on side by side; time passes for all of them between two rounds. A short
// course by default; `ROUNDS=30 SEED=7` makes a long one or repeats one.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";

import { cargo, targetDirectory } from "../../scripts/build.mjs";
import { pair } from "../support/agent.mjs";
import { answered } from "../support/expect.mjs";
import { ISSUER, eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator, event } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

const SEED = Number(process.env.SEED ?? 1);
const ROUNDS = Number(process.env.ROUNDS ?? 1);
const LANES = Number(process.env.LANES ?? 4);
const STEPS = Number(process.env.STEPS ?? 7);
const SIDECAR = join(targetDirectory(), "debug/examples/sidecar");
const TRUST = "PROXY_TRUST_STATE";
const RELAY = "AGENT_RELAY_SESSION";
const DAY_MS = 24 * 3_600_000;
const MAX_TRIES = 4;
const MAX_CALLS = 9;

/** mulberry32: a number below `below` at each call. */
function randomOf(seed) {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** What the ledger calls an event that has no id. */
const bodyId = (body) => `body:${createHash("sha256").update(JSON.stringify(body)).digest("base64url")}`;
const ofAgent = (did) => `agent ${did}`;
const ofToken = (jti) => `token ${jti}`;

/** What the ledger must say: of each subject, the row that stands, and whether one was ever lifted. */
class Model {
  rows = new Map();
  lifted = new Set();
  applied = new Set();

  /** One thing that an event or an order names. */
  record(subject, row, eventId) {
    if (eventId) {
      const once = `${eventId} ${subject}`;
      if (this.applied.has(once)) return;
      this.applied.add(once);
    }
    const stands = this.rows.get(subject);
    if (!stands) this.rows.set(subject, { ...row, event: eventId });
    else if (stands.source === "operator" && row.source !== "operator") Object.assign(stands, { source: row.source, event: eventId });
  }

  list({ jti, agentDid, reason }) {
    const subject = ofToken(jti);
    const stands = this.rows.get(subject);
    if (stands?.source === "operator") stands.source = "crl";
    if (!stands && !this.lifted.has(subject)) this.rows.set(subject, { source: "crl", reason, agent: agentDid });
  }

  lift(subject, tokens, listed) {
    const target = this.rows.get(subject);
    const agent = subject.split(" ")[1];
    const goes = [subject];
    if (subject.startsWith("agent")) {
      for (const entry of listed) if (entry.agentDid === agent && entry.reason === "agent_revoked") this.list(entry);
      for (const token of tokens) {
        const row = this.rows.get(ofToken(token.jti));
        const together = row && ((row.event && row.event === target.event) || (row.source === "crl" && row.reason === "agent_revoked"));
        if (together && (token.shown ? token.owner.agentDid : row.agent) === agent) goes.push(ofToken(token.jti));
      }
    }
    for (const each of goes) {
      this.rows.delete(each);
      this.lifted.add(each);
    }
  }
}

class Lane {
  constructor(course, number) {
    Object.assign(this, { course, number, model: new Model(), events: [], listed: [], history: [] });
  }

  async begin() {
    const { world } = this.course;
    this.agents = await world.agents(2);
    await pair(this.agents[0], this.course.carol);
    this.tokens = [];
    for (const owner of this.agents) {
      const [, payload] = owner.ait.split(".");
      const claims = JSON.parse(Buffer.from(payload, "base64url"));
      this.tokens.push({ jti: owner.aitJti, ait: owner.ait, owner, exp: claims.exp, shown: owner === this.agents[0] });
      const second = { ...claims, jti: ulid(), exp: claims.iat + 40 * 24 * 3600 };
      const { token } = await world.registry("/dev/sign", { payload: second });
      this.tokens.push({ jti: second.jti, ait: token, owner, exp: second.exp, shown: false });
    }
  }

  async round(number) {
    this.pick = randomOf(SEED * 1_000_003 + number * 1009 + this.number);
    for (let step = 0; step < STEPS; step++) await this.step();
  }

  oneOf(list) {
    return list[this.pick(list.length)];
  }

  did(what) {
    this.history.push(what);
  }

  async step() {
    const at = this.pick(20);
    if (at < 7) return this.tell(this.someEvent());
    if (at < 9) return this.order();
    if (at < 12) return this.lift();
    if (at < 14) return this.show(this.oneOf(this.tokens));
    if (at < 16) return this.connect();
    if (at < 17) return this.course.offsetMs === 0 ? this.list() : undefined;
    if (at < 19) return this.loseObject();
    return this.race();
  }

  someEvent() {
    const again = this.events.length > 0 && this.pick(3) === 0;
    const old = again ? this.oneOf(this.events) : undefined;
    if (old && this.pick(3) > 0) return old; // the same once more; else another subject under the same id
    const [agent, other] = this.pick(2) ? this.agents : [...this.agents].reverse();
    const token = this.oneOf(this.tokens);
    const named = [{ agentId: token.owner.id }, { agentId: agent.id }, {}][this.pick(3)];
    const expiresAt = this.pick(2) ? { expiresAt: Date.now() + this.pick(100) * DAY_MS } : {};
    const reason = this.oneOf(["reissued", "stolen"]);
    const [kind, data] = [
      ["agent", { agentId: agent.id, reason: "agent_revoked" }],
      ["agent and token", { agentId: agent.id, reason: "agent_revoked", jti: token.jti, ...expiresAt }],
      ["token", { ...named, reason, jti: token.jti, ...expiresAt }],
      ["tokens", { ...named, reason, jtis: this.tokens.filter((each) => each.owner === other).map(({ jti }) => jti), ...expiresAt }],
      ["session", { agentId: agent.id, reason: this.oneOf(["owner_auth_revoke", "refresh_token_expired"]) }],
      token.shown ? ["agent by its token", { reason: "agent_revoked", jti: token.jti }] : ["agent", { agentId: other.id, reason: "agent_revoked" }],
    ][this.pick(6)];
    const made = event({ ...data, sessionId: ulid() }, { id: old?.body.id });
    if (!old && this.pick(4) === 0) delete made.id;
    const told = { kind, body: made, work: made.id ?? made.data.sessionId, data };
    this.events.push(told);
    if (!made.id) this.course.bodyIds.set(bodyId(made), told.work);
    return told;
  }

  /** Everything that an event names -> the model. */
  apply({ data, work }) {
    const named = this.agents.find((agent) => agent.id === data.agentId);
    const jtis = data.jtis ?? (data.jti ? [data.jti] : []);
    const tokens = this.tokens.filter((token) => jtis.includes(token.jti));
    const row = { source: "queue", reason: data.reason, agent: named?.agentDid };
    const revoked = [];
    if (data.reason === "agent_revoked") revoked.push(...(named ? [named] : tokens.map((token) => token.owner)));
    for (const agent of revoked) this.model.record(ofAgent(agent.agentDid), row, work);
    for (const token of tokens) this.model.record(ofToken(token.jti), row, work);
    if (tokens.length === 0 && data.reason !== "agent_revoked") this.touched([named], []);
    this.touched(revoked, tokens);
  }

  /** Sockets that may have been closed. */
  touched(agents, tokens) {
    for (const { agent, token, socket } of this.course.socketsOf(this)) {
      if (agents.includes(agent) || tokens.includes(token)) socket.touched = true;
    }
  }

  /** Loses one call of this work, more often than not. */
  async disturb(work) {
    const { world } = this.course;
    if (this.pick(2)) return undefined;
    const at = (await world.callsOf(work)).length + this.pick(MAX_CALLS);
    const when = this.oneOf(["before", "after"]);
    await world.lose(work, at, when);
    return { at, when };
  }

  async tell(told, { alone = true } = {}) {
    const { world } = this.course;
    const lost = alone ? await this.disturb(told.work) : undefined;
    this.did(`event ${told.work} ${told.kind} ${JSON.stringify(told.body.data)} ${told.body.id ? "" : "without an id"} ${JSON.stringify(lost ?? {})}`);
    const pokes = (calls) => calls.filter((call) => call === "feed /poke").length; // each try's last call
    const before = pokes(await world.callsOf(told.work));
    await world.enqueue(told.body);
    await eventually(async () => {
      const calls = await world.callsOf(told.work);
      const failed = lost && calls.length > lost.at && calls[lost.at] !== "feed /poke";
      return pokes(calls) >= before + (failed ? 2 : 1);
    }, { what: `the end of ${told.kind}` });
    if (alone) this.apply(told);
  }

  /** An operator's request until it is answered well. */
  async ask(path, body) {
    const { world } = this.course;
    const work = `order:${ulid()}`;
    const lost = (this.lastLost = await this.disturb(work));
    this.did(`order ${path} ${JSON.stringify(body)} ${JSON.stringify(lost ?? {})}`);
    for (let tries = 1; ; tries++) {
      const answer = await asOperator(world, "POST", path, body, { "x-request-id": work });
      if (answer.status !== 503) return answer;
      assert.ok(tries < MAX_TRIES, answer.text);
    }
  }

  async order({ alone = true } = {}) {
    const token = this.oneOf(this.tokens);
    const agent = this.oneOf(this.agents);
    if (this.pick(2)) {
      const answer = await this.ask("/admin/v1/revocations", { kind: "agent", agentDid: agent.agentDid });
      assert.ok([200, 201].includes(answer.status), answer.text);
      if (alone) this.model.record(ofAgent(agent.agentDid), { source: "operator", agent: agent.agentDid });
      return this.touched([agent], []);
    }
    const named = [token.owner, agent, undefined][this.pick(3)];
    const answer = await this.ask("/admin/v1/revocations", { kind: "token", jti: token.jti, agentDid: named?.agentDid });
    if (named && named !== token.owner && token.shown) {
      // A record that cannot be asked first keeps no kill waiting: the token's owner is struck then.
      if (answer.status === 409) return undefined;
      assert.deepEqual(this.lastLost, { at: 0, when: this.lastLost?.when }, answer.text);
    }
    assert.ok([200, 201].includes(answer.status), answer.text);
    if (alone) this.model.record(ofToken(token.jti), { source: "operator", agent: named?.agentDid });
    return this.touched([], [token]);
  }

  async lift({ alone = true } = {}) {
    const standing = [...(await this.standing())];
    if (standing.length === 0) return;
    const [subject, row] = this.oneOf(standing);
    const answer = await this.ask(`/admin/v1/revocations/${row.seq}/lift`, { force: true });
    assert.ok([200, 201].includes(answer.status), answer.text);
    if (alone) this.model.lift(subject, this.tokens, this.course.offsetMs === 0 ? this.listed : []);
  }

  async show(token) {
    const { world, offsetMs } = this.course;
    if (this.pick(3) === 0) await world.lose(`trust:${token.owner.id}`, (await world.callsOf(`trust:${token.owner.id}`)).length, this.oneOf(["before", "after"]));
    this.did(`shows ${token.jti}`);
    const answer = await token.owner.post("/pair/status", { ticket: "none" }, { ait: token.ait, timestamp: Math.floor((Date.now() + offsetMs) / 1000) });
    token.shown ||= await this.isOwned(token);
    return answer.json?.error?.code;
  }

  /** Whether the record knows whose it is: a refused token may never have come so far. */
  async isOwned(token) {
    const row = await this.course.world.db.prepare("SELECT agent_did FROM agent_tokens WHERE jti = ?").bind(token.jti).first();
    return row?.agent_did === token.owner.agentDid;
  }

  async connect() {
    const { offsetMs } = this.course;
    const token = this.oneOf(this.tokens);
    const agent = token.owner;
    this.did(`connects with ${token.jti}`);
    try {
      // The registry knows one AIT of an agent; the access token is asked about with the one that is shown.
      const socket = await agent.connect({ ait: token.ait, timestamp: Math.floor((Date.now() + offsetMs) / 1000) });
      socket.closed.then((end) => Object.assign(socket, { end }));
      this.course.sockets.set(agent, { lane: this, agent, token, socket });
    } catch (refused) {
      assert.equal(refused.status, 401, refused.message);
    }
    token.shown ||= await this.isOwned(token);
  }

  async list() {
    const token = this.oneOf(this.tokens);
    const named = this.pick(4) ? token.owner : this.oneOf(this.agents);
    const entry = { jti: token.jti, agentDid: named.agentDid, reason: this.oneOf(["reissued", "agent_revoked", "stolen"]) };
    this.did(`lists ${JSON.stringify(entry)}`);
    await this.course.world.registry("/dev/crl", entry);
    this.listed = [...this.listed.filter((each) => each.jti !== token.jti), entry];
  }

  async loseObject() {
    const { world } = this.course;
    const agent = this.oneOf(this.agents);
    const [binding, name] = this.oneOf([[TRUST, agent.id], [TRUST, agent.id], [RELAY, agent.agentDid]]);
    const how = this.oneOf(["wipe", "evict"]);
    this.did(`${how} ${binding} ${name}`);
    await world[how](binding, name);
    if (binding === RELAY) this.course.sockets.delete(agent);
  }

  /** Several things at once: what the ledger then says is right, as long as everything says it. */
  async race() {
    const told = this.someEvent();
    this.did("at once:");
    const others = [() => this.lift({ alone: false }), () => this.order({ alone: false }), () => this.show(this.oneOf(this.tokens)), () => this.loseObject()];
    await Promise.all([this.tell(told, { alone: false }), this.oneOf(others)(), this.oneOf(others)()]);
    this.touched(this.agents, this.tokens);
    await this.believe(told);
  }

  /** Takes the ledger's rows for the model's. */
  async believe(told) {
    for (const token of this.tokens) token.shown ||= await this.isOwned(token);
    this.apply(told);
    const standing = await this.standing();
    this.model.rows = new Map([...standing].map(([subject, row]) => [subject, { source: row.source, reason: row.reason, agent: row.agent_did, event: row.event_id ? this.workOf(row.event_id) : undefined }]));
    const { results } = await this.rows("lifted_by IS NOT NULL");
    for (const row of results) this.model.lifted.add(row.kind === "agent" ? ofAgent(row.agent_did) : ofToken(row.jti));
  }

  /** The model's name of an event: one without an id is known to the ledger by its hash. */
  workOf(eventId) {
    return this.events.some(({ work }) => work === eventId) ? eventId : this.course.bodyIds.get(eventId) ?? eventId;
  }

  rows(where) {
    const subjects = JSON.stringify([...this.agents.map((agent) => agent.agentDid), ...this.tokens.map((token) => token.jti)]);
    return this.course.world.db.prepare(`SELECT * FROM revocations WHERE kind IN ('agent', 'token') AND ${where}
      AND (CASE kind WHEN 'agent' THEN agent_did ELSE jti END) IN (SELECT value FROM json_each(?))`).bind(subjects).all();
  }

  async standing() {
    const { results } = await this.rows("lifted_by IS NULL");
    return new Map(results.map((row) => [row.kind === "agent" ? ofAgent(row.agent_did) : ofToken(row.jti), row]));
  }
}

class Course {
  sockets = new Map();
  offsetMs = 0;
  bodyIds = new Map();
  feed = { since: 0, agents: new Map(), tokens: new Map() };

  constructor(world) {
    this.world = world;
    this.lanes = Array.from({ length: LANES }, (_, number) => new Lane(this, number));
  }

  socketsOf(lane) {
    return [...this.sockets.values()].filter((each) => each.lane === lane);
  }

  get(path) {
    return this.world.send("GET", path, { headers: { authorization: `Bearer ${ADMIN}` } });
  }

  /** Follows the feed from where `reader` stands. */
  async follow(reader, limit) {
    for (let more = true; more; ) {
      const page = answered(await this.get(`/v1/revocations?since=${reader.since}&limit=${limit}`), 200);
      for (const item of page.items) {
        if (item.kind === "agent") reader.agents.set(item.agentDid, item.seq);
        if (item.kind === "token") reader.tokens.set(item.jti, item.seq);
        if (item.kind !== "lift") continue;
        for (const map of [reader.agents, reader.tokens]) for (const [key, seq] of map) if (seq === item.lifts) map.delete(key);
      }
      reader.since = page.next;
      more = page.more;
    }
    return reader;
  }

  async bundle() {
    const answer = await fetch(new URL("/v1/bundles/revocations.tar.gz", this.world.proxyUrl), { headers: { authorization: `Bearer ${ADMIN}` } });
    assert.equal(answer.status, 200);
    const tar = gunzipSync(Buffer.from(await answer.arrayBuffer()));
    for (let at = 0; at < tar.length; ) {
      const name = tar.toString("utf8", at, at + 100).replace(/\0.*/s, "");
      const size = Number.parseInt(tar.toString("utf8", at + 124, at + 135), 8);
      if (name.endsWith("data.json")) return JSON.parse(tar.toString("utf8", at + 512, at + 512 + size)).revocations;
      at += 512 + Math.ceil(size / 512) * 512;
    }
    throw new Error("the bundle has no data.json");
  }

  async check(round) {
    const complete = await this.follow({ since: 0, agents: new Map(), tokens: new Map() }, 7);
    await this.follow(this.feed, 1000);
    const bundle = await this.bundle();
    const results = await Promise.allSettled(this.lanes.map((lane) => this.checkLane(lane, { complete, bundle })));
    results.forEach(({ reason }, at) => {
      if (!reason) return;
      const { history, number } = this.lanes[at];
      throw new Error(`SEED=${SEED}, round ${round}, lane ${number}: ${reason.message}\n${history.join("\n")}`, { cause: reason });
    });
  }

  async checkLane(lane, { complete, bundle }) {
    const standing = await lane.standing();
    const nowMs = Date.now() + this.offsetMs;
    for (const token of lane.tokens.filter(({ exp }) => exp * 1000 > nowMs)) {
      const { agentDid } = token.owner;
      const [agent, jti] = [ofAgent(agentDid), ofToken(token.jti)];
      const says = {
        ledger: [standing.has(agent), standing.has(jti)],
        model: [lane.model.rows.has(agent), lane.model.rows.has(jti)],
        "feed from the beginning": [complete.agents.has(agentDid), complete.tokens.has(token.jti)],
        "feed as it was followed": [this.feed.agents.has(agentDid), this.feed.tokens.has(token.jti)],
        bundle: [agentDid in bundle.agents, token.jti in bundle.tokens],
      };
      for (const [who, words] of Object.entries(says)) assert.deepEqual(words, says.ledger, `${who} of ${agentDid} and ${token.jti}`);
      const isRevoked = says.ledger.includes(true);
      const code = await lane.show(token);
      assert.equal(code === "PROXY_AUTH_REVOKED", isRevoked, `the overlay says ${code} of ${agentDid} with ${token.jti}, the ledger ${says.ledger}`);
      await eventually(async () => (await this.guardRefuses(token)) === isRevoked, { what: `that the guard says ${isRevoked} of ${agentDid} with ${token.jti}` });
      const row = standing.get(jti);
      if (row && token.shown) {
        assert.equal((await lane.standing()).get(jti)?.agent_did, agentDid, `whose token ${token.jti} is`);
      }
    }
    for (const each of this.socketsOf(lane)) await this.checkSocket(each, standing);
  }

  async checkSocket({ agent, token, socket }, standing) {
    const isRevoked = standing.has(ofAgent(agent.agentDid)) || standing.has(ofToken(token.jti));
    if (isRevoked) await eventually(() => socket.end, { what: `the close of ${agent.agentDid}'s socket, opened with ${token.jti}` });
    else if (!socket.touched) {
      assert.equal(socket.end, undefined, `${agent.agentDid}'s socket, opened with ${token.jti}, was closed for nothing`);
      socket.send({ type: "heartbeat" });
      await socket.next("heartbeat_ack");
    }
    if (socket.end) this.sockets.delete(agent);
  }

  async guardRefuses(token) {
    const headers = token.owner.headers("POST", "/work", "{}", { ait: token.ait });
    const answer = await fetch(`${this.sidecarUrl}/work`, { method: "POST", headers, body: "{}" });
    const text = await answer.text();
    if (answer.status === 204) return false;
    assert.match(text, /PROXY_AUTH_REVOKED/);
    return true;
  }

  /** After a round of the first half: what the registry lists is gone through. */
  async reconcile() {
    const answer = await asOperator(this.world, "POST", "/admin/v1/reconcile");
    assert.equal(answered(answer, 200).outcome, this.lanes.some((lane) => lane.listed.length) ? "complete" : "nothing");
    for (const lane of this.lanes) {
      for (const entry of lane.listed) lane.model.list(entry);
      lane.touched(lane.agents, lane.tokens);
    }
    await this.check("after the list");
  }

  /**
   * After a round of the second half: time passes, and what is due is done. The registry lives by its own clock, so what it
   * lists, which ends within minutes, is not believed any more then.
   */
  async pass(pick) {
    this.offsetMs += pick(3 * DAY_MS);
    await this.world.moveClock(this.offsetMs);
    await this.world.runScheduled();
    for (const lane of this.lanes) lane.touched(lane.agents, lane.tokens);
    for (const lane of this.lanes) lane.did(`it is ${(this.offsetMs / DAY_MS).toFixed(1)} days later`);
    await this.check("after time has passed");
  }
}

async function sidecarOf(world, t) {
  await cargo(["build", "--locked", "--quiet", "-p", "clawdentity-guard", "--example", "sidecar"]);
  const sidecar = spawn(SIDECAR, ["127.0.0.1:0"], {
    stdio: ["ignore", "pipe", "inherit"],
    env: {
      CLAWDENTITY_PROXY_URL: world.proxyUrl.replace(/\/$/, ""), FEED_TOKEN: ADMIN,
      REGISTRY_URL: world.registryUrl.replace(/\/$/, ""), REGISTRY_ISSUER: ISSUER,
    },
  });
  t.after(() => sidecar.kill());
  for await (const line of createInterface(sidecar.stdout)) return line.match(/http:\S+/)[0];
  throw new Error("the sidecar ended");
}

test(`${ROUNDS} rounds of ${LANES} lanes: whoever presents a token hears the same everywhere`, async (t) => {
  const world = await start({
    hooks: true, consumer: { maxBatchSize: 1 },
    bindings: { ADMIN_TOKEN: ADMIN, FEED_TOKEN: ADMIN, REVOKED_MEMORY_MS: "0", CRL_REFRESH_INTERVAL_MS: "86400000", CRL_MAX_AGE_MS: "604800000" },
  });
  t.after(() => world.stop());
  const course = new Course(world);
  course.carol = await world.agent();
  course.sidecarUrl = await sidecarOf(world, t);
  await Promise.all(course.lanes.map((lane) => lane.begin()));
  const pick = randomOf(SEED);
  for (let round = 0; round < ROUNDS; round++) {
    await Promise.all(course.lanes.map((lane) => lane.round(round).catch((error) => {
      throw new Error(`SEED=${SEED}, round ${round}, lane ${lane.number}: ${error.message}\n${lane.history.join("\n")}`, { cause: error });
    })));
    await course.check(round);
    if (round < ROUNDS / 2) await course.reconcile();
    if (round >= ROUNDS / 2 - 1) await course.pass(pick);
  }
});

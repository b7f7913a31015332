// docs/limits.md, driven: through every door of its table, each route and each frame, one caller sends what it can make up
// until it is refused, and somewhat more. What that caused is counted from outside and held against the door's row: questions
// to the registry and to D1, objects made, log lines, and what was written. Meanwhile an honest caller notices nothing.
//
// The doors are driven one after another in one world with the default settings. Between two of them the clock moves on by
// more than a minute, so that each starts with full budgets; each has a caller and an address of its own.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../../scripts/setup.mjs";
import { nowSeconds, pair } from "../support/agent.mjs";
import { accepted, statuses } from "../support/expect.mjs";
import { eightAtATime, eventually, inWorld } from "../support/harness.mjs";
import { ADMIN } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const DEFAULTS = {
  AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE: undefined, PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE: undefined,
  ENQUEUE_RATE_LIMIT_PER_MINUTE: undefined,
};
const FEED = "the-feeds-token-for-tests-0000000000";
const MINUTE_MS = 61_000;
const PROFILE = { agentName: "a", humanName: "b", proxyOrigin: "https://a.example" };

/** The table's rows: `often` are the numbers of that column, `of` what is counted. */
const DOORS = readFileSync(join(ROOT, "docs/limits.md"), "utf8").split("\n").filter((line) => line.startsWith("| `"))
  .map((line) => {
    const [name, often, registry, database, objects, lines, kept] = line.slice(2, -2).split(" | ");
    return {
      name: name.replaceAll("`", ""), often: (often.match(/\d+/g) ?? []).map(Number), counted: often.replaceAll(/\d+/g, "N"),
      registry: Number(registry), database: Number(database), objects: Number(objects), lines: Number(lines), kept,
    };
  });

/** So much more than it may. */
const SURPLUS = 8;
/** A door where nobody is counted is driven so often: it costs nothing but its answer, which takes no more to show. */
const UNCOUNTED = 16;
/** Where it may do something more often than this in a minute, all but so many are put down as done. */
const DRIVEN = 150;
/** What no request of the caller asks of D1: the isolate looks at the keys' row and writes it, and the feed at the ledger. */
const OWN_LOOKS = 6;
/** What the honest caller's mail of a minute writes in objects, and a new object its tables. */
const HONEST_ROWS = 50;
/** What an isolate looks at by itself is looked at within this time: after an hour, in a deployment. */
const KEYS_FRESH = { REGISTRY_KEYS_FRESH_MS: "10000" };

const madeUpDid = () => `did:cdi:registry.test:agent:${ulid()}`;
const madeUpGroup = () => `grp_${ulid()}`;
const madeUp = (bytes = 32) => randomBytes(bytes).toString("base64url");

/** A ticket of the right form that nobody ever signed. */
function madeUpTicket(iss) {
  const fields = { v: 2, iss, kid: ulid(), nonce: madeUp(18), exp: nowSeconds() + 600, pkid: ulid(), sig: madeUp(64) };
  return `clwpair1_${Buffer.from(JSON.stringify(fields)).toString("base64url")}`;
}

class Drive {
  constructor(world) {
    Object.assign(this, { world, clockMs: 0, addresses: 0 });
  }

  async begin() {
    const { world } = this;
    [this.alice, this.bob] = await world.couple();
    this.group = await this.groupOf(this.alice, this.bob);
    this.bobs = await this.bob.connect(ackAll);
    this.alices = await this.alice.connect(ackAll);
    this.honestIds = [this.alice.agentDid, this.bob.agentDid, "honest-"];
    await this.honest();
  }

  async groupOf(...members) {
    return (await this.world.registry("/dev/groups", { members: members.map(({ agentDid }) => agentDid) })).groupId;
  }

  /** The honest caller's mail to its peer and to its group, by hook and by frame, arrives as ever. */
  async honest() {
    const { alice, alices, bob, bobs, group } = this;
    for (const inGroup of [{}, { "x-claw-group-id": group }]) {
      const headers = { "cf-connecting-ip": "192.0.2.1", "x-request-id": `honest-${ulid()}`, ...inGroup };
      accepted(await alice.message(bob, {}, { headers }), { state: "delivered" });
    }
    const frame = alices.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: {}, groupId: group });
    const { accepted: taken, reason } = await alices.next(({ ackId }) => ackId === frame.id);
    assert.equal(taken, true, reason);
    await bobs.next(({ type, id }) => type === "deliver" && id === frame.id);
  }

  /** All budgets are full again, and whatever is cached for a moment is asked anew. */
  async nextMinute() {
    this.clockMs += MINUTE_MS;
    await this.world.moveClock(this.clockMs);
    for (const agent of [this.alice, this.bob]) agent.clockMs = this.clockMs;
    for (const socket of [this.alices, this.bobs]) {
      const beat = socket.send({ type: "heartbeat" });
      await socket.next(({ ackId }) => ackId === beat.id);
    }
    await this.honest();
  }

  /** A caller that nobody has seen, at an address of its own. */
  async stranger() {
    this.address = `198.51.100.${this.addresses++}`;
    return Object.assign(await this.world.agent(), { clockMs: this.clockMs });
  }

  /** The agent has asked about receipts so often within the last second. */
  async haveDone(agent, count) {
    const path = `/v1/relay/delivery-receipts?requestId=${ulid()}&recipientAgentDid=${encodeURIComponent(madeUpDid())}`;
    assert.equal((await agent.get(path)).status, 403);
    const sql = (text) => this.world.sql("PROXY_TRUST_STATE", agent.id, text);
    const [{ name }] = await sql("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'nonces_%'");
    await sql(`WITH RECURSIVE counted(n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM counted WHERE n < ${count})
      INSERT INTO ${name} (bucket, hash, attempt, seen_at_ms, rate)
      SELECT bucket, randomblob(32), attempt, seen_at_ms, rate FROM ${name}, counted`);
    await this.world.evict("PROXY_TRUST_STATE", agent.id);
  }

  /** The agent has sent all `enqueue` frames that it may but so many. */
  async haveSent(agent, left, often) {
    await (await agent.connect()).terminate();
    const fullAtUs = (Date.now() + this.clockMs + 60_000 * (1 - left / often)) * 1_000;
    await this.world.sql("AGENT_RELAY_SESSION", agent.agentDid,
      `INSERT OR REPLACE INTO meta (key, value) VALUES ('enqueued', '${Math.floor(fullAtUs)}')`);
    await this.world.evict("AGENT_RELAY_SESSION", agent.agentDid);
  }

  /** What there is to count, since the last time. */
  async counted() {
    const { world } = this;
    const registry = Object.values(await world.counters(true)).reduce((sum, count) => sum + count);
    const { database, rows } = await world.counts(true);
    const objects = ["AgentRelaySession", "ProxyTrustState", "RevocationFeed"]
      .reduce((sum, name) => sum + world.objectsMade(name), 0);
    const isHonest = (line) => this.honestIds.some((id) => JSON.stringify(line).includes(id));
    const lines = world.logs.splice(0).filter((line) => !isHonest(line));
    return { registry, database, rows, objects, lines, kept: await this.#inDatabase() };
  }

  /** Rows of every table of D1. */
  async #inDatabase() {
    const tables = await this.world.db.prepare(
      "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE '_cf%'").all();
    const counts = tables.results.map(({ name }) => `(SELECT COUNT(*) FROM ${name}) AS ${name}`);
    return this.world.db.prepare(`SELECT ${counts.join(", ")}`).first();
  }
}

/** What the caller sends through a route of this path, by its number; before that, what makes it able to. */
const ROUTES = {
  async hook(drive, { method, path }) {
    const agent = await drive.stranger();
    const group = await drive.groupOf(agent);
    return (n, headers) => agent.call(method, path, {
      body: { n },
      headers: {
        ...headers,
        "x-claw-recipient-agent-did": madeUpDid(),
        // First what the registry confirms, so that what it does not is all that is refused.
        "x-claw-group-id": n % 4 === 1 ? madeUpGroup() : group,
        ...(n % 4 === 3 && { "x-claw-agent-access": madeUp() }),
      },
    });
  },
  async connect(drive, { path }) {
    const agent = await drive.stranger();
    return async (n, headers) => {
      const over = { ...headers, ...(n % 4 === 3 && { "x-claw-agent-access": madeUp() }) };
      if (n % 2) return agent.call("GET", path, { headers: over });
      const opened = await agent.connect({ path, headers: over }).catch((refused) => refused);
      opened.terminate?.();
      return { status: opened.status ?? 101 };
    };
  },
  async receipts(drive, { method, path, prefill }) {
    const agent = await drive.stranger();
    await drive.haveDone(agent, prefill);
    return (n, headers) => {
      const over = { ...headers, ...(n % 4 === 3 && { "x-claw-agent-access": madeUp() }) };
      if (method === "GET") {
        const query = `?requestId=${ulid()}&recipientAgentDid=${encodeURIComponent(madeUpDid())}`;
        return agent.call("GET", `${path}${query}`, { headers: over });
      }
      const told = { requestId: ulid(), senderAgentDid: madeUpDid(), recipientAgentDid: agent.agentDid, status: "dead_lettered" };
      return agent.call("POST", path, { headers: over, body: told });
    };
  },
  async start(drive, { path }) {
    const agent = await drive.stranger();
    const claims = JSON.parse(Buffer.from(agent.ait.split(".")[1], "base64url"));
    const { token } = await drive.world.registry("/dev/sign", { payload: { ...claims, ownerDid: drive.alice.ownerDid } });
    return (n, headers) =>
      agent.call("POST", path, { headers, body: { initiatorProfile: PROFILE }, ait: n % 3 ? undefined : token });
  },
  async ticket(drive, { path }) {
    const agent = await drive.stranger();
    return (_, headers) => {
      const ticket = madeUpTicket(new URL(drive.world.proxyUrl).origin);
      return agent.call("POST", path, { headers, body: { ticket, responderProfile: PROFILE } });
    };
  },
  async remove(drive, { path }) {
    const agent = await drive.stranger();
    return (_, headers) => agent.call("POST", path, { headers, body: { peerAgentDid: madeUpDid() } });
  },
  /** The feed is for known agents. */
  async feed(drive, { method, path }) {
    const agent = await drive.stranger();
    await pair(agent, await drive.stranger());
    return async (n, headers) => {
      const query = n % 2 ? `?since=${n}&epoch=${madeUp(6).replaceAll(/[-_]/g, "a")}` : "";
      const over = { headers: { ...headers, "if-none-match": `"${n}"` } };
      if (!path.includes("/events/")) return agent.call(method, `${path}${query}`, over);
      const opened = new AbortController();
      const signed = { headers: agent.headers(method, `${path}${query}`, "", over), signal: opened.signal };
      const { status } = await fetch(new URL(`${path}${query}`, drive.world.proxyUrl), signed);
      opened.abort(); // and there is a seat for the next
      return { status };
    };
  },
  async bearer(drive, { method, path }) {
    await drive.stranger();
    const at = path.replace("{seq}", "1").replace("{id}", "1");
    return (_, headers) => drive.world.send(method, at, {
      headers: { ...headers, authorization: `Bearer ${madeUp()}` }, body: method === "POST" ? "{}" : undefined,
    });
  },
  async page(drive, { method, path }) {
    await drive.stranger();
    return (n, headers) => drive.world.send(method, path, {
      headers: {
        ...headers, cookie: `claw-session=${madeUp()}`, "content-type": "application/x-www-form-urlencoded",
      },
      body: method === "POST" ? `token=${madeUp()}&csrf=${madeUp()}&seq=${n}&agentDid=${madeUpDid()}` : undefined,
    });
  },
  async open(drive, { method, path }) {
    await drive.stranger();
    return (_, headers) => drive.world.send(method, path, { headers });
  },
  /** It looks once a second at most, and at nothing oftener than at a registry that has lost its keys. */
  async health(drive, { method, path }) {
    await drive.stranger();
    await drive.world.fault("keys", "500");
    return async (n, headers) => {
      await drive.world.moveClock(drive.clockMs + n * 1_000);
      return drive.world.send(method, path, { headers });
    };
  },
};

const kindOf = ({ method, path }) => {
  if (path.startsWith("/hooks/")) return "hook";
  if (path.endsWith("/connect")) return "connect";
  if (path.endsWith("/delivery-receipts")) return "receipts";
  if (path === "/pair/start") return "start";
  if (path === "/pair/confirm" || path === "/pair/status") return "ticket";
  if (path === "/pair/remove") return "remove";
  if (path.includes("revocations") && path.startsWith("/v1/")) return "feed";
  if (path.startsWith("/admin/v1/")) return "bearer";
  if (path.startsWith("/admin")) return "page";
  if (path === "/health") return "health";
  return method === "GET" ? "open" : undefined;
};

/** What the caller sends in a frame, by its number. Of an `enqueue` that is malformed the id can be read. */
const FRAMES = {
  heartbeat: () => ({ type: "heartbeat" }),
  heartbeat_ack: () => ({ type: "heartbeat_ack", ackId: ulid() }),
  deliver_ack: (n) => ({ type: "deliver_ack", ackId: ulid(), accepted: n % 2 === 0 }),
  enqueue: (n, group) => ({
    type: "enqueue", toAgentDid: n % 4 ? madeUpDid() : "nobody", payload: {}, groupId: [group, undefined, madeUpGroup()][n % 3],
  }),
  malformed: (n) => ["", "null", "[]", "\u0000", '{"v":2}', '{"v":1,"type":"deliver"}', "{".repeat(1000)][n % 7],
};

/** The door is driven -> what that caused, how often it was gone through, and how often nobody was refused. */
async function driveRoute(drive, door) {
  const { world } = drive;
  const [method, path] = door.name.split(" ");
  const most = Math.max(0, ...door.often);
  const prefill = most > DRIVEN ? most - DRIVEN : 0;
  const send = await ROUTES[kindOf({ method, path })](drive, { method, path, prefill });
  const { address } = drive;
  const before = await drive.counted();
  const count = path === "/health" ? 61 : most === 0 ? UNCOUNTED : most - prefill + SURPLUS;
  const answers = [];
  const half = async (numbers) => {
    const sent = await (path === "/health" ? oneByOne : eightAtATime)(numbers.length, (n) =>
      send(numbers[n], { "cf-connecting-ip": address, "x-request-id": `door-${ulid()}` }));
    answers.push(...sent);
    await drive.honest();
  };
  const numbers = Array.from({ length: count }, (_, n) => n);
  await half(numbers.slice(0, count / 2));
  await half(numbers.slice(count / 2));
  const completed = () => world.logs.filter(({ message, requestId }) =>
    message === "request.completed" && requestId?.startsWith("door-")).length;
  await eventually(() => completed() >= count, { what: `the log of ${count} requests` });
  const after = await drive.counted();
  await world.fault("all", "none");
  const over = answers.filter(({ status }) => status === 429).length;
  if (most > 0) assert.ok(over >= SURPLUS - 1, `${over} of ${count} were over the limit of ${door.often}: ${JSON.stringify(statuses(answers))}`);
  return { before, after, count, answers };
}

async function oneByOne(count, send) {
  const answers = [];
  for (let n = 0; n < count; n++) answers.push(await send(n));
  return answers;
}

async function driveFrame(drive, door) {
  const agent = await drive.stranger();
  const group = await drive.groupOf(agent);
  const type = door.name.split(" ")[1];
  const [often = DRIVEN] = door.often;
  const left = Math.min(often, DRIVEN);
  if (type === "enqueue") await drive.haveSent(agent, left, often);
  const socket = await agent.connect();
  const before = await drive.counted();
  // What is let through a hundred times a second is not to be exhausted by a few.
  const count = type === "enqueue" ? 3 * left : often + SURPLUS;
  for (let n = 0; n < count; n++) {
    const frame = FRAMES[type](n, group);
    if (typeof frame === "string") socket.sendText(frame);
    else socket.send(frame);
  }
  await drive.honest();
  // It is looked at after all the others, and answered whatever the limit says.
  const last = socket.send({ type: "enqueue", toAgentDid: agent.agentDid, payload: {} });
  await socket.next(({ ackId }) => ackId === last.id);
  const answers = () => socket.pending.filter((frame) => frame?.type === "enqueue_ack").length;
  if (type === "enqueue") await eventually(() => answers() === count, { what: `an answer to each of ${count} frames` });
  await drive.honest();
  const after = await drive.counted();
  const answered = socket.pending.filter((frame) => frame?.type === "heartbeat_ack").length;
  if (type === "heartbeat") assert.ok(answered >= often && answered < count, `${answered} of ${count} were answered`);
  await socket.terminate();
  return { before, after, count };
}

/** What was caused stays within the door's row. */
function check(door, { before, after, count }) {
  const caused = {
    registry: after.registry,
    database: after.database,
    objects: after.objects - before.objects,
    lines: after.lines.length,
  };
  const most = {
    registry: door.registry,
    database: door.database + OWN_LOOKS,
    objects: door.objects,
    lines: door.lines * count + (door.name.startsWith("frame ") ? 1 : 0),
  };
  for (const [what, figure] of Object.entries(caused)) {
    const lines = what === "lines" ? statuses(after.lines.map(({ message }) => ({ status: message }))) : "";
    assert.ok(figure <= most[what], `${door.name}: ${figure} of ${most[what]} ${what} ${JSON.stringify(lines)}`);
  }
  const grown = Object.keys(after.kept).filter((table) => after.kept[table] > before.kept[table]);
  const may = ["agent_tokens", ...(door.kept.includes("a ticket each") ? ["pair_tickets"] : [])];
  assert.deepEqual(grown.filter((table) => !may.includes(table)), [], `${door.name}: rows in D1`);
  const each = ["a nonce each", "a removal each"].filter((row) => door.kept.includes(row)).length;
  const rows = HONEST_ROWS + each * count;
  assert.ok(after.rows <= rows, `${door.name}: ${after.rows} of ${rows} rows in objects`);
}

test("every door of docs/limits.md keeps within its row, and an honest caller notices nothing", () =>
  inWorld({ hooks: true, bindings: { ...DEFAULTS, ...KEYS_FRESH, ADMIN_TOKEN: ADMIN, FEED_TOKEN: FEED } }, async (world) => {
    const drive = new Drive(world);
    await drive.begin();
    for (const door of DOORS) {
      await drive.nextMinute();
      check(door, await (door.name.startsWith("frame ") ? driveFrame(drive, door) : driveRoute(drive, door)));
    }
    assert.equal(DOORS.length, 44, "the table of docs/limits.md was read");
  }));

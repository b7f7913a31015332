// Every reader of the feed ends with exactly what stands: pages, bundle, stream and the operator's views, whatever a later
// version has written into the ledger, however rows move while a bundle is built, and after the database was restored.
import assert from "node:assert/strict";
import { gunzipSync } from "node:zlib";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { answered } from "../support/expect.mjs";
import { eventually, inWorld } from "../support/harness.mjs";
import { ADMIN, asOperator } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

const FEED = "a-sidecars-token-for-tests-000000000";
const OPTIONS = { hooks: true, bindings: { ADMIN_TOKEN: ADMIN, FEED_TOKEN: FEED } };
const STREAM = "/v1/events/revocations";
const BUNDLE = "/v1/bundles/revocations.tar.gz";
const headers = { authorization: `Bearer ${FEED}` };
const stranger = () => `did:cdi:registry.test:agent:${ulid()}`;

const revoke = async (world, agentDid = stranger()) =>
  answered(await asOperator(world, "POST", "/admin/v1/revocations", { kind: "agent", agentDid }), 201);

/** All items after a number, read in pages of this size. */
async function pages(world, limit, since = 0, ofEpoch = undefined) {
  const items = [];
  for (let [at, epoch] = [since, ofEpoch]; ; ) {
    const path = `/v1/revocations?since=${at}&limit=${limit}${epoch ? `&epoch=${epoch}` : ""}`;
    const page = answered(await world.send("GET", path, { headers }), 200);
    if (page.reset) items.length = 0;
    items.push(...page.items);
    if (!page.more) return { ...page, items };
    assert.ok(page.next > at || page.reset, "a page goes on");
    [at, epoch] = [page.next, page.epoch];
  }
}

/** The bundle's {epoch, latest, agents, tokens}, and its tag. */
async function bundle(world) {
  const response = await fetch(new URL(BUNDLE, world.proxyUrl), { headers });
  assert.equal(response.status, 200);
  const tar = gunzipSync(Buffer.from(await response.arrayBuffer()));
  const begin = tar.indexOf("data.json\0");
  const length = Number.parseInt(tar.toString("utf8", begin + 124, begin + 135), 8);
  const { revocations } = JSON.parse(tar.toString("utf8", begin + 512, begin + 512 + length));
  assert.equal(response.headers.get("etag"), `"${revocations.epoch}-${revocations.latest}"`);
  return revocations;
}

/** A stream from the beginning: `standing` is the set that its reader keeps, by agent or token. */
async function follow(world) {
  const stop = new AbortController();
  const response = await fetch(new URL(STREAM, world.proxyUrl), { headers, signal: stop.signal });
  assert.equal(response.status, 200);
  const reader = { standing: new Set(), seqs: [], resets: 0, stop: () => stop.abort() };
  void (async () => {
    let text = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const block = text.slice(0, end);
        if (block.startsWith("event: reset")) {
          reader.resets += 1;
          reader.standing.clear();
        } else if (block.startsWith("event: revocation")) {
          const item = JSON.parse(/^data: (.*)$/m.exec(block)[1]);
          reader.seqs.push(item.seq);
          if (item.kind === "lift") reader.standing.delete(item.jti ?? item.agentDid);
          else if (item.kind !== "session") reader.standing.add(item.jti ?? item.agentDid);
        }
      }
    }
  })().catch(() => {});
  return reader;
}

const standingOf = ({ agents, tokens }) => [...Object.keys(agents), ...Object.keys(tokens)].sort();
const sorted = (set) => [...set].sort();

/** The ledger as a later version may have made it, which knows more kinds and sources. */
async function openUpLedger(world) {
  const { results } = await world.db.prepare(
    "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'revocations' AND sql IS NOT NULL").all();
  const table = results.find(({ type }) => type === "table").sql;
  const open = table.replaceAll(/ CHECK \([^)]*\([^)]*\)\)/g, "").replace("revocations", "later");
  assert.ok(!open.includes("CHECK"), open);
  const indexes = results.filter(({ type }) => type === "index").map(({ sql }) => sql);
  const steps = [open, "INSERT INTO later SELECT * FROM revocations", "DROP TABLE revocations", "ALTER TABLE later RENAME TO revocations"];
  await world.db.batch([...steps, ...indexes].map((sql) => world.db.prepare(sql)));
}

test("rows of a later version are nobody's end: what is behind them reaches every reader", () =>
  inWorld(OPTIONS, async (world) => {
    const stream = await follow(world);
    const first = await revoke(world);
    await openUpLedger(world);
    const foreign = (kind, source, agentDid = stranger()) =>
      world.db.prepare(`INSERT INTO revocations (kind, agent_did, source, revoked_at_ms, recorded_at_ms) VALUES (?1, ?2, ?3, 1, 1)`)
        .bind(kind, agentDid, source).run();
    const ofLaterSource = stranger();
    for (let n = 0; n < 3; n++) await foreign("pause", "queue");
    await foreign("agent", "oracle", ofLaterSource);
    await foreign("agent", "operator", "did:later:form");
    await foreign("pause", "oracle");
    const last = await revoke(world);
    await foreign("pause", "oracle");
    const behind = await revoke(world);

    const ours = [first.agentDid, ofLaterSource, last.agentDid, behind.agentDid].sort();
    for (const limit of [1, 2, 3, 1000]) {
      const { items, latest, next } = await pages(world, limit);
      assert.deepEqual([items.map((item) => item.agentDid).sort(), next], [ours, latest], `pages of ${limit}`);
    }
    await eventually(() => stream.standing.has(behind.agentDid), { what: "the last row on the stream" });
    assert.deepEqual(sorted(stream.standing), ours);
    const late = await follow(world);
    await eventually(() => late.standing.has(behind.agentDid), { what: "the last row on a stream that begins now" });
    assert.deepEqual(sorted(late.standing), ours);
    const { agents } = await bundle(world);
    for (const agentDid of ours) assert.ok(agentDid in agents, agentDid);
    answered(await asOperator(world, "GET", "/admin/v1/status"), 200);
    answered(await asOperator(world, "GET", "/admin/v1/revocations"), 200);
    answered(await asOperator(world, "POST", `/admin/v1/revocations/${behind.seq}/lift`, {}), 201);
    await eventually(() => !stream.standing.has(behind.agentDid), { what: "its lift" });
    for (const reader of [stream, late]) reader.stop();
  }));

test("while later expiries move rows, no bundle lacks what stands", () =>
  inWorld(OPTIONS, async (world) => {
    const jtis = Array.from({ length: 3500 }, () => ulid()).sort();
    await world.db.prepare(`INSERT INTO revocations (kind, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
      SELECT 'token', value, 'crl', 1, 1, ?2 FROM json_each(?1)`).bind(JSON.stringify(jtis), Date.now() + 86_400_000).run();
    let moving = true;
    let moved = 0;
    // As a later expiry does it: the row gets a new number.
    const mover = (async () => {
      for (; moving; moved++) {
        await world.db.prepare(`UPDATE revocations SET seq = (SELECT MAX(seq) FROM revocations) + 1, expires_at_ms = expires_at_ms + 1
          WHERE kind = 'token' AND jti = ?1`).bind(jtis[(moved * 997) % jtis.length]).run();
      }
    })();
    let last = 0;
    for (let n = 0; n < 5; n++) {
      const { tokens, latest } = await bundle(world);
      assert.deepEqual(Object.keys(tokens).sort(), jtis);
      assert.ok(latest >= last, "the tag goes up");
      last = latest;
      const { items } = await pages(world, 1000, latest);
      for (const { jti, seq } of items) assert.ok(seq > latest && jti in tokens, "what the tag lacks comes after it");
    }
    moving = false;
    await mover;
    assert.ok(moved > 5, `${moved} rows moved`);
  }));

test("a database restored from 4 to 2, then two other revocations: every reader has exactly what stands", () =>
  inWorld(OPTIONS, async (world) => {
    const before = [];
    for (let n = 0; n < 4; n++) before.push(await revoke(world));
    const stream = await follow(world);
    await eventually(() => stream.seqs.length === 4, { what: "the first four" });
    const { epoch } = await bundle(world);
    await world.db.batch(["DELETE FROM revocations WHERE seq > 2", "UPDATE sqlite_sequence SET seq = 2 WHERE name = 'revocations'"]
      .map((sql) => world.db.prepare(sql)));
    answered(await asOperator(world, "POST", "/admin/v1/feed/epoch"), 200);
    const fresh = [await revoke(world), await revoke(world)];
    assert.deepEqual(fresh.map(({ seq }) => seq), [3, 4]);
    const stands = [...before.slice(0, 2), ...fresh].map(({ agentDid }) => agentDid).sort();
    await eventually(() => stream.resets > 0 && fresh.every(({ agentDid }) => stream.standing.has(agentDid)), { what: "the new rows" });
    assert.deepEqual(sorted(stream.standing), stands);
    assert.deepEqual(standingOf(await bundle(world)), stands);
    for (const [since, of] of [[0], [4, epoch], [3, epoch], [9]]) {
      const { items } = await pages(world, 3, since, of);
      assert.deepEqual(items.map(({ agentDid }) => agentDid).sort(), stands, `after ${since} ${of}`);
    }
    stream.stop();
  }));

test("who goes away leaves a free seat, and who is gone without a word leaves one after an hour", () =>
  inWorld(OPTIONS, async (world) => {
    const [agent, peer] = await world.agents(2);
    await pair(agent, peer);
    const open = async () => {
      const stop = new AbortController();
      const { status, body } = await fetch(new URL(STREAM, world.proxyUrl), { headers: agent.headers("GET", STREAM), signal: stop.signal });
      return { status, body, stop: () => stop.abort() };
    };
    // The local runtime notices at the second comment to who is gone: half a minute, by the feed's timers.
    await world.hurryTimers(100);
    const seats = [await open(), await open()];
    assert.deepEqual([...seats, await open()].map(({ status }) => status), [200, 200, 429]);
    for (let n = 0; n < 3; n++) {
      seats.shift().stop();
      seats.push(await eventually(async () => {
        const again = await open();
        return again.status === 200 && again;
      }, { what: "a free seat" }));
    }
    // Nobody reads these two, and nobody ends them.
    await world.hurryTimers(4000);
    await eventually(async () => (await open()).status === 200, { everyMs: 200, what: "a seat after an hour" });
    await world.hurryTimers(1);
  }));

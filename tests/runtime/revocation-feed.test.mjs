// The revocation feed: its pages, changes and 304s; the bundle; and the stream, which delivers at once, resumes, and
// ends when its caller is revoked.
import assert from "node:assert/strict";
import { gunzipSync } from "node:zlib";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { answered, percentile, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

const FEED = "a-sidecars-token-for-tests-000000000";
const bindings = { ADMIN_TOKEN: ADMIN, FEED_TOKEN: FEED };
let world;
before(async () => {
  world = await start({ bindings });
});
after(() => world?.stop());

const bearer = (token, rest = {}) => ({ headers: { authorization: `Bearer ${token}`, ...rest } });
const get = (path, rest) => world.send("GET", path, bearer(FEED, rest));
const revoke = (body) => world.send("POST", "/admin/v1/revocations", { ...bearer(ADMIN), body: JSON.stringify(body) });
const revokeAgent = async (agentDid) => (await revoke({ kind: "agent", agentDid })).json;
const stranger = () => `did:cdi:registry.test:agent:${ulid()}`;

/** An open event stream: `next()` gives its events, `done` settles when it ends. */
async function listen(headers = { authorization: `Bearer ${FEED}` }, path = "/v1/events/revocations", base = world) {
  const stop = new AbortController();
  const response = await fetch(new URL(path, base.proxyUrl), { headers, signal: stop.signal });
  assert.equal(response.status, 200);
  assert.match(response.headers.get("content-type"), /^text\/event-stream/);
  assert.match(response.headers.get("x-request-id"), /./);
  const events = [];
  let [comments, degraded, resets] = [0, 0, 0];
  const done = (async () => {
    let text = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const block = text.slice(0, end);
        if (block.startsWith(": degraded")) degraded += 1;
        else if (block.startsWith(":")) comments += 1;
        else if (block.startsWith("event: reset")) resets += 1;
        else {
          const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s)));
          events.push({ ...fields, at: performance.now(), item: JSON.parse(fields.data) });
        }
      }
    }
  })().catch(() => {});
  return {
    events, done, stop: () => stop.abort(), comments: () => comments, degraded: () => degraded, resets: () => resets,
    seen: (seq, deadlineMs = 3000) => eventually(() => events.find((event) => event.item.seq === seq), { deadlineMs, everyMs: 2, what: `event ${seq}` }),
  };
}

test("pages from a number on, in bounds, with the latest number as tag", async () => {
  const empty = answered(await get("/v1/revocations"), 200);
  const { epoch } = empty;
  assert.match(epoch, /^[0-9a-z]+$/);
  assert.deepEqual(empty, { epoch, latest: 0, next: 0, more: false, items: [] });
  const items = [];
  for (let n = 0; n < 5; n++) items.push(await revokeAgent(stranger()));
  const latest = items.at(-1).seq;
  const whole = await get("/v1/revocations");
  assert.deepEqual(answered(whole, 200), { epoch, latest, next: latest, more: false, items });
  assert.equal(whole.headers.get("etag"), `"${epoch}-${latest}"`);
  assert.deepEqual(answered(await get(`/v1/revocations?since=${items[0].seq}&limit=2`), 200),
    { epoch, latest, next: items[2].seq, more: true, items: items.slice(1, 3) });
  const same = await get("/v1/revocations", { "if-none-match": `"${epoch}-${latest}"` });
  assert.deepEqual([same.status, same.text], [304, ""]);
  const one = await revokeAgent(stranger());
  assert.deepEqual(answered(await get(`/v1/revocations?since=${latest}`, { "if-none-match": `"${epoch}-${latest}"` }), 200).items, [one]);
  for (const query of ["since=x", "since=-1", "limit=0", "limit=1001", "since=1&since=2", "epoch=", "epoch=a%20b"]) {
    refused(await get(`/v1/revocations?${query}`), 400, "PROXY_FEED_INVALID_QUERY");
  }
});

test("a later expiry of a token reaches the feed, under a new number, and once", async () => {
  const [hour, jti, beside] = [3_600_000, ulid(), ulid()];
  const { latest } = answered(await get("/v1/revocations"), 200);
  const now = Date.now();
  const events = {};
  // Tokens of which it is known that they live for a quarter of an hour: what is told can only lengthen that.
  for (const known of [jti, beside]) {
    await world.db.prepare("INSERT INTO agent_tokens VALUES (?, ?, ?)").bind(known, stranger(), now + hour / 4).run();
  }
  const tell = async (name, expiresAt) => {
    events[name] ??= {
      id: ulid(), type: "agent.auth.revoked", version: "v1", timestampUtc: new Date().toISOString(), data: { reason: "x", jtis: [beside, jti], expiresAt },
    };
    await world.enqueue(events[name]);
    const marker = await world.agent(); // the queue has gone on, once this one is told
    await world.enqueue({ ...events[name], id: ulid(), data: { agentDid: marker.agentDid, reason: "agent_revoked" } });
    const items = async () => answered(await get(`/v1/revocations?since=${latest}`), 200).items;
    await eventually(async () => (await items()).some((item) => item.agentDid === marker.agentDid), { what: "the marker" });
    const found = (await items()).filter((each) => each.jti);
    assert.deepEqual(found.map((each) => each.jti).sort(), [jti, beside].sort(), "each once");
    return found.find((each) => each.jti === jti);
  };
  const first = await tell("an hour", now + hour);
  assert.equal(first.expiresAt, now + hour);
  const later = await tell("two hours", now + 2 * hour);
  assert.equal(later.expiresAt, now + 2 * hour);
  assert.ok(later.seq > first.seq);
  for (const name of ["two hours", "an hour"]) assert.deepEqual(await tell(name), later, `${name}, again`);
  assert.deepEqual(await tell("half an hour", now + hour / 2), later);

  const asked = { kind: "token", jti, expiresAt: now + 89.5 * 24 * hour };
  const longest = answered(await revoke(asked), 201);
  assert.ok(longest.seq > later.seq && longest.expiresAt > now + 89 * 24 * hour);
  assert.deepEqual(answered(await revoke(asked), 200), longest);
  assert.deepEqual(await tell("nobody knows when", undefined), longest);
  const next = await revokeAgent(stranger());
  assert.ok(next.seq > longest.seq);
  const lift = await world.send("POST", `/admin/v1/revocations/${longest.seq}/lift`, { ...bearer(ADMIN), body: '{"force":true}' });
  assert.equal(answered(lift, 201).jti, jti);
});

test("who may: the feed's bearer and known agents", async () => {
  const [known, peer, unknown] = await world.agents(3);
  await pair(known, peer);
  for (const path of ["/v1/revocations", "/v1/bundles/revocations.tar.gz"]) {
    assert.equal((await known.get(path)).status, 200);
    refused(await unknown.get(path), 403, "PROXY_AUTH_FORBIDDEN");
    refused(await world.send("GET", path), 401, "PROXY_AUTH_MISSING_TOKEN");
    refused(await world.send("GET", path, bearer("w".repeat(40), { "cf-connecting-ip": "9.9.9.9" })), 401, "PROXY_BEARER_INVALID");
    refused(await world.send("GET", path, bearer(ADMIN, { "cf-connecting-ip": "9.9.9.9" })), 401, "PROXY_BEARER_INVALID");
  }
});

test("the bundle holds what stands, and nothing that was lifted", async () => {
  const stands = await revokeAgent(stranger());
  const lifted = await revokeAgent(stranger());
  const token = (await revoke({ kind: "token", jti: ulid(), expiresAt: Date.now() + 60_000 })).json;
  await world.send("POST", `/admin/v1/revocations/${lifted.seq}/lift`, bearer(ADMIN));
  const response = await fetch(new URL("/v1/bundles/revocations.tar.gz", world.proxyUrl), bearer(FEED));
  assert.equal(response.status, 200);
  const files = untar(gunzipSync(Buffer.from(await response.arrayBuffer())));
  const { revocations } = JSON.parse(files["data.json"]);
  assert.deepEqual(JSON.parse(files[".manifest"]), { revision: `${revocations.epoch}-${revocations.latest}`, roots: ["revocations"] });
  assert.equal(response.headers.get("etag"), `"${revocations.epoch}-${revocations.latest}"`);
  assert.equal(revocations.agents[stands.agentDid].seq, stands.seq);
  assert.equal(revocations.tokens[token.jti].expiresAt, token.expiresAt);
  assert.ok(!(lifted.agentDid in revocations.agents));
  const again = await get("/v1/bundles/revocations.tar.gz", { "if-none-match": response.headers.get("etag") });
  assert.equal(again.status, 304);
});

test("the stream: everything after a number, then each revocation at once", async (t) => {
  const before = await revokeAgent(stranger());
  const stream = await listen({ authorization: `Bearer ${FEED}`, "last-event-id": String(before.seq - 1) });
  const first = await stream.seen(before.seq);
  assert.deepEqual([first.event, first.id, first.item], ["revocation", String(before.seq), before]);
  assert.equal(stream.events[0].item.seq, before.seq);

  const took = [];
  for (let run = 0; run < 50; run++) {
    const agentDid = stranger();
    const started = performance.now();
    await world.enqueue({
      id: ulid(), type: "agent.auth.revoked", version: "v1", timestampUtc: new Date().toISOString(), data: { agentDid, reason: "agent_revoked" },
    });
    const event = await eventually(() => stream.events.find((each) => each.item.agentDid === agentDid), { everyMs: 1, what: "the event" });
    took.push(event.at - started);
  }
  const [p50, worst] = [percentile(took, 0.5), Math.max(...took)].map(Math.round);
  t.diagnostic(`event on the queue to event on the stream: p50 ${p50} ms, worst ${worst} ms, of ${took.length}`);
  assert.ok(worst < 1000, `worst ${worst} ms`);
  const numbers = stream.events.map((event) => event.item.seq);
  assert.deepEqual(numbers, [...new Set(numbers)].sort((a, b) => a - b), "in order, each once");
  stream.stop();
});

test("a stream that an agent opened ends when the agent is revoked; others go on", async () => {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  const { latest } = answered(await get("/v1/revocations"), 200);
  const path = `/v1/events/revocations?since=${latest}`;
  const [own, others] = [await listen(agent.headers("GET", path), path), await listen(undefined, path)];
  await eventually(() => own.comments() > 0, { what: "the greeting" });
  const item = await revokeAgent(agent.agentDid);
  await own.done;
  const next = await revokeAgent(stranger());
  await others.seen(item.seq);
  await others.seen(next.seq);
  assert.deepEqual(own.events.map((event) => event.item.seq), [item.seq]);
  refused(await agent.get("/v1/events/revocations"), 401, "PROXY_AUTH_REVOKED");
  others.stop();
});

const EVERY_MS = 15_000;
const SPEED = 100; // of timers: 15 s are 150 ms

/** `run` with a world whose feed looks so much more often, and an open stream of it. */
async function hurried(run) {
  const own = await start({ bindings, hooks: true });
  try {
    await own.hurryTimers(SPEED);
    const stream = await listen(undefined, undefined, own);
    await eventually(() => stream.comments() > 0, { what: "the greeting" });
    await run(own, stream, (agentDid, work) =>
      own.send("POST", "/admin/v1/revocations", { ...bearer(ADMIN, { "x-request-id": work }), body: JSON.stringify({ kind: "agent", agentDid }) }));
    stream.stop();
  } finally {
    await own.stop();
  }
}

test("a lost poke costs a listener a minute and nothing else", () =>
  hurried(async (own, stream, take) => {
    const work = "work:whose-poke-is-lost";
    await own.lose(work, 6, "before");
    const { seq } = answered(await take(stranger(), work), 201);
    await stream.seen(seq);
    assert.equal((await own.callsOf(work))[6], "feed /poke");
    assert.equal(own.logged("proxy.feed.poke_lost").length, 1);
    assert.deepEqual(stream.events.map((each) => each.item.seq), [seq]);
  }));

test("a comment every 15 s, no sooner, also where pokes come that bring nothing", () =>
  hurried(async (_own, stream, take) => {
    const again = stranger();
    const { seq } = answered(await take(again, "work:the-first"), 201);
    await stream.seen(seq);
    const [before, started] = [stream.comments(), performance.now()];
    let pokes = 0;
    for (; stream.comments() < before + 3; pokes++) {
      answered(await take(again, `work:poke-${pokes}`), 200);
      assert.ok(performance.now() - started < 8000, `${stream.comments() - before} comments beside ${pokes} pokes`);
    }
    const tookMs = performance.now() - started;
    assert.ok(tookMs >= (2 * EVERY_MS) / SPEED, `three comments took ${tookMs} ms`);
    assert.ok(pokes > 3 && stream.events.length === 1);
  }));

test("while the database fails a listener is told so, and gets everything that it missed, once", () =>
  hurried(async (own, stream, take) => {
    await own.database("fails");
    await own.send("GET", "/v1/time"); // the timer finds it out by itself
    await eventually(() => stream.degraded() > 2, { what: "degraded" });
    const comments = stream.comments();
    await eventually(() => stream.degraded() > 5, { what: "degraded, again" });
    assert.equal(stream.comments(), comments, "nobody says alive");
    await own.database("well");
    const { seq } = answered(await take(stranger(), "work:after-the-outage"), 201);
    await stream.seen(seq);
    assert.deepEqual(stream.events.map((each) => each.item.seq), [seq]);
  }));

test("a restored database: a position above the latest starts over, and so does everyone in a new epoch", async () => {
  const own = await start({ bindings });
  try {
    const at = async (path, rest) => own.send("GET", path, bearer(FEED, rest));
    const take = async () =>
      (await own.send("POST", "/admin/v1/revocations", { ...bearer(ADMIN), body: JSON.stringify({ kind: "agent", agentDid: stranger() }) })).json;
    for (let n = 0; n < 4; n++) await take();
    const stream = await listen(undefined, undefined, own);
    await stream.seen(4);
    const bundle = await at("/v1/bundles/revocations.tar.gz");
    await own.db.prepare("DELETE FROM revocations WHERE seq > 2").run();
    await own.db.prepare("UPDATE sqlite_sequence SET seq = 2 WHERE name = 'revocations'").run();
    const above = answered(await at("/v1/revocations?since=4"), 200);
    assert.deepEqual([above.reset, above.latest, above.items.length], [true, 2, 2]);
    const { epoch } = answered(await own.send("POST", "/admin/v1/feed/epoch", bearer(ADMIN)), 200);
    assert.notEqual(epoch, above.epoch);
    const fresh = [await take(), await take()];
    assert.deepEqual(fresh.map((item) => item.seq), [3, 4]);
    await eventually(() => stream.resets() > 0 && stream.events.filter((each) => each.item.seq === 4).length > 1, { what: "the new rows" });
    assert.deepEqual(stream.events.slice(4).map((each) => each.item.seq), [1, 2, 3, 4]);
    const other = answered(await at(`/v1/revocations?since=4&epoch=${above.epoch}`), 200);
    assert.deepEqual([other.reset, other.items.length], [true, 4]);
    assert.equal((await at("/v1/bundles/revocations.tar.gz", { "if-none-match": bundle.headers.get("etag") })).status, 200);
    stream.stop();
  } finally {
    await own.stop();
  }
});

test("a stream of an agent: two at most, none of the reasons, and the end with its last pair", async () => {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  const path = "/v1/events/revocations?since=999999";
  const streams = [await listen(agent.headers("GET", path), path), await listen(agent.headers("GET", path), path)];
  refused(await agent.get("/v1/events/revocations"), 429, "PROXY_FEED_STREAM_LIMIT_EXCEEDED");
  const { seq } = (await revoke({ kind: "agent", agentDid: stranger(), reason: "a secret of ours" })).json;
  const { item } = await streams[0].seen(seq);
  assert.ok(!("reason" in item) && streams[0].resets() === 1);
  const page = answered(await agent.get("/v1/revocations?limit=1000"), 200);
  assert.ok(page.items.every((each) => !("reason" in each)));
  assert.ok(answered(await get(`/v1/revocations?since=${seq - 1}`), 200).items[0].reason);
  assert.equal((await agent.post("/pair/remove", { peerAgentDid: peer.agentDid })).status, 200);
  await Promise.all(streams.map((stream) => stream.done));
});

test("it resumes after a restart; without its object there is no stream and everything else", async () => {
  const own = await start({ bindings });
  try {
    const at = async (path, rest) => own.send("GET", path, bearer(FEED, rest));
    const take = async (agentDid) =>
      (await own.send("POST", "/admin/v1/revocations", { ...bearer(ADMIN), body: JSON.stringify({ kind: "agent", agentDid }) })).json;
    const first = await take(stranger());
    const stream = await listen(undefined, undefined, own);
    await stream.seen(first.seq);
    await own.restart();
    await stream.done;
    const second = await take(stranger());
    const resumed = await listen({ authorization: `Bearer ${FEED}`, "last-event-id": String(first.seq) }, undefined, own);
    await resumed.seen(second.seq);
    assert.deepEqual(resumed.events.map((event) => event.item.seq), [second.seq]);
    resumed.stop();

    await own.restart({ without: ["REVOCATION_FEED"] });
    refused(await at("/v1/events/revocations"), 503, "PROXY_FEED_STREAM_UNAVAILABLE");
    const third = await take(stranger());
    assert.deepEqual(answered(await at(`/v1/revocations?since=${second.seq}`), 200).items, [third]);
  } finally {
    await own.stop();
  }
});

function untar(bytes) {
  const files = {};
  for (let at = 0; bytes[at] !== 0; ) {
    const name = bytes.toString("utf8", at, bytes.indexOf(0, at));
    const size = parseInt(bytes.toString("utf8", at + 124, at + 135), 8);
    const header = Buffer.from(bytes.subarray(at, at + 512));
    const told = parseInt(header.toString("utf8", 148, 154), 8);
    header.fill(" ", 148, 156);
    assert.equal(header.reduce((sum, byte) => sum + byte, 0), told, "the checksum");
    files[name] = bytes.toString("utf8", at + 512, at + 512 + size);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

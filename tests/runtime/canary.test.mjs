// The kill switch measures itself: what a run measures, says, keeps and leaves alone.
import assert from "node:assert/strict";
import { test } from "node:test";

import { refused } from "../support/expect.mjs";
import { eventually, inWorld } from "../support/harness.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const BEARER = { authorization: `Bearer ${ADMIN}` };
const OPTIONS = { hooks: true, bindings: { ADMIN_TOKEN: ADMIN, CANARY_INTERVAL_SECONDS: "300" } };

async function detail(world) {
  const { status, json, text } = await world.send("GET", "/health?detail", { headers: BEARER });
  assert.equal(status, 200, text);
  return json.detail.canary;
}

/** Runs what is scheduled until so many measurements were reported. */
async function measured(world, count) {
  await world.runScheduled();
  await eventually(async () => {
    const { results } = await world.db.prepare("SELECT COUNT(*) AS over FROM canary_runs WHERE finished_at_ms > 0").all();
    return results[0].over === count;
  }, { what: `${count} measurements` });
}

test("both ways in are measured, and nothing of it is left in anybody's way", () =>
  inWorld(OPTIONS, async (world) => {
    const [alice, bob] = await world.couple();
    // Something real is in the ledger, and a reader of the feed has it.
    const other = await world.agent();
    const order = { kind: "token", jti: other.aitJti, agentDid: other.agentDid, expiresAt: Date.now() + 60_000 };
    await world.send("POST", "/admin/v1/revocations", { headers: BEARER, body: JSON.stringify(order) });
    const read = (headers, since = 0) => alice.get(`/v1/revocations?since=${since}`, { headers });
    const { headers, json: page } = await read();
    const unless = { "if-none-match": headers.get("etag") };
    await measured(world, 2);
    assert.equal((await read(unless)).status, 304, "no reader hears of a measurement");
    const lines = world.logged("proxy.canary");
    assert.deepEqual(lines.map(({ way }) => way).sort(), ["event", "operator"]);
    for (const { overlay_ms, socket_ms, feed_ms } of lines) {
      assert.ok([overlay_ms, socket_ms, feed_ms].every(Number.isInteger), JSON.stringify(lines));
    }

    const said = await detail(world);
    assert.equal(said.intervalSeconds, 300);
    for (const way of ["event", "operator"]) {
      const { overlay_ms, socket_ms, feed_ms } = lines.find((line) => line.way === way);
      const { runs, silent, lastWasSilent, overlay, socket, feed } = said[way];
      assert.deepEqual({ runs, silent, lastWasSilent }, { runs: 1, silent: 0, lastWasSilent: false });
      assert.deepEqual(overlay, { p50Ms: overlay_ms, p99Ms: overlay_ms });
      assert.deepEqual(socket, { p50Ms: socket_ms, p99Ms: socket_ms });
      assert.deepEqual(feed, { p50Ms: feed_ms, p99Ms: feed_ms });
    }

    // Not due again yet, and not because of a run that is dated ahead.
    await world.runScheduled();
    await world.moveClock(5 * 60_000);
    await measured(world, 4);
    assert.equal(world.logged("proxy.canary").length, 4);

    // The ledger's rows end with the canary's token; nobody is shown them, and they are not counted.
    const rows = `SELECT kind, agent_did, expires_at_ms - recorded_at_ms AS life FROM revocations
      WHERE agent_did LIKE '%CANARY0_' ORDER BY seq`;
    const { results } = await world.db.prepare(rows).all();
    assert.equal(results.length, 4);
    for (const { kind, agent_did, life } of results) {
      assert.equal(kind, "token");
      assert.match(agent_did, /:agent:0{18}CANARY0[12]$/);
      assert.ok(life <= 10 * 60_000, `kept for ${life} ms`);
    }
    const feed = await world.send("GET", "/admin/v1/revocations?since=0", { headers: BEARER });
    assert.deepEqual([feed.json.items.map((item) => item.jti), feed.json.more], [[other.aitJti], false], feed.text);
    assert.deepEqual([feed.json.latest, feed.json.next], [page.latest, page.latest]);
    const status = await world.send("GET", "/admin/v1/status", { headers: BEARER });
    assert.equal(status.json.counts.reduce((sum, { rows }) => sum + rows, 0), 1, status.text);
    assert.equal(status.json.lastEventAtMs, null, "the registry has said nothing");
    assert.equal((await alice.message(bob, { n: 1 })).status, 202, "agents go on");

    // A day later only the last runs are kept, and nothing of an event is; the ledger keeps the row that readers know as
    // the latest, though it has expired, so that none of them starts over.
    await world.moveClock(25 * 3_600_000);
    await measured(world, 2);
    assert.equal((await world.db.prepare(`SELECT COUNT(*) AS n FROM (${rows})`).first()).n, 2, "those of this run");
    const left = await world.db.prepare("SELECT COUNT(*) AS n FROM applied_events").first();
    assert.equal(left.n, 1, "the event of this run");
    await world.moveClock(50 * 3_600_000);
    await world.runScheduled();
    const later = await world.send("GET", `/admin/v1/revocations?since=${page.latest}`, { headers: BEARER });
    assert.deepEqual([later.json.latest, later.json.reset ?? false, later.json.items], [page.latest, false, []], later.text);
  }));

test("a way in that is dead is said, on the page too, and the other is measured all the same", () =>
  inWorld({ ...OPTIONS, without: ["EVENTS_QUEUE"] }, async (world) => {
    await measured(world, 2);
    const alarms = world.logged("proxy.canary.alarm");
    assert.deepEqual(alarms.map(({ way, silent }) => [way, silent]), [["event", ["overlay", "socket", "feed"]]]);
    assert.match(alarms[0].error, /EVENTS_QUEUE|binding/i);
    const { event, operator } = await detail(world);
    assert.deepEqual([event.silent, event.overlay, operator.silent], [1, null, 0]);
    const signed = await fetch(new URL("/admin/sign-in", world.proxyUrl), {
      method: "POST", body: new URLSearchParams({ token: ADMIN }), redirect: "manual",
    });
    const cookie = signed.headers.get("set-cookie").split(";")[0];
    const page = await (await fetch(new URL("/admin", world.proxyUrl), { headers: { cookie } })).text();
    assert.match(page, /The kill switch did not work by the way: event\./);
    assert.doesNotMatch(page, /by the way: operator/);
    assert.match(page, /an event on the queue<\/td>.*not seen/);
  }));

test("the detail is for the operator alone, and the rest of the health for anybody", () =>
  inWorld({ bindings: { ADMIN_TOKEN: ADMIN } }, async (world) => {
    refused(await world.send("GET", "/health?detail"), 401, "PROXY_BEARER_REQUIRED");
    refused(await world.send("GET", "/health?detail", { headers: { authorization: "Bearer wrong" } }), 401, "PROXY_BEARER_INVALID");
    assert.equal((await world.send("GET", "/health")).json.detail, undefined);
    const said = await detail(world);
    assert.deepEqual([said.intervalSeconds, said.event.runs, said.event.lastAtMs], [0, 0, null]);
  }));

test("without an operator's token there is no detail", () =>
  inWorld({}, async (world) => {
    const { status, json } = await world.send("GET", "/health?detail");
    assert.deepEqual([status, json.detail], [200, undefined]);
  }));

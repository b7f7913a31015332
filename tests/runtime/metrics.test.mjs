// Metrics: one data point for each request, one for whatever else docs/metrics.md names, and none that anybody waits for.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../../scripts/setup.mjs";
import { eventually, inWorld } from "../support/harness.mjs";
import { ackAll } from "../support/socket.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const PAGE = readFileSync(join(ROOT, "docs/metrics.md"), "utf8");

/** The columns of a kind, by docs/metrics.md: {blobs: [...], doubles: [...]}. */
function columnsOf(kind) {
  const row = new RegExp(`^\\| .${kind}. \\| (.*?) \\| (.*?) \\|$`, "m").exec(PAGE);
  assert.ok(row, `${kind} is not in docs/metrics.md`);
  const names = (cell) => [...cell.matchAll(/`([a-zA-Z]+)`/g)].map(([, name]) => name);
  return { blobs: names(row[1]), doubles: names(row[2]) };
}

/** A point with its columns by name. */
function named({ indexes, blobs: [kind, ...texts], doubles }) {
  assert.deepEqual(indexes, [kind]);
  const columns = columnsOf(kind);
  assert.deepEqual([texts.length, doubles.length], [columns.blobs.length, columns.doubles.length], kind);
  const byName = (names, values) => Object.fromEntries(names.map((name, at) => [name, values[at]]));
  return { kind, ...byName(columns.blobs, texts), ...byName(columns.doubles, doubles) };
}

test("a point for each request with what it rested on, and one for each thing that is counted", () =>
  inWorld({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN, METRICS_ARE: "kept", LOG_SUCCESS_SAMPLE_RATE: "0" } }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect(ackAll);
    await alice.message(bob, { n: 0 }); // from now on the registry's answers are remembered
    await world.points();

    assert.equal((await alice.message(bob, { n: 1 })).status, 202);
    const [delivery, hook, ...more] = (await world.points()).map(named);
    assert.deepEqual([delivery.kind, delivery.outcome, delivery.queueDepth], ["delivery", "delivered", 0]);
    const { kind, route, code, keys, access, message, status, skewSeconds, queueDepth } = hook;
    assert.deepEqual(
      { kind, route, code, keys, access, message, status, skewSeconds, queueDepth },
      { kind: "request", route: "/hooks/message", code: "-", keys: "fresh", access: "fresh", message: "delivered", status: 202, skewSeconds: 0, queueDepth: 0 },
    );
    assert.deepEqual(more, [], "one for the request and one for the acknowledgement");
    assert.equal(world.logged("request.completed").length, 0, "lines are sampled, points are not");

    await world.send("GET", "/nothing/here");
    await alice.message(bob, "not JSON");
    await alice.post("/pair/status", { ticket: "none" }, { timestamp: Math.floor(Date.now() / 1000) - 250 });
    const refusals = (await world.points()).map(named);
    assert.deepEqual(refusals.map((each) => [each.route, each.code === "-"]), [["-", false], ["/hooks/message", false], ["/pair/status", false]]);
    assert.ok(Math.abs(refusals[2].skewSeconds - 250) < 5, "ours is ahead");

    await world.send("POST", "/admin/v1/revocations", {
      headers: { authorization: `Bearer ${ADMIN}` },
      body: JSON.stringify({ kind: "agent", agentDid: bob.agentDid }),
    });
    await socket.closed;
    const revoked = (await world.points()).map(named).filter((each) => each.kind === "revocation");
    assert.deepEqual(revoked.map(({ source, what, tokens }) => [source, what, tokens]), [["operator", "agent", 0]]);

    await world.registry("/dev/agents/revoke", { agentDid: alice.agentDid });
    const byQueue = await eventually(async () => (await world.points()).map(named).find((each) => each.kind === "revocation"));
    assert.deepEqual([byQueue.source, byQueue.lagMs >= 0], ["queue", true]);
  }));

test("every kind of the code is in the document, and the document's queries name columns that there are", () => {
  const code = readFileSync(join(ROOT, "crates/core/src/metrics.rs"), "utf8");
  const rows = [...code.matchAll(/^ +(\{"indexes".*\})$/gm)].map(([, row]) => JSON.parse(row));
  assert.ok(rows.length >= 10);
  for (const row of rows) named(row);
  const queries = [...PAGE.matchAll(/```sql\n([^]*?)```/g)].map(([, query]) => query);
  assert.ok(queries.length >= 6);
  for (const query of queries) {
    const [, kind] = /index1 = '(\w+)'/.exec(query) ?? assert.fail(`a query without its kind: ${query}`);
    const columns = columnsOf(kind);
    for (const [, type, number] of query.matchAll(/(blob|double)(\d+)/g)) {
      const most = type === "blob" ? columns.blobs.length + 1 : columns.doubles.length;
      assert.ok(Number(number) >= 1 && Number(number) <= most, `${type}${number} in ${query}`);
    }
    assert.match(query, /_sample_interval/, "what was sampled is weighed");
  }
});

test("a dataset that refuses points costs nobody anything", () =>
  inWorld({ hooks: true, bindings: { METRICS_ARE: "refused", LOG_LEVEL: "warn" } }, async (world) => {
    const [alice, bob] = await world.couple();
    await bob.connect(ackAll);
    assert.equal((await alice.message(bob, { n: 1 })).status, 202);
    assert.equal((await world.send("GET", "/health")).json.status, "ok");
    assert.equal((await world.send("GET", "/nothing")).status, 404);
    const levels = await eventually(() => world.logged("request.completed").length > 0 && world.logs.map(({ level }) => level));
    assert.ok(!levels.includes("info"), "LOG_LEVEL is warn");
  }));

// A hundred thousand revocations in the ledger, and as many in the CRL that the isolate holds: a request costs what
// it costs with none, and one more revocation is one entry of the feed.
import assert from "node:assert/strict";
import { test } from "node:test";

import { admitted, answered, percentile, probe } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const TOKEN = "a-token-of-32-characters-for-tests";
const ROWS = 100_000;
const MAX_RATIO = 1.3;

test("admission and the CRL at a token's first sight and later, the feed's delta and the bundle, beside an empty ledger", async (t) => {
  const bindings = { ADMIN_TOKEN: TOKEN, FEED_TOKEN: TOKEN };
  const [empty, full] = await Promise.all([start({ bindings }), start({ bindings })]);
  try {
    const listed = await full.agent();
    for (let at = 0; at < ROWS; at += 5000) {
      const rows = Array.from({ length: 5000 }, () => ({ jti: ulid(), agent: `did:cdi:registry.test:agent:${ulid()}` }));
      await full.db.prepare(`INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
        SELECT 'token', value ->> '$.agent', value ->> '$.jti', 'crl', 1, 1, ?2 FROM json_each(?1)`)
        .bind(JSON.stringify(rows), Date.now() + 86_400_000).run();
      await full.registry("/dev/crl", { entries: rows.map(({ jti, agent }) => ({ jti, agentDid: agent, reason: "reissued" })) });
    }
    await full.registry("/dev/crl", { jti: listed.aitJti, agentDid: listed.agentDid });
    const first = performance.now();
    await eventually(async () => (await probe(listed)).status === 401, { deadlineMs: 60_000, what: "the list in the isolate" });
    t.diagnostic(`until the isolate holds a CRL of ${ROWS + 1} entries: ${Math.round(performance.now() - first)} ms`);
    const took = { empty: { first: [], later: [] }, full: { first: [], later: [] } };
    const worlds = { empty, full };
    for (let run = 0; run < 45; run++) {
      for (const name of run % 2 ? ["empty", "full"] : ["full", "empty"]) {
        const agent = await worlds[name].agent();
        for (const when of ["first", "later", "later", "later"]) {
          const started = performance.now();
          admitted(await probe(agent));
          if (run >= 5) took[name][when].push(performance.now() - started);
        }
      }
    }
    const ratios = {};
    for (const when of ["first", "later"]) {
      const [with_, without] = [took.full[when], took.empty[when]].map((values) => percentile(values, 0.5));
      ratios[when] = with_ / without;
      t.diagnostic(`admission and CRL, ${when} sight: p50 ${with_.toFixed(2)} ms with ${ROWS} rows, ${without.toFixed(2)} ms with none: ratio ${ratios[when].toFixed(2)}`);
    }
    for (const [when, ratio] of Object.entries(ratios)) assert.ok(ratio <= MAX_RATIO, `${when}: ${ratio}`);

    const headers = { authorization: `Bearer ${TOKEN}` };
    const post = (body) => full.send("POST", "/admin/v1/revocations", { headers, body: JSON.stringify(body) });
    const before = answered(await full.send("GET", `/v1/revocations?since=${ROWS}`, { headers }), 200).latest;
    const started = performance.now();
    const item = answered(await post({ kind: "agent", agentDid: `did:cdi:registry.test:agent:${ulid()}` }), 201);
    t.diagnostic(`an operator's revocation: ${Math.round(performance.now() - started)} ms`);
    const delta = answered(await full.send("GET", `/v1/revocations?since=${before}`, { headers }), 200);
    assert.deepEqual(delta.items, [item]);

    const asked = performance.now();
    const bundle = await fetch(new URL("/v1/bundles/revocations.tar.gz", full.proxyUrl), { headers });
    const bytes = (await bundle.arrayBuffer()).byteLength;
    assert.equal(bundle.status, 200);
    t.diagnostic(`the bundle: ${Math.round(performance.now() - asked)} ms, ${bytes} bytes`);
  } finally {
    await Promise.all([empty.stop(), full.stop()]);
  }
});

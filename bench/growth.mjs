// How the cost of a message grows with what is kept: each of these is filled in one pair of agents and left empty in
// another, and the same hook is measured for both by turns. A ratio near 1 says that nothing is read which is not needed.
import { accepted, percentile } from "../tests/support/expect.mjs";
import { inWorld } from "../tests/support/harness.mjs";
import { pair } from "../tests/support/agent.mjs";
import { ackAll } from "../tests/support/socket.mjs";

const ROUNDS = 5;
const MEASURED = 60;
/** A statement that repeats `select` for the numbers 1 to `count`, as `n`. */
const numbered = (count, insert, select) =>
  `WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ${count})
   INSERT INTO ${insert} SELECT ${select} FROM numbers`;
const ulidOf = "printf('01%024d', n)";
const didOf = `'did:cdi:registry.test:agent:' || ${ulidOf}`;
const trust = (agent) => ["PROXY_TRUST_STATE", agent.agentDid.split(":").at(-1)];
const relay = (agent) => ["AGENT_RELAY_SESSION", agent.agentDid];

const FILLS = {
  "nonces of the sender, 10 to 100,000": async (world, from) => {
    const [table] = await world.tables(...trust(from), "nonces_%");
    const bucket = Math.floor((Date.now() / 1000 + 300) / 60);
    const row = `${bucket}, randomblob(32), randomblob(16), 0, NULL`;
    await world.sql(...trust(from), numbered(100_000, table, row));
  },
  "revoked tokens of the sender, 0 to 100,000": (world, from) =>
    world.sql(...trust(from), numbered(100_000, "revoked_tokens", `${ulidOf}, ${Date.now() + 86_400_000}`)),
  "revocations in the ledger, 0 to 100,000": (world) =>
    world.db.prepare(
      numbered(
        100_000,
        "revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)",
        `'token', ${didOf}, ${ulidOf}, 'queue', 0, 0, ${Date.now() + 86_400_000}`,
      ),
    ).run(),
  "peers of the sender, 1 to 10,000": (world, from) =>
    world.sql(...trust(from), numbered(10_000, "peers", `${didOf}, printf('%032d', n)`)),
  "outcomes at the recipient, 0 to 10,000": async (world, _from, to) => {
    const [table] = await world.tables(...relay(to), "outcomes_%");
    const columns = "(request_id, sender_did, state, status_updated_at_ms)";
    await world.sql(...relay(to), numbered(10_000, `${table} ${columns}`, `${ulidOf}, ${didOf}, 'delivered', ${Date.now()}`));
  },
  "other agents in the record, 1 to 10,000": (world) =>
    world.db
      .prepare(numbered(10_000, "agent_tokens (jti, agent_did, expires_at_ms)", `${ulidOf}, ${didOf}, ${Date.now() + 86_400_000}`))
      .run(),
};

export async function growth(say) {
  for (const [name, fill] of Object.entries(FILLS)) {
    await inWorld({ hooks: true, bindings: { LOG_SUCCESS_SAMPLE_RATE: "0" } }, async (world) => {
      const [a, b, c, d] = await world.agents(4);
      await pair(a, b);
      await pair(c, d);
      const sockets = [await b.connect(ackAll), await d.connect(ackAll)];
      const hook = (from, to) => async () => accepted(await from.message(to, { n: 1 }), { state: "delivered" });
      const [empty, filled] = [hook(a, b), hook(c, d)];
      for (let n = 0; n < 40; n++) await Promise.all([empty(), filled()]);
      await fill(world, c, d);
      // The object is loaded anew with what it has now.
      await world.evict(...trust(c));
      await filled();
      const took = { empty: [], filled: [] };
      for (let round = 0; round < ROUNDS; round++) {
        for (const [kind, one] of Object.entries({ empty, filled })) {
          const before = world.cpuMs();
          for (let n = 0; n < MEASURED; n++) await one();
          took[kind].push((world.cpuMs() - before) / MEASURED);
        }
      }
      const [small, large] = [percentile(took.empty, 0.5), percentile(took.filled, 0.5)];
      const ratio = large / small;
      say(`${name}: ${Math.round(small * 1000)} µs, then ${Math.round(large * 1000)} µs, ratio ${ratio.toFixed(2)}`, { [name]: ratio });
      for (const socket of sockets) await socket.close();
    });
  }
}

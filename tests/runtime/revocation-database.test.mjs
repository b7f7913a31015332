// Revocations while D1 hangs: each stops its agent at once, none waits for another's row in the ledger, and every
// row is there when D1 is back.
import assert from "node:assert/strict";
import { test } from "node:test";

import { admitted, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";

test("a row that D1 does not take holds up no other revocation", async () => {
  // Longer than the test waits for anything: who waits for D1 to give up fails it.
  const world = await start({ hooks: true, bindings: { TRUST_WRITE_TIMEOUT_MS: "30000" } });
  try {
    const agents = await world.agents(4);
    for (const agent of agents) admitted(await probe(agent));
    await world.database("hangs");
    for (const agent of agents) {
      await world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }));
      await eventually(async () => (await probe(agent)).status === 401, { what: "the refusal" });
      refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");
    }
    await world.database("well");
    const rows = () => world.db.prepare("SELECT agent_did FROM revocations WHERE kind = 'agent'").all();
    await eventually(async () => (await rows()).results.length === agents.length, { what: "the ledger's rows", deadlineMs: 20_000 });
    assert.deepEqual((await rows()).results.map((row) => row.agent_did).sort(), agents.map((agent) => agent.agentDid).sort());
  } finally {
    await world.stop();
  }
});

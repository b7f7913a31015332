// Who revoked something: if the registry also revokes what an operator revoked, the row's source changes to the
// registry. Lifting it then needs `force`, as it would in the other order. docs/wire.md §10.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN, asOperator as byOperator, event } from "../support/revocation.mjs";

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
});
after(() => world?.stop());

const asOperator = (...request) => byOperator(world, ...request);
const revoke = async (order) => answered(await asOperator("POST", "/admin/v1/revocations", order), 201);
const lift = (seq, body) => asOperator("POST", `/admin/v1/revocations/${seq}/lift`, body);
const standing = async (seq) => (await world.db.prepare("SELECT source, event_id FROM revocations WHERE seq = ?").bind(seq).all()).results[0];
const untilFrom = (source, seq) => eventually(async () => (await standing(seq)).source === source, { what: `${seq} from the ${source}` });

const STORIES = {
  "an agent, then its event": {
    order: (agent) => ({ kind: "agent", agentDid: agent.agentDid }),
    registry: (agent) => world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" })),
    source: "queue",
  },
  "a token, then its event": {
    order: (agent) => ({ kind: "token", jti: agent.aitJti, agentDid: agent.agentDid }),
    registry: (agent) => world.enqueue(event({ agentId: agent.id, reason: "reissued", jti: agent.aitJti })),
    source: "queue",
  },
  "a token, then the CRL": {
    order: (agent) => ({ kind: "token", jti: agent.aitJti, agentDid: agent.agentDid }),
    registry: async (agent) => {
      await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid, reason: "reissued" });
      answered(await asOperator("POST", "/admin/v1/reconcile"), 200);
    },
    source: "crl",
  },
};

for (const [name, { order, registry, source }] of Object.entries(STORIES)) {
  test(`${name}: the registry's from then on`, async () => {
    const agent = await world.agent();
    admitted(await probe(agent));
    const { seq } = await revoke(order(agent));
    await registry(agent);
    await untilFrom(source, seq);
    refused(await lift(seq), 409, "PROXY_REVOCATION_NEEDS_FORCE");
    answered(await lift(seq, { force: true }), 201);
  });
}

test("an agent whose token the CRL lists because of it needs force as well", async () => {
  const agent = await world.agent();
  const { seq } = await revoke({ kind: "agent", agentDid: agent.agentDid });
  await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid, reason: "agent_revoked" });
  refused(await lift(seq), 409, "PROXY_REVOCATION_NEEDS_FORCE");
  answered(await lift(seq, { force: true }), 201);
});

test("an event that was lifted does not take over what an operator says after that", async () => {
  const agent = await world.agent();
  const told = event({ agentId: agent.id, reason: "agent_revoked" });
  await world.enqueue(told);
  const first = await eventually(async () => {
    const { items } = answered(await asOperator("GET", "/admin/v1/revocations"), 200);
    return items.find((item) => item.agentDid === agent.agentDid);
  });
  answered(await lift(first.seq, { force: true }), 201);
  const { seq } = await revoke({ kind: "agent", agentDid: agent.agentDid });
  await world.enqueue(told);
  const other = await world.agent();
  const { seq: marker } = await revoke({ kind: "agent", agentDid: other.agentDid });
  await world.enqueue(event({ agentId: other.id, reason: "agent_revoked" }));
  await untilFrom("queue", marker);
  assert.equal((await standing(seq)).source, "operator");
  answered(await lift(seq), 201);
});

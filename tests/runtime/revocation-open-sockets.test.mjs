// What a revocation does to what is already open: sockets, frames, queued mail. docs/design.md §1, §3.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start({ bindings: { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40" } });
});
after(() => world?.stop());

for (const [name, data] of [
  ["the agent", (a) => ({ agentId: a.id, reason: "agent_revoked" })],
  ["the token that opened it", (a) => ({ agentId: a.id, reason: "reissued", jti: a.aitJti })],
  ["the session", (a) => ({ agentId: a.id, reason: "owner_auth_revoke" })],
]) {
  test(`a revocation of ${name} closes the socket, within a second`, async () => {
    const [alice] = await world.couple();
    const socket = await alice.connect();
    const started = performance.now();
    await world.enqueue(event(data(alice)));
    assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" });
    assert.ok(performance.now() - started < 1000);
  });
}

test("a token revoked beside the one that opened the socket leaves it open", async () => {
  const [alice, bob] = await world.couple();
  const socket = await alice.connect(ackAll);
  await world.enqueue(event({ agentId: alice.id, reason: "reissued", jti: ulid() }));
  await world.enqueue(event({ agentId: bob.id, reason: "agent_revoked" }));
  await eventually(async () => (await bob.message(alice, {})).json.error?.code === "PROXY_AUTH_REVOKED");
  socket.send({ type: "heartbeat" });
  await socket.next("heartbeat_ack");
  await socket.close();
});

test("what a revoked sender had queued is not sent", async () => {
  const [alice, bob] = await world.couple();
  const carol = await world.agent();
  await pair(carol, bob);
  accepted(await alice.message(bob, { from: "alice" }), { state: "queued" });
  accepted(await carol.message(bob, { from: "carol" }), { state: "queued" });
  await alice.atRegistry("revoke");
  await eventually(async () => (await alice.message(bob, {})).status === 401);
  const socket = await bob.connect(ackAll);
  const first = await socket.next("deliver");
  assert.deepEqual(first.payload, { from: "carol" });
  socket.send({ type: "heartbeat" });
  await socket.next("heartbeat_ack");
  assert.deepEqual(socket.pending, []);
  await socket.close();
});

test("mail for a revoked recipient is dead-lettered at once", async () => {
  const [alice, bob] = await world.couple();
  await bob.atRegistry("revoke");
  await eventually(async () => (await bob.message(alice, {})).status === 401);
  await eventually(async () => (await alice.message(bob, {})).json.state === "dead_lettered");
});

test("a revoked agent opens no socket", async () => {
  const [alice] = await world.couple();
  await alice.atRegistry("revoke", { crl: false });
  await eventually(async () => (await alice.get("/v1/relay/connect")).json.error.code === "PROXY_AUTH_REVOKED");
  const refusal = await alice.connect().catch((error) => error);
  assert.deepEqual([refusal.status, refusal.json?.error?.code], [401, "PROXY_AUTH_REVOKED"]);
  refused(await alice.post("/v1/relay/delivery-receipts", {}), 401, "PROXY_AUTH_REVOKED");
});

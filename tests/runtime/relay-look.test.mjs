// An open socket whose agent was revoked, and that was not told: its first frame after five minutes finds out.
// docs/design.md §5.
import assert from "node:assert/strict";
import { test } from "node:test";

import { probe } from "../support/expect.mjs";
import { eventually, inWorld } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";

const MINUTE = 60_000;

test("a socket that no revocation was told of is closed by its first frame after five minutes", () =>
  inWorld({ hooks: true, consumer: { maxBatchSize: 1 } }, async (world) => {
    const [told, alice] = await world.agents(2);
    const revoke = async (agent, id) => world.enqueue({ ...event({ agentId: agent.id, reason: "agent_revoked" }), id });
    // Which of a revocation's calls is the one that closes the sockets.
    const first = await told.connect();
    await revoke(told, "event-that-arrives");
    assert.equal((await first.closed).code, 1008);
    const at = (await world.callsOf("event-that-arrives")).findIndex((call) => call.startsWith("relay "));
    assert.ok(at > 0);

    const socket = await alice.connect();
    await world.lose("event-that-is-held", at, "held");
    await revoke(alice, "event-that-is-held");
    await eventually(async () => (await probe(alice)).status === 401, { what: "the kill" });
    const beat = async () => {
      socket.send({ type: "heartbeat" });
      return Promise.race([socket.next("heartbeat_ack").then(() => "answered"), socket.closed]);
    };
    for (const minutes of [0, 2, 4]) {
      await world.moveClock(minutes * MINUTE);
      assert.equal(await beat(), "answered");
    }
    await world.moveClock(5 * MINUTE + 1);
    await beat();
    assert.deepEqual(await socket.closed, { code: 1008, reason: "revoked" });
    await world.release("event-that-is-held");
  }));

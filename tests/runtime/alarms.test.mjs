// No alarm may be lost (docs/design.md §5.5): a handler that fails, for longer than the platform would try again, has set
// its next alarm each time, and what was due is done once it works again.
import assert from "node:assert/strict";
import { test } from "node:test";

import { accepted, answered } from "../support/expect.mjs";
import { eventually, inWorld } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

// The platform itself tries a handler that throws seven times in all.
const TRIES = 10;
const SOON_MS = 60_000;
const FAULT = { ALLOW_ALL_VERIFIED: "true" };

const isSoon = (atMs) => atMs !== null && atMs <= Date.now() + SOON_MS;

test("a settings fault while alarms fall due: none is lost, mail expires afterwards and its sender is told", () =>
  inWorld({ hooks: true, bindings: { RELAY_QUEUE_TTL_SECONDS: "2" } }, async (world) => {
    const [alice, bob] = await world.couple();
    const id = ulid();
    accepted(await alice.message(bob, {}, { headers: { "x-request-id": id } }), { state: "queued" });
    const objects = [["AGENT_RELAY_SESSION", bob.agentDid], ["PROXY_TRUST_STATE", alice.id], ["PROXY_TRUST_STATE", bob.id]];
    for (const object of objects) assert.notEqual(await world.alarmAt(...object), null, "an alarm is set with what is due");

    await world.restart({ bindings: FAULT });
    world.adopt(alice, bob);
    assert.equal((await alice.message(bob, {})).json.error.code, "CONFIG_VALIDATION_FAILED");
    // The message expires, and nobody but the alarm can notice.
    const dead = () => world.logged("proxy.relay.dead_lettered").filter((line) => line.messageId === id);
    const failed = () => world.logged("proxy.relay.failed").length;
    await eventually(() => failed() > 0, { what: "the alarm of the session" });
    for (let n = 0; n < TRIES; n++) {
      for (const object of objects) {
        await world.alarm(...object);
        assert.ok(isSoon(await world.alarmAt(...object)), `${object} after ${n + 1} failures`);
      }
    }
    assert.ok(failed() > TRIES);
    assert.ok(world.logged("proxy.trust.failed").length >= 2 * TRIES);
    assert.deepEqual(dead(), []);

    await world.restart({ bindings: { RELAY_QUEUE_TTL_SECONDS: "2" } });
    world.adopt(alice, bob);
    for (const object of objects) assert.ok(isSoon(await world.alarmAt(...object)), "the platform kept it");
    for (const object of objects) await world.alarm(...object);
    await eventually(() => dead().length === 1);
    assert.equal(dead()[0].reason, "expired");
    const socket = await alice.connect();
    const receipt = await socket.next((frame) => frame.type === "receipt" && frame.originalFrameId === id);
    assert.deepEqual([receipt.originalFrameId, receipt.status, receipt.reason], [id, "dead_lettered", "expired"]);
    await socket.close();
    for (const object of objects.slice(1)) assert.notEqual(await world.alarmAt(...object), null, "its nonces are still to be forgotten");
    const path = `/v1/relay/delivery-receipts?requestId=${id}&recipientAgentDid=${encodeURIComponent(bob.agentDid)}`;
    assert.equal(answered(await alice.get(path), 200).receipt.state, "dead_lettered");
  }));

test("an object that is evicted at any moment has its alarm in storage before its caller is answered", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    for (let n = 0; n < 5; n++) {
      accepted(await alice.message(bob, { n }), { state: "queued" });
      await world.evict("AGENT_RELAY_SESSION", bob.agentDid);
      assert.notEqual(await world.alarmAt("AGENT_RELAY_SESSION", bob.agentDid), null);
      await world.evict("PROXY_TRUST_STATE", alice.id);
      assert.notEqual(await world.alarmAt("PROXY_TRUST_STATE", alice.id), null);
    }
  }));

// A connector's socket that says nothing, and one whose token ends. docs/wire.md §6.
import assert from "node:assert/strict";
import { test } from "node:test";

import { inWorld } from "../support/harness.mjs";

test("a silent socket is asked, then closed; one that answers stays", () =>
  inWorld({ bindings: { RELAY_HEARTBEAT_MS: "300", RELAY_SILENT_CLOSE_MS: "900" } }, async (world) => {
    const [alice, bob] = await world.agents(2);
    const [silent, talking] = [await alice.connect(), await bob.connect()];
    // Longer than the silent one may be silent.
    for (let i = 0; i < 4; i++) {
      const { id } = await talking.next("heartbeat");
      talking.send({ type: "heartbeat_ack", ackId: id });
    }
    await silent.next("heartbeat");
    assert.equal((await silent.closed).code, 1011);
    talking.send({ type: "heartbeat" });
    await talking.next("heartbeat_ack");
    await talking.close();
  }));

test("a socket ends with the AIT that opened it", () =>
  inWorld({}, async (world) => {
    const brief = await world.agent({ ttlSeconds: 3 });
    const socket = await brief.connect();
    assert.deepEqual(await socket.closed, { code: 1008, reason: "token_expired" });
  }));

// A session whose object the runtime has put to sleep under an open socket. That takes 12 s, and no setting shortens
// it.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../../support/agent.mjs";
import { accepted } from "../../support/expect.mjs";
import { start } from "../../support/harness.mjs";
import { ackAll } from "../../support/socket.mjs";

const ASLEEP_AFTER_MS = 12_000;

test("a hibernated session keeps its agent, answers heartbeats, delivers, takes acknowledgements", async () => {
  const world = await start();
  try {
    const [alice, bob] = await world.agents(2);
    await pair(alice, bob);
    const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
    await new Promise((resolve) => setTimeout(resolve, ASLEEP_AFTER_MS));
    to.send({ type: "heartbeat" });
    await to.next("heartbeat_ack");
    accepted(await alice.message(bob, { after: "sleep" }), { state: "delivered" });
    const { id } = from.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: { by: "enqueue" } });
    assert.equal((await from.next("enqueue_ack")).accepted, true);
    assert.equal((await to.next((frame) => frame?.payload?.by === "enqueue")).id, id);
    await Promise.all([from.close(), to.close()]);
  } finally {
    await world.stop();
  }
});

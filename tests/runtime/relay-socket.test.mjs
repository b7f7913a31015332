// A connector's socket that is silent, one whose token expires, and frames that only cost time. docs/wire.md §6, §8.
import assert from "node:assert/strict";
import { test } from "node:test";

import { nowSeconds } from "../support/agent.mjs";
import { accepted } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";
import { ackAll } from "../support/socket.mjs";

const MINUTE = 60_000;

test("a silent socket is closed when mail arrives for it, and after ten minutes in any case", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect(ackAll);
    await world.moveClock(MINUTE - 5_000);
    accepted(await alice.message(bob, { n: 1 }), { state: "delivered" });
    // That was an acknowledgement: the minute begins anew.
    await world.moveClock(2 * MINUTE - 10_000);
    accepted(await alice.message(bob, { n: 2 }), { state: "delivered" });
    await world.moveClock(4 * MINUTE);
    accepted(await alice.message(bob, { n: 3 }), { state: "queued" });
    assert.deepEqual(await socket.closed, { code: 1011, reason: "silent" });
    const next = await bob.connect(ackAll);
    for (const n of [3]) assert.equal((await next.next("deliver")).payload.n, n);
    await world.moveClock(14 * MINUTE + 10_000);
    // Whatever happens to the session next finds that out; by itself, its alarm.
    const query = new URLSearchParams({ requestId: "none-of-them", recipientAgentDid: bob.agentDid });
    await alice.get(`/v1/relay/delivery-receipts?${query}`, { timestamp: nowSeconds() + 14 * 60 });
    assert.deepEqual(await next.closed, { code: 1011, reason: "silent" });
  }));

test("a frame that nobody answers closes its socket after five minutes, and goes out once on each", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect();
    await world.hurryTimers(50);
    accepted(await alice.message(bob, { n: 1 }), { state: "queued" }); // after its 15 s
    await world.hurryTimers(1);
    const { id } = await socket.next("deliver");
    for (let second = 40; second < 300; second += 40) {
      await world.moveClock(second * 1000);
      socket.send({ type: "heartbeat" });
      await socket.next("heartbeat_ack");
    }
    assert.deepEqual(socket.pending, [], "sent once, and no probe of ours");
    await world.moveClock(310_000);
    socket.send({ type: "heartbeat" });
    assert.deepEqual(await socket.closed, { code: 1011, reason: "delivery_unacknowledged" });
    const next = await bob.connect({ ...ackAll, timestamp: nowSeconds() + 310 });
    assert.equal((await next.next("deliver")).id, id);
    await next.close();
  }));

test("heartbeats and what is no frame are limited, acknowledgements never", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const socket = await bob.connect();
    const answer = alice.message(bob, { n: 1 });
    const frame = await socket.next("deliver");
    for (let n = 0; n < 300; n++) n % 2 ? socket.sendText("no frame") : socket.send({ type: "heartbeat" });
    for (let n = 0; n < 300; n++) socket.ack({ id: frame.id.replace(/.$/, (last) => (last === "0" ? "1" : "0")) });
    socket.ack(frame);
    accepted(await answer, { state: "delivered" });
    const acks = socket.pending.filter((other) => other.type === "heartbeat_ack").length;
    assert.ok(acks >= 115 && acks <= 150, `${acks} answered: half of 240 a minute`);
    await world.moveClock(MINUTE);
    socket.send({ type: "heartbeat" });
    while ((await socket.next("heartbeat_ack")) && socket.pending.some((other) => other.type === "heartbeat_ack"));
    await socket.close();
  }));

test("a socket ends with the AIT that opened it", () =>
  inWorld({}, async (world) => {
    const brief = await world.agent({ ttlSeconds: 3 });
    const socket = await brief.connect();
    assert.deepEqual(await socket.closed, { code: 1008, reason: "token_expired" });
  }));

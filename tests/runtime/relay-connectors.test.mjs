// The relay and models of both families of connectors: slow webhooks, links that live for a second, messages that break
// connections, half-open lines, shares of the queue, requests that come again. docs/design.md §5.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { nowSeconds, pair } from "../support/agent.mjs";
import { RustConnector, TypeScriptConnector } from "../support/connectors.mjs";
import { accepted, answered, refused } from "../support/expect.mjs";
import { eventually, inWorld, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const RECEIPTS = "/v1/relay/delivery-receipts";
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const range = (count) => Array.from({ length: count }, (_, n) => n);

let world;
before(async () => {
  world = await start({ hooks: true });
});
after(() => world?.stop());

const numbers = (connector) => connector.posts.map(({ payload }) => payload.n);
const stateOf = async (sender, id, recipient, over) => {
  const query = new URLSearchParams({ requestId: id, recipientAgentDid: recipient.agentDid });
  return answered(await sender.get(`${RECEIPTS}?${query}`, over), 200).receipt;
};

for (const Connector of [RustConnector, TypeScriptConnector]) {
  test(`${Connector.name}: a slow webhook is posted each message once, in order`, async () => {
    const [alice, bob] = await world.couple();
    await world.hurryTimers(50); // the hooks' 15 s pass in 0.3 s
    const connector = new Connector(bob, { webhook: () => sleep(500), postsReceipts: true });
    const ids = range(8).map(() => ulid());
    for (const n of range(8)) {
      // While timers hurry, an answer may seem lost: its sender calls again.
      await eventually(async () => {
        const answer = await alice.message(bob, { n }, { headers: { "x-request-id": ids[n] } });
        return answer.status !== 502 && accepted(answer);
      });
    }
    await world.hurryTimers(1);
    await eventually(async () => (await stateOf(alice, ids[7], bob)).state === "delivered_to_webhook", { what: "the last" });
    assert.deepEqual(numbers(connector), range(8));
    assert.equal(connector.connects, 1);
    await connector.stop();
  });
}

test("links that live for a second, and two machines with one agent: nothing is dead-lettered", async () => {
  const [alice, bob] = await world.couple();
  const ids = range(4).map(() => ulid());
  for (const n of range(4)) accepted(await alice.message(bob, { n }, { headers: { "x-request-id": ids[n] } }));
  const short = new RustConnector(bob, { webhook: () => sleep(600), livesMs: 400 });
  await eventually(() => short.connects > 6);
  await short.stop();
  const machines = [new TypeScriptConnector(bob, { webhook: () => sleep(300), reconnectMs: 100 }), new TypeScriptConnector(bob, { webhook: () => sleep(300), reconnectMs: 130 })];
  await eventually(() => machines.every((machine) => machine.connects > 4));
  await Promise.all(machines.map((machine) => machine.stop()));
  for (const id of ids) assert.notEqual((await stateOf(alice, id, bob)).state, "dead_lettered");
});

test("the one message that breaks connections is given up alone, and the four beside it arrive", () =>
  inWorld({ hooks: true }, async (own) => {
    const [alice, bob, carol] = await own.agents(3);
    await pair(alice, bob);
    await pair(carol, bob);
    const ids = range(6).map(() => ulid());
    const send = async (from, n) => accepted(await from.message(bob, { n }, { headers: { "x-request-id": ids[n] } }), { state: "queued" });
    await send(carol, 0);
    await send(carol, 1);
    await send(alice, 2);
    await send(carol, 3);
    await send(alice, 4);
    await send(alice, 5);
    let offset = 0;
    const connector = new RustConnector(bob, {
      poisoned: (frame) => frame.payload.n === 2,
      headers: () => ({ timestamp: nowSeconds() + offset }),
    });
    // What was read before the break and not acknowledged may come again.
    const arrived = () => [...new Set(numbers(connector))];
    // 4 may have been read with it, before the break; if not, it waits behind it like 5.
    await eventually(() => [0, 1, 3].every((n) => arrived().includes(n)), { what: "the others" });
    assert.ok(!arrived().includes(5), "nobody waits but its sender");
    // Each time a connection has lived for 30 s, it is tried again, three times in all.
    for (let tries = 0; tries < 3; tries++) {
      const before = connector.closes.length;
      await eventually(() => connector.connects > before);
      assert.equal((await stateOf(alice, ids[2], bob, { timestamp: nowSeconds() + offset })).state, "queued");
      offset += 31;
      await own.moveClock(offset * 1000);
      await eventually(() => {
        try {
          connector.socket.send({ type: "heartbeat" });
        } catch {
          // just ended
        }
        return connector.closes.length > before;
      }, { everyMs: 100, what: "the next break" });
    }
    await eventually(() => arrived().length === 5, { what: "what its sender sent after it" });
    assert.equal(arrived().at(-1), 5);
    assert.ok(arrived().includes(4));
    const { state, reason } = await stateOf(alice, ids[2], bob, { timestamp: nowSeconds() + offset });
    assert.deepEqual([state, reason], ["dead_lettered", "connector_broke"]);
    await connector.stop();
  }));

test("a receipt that went into a half-open line is pushed again, and once its arrival is known, no more", async () => {
  const [alice, bob] = await world.couple();
  const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
  const id = ulid();
  accepted(await alice.message(bob, { n: 1 }, { headers: { "x-request-id": id } }), { state: "delivered" });
  const receipt = { requestId: id, senderAgentDid: alice.agentDid, recipientAgentDid: bob.agentDid, status: "delivered_to_webhook" };
  answered(await bob.post(RECEIPTS, receipt), 202);
  assert.equal((await from.next("receipt")).originalFrameId, id);
  await from.terminate(); // nobody knows that it arrived
  const again = await alice.connect();
  assert.equal((await again.next("receipt")).originalFrameId, id);
  again.send({ type: "heartbeat_ack", ackId: (await again.next("heartbeat")).id });
  again.send({ type: "heartbeat" });
  await again.next("heartbeat_ack");
  await again.close();
  const third = await alice.connect();
  third.send({ type: "heartbeat" });
  await third.next("heartbeat_ack");
  assert.deepEqual(third.pending, []);
  await Promise.all([third.close(), to.close()]);
});

test("one sender's share is not the others', in the queue and in flight", () =>
  inWorld({ bindings: { RELAY_QUEUE_MAX_MESSAGES_PER_AGENT: "20", RELAY_QUEUE_MAX_MESSAGES: "25" } }, async (own) => {
    const [bob, ...senders] = await own.agents(4);
    for (const sender of senders) await pair(sender, bob);
    const fill = async (sender, count) => {
      const answers = await Promise.all(range(count).map((n) => sender.message(bob, { n })));
      return answers.filter(({ status }) => status === 202).length;
    };
    assert.equal(await fill(senders[0], 24), 20);
    assert.equal(await fill(senders[1], 24), 10);
    assert.equal(await fill(senders[2], 24), 10);
    await own.enqueue({
      id: ulid(), type: "group.member.joined", version: "v1", timestampUtc: new Date().toISOString(), initiatedByAccountId: "a",
      data: { recipientAgentDid: bob.agentDid, joinedAgentDid: senders[0].agentDid, joinedAgentName: "x", groupId: `grp_${ulid()}`, groupName: "g", role: "member", joinedAt: new Date().toISOString() },
    });
    const socket = await bob.connect();
    const held = [];
    for (const _ of range(5)) held.push(await socket.next("deliver"));
    for (const sender of senders) assert.ok(held.filter((frame) => frame.fromAgentDid === sender.agentDid).length <= 2);
    await socket.terminate();
  }));

test("a request's outcome is repeated for a day, and another payload under its id is refused", () =>
  inWorld({ hooks: true, bindings: { RELAY_QUEUE_TTL_SECONDS: "1" } }, async (own) => {
    const [alice, bob] = await own.couple();
    const to = await bob.connect(ackAll);
    const headers = { "x-request-id": "not-a-ulid-1" };
    const first = accepted(await alice.message(bob, { n: 1 }, { headers }), { state: "delivered" });
    await to.close();
    for (const hours of [0.02, 1, 23]) {
      await own.moveClock(hours * 3_600_000);
      const timestamp = nowSeconds() + hours * 3_600;
      accepted(await alice.message(bob, { n: 1 }, { headers, timestamp }), { state: "delivered", deliveryId: first.deliveryId });
      refused(await alice.message(bob, { n: 2 }, { headers, timestamp }), 409, "PROXY_HOOK_REQUEST_ID_REUSED");
    }
    const id = ulid();
    await own.moveClock(0);
    const from = await alice.connect();
    for (const [n, taken] of [[1, true], [1, true], [2, false]]) {
      from.send({ type: "enqueue", id, toAgentDid: bob.agentDid, payload: { n } });
      const ack = await from.next("enqueue_ack");
      assert.deepEqual([ack.ackId, ack.accepted], [id, taken], JSON.stringify(ack));
    }
    await from.close();
  }));

// Messages on their way: the hook, the socket and its frames, and the queue while nobody is connected. docs/wire.md
// §5, §6.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { ULID, accepted, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const MIB = 1 << 20;
const QUICK = { RELAY_RETRY_INITIAL_MS: "20", RELAY_RETRY_MAX_MS: "40", RELAY_RETRY_JITTER_RATIO: "0" };

let world;
before(async () => {
  world = await start({ bindings: QUICK });
});
after(() => world?.stop());

const message = (payload) => (frame) => frame?.type === "deliver" && JSON.stringify(frame.payload) === JSON.stringify(payload);
const numbered = (frame) => frame?.type === "deliver" && "n" in frame.payload;
const DELIVER_FIELDS = [
  "v", "type", "id", "ts", "fromAgentDid", "toAgentDid", "payload", "deliverySource", "contentType", "groupId",
  "conversationId", "replyTo",
];

test("connected: delivered, acknowledged, answered; the frame has its fields and no other", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect(ackAll);
  const id = ulid();
  for (const path of ["/hooks/message", "/hooks/agent"]) {
    const payload = { path, deep: { list: [1, 2.5, null, "ü"] } };
    const answer = await alice.post(path, payload, {
      headers: { "x-claw-recipient-agent-did": bob.agentDid, "x-claw-conversation-id": "talk-1", "x-request-id": path === "/hooks/agent" ? ulid() : id },
    });
    accepted(answer, { state: "delivered", delivered: true, queued: false, queueDepth: 0, connectedSockets: 1 });
    const frame = await socket.next(message(payload));
    assert.equal(frame.v, 1);
    assert.match(frame.id, ULID);
    if (path === "/hooks/message") assert.equal(frame.id, id);
    assert.ok(!Number.isNaN(Date.parse(frame.ts)));
    assert.equal(frame.fromAgentDid, alice.agentDid);
    assert.equal(frame.toAgentDid, bob.agentDid);
    assert.equal(frame.conversationId, "talk-1");
    for (const [key, value] of Object.entries(frame)) {
      assert.ok(DELIVER_FIELDS.includes(key), key);
      assert.notEqual(value, null, key);
    }
  }
  await socket.close();
});

test("a request id that is no ULID: a ULID is made for the frame", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect(ackAll);
  accepted(await alice.message(bob, { a: 1 }, { headers: { "x-request-id": "not-a-ulid-1" } }), { state: "delivered" });
  assert.match((await socket.next(message({ a: 1 }))).id, ULID);
  await socket.close();
});

test("the hook's refusals", async () => {
  const [alice, bob] = await world.couple();
  const to = { "x-claw-recipient-agent-did": bob.agentDid };
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""]) {
    refused(await alice.message(bob, {}, { headers: { ...to, "content-type": type } }), 415, "PROXY_HOOK_UNSUPPORTED_MEDIA_TYPE");
  }
  accepted(await alice.message(bob, {}, { headers: { "content-type": "Application/JSON; charset=utf-8" } }));
  for (const body of ["", "{", "no json", '{"a":1}x']) {
    refused(await alice.post("/hooks/message", body, { headers: to }), 400, "PROXY_HOOK_INVALID_JSON");
  }
  refused(await alice.post("/hooks/message", {}), 400, "PROXY_HOOK_RECIPIENT_REQUIRED");
  for (const did of ["bob", bob.ownerDid, bob.agentDid.toLowerCase(), `${bob.agentDid}x`]) {
    refused(await alice.message(did, {}), 400, "PROXY_HOOK_RECIPIENT_INVALID");
  }
  for (const group of ["group", "grp_x", `grp_${ulid().toLowerCase()}`]) {
    refused(await alice.message(bob, {}, { headers: { "x-claw-group-id": group } }), 400, "PROXY_HOOK_GROUP_INVALID");
  }
  refused(await alice.message(bob, { big: "x".repeat(MIB - 100) }), 413, "PROXY_BODY_TOO_LARGE");
});

test("connect without an upgrade is 426", async () => {
  const [alice] = await world.couple();
  for (const path of ["/v1/relay/connect", "/relay/connect"]) {
    refused(await alice.get(path), 426, "PROXY_RELAY_UPGRADE_REQUIRED");
  }
});

test("nobody connected: queued at once, drained in order on connect, groupId kept", async () => {
  const [alice, bob] = await world.couple();
  const { groupId } = await world.registry("/dev/groups", { members: [alice.agentDid, bob.agentDid] });
  for (let n = 0; n < 7; n++) {
    const headers = n === 3 ? { "x-claw-group-id": groupId } : {};
    accepted(await alice.message(bob, { n }, { headers }),
      { state: "queued", delivered: false, queued: true, queueDepth: n + 1, connectedSockets: 0 });
  }
  const socket = await bob.connect(ackAll);
  for (let n = 0; n < 7; n++) {
    const frame = await socket.next(numbered);
    assert.equal(frame.payload.n, n);
    assert.equal(frame.groupId, n === 3 ? groupId : undefined);
  }
  await socket.close();
  const again = await bob.connect(ackAll);
  accepted(await alice.message(bob, { n: "last" }), { state: "delivered", queueDepth: 0 });
  assert.equal((await again.next(numbered)).payload.n, "last");
  await again.close();
});

test("queued mail outlives an orderly restart and a kill", async () => {
  const own = await start({ bindings: QUICK });
  try {
    const [alice, bob] = await own.couple();
    for (const [n, again] of [[0, () => own.restart()], [1, () => own.killAndRestart()]]) {
      accepted(await alice.message(bob, { n }), { state: "queued" });
      await again();
      own.adopt(alice, bob);
    }
    const socket = await bob.connect(ackAll);
    for (const n of [0, 1]) assert.equal((await socket.next(numbered)).payload.n, n);
  } finally {
    await own.stop();
  }
});

test("the queue is full: 507, and there is room again after a drain", async () => {
  const own = await start({ bindings: { ...QUICK, RELAY_QUEUE_MAX_MESSAGES_PER_AGENT: "3" } });
  try {
    const [alice, bob] = await own.couple();
    const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => alice.message(bob, { n })));
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [202, 202, 202, 507, 507, 507, 507, 507]);
    refused(answers.find((answer) => answer.status === 507), 507, "PROXY_RELAY_QUEUE_FULL");
    const socket = await bob.connect(ackAll);
    for (let i = 0; i < 3; i++) await socket.next(numbered);
    await eventually(async () => (await alice.message(bob, { n: 9 })).json.state === "delivered", { what: "room" });
  } finally {
    await own.stop();
  }
});

test("a refused frame comes again under the same id", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect();
  const answer = alice.message(bob, { again: true });
  const first = await socket.next("deliver");
  socket.ack(first, { accepted: false, reason: "busy" });
  const second = await socket.next("deliver");
  assert.equal(second.id, first.id);
  assert.deepEqual(second.payload, first.payload);
  socket.ack(second, { reason: null });
  accepted(await answer);
  accepted(await alice.message(alice, {}));
  await socket.close();
});

test("a socket that breaks fails what it had in flight at once, and the next one gets it under the same id", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect();
  const started = performance.now();
  // Two: one alone would be suspected of having broken it.
  const answers = [alice.message(bob, { cut: 1 }), alice.message(bob, { cut: 2 })];
  const frames = [await socket.next("deliver"), await socket.next("deliver")];
  await socket.terminate();
  for (const answer of answers) accepted(await answer, { state: "queued" });
  assert.ok(performance.now() - started < 5000);
  const next = await bob.connect(ackAll);
  for (const { id } of frames) assert.equal((await next.next("deliver")).id, id);
  await next.close();
});

test("the same request again repeats its outcome and is delivered once", async () => {
  const [alice, bob] = await world.couple();
  const socket = await bob.connect(ackAll);
  const headers = { "x-request-id": ulid() };
  const first = accepted(await alice.message(bob, { once: 1 }, { headers }), { state: "delivered" });
  const second = accepted(await alice.message(bob, { once: 1 }, { headers }), { state: "delivered" });
  assert.equal(second.deliveryId, first.deliveryId);
  accepted(await alice.message(bob, { after: 1 }), { state: "delivered" });
  await socket.next(message({ once: 1 }));
  await socket.next(message({ after: 1 }));
  assert.deepEqual(socket.pending.filter((frame) => frame?.type === "deliver"), []);
  await socket.close();
});

test("a second connection supersedes the first", async () => {
  const [, bob] = await world.couple();
  const first = await bob.connect();
  const second = await bob.connect();
  assert.deepEqual(await first.closed, { code: 1000, reason: "superseded_by_new_connection" });
  second.send({ type: "heartbeat" });
  await second.next("heartbeat_ack");
  await second.close();
});

test("heartbeats are acknowledged, whatever came before them, text or binary", async () => {
  const [, bob] = await world.couple();
  const socket = await bob.connect();
  for (const text of [
    "", "no json", "null", "[]", "7", "{}", '{"v":1}', '{"v":2,"type":"heartbeat"}', `{"v":1,"type":"nonsense","id":"${ulid()}","ts":"2026-01-01T00:00:00Z"}`,
    `{"v":1,"type":"deliver_ack","id":"${ulid()}","ts":"2026-01-01T00:00:00Z"}`, "{".repeat(10_000), "\u0000",
  ]) {
    socket.sendText(text);
  }
  socket.ack({ id: ulid() });
  for (const ts of [new Date().toISOString(), "2026-01-02T03:04:05.123456789+05:30", "2026-01-02T03:04:05Z"]) {
    const { id } = socket.send({ type: "heartbeat", ts });
    const ack = await socket.next("heartbeat_ack");
    assert.equal(ack.ackId, id);
    assert.deepEqual(Object.keys(ack).sort(), ["ackId", "id", "ts", "type", "v"]);
  }
  const id = ulid();
  socket.sendBinary(JSON.stringify({ v: 1, type: "heartbeat", id, ts: new Date().toISOString() }));
  assert.equal((await socket.next("heartbeat_ack")).ackId, id);
  await socket.close();
});

test("a frame over the limit closes 1009", async () => {
  const [, bob] = await world.couple();
  const socket = await bob.connect();
  socket.sendText(JSON.stringify({ v: 1, type: "heartbeat", id: ulid(), ts: new Date().toISOString(), x: "x".repeat(MIB) }));
  assert.equal((await socket.closed).code, 1009);
});

test("enqueue: acknowledged, delivered under its own id from the other end", async () => {
  const [alice, bob] = await world.couple();
  const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
  const payload = { said: "over the socket" };
  const { id } = from.send({ type: "enqueue", toAgentDid: bob.agentDid, payload, conversationId: "c1", replyTo: "https://r.example/" });
  const ack = await from.next("enqueue_ack");
  assert.deepEqual([ack.ackId, ack.accepted], [id, true]);
  assert.ok(!("reason" in ack));
  const frame = await to.next(message(payload));
  assert.equal(frame.id, id);
  assert.equal(frame.deliverySource, "agent.enqueue");
  assert.equal(frame.conversationId, "c1");
  await Promise.all([from.close(), to.close()]);
});

test("enqueue that cannot be accepted is answered wherever its id can be read", async () => {
  const [alice, bob] = await world.couple();
  const stranger = await world.agent();
  const socket = await alice.connect();
  const base = { type: "enqueue", toAgentDid: bob.agentDid, payload: {} };
  for (const [name, fields] of [
    ["an untrusted recipient", { toAgentDid: stranger.agentDid }],
    ["no recipient", { toAgentDid: undefined }],
    ["a bad recipient", { toAgentDid: "bob" }],
    ["no payload", { payload: undefined }],
    ["a field more", { extra: 1 }],
    ["a bad group", { groupId: "x" }],
    ["another version", { v: 2 }],
    ["a group it is not in", { groupId: `grp_${ulid()}` }],
  ]) {
    const { id } = socket.send({ ...base, ...fields });
    const ack = await socket.next("enqueue_ack");
    assert.deepEqual([ack.ackId, ack.accepted], [id, false], name);
    assert.ok(typeof ack.reason === "string" && ack.reason !== "", name);
  }
  await socket.close();
});

test("thirty by enqueue and a hundred by hook, as fast as they come: all arrive, in each sender's order", async () => {
  const [alice, bob] = await world.couple();
  const [from, to] = [await alice.connect(), await bob.connect(ackAll)];
  for (let n = 0; n < 30; n++) from.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: { n } });
  for (let n = 0; n < 30; n++) assert.equal((await to.next(numbered)).payload.n, n);
  const answers = await Promise.all(Array.from({ length: 100 }, (_, n) => alice.message(bob, { n })));
  for (const answer of answers) accepted(answer);
  const seen = new Set();
  while (seen.size < 100) seen.add((await to.next(numbered)).payload.n);
  await Promise.all([from.close(), to.close()]);
});

test("one silent connector holds up no other pair", async () => {
  const [alice, bob] = await world.couple();
  const [carol, dave] = await world.couple();
  const deaf = await bob.connect();
  const hanging = Array.from({ length: 6 }, (_, n) => alice.message(bob, { n }));
  await deaf.next("deliver");
  const socket = await dave.connect(ackAll);
  const started = performance.now();
  accepted(await carol.message(dave, {}), { state: "delivered" });
  assert.ok(performance.now() - started < 2000);
  await deaf.terminate();
  for (const answer of await Promise.all(hanging)) accepted(answer, { state: "queued" });
  await socket.close();
});

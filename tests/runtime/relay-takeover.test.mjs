// What an older version stored in an agent's session is taken over once: mail waits on, outcomes are repeated, receipts
// are pushed. docs/design.md §3.
import assert from "node:assert/strict";
import { test } from "node:test";

import { accepted, answered } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const RELAY = "AGENT_RELAY_SESSION";
const OLD = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE deliveries (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL, sender_did TEXT NOT NULL, deliver_id TEXT,
  state TEXT NOT NULL, reason TEXT, attempts INTEGER NOT NULL, due_at_ms INTEGER NOT NULL, sent_on TEXT,
  created_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL, status_updated_at_ms INTEGER NOT NULL,
  bytes INTEGER NOT NULL, delivery_source TEXT, content_type TEXT, group_id TEXT, conversation_id TEXT, reply_to TEXT,
  payload TEXT);
CREATE UNIQUE INDEX deliveries_by_request ON deliveries (request_id, sender_did);
CREATE INDEX deliveries_by_frame ON deliveries (deliver_id) WHERE deliver_id IS NOT NULL;
CREATE INDEX deliveries_live ON deliveries (seq) WHERE payload IS NOT NULL;
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, sender_did TEXT NOT NULL, request_id TEXT NOT NULL, status TEXT NOT NULL,
  reason TEXT, attempts INTEGER NOT NULL, due_at_ms INTEGER NOT NULL, expires_at_ms INTEGER NOT NULL);
CREATE TABLE receipts (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL, recipient_did TEXT NOT NULL,
  status TEXT NOT NULL, reason TEXT, expires_at_ms INTEGER NOT NULL, pushed INTEGER NOT NULL);
CREATE UNIQUE INDEX receipts_by_message ON receipts (request_id, recipient_did);
CREATE INDEX receipts_unpushed ON receipts (seq) WHERE pushed = 0;
`;

test("mail, outcomes and receipts of an older version go on", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob] = await world.couple();
    const [done, ...waiting] = [ulid(), ulid(), ulid(), ulid()];
    const now = Date.now();
    const row = (seq, id, state, payload, deliverId = null) =>
      `INSERT INTO deliveries VALUES (${seq}, '${id}', '${alice.agentDid}', ${deliverId ? `'${deliverId}'` : "NULL"}, '${state}', NULL, 7, ${now},
       'a socket', ${now}, ${now + 3_600_000}, ${now}, 7, NULL, NULL, NULL, 'talk', NULL, ${payload ? `'${payload}'` : "NULL"});`;
    const deliverId = ulid();
    const store = async () => world.sql(RELAY, bob.agentDid, [
      OLD,
      row(1, done, "delivered", null),
      row(2, waiting[0], "in_flight", '{"n":0}'),
      row(3, waiting[1], "queued", '{"n":1}'),
      row(4, "not-a-ulid-at-all", "queued", '{"n":2}', deliverId),
      `INSERT INTO receipts VALUES (1, '${ulid()}', '${alice.agentDid}', 'delivered_to_webhook', NULL, ${now + 3_600_000}, 1);`,
      `INSERT INTO receipts VALUES (2, '${waiting[2]}', '${alice.agentDid}', 'dead_lettered', 'expired', ${now + 3_600_000}, 0);`,
    ].join("\n"));
    await store();
    accepted(await alice.message(bob, { n: 3 }), { state: "queued", queueDepth: 4 });
    accepted(await alice.message(bob, {}, { headers: { "x-request-id": done } }), { state: "delivered", deliveryId: done });
    const query = new URLSearchParams({ requestId: deliverId, recipientAgentDid: bob.agentDid });
    assert.equal(answered(await alice.get(`/v1/relay/delivery-receipts?${query}`), 200).receipt.requestId, "not-a-ulid-at-all");
    const socket = await bob.connect(ackAll);
    const frames = [];
    for (let n = 0; n < 4; n++) frames.push(await socket.next("deliver"));
    assert.deepEqual(frames.map((frame) => frame.payload.n), [0, 1, 2, 3]);
    assert.deepEqual(frames.slice(0, 3).map((frame) => frame.id), [waiting[0], waiting[1], deliverId]);
    assert.equal(frames[0].conversationId, "talk");
    assert.equal((await socket.next("receipt")).originalFrameId, waiting[2]);
    socket.send({ type: "heartbeat" });
    await socket.next("heartbeat_ack");
    assert.deepEqual(socket.pending.filter((frame) => frame.type === "receipt"), [], "what was pushed is not pushed again");
    await socket.close();
  }));

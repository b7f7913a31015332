// What no strict reader can parse is refused at every entrance, with a reason, and disturbs nobody; and a hook's headers
// are refused where they do not hold, never left out without a word.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accepted, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

let world;
let alice;
let bob;
before(async () => {
  world = await start();
  [alice, bob] = await world.couple();
});
after(() => world?.stop());

const nested = (depth) => "[".repeat(depth) + "]".repeat(depth);
const REFUSED = [
  '{"message":"x \\ud83d"}',
  '{"\\udc00":1}',
  '{"deep":["\\ud83d\\u0041"]}',
  nested(65),
  nested(200),
  '{"n":1e400}',
  '{"n":-1e400}',
];
const TAKEN = ['{"message":"x \\ud83d\\ude00"}', nested(64), '{"n":1e308,"m":1e-400}', "null", '"text"'];

const hook = (text, headers = {}) =>
  alice.call("POST", "/hooks/message", {
    body: text, headers: { "content-type": "application/json", "x-claw-recipient-agent-did": bob.agentDid, ...headers },
  });

test("a hook refuses what no strict reader can parse, with a reason", async () => {
  for (const text of REFUSED) {
    const error = refused(await hook(text), 400, "PROXY_HOOK_INVALID_JSON");
    assert.ok(typeof error.details.reason === "string" && error.details.reason !== "", text);
  }
  for (const text of TAKEN) accepted(await hook(text));
});

test("a frame is answered accepted:false, and the socket goes on", async () => {
  const inbox = await bob.connect(ackAll);
  const socket = await alice.connect();
  const enqueue = (payload) => {
    const id = ulid();
    const head = `"v":1,"type":"enqueue","id":"${id}","ts":"${new Date().toISOString()}","toAgentDid":"${bob.agentDid}"`;
    socket.sendText(`{${head},"payload":${payload}}`);
    return socket.next((frame) => frame.type === "enqueue_ack" && frame.ackId === id);
  };
  for (const payload of REFUSED) {
    const ack = await enqueue(payload);
    assert.equal(ack.accepted, false, payload);
    assert.ok(typeof ack.reason === "string" && ack.reason !== "", payload);
  }
  // And where the frame as a whole is no JSON.
  for (const payload of ["01", "NaN", "1.", '"\u0001"', "[1,]"]) assert.equal((await enqueue(payload)).reason, "the frame is not JSON", payload);
  for (const payload of TAKEN) assert.equal((await enqueue(payload)).accepted, true, payload);
  await socket.close();
  await inbox.close();
});

test("a hook's headers hold, are blank, or are refused", async () => {
  const CONVERSATION = ["x-claw-conversation-id", "PROXY_HOOK_CONVERSATION_INVALID"];
  const RECEIPT = ["x-claw-delivery-receipt-url", "PROXY_HOOK_RECEIPT_URL_INVALID"];
  for (const [[name, code], value] of [
    [CONVERSATION, "x".repeat(4097)], [RECEIPT, "not a url"], [RECEIPT, "https://user:secret@example.com/"],
    [RECEIPT, "ftp://example.com/"], [RECEIPT, `https://example.com/${"x".repeat(4096)}`],
  ]) {
    const error = refused(await hook("{}", { [name]: value }), 400, code);
    assert.ok(!JSON.stringify(error).includes("secret"));
  }
  for (const [name, value] of [
    [CONVERSATION[0], "x".repeat(4096)], [CONVERSATION[0], "  "], [RECEIPT[0], ""],
    ...["https://example.com/a", "wss://example.com", "mailto:a@example.com", "did:cdi:example.com:x", "urn:x:y"].map((url) => [RECEIPT[0], url]),
  ]) {
    accepted(await hook("{}", { [name]: value }));
  }
});

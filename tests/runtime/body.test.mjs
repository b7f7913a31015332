// A body is read only once the headers are proven, and then completely, within its time, and against its declared
// hash. docs/design.md §2, step 3.
import assert from "node:assert/strict";
import { request as open } from "node:http";
import { after, before, test } from "node:test";

import { newNonce, pair } from "../support/agent.mjs";
import { accepted, refused } from "../support/expect.mjs";
import { start } from "../support/harness.mjs";

const MIB = 1 << 20;

let world;
let alice;
let bob;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: "a".repeat(32), FEED_TOKEN: "f".repeat(32) } });
  [alice, bob] = await world.agents(2);
  await pair(alice, bob);
});
after(() => world?.stop());

/** The answer to a request that declares `length` bytes of a body and sends none of them. */
function withoutItsBody(method, path, headers, length = MIB) {
  return new Promise((resolve, reject) => {
    const request = open(new URL(path, world.proxyUrl), { method, headers: { ...headers, "content-length": String(length) } });
    request.on("error", reject);
    request.on("response", async (response) => {
      let text = "";
      for await (const chunk of response) text += chunk;
      request.destroy();
      resolve({ status: response.statusCode, headers: new Headers(response.headers), text, json: JSON.parse(text) });
    });
    request.flushHeaders();
  });
}

test("a request that proves nothing is refused before its body comes", async () => {
  const good = () => alice.headers("POST", "/hooks/message", "{}");
  for (const [headers, code] of [
    [{}, "PROXY_AUTH_MISSING_TOKEN"],
    [{ ...good(), authorization: "Claw x.y.z" }, "PROXY_AUTH_INVALID_AIT"],
    [{ ...good(), "x-claw-timestamp": "1" }, "PROXY_AUTH_TIMESTAMP_SKEW"],
    [{ ...good(), "x-claw-nonce": "another" }, "PROXY_AUTH_INVALID_PROOF"],
    [alice.headers("POST", "/hooks/message", "{}", { privateKey: bob.privateKey }), "PROXY_AUTH_INVALID_PROOF"],
  ]) {
    refused(await withoutItsBody("POST", "/hooks/message", headers), 401, code);
  }
  refused(await withoutItsBody("POST", "/pair/start", {}, 1000), 401, "PROXY_AUTH_MISSING_TOKEN");
  const wrong = { authorization: `Bearer ${"x".repeat(32)}` };
  refused(await withoutItsBody("POST", "/admin/v1/revocations", wrong, 1000), 401, "PROXY_BEARER_INVALID");
});

test("a body that does not come is 408 and leaves its nonce unused", async () => {
  const nonce = newNonce();
  const body = JSON.stringify({ message: "late" });
  await world.hurryTimers(100);
  const headers = {
    ...alice.headers("POST", "/hooks/message", body, { nonce }),
    "x-claw-recipient-agent-did": bob.agentDid, "content-type": "application/json",
  };
  refused(await withoutItsBody("POST", "/hooks/message", headers, body.length), 408, "PROXY_BODY_TIMEOUT");
  await world.hurryTimers(1);
  accepted(await alice.message(bob, body, { nonce }));
});

test("a body that is not the declared one is 401 and leaves its nonce unused", async () => {
  const nonce = newNonce();
  const other = await alice.message(bob, { message: "forged" }, { nonce, signedBody: JSON.stringify({ message: "signed" }) });
  assert.match(refused(other, 401, "PROXY_AUTH_INVALID_PROOF").details.reason, /SHA256/);
  accepted(await alice.message(bob, { message: "signed" }, { nonce }));
});

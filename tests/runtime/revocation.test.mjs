// An event on the queue stops its agent, token or session: every form of docs/wire.md §7, what cannot be read, and
// how long it takes. Also the CRL alone, where the registry sends no event.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { newNonce, nowSeconds, pair } from "../support/agent.mjs";
import { accepted, admitted, percentile, probe, refused } from "../support/expect.mjs";
import { AUTHORITY, eventually, start } from "../support/harness.mjs";
import { event } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

let world;
before(async () => {
  world = await start();
});
after(() => world?.stop());

const isRevoked = (answer) => answer.status === 401 && answer.json.error.code === "PROXY_AUTH_REVOKED";
// The runtime closes a connection that was idle for a while: a request on its way into it is lost, and the next look is a
// request of its own.
const lost = (error) => {
  if (error.cause?.code !== "UND_ERR_SOCKET") throw error;
  return {};
};
const untilRevoked = (agent) => eventually(async () => isRevoked(await probe(agent).catch(lost)), { what: "the refusal" });
const revokedEverywhere = async (agent) => refused(await probe(agent), 401, "PROXY_AUTH_REVOKED");

/** A revocation of a bystander, sent after the event in question: once it holds, the consumer has gone on. */
async function settled() {
  const bystander = await world.agent();
  admitted(await probe(bystander));
  await world.enqueue(event({ agentId: bystander.id, reason: "agent_revoked" }));
  await untilRevoked(bystander);
}

const hour = 3_600_000;
const AGENT_FORMS = {
  "agentId and reason": (a) => ({ agentId: a.id, sessionId: ulid(), reason: "agent_revoked" }),
  "agentId and agentDid in metadata": (a) => ({ agentId: a.id, reason: "agent_revoked", metadata: { agentDid: a.agentDid } }),
  "agentDid in data": (a) => ({ agentDid: a.agentDid, reason: "agent_revoked" }),
  "agentDid in metadata alone": (a) => ({ reason: "agent_revoked", metadata: { agentDid: a.agentDid } }),
  "no reason and no token": (a) => ({ agentId: a.id }),
  "a null reason": (a) => ({ agentId: a.id, reason: null, metadata: null }),
  "with its jti": (a) => ({ agentId: a.id, reason: "agent_revoked", jti: a.aitJti, expiresAt: Date.now() + hour }),
  "with a bad jti": (a) => ({ agentId: a.id, reason: "agent_revoked", jti: "no-ulid" }),
  "unknown fields beside": (a) => ({ agentId: a.id, reason: "agent_revoked", surprise: { deep: [1] } }),
};

for (const [name, data] of Object.entries(AGENT_FORMS)) {
  test(`the agent: ${name}`, async () => {
    const agent = await world.agent();
    admitted(await probe(agent));
    await world.enqueue(event(data(agent)));
    await untilRevoked(agent);
    await agent.atRegistry("reissue");
    await revokedEverywhere(agent);
  });
}

const TOKEN_FORMS = {
  "jti in data, expiry as ISO": (a) => ({ agentId: a.id, reason: "reissued", jti: a.aitJti, expiresAt: new Date(Date.now() + hour).toISOString() }),
  "jti in metadata, expiry in seconds": (a) => ({ agentId: a.id, reason: "reissued", metadata: { jti: a.aitJti, expiresAt: Math.floor((Date.now() + hour) / 1000) } }),
  "jtis, expiry in milliseconds": (a) => ({ agentId: a.id, reason: "x", jtis: [ulid(), a.aitJti], expiresAt: Date.now() + hour }),
  "jtis in metadata, no expiry": (a) => ({ agentDid: a.agentDid, reason: "x", metadata: { jtis: [a.aitJti] } }),
  "a token and no reason": (a) => ({ agentId: a.id, jti: a.aitJti }),
  "a jti seen before, and no agent": (a) => ({ reason: "x", jti: a.aitJti }),
};

for (const [name, data] of Object.entries(TOKEN_FORMS)) {
  test(`the token alone: ${name}`, async () => {
    const agent = await world.agent();
    admitted(await probe(agent));
    await world.enqueue(event(data(agent)));
    await untilRevoked(agent);
    await agent.atRegistry("reissue");
    admitted(await probe(agent));
  });
}

test("a token revoked before it was ever seen here", async () => {
  const agent = await world.agent();
  await world.enqueue(event({ reason: "x", jti: agent.aitJti }));
  await settled();
  await revokedEverywhere(agent);
});

for (const reason of ["owner_auth_revoke", "refresh_token_expired", "something_new"]) {
  test(`the session: ${reason}`, async () => {
    const [agent, peer] = await world.agents(2);
    await pair(agent, peer);
    accepted(await agent.message(peer, {}));
    const old = agent.accessToken;
    await agent.atRegistry("end-session", { reason });
    agent.accessToken = old;
    await eventually(async () => (await agent.message(peer, {})).status === 401, { what: "the refusal" });
    refused(await agent.message(peer, {}), 401, "PROXY_AGENT_ACCESS_INVALID");
    admitted(await probe(agent));
    await agent.atRegistry("refresh");
    accepted(await agent.message(peer, {}));
  });
}

test("a refresh voids the old access token", async () => {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  accepted(await agent.message(peer, {}));
  const old = agent.accessToken;
  await agent.atRegistry("refresh");
  accepted(await agent.message(peer, {}));
  const stale = { headers: { "x-claw-agent-access": old } };
  await eventually(async () => (await agent.message(peer, {}, stale)).status === 401, { what: "the refusal" });
});

test("issued, refresh_rejected and unknown types change nothing, poison hurts nothing, the next event holds", async () => {
  const own = await start({ consumer: { maxRetries: 1, retryDelay: 0 } });
  try {
    const agent = await own.agent();
    admitted(await probe(agent));
    for (const type of ["agent.auth.issued", "agent.auth.refresh_rejected", "something.new", "x".repeat(5000)]) {
      await own.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }, { type }));
    }
    for (const text of ["", "no json", "null", "[]", "7", "true", '"text"', "{}", '{"type":null}', '{"type":7}', '{"data":{}}', "{".repeat(50_000)]) {
      await own.enqueue(text);
    }
    for (const body of [null, [1], 7, { type: "agent.auth.revoked" }]) await own.enqueue(body, { contentType: "json" });
    await own.enqueue(new Uint8Array([1, 2, 3]), { contentType: "bytes" });
    const last = await own.agent();
    await own.enqueue(event({ agentId: last.id, reason: "agent_revoked" }));
    await untilRevoked(last);
    admitted(await probe(agent));
    assert.deepEqual(await own.deadLetters(), []);
    assert.ok(own.logged("proxy.queue.message_ignored").length > 0);
    assert.ok(own.logged("proxy.queue.message_failed").length > 0);
  } finally {
    await own.stop();
  }
});

test("a revocation that cannot be read is dead-lettered with an error line, and hurts nobody", async () => {
  const own = await start({ consumer: { maxRetries: 1, retryDelay: 0 } });
  try {
    const [agent, other] = await own.agents(2);
    const unreadable = {
      "nobody named": {},
      "no data": undefined,
      "data that is text": "x",
      "a lower-case agentId": { agentId: agent.id.toLowerCase(), reason: "agent_revoked" },
      "agentId and agentDid of two agents": { agentId: agent.id, reason: "agent_revoked", metadata: { agentDid: other.agentDid } },
      "another authority": { agentDid: agent.agentDid.replace(AUTHORITY, "evil.test"), reason: "agent_revoked" },
      "a human": { agentDid: agent.ownerDid, reason: "agent_revoked" },
    };
    const events = Object.values(unreadable).map((data) => event(data));
    for (const each of events) await own.enqueue(each);
    const letters = await eventually(async () => {
      const there = await own.deadLetters();
      return there.length >= events.length && there;
    }, { deadlineMs: 15_000, what: "dead letters" });
    assert.deepEqual(letters.map((letter) => JSON.parse(letter.body).id).sort(), events.map(({ id }) => id).sort());
    for (const letter of letters) assert.equal(letter.queue, "clawdentity-events-dlq-local");
    assert.ok(own.logs.some((line) => line.level === "error" && line.message === "proxy.queue.message_failed"));
    for (const each of [agent, other]) admitted(await probe(each));
  } finally {
    await own.stop();
  }
});

test("the same event again, and any order, give the same state; it outlives a restart and a kill", async () => {
  const own = await start();
  try {
    const [agent, other] = await own.agents(2);
    const revoke = event({ agentId: agent.id, reason: "agent_revoked" });
    for (const each of [revoke, event({ agentId: agent.id }, { type: "agent.auth.refreshed" }), revoke, revoke]) {
      await own.enqueue(each);
    }
    await untilRevoked(agent);
    for (const again of [() => own.restart(), () => own.killAndRestart()]) {
      await again();
      own.adopt(agent, other);
      await revokedEverywhere(agent);
      admitted(await probe(other));
    }
  } finally {
    await own.stop();
  }
});

test("without an event the CRL brings it: a reissue revokes the old token alone", async () => {
  const own = await start();
  try {
    const agent = await own.agent();
    const old = { ait: agent.ait };
    await agent.atRegistry("reissue");
    refused(await probe(agent, old), 401, "PROXY_AUTH_REVOKED");
    admitted(await probe(agent));
  } finally {
    await own.stop();
  }
});

test("a revoked agent is refused by every route, and revoked wins over replay", async () => {
  const [agent, peer] = await world.agents(2);
  await pair(agent, peer);
  const once = { timestamp: nowSeconds(), nonce: newNonce() };
  admitted(await probe(agent, once));
  await agent.atRegistry("revoke", { crl: false });
  await untilRevoked(agent);
  refused(await probe(agent, once), 401, "PROXY_AUTH_REVOKED");
  for (const [method, path] of [
    ["POST", "/hooks/message"], ["POST", "/hooks/agent"], ["GET", "/v1/relay/connect"], ["GET", "/relay/connect"],
    ["POST", "/v1/relay/delivery-receipts"], ["GET", "/v1/relay/delivery-receipts"], ["POST", "/pair/start"],
    ["POST", "/pair/confirm"], ["POST", "/pair/status"], ["POST", "/pair/remove"],
  ]) {
    refused(await agent.call(method, path, method === "POST" ? { body: {} } : {}), 401, "PROXY_AUTH_REVOKED");
  }
});

test("from the event to the refusal and to the socket's close, beside a connector that acknowledges nothing", async (t) => {
  const [deaf, sender] = await world.agents(2);
  await pair(deaf, sender);
  const silent = await deaf.connect();
  const hanging = sender.message(deaf, { never: "acknowledged" });
  await silent.next("deliver");

  const took = { "first 401": [], "close of its socket": [] };
  for (let run = 0; run < 100; run++) {
    const agent = await world.agent();
    const socket = await agent.connect();
    const started = performance.now();
    const closed = socket.closed.then(({ code }) => [code, performance.now() - started]);
    await world.enqueue(event({ agentId: agent.id, sessionId: ulid(), reason: "agent_revoked" }));
    while (!isRevoked(await probe(agent)));
    took["first 401"].push(performance.now() - started);
    const [code, closedMs] = await closed;
    assert.equal(code, 1008);
    took["close of its socket"].push(closedMs);
  }
  for (const [what, times] of Object.entries(took)) {
    const [p50, worst] = [percentile(times, 0.5), Math.max(...times)].map(Math.round);
    t.diagnostic(`event to ${what}: p50 ${p50} ms, worst ${worst} ms, of ${times.length}`);
    assert.ok(worst < 1000, `${what}: worst ${worst} ms`);
  }
  await silent.terminate();
  accepted(await hanging);
});

test("a hundred revocations at once, among other traffic on the queue, all hold within a second each", async () => {
  const agents = await Promise.all(Array.from({ length: 100 }, () => world.agent()));
  await Promise.all(agents.map((agent) => world.enqueue(event({ agentId: agent.id, reason: "agent_revoked" }))));
  for (const agent of agents) await untilRevoked(agent);
});

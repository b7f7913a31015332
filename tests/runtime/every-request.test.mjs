// What holds for every request: health, time, request ids, the form of errors, 404, 405, 413, the per-address limit,
// and faults in the settings. docs/wire.md §5, §8, §9.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createConnection } from "node:net";
import { after, before, test } from "node:test";

import { ULID, accepted, admitted, answered, probe, refused } from "../support/expect.mjs";
import { eventually, inWorld, start } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

const ROUTES = JSON.parse(readFileSync(new URL("../support/routes.json", import.meta.url), "utf8"));
const TOKEN = "an-operators-token-for-tests-00000000";

const MIB = 1 << 20;
const KIB_16 = 16 << 10;

let world;
before(async () => {
  world = await start();
});
after(() => world?.stop());

test("GET /health says what it is and whether it is ready", async () => {
  const body = answered(await world.send("GET", "/health"), 200);
  assert.equal(body.status, "ok");
  assert.equal(body.ready, true);
  assert.equal(body.environment, "local");
  assert.match(body.version, /^\d+\.\d+\.\d+/);
  for (const name of [
    "registryUrlConfigured", "internalServiceCredentialsConfigured", "relaySessionNamespaceConfigured",
    "trustStateBindingConfigured",
  ]) {
    assert.equal(body.readiness[name], true, name);
  }
  assert.equal(typeof body.readiness.versionSource, "string");
});

test("GET /health without a binding, and APP_VERSION", () =>
  inWorld({ without: ["AGENT_RELAY_SESSION"], bindings: { APP_VERSION: "9.8.7" } }, async (own) => {
    const body = answered(await own.send("GET", "/health"), 200);
    assert.equal(body.ready, false);
    assert.equal(body.readiness.relaySessionNamespaceConfigured, false);
    assert.deepEqual(body.readiness.problems.map(({ what }) => what), ["binding_missing"]);
    assert.equal(body.version, "9.8.7");
    const agent = await own.agent();
    const refusedUpgrade = await agent.connect().catch((error) => error);
    assert.deepEqual([refusedUpgrade.status, refusedUpgrade.json?.error.code], [503, "PROXY_RELAY_UNAVAILABLE"]);
  }));

test("GET /v1/time", async () => {
  const answer = await world.send("GET", "/v1/time");
  const body = answered(answer, 200);
  assert.deepEqual(Object.keys(body).sort(), ["maxSkewSeconds", "now", "unixSeconds"]);
  assert.equal(body.maxSkewSeconds, 300);
  assert.ok(Math.abs(body.unixSeconds - Date.now() / 1000) < 5);
  assert.match(body.now, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/);
  assert.equal(answer.headers.get("cache-control"), "no-store");
});

test("x-request-id: the caller's where it is one, else a new ULID", async () => {
  for (const given of ["abcdefgh", "A.b_c:d-1", "x".repeat(128)]) {
    const answer = await world.send("GET", "/health", { headers: { "x-request-id": given } });
    assert.equal(answer.headers.get("x-request-id"), given);
  }
  for (const given of [undefined, "short12", "x".repeat(129), "has space", "sla/sh123", "ünïcödé1"]) {
    const headers = given === undefined ? {} : { "x-request-id": encodeLatin1(given) };
    const answer = await world.send("GET", "/health", { headers });
    assert.match(answer.headers.get("x-request-id"), ULID);
  }
  const error = refused(await world.send("GET", "/none", { headers: { "x-request-id": "my-request-1" } }), 404, "PROXY_NOT_FOUND");
  assert.equal(error.requestId, "my-request-1");
});

const encodeLatin1 = (text) => Buffer.from(text, "utf8").toString("latin1");

test("an unknown route is 404 and a wrong method 405, both before authentication", async () => {
  for (const path of ["/", "/none", "/hooks", "/hooks/message/", "/v1/relay", "/pair", "/HEALTH"]) {
    refused(await world.send("GET", path), 404, "PROXY_NOT_FOUND");
  }
  for (const [method, path, allow] of [
    ["POST", "/health", ["GET"]],
    ["HEAD", "/hooks/message", ["POST"]],
    ["DELETE", "/v1/time", ["GET"]],
    ["GET", "/hooks/message", ["POST"]],
    ["GET", "/hooks/agent", ["POST"]],
    ["POST", "/v1/relay/connect", ["GET"]],
    ["POST", "/relay/connect", ["GET"]],
    ["PUT", "/v1/relay/delivery-receipts", ["GET", "POST"]],
    ["GET", "/pair/start", ["POST"]],
    ["GET", "/pair/confirm", ["POST"]],
    ["PATCH", "/pair/status", ["POST"]],
  ]) {
    const answer = await world.send(method, path);
    if (method === "HEAD") assert.deepEqual([answer.status, answer.text], [405, ""]);
    else refused(answer, 405, "PROXY_METHOD_NOT_ALLOWED");
    const allowed = answer.headers.get("allow").split(/, */);
    assert.deepEqual(allowed.sort(), [...allow, ...(allow.includes("GET") ? ["HEAD"] : [])].sort(), path);
  }
});

test("what answers GET answers HEAD: the same status and headers, no body, and nothing is opened", () =>
  inWorld({ hooks: true, bindings: { ADMIN_TOKEN: TOKEN, FEED_TOKEN: TOKEN } }, async (own) => {
    const [one, two] = await own.couple();
    const socket = await one.connect(ackAll);
    const query = `?requestId=${ulid()}&recipientAgentDid=${encodeURIComponent(two.agentDid)}`;
    const bearer = { headers: { authorization: `Bearer ${TOKEN}` } };
    for (const { path, access } of ROUTES.filter(({ method }) => method === "GET")) {
      const target = path.replace("{id}", "1") + (path.endsWith("receipts") ? query : "");
      const ask = (method) => access === "claw" ? one.call(method, target) : own.send(method, target, bearer);
      const connect = path.endsWith("/connect");
      const head = await ask("HEAD");
      assert.equal(head.text, "", path);
      assert.match(head.headers.get("x-request-id"), ULID);
      if (path === "/v1/events/revocations") {
        assert.deepEqual([head.status, head.headers.get("content-type")], [200, "text/event-stream"]);
        continue;
      }
      const get = await ask("GET");
      assert.equal(head.status, connect ? 426 : get.status, path);
      if (!connect) assert.equal(head.headers.get("content-type"), get.headers.get("content-type"), path);
    }
    assert.equal((await own.send("HEAD", "/v1/relay/connect")).status, 401);
    const signed = one.headers("HEAD", "/v1/relay/connect");
    const asked = await rawly(own, "HEAD", "/v1/relay/connect", { ...signed, upgrade: "websocket", connection: "upgrade" });
    assert.match(asked, /^HTTP\/1\.1 426 /);
    accepted(await two.message(one, {}));
    assert.equal((await socket.next((frame) => frame.type === "deliver")).fromAgentDid, two.agentDid, "the socket that was open is open");
  }));

test("a Host that cannot be read is 400", async () => {
  for (const [host, status] of [
    ["proxy.test", 200], ["proxy.test:80", 200], ["a:99999", 400], ["a:b", 400], ["[::1", 400],
  ]) {
    const answer = await rawly(world, "GET", "/health", { host });
    assert.equal(Number(answer.match(/^HTTP\/1\.1 (\d{3})/)?.[1]), status, `${host}: ${answer}`);
    if (answer.includes("PROXY_")) assert.match(answer, /"code":"PROXY_REQUEST_INVALID"/);
  }
});

function isWhole(method, text) {
  const [head, body] = text.split(/\r\n\r\n(.*)/s);
  if (body === undefined) return false;
  const length = Number(/^content-length: (\d+)/im.exec(head)?.[1]);
  return method === "HEAD" || body.length >= length;
}

/** What comes back for headers that no client library would send. */
function rawly({ proxyUrl }, method, path, headers) {
  const { hostname, port } = new URL(proxyUrl);
  const lines = Object.entries({ host: hostname, connection: "close", ...headers }).map(([name, value]) => `${name}: ${value}`);
  return new Promise((resolve, reject) => {
    const socket = createConnection({ host: hostname, port: Number(port) }, () => {
      socket.write([`${method} ${path} HTTP/1.1`, ...lines, "", ""].join("\r\n"));
    });
    let text = "";
    // The runtime keeps the connection for a while, whatever it was asked.
    socket.on("data", (data) => {
      text += data;
      if (isWhole(method, text)) socket.end();
    });
    socket.on("error", reject);
    socket.on("close", () => resolve(text));
  });
}

test("a body over its limit is 413 before authentication, one at the limit is not", async () => {
  for (const [path, limit] of [
    ["/hooks/message", MIB], ["/hooks/agent", MIB], ["/pair/start", KIB_16], ["/pair/confirm", KIB_16],
    ["/pair/status", KIB_16], ["/v1/relay/delivery-receipts", KIB_16],
  ]) {
    const over = await world.send("POST", path, { body: "x".repeat(limit + 1) });
    refused(over, 413, "PROXY_BODY_TOO_LARGE");
    const at = await world.send("POST", path, { body: "x".repeat(limit) });
    refused(at, 401, "PROXY_AUTH_MISSING_TOKEN");
  }
  const agent = await world.agent();
  const undeclared = (bytes, headers) => fetch(new URL("/pair/start", world.proxyUrl), {
    method: "POST", duplex: "half", body: new Blob([bytes]).stream(), headers, // no Content-Length
  });
  const bytes = "y".repeat(KIB_16 + 1);
  assert.equal((await undeclared(bytes, agent.headers("POST", "/pair/start", bytes))).status, 413);
  assert.equal((await undeclared(bytes, {})).status, 401, "a stranger's is not read to its end");
});

test("the per-IP limit: per path and address on the hook and connect routes, before authentication", () =>
  inWorld({ bindings: { PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE: "3" } }, async (own) => {
    const from = (address, method, path) =>
      own.send(method, path, { headers: address === undefined ? {} : { "cf-connecting-ip": address } });
    for (const [method, path] of [["POST", "/hooks/message"], ["GET", "/v1/relay/connect"]]) {
      for (const address of ["192.0.2.1", undefined]) {
        for (let i = 0; i < 3; i++) refused(await from(address, method, path), 401, "PROXY_AUTH_MISSING_TOKEN");
        refused(await from(address, method, path), 429, "PROXY_PUBLIC_RATE_LIMIT_EXCEEDED");
      }
      refused(await from("192.0.2.2", method, path), 401, "PROXY_AUTH_MISSING_TOKEN");
      for (let i = 0; i < 3; i++) refused(await from(`2001:db8:1:2::${i}`, method, path), 401, "PROXY_AUTH_MISSING_TOKEN");
      refused(await from("2001:db8:1:2:ffff::1", method, path), 429, "PROXY_PUBLIC_RATE_LIMIT_EXCEEDED");
      refused(await from("2001:db8:1:3::1", method, path), 401, "PROXY_AUTH_MISSING_TOKEN");
      refused(await from("::ffff:192.0.2.1", method, path), 429, "PROXY_PUBLIC_RATE_LIMIT_EXCEEDED");
    }
    for (let i = 0; i < 5; i++) refused(await from("192.0.2.1", "POST", "/pair/start"), 401, "PROXY_AUTH_MISSING_TOKEN");
  }));

test("a fault in the settings answers every request, names every fault, and repeats no secret", () =>
  inWorld({
    bindings: {
      ENVIRONMENT: "moon", RELAY_RETRY_INITIAL_MS: "soon", ALLOW_ALL_VERIFIED: "true",
      REGISTRY_INTERNAL_SERVICE_SECRET: undefined,
    },
  }, async (own) => {
    for (const [method, path] of [["GET", "/health"], ["POST", "/hooks/message"], ["GET", "/v1/time"]]) {
      const error = refused(await own.send(method, path), 500, "CONFIG_VALIDATION_FAILED");
      for (const name of [
        "ENVIRONMENT", "RELAY_RETRY_INITIAL_MS", "ALLOW_ALL_VERIFIED", "REGISTRY_INTERNAL_SERVICE_SECRET",
      ]) {
        assert.ok(name in error.details.fieldErrors, name);
      }
      assert.ok(!JSON.stringify(error).includes("clawdentity-proxy-local"));
    }
  }));

test("settings that come as JSON count like those that come as text", () =>
  inWorld({ bindings: { ALLOW_ALL_VERIFIED: true, RELAY_RETRY_MAX_ATTEMPTS: 0, RELAY_QUEUE_TTL_SECONDS: 60, CRL_STALE_BEHAVIOR: {} } },
    async (own) => {
      const { details } = refused(await own.send("GET", "/health"), 500, "CONFIG_VALIDATION_FAILED");
      assert.deepEqual(Object.keys(details.fieldErrors).sort(), ["ALLOW_ALL_VERIFIED", "CRL_STALE_BEHAVIOR", "RELAY_RETRY_MAX_ATTEMPTS"]);
    }));

test("each request leaves one request.completed line, without its query's values or headers", async () => {
  const id = "completed-line-1";
  await world.send("GET", "/v1/time?secret=hush-hush", { headers: { "x-request-id": id, authorization: "Claw hush-hush" } });
  const find = () => world.logged("request.completed").find((entry) => JSON.stringify(entry).includes(id));
  const line = await eventually(find, { what: "the line" });
  for (const key of ["timestamp", "level", "message", "service"]) assert.equal(typeof line[key], "string", key);
  assert.ok(!JSON.stringify(world.logs).includes("hush-hush"));
});

test("a refusal is a warning that names the agent and the address, and is logged whatever part of the successes is", async () => {
  const own = await start({ bindings: { LOG_SUCCESS_SAMPLE_RATE: "0", AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE: "3" } });
  try {
    const agent = await own.agent();
    const headers = { "cf-connecting-ip": "203.0.113.7" };
    admitted(await probe(agent, { headers }));
    const again = { headers, nonce: "the-same-nonce-twice" };
    await probe(agent, again);
    assert.equal((await probe(agent, again)).json.error.code, "PROXY_AUTH_REPLAY");
    await probe(agent, { headers });
    assert.equal((await probe(agent, { headers })).status, 429);
    const named = ({ level, service, agentDid, address }) => [level, service, agentDid, address];
    const warned = ["warn", "proxy", agent.agentDid, "203.0.113.7"];
    await eventually(() => own.logged("proxy.rate_limit.exceeded").length > 0, { what: "the line" });
    assert.deepEqual(own.logged("proxy.auth.refused").map(named), [warned]);
    assert.deepEqual(own.logged("proxy.rate_limit.exceeded").map(named), [warned]);
    assert.deepEqual(own.logged("proxy.auth.verified"), []);
    answered(await own.send("GET", "/v1/time"), 200);
    assert.ok(own.logged("request.completed").every((line) => line.level === "warn" && line.status >= 400));
  } finally {
    await own.stop();
  }
});

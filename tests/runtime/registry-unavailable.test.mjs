// What a caller is told when the registry cannot be asked, and that the failure does not outlast the outage.
// docs/wire.md §8; how long an answer is kept is in docs/design.md §4.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, admitted, probe, refused } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";

const UNAVAILABLE = [503, "PROXY_AUTH_DEPENDENCY_UNAVAILABLE"];
const FAULTS = ["down", "500", "429", "garbage", "wrong-key"];

test("no signing keys: 503; they are asked for again once they are there", () =>
  inWorld({}, async (world) => {
    const agent = await world.agent();
    for (const mode of ["down", "500"]) {
      await world.fault("keys", mode);
      refused(await probe(agent), ...UNAVAILABLE);
    }
    await world.fault("keys", "none");
    admitted(await probe(agent));
  }));

test("keys that verify nothing: 401", () =>
  inWorld({}, async (world) => {
    const agent = await world.agent();
    await world.fault("keys", "wrong-key");
    refused(await probe(agent), 401, "PROXY_AUTH_INVALID_AIT");
  }));

test("a new signing key is found; made-up kids do not become requests", () =>
  inWorld({}, async (world) => {
    const before = await world.agent();
    admitted(await probe(before));
    await world.registry("/dev/keys/rotate");
    admitted(await probe(await world.agent()));
    admitted(await probe(before));
    await world.counters(true);
    for (let i = 0; i < 10; i++) {
      const { token } = await world.registry("/dev/sign", { header: { kid: `made-up-${i}` }, payload: {} });
      refused(await probe(before, { ait: token }), 401, "PROXY_AUTH_INVALID_AIT");
    }
    assert.ok((await world.counters()).keys <= 1);
  }));

for (const mode of FAULTS) {
  test(`no CRL (${mode}): fail-open goes on, fail-closed is 503`, async () => {
    await inWorld({}, async (world) => {
      await world.fault("crl", mode);
      const agent = await world.agent();
      await agent.atRegistry("reissue"); // so that there is a list to be signed wrongly
      admitted(await probe(agent));
    });
    await inWorld({ bindings: { CRL_STALE_BEHAVIOR: "fail-closed" } }, async (world) => {
      await world.fault("crl", mode);
      const agent = await world.agent();
      await agent.atRegistry("reissue");
      refused(await probe(agent), ...UNAVAILABLE);
    });
  });
}

test("an empty CRL is an answer, and is kept", () =>
  inWorld({ bindings: { CRL_STALE_BEHAVIOR: "fail-closed" } }, async (world) => {
    const agent = await world.agent();
    for (let i = 0; i < 3; i++) admitted(await probe(agent));
    assert.equal((await world.counters()).crl, 1);
  }));

test("access cannot be validated: 503, and not for one who was validated just now", () =>
  inWorld({}, async (world) => {
    const [warm, cold] = await world.agents(2);
    await pair(warm, cold);
    accepted(await warm.message(cold, {}));
    for (const mode of ["down", "500", "429"]) {
      await world.fault("validate", mode);
      refused(await cold.message(warm, {}), ...UNAVAILABLE);
      accepted(await warm.message(cold, {}));
    }
  }));

test("an older registry's path for the validation", () =>
  inWorld({ bindings: { REGISTRY_VALIDATE_PATH: "/v1/auth/agent/validate" } }, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    accepted(await one.message(two, {}));
  }));

test("a slow registry costs 5 s in all, whatever must be asked", () =>
  inWorld({}, async (world) => {
    const [one, two] = await world.agents(2);
    await pair(one, two);
    await world.restart();
    world.adopt(one, two);
    await world.fault("all", "slow", { ms: 15_000 });
    const started = performance.now();
    refused(await one.message(two, {}), ...UNAVAILABLE);
    const took = performance.now() - started;
    assert.ok(took < 6000, `${Math.round(took)} ms`);
    await world.fault("all", "slow-body", { ms: 15_000 });
    const again = performance.now();
    assert.equal((await two.message(one, {})).status, 503);
    assert.ok(performance.now() - again < 6000);
  }));

test("groups: membership decides, and stands in for being known", () =>
  inWorld({}, async (world) => {
    const [one, two, outsider] = await world.agents(3);
    const { groupId } = await world.registry("/dev/groups", { members: [one.agentDid, two.agentDid] });
    const grouped = (from, to, id = groupId) => from.message(to, {}, { headers: { "x-claw-group-id": id } });
    accepted(await grouped(one, two), { state: "queued" });
    refused(await grouped(outsider, two), 403, "PROXY_AUTH_FORBIDDEN");
    refused(await grouped(one, outsider), 403, "PROXY_AUTH_FORBIDDEN");
    const { groupId: other } = await world.registry("/dev/groups", { members: [one.agentDid, two.agentDid] });
    for (const mode of ["500", "down"]) {
      await world.fault("membership", mode);
      refused(await grouped(one, two, other), 503, "PROXY_GROUP_MEMBERSHIP_UNAVAILABLE");
    }
    accepted(await grouped(one, two));
  }));

test("a registry that fails is left alone: five failures, and no sixth call", () =>
  inWorld({}, async (world) => {
    const agents = await world.agents(12);
    for (let i = 0; i < agents.length; i += 2) await pair(agents[i], agents[i + 1]);
    await world.fault("validate", "500");
    await world.counters(true);
    for (const agent of agents) refused(await agent.message(agent, {}), ...UNAVAILABLE);
    assert.equal((await world.counters()).validate, 5);
    assert.ok(world.logged("proxy.registry.circuit").length > 0);
  }));

// What a stranger makes up costs nobody else anything: docs/design.md §1 and §3. An agent with a good identity names groups,
// tokens and an owner that the registry does not confirm, and the registry has had enough of it: it answers 429 to whatever
// it would not say yes to. Beside it an honest caller, of whom nothing is cached for longer than a moment, notices nothing.
import assert from "node:assert/strict";
import { test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, refused, statuses } from "../support/expect.mjs";
import { eightAtATime, eventually, inWorld } from "../support/harness.mjs";
import { ackAll, ulid } from "../support/socket.mjs";

// Every question of the honest caller is asked anew.
const NOTHING_LASTS = {
  GROUP_MEMBERSHIP_FRESH_MS: "1", GROUP_MEMBERSHIP_STALE_MS: "1", AGENT_ACCESS_FRESH_MS: "1", AGENT_ACCESS_STALE_MS: "1",
};
const PROFILE = { agentName: "a", humanName: "b" };

const group = async (world, ...members) =>
  (await world.registry("/dev/groups", { members: members.map(({ agentDid }) => agentDid) })).groupId;
const inGroup = (groupId) => ({ headers: { "x-claw-group-id": groupId } });
const madeUpGroup = () => `grp_${ulid()}`;
const opened = (world) => world.logged("proxy.registry.circuit").filter(({ to }) => to === "open").map(({ lane }) => lane);

test("120 frames to made-up groups are ten questions, and honest group mail goes on by hook and by frame", () =>
  inWorld({ hooks: true, bindings: NOTHING_LASTS }, async (world) => {
    const [alice, bob, stranger] = await world.agents(3);
    const groupId = await group(world, alice, bob);
    const [aliceSocket, , strangerSocket] = [await alice.connect(), await bob.connect(ackAll), await stranger.connect()];
    accepted(await alice.message(bob, {}, inGroup(groupId)));
    await eventually(async () => (await world.counts()).trust.answered >= 2, { what: "the yes is kept" });

    await world.fault("membership", "429-unless-yes");
    await world.counters(true);
    const frames = Array.from({ length: 120 }, () =>
      strangerSocket.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: {}, groupId: madeUpGroup() }));
    let honest = 0;
    for (; honest < 10; honest++) {
      accepted(await alice.message(bob, { honest }, inGroup(groupId)));
      const frame = aliceSocket.send({ type: "enqueue", toAgentDid: bob.agentDid, payload: {}, groupId });
      const { accepted: taken, reason } = await aliceSocket.next(({ ackId }) => ackId === frame.id);
      assert.equal(taken, true, reason);
    }
    for (const { id } of frames) {
      assert.equal((await strangerSocket.next(({ ackId }) => ackId === id)).accepted, false);
    }
    const made = (await world.counters()).membership - honest * 4;
    assert.ok(made <= 10, `${made} questions about made-up groups`);
    assert.deepEqual(opened(world), []);

    // By hook as well, and with members that are not in the group.
    await world.counters(true);
    const byHook = await eightAtATime(60, () => stranger.message(bob, {}, inGroup(madeUpGroup())));
    assert.ok(byHook.every(({ status }) => [403, 429, 503].includes(status)), JSON.stringify(statuses(byHook)));
    assert.ok((await world.counters()).membership <= 10);
    accepted(await alice.message(bob, {}, inGroup(groupId)));
  }));

test("a member may name a hundred who are not in the group; nobody else's circuit opens", () =>
  inWorld({ hooks: true, bindings: NOTHING_LASTS }, async (world) => {
    const [alice, bob, insider, ...others] = await world.agents(60);
    const groupId = await group(world, alice, bob, insider);
    const large = await group(world, alice, ...others);
    for (const agent of [alice, insider]) accepted(await agent.message(bob, {}, inGroup(groupId)));
    await world.counters(true);
    const named = await eightAtATime(100, () =>
      insider.message(`did:cdi:registry.test:agent:${ulid()}`, {}, inGroup(groupId)));
    assert.ok(named.every(({ status }) => status === 403 || status === 429 || status === 503), JSON.stringify(statuses(named)));
    const { membership } = await world.counters();
    assert.ok(membership <= 100 + 60, `${membership} questions, 100 of them about the insider itself`);
    accepted(await alice.message(bob, {}, inGroup(groupId)));
    // A yes costs nothing: all of a large group at once.
    const all = await Promise.all(others.map((other) => alice.message(other, {}, inGroup(large))));
    assert.deepEqual(statuses(all), { 202: others.length });
  }));

test("20 times /pair/start for an owner that is not one are five questions, and honest pairing goes on", () =>
  inWorld({ hooks: true }, async (world) => {
    const [stranger, alice, bob, carol] = await world.agents(4);
    const claims = JSON.parse(Buffer.from(stranger.ait.split(".")[1], "base64url"));
    const { token } = await world.registry("/dev/sign", { payload: { ...claims, ownerDid: alice.ownerDid } });
    for (const mode of ["none", "429-unless-yes"]) {
      await world.fault("ownership", mode);
      await world.counters(true);
      const started = await eightAtATime(20, () => stranger.post("/pair/start", { initiatorProfile: PROFILE }, { ait: token }));
      assert.ok(started.every(({ status }) => [403, 429, 503].includes(status)), JSON.stringify(statuses(started)));
      const { ownership } = await world.counters();
      assert.ok(ownership <= 5, `${ownership} questions`);
      await pair(alice, mode === "none" ? bob : carol);
    }
    assert.deepEqual(opened(world), []);
  }));

test("26 new agents with five made-up tokens each: bounded, and nobody who is known here notices", () =>
  inWorld({ hooks: true, bindings: NOTHING_LASTS }, async (world) => {
    const [alice, bob] = await world.agents(2);
    await pair(alice, bob);
    accepted(await alice.message(bob, {}));
    const strangers = await world.agents(26);
    const madeUp = async (at) => {
      const agent = strangers[at % 26];
      return agent.message(agent, {}, { headers: { "x-claw-agent-access": `made-up-${at}` } });
    };
    const path = `/v1/relay/delivery-receipts?requestId=${ulid()}&recipientAgentDid=${encodeURIComponent(alice.agentDid)}`;
    const asked = async () => {
      await world.counters(true);
      const answers = await eightAtATime(130, async (at) => {
        const agent = strangers[at % 26];
        return agent.get(path, { headers: { "x-claw-agent-access": `made-up-${at}` } });
      });
      assert.ok(answers.every(({ status }) => status === 401 || status === 503), JSON.stringify(statuses(answers)));
      return (await world.counters()).validate;
    };
    refused(await madeUp(0), 403, "PROXY_AUTH_FORBIDDEN"); // not known here: not even asked about
    const plain = await asked();
    assert.ok(plain <= 30, `${plain} questions about made-up tokens`);
    await bob.atRegistry("refresh");
    for (const agent of [alice, bob]) accepted(await agent.message(agent === alice ? bob : alice, {}));

    await world.moveClock(61_000);
    await world.fault("validate", "429-unless-yes");
    const angry = await asked();
    assert.ok(angry <= 30, `${angry} questions about made-up tokens`);
    accepted(await alice.message(bob, {}));
    // The event of a refresh voids what is cached; the new token was never confirmed.
    await bob.atRegistry("refresh");
    accepted(await bob.message(alice, {}));
    assert.ok(!opened(world).includes("confirmed") && !opened(world).includes("known"), JSON.stringify(opened(world)));
  }));

test("a question about a stranger's receipts is refused by the caller's own object, and makes no other", () =>
  inWorld({ hooks: true }, async (world) => {
    const [alice, bob, carol, dave] = await world.agents(4);
    await pair(alice, bob);
    const groupId = await group(world, alice, carol);
    const sent = [
      [bob, accepted(await alice.message(bob, {}, { headers: { "x-request-id": "to-a-peer-1" } }))],
      [carol, accepted(await alice.message(carol, {}, { headers: { "x-request-id": "to-a-member-1", "x-claw-group-id": groupId } }))],
    ].map(([to]) => to);
    await eventually(async () => (await world.counts()).trust.answered >= 2, { what: "the yes is kept" });
    const ask = (method, requestId, of) =>
      alice.call(method, `/v1/relay/delivery-receipts?requestId=${requestId}&recipientAgentDid=${encodeURIComponent(of)}`);
    const made = world.objectsMade("AgentRelaySession");
    assert.ok(made >= sent.length);
    for (let i = 0; i < 20; i++) {
      refused(await ask("GET", ulid(), `did:cdi:registry.test:agent:${ulid()}`), 403, "PROXY_AUTH_FORBIDDEN");
      assert.equal((await ask("HEAD", ulid(), `did:cdi:registry.test:agent:${ulid()}`)).status, 403);
    }
    refused(await ask("GET", "to-a-member-1", dave.agentDid), 403, "PROXY_AUTH_FORBIDDEN");
    assert.equal(world.objectsMade("AgentRelaySession"), made);

    for (const [requestId, of] of [["to-a-peer-1", bob], ["to-a-member-1", carol]]) {
      assert.equal((await ask("GET", requestId, of.agentDid)).json.receipt.state, "queued", requestId);
    }
    // Who was written to by a pair that has ended is no stranger.
    assert.equal((await bob.post("/pair/remove", { peerAgentDid: alice.agentDid })).json.removed, true);
    await eventually(async () => (await alice.message(bob, {})).status === 403, { what: "the end of the pair" });
    assert.equal((await ask("GET", "to-a-peer-1", bob.agentDid)).status, 200);
    refused(await ask("GET", "never-sent-1", bob.agentDid), 403, "PROXY_AUTH_FORBIDDEN");
  }));

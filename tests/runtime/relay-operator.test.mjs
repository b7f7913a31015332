// What an operator sees of one agent's session, and what a session costs that only waits.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { pair } from "../support/agent.mjs";
import { accepted, answered, refused } from "../support/expect.mjs";
import { eightAtATime, eventually, inWorld, start } from "../support/harness.mjs";
import { ADMIN } from "../support/revocation.mjs";
import { ackAll } from "../support/socket.mjs";

const OFFLINE = 200;
const WATCHED_MS = 2500; // longer than the first pauses before a retry

let world;
before(async () => {
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN } });
});
after(() => world?.stop());

const statusOf = (agentDid) =>
  world.send("GET", `/admin/v1/status?agentDid=${encodeURIComponent(agentDid)}`, { headers: { authorization: `Bearer ${ADMIN}` } });
const agentOf = async ({ agentDid }) => answered(await statusOf(agentDid), 200).agent;

test("an agent's queue, its oldest message, its socket, its revocation, its clock", async () => {
  const [alice, bob] = await world.agents(2);
  const nothing = { queueDepth: 0, inFlight: 0, queuedBytes: 0, oldestAgeMs: null, connectedSockets: 0, revoked: false, storedBytes: 0 };
  assert.deepEqual(await agentOf(bob), { agentDid: bob.agentDid, revoked: null, worstClockSkew: null, relay: nothing });

  await pair(alice, bob);
  const ahead = { timestamp: Math.floor(Date.now() / 1000) + 250 };
  for (const over of [{}, ahead]) accepted(await alice.message(bob, { n: 1 }, over), { state: "queued" });
  const { relay } = await agentOf(bob);
  assert.deepEqual({ ...relay, oldestAgeMs: 0, storedBytes: 0 }, { ...nothing, queueDepth: 2, queuedBytes: 14, oldestAgeMs: 0 });
  assert.ok(relay.oldestAgeMs >= 0 && relay.storedBytes > 0);
  const { worstClockSkew } = await agentOf(alice);
  assert.ok(worstClockSkew.seconds < -200 && Date.parse(worstClockSkew.at) <= Date.now(), JSON.stringify(worstClockSkew));

  const socket = await bob.connect(ackAll);
  await eventually(async () => (await agentOf(bob)).relay.queueDepth === 0);
  assert.equal((await agentOf(bob)).relay.connectedSockets, 1);
  await bob.atRegistry("revoke");
  await socket.closed;
  await eventually(async () => (await agentOf(bob)).relay.revoked);
  const revoked = await agentOf(bob);
  assert.deepEqual([revoked.revoked, revoked.relay.connectedSockets], ["agent", 0]);
  for (const bad of ["did:cdi:nobody", bob.agentDid.replace("registry.test", "other.test")]) {
    refused(await statusOf(bad), 400, "PROXY_ADMIN_INVALID_INPUT");
  }
});

test("sessions of agents that are not connected do nothing while nothing is due", () =>
  // A world of its own, in which nothing from before is still due.
  inWorld({ hooks: true }, async (world) => {
  const agents = await world.agents(OFFLINE + 1);
  const [sender, ...offline] = agents;
  const { groupId } = await world.registry("/dev/groups", { members: agents.map(({ agentDid }) => agentDid) });
  const answers = await eightAtATime(OFFLINE, (at) => sender.message(offline[at], {}, { headers: { "x-claw-group-id": groupId } }));
  for (const answer of answers) accepted(answer, { state: "queued", queueDepth: 1 });
  await world.counts(true);
  await new Promise((resolve) => setTimeout(resolve, WATCHED_MS));
  const { alarms, trust } = await world.counts();
  assert.deepEqual({ alarms, trust }, { alarms: 0, trust: {} });
  }));

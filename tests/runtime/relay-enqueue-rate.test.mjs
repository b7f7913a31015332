// How many enqueue frames an agent may send a minute. docs/wire.md §8.
import assert from "node:assert/strict";
import { test } from "node:test";

import { RustConnector } from "../support/connectors.mjs";
import { eventually, inWorld } from "../support/harness.mjs";

const range = (count) => Array.from({ length: count }, (_, n) => n);
const numbers = (connector) => connector.posts.map(({ payload }) => payload.n);

test("700 enqueue frames in a minute arrive in order, and what was used is remembered across connections", () =>
  inWorld({ hooks: true, bindings: { ENQUEUE_RATE_LIMIT_PER_MINUTE: "900" } }, async (own) => {
    const [alice, bob] = await own.couple();
    const started = performance.now();
    const to = new RustConnector(bob);
    const from = new RustConnector(alice);
    await eventually(() => from.socket && to.socket);
    for (const n of range(700)) from.enqueue(bob, { n });
    await eventually(() => from.answers.size === 700 && to.posts.length === 700, { what: "all", deadlineMs: 80_000 });
    assert.deepEqual(numbers(to), range(700));
    for (const { accepted: taken } of from.answers.values()) assert.equal(taken, true);
    await from.stop();
    await own.evict("AGENT_RELAY_SESSION", alice.agentDid);
    const again = new RustConnector(alice);
    await eventually(() => again.socket);
    for (const n of range(400)) again.enqueue(bob, { n });
    await eventually(() => again.answers.size === 400, { what: "all answers", deadlineMs: 80_000 });
    const taken = [...again.answers.values()].filter((answer) => answer.accepted).length;
    const most = 200 + 15 * Math.ceil((performance.now() - started) / 1000);
    assert.ok(taken >= 200 && taken <= most, `${taken} of 400: 200 were left, and 15 a second come anew`);
    await Promise.all([again.stop(), to.stop()]);
  }));

// The operator's page in a real Chromium: by keyboard alone, on a narrow screen, light and dark, and by axe's rules.
// `PICTURES=directory` keeps a picture of each page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Browser } from "../support/browser.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const NARROW = 375;

let world;
let browser;
let agent; // one with a pair, mail that waits, and a clock that is off
let revoked; // by the registry
before(async () => {
  const bindings = { ADMIN_TOKEN: ADMIN, CANARY_INTERVAL_SECONDS: "300" };
  [world, browser] = await Promise.all([start({ hooks: true, bindings, consumer: { maxRetries: 1 } }), Browser.open()]);
  let peer;
  [agent, peer] = await world.couple();
  revoked = await world.agent();
  await world.registry("/dev/agents/revoke", { agentDid: revoked.agentDid });
  await world.enqueue({ id: ulid(), type: "agent.auth.revoked", version: "v1", data: { agentId: "x".repeat(300) } });
  await peer.message(agent, { n: 1 });
  await agent.post("/pair/status", { ticket: "none" }, { timestamp: Math.floor(Date.now() / 1000) - 250 });
  await world.runScheduled();
  await eventually(async () => (await world.deadLetters()).length === 1, { what: "the dead letter" });
  await eventually(async () => (await world.db.prepare("SELECT COUNT(*) AS n FROM revocations WHERE kind = 'agent'").first()).n === 1);
  await eventually(async () => (await world.db.prepare("SELECT COUNT(*) AS n FROM canary_runs WHERE finished_at_ms > 0").first()).n === 2);
});
after(() => Promise.all([world?.stop(), browser?.close()]));

const title = () => browser.ask("document.querySelector('h1').innerText");
const status = () => browser.ask("document.querySelector('[role=status]')?.innerText ?? ''");
const follow = async (name, key = "Enter") => {
  await browser.tabTo(name);
  await browser.leave(() => browser.press(key));
};
const done = async (words) => {
  assert.deepEqual([await title(), words.test(await status())], ["Overview", true], await browser.ask("document.body.innerText"));
};

/** On a narrow screen, light and dark: nothing sticks out, and axe finds nothing. */
async function isWell(name) {
  for (const scheme of ["light", "dark"]) {
    await browser.look({ width: NARROW, scheme });
    if (process.env.PICTURES) await browser.picture(join(process.env.PICTURES, `${name}-${scheme}.png`));
    const width = await browser.ask("document.documentElement.scrollWidth");
    assert.ok(width <= NARROW, `${name} is ${width} px wide`);
    if (!(await browser.ask("typeof axe === 'object'"))) await browser.ask(`${AXE}; undefined`);
    const found = await browser.ask(`axe.run().then(({ violations }) => violations.map(
      ({ id, nodes }) => id + ": " + nodes.map(({ html, failureSummary }) => html + " " + failureSummary).join("; ")))`);
    assert.deepEqual(found, [], `${name}, ${scheme}`);
  }
}

test("signed in by keyboard, every action by keyboard, and every page fits and is accessible", async () => {
  await browser.look({ width: NARROW, scheme: "light" });
  await browser.go(new URL("/admin", world.proxyUrl).href);
  await isWell("sign-in");
  await browser.tabTo("Admin token");
  await browser.type(`${ADMIN}-wrong`);
  await browser.leave(() => browser.press("Enter"));
  assert.match(await browser.ask("document.querySelector('[role=alert]').innerText"), /token/i);
  await isWell("sign-in-refused");
  await browser.tabTo("Admin token");
  await browser.type(ADMIN);
  await browser.leave(() => browser.press("Enter"));
  assert.equal(await title(), "Overview");

  // The first screen, with something in each of its tables and plots.
  const text = await browser.ask("document.body.innerText");
  for (const words of [
    "Revocations that could not be applied: 1.", "Requests to this isolate", "Kill switch, as it measured itself, last hour: 2 measured",
    "an event on the queue", "Circuits, in this isolate", agent.agentDid, "250 s behind",
  ]) assert.ok(text.includes(words), `${words} is not in ${text}`);
  assert.ok((await browser.ask("document.querySelectorAll('svg rect').length")) >= 4);
  await isWell("overview");
  await browser.tabTo("Skip to the content");
  await browser.press("Enter");
  assert.equal(await browser.ask("document.activeElement.id"), "main");

  await follow("Reconcile now");
  await done(/Reconciled/);
  await follow("Refresh the signing keys", " ");
  await done(/signing keys were fetched/);

  await browser.tabTo("Agent's DID");
  await browser.type(agent.agentDid);
  await browser.tabTo("Reason, for those who read the ledger");
  await browser.type("key stolen");
  await browser.leave(() => browser.press("Enter"));
  await done(/Revoked, everywhere/);

  await follow(agent.agentDid);
  assert.equal(await title(), agent.agentDid);
  const shown = await browser.ask("document.body.innerText");
  for (const words of ["Standing\nrevoked", "Messages waiting", "/pair/status", "key stolen"]) {
    assert.ok(shown.includes(words), `${words} is not in ${shown}`);
  }
  assert.equal(await browser.ask("document.querySelectorAll('main td a').length"), 1, "its pair");
  await isWell("agent");
  const lift = /Lift (\d+)/.exec(shown)[0];
  await follow(lift);
  assert.match(await browser.ask("document.querySelector('main').innerText"), /will be admitted again.*by an operator: key stolen/s);
  await isWell("lift");
  await follow(lift);
  await done(/Lifted/);

  // What the registry revoked takes a tick more.
  const { seq } = await world.db.prepare("SELECT seq FROM revocations WHERE agent_did = ?1 AND kind = 'agent'").bind(revoked.agentDid).first();
  await follow(`Lift ${seq}`);
  await isWell("lift-of-the-registrys");
  await browser.tabTo("Lift it against the registry's word");
  await browser.press(" ");
  await follow(`Lift ${seq}`);
  await done(/Lifted/);

  const [{ id }] = await world.deadLetters();
  await follow(String(id));
  await isWell("dead-letter");
  await follow("Retry: apply it now");
  await done(/failed again/);
  await follow(String(id));
  await follow("Drop it for good");
  await done(/was dropped/);

  await browser.go(new URL("/admin/agents?agentDid=nonsense", world.proxyUrl).href);
  assert.equal(await title(), "Not done");
  await isWell("not-done");
  await follow("Back to the overview");
  await isWell("overview-afterwards");
  await follow("Sign out");
  await browser.go(new URL("/admin", world.proxyUrl).href);
  assert.equal(await title(), "Sign in");
});

test("with D1 gone the first screen still says so, shows what there is, and revokes", async () => {
  await browser.tabTo("Admin token");
  await browser.type(ADMIN);
  await browser.leave(() => browser.press("Enter"));
  await world.moveClock(2_000);
  await world.database("fails");
  await browser.go(new URL("/admin", world.proxyUrl).href);
  const text = await browser.ask("document.body.innerText");
  for (const words of ["database_unreachable since", "unknown: D1 does not answer", "Revoke this agent"]) assert.ok(text.includes(words), text);
  assert.doesNotMatch(text, /All is well|no reconciliation/);
  await isWell("overview-without-d1");
  await world.database("well");
  await world.moveClock(4_000);
  await browser.go(new URL("/admin", world.proxyUrl).href);
  assert.doesNotMatch(await browser.ask("document.body.innerText"), /database_unreachable/);
});

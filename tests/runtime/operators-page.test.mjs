// The operator's page as a browser meets it: signing in, what it shows, what its forms do, and what it refuses.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, inWorld, start } from "../support/harness.mjs";
import { ulid } from "../support/socket.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const POLICY =
  "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

let world;
before(async () => {
  world = await start({ bindings: { ADMIN_TOKEN: ADMIN }, consumer: { maxRetries: 1 } });
});
after(() => world?.stop());

/** One request as a browser makes it; redirects are looked at, not followed. */
async function ask(path, { cookie, form, of = world } = {}) {
  const response = await fetch(new URL(path, of.proxyUrl), {
    method: form ? "POST" : "GET",
    headers: cookie ? { cookie } : {},
    body: form ? new URLSearchParams(form) : undefined,
    redirect: "manual",
  });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

async function signIn(token = ADMIN, of = world) {
  const answer = await ask("/admin/sign-in", { form: { token }, of });
  const set = answer.headers.get("set-cookie");
  return { ...answer, set, cookie: set?.split(";")[0] };
}

const csrfOf = (text) => /name="csrf" value="([^"]+)"/.exec(text)[1];

test("without a session there is the sign-in alone; a session is for this page and this browser", async () => {
  for (const path of ["/admin", "/admin/agents?agentDid=x", "/admin/lift?seq=1", "/admin/dead-letters?id=1"]) {
    const answer = await ask(path);
    assert.equal(answer.status, 200);
    assert.match(answer.text, /<h1>Sign in<\/h1>/);
    assert.doesNotMatch(answer.text, /csrf|Overview/);
    assert.equal(answer.headers.get("content-security-policy"), POLICY);
    assert.equal(answer.headers.get("cache-control"), "no-store");
    assert.doesNotMatch(answer.text, /<script|style=|https?:/);
  }
  const { status, set, cookie, headers } = await signIn();
  assert.equal(status, 303);
  assert.equal(headers.get("location"), "/admin");
  assert.match(set, /; Path=\/admin; Max-Age=28800; HttpOnly; SameSite=Strict$/);
  assert.ok(!set.includes(ADMIN));
  const overview = await ask("/admin", { cookie });
  assert.match(overview.text, /<h1>Overview<\/h1>/);
  assert.ok(!overview.text.includes(ADMIN));
  assert.match((await ask("/admin", { cookie: `${cookie}x` })).text, /<h1>Sign in<\/h1>/);
  const wrong = await signIn("another-token-that-is-wrong-0000000");
  assert.deepEqual([wrong.status, wrong.headers.get("www-authenticate")], [401, "Bearer"]);
  assert.equal(wrong.set, null);
});

test("a form without its session's token does nothing", async () => {
  const agent = await world.agent();
  const { cookie } = await signIn();
  const { cookie: other } = await signIn();
  const theirs = csrfOf((await ask("/admin", { cookie: other })).text);
  for (const csrf of ["", "x", theirs]) {
    const answer = await ask("/admin/revoke", { cookie, form: { csrf, agentDid: agent.agentDid } });
    assert.equal(answer.status, 403);
  }
  const nobody = await ask("/admin/revoke", { form: { csrf: theirs, agentDid: agent.agentDid } });
  assert.equal(nobody.status, 401);
  assert.equal((await agent.post("/pair/status", { ticket: "none" })).status, 400, "the agent is still admitted");
});

test("it revokes, says what a lift will do, lifts, and shows the agent", async () => {
  const agent = await world.agent();
  const { cookie } = await signIn();
  const csrf = csrfOf((await ask("/admin", { cookie })).text);
  const reason = "<b>stolen</b>";
  const revoked = await ask("/admin/revoke", { cookie, form: { csrf, agentDid: ` ${agent.agentDid} `, reason } });
  assert.equal(revoked.status, 303);
  const overview = await ask(revoked.headers.get("location"), { cookie });
  assert.match(overview.text, /role="status"[^>]*>Revoked, everywhere/);
  assert.match(overview.text, /&lt;b&gt;stolen&lt;\/b&gt;/);
  const shown = await ask(`/admin/agents?agentDid=${agent.agentDid}`, { cookie });
  assert.match(shown.text, /<dd>revoked<\/dd>/);
  assert.equal((await agent.post("/pair/status", { ticket: "none" })).status, 401);

  const seq = /href="\/admin\/lift\?seq=(\d+)"/.exec(shown.text)[1];
  const asked = await ask(`/admin/lift?seq=${seq}`, { cookie });
  assert.match(asked.text, /will be admitted again.*Every isolate follows within 30 seconds/s);
  const lifted = await ask("/admin/lift", { cookie, form: { csrf, seq } });
  assert.equal(lifted.headers.get("location"), "/admin?done=lifted");
  assert.match((await ask(`/admin/agents?agentDid=${agent.agentDid}`, { cookie })).text, /<dd>not revoked<\/dd>/);

  for (const [path, form] of [["/admin/revoke", { agentDid: "nobody" }], ["/admin/lift", { seq: "999999" }]]) {
    const answer = await ask(path, { cookie, form: { csrf, ...form } });
    assert.equal(answer.status, 400, path);
    assert.match(answer.text, /<h1>Not done<\/h1>/);
  }
});

test("the first screen says what is wrong and what to do, and that all is well once it is", async () => {
  const { cookie } = await signIn();
  const csrf = csrfOf((await ask("/admin", { cookie })).text);
  await world.enqueue({ id: ulid(), type: "agent.auth.revoked", version: "v1", data: { agentId: "<i>", reason: "agent_revoked" } });
  const bad = await eventually(async () => {
    const { text } = await ask("/admin", { cookie });
    return text.includes("Revocations that could not be applied: 1.") && text;
  });
  assert.match(bad, /There has been no reconciliation/);
  assert.doesNotMatch(bad, /All is well/);
  const id = /\/admin\/dead-letters\?id=(\d+)/.exec(bad)[1];
  const letter = await ask(`/admin/dead-letters?id=${id}`, { cookie });
  assert.match(letter.text, /&lt;i&gt;/);
  const retried = await ask("/admin/dead-letters", { cookie, form: { csrf, id, action: "retry" } });
  assert.equal(retried.headers.get("location"), "/admin?done=failed");
  const dropped = await ask("/admin/dead-letters", { cookie, form: { csrf, id, action: "drop" } });
  assert.equal(dropped.headers.get("location"), "/admin?done=dropped");
  const reconciled = await ask("/admin/reconcile", { cookie, form: { csrf } });
  assert.equal(reconciled.headers.get("location"), "/admin?done=reconciled");
  assert.match((await ask("/admin", { cookie })).text, /All is well\./);

  const out = await ask("/admin/sign-out", { cookie, form: { csrf } });
  assert.match(out.headers.get("set-cookie"), /Max-Age=0/);
});

test("in an outage of the registry its figures are those of the system, and what it offers still works", () => {
  const bindings = { ADMIN_TOKEN: ADMIN, REGISTRY_KEYS_FRESH_MS: "1", REGISTRY_KEYS_STALE_MS: "1" };
  return inWorld({ hooks: true, bindings }, async (own) => {
    const [alice, bob] = await own.couple();
    const { cookie } = await signIn(ADMIN, own);
    const overview = async () => (await ask("/admin", { cookie, of: own })).text;
    const csrf = csrfOf(await overview());
    assert.equal((await ask("/admin/reconcile", { cookie, form: { csrf }, of: own })).status, 303);
    assert.match(await overview(), /All is well\./);

    await own.fault("all", "500");
    for (let n = 0; n < 6; n++) assert.equal((await alice.message(bob, { n })).status, 503);
    await own.moveClock(1_100); // /health looks once a second
    const bad = await overview();
    assert.doesNotMatch(bad, /All is well/);
    assert.match(bad, /signing_keys_unavailable since 20[^<]*: every request of an agent is refused/);
    assert.match(bad, /The registry fails in this isolate: registry_keys is open/);
    assert.match(bad, /Circuits, in this isolate<\/dt><dd>registry_keys is open</);
    const lines = own.logged("request.completed").map(({ status }) => status);
    const failed = lines.filter((status) => status >= 500).length;
    assert.equal(Number(/(\d+) failed\./.exec(bad)[1]), failed);
    assert.equal((await ask("/admin/keys", { cookie, form: { csrf }, of: own })).status, 503, "said, not hidden");
    const revoked = await ask("/admin/revoke", { cookie, form: { csrf, agentDid: bob.agentDid }, of: own });
    assert.equal(revoked.headers.get("location"), "/admin?done=revoked");

    await own.fault("all", "none");
    await own.moveClock(35_000);
    assert.equal((await ask("/admin/keys", { cookie, form: { csrf }, of: own })).headers.get("location"), "/admin?done=refreshed");
    assert.match(await overview(), /Circuits, in this isolate<\/dt><dd>all closed</);
  });
});

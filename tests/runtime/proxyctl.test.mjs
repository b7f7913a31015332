// The operator's command, run as a program against the real worker. What it sends and prints in each case is tested
// natively (crates/proxyctl/src/tests.rs). This test shows that the proxy does what the command asks for.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { targetDirectory } from "../../scripts/build.mjs";
import { admitted, probe, refused } from "../support/expect.mjs";
import { eventually, start } from "../support/harness.mjs";
import { ADMIN } from "../support/revocation.mjs";
import { ulid } from "../support/socket.mjs";

const WRONG = "not-the-operators-token-for-tests-0";
const PROGRAM = join(targetDirectory(), "debug/proxyctl");

let world;
const scratch = mkdtempSync(join(tmpdir(), "proxyctl-test-"));
before(async () => {
  assert.ok(existsSync(PROGRAM), "build it: cargo build -p proxyctl --locked");
  world = await start({ hooks: true, bindings: { ADMIN_TOKEN: ADMIN }, consumer: { maxRetries: 1 } });
});
after(async () => {
  rmSync(scratch, { recursive: true, force: true });
  await world?.stop();
});

/** Runs a program to its end -> {code, out, err}. Whatever it did, it has printed no token. */
async function run(program, args, { input = "", token = ADMIN, url = world.proxyUrl } = {}) {
  const env = { ...process.env, CLAWDENTITY_PROXY_URL: url, CLAWDENTITY_ADMIN_TOKEN: token };
  const child = spawn(program, args, { env });
  const texts = { out: "", err: "" };
  child.stdout.on("data", (part) => (texts.out += part));
  child.stderr.on("data", (part) => (texts.err += part));
  child.stdin.on("error", () => {}); // it may end without reading
  child.stdin.end(input);
  const code = await new Promise((resolve, reject) => child.once("error", reject).once("close", resolve));
  for (const secret of [ADMIN, WRONG]) assert.ok(!(texts.out + texts.err).includes(secret), "a token was printed");
  return { code, ...texts };
}
const proxyctl = (words, options) => run(PROGRAM, words.split(" "), options);
const done = (ran) => {
  assert.deepEqual([ran.code, ran.err], [0, ""], ran.err);
  return ran.out;
};
const fieldsOf = (line) => line.trimEnd().split("\t");
const listed = async (words = "") => {
  const lines = done(await proxyctl(`revocations list --json${words}`)).trimEnd().split("\n");
  return lines.map((line) => JSON.parse(line));
};
// Isolates remember a refusal for 30 s after a lift; the tests move the clock past that.
let offsetMs = 0;
const after30s = () => world.moveClock((offsetMs += 31_000));
const probeNow = (agent) => probe(agent, { timestamp: Math.floor((Date.now() + offsetMs) / 1000) });

test("an agent: revoked, listed, lifted; said twice, it is done once", async () => {
  const agent = await world.agent();
  admitted(await probeNow(agent));
  const said = fieldsOf(done(await run(PROGRAM, ["revoke", "agent", agent.agentDid, "--reason", "key stolen"])));
  refused(await probeNow(agent), 401, "PROXY_AUTH_REVOKED");
  const [seq, ...rest] = said;
  assert.deepEqual([rest[0], rest[1], rest[3], rest[4]], ["agent", agent.agentDid, "operator", "key stolen"]);
  const again = fieldsOf(done(await proxyctl(`revoke agent ${agent.agentDid}`)));
  assert.deepEqual(again, [...said, "stood already"]);
  const [item] = await listed(` --since ${seq - 1}`);
  assert.deepEqual([item.seq, item.kind, item.agentDid], [Number(seq), "agent", agent.agentDid]);

  const lift = fieldsOf(done(await proxyctl(`revocations lift ${seq}`)));
  assert.deepEqual([lift[1], lift[2]], ["lift", `${agent.agentDid} lifts ${seq}`]);
  await after30s();
  admitted(await probeNow(agent));
  assert.deepEqual((await listed(` --since ${seq}`)).map((each) => [each.kind, each.lifts]), [["lift", Number(seq)]]);
});

test("a token and a session", async () => {
  const [token, session] = await world.agents(2);
  const socket = await session.connect();
  done(await proxyctl(`revoke token ${token.aitJti} --agent ${token.agentDid} --expires-at 2099-01-02T03:04:05Z`));
  refused(await probeNow(token), 401, "PROXY_AUTH_REVOKED");
  const ended = await proxyctl(`revoke session ${session.agentDid}`);
  assert.equal(ended.code, 0);
  assert.match(ended.err, /the registry is asked anew and may let the agent in again/i);
  assert.equal((await socket.closed).code, 1008);
  admitted(await probeNow(session));
});

test("many, from standard input and from a file: one that is refused does not stop the rest", async () => {
  const agents = await world.agents(4);
  const dids = agents.map((agent) => agent.agentDid);
  const foreign = dids[0].replace("registry.test", "elsewhere.test");
  const list = `# the night's\n${dids[0]}\n${foreign}\n\n${dids[1]} # twice\n${dids[1]}\n`;
  const ran = await proxyctl("revoke agent --file -", { input: list });
  assert.equal(ran.code, 1);
  assert.deepEqual(ran.out.trimEnd().split("\n").map((line) => fieldsOf(line)[2]), dids.slice(0, 2));
  const [failure, sum, ...more] = ran.err.trimEnd().split("\n");
  assert.match(failure, new RegExp(`${foreign}: 400 PROXY_ADMIN_INVALID_INPUT`));
  assert.deepEqual([sum, more], ["proxyctl: 2 of 3 revoked, 1 failed", []]);

  const file = join(scratch, "list");
  writeFileSync(file, dids.slice(2).join("\n"));
  assert.equal((await run(PROGRAM, ["revoke", "agent", "--file", file])).code, 0);
  for (const agent of agents) refused(await probeNow(agent), 401, "PROXY_AUTH_REVOKED");

  const spoilt = await proxyctl("revoke agent --file -", { input: `${(await world.agent()).agentDid}\nnonsense\n` });
  assert.deepEqual([spoilt.code, spoilt.out], [2, ""]);
  assert.match(spoilt.err, /nothing was revoked[^]*line 2: /);
});

test("what the registry revoked: reconciled, listed, and lifted with --force alone; the status tells", async () => {
  const agent = await world.agent();
  await world.registry("/dev/crl", { jti: agent.aitJti, agentDid: agent.agentDid });
  assert.match(done(await proxyctl("reconcile")), /^complete: 1 listed by the registry, 1 added/);
  refused(await probeNow(agent), 401, "PROXY_AUTH_REVOKED");
  const { seq, source } = (await listed()).find((item) => item.jti === agent.aitJti);
  assert.equal(source, "crl");
  const without = await proxyctl(`revocations lift ${seq}`);
  assert.equal(without.code, 1);
  assert.match(without.err, /409 PROXY_REVOCATION_NEEDS_FORCE .*--force/);
  const lift = fieldsOf(done(await proxyctl(`revocations lift ${seq} --force`)));
  await after30s();
  admitted(await probeNow(agent));

  assert.equal(JSON.parse(done(await proxyctl("status --json"))).latest, Number(lift[0]));
  const status = done(await proxyctl("status"));
  assert.match(status, new RegExp(`^latest +${lift[0]}$`, "m"));
  assert.match(status, /^reconciliation\.finishedAt +20\d\d-/m);
});

test("a ledger of more than two pages is listed whole, and to a reader that has seen enough", async () => {
  const before = (await listed()).length;
  const row = `INSERT INTO revocations (kind, agent_did, jti, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
    SELECT 'token', 'did:cdi:registry.test:agent:' || printf('%026d', value), printf('%026d', value), 'crl', 1, 1, ?1
    FROM json_each(?2)`;
  const numbers = JSON.stringify(Array.from({ length: 2500 }, (_, n) => n));
  await world.db.prepare(row).bind(Date.now() + 3_600_000, numbers).run();
  const all = await listed();
  assert.equal(all.length, before + 2500);
  assert.ok(all.every((item, at) => at === 0 || all[at - 1].seq < item.seq));
  const ran = await run("bash", ["-o", "pipefail", "-c", `"${PROGRAM}" revocations list | head -n 1`]);
  assert.deepEqual([ran.code, ran.err, ran.out.split("\n").length], [0, "", 2]);
});

test("the doctor says what is bad until it is mended, and then that nothing is", async () => {
  await world.registry("/dev/agents/revoke", { agentDid: (await world.agent()).agentDid });
  await world.enqueue({ id: ulid(), type: "agent.auth.revoked", version: "v1", data: { agentId: "unreadable" } });
  const [letter] = await eventually(async () => {
    const letters = await world.deadLetters();
    return letters.length > 0 && letters;
  });
  const examined = async () => {
    const { code, out, err } = await proxyctl("doctor --json");
    assert.equal(err, "");
    const found = out.trimEnd().split("\n").map((line) => JSON.parse(line));
    return { code, found, states: new Map(found.map(({ check, state }) => [check, state])) };
  };
  const bad = await examined();
  assert.deepEqual([bad.code, bad.states.get("dead letters"), bad.states.get("events")], [1, "bad", "well"], JSON.stringify(bad.found));
  done(await proxyctl(`dead-letters drop ${letter.id}`));
  done(await proxyctl("reconcile"));
  done(await proxyctl("keys refresh"));
  const { code, found, states } = await examined();
  assert.equal(code, 0, JSON.stringify(found));
  for (const check of ["health", "migrations", "keys", "crl", "reconciliation", "dead letters", "circuits"]) {
    assert.equal(states.get(check), "well", JSON.stringify(found));
  }
  assert.equal(states.get("kill switch"), "note", "this proxy does not measure it");

  await world.db.prepare("DROP TABLE canary_runs").run();
  const missing = await eventually(async () => {
    const now = await examined();
    return now.states.get("migrations") === "bad" && now;
  });
  assert.equal(missing.code, 1);
  const wrong = await proxyctl("doctor", { token: WRONG });
  assert.deepEqual([wrong.code, wrong.err], [1, ""]);
  assert.match(wrong.out, /bad +operator +401 PROXY_BEARER_INVALID/);
});

test("exit codes: a wrong token 1, wrong usage 2, nobody there 3", async () => {
  const wrong = await proxyctl("status", { token: WRONG });
  assert.deepEqual([wrong.code, wrong.out], [1, ""]);
  assert.match(wrong.err, /401 PROXY_BEARER_INVALID/);
  const input = Array.from({ length: 15 }, () => `did:cdi:registry.test:agent:${ulid()}`).join("\n");
  const many = await proxyctl("revoke agent --file -", { token: WRONG, input });
  assert.equal(many.code, 1);
  assert.match(many.err, /0 of 15 revoked, 1 failed, 14 not tried/);
  // So the operator is not shut out of the routes by a list that was tried with a wrong token.
  done(await proxyctl("status"));

  for (const [words, options] of [
    ["revoke agent nonsense"], ["status", { token: "" }], ["status", { url: "http://proxy.example.com" }],
  ]) {
    assert.equal((await proxyctl(words, options)).code, 2, words);
  }
  const url = await new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(`http://127.0.0.1:${port}`));
    });
  });
  const nobody = await proxyctl("status", { url });
  assert.deepEqual([nobody.code, nobody.out], [3, ""]);
  assert.match(nobody.err, /^proxyctl: the proxy could not be reached: /);
});

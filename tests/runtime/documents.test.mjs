// Every shell block of every document is run. Most are run here, as they are typed, against a proxy of their own: what
// stands for something (https://PROXY, a DID, a number) is put in, and nothing else is changed. Those that another test runs,
// or that nobody can run in a test, are listed with the reason. A block that is not known fails.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";

import { build, targetDirectory } from "../../scripts/build.mjs";
import { ROOT } from "../../scripts/setup.mjs";
import { eventually, start } from "../support/harness.mjs";

const ADMIN = "an-operators-token-for-tests-000000";
const LOCAL_ADMIN = "clawdentity-proxy-local-admin-token"; // .dev.vars.example
const DOCUMENTS = [
  ...["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"],
  ...readdirSync(join(ROOT, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`),
];

// Commands that are not run here: how they begin, and which test runs them or why none does.
const ELSEWHERE = [
  ["npm start", "the test below runs it"],
  ["npm run demo", "the test below runs it"],
  ["npm test", "it is what runs this test"],
  ["npm run bench", "it measures for minutes and has no verdict; lint checks its files"],
  ["cargo install", "it compiles what is run here as proxyctl"],
  ["cargo run --release -p clawdentity-guard --example sidecar", "clippy compiles it; the guard's own tests run what it is made of"],
  ["curl \"https://api.cloudflare.com/", "it needs an account; metrics.test.mjs holds the queries against the rows"],
];
const OTHER_TESTS = { "docs/quickstart.md": "tests/runtime/quickstart.test.mjs" };
const NOT_OF_THE_SHELL = ["ARCHITECTURE.md", "docs/wire.md"]; // their blocks without a language are pictures and formats

/** The commands of a block: comments cut off, lines that go on joined. */
function commandsOf(block) {
  const lines = block.replace(/\\\n\s*/g, "").split("\n");
  return lines.map((line) => line.replace(/(^|\s+)# .*$/, "").trim()).filter((line) => line !== "");
}

const blocks = DOCUMENTS.flatMap((document) => {
  const text = readFileSync(join(ROOT, document), "utf8");
  return [...text.matchAll(/^( *)```(\S*)\n([^]*?)^ *```/gm)].map(([, , language, block]) => ({ document, language, block }));
});
const isShell = ({ language }) => ["sh", "bash", "shell", "console", "zsh"].includes(language);
const commands = blocks.filter(isShell).filter(({ document }) => !OTHER_TESTS[document])
  .flatMap(({ document, block }) => commandsOf(block).map((command) => ({ document, command })));
const bare = (command) => command.replace(/^([A-Z_]+=\S+ +)+/, "");
const isElsewhere = ({ command }) => ELSEWHERE.some(([beginning]) => bare(command).startsWith(beginning));

let world;
let agent;
const scratch = mkdtempSync(join(tmpdir(), "clawdentity-documents-"));
before(async () => {
  world = await start({ bindings: { ADMIN_TOKEN: ADMIN } });
  agent = await world.agent();
});
after(async () => {
  await world?.stop();
  rmSync(scratch, { recursive: true, force: true });
});

/** Runs a command as it is typed -> {code, out, answer}, where out is all that it printed. */
async function typed(command, { env = {}, cwd = scratch } = {}) {
  const path = `${dirname(join(targetDirectory(), "debug/proxyctl"))}:${process.env.PATH}`;
  const child = spawn("bash", ["-c", command], { cwd, env: { ...process.env, PATH: path, ...env } });
  let [out, answer] = ["", ""];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (part) => (out += part));
  child.stdout.on("data", (part) => (answer += part));
  const code = await new Promise((resolve) => child.once("close", resolve));
  return { code, out, answer };
}

test("no block is of a language that hides it, and every document is looked at", () => {
  for (const { document, language, block } of blocks) {
    if (language === "" && !NOT_OF_THE_SHELL.includes(document)) assert.fail(`${document} has a block without a language: ${block}`);
  }
  assert.ok(commands.length > 25);
  for (const document of Object.keys(OTHER_TESTS)) assert.ok(blocks.some((each) => each.document === document), document);
  for (const [beginning] of ELSEWHERE) {
    assert.ok(commands.some(({ command }) => bare(command).startsWith(beginning)), `${beginning} is in no document any more`);
  }
});

test("every command is run as it is typed", async (t) => {
  const { json: order } = await world.send("POST", "/admin/v1/revocations", {
    headers: { authorization: `Bearer ${ADMIN}` },
    body: JSON.stringify({ kind: "agent", agentDid: (await world.agent()).agentDid }),
  });
  writeFileSync(join(scratch, "stolen.txt"), `${(await world.agent()).agentDid}\n`);
  const letter = `INSERT INTO dead_letters (id, message_id, queue, type, revocation, reason, body, dead_lettered_at_ms)
    VALUES (1, 'm', 'clawdentity-events-dlq-local', 'agent.auth.issued', 0, 'for a test', ?1, 1)`;
  await world.db.prepare(letter).bind(JSON.stringify({ type: "agent.auth.issued" })).run();
  const url = world.proxyUrl.replace(/\/$/, "");
  const env = { CLAWDENTITY_PROXY_URL: url, CLAWDENTITY_ADMIN_TOKEN: ADMIN, ADMIN_TOKEN: ADMIN };
  // What a document writes for something of the reader's.
  const given = (command) => command
    .replaceAll("https://PROXY", url).replaceAll("http://127.0.0.1:8787", url)
    .replaceAll("did:cdi:REGISTRY:agent:ULID", agent.agentDid).replaceAll("did:cdi:…", agent.agentDid)
    .replaceAll("JTI", agent.aitJti).replaceAll(LOCAL_ADMIN, ADMIN).replaceAll("ADMIN_TOKEN=…", `ADMIN_TOKEN=${ADMIN}`)
    .replace(/lift (123|NUMBER)/, `lift ${order.seq}`);
  // What may end otherwise than with 0.
  const ends = [
    [/^proxyctl watch/, 124], // it is stopped
    [/^proxyctl dead-letters drop 1$/, 1], // the retry before it has taken the letter
    [/^proxyctl doctor/, 1], // this proxy has not been reconciled yet, and says so
  ];
  for (const { document, command } of commands.filter((each) => !isElsewhere(each))) {
    await t.test(`${document}: ${command}`, async () => {
      if (/^npm run (bootstrap|deploy) /.test(command)) {
        const { code, out } = await typed(`${command} --dry-run`, { cwd: ROOT });
        assert.equal(code, 0, out);
      } else if (command.startsWith("npx wrangler d1 execute ")) {
        const [, sql] = /^npx wrangler d1 execute DB --env production --remote --command "([^"]+)"$/.exec(command);
        await world.db.prepare(sql).run();
      } else if (/^(export |proxyctl |curl |cargo |[A-Z_]+=)/.test(command)) {
        const line = given(command);
        const { code, out, answer } = await typed(/^proxyctl watch/.test(line) ? `timeout 1 ${line}` : line, { env });
        const expected = ends.find(([pattern]) => pattern.test(command))?.[1] ?? 0;
        assert.equal(code, expected, out);
        if (bare(command).startsWith("curl")) assert.equal(JSON.parse(answer).error, undefined, answer);
      } else {
        assert.fail("nobody knows this command: have it run here, or list where it is");
      }
    });
  }
});

const WRANGLER = readFileSync(join(ROOT, "node_modules/wrangler/wrangler-dist/cli.js"), "utf8");

test("every command within a sentence is one that there is", async () => {
  const scripts = Object.keys(JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).scripts);
  const within = DOCUMENTS.flatMap((document) => {
    const text = readFileSync(join(ROOT, document), "utf8").replace(/^ *```[^]*?^ *```/gm, "");
    return [...text.matchAll(/`((?:proxyctl|npm|npx wrangler) [^`]+)`/g)].map(([, command]) => command.replace(/\s+/g, " "));
  });
  const asked = new Map(); // a program with its subcommands -> the options that it must have
  for (const command of new Set(within)) {
    const words = command.split(" ");
    if (words[0] === "npm") {
      assert.ok(["start", "test"].includes(words[1]) || scripts.includes(words[2]), command);
      continue;
    }
    const names = words.slice(0, words[0] === "npx" ? 1 : 0).length;
    const end = words.findIndex((word, at) => at > names && !/^[a-z][a-z0-9-]*$/.test(word));
    const program = words.slice(0, end === -1 ? undefined : end).join(" ");
    const options = words.filter((word) => /^--[a-z]/.test(word));
    asked.set(program, new Set([...(asked.get(program) ?? []), ...options]));
  }
  assert.ok(asked.size > 15);
  await Promise.all([...asked].map(async ([program, options]) => {
    if (program.startsWith("npx ")) {
      // Its own help takes it seconds to print.
      assert.ok(WRANGLER.includes(`"${program.slice(4)}"`), program);
      return;
    }
    const { code, out } = await typed(`${program} --help`);
    assert.equal(code, 0, `${program}: ${out}`);
    for (const option of options) assert.ok(out.includes(option), `${program} has no ${option}: ${out}`);
  }));
});

test("npm start serves, npm run demo shows the main job on it, and both end", async () => {
  await build(); // up to date as a rule; what npm start would have to compile takes its time, and is not to be broken off
  const free = () => new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
  const [proxyPort, registryPort] = [await free(), await free()];
  const env = { ...process.env, PROXY_PORT: String(proxyPort), REGISTRY_PORT: String(registryPort) };
  const started = spawn("npm", ["start"], { cwd: ROOT, env, detached: true });
  let out = "";
  for (const stream of [started.stdout, started.stderr]) stream.on("data", (part) => (out += part));
  const ended = new Promise((resolve) => started.once("close", resolve));
  try {
    await eventually(() => {
      if (started.exitCode !== null) throw new Error(out);
      return out.includes("[start] ready");
    }, { deadlineMs: 120_000, everyMs: 100, what: "npm start" });
    const demo = spawnSync("npm", ["run", "demo"], { cwd: ROOT, env, encoding: "utf8", timeout: 60_000 });
    assert.equal(demo.status, 0, demo.stdout + demo.stderr);
    assert.match(demo.stdout, /alice is refused, \d+ ms after she was revoked: 401 PROXY_AUTH_REVOKED/);
  } finally {
    process.kill(-started.pid, "SIGTERM");
    await ended;
    rmSync(join(ROOT, `.local/state-${registryPort}`), { recursive: true, force: true });
  }
});

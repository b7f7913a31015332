// wrangler.toml against docs/wire.md §9: the names that existing deployments use in each environment. Also the parts
// of the development tools.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { unstable_readConfig as readConfig } from "wrangler";

import { localSecrets, splitStatements } from "../../scripts/local.mjs";
import { ROOT } from "../../scripts/setup.mjs";

const ENVIRONMENTS = [
  { env: undefined, script: "clawdentity-proxy-local", suffix: "-local", ENVIRONMENT: "local" },
  { env: "dev", script: "clawdentity-proxy-dev", suffix: "-dev", ENVIRONMENT: "development", domain: "dev.proxy.clawdentity.com" },
  { env: "staging", script: "clawdentity-proxy-staging", suffix: "-staging", ENVIRONMENT: "staging" },
  { env: "production", script: "clawdentity-proxy", suffix: "", ENVIRONMENT: "production", domain: "proxy.clawdentity.com" },
];

for (const { env, script, suffix, ENVIRONMENT, domain } of ENVIRONMENTS) {
  test(`wrangler.toml, ${env ?? "local"}`, () => {
    const config = readConfig({ config: join(ROOT, "wrangler.toml"), env });
    assert.equal(config.name, script);
    assert.equal(config.vars.ENVIRONMENT, ENVIRONMENT);
    assert.equal(config.vars.INJECT_IDENTITY_INTO_MESSAGE, env && "true");
    assert.deepEqual(config.routes ?? [], domain ? [{ pattern: domain, custom_domain: true }] : []);
    assert.equal(config.observability.enabled, true);
    assert.deepEqual(config.durable_objects.bindings, [
      { name: "AGENT_RELAY_SESSION", class_name: "AgentRelaySession" },
      { name: "PROXY_TRUST_STATE", class_name: "ProxyTrustState" },
      { name: "REVOCATION_FEED", class_name: "RevocationFeed" },
    ]);
    assert.deepEqual(config.migrations.slice(0, 2), [
      { tag: "v1-agent-relay-session", new_sqlite_classes: ["AgentRelaySession"] },
      { tag: "v2-proxy-trust-state", new_sqlite_classes: ["ProxyTrustState"] },
    ]);
    assert.deepEqual(config.migrations.slice(2), [{ tag: "v3-revocation-feed", new_sqlite_classes: ["RevocationFeed"] }]);
    assert.equal(config.d1_databases.length, 1);
    assert.equal(config.d1_databases[0].binding, "DB");
    assert.equal(config.d1_databases[0].migrations_dir, "migrations");
    assert.deepEqual(config.queues.producers, [
      { binding: "EVENTS_QUEUE", queue: `clawdentity-events${suffix}` },
      { binding: "RECEIPT_QUEUE", queue: `clawdentity-receipts${suffix}` },
    ]);
    const [consumers, letters] = [config.queues.consumers.slice(0, 2), config.queues.consumers.slice(2)];
    assert.deepEqual(letters, ["events", "receipts"].map((kind) => ({
      queue: `clawdentity-${kind}-dlq${suffix}`,
      max_batch_size: 50,
      max_batch_timeout: 0,
      max_retries: 100,
      retry_delay: 60,
    })));
    assert.deepEqual(consumers, ["events", "receipts"].map((kind) => ({
      queue: `clawdentity-${kind}${suffix}`,
      dead_letter_queue: `clawdentity-${kind}-dlq${suffix}`,
      max_batch_size: 100,
      max_batch_timeout: 0,
      max_retries: 100,
      retry_delay: 1,
    })));
    if (env) assert.equal(config.build.command, "npm run build");
    assert.deepEqual(config.triggers.crons, ["* * * * *"]);
    const names = Object.keys(config.vars);
    assert.ok(!names.some((name) => /SECRET|TOKEN|SERVICE_ID/.test(name)), `no secret is a variable: ${names}`);
  });
}

test("a fork that does not own the custom domains removes one line of an environment", () => {
  const lines = readFileSync(join(ROOT, "wrangler.toml"), "utf8").split("\n");
  const without = lines.filter((line) => !line.startsWith("routes = "));
  assert.equal(lines.length - without.length, 2);
  assert.doesNotMatch(without.join("\n"), /proxy\.clawdentity\.com/);
});

test("the local environment cannot be deployed: its build refuses, and its database id is no id", () => {
  const config = readConfig({ config: join(ROOT, "wrangler.toml") });
  assert.equal(config.build.command, "node scripts/wrangler-dev.mjs");
  const build = (WRANGLER_COMMAND) =>
    spawnSync("sh", ["-c", config.build.command], { cwd: ROOT, env: { ...process.env, WRANGLER_COMMAND }, encoding: "utf8" });
  for (const command of ["deploy", "versions upload"]) {
    const { status, stderr } = build(command);
    assert.equal(status, 1, command);
    assert.match(stderr, /add --env dev, staging or production/);
  }
  assert.doesNotMatch(config.d1_databases[0].database_id, /^[0-9a-f-]{36}$/);
});

test("npx wrangler dev works at once: it builds, migrates, and has the development settings", async (t) => {
  const env = { ...process.env, BUILD_PROFILE: process.env.BUILD_PROFILE || "release", WRANGLER_SEND_METRICS: "false" };
  const program = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
  const args = ["dev", "--ip", "127.0.0.1", "--port", "0", "--inspector-port", "0"];
  const child = spawn(process.execPath, [program, ...args], { cwd: ROOT, env, stdio: ["ignore", "pipe", "pipe"], detached: true });
  t.after(() => process.kill(-child.pid, "SIGKILL"));
  let output = "";
  const url = await new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.on("data", (bytes) => {
        output += bytes;
        const ready = /Ready on (http:\S+)/.exec(output);
        if (ready) resolve(ready[1]);
      });
    }
    child.once("exit", () => reject(new Error(output)));
  });
  const health = await (await fetch(`${url}/health`)).json();
  // All is there but a registry, which `npm start` would have started too.
  const problems = health.readiness.problems.map(({ what }) => what);
  assert.deepEqual(problems, ["signing_keys_unavailable"], output);
  const authorization = `Bearer ${localSecrets().ADMIN_TOKEN}`;
  const ledger = await fetch(`${url}/admin/v1/revocations`, { headers: { authorization } });
  assert.equal(ledger.status, 200, `the tables are there: ${output}`);
});

test("a migration file is split into its statements", () => {
  const sql = `-- a comment; with a semicolon
CREATE TABLE a (
  x TEXT -- why; not
);
CREATE TRIGGER t AFTER INSERT ON a BEGIN
  DELETE FROM a;
END;
INSERT INTO a VALUES ('y')`;
  assert.deepEqual(splitStatements(sql).map((statement) => statement.split("\n")[0]), [
    "CREATE TABLE a (",
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN",
    "INSERT INTO a VALUES ('y')",
  ]);
});

// `npm run bootstrap` and `npm run deploy` against a stand-in for wrangler that records calls and fails where it is told
// to: what they do, what they say, and that each can be given again after any failure.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../../scripts/setup.mjs";

const QUEUES = ["events", "receipts", "events-dlq", "receipts-dlq"].map((name) => `clawdentity-${name}-dev`);
const ID = "00000000-0000-4000-8000-000000000001";
const REGISTRY_SECRETS = { REGISTRY_INTERNAL_SERVICE_ID: "who", REGISTRY_INTERNAL_SERVICE_SECRET: "proof" };
const STEPS_OF_BOOTSTRAP = [
  "whoami",
  "queues create clawdentity-events-dev",
  "queues create clawdentity-receipts-dlq-dev",
  "d1 list",
  "d1 create",
  "secret list",
  "secret put REGISTRY_INTERNAL_SERVICE_SECRET",
  "secret put ADMIN_TOKEN",
  "secret put FEED_TOKEN",
];

/** A directory with an account, a wrangler.toml of its own, and a build that takes no time. */
function place(t, account = {}) {
  const directory = mkdtempSync(join(tmpdir(), "operate-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const config = join(directory, "wrangler.toml");
  // Without a database id of dev, whatever the tree's own file has by now, and without the custom domains, as in a fork.
  const toml = readFileSync(join(ROOT, "wrangler.toml"), "utf8").replace(/^routes = .*\n/gm, "");
  writeFileSync(config, toml.replace(/(database_name = "clawdentity-proxy-dev"\n)database_id = .*\n/, "$1"));
  const file = join(directory, "account.json");
  const fresh = { calls: [], queues: [], databases: [], secrets: {}, versions: [], worker: false };
  writeFileSync(file, JSON.stringify({ ...fresh, ...account }));
  const bin = join(directory, "bin");
  mkdirSync(bin);
  writeFileSync(join(bin, "npm"), '#!/bin/sh\necho "npm $*" >> "$NPM_CALLS"\nexit "${NPM_EXIT:-0}"\n', { mode: 0o755 });
  const npmCalls = join(directory, "npm.log");
  const run = (script, args, env = {}) =>
    new Promise((resolve) => {
      const child = spawn(
        process.execPath,
        [join(ROOT, `scripts/operate/${script}.mjs`), ...args, "--config", config],
        {
          cwd: ROOT,
          stdio: ["ignore", "pipe", "pipe"],
          env: {
            ...process.env,
            PATH: `${bin}${delimiter}${process.env.PATH}`,
            NPM_CALLS: npmCalls,
            ACCOUNT: file,
            WRANGLER: join(ROOT, "tests/support/stand-in-wrangler.mjs"),
            HEALTH_PAUSE_MS: "1",
            HEALTH_TRIES: "4",
            ...env,
          },
        },
      );
      let output = "";
      for (const stream of [child.stdout, child.stderr]) stream.on("data", (bytes) => (output += bytes));
      child.on("close", (code) => resolve({ code, output }));
    });
  const secrets = join(directory, "secrets");
  return {
    config,
    secretsFile: join(secrets, "dev.env"),
    bootstrap: (env, ...more) => run("bootstrap", ["--env", "dev", "--secrets-dir", secrets, ...more], env),
    deploy: (env, ...more) => run("deploy", ["--env", "dev", ...more], env),
    run,
    account: () => JSON.parse(readFileSync(file, "utf8")),
    forget: () => writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), calls: [] })),
    built: () => existsSync(npmCalls),
  };
}

/** The account and wrangler.toml as bootstrap leaves them. */
async function bootstrapped(t) {
  const here = place(t);
  const done = await here.bootstrap(REGISTRY_SECRETS);
  assert.equal(done.code, 0, done.output);
  here.forget();
  return here;
}

/** Serves /health: `answers` in turn, the last one for ever. */
async function health(t, answers) {
  let n = 0;
  const seen = [];
  const server = createServer((request, response) => {
    seen.push(request.headers);
    const [status, body] = answers[Math.min(n, answers.length - 1)];
    n += 1;
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  return { url: `http://127.0.0.1:${server.address().port}`, seen };
}

/** The version that deploy gave the Worker. */
const versionOf = (here) => here.account().calls.flatMap((call) => /APP_VERSION:(\S+)/.exec(call)?.[1] ?? [])[0];

test("bootstrap makes everything once, says so, and keeps no secret from its operator", async (t) => {
  const here = place(t);
  const first = await here.bootstrap(REGISTRY_SECRETS);
  assert.equal(first.code, 0, first.output);
  const { queues, databases, secrets } = here.account();
  assert.deepEqual(queues.sort(), [...QUEUES].sort());
  assert.deepEqual(databases, [{ name: "clawdentity-proxy-dev", uuid: ID }]);
  assert.equal(secrets.REGISTRY_INTERNAL_SERVICE_ID, "who");
  assert.match(secrets.ADMIN_TOKEN, /^[\w-]{43}$/);
  assert.notEqual(secrets.ADMIN_TOKEN, secrets.FEED_TOKEN);
  assert.ok(readFileSync(here.secretsFile, "utf8").includes(`ADMIN_TOKEN="${secrets.ADMIN_TOKEN}"`));
  assert.equal(statSync(here.secretsFile).mode & 0o777, 0o600);
  for (const value of Object.values(secrets)) assert.ok(!first.output.includes(value), "a secret is in no output");
  assert.match(
    readFileSync(here.config, "utf8"),
    new RegExp(`database_name = "clawdentity-proxy-dev"\ndatabase_id = "${ID}"`),
  );
  assert.match(first.output, /left to do: deploy it/);

  here.forget();
  const toml = readFileSync(here.config, "utf8");
  const again = await here.bootstrap({});
  assert.equal(again.code, 0, again.output);
  assert.ok(!here.account().calls.some((call) => /create|put/.test(call)), "the second run changes nothing");
  assert.equal(readFileSync(here.config, "utf8"), toml);
});

test("bootstrap fails at any step with one sentence, and the next run completes it", async (t) => {
  await Promise.all(
    STEPS_OF_BOOTSTRAP.map(async (step) => {
      const here = place(t);
      const failed = await here.bootstrap({ ...REGISTRY_SECRETS, FAIL_AT: step });
      assert.equal(failed.code, 1, `${step}: ${failed.output}`);
      const last = failed.output.trim().split("\n").at(-1);
      assert.match(last, /^\[bootstrap\] .*wrangler said: .*told to fail here/, step);
      const again = await here.bootstrap(REGISTRY_SECRETS);
      assert.equal(again.code, 0, `${step}: ${again.output}`);
      const { queues, secrets } = here.account();
      assert.equal(queues.length, 4, step);
      assert.equal(Object.keys(secrets).length, 4, step);
      assert.ok(
        readFileSync(here.secretsFile, "utf8").includes(secrets.ADMIN_TOKEN),
        `${step}: the token set is the token kept`,
      );
    }),
  );
});

test("bootstrap without the registry's secrets says what is left; with another account's id it changes nothing", async (t) => {
  const here = place(t);
  const done = await here.bootstrap({ REGISTRY_INTERNAL_SERVICE_ID: "", REGISTRY_INTERNAL_SERVICE_SECRET: "" });
  assert.equal(done.code, 0, done.output);
  assert.match(done.output, /left to do: set REGISTRY_INTERNAL_SERVICE_ID/);
  writeFileSync(here.config, readFileSync(here.config, "utf8").replace(ID, ID.replace("0001", "9999")));
  const other = await here.bootstrap(REGISTRY_SECRETS);
  assert.equal(other.code, 1);
  assert.match(other.output, /sign in to the right account/);
});

test("a dry run calls nothing and changes nothing; wrong usage is exit code 2", async (t) => {
  const here = place(t);
  const toml = readFileSync(here.config, "utf8");
  for (const done of [
    await here.bootstrap({}, "--dry-run"),
    await here.deploy({}, "--dry-run"),
    await here.deploy({}, "--dry-run", "--gradual"),
    await here.deploy({}, "--dry-run", "--rollback"),
  ]) {
    assert.equal(done.code, 0, done.output);
    assert.match(done.output, /would run: wrangler whoami --env dev/);
    assert.match(done.output, /nothing was called and nothing was changed/);
  }
  for (const args of [
    [],
    ["--env", "local"],
    ["--env", "prod"],
    ["--env", "dev", "--percent", "101"],
    ["--env", "dev", "--nope"],
  ]) {
    const wrong = await here.run("deploy", args);
    assert.equal(wrong.code, 2, `${args}: ${wrong.output}`);
  }
  assert.deepEqual(here.account().calls, []);
  assert.ok(!here.built());
  assert.equal(readFileSync(here.config, "utf8"), toml);
});

test("deploy refuses what is incomplete before it builds", async (t) => {
  const here = place(t);
  const done = await here.deploy({});
  assert.equal(done.code, 1);
  assert.match(
    done.output,
    /no database_id for dev; the secret REGISTRY_INTERNAL_SERVICE_ID is not set; .*Run npm run bootstrap/,
  );
  assert.ok(!here.built());
});

test("deploy builds, migrates, deploys, and waits until what it deployed is ready", async (t) => {
  const here = await bootstrapped(t);
  // The answer to which version is ready is only known once it is deployed, so the first run names no ready one.
  const old = await health(t, [[200, { ready: true, version: "old", readiness: {} }]]);
  const waited = await here.deploy({}, "--url", old.url);
  assert.equal(waited.code, 1);
  const version = versionOf(here);
  assert.match(
    waited.output,
    new RegExp(`still answers as version old, not ${version.replaceAll(".", "\\.").replaceAll("+", "\\+")}`),
  );
  assert.ok(here.built());
  const steps = here.account().calls.map((call) => call.split(" ").slice(0, 3).join(" "));
  assert.deepEqual(steps, [
    "whoami",
    "secret list --format",
    "d1 migrations apply",
    `deploy --var APP_VERSION:${version}`,
  ]);

  const { url } = await health(t, [
    [503, {}],
    [200, { ready: true, version: "old" }],
    [200, { ready: false, version, readiness: {} }],
    [200, { ready: true, version }],
  ]);
  const done = await here.deploy({}, "--url", url);
  assert.equal(done.code, 0, done.output);
  assert.match(done.output, /ready: /);
});

test("deploy says in one sentence what is wrong with what it deployed", async (t) => {
  const here = await bootstrapped(t);
  await here.deploy({ FAIL_AT: "deploy" });
  const version = versionOf(here);
  for (const [status, body, expect] of [
    [
      200,
      { ready: false, version, readiness: { databaseBindingConfigured: false, crl: "never" } },
      /not ready: databaseBindingConfigured/,
    ],
    [
      500,
      { error: { code: "CONFIG_VALIDATION_FAILED", details: { fieldErrors: { REGISTRY_URL: ["must be a URL"] } } } },
      /settings are wrong: REGISTRY_URL \(must be a URL\)/,
    ],
    [503, { error: { code: "PROXY_RELAY_UNAVAILABLE" } }, /answers 503 PROXY_RELAY_UNAVAILABLE/],
  ]) {
    const { url } = await health(t, [[status, body]]);
    const done = await here.deploy({}, "--url", url);
    assert.equal(done.code, 1);
    assert.match(done.output.trim().split("\n").at(-1), expect);
    assert.match(done.output, /To go back: npm run deploy -- --env dev --rollback/);
  }
});

test("deploy fails at any step with one sentence that says what serves now", async (t) => {
  const here = await bootstrapped(t);
  for (const [step, expect, args = []] of [
    ["whoami", /Not signed in/],
    ["secret list", /secrets could not be listed/],
    ["d1 migrations apply", /deployed version is unchanged/],
    ["deploy", /the version before it still serves/],
    ["deployments status", /could not be read/, ["--gradual"]],
    ["versions upload", /nothing was deployed/, ["--gradual"]],
    ["versions deploy", /gets no traffic/, ["--gradual"]],
    ["rollback", /current version still serves/, ["--rollback"]],
  ]) {
    if (args.length > 0)
      writeFileSync(
        join(here.config, "../account.json"),
        JSON.stringify({ ...here.account(), versions: [{ version_id: "old", percentage: 100 }] }),
      );
    const failed = await here.deploy({ FAIL_AT: step }, ...args);
    assert.equal(failed.code, 1, `${step}: ${failed.output}`);
    assert.match(failed.output.trim().split("\n").at(-1), expect, step);
  }
  here.forget();
  const unbuilt = await here.deploy({ NPM_EXIT: "1" });
  assert.match(unbuilt.output, /could not be built; nothing was changed/);
  assert.deepEqual(here.account().calls, ["whoami", "secret list --format json"]);
});

test("a gradual deployment gives the new version a share and asks the new version for its health; rollback rolls back", async (t) => {
  const here = await bootstrapped(t);
  const none = await here.deploy({}, "--gradual");
  assert.match(none.output, /deploy without --gradual first/);
  writeFileSync(
    join(here.config, "../account.json"),
    JSON.stringify({ ...here.account(), versions: [{ version_id: "old", percentage: 100 }] }),
  );
  await here.deploy({ FAIL_AT: "versions deploy" }, "--gradual");
  const { url, seen } = await health(t, [[200, { ready: true, version: versionOf(here) }]]);
  const done = await here.deploy({}, "--gradual", "--percent", "25", "--url", url);
  assert.equal(done.code, 0, done.output);
  const id = "00000000-0000-4000-8000-000000000099";
  assert.deepEqual(here.account().versions, [
    { version_id: id, percentage: 25 },
    { version_id: "old", percentage: 75 },
  ]);
  assert.equal(seen.at(-1)["cloudflare-workers-version-overrides"], `clawdentity-proxy-dev="${id}"`);

  const back = await here.deploy({}, "--rollback", "--url", url);
  assert.equal(back.code, 0, back.output);
  assert.ok(here.account().calls.at(-1).startsWith("rollback"));
});

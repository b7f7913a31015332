// `npm run deploy -- --env <name>`: checks, builds, migrates, deploys, and asks /health of what it deployed until it is
// ready. Stops at the first step that fails and says in one sentence what is wrong and what is deployed now.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

import { ROOT } from "../setup.mjs";
import { REGISTRY_SECRETS, Stop, Usage, Wrangler, environment, hasSecret, main, options } from "./wrangler.mjs";

const USAGE =
  "Usage: npm run deploy -- --env <name> [--gradual [--percent 10]] [--rollback] [--url URL] [--dry-run]\n" +
  "  --gradual   the new version gets a share of the traffic; give the command again with a higher --percent to go on\n" +
  "  --rollback  back to the version before; migrations stay, as every version works with newer tables";
const HEALTH_TRIES = Number(process.env.HEALTH_TRIES ?? 45);
const HEALTH_PAUSE_MS = Number(process.env.HEALTH_PAUSE_MS ?? 2000);
const HEALTH_TIMEOUT_MS = 10_000;
const MAX_VERSION_CHARS = 64;
let dryRun = false;
const say = (line) => console.log(`[deploy] ${line}`);
/** Says what was done, where it was. */
const did = (line) => dryRun || say(line);

await main("deploy", async () => {
  const asked = options(
    {
      gradual: { type: "boolean" },
      percent: { type: "string" },
      rollback: { type: "boolean" },
      url: { type: "string" },
    },
    USAGE,
  );
  const percent = Number(asked.percent ?? (asked.gradual ? 10 : 100));
  if (!(Number.isInteger(percent) && percent >= 1 && percent <= 100))
    throw new Usage("--percent is a whole number from 1 to 100");
  if (asked.rollback && asked.gradual) throw new Usage("--rollback and --gradual exclude each other");
  const config = await environment(asked);
  dryRun = asked.dryRun;
  const wrangler = new Wrangler(asked, say);
  wrangler.signedIn();
  const plan = { ...asked, percent, config, wrangler, version: versionName() };
  if (asked.rollback) await rollBack(plan);
  else await deploy(plan);
});

async function deploy(plan) {
  const { wrangler, config, env } = plan;
  checkSettings(plan);
  build();
  wrangler.run(
    ["d1", "migrations", "apply", config.d1_databases[0].binding, "--remote"],
    "The migrations could not be applied; the deployed version is unchanged",
  );
  did("migrations: applied");
  const deployed = plan.gradual ? await deployShare(plan) : deployAll(plan);
  const url = addressOf(plan, deployed);
  if (dryRun) return say("dry run: nothing was called and nothing was changed");
  await waitUntilReady(url, {
    ...plan,
    versionId: plan.gradual ? deployed.version_id : undefined,
    back: `npm run deploy -- --env ${env} --rollback`,
  });
}

function checkSettings({ wrangler, config, env }) {
  const faults = [];
  const database = config.d1_databases[0];
  if (!database?.database_id) faults.push(`wrangler.toml has no database_id for ${env}`);
  if (!config.vars.ENVIRONMENT) faults.push("the variable ENVIRONMENT is missing");
  if (config.vars.ENVIRONMENT === "local") faults.push("ENVIRONMENT is local, which is not deployed");
  const url = String(config.vars.REGISTRY_URL ?? "");
  if (url && !/^https:\/\//.test(url)) faults.push(`REGISTRY_URL is ${url}, and a deployment needs https`);
  const secrets = wrangler.secrets();
  for (const name of REGISTRY_SECRETS) {
    if (secrets && !hasSecret(secrets, name)) faults.push(`the secret ${name} is not set`);
  }
  if (faults.length > 0 && dryRun)
    return say(`would stop here: ${faults.join("; ")}. Run npm run bootstrap -- --env ${env}`);
  if (faults.length > 0) throw new Stop(`Not deployed: ${faults.join("; ")}. Run npm run bootstrap -- --env ${env}`);
  if (secrets && !secrets.includes("ADMIN_TOKEN"))
    say("warning: ADMIN_TOKEN is not set, so nobody can revoke here by hand");
  did("settings and secrets: complete");
}

/** Before the migrations: a tree that does not build changes nothing. wrangler builds again, which then takes a moment. */
function build() {
  if (dryRun) return say("would run: npm run build");
  const done = spawnSync("npm", ["run", "build"], { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) throw new Stop("The Worker could not be built; nothing was changed");
}

function deployAll({ wrangler, version }) {
  const entries = recorded((env) =>
    wrangler.run(
      ["deploy", "--var", `APP_VERSION:${version}`],
      "The deployment failed; the version before it still serves, with the new tables",
      { env },
    ),
  );
  did(`deployed: ${version}`);
  return entries.find((entry) => entry.type === "deploy") ?? {};
}

async function deployShare({ wrangler, version, percent }) {
  const status = wrangler.json(["deployments", "status", "--json"], "The current deployment could not be read");
  // A rollout that is under way goes on with the version that it is about.
  const versions = status?.versions ?? [];
  const before = [...versions].sort((a, b) => b.percentage - a.percentage)[0];
  if (!dryRun && !before)
    throw new Stop(
      "Nothing is deployed yet, so there is nothing to share traffic with: deploy without --gradual first",
    );
  const entries = recorded((env) =>
    wrangler.run(
      ["versions", "upload", "--tag", version, "--var", `APP_VERSION:${version}`],
      "The version could not be uploaded; nothing was deployed",
      { env },
    ),
  );
  const uploaded = entries.find((entry) => entry.type === "version-upload") ?? {};
  if (!dryRun && !uploaded.version_id)
    throw new Stop("wrangler did not say the id of the version that it uploaded; nothing was deployed");
  const id = uploaded.version_id ?? "<new version>";
  const old = before?.version_id ?? "<current version>";
  const shares = percent === 100 ? [`${id}@100%`] : [`${id}@${percent}%`, `${old}@${100 - percent}%`];
  wrangler.run(
    ["versions", "deploy", ...shares, "--yes"],
    "The version was uploaded, but gets no traffic: the version before it serves all of it",
  );
  did(`deployed: ${version} gets ${percent} % of the traffic; to go on: --gradual --percent with a higher number`);
  return uploaded;
}

async function rollBack(plan) {
  plan.wrangler.run(
    ["rollback", "--message", "npm run deploy -- --rollback", "--yes"],
    "The rollback failed; the current version still serves",
  );
  did("rolled back to the version before");
  if (dryRun) return say("dry run: nothing was called and nothing was changed");
  await waitUntilReady(addressOf(plan, {}), { ...plan, version: undefined, back: "npx wrangler deployments list" });
}

/** What wrangler writes into its output file while `work` calls it. */
function recorded(work) {
  const directory = mkdtempSync(join(tmpdir(), "deploy-"));
  const file = join(directory, "output.ndjson");
  try {
    work({ WRANGLER_OUTPUT_FILE_PATH: file });
    if (!existsSync(file)) return [];
    return readFileSync(file, "utf8")
      .split("\n")
      .filter(Boolean)
      .map((line) => JSON.parse(line));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** --url, else a domain of wrangler.toml, else what wrangler said. */
function addressOf({ url, config }, { targets = [] }) {
  const routes = config.routes ?? (config.route ? [config.route] : []);
  const domains = routes
    .map((route) => (typeof route === "string" ? route : route.pattern))
    .filter((name) => !name.includes("*"));
  const target = targets.find((each) => /^https:\/\//.test(each));
  const found = url ?? (domains[0] ? `https://${domains[0].split("/")[0]}` : target);
  if (!found && !dryRun)
    throw new Stop("Deployed, but its address is not known here: give --url, and look at its /health");
  return found?.replace(/\/$/, "");
}

async function waitUntilReady(url, { version, versionId, config, back }) {
  const headers = versionId ? { "Cloudflare-Workers-Version-Overrides": `${config.name}="${versionId}"` } : {};
  let fault = "";
  for (let n = 0; n < HEALTH_TRIES; n += 1) {
    if (n > 0) await pause(HEALTH_PAUSE_MS);
    fault = await faultOf(`${url}/health`, version, headers);
    if (!fault) return say(`ready: ${url}/health`);
  }
  throw new Stop(`Deployed, but not ready: ${fault}. To go back: ${back}`);
}

/** What is wrong, or nothing. */
async function faultOf(url, version, headers) {
  let response;
  let body;
  try {
    response = await fetch(url, { headers, signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS) });
    body = await response.json();
  } catch (error) {
    return response
      ? `${url} answers ${response.status} with something that is not JSON`
      : `${url} cannot be reached (${error.cause?.code ?? error.message})`;
  }
  const fields = body?.error?.details?.fieldErrors;
  if (fields)
    return `these settings are wrong: ${Object.entries(fields)
      .map(([name, faults]) => `${name} (${[faults].flat().join(", ")})`)
      .join("; ")}`;
  if (response.status !== 200) return `${url} answers ${response.status} ${body?.error?.code ?? ""}`.trim();
  if (version && body.version !== version) return `${url} still answers as version ${body.version}, not ${version}`;
  if (body.ready === true) return "";
  const reasons = (body.reasons ?? body.notReady ?? []).map((each) =>
    typeof each === "string" ? each : (each.reason ?? JSON.stringify(each)),
  );
  const missing = Object.entries(body.readiness ?? {})
    .filter(([, value]) => value === false)
    .map(([name]) => name);
  const all = [...reasons, ...missing];
  return `/health says that it is not ready${all.length > 0 ? `: ${all.join(", ")}` : `: ${JSON.stringify(body.readiness)}`}`;
}

/** What `/health` will say: the tag or commit, so that a deployment can be told from the one before. */
function versionName() {
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8"));
  const git = spawnSync("git", ["describe", "--tags", "--always", "--dirty"], { cwd: ROOT, encoding: "utf8" });
  const described = git.status === 0 ? git.stdout.trim() : "";
  const name =
    /^v?\d/.test(described) && described.includes(".")
      ? described.replace(/^v/, "")
      : [version, described].filter(Boolean).join("+");
  return name.slice(0, MAX_VERSION_CHARS);
}

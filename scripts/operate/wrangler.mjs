// What `npm run bootstrap` and `npm run deploy` share: their options, the environment's part of wrangler.toml, and one
// way to call wrangler. In a dry run nothing is called: each command is printed instead.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs, stripVTControlCharacters } from "node:util";

import { ROOT, ensurePackages } from "../setup.mjs";

const TIMEOUT_MS = 600_000; // of one command

/** A sentence for the operator; ends the command with exit code 1. */
export class Stop extends Error {}

/** Wrong usage; exit code 2. */
export class Usage extends Error {}

/** Runs a command's steps and ends the process with one sentence where one of them stops. */
export async function main(name, steps) {
  try {
    await steps();
  } catch (error) {
    if (!(error instanceof Stop || error instanceof Usage)) throw error;
    console.error(`[${name}] ${error.message}`);
    process.exit(error instanceof Usage ? 2 : 1);
  }
}

/** The options common to both commands, and `more`. */
export function options(more, usage) {
  const common = { env: { type: "string" }, config: { type: "string" }, "dry-run": { type: "boolean" } };
  let values;
  try {
    ({ values } = parseArgs({ options: { ...common, ...more, help: { type: "boolean" } } }));
  } catch (error) {
    throw new Usage(`${error.message}\n${usage}`);
  }
  if (values.help) {
    console.log(usage);
    process.exit(0);
  }
  if (!values.env) throw new Usage(`--env is missing\n${usage}`);
  return { ...values, config: values.config ?? join(ROOT, "wrangler.toml"), dryRun: values["dry-run"] ?? false };
}

/** What wrangler.toml says of an environment that can be deployed. (To import wrangler itself would take seconds.) */
export async function environment({ env, config }) {
  ensurePackages();
  const { parse } = await import("smol-toml");
  const environments = parse(readFileSync(config, "utf8")).env ?? {};
  if (!Object.hasOwn(environments, env)) {
    throw new Usage(`wrangler.toml has no environment ${env}: it has ${Object.keys(environments).join(", ")}`);
  }
  return environments[env];
}

/** Every queue of an environment: those it writes to, those it reads, and their dead-letter queues. */
export function queuesOf({ queues }) {
  const names = [
    ...queues.producers.map((producer) => producer.queue),
    ...queues.consumers.flatMap((consumer) => [consumer.queue, consumer.dead_letter_queue]),
  ];
  return [...new Set(names.filter(Boolean))];
}

/** Calls wrangler for one environment. */
export class Wrangler {
  constructor({ env, config, dryRun }, say) {
    this.place = ["--env", env, "--config", config];
    this.dryRun = dryRun;
    this.say = say;
  }

  /** Runs one command and returns `{ ok, output }`; says it instead in a dry run. */
  try(args, { input, env = {} } = {}) {
    if (this.dryRun) {
      this.say(`would run: wrangler ${[...args, ...this.place].join(" ")}`);
      return { ok: true, output: "" };
    }
    const program = process.env.WRANGLER ?? join(ROOT, "node_modules/wrangler/bin/wrangler.js");
    const done = spawnSync(process.execPath, [program, ...args, ...this.place], {
      cwd: ROOT,
      encoding: "utf8",
      input: input ?? "",
      timeout: TIMEOUT_MS,
      maxBuffer: 64 * 1024 * 1024,
      env: { ...process.env, CI: "true", WRANGLER_SEND_METRICS: "false", WRANGLER_HIDE_BANNER: "true", ...env },
    });
    const output = `${done.stdout ?? ""}${done.stderr ?? ""}${done.error ? done.error.message : ""}`;
    return { ok: done.status === 0, output, stdout: done.stdout ?? "" };
  }

  /** As `try`, but a failure stops the command with `sentence` and what wrangler said. */
  run(args, sentence, more) {
    const done = this.try(args, more);
    if (!done.ok) throw new Stop(`${sentence}. wrangler said: ${lastLines(done.output)}`);
    return done;
  }

  /** As `run`, for a command that prints JSON. In a dry run there is no answer. */
  json(args, sentence) {
    const { stdout } = this.run(args, sentence);
    return this.dryRun ? undefined : parseJson(stdout, sentence);
  }

  signedIn() {
    this.run(["whoami"], "Not signed in to Cloudflare: run `npx wrangler login`, or set CLOUDFLARE_API_TOKEN");
  }

  /** The names of the Worker's secrets; none where there is no Worker yet. */
  secrets() {
    const done = this.try(["secret", "list", "--format", "json"]);
    if (this.dryRun) return undefined;
    if (done.ok) return parseJson(done.stdout, "The secrets could not be listed").map((secret) => secret.name);
    if (/\b(10007|10090)\b|not found|does not exist/i.test(done.output)) return [];
    throw new Stop(`The secrets could not be listed. wrangler said: ${lastLines(done.output)}`);
  }
}

/** A secret goes by either name (docs/wire.md §9). */
export const REGISTRY_SECRETS = ["REGISTRY_INTERNAL_SERVICE_ID", "REGISTRY_INTERNAL_SERVICE_SECRET"];
export const hasSecret = (names, name) =>
  names.includes(name) || names.includes(name.replace("REGISTRY_", "BOOTSTRAP_"));

/** wrangler may print a warning before its JSON. */
function parseJson(text, sentence) {
  const start = text.search(/[[{]/);
  try {
    return JSON.parse(text.slice(start));
  } catch {
    throw new Stop(`${sentence}: wrangler's answer could not be read: ${lastLines(text)}`);
  }
}

function lastLines(output) {
  const lines = stripVTControlCharacters(output)
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return lines.slice(-3).join(" | ") || "nothing";
}

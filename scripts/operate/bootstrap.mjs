// `npm run bootstrap -- --env <name>`: everything that an environment needs before its first deployment. Each step looks
// first and does only what is missing, so the command can be given again after any failure.
import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import { parseEnv } from "node:util";

import { ROOT } from "../setup.mjs";
import { REGISTRY_SECRETS, Stop, Wrangler, environment, hasSecret, main, options, queuesOf } from "./wrangler.mjs";

const USAGE = "Usage: npm run bootstrap -- --env <name> [--dry-run] [--config wrangler.toml] [--secrets-dir DIR]";
const GENERATED_SECRETS = ["ADMIN_TOKEN", "FEED_TOKEN"];
const say = (line) => console.log(`[bootstrap] ${line}`);

await main("bootstrap", async () => {
  const asked = options({ "secrets-dir": { type: "string" } }, USAGE);
  const config = await environment(asked);
  const wrangler = new Wrangler(asked, say);
  const left = [];
  wrangler.signedIn();
  for (const name of queuesOf(config)) makeQueue(wrangler, name);
  makeDatabase(wrangler, config.d1_databases[0], asked);
  const known = wrangler.secrets();
  await setRegistrySecrets(wrangler, known, left);
  setGeneratedSecrets(wrangler, known, asked);
  left.push(`deploy it: npm run deploy -- --env ${asked.env}`);
  say(asked.dryRun ? "dry run: nothing was called and nothing was changed" : "done");
  for (const line of left) say(`left to do: ${line}`);
});

/** A queue that cannot be made may be there already: only if it is not, that is a failure. */
function makeQueue(wrangler, name) {
  if (wrangler.dryRun) return void wrangler.try(["queues", "create", name]);
  if (wrangler.try(["queues", "info", name]).ok) return say(`queue ${name}: there already`);
  wrangler.run(["queues", "create", name], `The queue ${name} could not be made`);
  say(`queue ${name}: made`);
}

function makeDatabase(wrangler, database, { env, config }) {
  const name = database.database_name;
  const find = () =>
    wrangler.json(["d1", "list", "--json"], "The databases could not be listed")?.find((each) => each.name === name)
      ?.uuid;
  let id = find();
  if (wrangler.dryRun) {
    wrangler.try(["d1", "create", name]);
    return say(`would write the id of ${name} into wrangler.toml, unless it is there`);
  }
  if (id) {
    say(`database ${name}: there already`);
  } else {
    wrangler.run(["d1", "create", name], `The database ${name} could not be made`);
    id = find();
    if (!id) throw new Stop(`The database ${name} was made but is not listed yet: give the command again`);
    say(`database ${name}: made`);
  }
  if (database.database_id === id) return say("wrangler.toml: has its id");
  if (database.database_id) {
    throw new Stop(
      `wrangler.toml says ${database.database_id} for ${name}, but this account's database of that name is ` +
        `${id}: sign in to the right account, or correct the id`,
    );
  }
  writeFileSync(config, withDatabaseId(readFileSync(config, "utf8"), env, name, id));
  say(`wrangler.toml: database_id of ${name} written; commit it`);
}

/** wrangler.toml with the id below the database's name, and nothing else changed. */
function withDatabaseId(toml, env, name, id) {
  const lines = toml.split("\n");
  const section = lines.findIndex((line) => line.trim() === `[[env.${env}.d1_databases]]`);
  const at = section < 0 ? -1 : lines.findIndex((line, n) => n > section && /^\s*database_name\s*=/.test(line));
  if (at < 0)
    throw new Stop(`wrangler.toml has no [[env.${env}.d1_databases]]: write database_id = "${id}" for ${name} by hand`);
  lines.splice(at + 1, 0, `database_id = "${id}"`);
  return lines.join("\n");
}

/** From the environment variable of the same name, or asked for where somebody can answer. */
async function setRegistrySecrets(wrangler, known, left) {
  for (const name of REGISTRY_SECRETS) {
    if (wrangler.dryRun) {
      say(`would ask for ${name}, unless it is set`);
      continue;
    }
    if (hasSecret(known, name)) {
      say(`secret ${name}: set already`);
      continue;
    }
    const value = process.env[name] || (await ask(name));
    if (!value) {
      left.push(
        `set ${name}, which the registry's operator gives you: give this command again with ${name} in the environment`,
      );
      continue;
    }
    put(wrangler, name, value);
  }
}

async function ask(name) {
  if (!process.stdin.isTTY) return "";
  const terminal = createInterface({ input: process.stdin, output: process.stdout });
  const answer = await terminal.question(`${name} (empty: later): `);
  terminal.close();
  return answer.trim();
}

/** Written to a file of the operator's before it is set, so that a token is never set that nobody knows. */
function setGeneratedSecrets(wrangler, known, asked) {
  const directory = asked["secrets-dir"] ?? join(ROOT, ".secrets");
  const file = join(directory, `${asked.env}.env`);
  for (const name of GENERATED_SECRETS) {
    if (wrangler.dryRun) {
      say(`would generate ${name} into ${file} and set it, unless it is set`);
      continue;
    }
    if (known.includes(name)) {
      say(`secret ${name}: set already`);
      continue;
    }
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    let value = parseEnv(text)[name];
    if (!value) {
      value = randomBytes(32).toString("base64url");
      mkdirSync(directory, { recursive: true, mode: 0o700 });
      writeFileSync(file, `${text}${name}="${value}"\n`, { mode: 0o600 });
    }
    put(wrangler, name, value);
    say(`secret ${name}: its value is in ${file}; keep it where you keep passwords, then delete the file`);
  }
}

function put(wrangler, name, value) {
  wrangler.run(["secret", "put", name], `The secret ${name} could not be set`, { input: `${value}\n` });
  say(`secret ${name}: set`);
}

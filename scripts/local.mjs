// The proxy and the development registry as Miniflare options. Names, bindings, queues and the compatibility date come
// from wrangler.toml, so that what runs here cannot differ from what is deployed.
//
// Needs the npm packages and a build: import it after setup() and build().
import { readFileSync, readdirSync, existsSync } from "node:fs";
import { join } from "node:path";
import { parseEnv } from "node:util";

import { unstable_getMiniflareWorkerOptions as fromWrangler } from "wrangler";

import { ROOT } from "./setup.mjs";

const BUILD = join(ROOT, "build");
const REGISTRY_ROOT = join(ROOT, "tests/registry");

export const PROXY = "proxy";
export const REGISTRY = "registry";

/** The local environment's development-only credentials: .dev.vars, or the example that everyone has. */
export function localSecrets() {
  const own = join(ROOT, ".dev.vars");
  return parseEnv(readFileSync(existsSync(own) ? own : `${own}.example`, "utf8"));
}

/** What the runtime loads: the build, with `extraMain` (a module that imports ./index.js) in front of it where given. */
function builtModules(extraMain) {
  const read = (name, type) => ({ type, path: join(BUILD, name), contents: readFileSync(join(BUILD, name)) });
  return [
    ...(extraMain ? [{ type: "ESModule", path: join(BUILD, "main-for-tests.js"), contents: extraMain }] : []),
    read("index.js", "ESModule"),
    read("index_bg.wasm", "CompiledWasm"),
  ];
}

export function proxyWorker({ bindings = {}, extraMain, sockets, outboundService } = {}) {
  const { workerOptions } = fromWrangler(join(ROOT, "wrangler.toml"));
  const { compatibilityDate, compatibilityFlags, durableObjects, d1Databases, queueProducers, queueConsumers } =
    workerOptions;
  return {
    name: PROXY,
    compatibilityDate,
    compatibilityFlags,
    modules: builtModules(extraMain),
    modulesRoot: BUILD,
    durableObjects,
    d1Databases,
    queueProducers,
    queueConsumers,
    bindings: { ...workerOptions.bindings, ...localSecrets(), ...bindings },
    unsafeDirectSockets: sockets,
    ...(outboundService && { outboundService }),
  };
}

export function registryWorker(proxy, { bindings = {}, sockets } = {}) {
  return {
    name: REGISTRY,
    compatibilityDate: proxy.compatibilityDate,
    modules: true,
    modulesRules: [{ type: "ESModule", include: ["**/*.js"] }],
    modulesRoot: REGISTRY_ROOT,
    scriptPath: join(REGISTRY_ROOT, "index.js"),
    durableObjects: { REGISTRY: { className: "DevRegistry", useSQLite: true } },
    queueProducers: { EVENTS_QUEUE: proxy.queueProducers.EVENTS_QUEUE },
    bindings: { ...localSecrets(), ...bindings },
    unsafeDirectSockets: sockets,
  };
}

/** Everything that lives on disk, under one directory. */
export function persistUnder(directory) {
  return { defaultPersistRoot: directory, durableObjectsPersist: join(directory, "do"), d1Persist: join(directory, "d1") };
}

/**
 * Applies what is new in migrations/ and keeps the record where `wrangler d1 migrations` keeps it. Returns the names
 * of the files it applied.
 */
export async function applyMigrations(db) {
  await db.prepare(
    "CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)",
  ).run();
  const { results } = await db.prepare("SELECT name FROM d1_migrations").all();
  const applied = new Set(results.map((row) => row.name));
  const directory = join(ROOT, "migrations");
  const fresh = readdirSync(directory).filter((name) => name.endsWith(".sql") && !applied.has(name)).sort();
  for (const name of fresh) {
    const statements = splitStatements(readFileSync(join(directory, name), "utf8"));
    const record = db.prepare("INSERT INTO d1_migrations (name) VALUES (?)").bind(name);
    await db.batch([...statements.map((statement) => db.prepare(statement)), record]);
  }
  return fresh;
}

/** A statement ends at a line that ends in `;`, but a trigger's at `END;`. */
export function splitStatements(sql) {
  const statements = [];
  let current = [];
  for (const line of sql.split("\n").filter((text) => text.trim() !== "" && !text.trim().startsWith("--"))) {
    current.push(line);
    const bare = line.replace(/--.*$/, "").trim();
    const inTrigger = /^\s*CREATE\s+(TEMP\s+)?TRIGGER/i.test(current[0]) && !/^END;$/i.test(bare);
    if (bare.endsWith(";") && !inTrigger) {
      statements.push(current.join("\n"));
      current = [];
    }
  }
  if (current.length > 0) statements.push(current.join("\n"));
  return statements;
}

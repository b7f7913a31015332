// `npm start`: everything from a fresh clone to a running proxy. It sets up, builds, applies the migrations, and
// serves the proxy and the development registry from one process, because only workers of one runtime share a queue.
// What they store is in .local/state and outlives a restart. PROXY_PORT and REGISTRY_PORT name other ports.
import { join } from "node:path";

import { build } from "./build.mjs";
import { ROOT, fail, setup } from "./setup.mjs";

const PROXY_PORT = Number(process.env.PROXY_PORT || 8787);
const REGISTRY_PORT = Number(process.env.REGISTRY_PORT || 8788); // in wrangler.toml, REGISTRY_URL
// Identities are of a registry's address: another port is another world, with a state of its own.
const STATE = REGISTRY_PORT === 8788 ? ".local/state" : `.local/state-${REGISTRY_PORT}`;
const RECONCILE_EVERY_MS = 15 * 60_000; // in wrangler.toml, [triggers]

await setup({ ports: [PROXY_PORT, REGISTRY_PORT] });
await build();

const { Log, LogLevel, Miniflare } = await import("miniflare");
const { PROXY, applyMigrations, persistUnder, proxyWorker, registryWorker } = await import("./local.mjs");

const at = (port) => ({ host: "127.0.0.1", port });
const url = (port) => `http://127.0.0.1:${port}`;

const proxy = proxyWorker({ bindings: { REGISTRY_URL: url(REGISTRY_PORT) }, sockets: [at(PROXY_PORT)] });
const miniflare = new Miniflare({
  ...persistUnder(join(ROOT, STATE)),
  host: "127.0.0.1",
  port: 0, // miniflare's own entry: unused, each worker has its port
  cf: false,
  log: new Log(LogLevel.WARN),
  handleStructuredLogs: ({ message }) => console.log(message),
  workers: [proxy, registryWorker(proxy, { bindings: { ISSUER: url(REGISTRY_PORT) }, sockets: [at(REGISTRY_PORT)] })],
});

// Miniflare ends the runtime whenever this process exits.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(0));
process.on("exit", (code) => code === 0 && say("stopped"));
if (process.env.npm_lifecycle_event === "start") {
  // npm may be killed without telling us: what it started must not keep the ports.
  const npm = process.ppid;
  setInterval(() => process.ppid !== npm && process.exit(0), 500);
}

try {
  await miniflare.ready;
  const applied = await applyMigrations(await miniflare.getD1Database("DB", PROXY));
  say(applied.length > 0 ? `D1 migrations applied: ${applied.join(", ")}` : "D1 migrations: nothing new");
} catch (error) {
  fail(`the proxy did not start: ${error.message}`);
}

const worker = await miniflare.getWorker(PROXY);
setInterval(() => worker.scheduled({ cron: "*/15 * * * *" }).catch(() => {}), RECONCILE_EVERY_MS);

say(`the proxy serves on ${url(PROXY_PORT)}`);
say(`the development registry serves on ${url(REGISTRY_PORT)} (for development and tests only)`);
say("ready: try `npm run demo` in another terminal; Ctrl-C stops");

function say(line) {
  console.log(`[start] ${line}`);
}

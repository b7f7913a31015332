// The build command of the local environment, which `npx wrangler dev` runs before it serves and whenever a source file
// changes. It builds the Worker (quickly, unless BUILD_PROFILE says otherwise) and applies new migrations to the local
// database. The local environment cannot be deployed by accident: for a deployment this command fails.
import { createHash } from "node:crypto";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

import { ROOT, fail, setup } from "./setup.mjs";

const command = process.env.WRANGLER_COMMAND ?? "dev";
if (command !== "dev")
  fail(`the local environment is not for \`wrangler ${command}\`: add --env dev, staging or production`);

process.env.BUILD_PROFILE ||= "quick";
const { build } = await import("./build.mjs");
await setup();
await build();
migrate();

/** wrangler keeps the record of what was applied; the stamp beside its state saves asking it on every change. */
function migrate() {
  const state = join(ROOT, ".wrangler/state");
  const stamp = join(state, "migrations.sha256");
  const directory = join(ROOT, "migrations");
  const hash = createHash("sha256");
  for (const name of readdirSync(directory).sort()) hash.update(name).update(readFileSync(join(directory, name)));
  const wanted = hash.digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  const wrangler = join(ROOT, "node_modules/wrangler/bin/wrangler.js");
  const args = [wrangler, "d1", "migrations", "apply", "DB", "--local"];
  const done = spawnSync(process.execPath, args, { cwd: ROOT, stdio: "inherit", env: { ...process.env, CI: "true" } });
  if (done.status !== 0) fail("the migrations could not be applied to the local database: see above");
  mkdirSync(state, { recursive: true });
  writeFileSync(stamp, wanted);
}

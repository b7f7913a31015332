// `npm test`: sets up, runs the native tests, builds the Worker, runs the tests on the real runtime. Stops at the first
// part that fails; arguments are names of files in tests/runtime (all, where there are none).
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

import { build } from "./build.mjs";
import { ROOT, setup } from "./setup.mjs";

const RUNTIME_TESTS = "tests/runtime";

await setup();
run("cargo", ["test", "--locked"]);
await build();
run(process.execPath, ["--test", "--test-reporter=spec", "--test-concurrency=2", ...runtimeTests()]);

function runtimeTests() {
  const asked = process.argv.slice(2);
  return readdirSync(join(ROOT, RUNTIME_TESTS))
    .filter((name) => name.endsWith(".test.mjs") && (asked.length === 0 || asked.some((part) => name.includes(part))))
    .map((name) => join(RUNTIME_TESTS, name));
}

function run(command, args) {
  console.log(`[test] ${command === process.execPath ? "node" : command} ${args.slice(0, 2).join(" ")}`);
  const done = spawnSync(command, args, { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) process.exit(done.status ?? 1);
}

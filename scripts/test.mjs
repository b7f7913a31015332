// `npm test`: sets up, builds, runs the native tests and then those on the real runtime. Stops at the first part that
// fails; arguments choose among the files of tests/runtime by parts of their names.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

import { build, cargo } from "./build.mjs";
import { ROOT, setup } from "./setup.mjs";

const RUNTIME_TESTS = "tests/runtime";
const NATIVE = ["test", "--locked", "--tests"];
const TIMEOUT_MS = 180_000; // of one file: it hangs

await setup();
// The native tests compile beside the Worker, whose last steps keep one core busy and no more.
await Promise.all([build(), cargo([...NATIVE, "--quiet", "--no-run"])]);
// The command that tests/runtime/proxyctl.test.mjs runs.
await cargo(["build", "--locked", "--quiet", "-p", "proxyctl"]);
run("cargo", NATIVE);
run(process.execPath, ["--test", "--test-reporter=spec", "--test-concurrency=2", `--test-timeout=${TIMEOUT_MS}`, ...runtimeTests()]);

function runtimeTests() {
  const asked = process.argv.slice(2);
  return readdirSync(join(ROOT, RUNTIME_TESTS))
    .filter((name) => name.endsWith(".test.mjs") && (asked.length === 0 || asked.some((part) => name.includes(part))))
    .map((name) => join(RUNTIME_TESTS, name));
}

function run(command, args) {
  console.log(`[test] ${command === process.execPath ? "node" : command} ${args[0]}`);
  const done = spawnSync(command, args, { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) process.exit(done.status ?? 1);
}

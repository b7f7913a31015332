// `npm test`: sets up, builds the Worker and beside it runs the native tests, then the tests on the real runtime, then those
// of them that are slow because they wait for the platform. Stops at the first part that fails. Arguments choose among the
// runtime tests by parts of their file names: `npm test -- hibernation`.
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";

import { build, cargo } from "./build.mjs";
import { ROOT, setup } from "./setup.mjs";

const RUNTIME_TESTS = ["tests/runtime", "tests/runtime/slow"];
const NATIVE = ["test", "--locked", "--tests"];
const TIMEOUT_MS = 180_000; // of one file: it hangs

await setup();
// The native tests compile and run beside the Worker's build, whose last steps keep one core busy and no more.
await Promise.all([build(), native()]);

const chosen = RUNTIME_TESTS.map((directory) => [directory, testsIn(directory)]).filter(([, files]) => files.length > 0);
if (chosen.length === 0) {
  console.error(`[test] no file of ${RUNTIME_TESTS[0]} has a name that contains ${process.argv.slice(2).join(" or ")}`);
  process.exit(1);
}
for (const [directory, files] of chosen) {
  console.log(`[test] ${directory}: ${files.length} files`);
  run(process.execPath, ["--test", "--test-reporter=spec", "--test-concurrency=2", `--test-timeout=${TIMEOUT_MS}`, ...files]);
}

async function native() {
  // The programs that tests/runtime runs: proxyctl, and a sidecar with a guard.
  await cargo(["build", "--locked", "--quiet", "-p", "proxyctl", "-p", "clawdentity-guard", "--bins", "--example", "sidecar"]);
  console.log("[test] cargo test");
  await cargo(NATIVE);
}

function testsIn(directory) {
  const asked = process.argv.slice(2);
  return readdirSync(join(ROOT, directory))
    .filter((name) => name.endsWith(".test.mjs") && (asked.length === 0 || asked.some((part) => name.includes(part))))
    .map((name) => join(directory, name));
}

function run(command, args) {
  const done = spawnSync(command, args, { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) process.exit(done.status ?? 1);
}

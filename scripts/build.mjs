// Builds the Worker: cargo -> wasm-bindgen (xtask) -> wasm-opt -> esbuild => build/index.js and build/index_bg.wasm.
//
// Everything is pinned by Cargo.lock and package-lock.json and fetched by cargo and npm only. Cargo decides by
// itself what is up to date. The steps after it are skipped while none of their inputs has changed (build/.inputs).
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

import { ROOT, fail, setup } from "./setup.mjs";

const OUT = join(ROOT, "build");
const STAMP = join(OUT, ".inputs");
const WASM_FEATURES = [
  "mutable-globals", "sign-ext", "nontrapping-float-to-int", "bulk-memory", "multivalue", "reference-types",
  "exception-handling",
];

// `quick` is for writing the Worker: it compiles in seconds and is several times larger. What is deployed, and what
// `.ci/run` tests, is `release`.
const PROFILES = ["release", "quick"];

// What every edge downloads, compressed by `gzip -9`. A change that needs more raises it here, and says why.
const MOST_GZIP_KB = 980;

export async function build() {
  const started = Date.now();
  const target = targetDirectory();
  const profile = process.env.BUILD_PROFILE || "release";
  if (!PROFILES.includes(profile)) fail(`BUILD_PROFILE is one of ${PROFILES.join(", ")}, not ${profile}`);
  // Side by side: the Worker's last step, one optimisation of the whole, keeps one core busy and no more.
  await step("cargo (the Worker for wasm32, and xtask)", () =>
    Promise.all([
      cargo(["build", "--profile", profile, "--locked", "-p", "clawdentity-proxy", "--lib", "--target", "wasm32-unknown-unknown"]),
      cargo(["build", "--quiet", "--locked", "--profile", "xtask", "-p", "xtask"]),
    ]));
  const compiled = join(target, `wasm32-unknown-unknown/${profile}/clawdentity_proxy.wasm`);

  const inputs = hashOf([compiled, ...["Cargo.lock", "package-lock.json"].map((f) => join(ROOT, f)),
    ...["glue", "scripts/build.mjs", "xtask/src/main.rs"].map((f) => join(ROOT, f))]);
  if (isUpToDate(inputs)) {
    log(`up to date after ${seconds(started)}`);
    return;
  }

  rmSync(OUT, { recursive: true, force: true });
  mkdirSync(OUT, { recursive: true });
  const pkg = join(target, "pkg");
  rmSync(pkg, { recursive: true, force: true });
  await step("wasm-bindgen", () => run(join(target, "xtask/xtask"), [compiled, pkg]));
  if (profile === "release") {
    await step("wasm-opt", () => optimise(join(pkg, "index_bg.wasm"), join(OUT, "index_bg.wasm")));
  } else {
    copyFileSync(join(pkg, "index_bg.wasm"), join(OUT, "index_bg.wasm"));
  }
  await bundle(pkg);

  for (const name of ["index.js", "index_bg.wasm"]) {
    const bytes = readFileSync(join(OUT, name));
    log(`build/${name}: ${kilobytes(bytes)}, gzip ${kilobytes(gzipSync(bytes, { level: 9 }))}`);
  }
  const size = gzipSync(readFileSync(join(OUT, "index_bg.wasm")), { level: 9 }).length / 1024;
  if (profile === "release" && size > MOST_GZIP_KB) {
    fail(`build/index_bg.wasm is ${Math.ceil(size)} KB compressed, more than its budget of ${MOST_GZIP_KB} KB`);
  }
  writeFileSync(STAMP, inputs);
  log(`done in ${seconds(started)}`);
}

function optimise(from, to) {
  const program = join(ROOT, "node_modules/binaryen/bin/wasm-opt");
  run(process.execPath, [program, from, "-o", to, "-O1", ...WASM_FEATURES.map((name) => `--enable-${name}`)]);
}

async function bundle(pkg) {
  // workerd hands a compiled module over by a plain import; wasm-bindgen writes the newer source-phase import.
  const bindings = join(pkg, "index.js");
  writeFileSync(bindings, readFileSync(bindings, "utf8").replace("import source ", "import "));
  for (const name of ["entry.js", "http.js"]) copyFileSync(join(ROOT, "glue", name), join(pkg, name));
  const esbuild = await import("esbuild");
  await esbuild.build({
    absWorkingDir: pkg,
    entryPoints: ["./entry.js"],
    outfile: join(OUT, "index.js"),
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    external: ["cloudflare:*", "./index_bg.wasm"],
    logLevel: "warning",
  });
}

function isUpToDate(inputs) {
  return (
    ["index.js", "index_bg.wasm"].every((name) => existsSync(join(OUT, name))) &&
    existsSync(STAMP) && readFileSync(STAMP, "utf8") === inputs
  );
}

function hashOf(paths) {
  const hash = createHash("sha256");
  for (const path of paths) {
    if (statSync(path).isDirectory()) hash.update(hashOf(readdirSync(path).sort().map((name) => join(path, name))));
    else hash.update(readFileSync(path));
  }
  return hash.digest("hex");
}

/** Where cargo puts what it builds. */
export function targetDirectory() {
  const asked = spawnSync("cargo", ["metadata", "--format-version=1", "--no-deps", "--locked"], { cwd: ROOT, encoding: "utf8" });
  if (asked.status !== 0) fail(`cargo cannot read the workspace: ${asked.stderr.trim()}`);
  return JSON.parse(asked.stdout).target_directory;
}

/** One run of cargo; ends the process where it fails. */
export function cargo(args) {
  return new Promise((resolve) => {
    const child = spawn("cargo", args, { cwd: ROOT, stdio: "inherit" });
    process.once("exit", () => child.kill()); // where the other one failed
    child.once("error", (error) => fail(`cargo does not run: ${error.message}`));
    child.once("close", (code) => (code === 0 ? resolve() : fail("cargo could not build: see above")));
  });
}

function run(command, args) {
  const done = spawnSync(command, args, { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) fail("the build stopped: see above");
}

async function step(name, work) {
  const started = Date.now();
  log(name);
  await work();
  log(`${name}: ${seconds(started)}`);
}

const log = (line) => console.log(`[build] ${line}`);
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(1)} s`;
const kilobytes = (bytes) => `${Math.round(bytes.length / 1024)} KB`;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await setup();
  await build();
}

// Checks what the other commands need before they can run: Node, Rust with the wasm target, a C linker, the npm
// packages, and free ports. It installs what it may, says so, and ends the process with one clear line where it may
// not.
//
// It imports nothing but Node itself, so it runs on a fresh clone. When everything is there, it takes a moment.
import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { homedir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");

const MINIMUM_NODE = [20, 18, 1]; // workerd's own minimum
const MINIMUM_RUST = [1, 91]; // rust-version in Cargo.toml
const WASM_TARGET = "wasm32-unknown-unknown";
const PACKAGES_STAMP = join(ROOT, "node_modules/.lock-sha256");

export function say(line) {
  console.log(`[setup] ${line}`);
}

/** Ends the process: a missing tool needs a line for a person, not a stack trace. */
export function fail(line) {
  console.error(`[error] ${line}`);
  process.exit(1);
}

export async function setup({ ports = [] } = {}) {
  checkNode();
  for (const port of ports) await checkPort(port);
  checkRust();
  checkLinker();
  ensureWasmTarget();
  ensurePackages();
  say("ready");
}

function checkNode() {
  if (isOlder(process.versions.node, MINIMUM_NODE)) {
    fail(`Node ${MINIMUM_NODE.join(".")} or newer is needed, this is ${process.versions.node}`);
  }
}

function checkRust() {
  // A shell that was open while rustup was installed does not have it on its PATH yet.
  const bin = join(process.env.CARGO_HOME ?? join(homedir(), ".cargo"), "bin");
  process.env.PATH = `${process.env.PATH ?? ""}${delimiter}${bin}`;
  if (!runs("rustup", ["--version"])) fail("rustup is missing: install Rust (stable) from https://rustup.rs");
  // The first call of a toolchain that is not there yet lets rustup install it.
  const version = spawnSync("rustc", ["--version"], { cwd: ROOT, encoding: "utf8" });
  const found = /^rustc (\d+\.\d+\.\d+)/.exec(version.stdout ?? "")?.[1];
  if (!found) fail("rustc does not run: try `rustup toolchain install stable`");
  if (isOlder(found, MINIMUM_RUST)) {
    fail(`Rust ${MINIMUM_RUST.join(".")} or newer is needed, this is ${found}: run \`rustup update stable\``);
  }
}

function checkLinker() {
  if (!runs("cc", ["--version"])) {
    fail("a C linker (cc) is missing: install it, on Debian with `apt-get install build-essential`");
  }
}

function ensureWasmTarget() {
  const installed = spawnSync("rustup", ["target", "list", "--installed"], { cwd: ROOT, encoding: "utf8" });
  if ((installed.stdout ?? "").split(/\s+/).includes(WASM_TARGET)) return;
  say(`adding the Rust target ${WASM_TARGET}`);
  const added = spawnSync("rustup", ["target", "add", WASM_TARGET], { cwd: ROOT, stdio: "inherit" });
  if (added.status !== 0) fail(`the Rust target ${WASM_TARGET} cannot be installed: is there a network?`);
}

/** The npm packages of package-lock.json. */
export function ensurePackages() {
  const wanted = createHash("sha256").update(readFileSync(join(ROOT, "package-lock.json"))).digest("hex");
  if (existsSync(PACKAGES_STAMP) && readFileSync(PACKAGES_STAMP, "utf8") === wanted) return;
  say("installing the npm packages of package-lock.json");
  // No install scripts: the tools find their binaries in their platform packages, and none needs to run code here.
  const args = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
  const done = spawnSync("npm", args, { cwd: ROOT, stdio: "inherit" });
  if (done.status !== 0) fail("the npm packages cannot be installed: see above");
  writeFileSync(PACKAGES_STAMP, wanted);
}

function checkPort(port) {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", (error) =>
      fail(
        error.code === "EADDRINUSE"
          ? `port ${port} is taken: stop what listens on 127.0.0.1:${port} and try again`
          : `port ${port} cannot be used: ${error.code}`,
      ),
    );
    probe.listen({ port, host: "127.0.0.1", exclusive: true }, () => probe.close(resolve));
  });
}

function runs(command, args) {
  try {
    execFileSync(command, args, { stdio: "ignore", cwd: ROOT });
    return true;
  } catch {
    return false;
  }
}

function isOlder(version, minimum) {
  const parts = version.split(".").map(Number);
  for (const [i, least] of minimum.entries()) {
    if (parts[i] !== least) return parts[i] < least;
  }
  return false;
}

// docs/operations.md against the code: its table has every log message that the Worker writes and no other, and the
// commands that it tells the operator to give exist.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { targetDirectory } from "../../scripts/build.mjs";
import { ROOT } from "../../scripts/setup.mjs";

const PAGE = readFileSync(join(ROOT, "docs/operations.md"), "utf8");
// Not log messages, though they look like them.
const OTHERS = /^proxy\.(x|example\.com|events\.queue\..*)$/;

function sources(directory) {
  return readdirSync(join(ROOT, directory), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".rs"))
    .map((name) => readFileSync(join(ROOT, directory, name), "utf8"));
}

test("every log message is in the table, and the table has no other", () => {
  const written = new Set();
  for (const text of [...sources("src"), ...sources("crates/core/src")]) {
    for (const [, name] of text.matchAll(/"(proxy\.[a-z_]+(?:\.[a-z_]+)*|request\.completed)"/g)) {
      if (!OTHERS.test(name)) written.add(name);
    }
  }
  const listed = [...PAGE.matchAll(/^\| `([a-z_.]+)` \| (?:info|warn|error)/gm)].map(([, name]) => name);
  assert.deepEqual(listed, [...new Set(listed)].sort(), "once each, in order");
  assert.ok(listed.length > 40);
  assert.deepEqual(listed, [...written].sort());
});

test("the table's levels are those of the code", () => {
  const levels = new Map();
  for (const text of sources("src")) {
    for (const [, level, name] of text.matchAll(/\b(info|warn|error|log_success)\(\s*(?:\w+,\s*)?"((?:proxy|request)\.[a-z_.]+)"/g)) {
      levels.set(name, new Set([...(levels.get(name) ?? []), level === "log_success" ? "info" : level]));
    }
  }
  assert.ok(levels.size > 40);
  const order = ["info", "warn", "error"];
  for (const [, name, said] of PAGE.matchAll(/^\| `([a-z_.]+)` \| ((?:info|warn|error)[a-z, ]*?)(?: !)? \|/gm)) {
    const real = levels.get(name);
    if (real) assert.equal(said, order.filter((level) => real.has(level)).join(", "), name);
  }
});

test("every command of the page is one that there is", () => {
  const commands = [...PAGE.matchAll(/(?:^ *|`)((?:proxyctl|npm run|npx wrangler) [^`\n]+)/gm)].map(([, line]) => line.trim());
  assert.ok(commands.length > 12, commands.join("\n"));
  const scripts = Object.keys(JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")).scripts);
  for (const command of commands) {
    const words = command.split(" ");
    if (words[0] === "npm") {
      assert.ok(scripts.includes(words[2]), command); // documents.test.mjs runs it
    } else if (words[0] === "proxyctl") {
      // Wrong usage is 2 with clap's own text; a command line that is right gets as far as the missing token.
      const line = command
        .replace(/did:cdi:REGISTRY:agent:ULID|\bDID\b/, "did:cdi:registry.test:agent:01ARZ3NDEKTSV4RRFFQ69G5FAV")
        .replace("JTI", "01ARZ3NDEKTSV4RRFFQ69G5FAV")
        .replace("NUMBER", "1");
      const args = [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, bare]) => quoted ?? bare).slice(1);
      const env = { PATH: process.env.PATH };
      const done = spawnSync(join(targetDirectory(), "debug/proxyctl"), args, { encoding: "utf8", env });
      assert.match(done.stderr, /no admin token/, `${command}: ${done.stderr}`);
    }
  }
});

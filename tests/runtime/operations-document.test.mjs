// docs/operations.md against the code: its table has every log message that the Worker writes and no other. Its commands are
// run by documents.test.mjs.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

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

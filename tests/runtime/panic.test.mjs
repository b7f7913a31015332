// A panic in Rust: its message and its stack are in the log, and the next request is served by a new instance.
import assert from "node:assert/strict";
import { test } from "node:test";

import { start } from "../support/harness.mjs";

test("a panic leaves its message and stack in the log, and the instance is replaced", async () => {
  const world = await start({ hooks: true });
  const instance = async () => (await world.send("GET", "/__test/instance")).json;
  const health = async () => (await world.send("GET", "/health")).status;
  try {
    assert.equal(await health(), 200);
    const before = await instance();
    assert.equal((await world.send("POST", "/__test/panic")).status, 204);
    assert.equal(await health(), 200);
    assert.equal(await instance(), before + 1);

    const texts = world.logs.map(({ text }) => text).filter((text) => text?.includes("panicked at"));
    const [ours, workers] = [texts.find((text) => /Stack:/.test(text)), texts.find((text) => /^Critical/.test(text))];
    assert.match(ours ?? "none", /told to panic[^]*Stack:[^]*wasm/, texts.join("\n"));
    assert.match(workers ?? "none", /Rust panic/, texts.join("\n"));
  } finally {
    await world.stop({ mayPanic: true });
  }
});

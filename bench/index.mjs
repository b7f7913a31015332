// `npm run bench`: what the proxy costs, as ratios within one run, and how fast the kill switch is. Arguments choose
// among the parts by name. Nothing here passes or fails, because a shared machine cannot judge. It needs Linux (it
// reads /proc).
//
// `--json FILE` writes the ratios and the counts to a file, and `--against FILE` prints what such a file says beside them.
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";

import { setup } from "../scripts/setup.mjs";
import { build } from "../scripts/build.mjs";

const { values: options, positionals: asked } = parseArgs({
  allowPositionals: true,
  options: { json: { type: "string" }, against: { type: "string" } },
});
const earlier = options.against ? JSON.parse(readFileSync(options.against, "utf8")) : undefined;
await setup();
await build();
const { parts } = await import("./parts.mjs");
const figures = {};
/** One line; `measured` are the figures in it that an earlier run can be compared by. */
const say = (line, measured = {}) => {
  console.log(`  ${line}`);
  Object.assign(figures, measured);
  for (const [name, now] of Object.entries(measured)) {
    const before = earlier?.[name];
    if (before !== undefined) console.log(`    ${name}: ${before.toFixed(2)} before, ${now.toFixed(2)} now`);
  }
};
for (const [name, run] of Object.entries(parts)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  console.log(`\n${name}`);
  await run(say);
}
if (options.json) writeFileSync(options.json, `${JSON.stringify(figures, null, 2)}\n`);
process.exit(0); // the runtime's last timers

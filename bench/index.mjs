// `npm run bench`: what the proxy costs, as ratios within one run, and how fast the kill switch is. Arguments choose
// among the parts by name. Nothing here passes or fails, because a shared machine cannot judge. It needs Linux (it
// reads /proc).
import { setup } from "../scripts/setup.mjs";
import { build } from "../scripts/build.mjs";

await setup();
await build();
const { parts } = await import("./parts.mjs");
const asked = process.argv.slice(2);
for (const [name, run] of Object.entries(parts)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  console.log(`\n${name}`);
  await run((line) => console.log(`  ${line}`));
}
process.exit(0); // the runtime's last timers

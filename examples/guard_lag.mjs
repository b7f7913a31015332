// How soon a guard knows of a revocation and of its lift: the real proxy on the local runtime, the real stream, the
// example sidecar as a program of its own, and an unrelated connector that acknowledges nothing.
//
//   npm run build && cargo build --release -p clawdentity-guard --example sidecar
//   node examples/guard_lag.mjs target/release/examples/sidecar [runs]
//
// Prints the median and the worst time, from the event on the queue to the sidecar's first 401, and from the
// operator's order to its first 204. Exits with 1 if one took over a second.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

import { pair } from "../tests/support/agent.mjs";
import { percentile } from "../tests/support/expect.mjs";
import { ISSUER, eventually, start } from "../tests/support/harness.mjs";
import { ulid } from "../tests/support/socket.mjs";

const [SIDECAR, RUNS = 100] = process.argv.slice(2);
const LIMIT_MS = 1000;
const TOKEN = "a-token-of-32-characters-for-a-sidecar";

const world = await start({ bindings: { FEED_TOKEN: TOKEN, ADMIN_TOKEN: TOKEN } });
const sidecar = spawn(SIDECAR, ["127.0.0.1:0"], {
  stdio: ["ignore", "pipe", "inherit"],
  env: {
    CLAWDENTITY_PROXY_URL: world.proxyUrl.replace(/\/$/, ""), FEED_TOKEN: TOKEN,
    REGISTRY_URL: world.registryUrl.replace(/\/$/, ""), REGISTRY_ISSUER: ISSUER,
  },
});
try {
  const [line] = await Promise.race([
    createInterface(sidecar.stdout)[Symbol.asyncIterator]().next().then(({ value }) => [value]),
    new Promise((_, reject) => sidecar.once("exit", (code) => reject(new Error(`the sidecar ended with ${code}`)))),
  ]);
  const url = line.match(/http:\S+/)[0];
  const asked = async (agent) => {
    const response = await fetch(`${url}/work`, { method: "POST", headers: agent.headers("POST", "/work", "{}"), body: "{}" });
    await response.arrayBuffer();
    return response.status;
  };
  const asOperator = async (path, body) => {
    const answer = await world.send("POST", path, { headers: { authorization: `Bearer ${TOKEN}` }, body: JSON.stringify(body) });
    if (answer.status >= 300) throw new Error(answer.text);
    return answer.json;
  };
  const msUntil = async (agent, status) => {
    const started = performance.now();
    while ((await asked(agent)) !== status) if (performance.now() - started > 10 * LIMIT_MS) throw new Error(`never ${status}`);
    return performance.now() - started;
  };

  const [deaf, sender] = await world.agents(2);
  await pair(deaf, sender);
  const silent = await deaf.connect();
  const hanging = sender.message(deaf, { never: "acknowledged" });
  await silent.next("deliver");
  await eventually(async () => (await asked(deaf)) === 204, { what: "the sidecar's first 204" });

  const took = { "event to the sidecar's 401": [], "lift to its 204": [] };
  for (let run = 0; run < RUNS; run++) {
    const agent = await world.agent();
    if ((await asked(agent)) !== 204) throw new Error("refused before it was revoked");
    const event = {
      id: ulid(), type: "agent.auth.revoked", version: "v1", timestampUtc: new Date().toISOString(),
      data: { agentDid: agent.agentDid, reason: "agent_revoked" },
    };
    const sent = world.enqueue(event);
    took["event to the sidecar's 401"].push(await msUntil(agent, 401));
    await sent;
    const { seq } = await world.db.prepare("SELECT seq FROM revocations WHERE agent_did = ?").bind(agent.agentDid).first();
    const lifted = asOperator(`/admin/v1/revocations/${seq}/lift`, { force: true });
    took["lift to its 204"].push(await msUntil(agent, 204));
    await lifted;
  }
  for (const [what, times] of Object.entries(took)) {
    const worst = Math.max(...times);
    console.log(`${what}: p50 ${Math.round(percentile(times, 0.5))} ms, worst ${Math.round(worst)} ms, of ${times.length}`);
    if (worst > LIMIT_MS) process.exitCode = 1;
  }
  await silent.terminate();
  await hanging;
} finally {
  sidecar.kill();
  await world.stop();
}

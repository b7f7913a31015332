// `npm run demo`, beside a running `npm start`: the main job once, from two new agents to a refused sender, each
// step with its time. Exits with 0 if the revoked sender was refused with 401 PROXY_AUTH_REVOKED.
const PROXY_URL = `http://127.0.0.1:${process.env.PROXY_PORT || 8787}`;
const REGISTRY_URL = `http://127.0.0.1:${process.env.REGISTRY_PORT || 8788}`;
const REFUSED_WITHIN_MS = 10_000;

const { Agent, pair, registryAt } = await import("../tests/support/agent.mjs").catch(() =>
  end("the npm packages are missing: run `npm start` first"));

const started = performance.now();
let last = started;

await main().catch((error) => end(error.message));

async function main() {
  await fetch(`${PROXY_URL}/health`).catch(() => end(`nothing answers at ${PROXY_URL}: run \`npm start\` first`));

  const registry = registryAt(REGISTRY_URL);
  const alice = await Agent.register(registry, PROXY_URL, { name: "alice" });
  const bob = await Agent.register(registry, PROXY_URL, { name: "bob" });
  step(`two agents registered: ${alice.agentDid} (alice), ${bob.agentDid} (bob)`);

  await pair(alice, bob);
  step("paired: alice made a ticket, bob confirmed it");

  let acknowledge = () => {}; // the first by hand, to show it
  const socket = await bob.connect({ onDeliver: (_socket, frame) => acknowledge(frame) });
  step("bob's connector is connected");

  const payload = { message: "hello bob" };
  const answered = alice.message(bob, payload);
  const deliver = await Promise.race([
    socket.next((frame) => frame?.type === "deliver" && frame.payload?.message === payload.message),
    answered.then(({ status, text }) => (status === 202 ? new Promise(() => {}) : end(`the hook: ${status} ${text}`))),
  ]);
  step(`bob received ${JSON.stringify(deliver.payload)} from ${deliver.fromAgentDid === alice.agentDid ? "alice" : "?"}`);
  acknowledge = (frame) => socket.ack(frame);
  acknowledge(deliver);
  const { status, json } = await answered;
  step(`bob acknowledged; the hook answered ${status}, state ${json.state}`);

  const revoked = performance.now();
  await alice.atRegistry("revoke", { crl: false });
  step("the registry has put alice's revocation on the events queue");

  const refusal = await untilRefused(() => alice.message(bob, { message: "still there?" }), revoked);
  const took = Math.round(performance.now() - revoked);
  const code = refusal.json?.error?.code;
  step(`alice is refused, ${took} ms after she was revoked: ${refusal.status} ${code}`);
  await socket.close();
  if (refusal.status !== 401 || code !== "PROXY_AUTH_REVOKED") end("the refusal is not 401 PROXY_AUTH_REVOKED");
  process.exit(0);
}

async function untilRefused(sendOne, since) {
  while (performance.now() - since < REFUSED_WITHIN_MS) {
    const answer = await sendOne();
    if (answer.status !== 202) return answer;
    await new Promise((resolve) => setTimeout(resolve, 25)); // alice's own rate limit allows 60 a minute
  }
  return end(`alice was not refused within ${REFUSED_WITHIN_MS} ms`);
}

function step(line) {
  const now = performance.now();
  console.log(`[demo] ${String(Math.round(now - started)).padStart(5)} ms (+${Math.round(now - last)}) ${line}`);
  last = now;
}

function end(line) {
  console.error(`[error] ${line}`);
  process.exit(1);
}

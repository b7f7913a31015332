// docs/quickstart.md against a running proxy: its worked examples, sent byte for byte, and its shell commands, run as they
// are typed.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createPrivateKey } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { ROOT } from "../../scripts/setup.mjs";
import { Agent, send } from "../support/agent.mjs";
import { accepted, refused } from "../support/expect.mjs";
import { inWorld } from "../support/harness.mjs";
import { RelaySocket } from "../support/socket.mjs";

const PAGE = readFileSync(join(ROOT, "docs/quickstart.md"), "utf8");
const EXAMPLE = PAGE.split("## A worked example\n")[1].split("\n## ")[0];
const PKCS8_PREFIX = "302e020100300506032b657004220420"; // an Ed25519 key, RFC 8410 §7

const value = (part, term) => part.match(new RegExp(`^\\| ${term.replace(/[()]/g, "\\$&")} \\| *\`?(.*?)\`? *\\|$`, "m"))[1];

test("the worked examples are accepted by a running proxy, once", () =>
  inWorld({ hooks: true }, async (world) => {
    const seed = value(EXAMPLE, "private key (the seed of RFC 8032, hexadecimal)");
    const privateKey = createPrivateKey({ key: Buffer.from(PKCS8_PREFIX + seed, "hex"), format: "der", type: "pkcs8" });
    const x = value(EXAMPLE, "public key");
    const timestamp = Number(value(EXAMPLE, "timestamp"));
    const claims = { iat: timestamp - 60, nbf: timestamp - 60, exp: timestamp + 3600 };
    const common = { registry: world.registry, proxyUrl: world.proxyUrl };
    const alice = new Agent({ ...common, privateKey, x, ...(await world.registry("/dev/agents", { x, claims })) });
    const bob = await world.agent({ claims });
    await world.moveClock(timestamp * 1000 - Date.now());

    const profile = { agentName: "one", humanName: "One", proxyOrigin: "https://proxy.example" };
    const { json } = await alice.post("/pair/start", { initiatorProfile: profile }, { timestamp });
    const paired = await bob.post("/pair/confirm", { ticket: json.ticket, responderProfile: profile }, { timestamp });
    assert.equal(paired.status, 201, paired.text);

    const [message, connect] = EXAMPLE.split("| method |").slice(1).map((part) => {
      const example = `| method |${part}`;
      const of = (term) => value(example, term);
      const headers = {
        authorization: `Claw ${alice.ait}`,
        "x-claw-timestamp": String(timestamp),
        "x-claw-nonce": of("nonce"),
        "x-claw-body-sha256": of("hash"),
        "x-claw-proof": of("proof"),
        "x-claw-agent-access": alice.accessToken,
      };
      return { method: of("method"), path: of("path"), body: of("body"), headers };
    });
    const sent = () =>
      send(world.proxyUrl, message.method, message.path, {
        body: message.body,
        headers: { "content-type": "application/json", "x-claw-recipient-agent-did": bob.agentDid, ...message.headers },
      });
    accepted(await sent(), { state: "queued" });
    refused(await sent(), 401, "PROXY_AUTH_REPLAY");
    const socket = await RelaySocket.open(new URL(connect.path, world.proxyUrl).href, connect.headers);
    await socket.close();
  }));

test("the shell commands do what the page says", () =>
  inWorld({}, async (world) => {
    const directory = mkdtempSync(join(tmpdir(), "clawdentity-quickstart-"));
    const commands = [...PAGE.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, block]) => block).join("\n");
    const script = commands
      .replace("PROXY=http://127.0.0.1:8787", `PROXY=${new URL(world.proxyUrl).origin}`)
      .replace("REGISTRY=http://127.0.0.1:8788", `REGISTRY=${new URL(world.registryUrl).origin}`);
    const { status, out, err } = await bash(`set -e -o pipefail\n${script}`, directory);
    rmSync(directory, { recursive: true });
    assert.equal(status, 0, err);
    const [paired, sent] = out.trim().split(/(?<=^\})\n/m).map((text) => JSON.parse(text));
    assert.equal(paired.paired, true, out);
    assert.deepEqual([sent.accepted, sent.state], [true, "queued"], out);
  }));

/** Runs a script; the event loop stays free for the world. */
function bash(script, cwd) {
  return new Promise((resolve) => {
    const child = spawn("bash", ["-c", script], { cwd, stdio: ["ignore", "pipe", "pipe"] });
    let [out, err] = ["", ""];
    child.stdout.on("data", (data) => (out += data));
    child.stderr.on("data", (data) => (err += data));
    child.on("close", (status) => resolve({ status, out, err }));
  });
}

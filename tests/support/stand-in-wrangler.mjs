// Stands in for wrangler where the operator's commands are tested. It keeps an account in a JSON file, records every
// call, and fails at the call that starts with what FAIL_AT says.
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";

const { ACCOUNT, FAIL_AT, WRANGLER_OUTPUT_FILE_PATH: OUTPUT } = process.env;
const account = JSON.parse(readFileSync(ACCOUNT, "utf8"));
const all = process.argv.slice(2);
const args = all.slice(0, all.indexOf("--env"));
const called = args.join(" ");
const input = readFileSync(0, "utf8");

account.calls.push(called);
save();
if (FAIL_AT && called.startsWith(FAIL_AT)) {
  console.error("✘ [ERROR] the stand-in was told to fail here");
  process.exit(1);
}

const id = (n) => `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`;
const [first, second, third] = args;
switch (`${first} ${second ?? ""}`.trim()) {
  case "whoami":
  case "d1 migrations":
  case "rollback --message":
    break;
  case "queues info":
    if (!account.queues.includes(third)) fail(`Queue "${third}" does not exist`);
    break;
  case "queues create":
    if (account.queues.includes(third)) fail("Queue name is already taken [code: 11009]");
    account.queues.push(third);
    break;
  case "d1 list":
    console.log(JSON.stringify(account.databases));
    break;
  case "d1 create":
    account.databases.push({ name: third, uuid: id(account.databases.length + 1) });
    break;
  case "secret list":
    if (!account.worker) fail("This Worker does not exist on your account. [code: 10007]");
    console.log(JSON.stringify(Object.keys(account.secrets).map((name) => ({ name, type: "secret_text" }))));
    break;
  case "secret put":
    account.worker = true; // wrangler makes a draft of it
    account.secrets[third] = input.trim();
    break;
  case "deployments status":
    console.log(JSON.stringify({ versions: account.versions }));
    break;
  case "versions upload":
    tell({ type: "version-upload", version_id: id(99) });
    break;
  case "versions deploy":
    account.versions = args
      .filter((arg) => arg.includes("@"))
      .map((arg) => arg.split(/[@%]/))
      .map(([version_id, percentage]) => ({ version_id, percentage: Number(percentage) }));
    break;
  default:
    if (first !== "deploy") fail(`the stand-in does not know: ${called}`);
    account.versions = [{ version_id: id(50), percentage: 100 }];
    tell({ type: "deploy", version_id: id(50), targets: account.targets ?? [] });
}
save();

function tell(entry) {
  if (OUTPUT) appendFileSync(OUTPUT, `${JSON.stringify({ version: 1, ...entry })}\n`);
}

function save() {
  writeFileSync(ACCOUNT, JSON.stringify(account));
}

function fail(line) {
  console.error(`✘ [ERROR] ${line}`);
  process.exit(1);
}

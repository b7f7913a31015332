// The least that any proxy must do, and nothing else: the floor that the proxy's cost is compared with. It verifies
// a request's two signatures, writes a row for the nonce in one object, and a row for the message in another.
import { DurableObject } from "cloudflare:workers";

export class Rows extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, value TEXT)");
  }
  async fetch(request) {
    this.ctx.storage.sql.exec("INSERT INTO rows (value) VALUES (?)", await request.text());
    return new Response("{}");
  }
}

const { keys, signature } = await (async () => {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
  return { keys: pair, signature: await crypto.subtle.sign("Ed25519", pair.privateKey, new Uint8Array(300)) };
})();

export default {
  async fetch(request, env) {
    const body = await request.text();
    for (let i = 0; i < 2; i++) await crypto.subtle.verify("Ed25519", keys.publicKey, signature, new Uint8Array(300));
    for (const name of ["trust", "relay"]) await env.ROWS.getByName(name).fetch("https://rows/", { method: "POST", body });
    return Response.json({ accepted: true }, { status: 202 });
  },
};

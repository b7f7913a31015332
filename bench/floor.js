// The floor that the proxy's CPU is compared with: a Worker that does only what no proxy of this kind can do without.
// It verifies one signature, writes the nonce's row, writes the message's row, sends the frame, and updates the row
// when the frame is acknowledged. It parses no token, checks no revocation and keeps no promise.
import { DurableObject } from "cloudflare:workers";

const { publicKey, signature, signed } = await (async () => {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
  const signed = new Uint8Array(300);
  return { publicKey: pair.publicKey, signed, signature: await crypto.subtle.sign("Ed25519", pair.privateKey, signed) };
})();

export class Nonces extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS nonces (nonce TEXT PRIMARY KEY, at INTEGER) WITHOUT ROWID");
  }

  admit(nonce) {
    this.ctx.storage.sql.exec("INSERT INTO nonces VALUES (?, ?)", nonce, Date.now());
    return true;
  }
}

export class Session extends DurableObject {
  constructor(ctx, env) {
    super(ctx, env);
    ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS mail (id TEXT PRIMARY KEY, text TEXT, acknowledged INTEGER) WITHOUT ROWID");
    this.waiting = new Map();
  }

  fetch(request) {
    const [client, server] = Object.values(new WebSocketPair());
    this.ctx.acceptWebSocket(server);
    this.socket = server; // the last one counts
    server.serializeAttachment({ agent: request.headers.get("x-floor-agent") });
    return new Response(null, { status: 101, webSocket: client });
  }

  async deliver(payload, wait) {
    const id = crypto.randomUUID();
    this.ctx.storage.sql.exec("INSERT INTO mail VALUES (?, ?, 0)", id, payload);
    if (!this.socket) return "queued";
    this.socket.send(JSON.stringify({ v: 1, type: "deliver", id, payload }));
    if (!wait) return "queued";
    return new Promise((resolve) => this.waiting.set(id, resolve));
  }

  async webSocketMessage(socket, text) {
    const frame = JSON.parse(text);
    if (frame.type === "deliver_ack") {
      this.ctx.storage.sql.exec("UPDATE mail SET acknowledged = 1 WHERE id = ?", frame.ackId);
      this.waiting.get(frame.ackId)?.("delivered");
      this.waiting.delete(frame.ackId);
    }
    if (frame.type === "enqueue") {
      await this.env.SESSIONS.getByName(frame.toAgentDid).deliver(JSON.stringify(frame.payload), false);
      socket.send(JSON.stringify({ v: 1, type: "enqueue_ack", ackId: frame.id, accepted: true }));
    }
  }
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === "/health") return new Response(null, { status: 204 });
    const agent = request.headers.get("authorization").slice(-40);
    const body = await request.text();
    await crypto.subtle.verify("Ed25519", publicKey, signature, signed);
    await env.NONCES.getByName(agent).admit(request.headers.get("x-claw-nonce"));
    if (pathname === "/v1/relay/connect") {
      const as = request.headers.get("x-floor-agent");
      return env.SESSIONS.getByName(as).fetch(request);
    }
    if (body === "{") return new Response(null, { status: 400 });
    const state = await env.SESSIONS.getByName(request.headers.get("x-claw-recipient-agent-did")).deliver(body, true);
    return Response.json({ accepted: true, state }, { status: 202 });
  },
};

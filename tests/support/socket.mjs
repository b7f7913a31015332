// A connector's side of a relay WebSocket: frames in the order of their arrival, which a test waits for by what they
// are.
import { randomBytes } from "node:crypto";

import WebSocket from "ws";

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DEADLINE_MS = 25_000; // for what hangs, not for what is slow

export function ulid(nowMs = Date.now()) {
  let time = nowMs;
  let head = "";
  for (let i = 0; i < 10; i++, time = Math.floor(time / 32)) head = ALPHABET[time % 32] + head;
  return head + [...randomBytes(16)].map((byte) => ALPHABET[byte & 31]).join("");
}

/** The upgrade was answered by something else than 101. */
export class UpgradeRefused extends Error {
  constructor(status, headers, body) {
    super(`upgrade refused: ${status} ${body.slice(0, 200)}`);
    Object.assign(this, { status, headers, body, json: parse(body) });
  }
}

export class RelaySocket {
  #socket;
  #frames = [];
  #waiting = [];

  /** Opens a connection; `onDeliver` may answer each deliver frame (see `ackAll`). */
  static open(url, headers, { onDeliver } = {}) {
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(url.replace(/^http/, "ws"), { headers, perMessageDeflate: false });
      const relay = new RelaySocket(socket, onDeliver);
      socket.once("open", () => resolve(relay));
      socket.once("error", reject);
      socket.once("unexpected-response", (_request, response) => {
        const chunks = [];
        response.on("data", (chunk) => chunks.push(chunk));
        response.on("end", () =>
          reject(new UpgradeRefused(response.statusCode, response.headers, Buffer.concat(chunks).toString())));
      });
    });
  }

  constructor(socket, onDeliver) {
    this.#socket = socket;
    /**
     * Settles with {code, reason} when the other side says close, or the connection ends without a word (1006). The
     * end itself is not waited for: the local runtime takes 10 s to it after a close of its own.
     */
    this.closed = new Promise((resolve) => {
      const settle = (code, reason) => resolve({ code, reason: reason.toString() });
      socket.once("open", () => socket._receiver.once("conclude", settle));
      socket.once("close", settle);
    });
    socket.on("error", () => {}); // the close that follows says it
    socket.on("message", (data) => {
      const frame = parse(data.toString());
      if (frame?.type === "deliver") onDeliver?.(this, frame);
      this.#frames.push(frame);
      this.#waiting = this.#waiting.filter((wake) => !wake());
    });
  }

  /** The first frame not taken yet that `matches` (a type, or a predicate); it is taken. */
  next(matches, deadlineMs = DEADLINE_MS) {
    const wanted = typeof matches === "string" ? (frame) => frame?.type === matches : matches;
    const take = () => {
      const at = this.#frames.findIndex(wanted);
      return at < 0 ? undefined : this.#frames.splice(at, 1)[0];
    };
    const there = take();
    if (there) return Promise.resolve(there);
    return new Promise((resolve, reject) => {
      const wake = () => {
        const frame = take();
        if (!frame) return false;
        clearTimeout(timer);
        resolve(frame);
        return true;
      };
      this.#waiting.push(wake);
      const timer = setTimeout(() => {
        this.#waiting = this.#waiting.filter((other) => other !== wake);
        reject(new Error(`no frame ${matches} within ${deadlineMs} ms`));
      }, deadlineMs);
    });
  }

  /** Frames that have arrived and that nobody took. */
  get pending() {
    return [...this.#frames];
  }

  sendText(text) {
    this.#socket.send(text);
  }

  sendBinary(text) {
    this.#socket.send(Buffer.from(text), { binary: true });
  }

  send(fields) {
    const frame = { v: 1, id: ulid(), ts: new Date().toISOString(), ...fields };
    this.sendText(JSON.stringify(frame));
    return frame;
  }

  ack(deliver, fields = {}) {
    return this.send({ type: "deliver_ack", ackId: deliver.id, accepted: true, ...fields });
  }

  close() {
    this.#socket.close(1000);
    return this.closed;
  }

  /** Cut off without a closing handshake. */
  terminate() {
    this.#socket.terminate();
    return this.closed;
  }
}

export const ackAll = { onDeliver: (socket, frame) => socket.ack(frame) };

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

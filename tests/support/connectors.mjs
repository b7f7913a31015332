// Models of the two families of connectors that are deployed, as far as the relay can tell them apart. Both stay connected
// until `stop()`, beat by themselves, and note what they did.
//
// The Rust one works on one frame at a time, and acknowledges it only once its webhook has answered and its receipts are
// posted; it drops no duplicates, and drops its socket on a frame that it cannot parse. The TypeScript one works on many
// at once, drops duplicates, and drops a `deliver` whose `replyTo` is not a URL without acknowledging it.
const BEAT_MS = 20_000;
const RECEIPTS = "/v1/relay/delivery-receipts";

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class Connector {
  /** What its webhook was given, in order: {id, payload, from}. */
  posts = [];
  /** `receipt` frames. */
  receipts = [];
  /** Answers to `enqueue` frames, by id. */
  answers = new Map();
  /** How often it connected, and was refused. */
  connects = 0;
  refusals = 0;
  /** How each connection ended. */
  closes = [];
  #isOver = false;
  #known = new Set();

  /**
   * `webhook(post)`: returns when it has answered; throws where it does not take the message. `postsReceipts`: a receipt
   * is posted for each message. `livesMs`: each connection is ended after that time. `poisoned(frame)`: the frame is one
   * that it cannot parse.
   */
  constructor(agent, { webhook = () => {}, postsReceipts = false, livesMs, poisoned = () => false, reconnectMs = 20, headers = () => ({}) } = {}) {
    Object.assign(this, { agent, webhook, postsReceipts, livesMs, poisoned, reconnectMs, headers });
    this.done = this.#stayConnected();
  }

  async stop() {
    this.#isOver = true;
    this.socket?.terminate();
    await this.done;
  }

  /** Sends an `enqueue` frame on the open connection; it is never sent again. */
  enqueue(to, payload, fields = {}) {
    return this.socket.send({ type: "enqueue", toAgentDid: to.agentDid ?? to, payload, ...fields });
  }

  async #stayConnected() {
    while (!this.#isOver) {
      const frames = [];
      const socket = await this.agent
        .connect({ onDeliver: (open, frame) => this.onDeliver(open, frame, frames), ...this.headers() })
        .catch(() => undefined);
      if (!socket) {
        this.refusals += 1;
        await sleep(this.reconnectMs);
        continue;
      }
      this.connects += 1;
      this.socket = socket;
      if (this.#isOver) socket.terminate();
      const beats = setInterval(() => this.#safely(() => socket.send({ type: "heartbeat" })), BEAT_MS);
      const end = this.livesMs && setTimeout(() => socket.terminate(), this.livesMs);
      let isOpen = true;
      const closed = socket.closed.then((close) => {
        isOpen = false;
        this.closes.push(close);
      });
      const rest = (async () => {
        while (isOpen) {
          const frame = await Promise.race([socket.next((other) => other && other.type !== "deliver", 2_000).catch(() => undefined), closed]);
          if (frame?.type === "heartbeat") this.#safely(() => socket.send({ type: "heartbeat_ack", ackId: frame.id }));
          if (frame?.type === "receipt") this.receipts.push(frame);
          if (frame?.type === "enqueue_ack") this.answers.set(frame.ackId, frame);
        }
      })();
      await closed;
      clearInterval(beats);
      clearTimeout(end);
      await rest;
      await sleep(this.reconnectMs);
    }
  }

  #safely(act) {
    try {
      act();
    } catch {
      // cut off meanwhile
    }
  }

  /** Hands a message to the webhook, then to its sender a receipt, then acknowledges. */
  async work(socket, frame) {
    const post = { id: frame.id, payload: frame.payload, from: frame.fromAgentDid };
    this.posts.push(post);
    let accepted = true;
    try {
      await this.webhook(post);
    } catch {
      accepted = false;
    }
    if (accepted && this.postsReceipts) {
      const body = { requestId: frame.id, senderAgentDid: frame.fromAgentDid, recipientAgentDid: this.agent.agentDid, status: "delivered_to_webhook" };
      await this.agent.post(RECEIPTS, body).catch(() => undefined);
    }
    this.#safely(() => socket.ack(frame, { accepted, ...(accepted ? {} : { reason: "webhook" }) }));
    return accepted;
  }

  isKnown(id) {
    return this.#known.has(id) || !this.#known.add(id);
  }
}

export class RustConnector extends Connector {
  #queue = Promise.resolve();

  onDeliver(socket, frame) {
    if (this.poisoned(frame)) return void socket.terminate();
    // One at a time, whatever connection it came on: what was read before a connection broke is worked on all the same.
    this.#queue = this.#queue.then(() => this.work(socket, frame));
  }
}

export class TypeScriptConnector extends Connector {
  onDeliver(socket, frame) {
    if (this.poisoned(frame)) return;
    if (frame.replyTo !== undefined && !URL.canParse(frame.replyTo)) return;
    if (this.isKnown(frame.id)) return void socket.ack(frame);
    this.work(socket, frame);
  }
}

// A TCP line between clients and a proxy. It can be cut at any byte in either direction, and moved to another proxy.
import { createServer, connect } from "node:net";

export class Line {
  #server;
  #open = new Set();
  #target;

  /** A line to the proxy at `url`; clients use `line.url`. */
  static async to(url) {
    const line = new Line();
    line.moveTo(url);
    line.#server = createServer((client) => line.#carry(client));
    await new Promise((resolve) => line.#server.listen(0, "127.0.0.1", resolve));
    line.url = `http://127.0.0.1:${line.#server.address().port}/`;
    return line;
  }

  moveTo(url) {
    this.#target = new URL(url);
  }

  /** Cuts `share` of what is open now, each after some of the bytes it is about to carry: `bytes()` says how many. */
  cut(share, bytes, random) {
    for (const one of this.#open) if (random() < share) one.left[random() < 0.5 ? "up" : "down"] = bytes();
  }

  async close() {
    for (const one of this.#open) one.end();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #carry(client) {
    const server = connect(Number(this.#target.port), this.#target.hostname);
    const one = {
      left: { up: Infinity, down: Infinity },
      end: () => {
        this.#open.delete(one);
        client.destroy();
        server.destroy();
      },
    };
    this.#open.add(one);
    const pass = (from, to, way) => {
      from.on("data", (chunk) => {
        const through = chunk.subarray(0, Math.min(chunk.length, one.left[way]));
        one.left[way] -= through.length;
        if (one.left[way] > 0) return void to.write(through);
        to.end(through); // what was let through arrives, then the line is dead
        from.destroy();
      });
      from.on("error", one.end);
      from.on("close", one.end);
    };
    pass(client, server, "up");
    pass(server, client, "down");
  }
}

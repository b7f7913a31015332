// Faults: how a dependency misbehaves until it is told to stop.

export const DEPENDENCIES = ["keys", "crl", "validate", "ownership", "membership"];

/** What each mode does. `wrong-key` is for `keys` and `crl`, and is made where they are. */
export const MODES = {
  none: "answers as it should",
  down: "fails the connection; over a port, which a worker cannot drop, it is an answer 500 without a body of ours",
  500: "answers 500",
  429: "answers 429 with Retry-After: `retryAfterSeconds` (1)",
  "429-unless-yes": "answers as it should where that is a yes, and else as under 429: it has had enough of what is made up",
  slow: "answers after `ms` (5000)",
  "slow-body": "sends half of the answer at once and the rest after `ms` (5000)",
  garbage: "answers 200 with a body that is not JSON",
  "wrong-key": "keys: the known kid with another key; crl: signed by another key",
};

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The answer of `serve` under a fault. */
export async function underFault(fault, serve) {
  switch (fault?.mode) {
    case "down":
      throw new Error("development registry: down, as it was told to be");
    case "500":
      return Response.json({ error: { code: "INTERNAL_SERVER_ERROR", message: "told to fail" } }, { status: 500 });
    case "429":
      return Response.json(
        { error: { code: "RATE_LIMIT_EXCEEDED", message: "told to refuse" } },
        { status: 429, headers: { "retry-after": String(fault.retryAfterSeconds ?? 1) } },
      );
    case "429-unless-yes": {
      const answer = await serve();
      const said = answer.status === 200 ? await answer.clone().json() : {};
      const isYes = answer.status === 204 || said.isMember || said.ownsAgent;
      return isYes ? answer : underFault({ ...fault, mode: "429" }, serve);
    }
    case "slow":
      await wait(fault.ms ?? 5000);
      return serve();
    case "slow-body":
      return slowBody(await serve(), fault.ms ?? 5000);
    case "garbage":
      return new Response("<html>this is no JSON", { headers: { "content-type": "application/json" } });
    default:
      return serve();
  }
}

async function slowBody(response, ms) {
  const bytes = new Uint8Array(await response.arrayBuffer());
  const half = bytes.length >> 1;
  const body = new ReadableStream({
    async start(controller) {
      controller.enqueue(bytes.slice(0, half));
      await wait(ms);
      controller.enqueue(bytes.slice(half));
      controller.close();
    },
  });
  return new Response(body, response);
}

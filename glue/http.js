// Requests and responses, where JavaScript does in one step what would take wasm a crossing for each piece or header.

/** The method, the URL, then each header's name and value, in lines. None of these can hold a line break. */
export function linesOf(request) {
  let lines = `${request.method}\n${request.url}`;
  for (const [name, value] of request.headers) lines += `\n${name}\n${value}`;
  return lines;
}

/** A Response of a status, of headers in lines as above, and of a body, which may be empty. */
export function respond(status, lines, body) {
  const headers = {};
  const parts = lines.split("\n");
  for (let i = 0; i + 1 < parts.length; i += 2) headers[parts[i]] = parts[i + 1];
  // The bytes are a view of wasm's memory, which is used again.
  return new Response(body.length > 0 ? body.slice() : null, { status, headers });
}

/**
 * Reads the body of a Request. Answers with the bytes, with "too large" as soon as there are more than `limit`, or with "timeout" after `limitMs`.
 * Rejects where the body breaks off.
 */
export function readBody(request, limit, limitMs) {
  if (request.body === null) return Promise.resolve(new Uint8Array());
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve("timeout"), limitMs);
    // A body of a declared length is no longer than that: it comes in one piece.
    const whole = request.headers.has("content-length") ? request.arrayBuffer().then(toBytes) : pieces(request.body, limit);
    const settled = (settle) => (value) => {
      clearTimeout(timer);
      settle(value);
    };
    whole.then((bytes) => settled(resolve)(bytes.length > limit ? "too large" : bytes), settled(reject));
  });
}

const toBytes = (buffer) => new Uint8Array(buffer);

async function pieces(body, limit) {
  const chunks = [];
  let length = 0;
  // Leaving the loop cancels the stream.
  for await (const chunk of body) {
    chunks.push(chunk);
    length += chunk.length;
    if (length > limit) break;
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

// Reads the body of a Request or Response. It is JavaScript because every piece read from wasm costs several crossings.

/**
 * Answers with the bytes, with "too large" as soon as there are more than `limit`, or with "timeout" after `limitMs`.
 * Rejects where the body breaks off.
 */
export function readBody(message, limit, limitMs) {
  if (message.body === null) return Promise.resolve(new Uint8Array());
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => resolve("timeout"), limitMs);
    // A body of a declared length is no longer than that: it comes in one piece.
    const whole = message.headers.has("content-length") ? message.arrayBuffer().then(toBytes) : pieces(message.body, limit);
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

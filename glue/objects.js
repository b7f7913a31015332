// Calls a Durable Object: one text to it, one text back. It is JavaScript because a call made here costs a quarter of
// one made from wasm with a Request, a Response and a timer of their own.

const TOO_OLD = /does not implement the method/;

/**
 * Answers with the object's answer, or rejects: with the object's or the platform's error, or after `limitMs`.
 * Undefined where there is no such binding.
 */
export function callObject(env, binding, name, text, limitMs) {
  const namespace = env[binding];
  if (namespace === undefined) return undefined;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("no answer in time")), limitMs);
    const settled = (settle) => (value) => {
      clearTimeout(timer);
      settle(value);
    };
    // A stub whose object failed stays broken, so each call takes a new one.
    const stub = namespace.getByName(name);
    stub.call(text).then(settled(resolve), (error) => {
      if (!TOO_OLD.test(error?.message)) return settled(reject)(error);
      fetchFrom(stub, text).then(settled(resolve), settled(reject));
    });
  });
}

// While a deployment is under way, an object may still run a version that answers requests only.
async function fetchFrom(stub, text) {
  const response = await stub.fetch("https://object/call", { method: "POST", body: text });
  if (response.status !== 200) throw new Error(`status ${response.status}`);
  return response.text();
}

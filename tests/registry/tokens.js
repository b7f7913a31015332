// Keys, identifiers and signed tokens, in the forms of docs/wire.md §1, §2 and §4.

const ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const encoder = new TextEncoder();

export function ulid(nowMs = Date.now()) {
  let time = nowMs;
  let head = "";
  for (let i = 0; i < 10; i++, time = Math.floor(time / 32)) head = ALPHABET[time % 32] + head;
  return head + [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => ALPHABET[byte & 31]).join("");
}

export function base64url(data) {
  const bytes = typeof data === "string" ? encoder.encode(data) : new Uint8Array(data);
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** A signing key as it is stored: with its private part, which leaves this worker never. */
export async function newSigningKey() {
  const pair = await crypto.subtle.generateKey("Ed25519", true, ["sign", "verify"]);
  const jwk = await crypto.subtle.exportKey("jwk", pair.privateKey);
  return { kid: `dev-${ulid()}`, status: "active", x: jwk.x, d: jwk.d };
}

/** The compact JWS of two texts, which need not be JSON: tests send what no registry would. */
export async function signTexts(key, headerText, payloadText) {
  const jwk = { kty: "OKP", crv: "Ed25519", x: key.x, d: key.d };
  const privateKey = await crypto.subtle.importKey("jwk", jwk, "Ed25519", false, ["sign"]);
  const signed = `${base64url(headerText)}.${base64url(payloadText)}`;
  return `${signed}.${base64url(await crypto.subtle.sign("Ed25519", privateKey, encoder.encode(signed)))}`;
}

export function sign(key, type, claims) {
  return signTexts(key, JSON.stringify({ alg: "EdDSA", typ: type, kid: key.kid }), JSON.stringify(claims));
}

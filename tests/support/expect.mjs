// What docs/wire.md says about every answer, asserted in one place.
import assert from "node:assert/strict";

export const ULID = /^[0-7][0-9A-HJKMNP-TV-Z]{25}$/;
const REQUEST_ID = /^[A-Za-z0-9._:-]{8,128}$/;
const MAX_ERROR_BYTES = 4096;
const WITH_RETRY_AFTER = new Set([
  "PROXY_RATE_LIMIT_EXCEEDED", "PROXY_PUBLIC_RATE_LIMIT_EXCEEDED", "PROXY_AUTH_DEPENDENCY_UNAVAILABLE",
  "PROXY_PAIR_STATE_UNAVAILABLE", "PROXY_PAIR_OWNERSHIP_UNAVAILABLE", "PROXY_GROUP_MEMBERSHIP_UNAVAILABLE",
  "PROXY_INTERNAL_AUTH_UNAUTHORIZED",
]);

/** The error envelope of §5 with this status and code; returns the error. */
export function refused(answer, status, code) {
  assert.deepEqual([answer.status, answer.json?.error?.code], [status, code], answer.text);
  assert.deepEqual(Object.keys(answer.json), ["error"]);
  const { error } = answer.json;
  for (const key of Object.keys(error)) assert.ok(["code", "message", "requestId", "details"].includes(key), key);
  assert.ok(typeof error.message === "string" && error.message !== "");
  assert.match(error.requestId, REQUEST_ID);
  assert.equal(answer.headers.get("x-request-id"), error.requestId);
  assert.match(answer.headers.get("content-type"), /^application\/json/);
  assert.ok(Buffer.byteLength(answer.text) <= MAX_ERROR_BYTES);
  if (status === 401) assert.equal(answer.headers.get("www-authenticate"), code.startsWith("PROXY_BEARER_") ? "Bearer" : "Claw");
  if (WITH_RETRY_AFTER.has(code)) assert.match(answer.headers.get("retry-after") ?? "missing", /^[1-9]\d*$/);
  return error;
}

/** A JSON answer with this status; returns its body. */
export function answered(answer, status) {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers.get("x-request-id"), REQUEST_ID);
  return answer.json;
}

/** A hook's 202 of §5 with these fields; returns its body. */
export function accepted(answer, fields = {}) {
  const body = answered(answer, 202);
  assert.deepEqual(Object.keys(body).sort(),
    ["accepted", "connectedSockets", "delivered", "deliveryId", "queueDepth", "queued", "state"]);
  assert.equal(body.accepted, true);
  assert.ok(typeof body.deliveryId === "string" && body.deliveryId !== "");
  for (const [key, value] of Object.entries(fields)) assert.equal(body[key], value, `${key} in ${answer.text}`);
  return body;
}

/** Passed authentication and admission: no ticket of that form exists, and only the handler says so. */
export function admitted(answer) {
  refused(answer, 400, "PROXY_PAIR_TICKET_INVALID_FORMAT");
}

/** The cheapest request that needs a Claw identity and nothing else: see `admitted`. */
export const probe = (agent, over) => agent.post("/pair/status", { ticket: "none" }, over);

/** The first value at or over each share of the sorted list. */
export function percentile(values, share) {
  return [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(values.length * share))];
}

/** How often each status came: {202: 1000}. */
export function statuses(answers) {
  const counts = {};
  for (const { status } of answers) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}

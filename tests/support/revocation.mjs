// The two sources of revocations: the registry by its events (docs/wire.md §7), and an operator by the operator's
// routes (docs/wire.md §10).
import { ulid } from "./socket.mjs";

/** `ADMIN_TOKEN` of a world that has one. */
export const ADMIN = "an-operators-token-for-tests-000000";

/** An event of the registry as the queue carries it, by default a revocation. */
export const event = (data, { id = ulid(), type = "agent.auth.revoked" } = {}) => ({
  id, type, version: "v1", timestampUtc: new Date().toISOString(), initiatedByAccountId: "account", data,
});

/** A request with the admin token -> its answer; `headers` over its own. */
export const asOperator = (world, method, path, body, headers = {}) =>
  world.send(method, path, {
    headers: { authorization: `Bearer ${ADMIN}`, ...headers }, body: body === undefined ? undefined : JSON.stringify(body),
  });

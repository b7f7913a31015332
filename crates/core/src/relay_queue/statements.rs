//! The SQL of an agent's session: its mail, the outcomes, and the receipts in both directions (`schema`). The Worker runs
//! it in its Durable Object, and the history test runs it on SQLite.

/// Every live message, oldest first, without the payloads.
pub const LIVE_MAIL: &str = "SELECT seq, request_id, sender_did, deliver_id, hash, attempts, due_at_ms, mark, cuts, breaks, \
     created_at_ms, expires_at_ms, bytes, delivery_source, group_id, jti, generation, pair_id FROM mail ORDER BY seq";

/// A new message.
pub const INSERT_MAIL: &str = "INSERT INTO mail (seq, request_id, sender_did, deliver_id, hash, attempts, due_at_ms, created_at_ms, \
     expires_at_ms, bytes, delivery_source, content_type, group_id, conversation_id, reply_to, jti, \
     generation, pair_id, payload) \
     VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// What a live message's frame needs.
pub const OUTGOING_MAIL: &str = "SELECT payload, delivery_source, content_type, group_id, conversation_id, reply_to \
     FROM mail WHERE seq = ?";

/// A message was refused: attempts, when it is due, and its number.
pub const REQUEUE_MAIL: &str =
    "UPDATE mail SET attempts = ?, due_at_ms = ?, mark = NULL, cuts = 0, breaks = 0 WHERE seq = ?";

/// What a broken connection says about a message: mark, cuts, breaks, its place in the line, and its number.
pub const CUT_MAIL: &str = "UPDATE mail SET mark = ?, cuts = ?, breaks = ?, due_at_ms = ? WHERE seq = ?";

/// A message is no longer live.
pub const REMOVE_MAIL: &str = "DELETE FROM mail WHERE seq = ?";

/// Writes an outcome into the table that begins at `since_ms`, or changes the one that stands there.
pub fn put_outcome(since_ms: u64) -> String {
    format!(
        "INSERT INTO outcomes_{since_ms} (request_id, sender_did, deliver_id, hash, state, reason, status_updated_at_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (request_id, sender_did) DO UPDATE SET \
         state = excluded.state, reason = excluded.reason, status_updated_at_ms = excluded.status_updated_at_ms"
    )
}

/// The outcome of a request (`?1`) of a sender (`?2`).
pub const OF_REQUEST: &str = "request_id = ?1 AND sender_did = ?2";
/// The outcome of a sender's (`?2`) message whose frame has an id of its own (`?1`).
pub const OF_FRAME: &str = "deliver_id = ?1 AND sender_did = ?2";
/// Those of all messages that had this id (`?1`), as their request's or their frame's.
pub const OF_ID: &str = "request_id = ?1 OR deliver_id = ?1";

/// The outcomes that fit, the newest first: one question over all tables, which begin at these times. None where there is
/// no table.
pub fn find_outcomes(tables: &[u64], condition: &str) -> Option<String> {
    let of_table = |since_ms: &u64| {
        format!(
            "SELECT {since_ms} AS since_ms, request_id, sender_did, deliver_id, hash, state, reason, status_updated_at_ms \
             FROM outcomes_{since_ms} WHERE {condition}"
        )
    };
    let of_tables: Vec<String> = tables.iter().map(of_table).collect();
    (!of_tables.is_empty()).then(|| of_tables.join(" UNION ALL ") + " ORDER BY since_ms DESC")
}

/// Puts a receipt on its way: sender, request, status, reason, when it is due, and until when.
pub const PUT_IN_OUTBOX: &str = "INSERT INTO outbox (sender_did, request_id, status, reason, attempts, due_at_ms, expires_at_ms) \
     VALUES (?, ?, ?, ?, 0, ?, ?)";

/// When the outbox is next to be looked at.
pub const OUTBOX_DUE: &str = "SELECT MIN(due_at_ms) AS due FROM outbox";

/// What is due by now, oldest first, and no more than so many.
pub const OUTBOX: &str = "SELECT seq, sender_did, request_id, status, reason, attempts, expires_at_ms FROM outbox \
     WHERE due_at_ms <= ? ORDER BY seq LIMIT ?";

/// Taken by the sender's session, or given up: a JSON list of numbers.
pub const TAKE_FROM_OUTBOX: &str = "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?))";

/// Not taken: when to try again, and a JSON list of numbers.
pub const POSTPONE_IN_OUTBOX: &str = "UPDATE outbox SET attempts = attempts + 1, due_at_ms = ? \
     WHERE seq IN (SELECT value FROM json_each(?))";

/// Keeps a receipt for the agent's own connector: number, request, recipient, status, reason, until when. One that was
/// just told, among those after `?7`, is not kept twice.
pub const KEEP_RECEIPT: &str = "INSERT INTO pushes (seq, request_id, recipient_did, status, reason, expires_at_ms) \
     SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE NOT EXISTS (SELECT 1 FROM pushes \
     WHERE seq > ?7 AND request_id = ?2 AND recipient_did = ?3 AND status = ?4)";

/// The highest number among the receipts.
pub const LAST_PUSH: &str = "SELECT MAX(seq) AS seq FROM pushes";

/// Receipts after this number, oldest first, and no more than so many.
pub const PUSHES_AFTER: &str =
    "SELECT seq, request_id, recipient_did, status, reason FROM pushes WHERE seq > ? ORDER BY seq LIMIT ?";

/// The connector has them up to this number.
pub const PUSHED_THROUGH: &str = "DELETE FROM pushes WHERE seq <= ?";

/// Those that nobody took by now, or that are too many.
pub const SWEEP_RECEIPTS: &str = "DELETE FROM pushes WHERE expires_at_ms <= ? OR seq <= ?";

/// When the oldest receipt expires.
pub const RECEIPTS_DUE: &str = "SELECT expires_at_ms FROM pushes ORDER BY seq LIMIT 1";

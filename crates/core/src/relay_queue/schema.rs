//! The tables of an agent's session. A session may have been asleep for months, so changing a table is a migration,
//! and the tests say so.
//!
//! Storage bills the rows that are written, those of indexes included; dropping a table writes none. So no table has
//! an index other than its key. Outcomes, which are many and all expire, are kept in one table for each period and
//! dropped with it. A message costs three rows in all: its mail, the deletion of that, and its outcome.

/// Made where they are not there yet, at every wake.
///
/// `mail`: live messages alone; what is in flight is known to the socket (`socket::Attachment`). `outbox`: receipts on
/// their way to their senders. `pushes`: receipts for this agent's own connector, until it has them. `meta`: `agent`,
/// since when it is `revoked`, and what its `enqueue` bucket gave.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mail (
  seq INTEGER PRIMARY KEY,
  request_id TEXT NOT NULL,
  sender_did TEXT NOT NULL,
  deliver_id TEXT,
  hash TEXT,
  attempts INTEGER NOT NULL,
  due_at_ms INTEGER NOT NULL,
  mark TEXT,
  cuts INTEGER NOT NULL DEFAULT 0,
  breaks INTEGER NOT NULL DEFAULT 0,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  delivery_source TEXT,
  content_type TEXT,
  group_id TEXT,
  conversation_id TEXT,
  reply_to TEXT,
  jti TEXT,
  generation TEXT,
  pair_id TEXT,
  payload TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY,
  sender_did TEXT NOT NULL,
  request_id TEXT NOT NULL,
  status TEXT NOT NULL,
  reason TEXT,
  attempts INTEGER NOT NULL,
  due_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS pushes (
  seq INTEGER PRIMARY KEY,
  request_id TEXT NOT NULL,
  recipient_did TEXT NOT NULL,
  status TEXT NOT NULL,
  reason TEXT,
  expires_at_ms INTEGER NOT NULL
);
";

/// What the outcomes of one period are kept in; its name ends with the period's beginning, Unix milliseconds.
pub const OUTCOMES_PREFIX: &str = "outcomes_";

/// The statements that make such a table.
pub fn outcomes(since_ms: u64) -> String {
    format!(
        "
CREATE TABLE IF NOT EXISTS outcomes_{since_ms} (
  request_id TEXT NOT NULL,
  sender_did TEXT NOT NULL,
  deliver_id TEXT,
  hash TEXT,
  state TEXT NOT NULL,
  reason TEXT,
  status_updated_at_ms INTEGER NOT NULL,
  PRIMARY KEY (request_id, sender_did)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS outcomes_{since_ms}_by_frame ON outcomes_{since_ms} (deliver_id) WHERE deliver_id IS NOT NULL;
"
    )
}

/// Until now one table held live messages and outcomes, and another the receipts, pushed or not. What they hold is taken
/// over once; a version that is rolled back to makes them anew.
pub const OLD_TABLES: [&str; 2] = ["deliveries", "receipts"];

/// Takes over `deliveries` into `mail` and the outcomes of the period that began at `since_ms`.
pub fn take_over_deliveries(since_ms: u64) -> String {
    format!(
        "
INSERT INTO mail (seq, request_id, sender_did, deliver_id, attempts, due_at_ms, created_at_ms, expires_at_ms, bytes,
    delivery_source, content_type, group_id, conversation_id, reply_to, payload)
  SELECT seq + (SELECT COALESCE(MAX(seq), 0) FROM mail), request_id, sender_did, deliver_id, 0, 0, created_at_ms,
    expires_at_ms, bytes, delivery_source, content_type, group_id, conversation_id, reply_to, payload
  FROM deliveries WHERE payload IS NOT NULL ORDER BY seq;
INSERT OR IGNORE INTO outcomes_{since_ms} (request_id, sender_did, deliver_id, state, reason, status_updated_at_ms)
  SELECT request_id, sender_did, deliver_id, state, reason, status_updated_at_ms
  FROM deliveries WHERE payload IS NULL;
DROP TABLE deliveries;
"
    )
}

/// Takes over what no socket has taken of `receipts`.
pub const TAKE_OVER_RECEIPTS: &str = "
INSERT INTO pushes (request_id, recipient_did, status, reason, expires_at_ms)
  SELECT request_id, recipient_did, status, reason, expires_at_ms FROM receipts WHERE pushed = 0 ORDER BY seq;
DROP TABLE receipts;
";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// What is stored must be readable by what is deployed next: a new column comes by `ALTER TABLE`, where it is missing.
    #[test]
    fn tables_are_those_that_are_stored() {
        let all = SCHEMA.to_owned() + &outcomes(7);
        let hash: String = Sha256::digest(all.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hash, "00576500a1053e7ed868298dca0262b1ea53ba01656f69686607bcfa3cdd273d",
            "changing a table is a migration"
        );
    }
}

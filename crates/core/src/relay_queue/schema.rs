//! The tables of an agent's session. A session may have been asleep for months: changing one is a migration, and the test
//! says so.

/// Made where they are not there yet, at every wake.
///
/// `deliveries`: one row per message, live as long as it has a payload; `deliver_id` only where it is not the request's
/// id. `outbox`: receipts on their way to their senders. `receipts`: those for this agent's own connector. `meta`:
/// `agent`, and since when it is `revoked`.
pub const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deliveries (
  seq INTEGER PRIMARY KEY,
  request_id TEXT NOT NULL,
  sender_did TEXT NOT NULL,
  deliver_id TEXT,
  state TEXT NOT NULL,
  reason TEXT,
  attempts INTEGER NOT NULL,
  due_at_ms INTEGER NOT NULL,
  sent_on TEXT,
  created_at_ms INTEGER NOT NULL,
  expires_at_ms INTEGER NOT NULL,
  status_updated_at_ms INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  delivery_source TEXT,
  content_type TEXT,
  group_id TEXT,
  conversation_id TEXT,
  reply_to TEXT,
  payload TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS deliveries_by_request ON deliveries (request_id, sender_did);
CREATE INDEX IF NOT EXISTS deliveries_by_frame ON deliveries (deliver_id) WHERE deliver_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS deliveries_live ON deliveries (seq) WHERE payload IS NOT NULL;
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
CREATE TABLE IF NOT EXISTS receipts (
  seq INTEGER PRIMARY KEY,
  request_id TEXT NOT NULL,
  recipient_did TEXT NOT NULL,
  status TEXT NOT NULL,
  reason TEXT,
  expires_at_ms INTEGER NOT NULL,
  pushed INTEGER NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS receipts_by_message ON receipts (request_id, recipient_did);
CREATE INDEX IF NOT EXISTS receipts_unpushed ON receipts (seq) WHERE pushed = 0;
";

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// What is stored must be readable by what is deployed next: a new column comes by `ALTER TABLE`, where it is missing.
    #[test]
    fn tables_are_those_that_are_stored() {
        let hash: String = Sha256::digest(SCHEMA.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hash, "cfe0bcf4fe8af858fb986f2a1482c7b2c3b56a6586c79a0519c2546ccdb606be",
            "changing a table is a migration"
        );
    }
}

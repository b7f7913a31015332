//! The SQL of receipts: those on their way to their senders (`outbox`, at the recipient's session), and those for this
//! agent's own connector (`receipts`, at the sender's).
//!
//! A row of the outbox is written together with the state it tells of, and deleted when the sender's session took it. A
//! receipt is kept after it was pushed, until it expires, so that one told twice is pushed once.

use serde::Deserialize;
use worker::SqlStorageValue;

use super::protocol::PushReceipt;
use super::session::Failure;
use super::tables::{Tables, int};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::receipt::ReceiptStatus;

/// Rows looked at by one sweep.
const SWEEP_ROWS: i64 = 200;

/// A receipt on its way to its sender's session.
pub struct OutboxRow {
    /// Its number.
    pub seq: u64,
    /// Where it goes.
    pub sender: AgentDid,
    /// What it says.
    pub receipt: PushReceipt,
    /// How often it was tried.
    pub attempts: u32,
    /// Unix milliseconds; not tried any more from then on.
    pub expires_at_ms: u64,
}

/// A receipt for this agent's connector.
pub struct UnpushedRow {
    /// Its number.
    pub seq: u64,
    /// The agent the message went to.
    pub recipient: AgentDid,
    /// What it says.
    pub receipt: PushReceipt,
}

impl Tables {
    /// Puts a receipt on its way, due at once.
    pub fn put_in_outbox(
        &self,
        sender: &AgentDid,
        receipt: &PushReceipt,
        now_ms: u64,
        expires_at_ms: u64,
    ) -> Result<(), Failure> {
        let query = "INSERT INTO outbox (sender_did, request_id, status, reason, attempts, due_at_ms, expires_at_ms) \
                     VALUES (?, ?, ?, ?, 0, ?, ?)";
        let values = vec![
            sender.as_str().into(),
            receipt.request_id.to_string().into(),
            receipt.status.as_str().into(),
            receipt.reason.clone().into(),
            int(now_ms),
            int(expires_at_ms),
        ];
        self.run(query, values)
    }

    /// When the outbox is next to be looked at, Unix milliseconds.
    pub fn outbox_due_ms(&self) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            due: Option<u64>,
        }
        let rows: Vec<Row> = self.rows("SELECT MIN(due_at_ms) AS due FROM outbox", vec![])?;
        Ok(rows.first().and_then(|row| row.due))
    }

    /// What is due, oldest first.
    pub fn outbox(&self, now_ms: u64, limit: u32) -> Result<Vec<OutboxRow>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            sender_did: AgentDid,
            request_id: Ulid,
            status: ReceiptStatus,
            reason: Option<String>,
            attempts: u32,
            expires_at_ms: u64,
        }
        let query = "SELECT seq, sender_did, request_id, status, reason, attempts, expires_at_ms FROM outbox \
                     WHERE due_at_ms <= ? ORDER BY seq LIMIT ?";
        let rows: Vec<Row> = self.rows(query, vec![int(now_ms), int(limit.into())])?;
        let read = |row: Row| OutboxRow {
            seq: row.seq,
            sender: row.sender_did,
            receipt: PushReceipt {
                request_id: row.request_id,
                status: row.status,
                reason: row.reason,
            },
            attempts: row.attempts,
            expires_at_ms: row.expires_at_ms,
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// Taken by the sender's session, or given up.
    pub fn take_from_outbox(&self, seqs: &[u64]) -> Result<(), Failure> {
        self.run(
            "DELETE FROM outbox WHERE seq IN (SELECT value FROM json_each(?))",
            vec![json_list(seqs)],
        )
    }

    /// Not taken: to be tried again at `due_at_ms`.
    pub fn postpone_in_outbox(&self, seqs: &[u64], due_at_ms: u64) -> Result<(), Failure> {
        let query = "UPDATE outbox SET attempts = attempts + 1, due_at_ms = ? \
                     WHERE seq IN (SELECT value FROM json_each(?))";
        self.run(query, vec![int(due_at_ms), json_list(seqs)])
    }

    /// Keeps a receipt for this agent's connector. One that says nothing new changes nothing.
    pub fn keep_receipt(
        &self,
        recipient: &AgentDid,
        receipt: &PushReceipt,
        expires_at_ms: u64,
    ) -> Result<(), Failure> {
        let query = "INSERT INTO receipts (request_id, recipient_did, status, reason, expires_at_ms, pushed) \
                     VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (request_id, recipient_did) DO UPDATE SET \
                     status = excluded.status, reason = excluded.reason, expires_at_ms = excluded.expires_at_ms, pushed = 0 \
                     WHERE status <> excluded.status";
        let values = vec![
            receipt.request_id.to_string().into(),
            recipient.as_str().into(),
            receipt.status.as_str().into(),
            receipt.reason.clone().into(),
            int(expires_at_ms),
        ];
        self.run(query, values)
    }

    /// Receipts that no socket has taken yet, oldest first.
    pub fn unpushed(&self, limit: u32) -> Result<Vec<UnpushedRow>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            request_id: Ulid,
            recipient_did: AgentDid,
            status: ReceiptStatus,
            reason: Option<String>,
        }
        let query = "SELECT seq, request_id, recipient_did, status, reason FROM receipts WHERE pushed = 0 \
                     ORDER BY seq LIMIT ?";
        let rows: Vec<Row> = self.rows(query, vec![int(limit.into())])?;
        let read = |row: Row| UnpushedRow {
            seq: row.seq,
            recipient: row.recipient_did,
            receipt: PushReceipt {
                request_id: row.request_id,
                status: row.status,
                reason: row.reason,
            },
        };
        Ok(rows.into_iter().map(read).collect())
    }

    /// A socket took these.
    pub fn pushed(&self, seqs: &[u64]) -> Result<(), Failure> {
        let query = "UPDATE receipts SET pushed = 1 WHERE seq IN (SELECT value FROM json_each(?))";
        self.run(query, vec![json_list(seqs)])
    }

    /// Deletes the receipts at the front that have expired or are too many, a bounded number of them, and says when to
    /// come again.
    pub fn sweep_receipts(&self, now_ms: u64, max_kept: u64) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            expires_at_ms: u64,
            newest: u64,
        }
        let query = "SELECT seq, expires_at_ms, (SELECT MAX(seq) FROM receipts) AS newest FROM receipts ORDER BY seq LIMIT ?";
        let front: Vec<Row> = self.rows(query, vec![SqlStorageValue::Integer(SWEEP_ROWS)])?;
        let goes = |row: &&Row| row.expires_at_ms <= now_ms || row.newest.saturating_sub(row.seq) >= max_kept;
        if let Some(last) = front.iter().take_while(goes).last() {
            self.run("DELETE FROM receipts WHERE seq <= ?", vec![int(last.seq)])?;
        }
        Ok(match front.iter().find(|row| !goes(row)) {
            Some(row) => Some(row.expires_at_ms.max(now_ms)),
            None => (!front.is_empty()).then_some(now_ms),
        })
    }
}

fn json_list(seqs: &[u64]) -> SqlStorageValue {
    serde_json::to_string(seqs).unwrap_or_default().into()
}

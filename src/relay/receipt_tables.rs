//! The tables of receipts: those on their way to their senders (`outbox`, at the recipient's session), and those for
//! this agent's own connector (`pushes`, at the sender's).
//!
//! A row of the outbox is written together with the state that it reports, and deleted when the sender's session has
//! taken it. A row of the pushes is deleted when the connector is known to have it. So each receipt costs two rows at
//! either end.

use serde::Deserialize;
use serde_json::Value;

use super::failure::Failure;
use super::protocol::PushReceipt;
use super::tables::{Tables, int};
use crate::core::relay_queue::statements;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::receipt::ReceiptStatus;

/// Receipts kept for one agent's connector.
pub const MAX_KEPT_RECEIPTS: u64 = 20_000;
/// A receipt that is told again, because the answer was lost, is looked for among so many that came last.
const TOLD_AGAIN_ROWS: u64 = 200;

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
pub struct PushRow {
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
        let values = vec![
            sender.as_str().into(),
            receipt.request_id.to_string().into(),
            receipt.status.as_str().into(),
            receipt.reason.clone().into(),
            int(now_ms),
            int(expires_at_ms),
        ];
        self.run(statements::PUT_IN_OUTBOX, values)
    }

    /// When the outbox is next to be looked at, Unix milliseconds.
    pub fn outbox_due_ms(&self) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            due: Option<u64>,
        }
        let rows: Vec<Row> = self.rows(statements::OUTBOX_DUE, vec![])?;
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
        let rows: Vec<Row> = self.rows(statements::OUTBOX, vec![int(now_ms), int(limit.into())])?;
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
        self.run(statements::TAKE_FROM_OUTBOX, vec![json_list(seqs)])
    }

    /// Not taken: to be tried again at `due_at_ms`.
    pub fn postpone_in_outbox(&self, seqs: &[u64], due_at_ms: u64) -> Result<(), Failure> {
        self.run(
            statements::POSTPONE_IN_OUTBOX,
            vec![int(due_at_ms), json_list(seqs)],
        )
    }

    /// Keeps a receipt for this agent's connector under this number. One that was just told is not kept twice.
    pub fn keep_receipt(
        &self,
        seq: u64,
        recipient: &AgentDid,
        receipt: &PushReceipt,
        expires_at_ms: u64,
    ) -> Result<(), Failure> {
        let values = vec![
            int(seq),
            receipt.request_id.to_string().into(),
            recipient.as_str().into(),
            receipt.status.as_str().into(),
            receipt.reason.clone().into(),
            int(expires_at_ms),
            int(seq.saturating_sub(TOLD_AGAIN_ROWS)),
        ];
        self.run(statements::KEEP_RECEIPT, values)
    }

    /// The highest number among the receipts.
    pub fn last_push(&self) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: Option<u64>,
        }
        let rows: Vec<Row> = self.rows(statements::LAST_PUSH, vec![])?;
        Ok(rows.first().and_then(|row| row.seq).unwrap_or(0))
    }

    /// Receipts after this number, oldest first.
    pub fn pushes_after(&self, seq: u64, limit: u32) -> Result<Vec<PushRow>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            request_id: Ulid,
            recipient_did: AgentDid,
            status: ReceiptStatus,
            reason: Option<String>,
        }
        let rows: Vec<Row> = self.rows(statements::PUSHES_AFTER, vec![int(seq), int(limit.into())])?;
        let read = |row: Row| PushRow {
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

    /// The connector has these.
    pub fn pushed_through(&self, seq: u64) -> Result<(), Failure> {
        self.run(statements::PUSHED_THROUGH, vec![int(seq)])
    }

    /// Deletes the receipts that nobody took in their time, or that are too many, and says when to come again.
    pub fn sweep_receipts(&self, now_ms: u64, max_kept: u64) -> Result<Option<u64>, Failure> {
        let too_old = self.last_push()?.saturating_sub(max_kept);
        self.run(statements::SWEEP_RECEIPTS, vec![int(now_ms), int(too_old)])?;
        self.receipts_due_ms()
    }

    /// When the oldest receipt expires, Unix milliseconds.
    pub fn receipts_due_ms(&self) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            expires_at_ms: u64,
        }
        let rows: Vec<Row> = self.rows(statements::RECEIPTS_DUE, vec![])?;
        Ok(rows.first().map(|row| row.expires_at_ms))
    }
}

fn json_list(seqs: &[u64]) -> Value {
    serde_json::to_string(seqs).unwrap_or_default().into()
}

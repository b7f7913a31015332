//! The SQL of deliveries: one row per message, live or done.
//!
//! A row is written before its frame is sent, and holds the payload exactly as long as the message is live; what
//! remains is its outcome, which makes a repeated request idempotent (docs/wire.md §6) and answers
//! `GET /v1/relay/delivery-receipts`, until it is swept.
//!
//! Costs, in rows written (storage bills them, indexes included): a message that goes out at once and is acknowledged
//! takes 3 and 1. So: `deliver_id` is stored, and indexed, only where it is not the request's id; the index of live
//! rows depends on `payload` alone, which no change among live states touches; numbers are the queue's, without
//! AUTOINCREMENT; nothing is indexed by expiry, because rows are swept from the front, oldest first. Nothing here costs
//! more for rows that are done.

use serde::Deserialize;
use worker::{SqlStorage, SqlStorageValue};

use super::rows::{
    First, KeptDelivery, KeptRow, LiveDelivery, NewDelivery, Outgoing, frame_id, stored_state,
};
use super::session::Failure;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::schema::SCHEMA;
use crate::core::relay_queue::{Launch, Place, StoredRow};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{GroupId, MessageId, Ulid};

/// Rows looked at by one sweep.
const SWEEP_ROWS: i64 = 200;

const KEPT: &str =
    "seq, request_id, sender_did, deliver_id, state, reason, expires_at_ms, status_updated_at_ms";

/// The session's tables.
#[derive(Clone)]
pub struct Tables {
    pub(super) sql: SqlStorage,
}

impl Tables {
    /// The tables, made where they are not there yet.
    pub fn open(sql: SqlStorage) -> Result<Self, Failure> {
        sql.exec(SCHEMA, None)?;
        Ok(Self { sql })
    }

    /// Whether there are any.
    pub fn exist(sql: &SqlStorage) -> Result<bool, Failure> {
        let query = "SELECT 1 AS found FROM sqlite_master WHERE name = 'deliveries'";
        Ok(!sql.exec(query, None)?.to_array::<serde_json::Value>()?.is_empty())
    }

    /// A value that outlives everything.
    pub fn meta(&self, key: &str) -> Result<Option<String>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            value: String,
        }
        let rows: Vec<Row> = self.rows("SELECT value FROM meta WHERE key = ?", vec![key.into()])?;
        Ok(rows.into_iter().next().map(|row| row.value))
    }

    /// Sets one, or takes it away.
    pub fn set_meta(&self, key: &str, value: Option<&str>) -> Result<(), Failure> {
        match value {
            Some(value) => {
                let query = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                self.run(query, vec![key.into(), value.into()])
            }
            None => self.run("DELETE FROM meta WHERE key = ?", vec![key.into()]),
        }
    }

    /// Every live message, oldest first. Payloads are not read.
    pub fn live(&self) -> Result<Vec<LiveDelivery>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            request_id: MessageId,
            sender_did: AgentDid,
            deliver_id: Option<Ulid>,
            state: String,
            attempts: u32,
            due_at_ms: u64,
            sent_on: Option<String>,
            created_at_ms: u64,
            expires_at_ms: u64,
            status_updated_at_ms: u64,
            bytes: u64,
        }
        let query = "SELECT seq, request_id, sender_did, deliver_id, state, attempts, due_at_ms, sent_on, created_at_ms, \
                     expires_at_ms, status_updated_at_ms, bytes FROM deliveries WHERE payload IS NOT NULL ORDER BY seq";
        let rows: Vec<Row> = self.rows(query, vec![])?;
        let live = rows.into_iter().map(|row| {
            let place = match row.state.as_str() {
                "in_flight" => Place::InFlight {
                    deadline_ms: row.due_at_ms,
                },
                _ => Place::Waiting {
                    due_at_ms: row.due_at_ms,
                },
            };
            Ok(LiveDelivery {
                deliver_id: frame_id(row.deliver_id, &row.request_id)?,
                row: StoredRow {
                    seq: row.seq,
                    sender: row.sender_did,
                    bytes: row.bytes,
                    attempts: row.attempts,
                    place,
                    created_at_ms: row.created_at_ms,
                    expires_at_ms: row.expires_at_ms,
                },
                sent_on: row.sent_on,
                status_updated_at_ms: row.status_updated_at_ms,
            })
        });
        live.collect()
    }

    /// A number above every number stored.
    pub fn next_seq(&self) -> Result<u64, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: Option<u64>,
        }
        let rows: Vec<Row> = self.rows("SELECT MAX(seq) AS seq FROM deliveries", vec![])?;
        Ok(rows.first().and_then(|row| row.seq).map_or(1, |seq| seq + 1))
    }

    /// The message of this request.
    pub fn by_request(
        &self,
        sender: &AgentDid,
        request_id: &MessageId,
    ) -> Result<Option<KeptDelivery>, Failure> {
        self.kept(
            "request_id = ? AND sender_did = ?",
            vec![request_id.as_str().into(), sender.as_str().into()],
        )
    }

    /// The message that either id names: its request's, or its `deliver` frame's.
    pub fn by_either_id(&self, sender: &AgentDid, id: &MessageId) -> Result<Option<KeptDelivery>, Failure> {
        if let Some(kept) = self.by_request(sender, id)? {
            return Ok(Some(kept));
        }
        self.kept(
            "deliver_id = ? AND sender_did = ?",
            vec![id.as_str().into(), sender.as_str().into()],
        )
    }

    /// The message of this number.
    pub fn by_seq(&self, seq: u64) -> Result<Option<KeptDelivery>, Failure> {
        self.kept("seq = ?", vec![int(seq)])
    }

    /// Whether a message here has, or may yet get, this frame id: no two senders may share one (docs/wire.md §6).
    pub fn frame_id_is_used(&self, id: Ulid) -> Result<bool, Failure> {
        let text = id.to_string();
        let query = "SELECT 1 AS used FROM deliveries WHERE request_id = ? \
                     UNION ALL SELECT 1 FROM deliveries WHERE deliver_id = ? LIMIT 1";
        Ok(!self
            .rows::<serde_json::Value>(query, vec![text.as_str().into(), text.as_str().into()])?
            .is_empty())
    }

    /// Writes a new message.
    pub fn insert(&self, new: NewDelivery<'_>) -> Result<(), Failure> {
        let same_id = new.request_id.as_ulid() == Some(new.deliver_id);
        let deliver_id = (!same_id).then(|| new.deliver_id.to_string());
        let (state, reason, attempts, due_at_ms, sent_on, payload) = match new.first {
            First::Live {
                launch: Some((launch, socket)),
                payload,
            } => (
                "in_flight",
                None,
                launch.attempts,
                launch.deadline_ms,
                Some(socket),
                Some(payload),
            ),
            First::Live {
                launch: None,
                payload,
            } => ("queued", None, 0, new.now_ms, None, Some(payload)),
            First::Done { state, reason } => (stored_state(state), reason, 0, new.now_ms, None, None),
        };
        let bytes = payload.as_ref().map_or(0, String::len) as u64;
        let query = "INSERT INTO deliveries (seq, request_id, sender_did, deliver_id, state, reason, attempts, due_at_ms, \
                     sent_on, created_at_ms, expires_at_ms, status_updated_at_ms, bytes, delivery_source, content_type, \
                     group_id, conversation_id, reply_to, payload) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let values = vec![
            int(new.seq),
            new.request_id.as_str().into(),
            new.sender.as_str().into(),
            deliver_id.into(),
            state.into(),
            reason.into(),
            int(attempts.into()),
            int(due_at_ms),
            sent_on.into(),
            int(new.now_ms),
            int(new.expires_at_ms),
            int(new.now_ms),
            int(bytes),
            new.delivery_source.into(),
            new.content_type.into(),
            new.group_id.map(|id| id.to_string()).into(),
            new.conversation_id.into(),
            new.reply_to.into(),
            payload.into(),
        ];
        self.run(query, values)
    }

    /// Writes a send, and returns what is to be sent; nothing where the message is not live.
    pub fn launch(&self, launch: Launch, socket: &str, now_ms: u64) -> Result<Option<Outgoing>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            request_id: MessageId,
            sender_did: AgentDid,
            deliver_id: Option<Ulid>,
            payload: String,
            delivery_source: Option<String>,
            content_type: Option<String>,
            group_id: Option<GroupId>,
            conversation_id: Option<String>,
            reply_to: Option<String>,
        }
        let query = "UPDATE deliveries SET state = 'in_flight', attempts = ?, due_at_ms = ?, sent_on = ?, \
                     status_updated_at_ms = ? WHERE seq = ? AND payload IS NOT NULL \
                     RETURNING request_id, sender_did, deliver_id, payload, delivery_source, content_type, group_id, \
                     conversation_id, reply_to";
        let values = vec![
            int(launch.attempts.into()),
            int(launch.deadline_ms),
            socket.into(),
            int(now_ms),
            int(launch.seq),
        ];
        let Some(row) = self.rows::<Row>(query, values)?.into_iter().next() else {
            return Ok(None);
        };
        Ok(Some(Outgoing {
            deliver_id: frame_id(row.deliver_id, &row.request_id)?,
            sender: row.sender_did,
            payload: row.payload,
            delivery_source: row.delivery_source,
            content_type: row.content_type,
            group_id: row.group_id,
            conversation_id: row.conversation_id,
            reply_to: row.reply_to,
        }))
    }

    /// Writes that a send failed.
    pub fn requeue(&self, seq: u64, due_at_ms: u64, now_ms: u64) -> Result<(), Failure> {
        let query = "UPDATE deliveries SET state = 'queued', due_at_ms = ?, sent_on = NULL, status_updated_at_ms = ? \
                     WHERE seq = ? AND payload IS NOT NULL";
        self.run(query, vec![int(due_at_ms), int(now_ms), int(seq)])
    }

    /// Writes a message's outcome and drops its payload; the outcome is kept until `expires_at_ms`.
    pub fn finish(
        &self,
        seq: u64,
        state: DeliveryState,
        reason: Option<&str>,
        now_ms: u64,
        expires_at_ms: u64,
    ) -> Result<Option<KeptDelivery>, Failure> {
        let query = format!(
            "UPDATE deliveries SET state = ?, reason = ?, expires_at_ms = ?, status_updated_at_ms = ?, bytes = 0, \
             sent_on = NULL, payload = NULL WHERE seq = ? RETURNING {KEPT}"
        );
        let values = vec![
            stored_state(state).into(),
            reason.into(),
            int(expires_at_ms),
            int(now_ms),
            int(seq),
        ];
        self.rows::<KeptRow>(&query, values)?
            .into_iter()
            .next()
            .map(KeptRow::read)
            .transpose()
    }

    /// Deletes the outcomes at the front that have expired, a bounded number of them, and says when to come again.
    ///
    /// What is done expires nearly in the order it came. What was dead-lettered late is kept longer and holds up what
    /// is behind it, for as long as messages may wait at most.
    pub fn sweep(&self, now_ms: u64) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            expires_at_ms: u64,
            live: u8,
        }
        let query =
            "SELECT seq, expires_at_ms, payload IS NOT NULL AS live FROM deliveries ORDER BY seq LIMIT ?";
        let front: Vec<Row> = self.rows(query, vec![SqlStorageValue::Integer(SWEEP_ROWS)])?;
        let expired = |row: &&Row| row.live == 0 && row.expires_at_ms <= now_ms;
        let last = front.iter().take_while(expired).last();
        if let Some(last) = last {
            self.run("DELETE FROM deliveries WHERE seq <= ?", vec![int(last.seq)])?;
        }
        let first_left = front.iter().find(|row| !expired(row));
        Ok(match first_left {
            Some(row) => Some(row.expires_at_ms.max(now_ms)),
            // The whole batch went: there may be more.
            None => (!front.is_empty()).then_some(now_ms),
        })
    }

    /// When the first of what is stored expires, Unix milliseconds, as far as the front of the tables says.
    pub fn first_expiry_ms(&self) -> Result<Option<u64>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            expires_at_ms: u64,
        }
        let query = "SELECT * FROM (SELECT expires_at_ms FROM deliveries ORDER BY seq LIMIT 1) \
                     UNION ALL SELECT * FROM (SELECT expires_at_ms FROM receipts ORDER BY seq LIMIT 1)";
        Ok(self
            .rows::<Row>(query, vec![])?
            .into_iter()
            .map(|row| row.expires_at_ms)
            .min())
    }

    /// Bytes of the database.
    pub fn size(&self) -> u64 {
        self.sql.database_size() as u64
    }

    fn kept(&self, condition: &str, values: Vec<SqlStorageValue>) -> Result<Option<KeptDelivery>, Failure> {
        let query = format!("SELECT {KEPT} FROM deliveries WHERE {condition}");
        self.rows::<KeptRow>(&query, values)?
            .into_iter()
            .next()
            .map(KeptRow::read)
            .transpose()
    }

    pub(super) fn run(&self, query: &str, values: Vec<SqlStorageValue>) -> Result<(), Failure> {
        self.sql.exec(query, values)?;
        Ok(())
    }

    pub(super) fn rows<T: serde::de::DeserializeOwned>(
        &self,
        query: &str,
        values: Vec<SqlStorageValue>,
    ) -> Result<Vec<T>, Failure> {
        Ok(self.sql.exec(query, values)?.to_array()?)
    }
}

/// A number of ours as SQL takes it: times and counts, far below 2^53.
pub(super) fn int(value: u64) -> SqlStorageValue {
    SqlStorageValue::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

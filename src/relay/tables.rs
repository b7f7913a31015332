//! The tables of messages: `mail` for those that are live, and tables of outcomes for those that were
//! (`relay_queue::schema`, `relay_queue::statements`).
//!
//! A message's row is written before its frame is sent. When the message ends, its row is deleted and its outcome is
//! written in the same step. The outcome makes a repeated request idempotent (docs/wire.md §6.3) and answers `GET
//! /v1/relay/delivery-receipts`, for at least `keep_ms`. A table of outcomes takes what ends within half of that
//! time, and is dropped as a whole, for which storage bills nothing.

use serde::Deserialize;
use serde_json::{Value, json};

use super::failure::Failure;
use super::rows::{
    AcceptedBy, Identity, Kept, LiveMail, NewMail, Outgoing, read_state, read_trouble, stored_mark,
    stored_state,
};
use crate::core::admission::PairId;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::schema::{self, OUTCOMES_PREFIX};
use crate::core::relay_queue::statements;
use crate::core::relay_queue::{StoredRow, Trouble};
use crate::log::Log;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{GroupId, MessageId, Ulid};
use crate::sql::Sql;
pub(super) use crate::sql::int;

/// The least time for which an outcome is kept.
const MIN_KEEP_MS: u64 = 24 * 3_600_000;

/// The session's tables.
pub struct Tables {
    pub(super) sql: Sql,
    /// When the tables of outcomes begin, Unix milliseconds, ascending.
    outcomes: Vec<u64>,
    /// How long an outcome is kept.
    pub(super) keep_ms: u64,
}

impl Tables {
    /// Opens the tables and creates those that do not exist. What an older version left is taken over.
    pub fn open(sql: Sql, ttl_ms: u64, now_ms: u64) -> Result<Self, Failure> {
        sql.run(schema::SCHEMA, &[])?;
        let mut tables = Self {
            sql,
            outcomes: Vec::new(),
            keep_ms: ttl_ms.max(MIN_KEEP_MS),
        };
        let names = tables.names()?;
        tables.outcomes = names
            .iter()
            .filter_map(|name| name.strip_prefix(OUTCOMES_PREFIX)?.parse().ok())
            .collect();
        tables.outcomes.sort_unstable();
        let [deliveries, receipts] = schema::OLD_TABLES.map(|old| names.iter().any(|name| name == old));
        if deliveries {
            let since_ms = tables.current_outcomes(now_ms)?;
            tables.sql.run(&schema::take_over_deliveries(since_ms), &[])?;
        }
        if receipts {
            tables.sql.run(schema::TAKE_OVER_RECEIPTS, &[])?;
        }
        Ok(tables)
    }

    /// Whether there are any.
    pub fn exist(sql: &Sql) -> Result<bool, Failure> {
        let query = "SELECT 1 AS found FROM sqlite_master WHERE name IN ('mail', 'deliveries')";
        Ok(!sql.rows(query, &[])?.is_empty())
    }

    /// A value that outlives every eviction.
    pub fn meta(&self, key: &str) -> Result<Option<String>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            value: String,
        }
        let rows: Vec<Row> = self.rows("SELECT value FROM meta WHERE key = ?", vec![key.into()])?;
        Ok(rows.into_iter().next().map(|row| row.value))
    }

    /// Sets or removes one.
    pub fn set_meta(&self, key: &str, value: Option<&str>) -> Result<(), Failure> {
        match value {
            Some(value) => {
                let query = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                self.run(query, vec![key.into(), value.into()])
            }
            None => self.run("DELETE FROM meta WHERE key = ?", vec![key.into()]),
        }
    }

    /// Every live message for this agent, oldest first, without the payloads; and the number after the last. A row that
    /// this version cannot read is left where it is, with an error line, and the rest is served.
    pub fn live(&self, agent: Option<&AgentDid>) -> Result<(Vec<LiveMail>, u64), Failure> {
        #[derive(Deserialize)]
        struct Row {
            seq: u64,
            request_id: MessageId,
            sender_did: AgentDid,
            deliver_id: Option<Ulid>,
            hash: Option<String>,
            attempts: u32,
            due_at_ms: u64,
            mark: Option<String>,
            cuts: u32,
            breaks: u32,
            created_at_ms: u64,
            expires_at_ms: u64,
            bytes: u64,
            delivery_source: Option<String>,
            group_id: Option<GroupId>,
            jti: Option<String>,
            generation: Option<String>,
            pair_id: Option<String>,
        }
        let rows: Vec<serde_json::Value> = self.rows(statements::LIVE_MAIL, vec![])?;
        let seq_of = |row: &serde_json::Value| row.get("seq").and_then(serde_json::Value::as_u64);
        let next_seq = rows
            .iter()
            .filter_map(seq_of)
            .max()
            .map_or(1, |last| last.saturating_add(1));
        let live = rows.into_iter().filter_map(|row| {
            let seq = seq_of(&row);
            let row: Row = serde_json::from_value(row)
                .map_err(|error| unreadable(agent, seq, &error.to_string()))
                .ok()?;
            let deliver_id = frame_id(row.deliver_id, &row.request_id)
                .map_err(|error| unreadable(agent, seq, &error.to_string()))
                .ok()?;
            let accepted_by = AcceptedBy {
                sender: &row.sender_did,
                to: agent,
                delivery_source: row.delivery_source.as_deref(),
                group_id: row.group_id,
                // What a later version wrote in another form counts as unknown.
                pair_id: row.pair_id.as_deref().and_then(|id| PairId::parse(id).ok()),
                jti: row.jti.as_deref().and_then(|jti| Ulid::parse(jti).ok()),
                generation: row.generation.as_deref().and_then(|text| text.parse().ok()),
            };
            Some(LiveMail {
                row: StoredRow {
                    seq: row.seq,
                    sender: row.sender_did.clone(),
                    authority: accepted_by.authority(),
                    bytes: row.bytes,
                    attempts: row.attempts,
                    trouble: read_trouble(row.mark.as_deref(), row.cuts, row.breaks),
                    due_at_ms: row.due_at_ms,
                    created_at_ms: row.created_at_ms,
                    expires_at_ms: row.expires_at_ms,
                },
                identity: Identity {
                    deliver_id,
                    request_id: row.request_id,
                    sender: row.sender_did,
                    hash: row.hash,
                },
            })
        });
        Ok((live.collect(), next_seq))
    }

    /// Writes a new message.
    pub fn insert(&self, new: &NewMail<'_>) -> Result<(), Failure> {
        let values = vec![
            int(new.seq),
            new.identity.request_id.as_str().into(),
            new.identity.sender.as_str().into(),
            new.identity.stored_deliver_id().into(),
            new.identity.hash.clone().into(),
            int(new.created_at_ms),
            int(new.created_at_ms),
            int(new.expires_at_ms),
            int(new.payload.len() as u64),
            new.meta.delivery_source.into(),
            new.meta.content_type.into(),
            new.meta.group_id.map(|id| id.to_string()).into(),
            new.meta.conversation_id.into(),
            new.meta.reply_to.into(),
            new.jti.map(|jti| jti.to_string()).into(),
            new.generation.map(|generation| generation.to_string()).into(),
            new.pair_id.map(PairId::as_str).into(),
            new.payload.into(),
        ];
        self.run(statements::INSERT_MAIL, values)
    }

    /// What a live message's frame needs.
    pub fn outgoing(&self, seq: u64) -> Result<Option<Outgoing>, Failure> {
        Ok(self
            .rows(statements::OUTGOING_MAIL, vec![int(seq)])?
            .into_iter()
            .next())
    }

    /// Records that a message was refused.
    pub fn requeue(&self, seq: u64, attempts: u32, due_at_ms: u64) -> Result<(), Failure> {
        self.run(
            statements::REQUEUE_MAIL,
            vec![int(attempts.into()), int(due_at_ms), int(seq)],
        )
    }

    /// Records what a broken connection says about a message.
    pub fn cut(&self, seq: u64, trouble: Trouble, due_at_ms: u64) -> Result<(), Failure> {
        let values = vec![
            stored_mark(trouble.mark).into(),
            int(trouble.cuts.into()),
            int(trouble.breaks.into()),
            int(due_at_ms),
            int(seq),
        ];
        self.run(statements::CUT_MAIL, values)
    }

    /// Deletes a message that is no longer live.
    pub fn remove(&self, seq: u64) -> Result<(), Failure> {
        self.run(statements::REMOVE_MAIL, vec![int(seq)])
    }

    /// Writes an outcome. If there is one already, it is changed in its table.
    pub fn put_outcome(
        &mut self,
        identity: &Identity,
        state: DeliveryState,
        reason: Option<&str>,
        now_ms: u64,
    ) -> Result<(), Failure> {
        let (request, sender) = (identity.request_id.as_str(), identity.sender.as_str());
        // An older table may have one of this request too, where it was a receipt that changed it: the newest counts.
        let since_ms = self.current_outcomes(now_ms)?;
        let values = vec![
            request.into(),
            sender.into(),
            identity.stored_deliver_id().into(),
            identity.hash.clone().into(),
            stored_state(state).into(),
            reason.into(),
            int(now_ms),
        ];
        self.run(&statements::put_outcome(since_ms), values)
    }

    /// The outcome of this request.
    pub fn outcome(&self, sender: &AgentDid, request_id: &MessageId) -> Result<Option<Kept>, Failure> {
        let found = self.find_outcomes(statements::OF_REQUEST, &[request_id.as_str(), sender.as_str()])?;
        Ok(found.into_iter().next())
    }

    /// The outcome of the message whose `deliver` frame has this id, if that is not its request's id.
    pub fn outcome_of_frame(&self, sender: &AgentDid, id: &MessageId) -> Result<Option<Kept>, Failure> {
        let found = self.find_outcomes(statements::OF_FRAME, &[id.as_str(), sender.as_str()])?;
        Ok(found.into_iter().next())
    }

    /// The outcomes of all messages, whoever sent them, that had this id as their request's or their frame's; the newest
    /// first.
    pub fn outcomes_of_id(&self, id: &MessageId) -> Result<Vec<Kept>, Failure> {
        self.find_outcomes(statements::OF_ID, &[id.as_str()])
    }

    /// Drops the outcomes that were kept for long enough, and returns when to do it again.
    pub fn sweep_outcomes(&mut self, now_ms: u64) -> Result<Option<u64>, Failure> {
        while let Some(due_ms) = self.outcomes_due_ms() {
            if due_ms > now_ms {
                return Ok(Some(due_ms));
            }
            let since_ms = self.outcomes.remove(0);
            self.sql
                .run(&format!("DROP TABLE IF EXISTS outcomes_{since_ms}"), &[])?;
        }
        Ok(None)
    }

    /// When the oldest outcomes may be dropped. Nothing is written to a table once the next one has begun, or half of
    /// `keep_ms` has passed.
    pub fn outcomes_due_ms(&self) -> Option<u64> {
        let first_ms = *self.outcomes.first()?;
        let over_ms = first_ms.saturating_add(self.keep_ms / 2);
        let closed_ms = self.outcomes.get(1).copied().unwrap_or(over_ms);
        Some(closed_ms.saturating_add(self.keep_ms))
    }

    /// Bytes of the database.
    pub fn size(&self) -> u64 {
        self.sql.size()
    }

    /// The table for outcomes of this moment, which is created if it does not exist. A table that begins in the future (a
    /// clock was ahead) is left until its time.
    fn current_outcomes(&mut self, now_ms: u64) -> Result<u64, Failure> {
        let last = self
            .outcomes
            .iter()
            .copied()
            .rfind(|since_ms| *since_ms <= now_ms);
        if let Some(since_ms) = last.filter(|since_ms| now_ms < since_ms.saturating_add(self.keep_ms / 2)) {
            return Ok(since_ms);
        }
        self.sql.run(&schema::outcomes(now_ms), &[])?;
        let at = self.outcomes.partition_point(|since_ms| *since_ms <= now_ms);
        self.outcomes.insert(at, now_ms);
        Ok(now_ms)
    }

    /// The outcomes that fit, the newest first: one question, however many tables there are.
    fn find_outcomes(&self, condition: &str, values: &[&str]) -> Result<Vec<Kept>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            request_id: MessageId,
            sender_did: AgentDid,
            deliver_id: Option<Ulid>,
            hash: Option<String>,
            state: String,
            reason: Option<String>,
            status_updated_at_ms: u64,
        }
        let Some(query) = statements::find_outcomes(&self.outcomes, condition) else {
            return Ok(Vec::new());
        };
        let values = values.iter().map(|value| (*value).into()).collect();
        let rows = self.rows::<Row>(&query, values)?;
        rows.into_iter()
            .map(|row| {
                Ok(Kept {
                    identity: Identity {
                        deliver_id: frame_id(row.deliver_id, &row.request_id)?,
                        request_id: row.request_id,
                        sender: row.sender_did,
                        hash: row.hash,
                    },
                    live: None,
                    state: read_state(&row.state)
                        .ok_or_else(|| Failure::new("an outcome in no known state"))?,
                    reason: row.reason,
                    expires_at_ms: row.status_updated_at_ms.saturating_add(self.keep_ms),
                    status_updated_at_ms: row.status_updated_at_ms,
                })
            })
            .collect()
    }

    fn names(&self) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
        }
        let rows: Vec<Row> = self.rows("SELECT name FROM sqlite_master WHERE type = 'table'", vec![])?;
        Ok(rows.into_iter().map(|row| row.name).collect())
    }

    pub(super) fn run(&self, query: &str, values: Vec<Value>) -> Result<(), Failure> {
        self.sql.run(query, &values)?;
        Ok(())
    }

    pub(super) fn rows<T: serde::de::DeserializeOwned>(
        &self,
        query: &str,
        values: Vec<Value>,
    ) -> Result<Vec<T>, Failure> {
        Ok(self.sql.rows_as(query, &values)?)
    }
}

/// A message whose frame has the request's id does not store another.
fn frame_id(stored: Option<Ulid>, request_id: &MessageId) -> Result<Ulid, Failure> {
    stored
        .or_else(|| request_id.as_ulid())
        .ok_or_else(|| Failure::new("a message without a frame id"))
}

/// One line for each wake of the session.
fn unreadable(agent: Option<&AgentDid>, seq: Option<u64>, error: &str) {
    let agent = agent.map(AgentDid::as_str);
    let fields = json!({ "agentDid": agent, "number": seq, "error": error });
    Log.error("proxy.relay.mail_unreadable", fields);
}

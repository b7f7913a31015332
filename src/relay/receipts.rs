//! Receipts: what became of a message, on its way back to who sent it.
//!
//! At the recipient's session a receipt changes the message's state and, in the same step, goes into the outbox: so it
//! is told to the sender's session at least once, however often that cannot be reached. There it is kept until a socket
//! took it, and pushed once. Only a message whose request id is a ULID has a frame: connectors refuse others (docs/wire.md
//! §6); the state of every other is there to be asked for.
//!
//! A receipt for a message that is not known here (its outcome was swept) is kept as that message's outcome: it is the
//! only word there is.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::join_all;
use serde_json::json;

use super::client;
use super::protocol::{PushReceipt, PushReceiptsCall, ReceiptCall, RelayCall, RelayReply, SessionStatus};
use super::receipt_tables::OutboxRow;
use super::rows::{First, KeptDelivery, NewDelivery};
use super::session::{Awake, Failure, Moment, Session};
use crate::core::backoff::doubled;
use crate::core::relay_queue::outcome;
use crate::protocol::did::AgentDid;
use crate::protocol::receipt::ReceiptStatus;

/// Receipts kept for one agent's connector.
pub const MAX_KEPT_RECEIPTS: u64 = 20_000;
/// Receipts taken out of the outbox at a time.
const BATCH: u32 = 100;
/// Pauses before a receipt that was not taken is tried again: doubling, up to the limit.
const RETRY_MS: u64 = 1_000;
const MAX_RETRY_MS: u64 = 60_000;

impl Session {
    /// `RelayCall::RecordReceipt`, at the recipient's session.
    pub fn record_receipt(
        self: &Rc<Self>,
        agent: &AgentDid,
        call: &ReceiptCall,
    ) -> Result<RelayReply, Failure> {
        self.step(|awake, moment| {
            awake.belongs_to(agent);
            awake.store_agent()?;
            match awake.tables.by_either_id(&call.sender, &call.request_id)? {
                Some(kept) => awake.record(&kept, call, moment)?,
                None => awake.record_unknown(call, moment)?,
            }
            Ok(RelayReply::Done)
        })
    }

    /// `RelayCall::PushReceipts`, at the sender's session.
    pub fn keep_receipts(
        self: &Rc<Self>,
        agent: &AgentDid,
        call: &PushReceiptsCall,
    ) -> Result<RelayReply, Failure> {
        self.step(|awake, moment| {
            awake.belongs_to(agent);
            awake.store_agent()?;
            let expires_at_ms = moment.outcome_expires_at_ms();
            for receipt in &call.receipts {
                awake
                    .tables
                    .keep_receipt(&call.recipient, receipt, expires_at_ms)?;
            }
            awake.will_sweep(expires_at_ms);
            awake.push_receipts(moment)?;
            Ok(RelayReply::Done)
        })
    }

    /// `RelayCall::Inspect`.
    pub fn inspect(self: &Rc<Self>) -> Result<RelayReply, Failure> {
        if self.is_unused()? {
            return Ok(RelayReply::Status(SessionStatus::default()));
        }
        self.step(|awake, moment| {
            let oldest = awake.queue.oldest_created_at_ms();
            Ok(RelayReply::Status(SessionStatus {
                queue_depth: super::deliver::count(awake.queue.depth()),
                in_flight: super::deliver::count(awake.queue.in_flight()),
                queued_bytes: awake.queue.bytes(),
                oldest_age_ms: oldest.map(|created_ms| moment.now_ms.saturating_sub(created_ms)),
                connected_sockets: u32::from(awake.socket.is_some()),
                revoked: awake.revoked,
                stored_bytes: awake.tables.size(),
            }))
        })
    }

    /// Tells the senders' sessions what is in the outbox, until nothing is due. One at a time runs.
    pub async fn empty_outbox(self: Rc<Self>) -> Result<(), Failure> {
        if self.emptying_outbox.replace(true) {
            return Ok(());
        }
        let _emptying = WhileTrue(&self.emptying_outbox);
        loop {
            let (agent, rows) = self.step(|awake, moment| {
                let rows = awake.tables.outbox(moment.now_ms, BATCH)?;
                if rows.is_empty() {
                    awake.outbox_due_ms = awake.tables.outbox_due_ms()?;
                }
                Ok((awake.agent.clone(), rows))
            })?;
            let Some(agent) = agent.filter(|_| !rows.is_empty()) else {
                return Ok(());
            };
            let mut by_sender: BTreeMap<AgentDid, Vec<OutboxRow>> = BTreeMap::new();
            for row in rows {
                by_sender.entry(row.sender.clone()).or_default().push(row);
            }
            let told = join_all(
                by_sender
                    .iter()
                    .map(|(sender, rows)| self.tell(&agent, sender, rows)),
            )
            .await;
            self.step(|awake, moment| {
                for (rows, told) in by_sender.values().zip(&told) {
                    awake.told(rows, *told, moment)?;
                }
                awake.outbox_due_ms = awake.tables.outbox_due_ms()?;
                Ok(())
            })?;
        }
    }

    /// Whether a sender's session took these.
    async fn tell(self: &Rc<Self>, agent: &AgentDid, sender: &AgentDid, rows: &[OutboxRow]) -> bool {
        let receipts = rows.iter().map(|row| row.receipt.clone()).collect();
        let call = PushReceiptsCall {
            recipient: agent.clone(),
            receipts,
        };
        if sender == agent {
            return self.keep_receipts(agent, &call).is_ok();
        }
        match self.app() {
            Ok(app) => client::call(&app, sender, RelayCall::PushReceipts(call))
                .await
                .is_ok(),
            Err(_) => false,
        }
    }
}

impl Awake {
    fn record(&mut self, kept: &KeptDelivery, call: &ReceiptCall, moment: &Moment) -> Result<(), Failure> {
        if !outcome::is_news(call.status, kept.state) {
            return Ok(());
        }
        let state = outcome::state_of(call.status);
        let reason = call.reason.as_deref();
        self.tables.finish(
            kept.seq,
            state,
            reason,
            moment.now_ms,
            moment.outcome_expires_at_ms(),
        )?;
        if self.queue.settle(kept.seq) {
            self.waiting.remove(&kept.seq);
        }
        self.forget(kept.seq, moment);
        self.tell_sender(kept, call.status, reason, moment)
    }

    fn record_unknown(&mut self, call: &ReceiptCall, moment: &Moment) -> Result<(), Failure> {
        let deliver_id = match call.request_id.as_ulid() {
            Some(id) if !self.tables.frame_id_is_used(id)? => id,
            _ => moment.app.new_ulid()?,
        };
        let seq = self.queue.number();
        let expires_at_ms = moment.outcome_expires_at_ms();
        self.tables.insert(NewDelivery {
            seq,
            request_id: &call.request_id,
            sender: &call.sender,
            deliver_id,
            first: First::Done {
                state: outcome::state_of(call.status),
                reason: call.reason.clone(),
            },
            now_ms: moment.now_ms,
            expires_at_ms,
            delivery_source: None,
            content_type: None,
            group_id: None,
            conversation_id: None,
            reply_to: None,
        })?;
        self.will_sweep(expires_at_ms);
        match self.tables.by_seq(seq)? {
            Some(kept) => self.tell_sender(&kept, call.status, call.reason.as_deref(), moment),
            None => Ok(()),
        }
    }

    /// A message of ours was given up: an operator's line, and a receipt.
    pub(super) fn tell_dead_letter(&mut self, kept: &KeptDelivery, moment: &Moment) -> Result<(), Failure> {
        let reason = kept.reason.as_deref();
        let fields = json!({
            "agentDid": self.agent.as_ref().map(|agent| agent.as_str()),
            "senderAgentDid": kept.sender.as_str(),
            "messageId": kept.request_id.as_str(),
            "deliveryId": kept.deliver_id,
            "reason": reason,
        });
        moment.app.log.warn("proxy.relay.dead_lettered", fields);
        self.tell_sender(kept, ReceiptStatus::DeadLettered, reason, moment)
    }

    fn tell_sender(
        &mut self,
        kept: &KeptDelivery,
        status: ReceiptStatus,
        reason: Option<&str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(request_id) = kept.request_id.as_ulid() else {
            return Ok(());
        };
        let receipt = PushReceipt {
            request_id,
            status,
            reason: reason.map(str::to_owned),
        };
        self.tables.put_in_outbox(
            &kept.sender,
            &receipt,
            moment.now_ms,
            moment.outcome_expires_at_ms(),
        )?;
        self.outbox_due_ms = Some(moment.now_ms);
        Ok(())
    }

    fn told(&mut self, rows: &[OutboxRow], taken: bool, moment: &Moment) -> Result<(), Failure> {
        let is_over = |row: &&OutboxRow| taken || row.expires_at_ms <= moment.now_ms;
        let over: Vec<u64> = rows.iter().filter(is_over).map(|row| row.seq).collect();
        self.tables.take_from_outbox(&over)?;
        if taken {
            return Ok(());
        }
        for row in rows.iter().filter(is_over) {
            let fields = json!({
                "senderAgentDid": row.sender.as_str(),
                "messageId": row.receipt.request_id,
                "status": row.receipt.status,
            });
            moment.app.log.error("proxy.relay.receipt_lost", fields);
        }
        let left: Vec<u64> = rows
            .iter()
            .filter(|row| !is_over(row))
            .map(|row| row.seq)
            .collect();
        let attempts = rows.iter().map(|row| row.attempts).max().unwrap_or(0);
        let pause_ms = doubled(RETRY_MS, MAX_RETRY_MS, attempts.saturating_add(1));
        self.tables
            .postpone_in_outbox(&left, moment.now_ms.saturating_add(pause_ms))
    }
}

/// True until it is dropped, however the work ends.
struct WhileTrue<'a>(&'a Cell<bool>);

impl Drop for WhileTrue<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

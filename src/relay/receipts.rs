//! Receipts: what became of a message, on its way back to the sender.
//!
//! At the recipient's session a receipt changes the message's state and, in the same step, goes into the outbox. So
//! the sender's session is told at least once, however long it cannot be reached. There the receipt is kept until the
//! connector is known to have it, which it is when a heartbeat that was sent after it on the same socket is answered
//! (docs/wire.md §6.5). Until then it is pushed once on each socket.
//!
//! Only a message whose request id is a ULID has a frame, because connectors refuse other ids. The state of every
//! other message can be asked for.
//!
//! A receipt for a message that is not known here, because its outcome was swept, is kept as that message's outcome:
//! nothing else is known of it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::join_all;
use serde_json::json;

use super::awake::{Awake, Moment};
use super::client;
use super::deliver::frame_id;
use super::failure::Failure;
use super::protocol::{PushReceipt, PushReceiptsCall, ReceiptCall, RelayCall, RelayReply, SessionStatus};
use super::receipt_tables::OutboxRow;
use super::rows::{Identity, Kept};
use super::session::Session;
use crate::core::backoff::{doubled, spread};
use crate::core::relay_queue::outcome;
use crate::core::relay_queue::socket::Probe;
use crate::protocol::did::AgentDid;
use crate::protocol::frame;
use crate::protocol::ids::Ulid;
use crate::protocol::receipt::ReceiptStatus;
use crate::random;

/// How many receipts are taken out of the outbox at a time.
const BATCH: u32 = 100;
/// How many receipts are read at a time to be pushed.
const MAX_PUSHED: u32 = 100;
/// The pause before a receipt that was not taken is tried again. It doubles up to the limit.
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
            match awake.by_either_id(&call.sender, &call.request_id)? {
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
            let expires_at_ms = moment.now_ms.saturating_add(awake.tables.keep_ms);
            for receipt in &call.receipts {
                awake.last_push += 1;
                awake
                    .tables
                    .keep_receipt(awake.last_push, &call.recipient, receipt, expires_at_ms)?;
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
                in_flight: super::deliver::count(awake.queue.in_flight().len()),
                queued_bytes: awake.queue.bytes(),
                oldest_age_ms: oldest.map(|created_ms| moment.now_ms.saturating_sub(created_ms)),
                connected_sockets: u32::from(awake.socket.is_some()),
                revoked: awake.revoked,
                stored_bytes: awake.tables.size(),
            }))
        })
    }

    /// Tells the senders' sessions what is in the outbox, until nothing is due. Only one runs at a time.
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

    /// Tells a sender's session these receipts. Returns whether it took them.
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
    /// Pushes the receipts that this socket has not been sent yet, followed by a heartbeat that shows when they have arrived.
    pub(super) fn push_receipts(&mut self, moment: &Moment) -> Result<(), Failure> {
        while let Some(socket) = &self.socket {
            let pushed_through = socket.it.pushed_through;
            if pushed_through >= self.last_push {
                break;
            }
            let rows = self.tables.pushes_after(pushed_through, MAX_PUSHED)?;
            let through = match rows.last() {
                Some(last) if rows.len() == MAX_PUSHED as usize => last.seq,
                _ => self.last_push,
            };
            let nothing_out = rows.is_empty() && socket.it.confirmed_through == pushed_through;
            self.change_socket(moment, |it| {
                it.pushed_through = through;
                if nothing_out {
                    it.confirmed_through = through;
                }
            })?;
            for row in &rows {
                let receipt = &row.receipt;
                let reason = receipt.reason.as_deref();
                let (original, to) = (receipt.request_id, &row.recipient);
                let id = moment.app.new_ulid()?;
                let text = frame::receipt(id, moment.now_ms, original, to, receipt.status, reason);
                if !self.send(&text, moment)? {
                    return Ok(());
                }
            }
            if rows.is_empty() {
                break;
            }
        }
        self.probe(moment)
    }

    /// Sends a heartbeat after the receipts, unless one is under way.
    fn probe(&mut self, moment: &Moment) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let through = socket.it.pushed_through;
        if socket.it.probe.is_some() || socket.it.confirmed_through >= through {
            return Ok(());
        }
        let id = moment.app.new_ulid()?;
        self.change_socket(moment, |it| it.probe = Some(Probe { id, through }))?;
        self.send(&frame::heartbeat(id, moment.now_ms), moment)
            .map(|_| ())
    }

    /// One of our heartbeats was answered, so what was pushed before it has arrived.
    pub(super) fn probe_answered(&mut self, id: Ulid, moment: &Moment) -> Result<(), Failure> {
        let probe = self.socket.as_ref().and_then(|socket| socket.it.probe);
        let Some(probe) = probe.filter(|probe| probe.id == id) else {
            return Ok(());
        };
        self.tables.pushed_through(probe.through)?;
        self.change_socket(moment, |it| {
            it.probe = None;
            it.confirmed_through = probe.through;
        })?;
        self.probe(moment)
    }

    fn record(&mut self, kept: &Kept, call: &ReceiptCall, moment: &Moment) -> Result<(), Failure> {
        if !outcome::is_news(call.status, kept.state) {
            return Ok(());
        }
        let state = outcome::state_of(call.status);
        let reason = call.reason.as_deref();
        // Told first: a step that fails in between tells it again.
        self.tell_sender(&kept.identity, call.status, reason, moment)?;
        match kept.live {
            Some(seq) => {
                self.queue.settle(seq, moment.now_ms);
                self.finish(seq, state, reason, moment)?;
                self.waiting.remove(&seq);
            }
            None => self.put_outcome(&kept.identity, state, reason, moment)?,
        }
        Ok(())
    }

    fn record_unknown(&mut self, call: &ReceiptCall, moment: &Moment) -> Result<(), Failure> {
        let (_, id_is_used) = self.meets(&call.sender, &call.request_id)?;
        let deliver_id = frame_id(&call.request_id, id_is_used, moment)?;
        let identity = Identity {
            request_id: call.request_id.clone(),
            sender: call.sender.clone(),
            deliver_id,
            hash: None,
        };
        let reason = call.reason.as_deref();
        self.tell_sender(&identity, call.status, reason, moment)?;
        self.put_outcome(&identity, outcome::state_of(call.status), reason, moment)
    }

    /// A message was given up: writes a log line and a receipt.
    pub(super) fn tell_dead_letter(
        &mut self,
        identity: &Identity,
        reason: &str,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let fields = json!({
            "agentDid": self.agent.as_ref().map(|agent| agent.as_str()),
            "senderAgentDid": identity.sender.as_str(),
            "messageId": identity.request_id.as_str(),
            "deliveryId": identity.deliver_id,
            "reason": reason,
            "queueDepth": self.queue.depth(),
        });
        moment.app.log.warn("proxy.relay.dead_lettered", fields);
        self.tell_sender(identity, ReceiptStatus::DeadLettered, Some(reason), moment)
    }

    fn tell_sender(
        &mut self,
        identity: &Identity,
        status: ReceiptStatus,
        reason: Option<&str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(request_id) = identity.request_id.as_ulid() else {
            return Ok(());
        };
        let receipt = PushReceipt {
            request_id,
            status,
            reason: reason.map(str::to_owned),
        };
        let expires_at_ms = moment.now_ms.saturating_add(self.tables.keep_ms);
        self.tables
            .put_in_outbox(&identity.sender, &receipt, moment.now_ms, expires_at_ms)?;
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
        let pause_ms = spread(pause_ms, random::byte());
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

//! One agent's session while it is awake: what an eviction loses, and what SQL and the socket's attachment bring
//! back.
//!
//! Everything here happens within one synchronous step (`session`). Each change of the queue is written as it comes
//! (`apply`). What is in flight is written to the socket's attachment before anything is sent on it
//! (`remember_flight`).

use std::collections::HashMap;

use futures_channel::oneshot;
use serde_json::json;

use super::failure::Failure;
use super::open_socket::OpenSocket;
use super::receipt_tables::MAX_KEPT_RECEIPTS;
use super::rows::{Identity, Kept};
use super::tables::Tables;
use crate::app::App;
use crate::core::metrics::delivered;
use crate::core::relay_queue::authority::Question;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::rate::Bucket;
use crate::core::relay_queue::{Change, DeadReason, QueueSettings, RelayQueue};
use crate::metrics;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{MessageId, Ulid};

/// How many bytes of payloads may wait for one agent, whatever their number. One sender may have a quarter.
const MAX_QUEUED_BYTES: u64 = 128 * 1024 * 1024;
/// For how long a queue believes that a sender may still send: well under the second that a revocation may take.
const SENDER_CHECK_MS: u64 = 500;
/// The pause before a sender is asked about again of which nobody could tell.
const SENDER_RETRY_MS: u64 = 1_000;
/// After how long receipts that are being sent are looked for again.
const OUTBOX_LOST_AFTER_MS: u64 = 10_000;
/// How long after their expiry receipts are swept, so that one sweep takes many.
const SWEEP_SLACK_MS: u64 = 60_000;
/// Frames over their rate are worth a log line so often.
const OVER_RATE_LOG_EVERY_MS: u64 = 60_000;
/// `meta`: the agent whose session this is.
pub(super) const META_AGENT: &str = "agent";
/// `meta`: since when the agent is revoked, Unix milliseconds.
const META_REVOKED: &str = "revoked";
/// `meta`: the level of the agent's `enqueue` bucket, while there is no socket to remember it.
const META_ENQUEUED: &str = "enqueued";

/// See the module.
pub struct Awake {
    pub(super) tables: Tables,
    pub(super) queue: RelayQueue,
    /// Whose session this is. A new object has not been told yet.
    pub(super) agent: Option<AgentDid>,
    /// Whether that is stored in `meta`.
    agent_is_stored: bool,
    pub(super) revoked: bool,
    pub(super) socket: Option<OpenSocket>,
    /// Live messages, by number, by the id of their frame and by that of their request.
    mail: HashMap<u64, Identity>,
    frames: HashMap<Ulid, u64>,
    requests: HashMap<MessageId, Vec<u64>>,
    /// Callers that wait until a message is no longer in flight.
    pub(super) waiting: HashMap<u64, Vec<oneshot::Sender<DeliveryState>>>,
    /// `enqueue` frames, whatever socket they came on.
    pub(super) enqueued: Bucket,
    /// Heartbeats, and what is not a frame, of sockets before this one, as long as the session is awake.
    pub(super) idle: Bucket,
    /// When it was last logged that frames are over their rate, Unix milliseconds.
    over_rate_logged_at_ms: Option<u64>,
    /// What to ask about senders.
    pub(super) ask: Vec<Question>,
    pub(super) outbox_due_ms: Option<u64>,
    /// The last number of a receipt for this agent's connector.
    pub(super) last_push: u64,
    sweep_due_ms: Option<u64>,
}

/// The settings, the log and the time of a step.
pub struct Moment {
    pub(super) app: App,
    /// Unix milliseconds: one time for the whole step.
    pub(super) now_ms: u64,
}

impl Moment {
    /// A random number in [0, 1).
    pub(super) fn chance(&self) -> f64 {
        // Jitter: without randomness there is none, and nothing else is wrong.
        let bytes = self.app.random::<4>().unwrap_or([0x80, 0, 0, 0]);
        f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Awake {
    /// Reads the session from storage, with the agent's open socket if there is one.
    pub fn restore(tables: Tables, socket: Option<OpenSocket>, moment: &Moment) -> Result<Self, Failure> {
        let agent = tables
            .meta(META_AGENT)?
            .and_then(|text| AgentDid::parse(&text).ok());
        let (live, next_seq) = tables.live(agent.as_ref())?;
        let (rows, identities): (Vec<_>, Vec<_>) = live
            .into_iter()
            .map(|live| (live.row.clone(), (live.row.seq, live.identity)))
            .unzip();
        let connection = socket.as_ref().map(|socket| socket.it.connection());
        // Numbers that only a socket remembers are not given again.
        let next_seq = connection
            .iter()
            .flat_map(|connection| &connection.in_flight)
            .map(|(seq, _)| seq.saturating_add(1))
            .fold(next_seq, u64::max);
        let pushed_through = socket.as_ref().map_or(0, |socket| socket.it.pushed_through);
        let enqueued = match &socket {
            Some(socket) => socket.it.enqueued,
            None => tables
                .meta(META_ENQUEUED)?
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default(),
        };
        let mut awake = Self {
            queue: RelayQueue::restore(queue_settings(&moment.app), rows, next_seq, connection),
            agent_is_stored: agent.is_some(),
            agent: agent.or_else(|| socket.as_ref().map(|socket| socket.it.agent.clone())),
            revoked: tables.meta(META_REVOKED)?.is_some(),
            outbox_due_ms: tables.outbox_due_ms()?,
            sweep_due_ms: [tables.outcomes_due_ms(), tables.receipts_due_ms()?]
                .into_iter()
                .flatten()
                .min(),
            last_push: tables.last_push()?.max(pushed_through),
            enqueued,
            idle: Bucket::default(),
            over_rate_logged_at_ms: None,
            ask: Vec::new(),
            waiting: HashMap::new(),
            mail: HashMap::new(),
            frames: HashMap::new(),
            requests: HashMap::new(),
            tables,
            socket,
        };
        for (seq, identity) in identities {
            awake.enter(seq, identity);
        }
        Ok(awake)
    }

    /// Remembers whose session this is.
    pub(super) fn belongs_to(&mut self, agent: &AgentDid) {
        if self.agent.is_none() {
            self.agent = Some(agent.clone());
        }
    }

    /// The same, from storage if necessary, because an alarm has nobody to ask.
    pub(super) fn store_agent(&mut self) -> Result<(), Failure> {
        if let (false, Some(agent)) = (self.agent_is_stored, &self.agent) {
            self.tables.set_meta(META_AGENT, Some(agent.as_str()))?;
            self.agent_is_stored = true;
        }
        Ok(())
    }

    /// Also after an eviction.
    pub(super) fn set_revoked(&mut self, since_ms: Option<u64>) -> Result<(), Failure> {
        self.tables
            .set_meta(META_REVOKED, since_ms.map(|ms| ms.to_string()).as_deref())?;
        self.revoked = since_ms.is_some();
        Ok(())
    }

    /// The level of the `enqueue` bucket outlives the socket. Otherwise a new connection would have a full one.
    pub(super) fn store_enqueued(&self, now_ms: u64) -> Result<(), Failure> {
        if self.enqueued.is_full(now_ms) {
            return Ok(());
        }
        let text = serde_json::to_string(&self.enqueued).unwrap_or_default();
        self.tables.set_meta(META_ENQUEUED, Some(&text))
    }

    /// Frames are over their rate: one line a minute, however many they are.
    pub(super) fn log_over_rate(&mut self, frames: &'static str, moment: &Moment) {
        let logged_at_ms = self.over_rate_logged_at_ms;
        if logged_at_ms.is_some_and(|at_ms| moment.now_ms.saturating_sub(at_ms) < OVER_RATE_LOG_EVERY_MS) {
            return;
        }
        self.over_rate_logged_at_ms = Some(moment.now_ms);
        let agent = self.agent.as_ref().map(|agent| agent.as_str());
        let fields = json!({ "limit": frames, "agentDid": agent });
        moment.app.log.warn("proxy.rate_limit.exceeded", fields);
    }

    /// Registers a message that is live from now on.
    pub(super) fn enter(&mut self, seq: u64, identity: Identity) {
        self.frames.insert(identity.deliver_id, seq);
        self.requests
            .entry(identity.request_id.clone())
            .or_default()
            .push(seq);
        self.mail.insert(seq, identity);
    }

    /// What identifies a live message.
    pub(super) fn identity(&self, seq: u64) -> Option<&Identity> {
        self.mail.get(&seq)
    }

    /// The live message whose frame has this id.
    pub(super) fn of_frame(&self, id: Ulid) -> Option<u64> {
        self.frames.get(&id).copied()
    }

    /// What a new message with this id meets: the same request's message, where there is one, and whether a message here
    /// has, or may yet get, its id as a frame's, which no two senders may share (docs/wire.md §6).
    pub(super) fn meets(&self, sender: &AgentDid, id: &MessageId) -> Result<(Option<Kept>, bool), Failure> {
        let live = self.requests.get(id).into_iter().flatten().copied();
        if let Some(kept) = self.live_of(sender, live) {
            return Ok((Some(kept), true));
        }
        let ended = self.tables.outcomes_of_id(id)?;
        let used = !ended.is_empty()
            || self.requests.contains_key(id)
            || id.as_ulid().is_some_and(|id| self.frames.contains_key(&id));
        let of_request = |kept: &Kept| kept.identity.sender == *sender && kept.identity.request_id == *id;
        Ok((ended.into_iter().find(of_request), used))
    }

    /// The message of this request.
    pub(super) fn by_request(&self, sender: &AgentDid, id: &MessageId) -> Result<Option<Kept>, Failure> {
        let live = self.requests.get(id).into_iter().flatten().copied();
        match self.live_of(sender, live) {
            Some(kept) => Ok(Some(kept)),
            None => self.tables.outcome(sender, id),
        }
    }

    /// The message with this id, be it its request's or its `deliver` frame's.
    pub(super) fn by_either_id(&self, sender: &AgentDid, id: &MessageId) -> Result<Option<Kept>, Failure> {
        if let Some(kept) = self.by_request(sender, id)? {
            return Ok(Some(kept));
        }
        let live = id.as_ulid().and_then(|id| self.of_frame(id));
        match self.live_of(sender, live) {
            Some(kept) => Ok(Some(kept)),
            None => self.tables.outcome_of_frame(sender, id),
        }
    }

    fn live_of(&self, sender: &AgentDid, seqs: impl IntoIterator<Item = u64>) -> Option<Kept> {
        let seq = seqs
            .into_iter()
            .find(|seq| self.mail.get(seq).is_some_and(|mail| mail.sender == *sender))?;
        let (created_at_ms, expires_at_ms) = self.queue.times_of(seq)?;
        Some(Kept {
            identity: self.mail.get(&seq)?.clone(),
            live: Some(seq),
            state: DeliveryState::Queued,
            reason: None,
            expires_at_ms,
            status_updated_at_ms: created_at_ms,
        })
    }

    /// Writes what happened to messages, and tells those who wait for them.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        for change in changes {
            let seq = match change {
                Change::Delivered { seq } => {
                    let depth = self.queue.depth();
                    metrics::write(|| Some(delivered(depth)));
                    self.finish(seq, DeliveryState::Delivered, None, moment)?;
                    for told in self.waiting.remove(&seq).into_iter().flatten() {
                        // Who no longer waits needs no word.
                        let _ = told.send(DeliveryState::Delivered);
                    }
                    seq
                }
                Change::Requeued {
                    seq,
                    attempts,
                    due_at_ms,
                } => {
                    self.tables.requeue(seq, attempts, due_at_ms)?;
                    seq
                }
                Change::Cut {
                    seq,
                    trouble,
                    due_at_ms,
                } => {
                    self.tables.cut(seq, trouble, due_at_ms)?;
                    seq
                }
                Change::DeadLetter { seq, reason } => {
                    self.dead_letter(seq, reason, moment)?;
                    seq
                }
            };
            self.waiting.remove(&seq);
        }
        Ok(())
    }

    /// Writes a live message's outcome, and then forgets that it was live. In this order a step that fails in between
    /// leaves a message that is sent again, and none that is lost.
    pub(super) fn finish(
        &mut self,
        seq: u64,
        state: DeliveryState,
        reason: Option<&str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(identity) = self.mail.remove(&seq) else {
            return Ok(());
        };
        self.put_outcome(&identity, state, reason, moment)?;
        self.tables.remove(seq)?;
        self.frames.remove(&identity.deliver_id);
        if let Some(seqs) = self.requests.get_mut(&identity.request_id) {
            seqs.retain(|other| *other != seq);
            if seqs.is_empty() {
                self.requests.remove(&identity.request_id);
            }
        }
        Ok(())
    }

    /// Writes an outcome.
    pub(super) fn put_outcome(
        &mut self,
        identity: &Identity,
        state: DeliveryState,
        reason: Option<&str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        self.tables.put_outcome(identity, state, reason, moment.now_ms)?;
        if self.sweep_due_ms.is_none() {
            self.sweep_due_ms = self.tables.outcomes_due_ms();
        }
        Ok(())
    }

    /// Until when a receipt is kept.
    pub(super) fn will_sweep(&mut self, expires_at_ms: u64) {
        self.sweep_due_ms
            .get_or_insert(expires_at_ms.saturating_add(SWEEP_SLACK_MS));
    }

    fn dead_letter(&mut self, seq: u64, reason: DeadReason, moment: &Moment) -> Result<(), Failure> {
        let reason = reason.as_str();
        if let Some(identity) = self.identity(seq).cloned() {
            self.tell_dead_letter(&identity, reason, moment)?;
        }
        self.finish(seq, DeliveryState::DeadLettered, Some(reason), moment)
    }

    /// Does what has become due: ends messages that waited too long, sockets, and outcomes.
    pub(super) fn let_time_pass(&mut self, moment: &Moment) -> Result<(), Failure> {
        let changes = self.queue.tick(moment.now_ms);
        self.apply(changes, moment)?;
        self.look_after_socket(moment)?;
        if self.sweep_due_ms.is_some_and(|due_ms| due_ms <= moment.now_ms) {
            let outcomes = self.tables.sweep_outcomes(moment.now_ms)?;
            let receipts = self.tables.sweep_receipts(moment.now_ms, MAX_KEPT_RECEIPTS)?;
            self.sweep_due_ms = [outcomes, receipts]
                .into_iter()
                .flatten()
                .min()
                .map(|due_ms| due_ms.saturating_add(SWEEP_SLACK_MS));
        }
        Ok(())
    }

    /// When the object has something to do next, Unix milliseconds.
    pub(super) fn due_ms(&self, now_ms: u64) -> Option<u64> {
        let socket = self.socket.as_ref().map(|socket| socket.it.next_due_ms());
        let queue = self.queue.next_due_ms(now_ms);
        // What is due in the outbox is started by this step; the alarm only finds out should that get lost.
        let outbox = self.outbox_due_ms.map(|due_ms| match due_ms > now_ms {
            true => due_ms,
            false => now_ms.saturating_add(OUTBOX_LOST_AFTER_MS),
        });
        [queue, socket, outbox, self.sweep_due_ms]
            .into_iter()
            .flatten()
            .min()
    }
}

fn queue_settings(app: &App) -> QueueSettings {
    let relay = &app.config.relay;
    QueueSettings {
        max_messages: relay.max_messages as usize,
        max_messages_per_sender: relay.max_messages_per_sender as usize,
        max_bytes: MAX_QUEUED_BYTES,
        max_in_flight: relay.max_in_flight as usize,
        max_attempts: relay.retry_max_attempts,
        retry_initial_ms: relay.retry_initial_ms,
        retry_max_ms: relay.retry_max_ms,
        retry_jitter_ratio: relay.retry_jitter_ratio,
        sender_check_ms: SENDER_CHECK_MS,
        sender_retry_ms: SENDER_RETRY_MS,
    }
}

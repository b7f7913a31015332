//! The order in which one agent's mail goes out: which message may be sent now, which waits and until when, which is
//! given up (docs/wire.md §6).
//!
//! It holds what is light of every live message (never a payload) and answers each event with what the shell has to
//! write and send. Promises, and why they hold:
//!
//! - **Nothing is lost.** A live message is in `rows` and in exactly one of a lane's `waiting` or `in_flight`; it
//!   leaves `rows` only through `Change::Delivered`, `Change::DeadLetter` or `settle`.
//! - **Order per sender.** A lane sends only its first waiting message, so that one in back-off holds up what is
//!   behind it, and nothing of other lanes. What was in flight behind it may arrive first.
//! - **At most `max_in_flight` are out**, over all senders: every send passes `launch`.
//! - **Oldest first.** `pump` takes lanes by the age of their first message.
//! - **A sender is asked about before its waiting mail is sent** (docs/design.md §3): `pump` sends only from lanes whose
//!   sender was cleared in the last `sender_check_ms`, and names those it has to know about.
//!
//! Attempts are counted by `launch` alone: only a real send is one. Not its job: storage, sockets, clocks, randomness,
//! and whose message it is that a frame's id names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::rc::Rc;

use clawdentity_protocol::did::AgentDid;

use crate::backoff::doubled;

pub mod calls;
pub mod identity;
pub mod outcome;
pub mod rate;
pub mod schema;
pub mod socket;
mod types;

pub use self::types::{
    Change, DeadReason, Launch, Offer, Place, Pumped, QueueSettings, Standing, StoredRow, Taken,
};

#[cfg(test)]
mod tests;

/// Senders asked about at the same time.
const MAX_ASKED: usize = 16;

/// An answer about a sender that did not come for so long is asked for again.
const ASK_LOST_AFTER_MS: u64 = 10_000;

/// One agent's queue.
#[derive(Debug)]
pub struct RelayQueue {
    settings: QueueSettings,
    next_seq: u64,
    connected: bool,
    bytes: u64,
    rows: BTreeMap<u64, Row>,
    lanes: HashMap<Rc<AgentDid>, Lane>,
    in_flight: BTreeMap<u64, u64>,
    /// `(expires_at_ms, seq)` of what waits. What is in flight may still arrive: it expires when its send fails.
    expiry: BTreeSet<(u64, u64)>,
}

#[derive(Debug)]
struct Row {
    sender: Rc<AgentDid>,
    bytes: u64,
    attempts: u32,
    due_at_ms: u64,
    created_at_ms: u64,
    expires_at_ms: u64,
}

#[derive(Debug)]
struct Lane {
    waiting: BTreeSet<u64>,
    check: Check,
}

/// What a lane knows of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Unasked,
    Asked { at_ms: u64 },
    Good { until_ms: u64 },
    Held { until_ms: u64 },
}

impl RelayQueue {
    /// The queue as it was stored. `connected`: this agent has an open socket; what is in flight is in flight on it.
    /// Without one, it waits. `next_seq` must be above every number stored.
    pub fn restore(
        settings: QueueSettings,
        stored: impl IntoIterator<Item = StoredRow>,
        next_seq: u64,
        connected: bool,
    ) -> Self {
        let mut queue = Self {
            settings,
            next_seq,
            connected,
            bytes: 0,
            rows: BTreeMap::new(),
            lanes: HashMap::new(),
            in_flight: BTreeMap::new(),
            expiry: BTreeSet::new(),
        };
        for row in stored {
            let (due_at_ms, deadline_ms) = match row.place {
                // Sent as often as may be, and cut off: the next `tick` finds that this send failed.
                _ if row.attempts >= queue.settings.max_attempts && !(connected && row.is_in_flight()) => {
                    (0, Some(0))
                }
                Place::Waiting { due_at_ms } => (due_at_ms, None),
                Place::InFlight { deadline_ms } if connected => (0, Some(deadline_ms)),
                Place::InFlight { .. } => (0, None),
            };
            let sender = queue.shared(row.sender);
            queue.bytes = queue.bytes.saturating_add(row.bytes);
            queue.rows.insert(
                row.seq,
                Row {
                    sender,
                    bytes: row.bytes,
                    attempts: row.attempts,
                    due_at_ms,
                    created_at_ms: row.created_at_ms,
                    expires_at_ms: row.expires_at_ms,
                },
            );
            match deadline_ms {
                Some(deadline_ms) => {
                    queue.in_flight.insert(row.seq, deadline_ms);
                }
                None => queue.wait(row.seq, due_at_ms),
            }
        }
        queue
    }

    /// A message arrives. It goes out at once where a socket is open, there is room in flight, its sender was
    /// admitted for it and nothing of that sender waits.
    pub fn offer(&mut self, offer: Offer, now_ms: u64) -> Taken {
        let over_bytes = self.bytes.saturating_add(offer.bytes) > self.settings.max_bytes;
        if self.rows.len() >= self.settings.max_messages || over_bytes {
            return Taken::Full;
        }
        let seq = self.number();
        self.bytes = self.bytes.saturating_add(offer.bytes);
        let sender = self.shared(offer.sender);
        let nothing_waits = self.lanes.get(&sender).is_none_or(|lane| lane.waiting.is_empty());
        self.rows.insert(
            seq,
            Row {
                sender,
                bytes: offer.bytes,
                attempts: 0,
                due_at_ms: now_ms,
                created_at_ms: now_ms,
                expires_at_ms: offer.expires_at_ms,
            },
        );
        let at_once = self.has_room() && offer.admitted && nothing_waits;
        match at_once.then(|| self.launch(seq, now_ms)).flatten() {
            Some(launch) => Taken::Launched(launch),
            None => {
                self.wait(seq, now_ms);
                Taken::Queued { seq }
            }
        }
    }

    /// A new number, for a message that never becomes live.
    pub fn number(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        seq
    }

    /// A socket opened (the one before it is gone): everything that waits is due, and every sender is asked about anew.
    pub fn connected(&mut self, now_ms: u64) -> Vec<Change> {
        let changes = self.disconnected(now_ms);
        self.connected = true;
        for lane in self.lanes.values_mut() {
            lane.check = Check::Unasked;
            for seq in &lane.waiting {
                if let Some(row) = self.rows.get_mut(seq) {
                    row.due_at_ms = now_ms;
                }
            }
        }
        changes
    }

    /// The socket is gone: what was in flight on it has failed, at once.
    pub fn disconnected(&mut self, now_ms: u64) -> Vec<Change> {
        self.connected = false;
        let cut: Vec<u64> = self.in_flight.keys().copied().collect();
        cut.into_iter()
            .filter_map(|seq| self.fail(seq, now_ms, None))
            .collect()
    }

    /// The connector acknowledged or refused a message. `random` is in [0, 1).
    ///
    /// An acceptance counts whenever it comes: after its time, after a back-off began, from a socket that was just
    /// superseded. A refusal counts only for what is in flight (`on_this_socket`: the shell knows whether it came from
    /// the open one).
    pub fn acknowledged(
        &mut self,
        seq: u64,
        accepted: bool,
        on_this_socket: bool,
        now_ms: u64,
        random: f64,
    ) -> Option<Change> {
        if accepted {
            return self.remove(seq).then_some(Change::Delivered { seq });
        }
        if !on_this_socket {
            return None;
        }
        self.fail(seq, now_ms, Some(random))
    }

    /// Time passed: sends that nobody acknowledged have failed, and what waited too long is given up.
    pub fn tick(&mut self, now_ms: u64, mut random: impl FnMut() -> f64) -> Vec<Change> {
        let late: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, deadline)| **deadline <= now_ms)
            .map(|(seq, _)| *seq)
            .collect();
        let mut changes: Vec<Change> = late
            .into_iter()
            .filter_map(|seq| self.fail(seq, now_ms, Some(random())))
            .collect();
        let still_good = self.expiry.split_off(&(now_ms.saturating_add(1), 0));
        for (_, seq) in std::mem::replace(&mut self.expiry, still_good) {
            changes.extend(self.give_up(seq, DeadReason::Expired));
        }
        changes
    }

    /// Sends what may be sent, oldest first, and says which senders have to be asked about before more can be.
    ///
    /// The first message whose sender is being asked about stops the sending, to keep the order between senders; the
    /// shell bounds how long asking takes.
    pub fn pump(&mut self, now_ms: u64) -> Pumped {
        let mut pumped = Pumped::default();
        if !self.has_room() {
            return pumped;
        }
        let mut asked = 0;
        let mut heads = BinaryHeap::new();
        for (sender, lane) in &self.lanes {
            asked += usize::from(matches!(lane.check_at(now_ms), Check::Asked { .. }));
            heads.extend(lane.waiting.first().map(|seq| Reverse((*seq, sender.clone()))));
        }
        let mut stopped = false;
        while let Some(Reverse((seq, sender))) = heads.pop() {
            if self.rows.get(&seq).is_none_or(|row| row.due_at_ms > now_ms) {
                continue;
            }
            let Some(lane) = self.lanes.get_mut(&sender) else {
                continue;
            };
            match lane.check_at(now_ms) {
                Check::Held { .. } => {}
                Check::Asked { .. } => stopped = true,
                Check::Unasked => {
                    stopped = true;
                    if asked < MAX_ASKED {
                        asked += 1;
                        lane.check = Check::Asked { at_ms: now_ms };
                        pumped.ask.push(AgentDid::clone(&sender));
                    }
                }
                Check::Good { .. } if stopped => {}
                Check::Good { .. } => {
                    if !self.has_room() {
                        break;
                    }
                    pumped.launches.extend(self.launch(seq, now_ms));
                    let next = self
                        .lanes
                        .get(&sender)
                        .and_then(|lane| lane.waiting.first().copied());
                    heads.extend(next.map(|seq| Reverse((seq, sender))));
                }
            }
        }
        pumped
    }

    /// What was learned of a sender that `pump` asked about.
    pub fn sender_is(&mut self, sender: &AgentDid, standing: Standing, now_ms: u64) -> Vec<Change> {
        let Some(lane) = self.lanes.get_mut(sender) else {
            return Vec::new();
        };
        match standing {
            Standing::Good => {
                lane.check = Check::Good {
                    until_ms: now_ms.saturating_add(self.settings.sender_check_ms),
                };
                Vec::new()
            }
            Standing::Unknown => {
                lane.check = Check::Held {
                    until_ms: now_ms.saturating_add(self.settings.sender_retry_ms),
                };
                Vec::new()
            }
            Standing::Revoked => {
                // Not `Good`: what of it is in flight and comes back is asked about again.
                lane.check = Check::Unasked;
                let waiting: Vec<u64> = lane.waiting.iter().copied().collect();
                waiting
                    .into_iter()
                    .filter_map(|seq| self.give_up(seq, DeadReason::SenderRevoked))
                    .collect()
            }
        }
    }

    /// Gives up everything.
    pub fn give_up_all(&mut self, reason: DeadReason) -> Vec<Change> {
        let all: Vec<u64> = self.rows.keys().copied().collect();
        all.into_iter()
            .filter_map(|seq| self.give_up(seq, reason))
            .collect()
    }

    /// A receipt told what became of this message: it is no longer live. Says whether it was.
    pub fn settle(&mut self, seq: u64) -> bool {
        self.remove(seq)
    }

    /// When something is to be done next, Unix milliseconds; what `pump` can do at once is not said.
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let expiry = self.expiry.first().map(|(expires_at_ms, _)| *expires_at_ms);
        let deadline = self.in_flight.values().min().copied();
        let lane = if self.has_room() {
            self.lanes
                .values()
                .filter_map(|lane| self.lane_due_ms(lane, now_ms))
                .min()
        } else {
            None
        };
        [expiry, deadline, lane].into_iter().flatten().min()
    }

    /// Live messages.
    pub fn depth(&self) -> usize {
        self.rows.len()
    }

    /// Of those, sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of the live messages' payloads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether this message is sent and not acknowledged.
    pub fn is_in_flight(&self, seq: u64) -> bool {
        self.in_flight.contains_key(&seq)
    }

    /// When the oldest live message came, Unix milliseconds.
    pub fn oldest_created_at_ms(&self) -> Option<u64> {
        self.rows.values().next().map(|row| row.created_at_ms)
    }

    fn lane_due_ms(&self, lane: &Lane, now_ms: u64) -> Option<u64> {
        let row = self.rows.get(lane.waiting.first()?)?;
        match lane.check {
            Check::Asked { at_ms } => Some(at_ms.saturating_add(ASK_LOST_AFTER_MS).max(row.due_at_ms)),
            Check::Held { until_ms } => Some(until_ms.max(row.due_at_ms)),
            // Due, and `pump` left it: it waits for an answer about another sender, which pumps again.
            Check::Unasked | Check::Good { .. } => (row.due_at_ms > now_ms).then_some(row.due_at_ms),
        }
    }

    fn has_room(&self) -> bool {
        self.connected && self.in_flight.len() < self.settings.max_in_flight
    }

    /// The one way out.
    fn launch(&mut self, seq: u64, now_ms: u64) -> Option<Launch> {
        self.unwait(seq);
        let row = self.rows.get_mut(&seq)?;
        row.attempts = row.attempts.saturating_add(1);
        let deadline_ms = now_ms.saturating_add(self.settings.ack_timeout_ms);
        self.in_flight.insert(seq, deadline_ms);
        Some(Launch {
            seq,
            attempts: row.attempts,
            deadline_ms,
        })
    }

    /// A send failed. `backoff` carries the jitter; without one the socket was lost, and the next socket is soon enough.
    fn fail(&mut self, seq: u64, now_ms: u64, backoff: Option<f64>) -> Option<Change> {
        self.in_flight.remove(&seq)?;
        let row = self.rows.get(&seq)?;
        let attempts = row.attempts;
        let over = if row.expires_at_ms <= now_ms {
            Some(DeadReason::Expired)
        } else {
            (attempts >= self.settings.max_attempts).then_some(DeadReason::AttemptsExhausted)
        };
        if let Some(reason) = over {
            return self.give_up(seq, reason);
        }
        let due_at_ms = match backoff {
            Some(random) => now_ms.saturating_add(self.pause_ms(attempts, random)),
            None => now_ms,
        };
        self.wait(seq, due_at_ms);
        Some(match backoff {
            Some(_) => Change::Requeued {
                seq,
                attempts,
                due_at_ms,
            },
            None => Change::CutOff { seq },
        })
    }

    fn give_up(&mut self, seq: u64, reason: DeadReason) -> Option<Change> {
        self.remove(seq).then_some(Change::DeadLetter { seq, reason })
    }

    fn remove(&mut self, seq: u64) -> bool {
        self.unwait(seq);
        self.in_flight.remove(&seq);
        let Some(row) = self.rows.remove(&seq) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(row.bytes);
        true
    }

    fn wait(&mut self, seq: u64, due_at_ms: u64) {
        let Some(row) = self.rows.get_mut(&seq) else {
            return;
        };
        row.due_at_ms = due_at_ms;
        self.expiry.insert((row.expires_at_ms, seq));
        let lane = self.lanes.entry(row.sender.clone()).or_insert_with(Lane::new);
        lane.waiting.insert(seq);
    }

    /// Takes a message out of its lane, and the lane away where it is empty.
    fn unwait(&mut self, seq: u64) {
        let Some(row) = self.rows.get(&seq) else { return };
        self.expiry.remove(&(row.expires_at_ms, seq));
        let Some(lane) = self.lanes.get_mut(&row.sender) else {
            return;
        };
        lane.waiting.remove(&seq);
        if lane.waiting.is_empty() {
            self.lanes.remove(&row.sender);
        }
    }

    /// The pause after the `attempts`-th send failed: 1 s doubling to 30 s, with jitter (docs/wire.md §6).
    fn pause_ms(&self, attempts: u32, random: f64) -> u64 {
        let settings = &self.settings;
        let base_ms = doubled(settings.retry_initial_ms, settings.retry_max_ms, attempts);
        let jitter = 1.0 + settings.retry_jitter_ratio * (2.0 * random - 1.0);
        (base_ms as f64 * jitter).max(0.0) as u64
    }

    /// One copy of a DID for all of its rows.
    fn shared(&self, sender: AgentDid) -> Rc<AgentDid> {
        match self.lanes.get_key_value(&sender) {
            Some((shared, _)) => shared.clone(),
            None => Rc::new(sender),
        }
    }
}

impl Lane {
    fn new() -> Self {
        Self {
            waiting: BTreeSet::new(),
            check: Check::Unasked,
        }
    }

    /// What is known now: an answer is believed for its time, a question waited for its time.
    fn check_at(&self, now_ms: u64) -> Check {
        let over = match self.check {
            Check::Unasked => true,
            Check::Asked { at_ms } => at_ms.saturating_add(ASK_LOST_AFTER_MS) <= now_ms,
            Check::Good { until_ms } | Check::Held { until_ms } => until_ms <= now_ms,
        };
        if over { Check::Unasked } else { self.check }
    }
}

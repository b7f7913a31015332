//! The order in which one agent's mail goes out: which message may be sent now, which one waits and until when, and
//! which one is given up (docs/design.md §5 and docs/wire.md §6.5).
//!
//! The queue holds what is small of every live message, and never a payload. It answers each event with what the
//! shell has to write and send. Its promises, and why they hold:
//!
//! - **Nothing is lost.** A live message is in `rows` and in exactly one of its lane's `waiting` and `in_flight`. It
//!   leaves `rows` only through `Change::Delivered`, `Change::DeadLetter` or `settle`.
//! - **Nothing goes out twice on one connection, unless it was refused there.** What was sent stays in `in_flight`,
//!   for however long, until it is answered or the connection ends. Only a connection that answers nothing at all for
//!   `STALLED_AFTER_MS` is to be closed (`is_stalled`).
//! - **The order of each sender is kept.** A lane holds one sender's mail and sends only its first waiting message.
//!   So a message that waits for its retry holds up what is behind it in its lane, and nothing in other lanes. What
//!   was in flight behind it may arrive first.
//! - **A broken connection says nothing about a message.** It does not count as an attempt. What was in flight goes
//!   out one at a time afterwards, so that a message that breaks connections is found. Only a message that was alone
//!   in flight is a suspect, and only connections that had proven themselves are held against it.
//! - **No sender takes another's place.** Shares bound what one sender may have stored and, while others wait, in
//!   flight. Lanes with less in flight go first. A question about one sender holds up nobody else.
//! - **Authority is asked again before waiting mail is sent** (`authority`). `pump` sends only what was admitted or
//!   found good within the last `sender_check_ms`, and names what it has to know about, in one question a sender.
//!
//! `lanes` has where each message is and the bounds, `turns` which one goes next; here is what each event does.
//!
//! Storage, sockets, clocks, randomness, and which message a frame's id names are the shell's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use crate::backoff::doubled;
use clawdentity_protocol::did::AgentDid;

pub mod authority;
pub mod calls;
pub mod identity;
mod lanes;
pub mod outcome;
pub mod rate;
pub mod schema;
pub mod socket;
pub mod statements;
pub mod takeover;
mod turns;
mod types;
pub mod verdicts;

use self::authority::{Answer, Verdict};
use self::lanes::{Check, Lane, Load, Row};
use self::turns::Head;
pub use self::types::{
    Change, Connection, DeadReason, EndedBy, Launch, Mark, Offer, Pumped, QueueSettings, StoredRow, Taken,
    Trouble,
};

#[cfg(test)]
mod tests;

/// A connection with frames in flight that answers none of them for so long is closed.
const STALLED_AFTER_MS: u64 = 300_000;
/// A connection that ends so soon after a frame may have ended because of it.
const SUSPECT_WITHIN_MS: u64 = 2_000;
/// A connection that has lived for so long works.
const PROVEN_AFTER_MS: u64 = 30_000;
/// Proven connections that the connector must end on sight of a message before that is given up.
const MAX_BREAKS: u32 = 3;

/// One agent's queue.
#[derive(Debug)]
pub struct RelayQueue {
    settings: QueueSettings,
    next_seq: u64,
    connection: Option<Line>,
    totals: Load,
    notices: Load,
    rows: BTreeMap<u64, Row>,
    lanes: HashMap<Rc<AgentDid>, Lane>,
    /// When each was sent.
    in_flight: BTreeMap<u64, u64>,
    /// What was in flight when a connection ended, and is not settled: until it is, one frame at a time goes out.
    unsettled: BTreeSet<u64>,
    /// `(expires_at_ms, seq)` of what waits: a lifetime does not end while a message is in flight.
    expiry: BTreeSet<(u64, u64)>,
}

/// The open connection.
#[derive(Debug, Clone, Copy)]
struct Line {
    opened_at_ms: u64,
    progress_at_ms: u64,
}

impl RelayQueue {
    /// The queue as it was stored, and its open connection, where there is one. `next_seq` must be above every number
    /// stored.
    pub fn restore(
        settings: QueueSettings,
        stored: impl IntoIterator<Item = StoredRow>,
        next_seq: u64,
        connection: Option<Connection>,
    ) -> Self {
        let sent: BTreeMap<u64, u64> = connection
            .iter()
            .flat_map(|connection| connection.in_flight.iter().copied())
            .collect();
        let mut queue = Self {
            settings,
            next_seq,
            connection: connection.map(|connection| Line {
                opened_at_ms: connection.opened_at_ms,
                progress_at_ms: connection.progress_at_ms,
            }),
            totals: Load::default(),
            notices: Load::default(),
            rows: BTreeMap::new(),
            lanes: HashMap::new(),
            in_flight: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            expiry: BTreeSet::new(),
        };
        for row in stored {
            let (seq, due_at_ms, mark) = (row.seq, row.due_at_ms, row.trouble.mark);
            queue.next_seq = queue.next_seq.max(seq.saturating_add(1));
            let sender = queue.shared(row.sender);
            queue.enter(
                seq,
                Row {
                    sender,
                    authority: row.authority,
                    good_until_ms: 0,
                    bytes: row.bytes,
                    attempts: row.attempts,
                    trouble: row.trouble,
                    due_at_ms,
                    created_at_ms: row.created_at_ms,
                    expires_at_ms: row.expires_at_ms,
                },
            );
            if mark != Mark::None {
                queue.unsettled.insert(seq);
            }
            match sent.get(&seq) {
                Some(sent_at_ms) => queue.fly(seq, *sent_at_ms),
                None => queue.wait(seq, due_at_ms),
            }
        }
        queue
    }

    /// A message arrives. It goes out at once where there is a place in flight for its sender, that sender was admitted
    /// for it and nothing of it waits.
    pub fn offer(&mut self, offer: Offer, now_ms: u64) -> Taken {
        if self.is_full_for(&offer) {
            return Taken::Full;
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        let sender = self.shared(offer.sender);
        let nothing_waits = self.lanes.get(&sender).is_none_or(|lane| lane.waiting.is_empty());
        let held = self.lanes.get(&sender).map_or(0, |lane| lane.in_flight);
        let free = self.free_places();
        let at_once = offer.admitted && nothing_waits && free > 0 && {
            let others: Vec<Head> = self.ready(now_ms).collect();
            let kept = others
                .iter()
                .filter(|head| self.keeps_place(head, now_ms))
                .count();
            free > kept && (held < self.share() || others.is_empty())
        };
        self.enter(
            seq,
            Row {
                sender,
                authority: offer.authority,
                good_until_ms: match offer.admitted {
                    true => now_ms.saturating_add(self.settings.sender_check_ms),
                    false => 0,
                },
                bytes: offer.bytes,
                attempts: 0,
                trouble: Trouble::default(),
                due_at_ms: now_ms,
                created_at_ms: now_ms,
                expires_at_ms: offer.expires_at_ms,
            },
        );
        if at_once {
            self.fly(seq, now_ms);
            return Taken::Launched(Launch { seq, attempts: 0 });
        }
        self.wait(seq, now_ms);
        Taken::Queued { seq }
    }

    /// A connection opened. One before it was superseded.
    pub fn connected(&mut self, now_ms: u64) -> Vec<Change> {
        let changes = self.disconnected(EndedBy::Us, now_ms);
        self.connection = Some(Line {
            opened_at_ms: now_ms,
            progress_at_ms: now_ms,
        });
        // All is asked anew.
        for lane in self.lanes.values_mut() {
            lane.check = Check::Unasked;
        }
        for row in self.rows.values_mut() {
            row.good_until_ms = 0;
        }
        changes
    }

    /// The connection ended: what was in flight on it waits for the next.
    pub fn disconnected(&mut self, by: EndedBy, now_ms: u64) -> Vec<Change> {
        let Some(line) = self.connection.take() else {
            return Vec::new();
        };
        let cut: Vec<(u64, u64)> = self.in_flight.iter().map(|(seq, at)| (*seq, *at)).collect();
        let alone = cut.len() == 1;
        let mut changes = Vec::with_capacity(cut.len());
        for (seq, sent_at_ms) in cut {
            let flew_ms = now_ms.saturating_sub(sent_at_ms);
            let proven = sent_at_ms.saturating_sub(line.opened_at_ms) >= PROVEN_AFTER_MS;
            let mark = if by == EndedBy::Connector && alone && flew_ms <= SUSPECT_WITHIN_MS {
                Mark::Suspect
            } else if alone && flew_ms >= PROVEN_AFTER_MS {
                Mark::Unanswered
            } else {
                Mark::Cut
            };
            changes.extend(self.cut(seq, by, mark, proven, now_ms));
        }
        changes
    }

    /// The connector acknowledged or refused a message. `random` is in [0, 1).
    ///
    /// An acceptance counts whenever it comes, on whatever connection. A refusal counts only for what is in flight
    /// (`on_this_socket`: the shell knows whether it came from the open one).
    pub fn acknowledged(
        &mut self,
        seq: u64,
        accepted: bool,
        on_this_socket: bool,
        now_ms: u64,
        random: f64,
    ) -> Option<Change> {
        if on_this_socket && self.in_flight.contains_key(&seq) {
            self.progressed(now_ms);
        }
        if accepted {
            return self.remove(seq).then_some(Change::Delivered { seq });
        }
        if on_this_socket {
            return self.refused(seq, now_ms, random);
        }
        None
    }

    /// Time passed: what waited too long is given up.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Change> {
        let still_good = self.expiry.split_off(&(now_ms.saturating_add(1), 0));
        std::mem::replace(&mut self.expiry, still_good)
            .into_iter()
            .filter_map(|(_, seq)| self.give_up(seq, DeadReason::Expired))
            .collect()
    }

    /// Whether the connection has frames in flight and answered none of them for too long: it is to be closed.
    pub fn is_stalled(&self, now_ms: u64) -> bool {
        self.stalled_at_ms().is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// What was learned of a sender that `pump` asked about.
    pub fn learn(&mut self, sender: &AgentDid, answer: &Answer, now_ms: u64) -> Vec<Change> {
        let held = Check::Held {
            until_ms: now_ms.saturating_add(self.settings.sender_retry_ms),
        };
        let Some(lane) = self.lanes.get_mut(sender) else {
            return Vec::new();
        };
        let Answer::Of(known) = answer else {
            lane.check = held;
            lane.answers = false;
            return Vec::new();
        };
        lane.check = Check::Unasked;
        lane.answers = true;
        let found = known
            .groups
            .iter()
            .filter(|(_, is_member)| *is_member == Some(true));
        lane.groups.extend(found.map(|(group, _)| (*group, now_ms)));
        let waiting: Vec<u64> = lane.waiting.iter().copied().collect();
        let mut changes = Vec::new();
        let mut is_first = true;
        for seq in waiting {
            let verdict = self.row_of(seq).map(|(row, lane)| {
                let is_member = !lane.asks_group(row, now_ms);
                known.judge(&row.authority, row.created_at_ms, is_member)
            });
            match verdict {
                Some(Verdict::Ended(reason)) => {
                    changes.extend(self.give_up(seq, reason));
                    continue;
                }
                Some(Verdict::Good) => {
                    if let Some(row) = self.rows.get_mut(&seq) {
                        row.good_until_ms = now_ms.saturating_add(self.settings.sender_check_ms);
                    }
                }
                Some(Verdict::Hold) if is_first => {
                    if let Some(lane) = self.lanes.get_mut(sender) {
                        lane.check = held;
                        lane.answers = false;
                    }
                }
                Some(Verdict::Hold | Verdict::Unasked) | None => {}
            }
            is_first = false;
        }
        changes
    }

    /// Gives up everything.
    pub fn give_up_all(&mut self, reason: DeadReason) -> Vec<Change> {
        let all: Vec<u64> = self.rows.keys().copied().collect();
        all.into_iter()
            .filter_map(|seq| self.give_up(seq, reason))
            .collect()
    }

    /// A receipt told what became of this message: it is no longer live. Says whether it was.
    pub fn settle(&mut self, seq: u64, now_ms: u64) -> bool {
        if self.in_flight.contains_key(&seq) {
            self.progressed(now_ms);
        }
        self.remove(seq)
    }

    /// When something is to be done next, Unix milliseconds, always later than now; what `pump` can do at once, or can
    /// do only after an answer, is not said.
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let expiry = self.expiry.first().map(|(expires_at_ms, _)| *expires_at_ms);
        let lane = (self.free_places() > 0)
            .then(|| {
                self.lanes
                    .values()
                    .filter_map(|lane| self.lane_due_ms(lane, now_ms))
                    .min()
            })
            .flatten();
        [expiry, self.stalled_at_ms(), lane]
            .into_iter()
            .flatten()
            .map(|due_ms| due_ms.max(now_ms.saturating_add(1)))
            .min()
    }

    /// Live messages.
    pub fn depth(&self) -> usize {
        self.rows.len()
    }

    /// What is sent and not answered, with the time of each: for the socket to remember.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = (u64, u64)> + '_ {
        self.in_flight.iter().map(|(seq, sent_at_ms)| (*seq, *sent_at_ms))
    }

    /// When a frame on the open connection was last answered, Unix milliseconds: for the socket to remember.
    pub fn progress_at_ms(&self) -> Option<u64> {
        self.connection.map(|line| line.progress_at_ms)
    }

    /// Bytes of the live messages' payloads.
    pub fn bytes(&self) -> u64 {
        self.totals.bytes.saturating_add(self.notices.bytes)
    }

    /// Whether this message is sent and not acknowledged.
    pub fn is_in_flight(&self, seq: u64) -> bool {
        self.in_flight.contains_key(&seq)
    }

    /// When a live message came and when it expires, Unix milliseconds.
    pub fn times_of(&self, seq: u64) -> Option<(u64, u64)> {
        let row = self.rows.get(&seq)?;
        Some((row.created_at_ms, row.expires_at_ms))
    }

    /// When the oldest live message came, Unix milliseconds.
    pub fn oldest_created_at_ms(&self) -> Option<u64> {
        self.rows.values().next().map(|row| row.created_at_ms)
    }

    fn stalled_at_ms(&self) -> Option<u64> {
        let first_ms = self.in_flight.values().min()?;
        let since_ms = self.connection?.progress_at_ms.max(*first_ms);
        Some(since_ms.saturating_add(STALLED_AFTER_MS))
    }

    fn progressed(&mut self, now_ms: u64) {
        if let Some(line) = &mut self.connection {
            line.progress_at_ms = now_ms;
        }
    }

    fn refused(&mut self, seq: u64, now_ms: u64, random: f64) -> Option<Change> {
        if !self.land(seq) {
            return None;
        }
        self.unsettled.remove(&seq);
        let row = self.rows.get_mut(&seq)?;
        row.attempts = row.attempts.saturating_add(1);
        row.trouble = Trouble::default();
        let attempts = row.attempts;
        if row.expires_at_ms <= now_ms {
            return self.give_up(seq, DeadReason::Expired);
        }
        if attempts >= self.settings.max_attempts {
            return self.give_up(seq, DeadReason::AttemptsExhausted);
        }
        let due_at_ms = now_ms.saturating_add(self.pause_ms(attempts, random));
        self.wait(seq, due_at_ms);
        Some(Change::Requeued {
            seq,
            attempts,
            due_at_ms,
        })
    }

    /// A connection ended with this message in flight. `mark`: what that says; `proven`: it was sent on a proven one.
    fn cut(&mut self, seq: u64, by: EndedBy, mark: Mark, proven: bool, now_ms: u64) -> Option<Change> {
        self.land(seq);
        let row = self.rows.get_mut(&seq)?;
        let trouble = &mut row.trouble;
        trouble.cuts = trouble.cuts.saturating_add(1);
        trouble.breaks += u32::from(mark == Mark::Suspect && proven);
        trouble.mark = match (mark, by, trouble.mark) {
            // It was not found out.
            (Mark::Cut, EndedBy::Us, Mark::Suspect) => Mark::Suspect,
            _ => mark,
        };
        let trouble = *trouble;
        if row.expires_at_ms <= now_ms {
            return self.give_up(seq, DeadReason::Expired);
        }
        if trouble.breaks >= MAX_BREAKS {
            return self.give_up(seq, DeadReason::ConnectorBroke);
        }
        self.unsettled.insert(seq);
        self.wait(seq, now_ms);
        Some(Change::Cut {
            seq,
            trouble,
            due_at_ms: now_ms,
        })
    }

    fn give_up(&mut self, seq: u64, reason: DeadReason) -> Option<Change> {
        self.remove(seq).then_some(Change::DeadLetter { seq, reason })
    }

    /// The pause after the `attempts`-th refusal: 1 s doubling to 30 s, with jitter (docs/wire.md §6).
    fn pause_ms(&self, attempts: u32, random: f64) -> u64 {
        let settings = &self.settings;
        let base_ms = doubled(settings.retry_initial_ms, settings.retry_max_ms, attempts);
        let jitter = 1.0 + settings.retry_jitter_ratio * (2.0 * random - 1.0);
        (base_ms as f64 * jitter).max(0.0) as u64
    }
}

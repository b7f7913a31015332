//! Where the live messages are: the rows, a lane for each sender, and the bounds on both.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use super::RelayQueue;
use super::authority::{Authority, Basis, MEMBER_BELIEVED_MS};
use super::types::{Offer, Trouble};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::GroupId;

/// An answer about a sender that did not come for so long is asked for again.
pub(super) const ASK_LOST_AFTER_MS: u64 = 10_000;
/// A sender with fewer messages waiting is not refused because of what others have waiting.
const FEW: usize = 10;
/// The part of all bytes that one sender may have.
const SENDERS_PART: u64 = 4;
/// Even senders with few messages are refused past so many times `max_bytes`: a disk has an end.
const BYTES_CEILING: u64 = 8;

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Load {
    pub(super) messages: usize,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Row {
    pub(super) sender: Rc<AgentDid>,
    pub(super) authority: Authority,
    /// Its sender was admitted for it, or its authority was found good, so short a time ago that it may be sent until
    /// then.
    pub(super) good_until_ms: u64,
    pub(super) bytes: u64,
    pub(super) attempts: u32,
    pub(super) trouble: Trouble,
    pub(super) due_at_ms: u64,
    pub(super) created_at_ms: u64,
    pub(super) expires_at_ms: u64,
}

/// What is live of one sender.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) waiting: BTreeSet<u64>,
    pub(super) in_flight: usize,
    /// Without notices.
    pub(super) load: Load,
    pub(super) check: Check,
    /// The last question about its sender was answered, so a place is kept for its mail while the next one is asked.
    pub(super) answers: bool,
    /// When its sender was last found to be in which group.
    pub(super) groups: HashMap<GroupId, u64>,
}

/// Whether a lane's sender may be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Unasked,
    Asked { at_ms: u64 },
    Held { until_ms: u64 },
}

impl RelayQueue {
    /// Notices are bounded among themselves; a sender by its own share, and by the total once it has more than a few.
    pub(super) fn is_full_for(&self, offer: &Offer) -> bool {
        let settings = &self.settings;
        let most = settings.max_messages_per_sender;
        let part = settings.max_bytes / SENDERS_PART;
        let full = |load: Load, messages: usize, bytes: u64| {
            load.messages >= messages || load.bytes.saturating_add(offer.bytes) > bytes
        };
        if offer.authority.is_notice() {
            return full(self.notices, most, part);
        }
        let own = self
            .lanes
            .get(&offer.sender)
            .map_or(Load::default(), |lane| lane.load);
        let total = if own.messages < FEW {
            full(
                self.totals,
                usize::MAX,
                settings.max_bytes.saturating_mul(BYTES_CEILING),
            )
        } else {
            full(self.totals, settings.max_messages, settings.max_bytes)
        };
        full(own, most, part) || total
    }

    pub(super) fn row_of(&self, seq: u64) -> Option<(&Row, &Lane)> {
        let row = self.rows.get(&seq)?;
        Some((row, self.lanes.get(&row.sender)?))
    }

    pub(super) fn enter(&mut self, seq: u64, row: Row) {
        let lane = self.lanes.entry(row.sender.clone()).or_insert_with(Lane::new);
        if row.authority.is_notice() {
            self.notices.add(row.bytes);
        } else {
            lane.load.add(row.bytes);
            self.totals.add(row.bytes);
        }
        self.rows.insert(seq, row);
    }

    /// Takes a message out of everything, and its lane away where it is the last.
    pub(super) fn remove(&mut self, seq: u64) -> bool {
        self.unwait(seq);
        self.land(seq);
        self.unsettled.remove(&seq);
        let Some(row) = self.rows.remove(&seq) else {
            return false;
        };
        let Some(lane) = self.lanes.get_mut(&row.sender) else {
            return true;
        };
        if row.authority.is_notice() {
            self.notices.take(row.bytes);
        } else {
            lane.load.take(row.bytes);
            self.totals.take(row.bytes);
        }
        if lane.waiting.is_empty() && lane.in_flight == 0 {
            self.lanes.remove(&row.sender);
        }
        true
    }

    pub(super) fn wait(&mut self, seq: u64, due_at_ms: u64) {
        let Some(row) = self.rows.get_mut(&seq) else {
            return;
        };
        row.due_at_ms = due_at_ms;
        self.expiry.insert((row.expires_at_ms, seq));
        if let Some(lane) = self.lanes.get_mut(&row.sender) {
            lane.waiting.insert(seq);
        }
    }

    pub(super) fn unwait(&mut self, seq: u64) {
        let Some(row) = self.rows.get(&seq) else { return };
        self.expiry.remove(&(row.expires_at_ms, seq));
        if let Some(lane) = self.lanes.get_mut(&row.sender) {
            lane.waiting.remove(&seq);
        }
    }

    pub(super) fn fly(&mut self, seq: u64, sent_at_ms: u64) {
        let Some(row) = self.rows.get(&seq) else { return };
        self.in_flight.insert(seq, sent_at_ms);
        if let Some(lane) = self.lanes.get_mut(&row.sender) {
            lane.in_flight += 1;
        }
    }

    /// Takes a message out of flight. Says whether it was.
    pub(super) fn land(&mut self, seq: u64) -> bool {
        if self.in_flight.remove(&seq).is_none() {
            return false;
        }
        if let Some(lane) = self
            .rows
            .get(&seq)
            .and_then(|row| self.lanes.get_mut(&row.sender))
        {
            lane.in_flight = lane.in_flight.saturating_sub(1);
        }
        true
    }

    /// One copy of a DID for all of its rows.
    pub(super) fn shared(&self, sender: AgentDid) -> Rc<AgentDid> {
        match self.lanes.get_key_value(&sender) {
            Some((shared, _)) => shared.clone(),
            None => Rc::new(sender),
        }
    }
}

impl Load {
    pub(super) fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeSet::new(),
            in_flight: 0,
            load: Load::default(),
            check: Check::Unasked,
            answers: false,
            groups: HashMap::new(),
        }
    }

    /// Whether this message is one of a group of which the last answer is too old.
    pub(super) fn asks_group(&self, row: &Row, now_ms: u64) -> bool {
        let Basis::Group(group) = &row.authority.basis else {
            return false;
        };
        // It was accepted because its sender was a member.
        let answered_ms = self
            .groups
            .get(group)
            .copied()
            .unwrap_or(0)
            .max(row.created_at_ms);
        answered_ms.saturating_add(MEMBER_BELIEVED_MS) <= now_ms
    }

    /// What holds now: a question is waited for its time, and a hold lasts its time.
    pub(super) fn check_at(&self, now_ms: u64) -> Check {
        let over = match self.check {
            Check::Unasked => true,
            Check::Asked { at_ms } => at_ms.saturating_add(ASK_LOST_AFTER_MS) <= now_ms,
            Check::Held { until_ms } => until_ms <= now_ms,
        };
        if over { Check::Unasked } else { self.check }
    }
}

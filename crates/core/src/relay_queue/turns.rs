//! Whose turn it is: which message goes out next, which one waits, and whom to ask before.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use super::authority::Question;
use super::lanes::{ASK_LOST_AFTER_MS, Check, Lane, Row};
use super::types::{Launch, Mark, Pumped};
use super::{PROVEN_AFTER_MS, RelayQueue};
use clawdentity_protocol::did::AgentDid;

/// Senders asked about at the same time.
pub(super) const MAX_ASKED: usize = 16;

/// What a lane would send next. The order of its fields is the order in which lanes go.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Head {
    pub(super) in_flight: usize,
    pub(super) rank_ms: u64,
    pub(super) seq: u64,
    pub(super) sender: Rc<AgentDid>,
}

impl RelayQueue {
    /// Sends what may be sent, and says which senders have to be asked about before more can be.
    ///
    /// Lanes with less in flight go first, then by `rank_ms`. A place is kept for mail whose sender has to be asked about
    /// first, so that mail which needs no question cannot take each place that becomes free.
    pub fn pump(&mut self, now_ms: u64) -> Pumped {
        let mut pumped = Pumped::default();
        if self.free_places() == 0 {
            return pumped;
        }
        let mut heads: BinaryHeap<Reverse<Head>> = self.ready(now_ms).map(Reverse).collect();
        let mut asked = self
            .lanes
            .values()
            .filter(|lane| matches!(lane.check_at(now_ms), Check::Asked { .. }))
            .count();
        // Lanes that have something to send and wait for an answer or for their share.
        let mut others = 0;
        let mut kept = 0;
        while let Some(Reverse(head)) = heads.pop() {
            if self.free_places() <= kept {
                break;
            }
            let share = self.share();
            let Some(lane) = self.lanes.get(&head.sender) else {
                continue;
            };
            if self.is_good(head.seq, now_ms) {
                let within_share = lane.in_flight < share || (others == 0 && heads.is_empty());
                if !within_share {
                    others += 1;
                    continue;
                }
                pumped.launches.extend(self.launch(head.seq, now_ms));
                heads.extend(self.head_of(&head.sender, now_ms).map(Reverse));
                continue;
            }
            others += 1;
            if lane.check_at(now_ms) == Check::Unasked && asked < MAX_ASKED {
                asked += 1;
                pumped.ask.push(self.question(lane, &head.sender, now_ms));
                if let Some(lane) = self.lanes.get_mut(&head.sender) {
                    lane.answers &= !matches!(lane.check, Check::Asked { .. });
                    lane.check = Check::Asked { at_ms: now_ms };
                }
            }
            kept += usize::from(self.keeps_place(&head, now_ms));
        }
        pumped
    }

    /// Lanes that have something to send now, whatever is known of their senders and however full all is.
    pub(super) fn ready(&self, now_ms: u64) -> impl Iterator<Item = Head> + '_ {
        self.lanes
            .keys()
            .filter_map(move |sender| self.head_of(sender, now_ms))
    }

    /// What a lane would send now.
    pub(super) fn head_of(&self, sender: &Rc<AgentDid>, now_ms: u64) -> Option<Head> {
        let lane = self.lanes.get(sender)?;
        let seq = *lane.waiting.first()?;
        let row = self.rows.get(&seq)?;
        let held = matches!(lane.check_at(now_ms), Check::Held { .. }) && row.good_until_ms <= now_ms;
        if held || row.due_at_ms > now_ms || self.proof_ms(row).is_some_and(|at_ms| at_ms > now_ms) {
            return None;
        }
        Some(Head {
            in_flight: lane.in_flight,
            rank_ms: row.rank_ms(),
            seq,
            sender: sender.clone(),
        })
    }

    /// Whether a place is kept for this head while its sender is asked about.
    pub(super) fn keeps_place(&self, head: &Head, now_ms: u64) -> bool {
        !self.is_good(head.seq, now_ms)
            && self.lanes.get(&head.sender).is_some_and(|lane| {
                lane.answers
                    && lane.in_flight < self.share()
                    && matches!(lane.check_at(now_ms), Check::Asked { .. })
            })
    }

    /// Whether this message may be sent without asking anybody.
    pub(super) fn is_good(&self, seq: u64, now_ms: u64) -> bool {
        self.rows.get(&seq).is_some_and(|row| row.good_until_ms > now_ms)
    }

    /// What must be known before this lane's mail may be sent: its first message's, and as much of the others' as fits.
    pub(super) fn question(&self, lane: &Lane, sender: &AgentDid, now_ms: u64) -> Question {
        let mut question = Question::about(sender.clone());
        for row in lane.waiting.iter().filter_map(|seq| self.rows.get(seq)) {
            if !question.name(&row.authority, lane.asks_group(row, now_ms)) {
                break;
            }
        }
        question
    }

    /// From when on a suspect may go out: once its connection has proven itself. While there is one, so does what would
    /// keep the one place so long that no suspect ever had its turn.
    pub(super) fn proof_ms(&self, row: &Row) -> Option<u64> {
        let line = self.connection?;
        let waits = match row.trouble.mark {
            Mark::None | Mark::Cut => false,
            Mark::Unanswered => self.has_suspect(),
            Mark::Suspect => true,
        };
        waits.then(|| line.opened_at_ms.saturating_add(PROVEN_AFTER_MS))
    }

    pub(super) fn has_suspect(&self) -> bool {
        let mut unsettled = self.unsettled.iter().filter_map(|seq| self.rows.get(seq));
        unsettled.any(|row| row.trouble.mark == Mark::Suspect)
    }

    pub(super) fn lane_due_ms(&self, lane: &Lane, now_ms: u64) -> Option<u64> {
        let row = self.rows.get(lane.waiting.first()?)?;
        let ready_ms = row.due_at_ms.max(self.proof_ms(row).unwrap_or(0));
        let due_ms = match lane.check_at(now_ms) {
            _ if row.good_until_ms > ready_ms.max(now_ms) => ready_ms,
            Check::Asked { at_ms } => ready_ms.max(at_ms.saturating_add(ASK_LOST_AFTER_MS)),
            Check::Held { until_ms } => ready_ms.max(until_ms),
            Check::Unasked => ready_ms,
        };
        // What is due and was left by `pump` waits for an answer, which pumps again.
        (due_ms > now_ms).then_some(due_ms)
    }

    /// Places in flight that are free on the open connection. While anything is unsettled there is one in all, so a
    /// suspect goes alone.
    pub(super) fn free_places(&self) -> usize {
        let places = match (self.connection, self.unsettled.is_empty()) {
            (None, _) => 0,
            (Some(_), true) => self.settings.max_in_flight,
            (Some(_), false) => 1,
        };
        places.saturating_sub(self.in_flight.len())
    }

    /// The places in flight that one sender may hold while another has mail to send.
    pub(super) fn share(&self) -> usize {
        (self.settings.max_in_flight / 2).max(1)
    }

    pub(super) fn launch(&mut self, seq: u64, now_ms: u64) -> Option<Launch> {
        let attempts = self.rows.get(&seq)?.attempts;
        self.unwait(seq);
        self.fly(seq, now_ms);
        Some(Launch { seq, attempts })
    }
}

impl Row {
    /// Its place in the line: by when it came. What connections keep ending with goes to the back of the line each time,
    /// behind all that waits at that moment and before all that comes later. A suspect, which has waited for a connection
    /// that has proven itself, goes first: nothing goes out side by side before it is settled.
    fn rank_ms(&self) -> u64 {
        match (self.trouble.mark, self.trouble.cuts) {
            (Mark::Suspect, _) => 0,
            (Mark::None | Mark::Cut, 0 | 1) => self.created_at_ms,
            _ => self.due_at_ms.max(self.created_at_ms),
        }
    }
}

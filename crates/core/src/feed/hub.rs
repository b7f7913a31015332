//! All listeners of the stream, and the one reading of the ledger that serves them (docs/wire.md §10.2).
//!
//! - **One look serves all.** A look reads what is new since the last look, and everyone who is as far as that gets it
//!   from memory. Only a listener that is behind what memory holds reads the ledger by itself, a page each time it asks
//!   for more, until it has caught up.
//! - **Nobody is silently deaf.** Every 15 s a listener gets a comment: `: alive` if the last look succeeded,
//!   `: degraded` if it failed. After 100 failed looks, and after an hour, its stream ends, and it comes again.
//! - **A listener starts over** (`event: reset`) when its position is above the ledger's latest number, or of another
//!   epoch.
//! - **A listener costs a position.** What it has not been sent is not stored for it. One that has taken nothing for 5 s
//!   while more than 64 KiB wait for it is dropped, and its seat is free. (For the 5 s a burst is no reason.)
//!
//! Times are Unix milliseconds. The shell calls `tick` when `next_ms` says so, `look`s when told to, and asks `next`
//! for each listener that can take something.

use std::collections::{BTreeMap, VecDeque};

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::{Item, Page, Subject};

use super::{Listener, ListeningAgent, Place, for_agents};

/// Streams of one agent, and in all.
pub const MAX_OF_AGENT: usize = 2;
pub const MAX_STREAMS: usize = 1_000;
/// How much may wait for a listener that has taken nothing for so long.
pub const MAX_WAITING_BYTES: usize = 64 * 1024;
const TAKES_NOTHING_MS: u64 = 5_000;
/// A stream ends by itself after this time.
const MAX_AGE_MS: u64 = 3_600_000;
/// Looks that may fail one after another.
const MAX_FAILED_LOOKS: u32 = 100;
/// While nothing happens.
const LOOK_EVERY_MS: u64 = 60_000;
/// After a failed look: this, doubled each time, up to that.
const LOOK_AGAIN_MS: u64 = 1_000;
const LOOK_AGAIN_MOST_MS: u64 = 15_000;
const COMMENT_EVERY_MS: u64 = 15_000;
/// Items that are kept for those who come back.
const MAX_RECENT: usize = 1_000;
/// The most that is sent in one piece.
const PIECE_BYTES: usize = 32 * 1024;

const ALIVE: &str = ": alive\n\n";
const DEGRADED: &str = ": degraded\n\n";

/// Which listener.
pub type Id = u64;

/// Why there is no place for another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// This agent has as many as it may.
    Agent,
    /// There are as many as there may be.
    All,
}

/// Why a stream was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did not read what it was sent.
    DoesNotRead,
    /// The ledger could not be read for too long.
    LedgerLost,
}

/// What a listener is to get now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// This text.
    Send(String),
    /// A page of the ledger from this position, which `caught_up` takes.
    Read(Place),
    /// Nothing yet.
    Wait,
    /// The end.
    End,
}

#[derive(Debug)]
struct Seat {
    caller: Option<ListeningAgent>,
    /// The number up to which it was sent everything, and that number's epoch if it is known.
    place: Place,
    until_ms: u64,
    comment_at_ms: u64,
    /// A comment that is due.
    comment: bool,
    /// Its position is one that it got from here, not what it said itself.
    ours: bool,
    /// It is told to start over: in this epoch, whose latest number is this.
    reset: Option<(String, u64)>,
    /// It ends once it was sent what there is.
    ending: bool,
    /// It ends now.
    over: bool,
    /// It has taken everything and asks for more.
    asks: bool,
    /// What came since it last asked, and when that was.
    waiting: usize,
    asked_at_ms: u64,
}

impl Seat {
    /// When it is dropped, unless it reads before.
    fn drop_at_ms(&self) -> Option<u64> {
        let is_owed = !self.asks && self.waiting > MAX_WAITING_BYTES;
        is_owed.then(|| self.asked_at_ms.saturating_add(TAKES_NOTHING_MS))
    }

    fn event(&self, item: &Item) -> String {
        match self.caller {
            Some(_) => event(&for_agents(item.clone())),
            None => event(item),
        }
    }

    fn is_ended_by(&self, item: &Item) -> bool {
        self.caller.as_ref().is_some_and(|caller| match &item.subject {
            Subject::Agent { agent } => *agent == caller.agent,
            Subject::Token { jti, .. } => *jti == caller.jti,
            Subject::Session { .. } | Subject::Lift { .. } => false,
        })
    }
}

/// The state. It lives as long as the object is in memory; nothing of it is stored.
#[derive(Debug, Default)]
pub struct Hub {
    seats: BTreeMap<Id, Seat>,
    last_id: Id,
    /// Up to where the last look saw; none before the first one that succeeded.
    at: Option<(String, u64)>,
    /// `recent` holds every item after this number.
    floor: u64,
    recent: VecDeque<Item>,
    failures: u32,
    look_at_ms: u64,
}

impl Hub {
    /// A new listener. Its first comment is due at once.
    ///
    /// # Errors
    /// There are too many.
    pub fn open(&mut self, now_ms: u64, listener: Listener) -> Result<Id, Full> {
        if self.seats.len() >= MAX_STREAMS {
            return Err(Full::All);
        }
        if let Some(caller) = &listener.caller {
            let own = self.seats.values().filter_map(|seat| seat.caller.as_ref());
            if own.filter(|other| other.agent == caller.agent).count() >= MAX_OF_AGENT {
                return Err(Full::Agent);
            }
        }
        if self.seats.is_empty() {
            // Nobody has looked for those who were not there.
            self.look_at_ms = now_ms;
        }
        let hour_ms = now_ms.saturating_add(MAX_AGE_MS);
        let until_ms = listener
            .caller
            .as_ref()
            .map_or(hour_ms, |caller| caller.expires_at_ms.min(hour_ms));
        self.last_id += 1;
        self.seats.insert(
            self.last_id,
            Seat {
                caller: listener.caller,
                place: listener.place,
                until_ms,
                comment_at_ms: now_ms,
                comment: true,
                ours: false,
                reset: None,
                ending: false,
                over: false,
                asks: true,
                waiting: 0,
                asked_at_ms: now_ms,
            },
        );
        Ok(self.last_id)
    }

    /// It is gone.
    pub fn close(&mut self, id: Id) {
        self.seats.remove(&id);
    }

    /// What the next look reads after; none: only where the ledger stands.
    pub fn look_from(&self) -> Option<Place> {
        self.at.as_ref().map(|(epoch, since)| Place {
            since: *since,
            epoch: Some(epoch.clone()),
        })
    }

    /// A look brought this page. Whoever may no longer listen is in `ended`.
    pub fn looked(&mut self, now_ms: u64, page: Page, ended: &[Id]) {
        self.failures = 0;
        self.look_at_ms = if page.more {
            now_ms
        } else {
            now_ms.saturating_add(LOOK_EVERY_MS)
        };
        let same = self
            .at
            .as_ref()
            .is_some_and(|(epoch, _)| *epoch == page.epoch && !page.reset);
        if !same {
            self.recent.clear();
            // What a first look, or one of another epoch, brought is read by each listener from where it is.
            self.floor = page.latest;
            for seat in self.seats.values_mut() {
                let was = seat.place.epoch.get_or_insert_with(|| page.epoch.clone());
                if *was != page.epoch || seat.place.since > page.latest {
                    start_over(seat, &page.epoch, page.latest);
                }
            }
            self.at = Some((page.epoch, page.latest));
            self.look_at_ms = now_ms.saturating_add(LOOK_EVERY_MS);
            self.end(ended);
            return;
        }
        let bytes: usize = page.items.iter().map(|item| event(item).len()).sum();
        for seat in self.seats.values_mut() {
            seat.waiting = seat.waiting.saturating_add(bytes);
        }
        self.recent.extend(page.items);
        while self.recent.len() > MAX_RECENT {
            self.floor = self.recent.pop_front().map_or(self.floor, |item| item.seq);
        }
        self.at = Some((page.epoch, page.next));
        self.end(ended);
    }

    /// A look failed. Returns those that end because it was one too many.
    pub fn look_failed(&mut self, now_ms: u64) -> Vec<(Id, Ended)> {
        self.failures += 1;
        let pause_ms = LOOK_AGAIN_MS << (self.failures - 1).min(4);
        self.look_at_ms = now_ms.saturating_add(pause_ms.min(LOOK_AGAIN_MOST_MS));
        if self.failures >= MAX_FAILED_LOOKS {
            self.failures = 0;
            let seats = std::mem::take(&mut self.seats);
            return seats.into_keys().map(|id| (id, Ended::LedgerLost)).collect();
        }
        if self.failures == 1 {
            // Told at once, not in 15 s.
            self.seats.values_mut().for_each(|seat| seat.comment = true);
        }
        Vec::new()
    }

    /// These may no longer listen: they get what there is, and then the end. Without a ledger, just the end.
    pub fn end(&mut self, ids: &[Id]) {
        for id in ids {
            if let Some(seat) = self.seats.get_mut(id) {
                seat.ending = true;
            }
        }
    }

    /// The time has come that `next_ms` named. Returns those that are dropped because they do not read. Whether to look
    /// says `look_is_due`.
    pub fn tick(&mut self, now_ms: u64) -> Vec<(Id, Ended)> {
        let mut dropped = Vec::new();
        self.seats.retain(|id, seat| {
            if seat.drop_at_ms().is_some_and(|at_ms| now_ms >= at_ms) {
                dropped.push((*id, Ended::DoesNotRead));
                return false;
            }
            if now_ms >= seat.comment_at_ms {
                seat.comment_at_ms = now_ms.saturating_add(COMMENT_EVERY_MS);
                seat.comment = true;
            }
            now_ms < seat.until_ms
        });
        dropped
    }

    /// When `tick` is due; none where nobody listens.
    pub fn next_ms(&self) -> Option<u64> {
        let due = self
            .seats
            .values()
            .map(|seat| {
                seat.until_ms
                    .min(seat.comment_at_ms)
                    .min(seat.drop_at_ms().unwrap_or(u64::MAX))
            })
            .min();
        match self.seats.is_empty() {
            true => None,
            false => Some(due.unwrap_or(u64::MAX).min(self.look_at_ms)),
        }
    }

    /// What this listener gets.
    pub fn next(&mut self, now_ms: u64, id: Id) -> Next {
        let Some(seat) = self.seats.get_mut(&id) else {
            return Next::End;
        };
        seat.waiting = 0;
        seat.asks = false;
        seat.asked_at_ms = now_ms;
        if seat.over || now_ms >= seat.until_ms {
            return Next::End;
        }
        if self.failures > 0 {
            if seat.ending {
                return Next::End;
            }
            return take_comment(seat, now_ms, DEGRADED);
        }
        let Some((epoch, latest)) = &self.at else {
            // Before the first look.
            seat.asks = true;
            return Next::Wait;
        };
        if let Some((epoch, latest)) = seat.reset.take() {
            return Next::Send(format!(
                "event: reset\nid: 0\ndata: {{\"epoch\":\"{epoch}\",\"latest\":{latest}}}\n\n"
            ));
        }
        // What it says itself may be newer than the last look: the ledger decides.
        let unsure = !seat.ours && seat.place.is_reset(epoch, *latest);
        if unsure
            || seat.place.since < self.floor
            || seat.place.epoch.as_ref().is_some_and(|own| own != epoch)
        {
            return Next::Read(seat.place.clone());
        }
        seat.ours = true;
        seat.place.epoch.get_or_insert_with(|| epoch.clone());
        let start = self.recent.partition_point(|item| item.seq <= seat.place.since);
        let mut text = String::new();
        for item in self.recent.range(start..) {
            text.push_str(&seat.event(item));
            seat.place.since = item.seq;
            seat.over |= seat.is_ended_by(item);
            if seat.over || text.len() >= PIECE_BYTES {
                break;
            }
        }
        if !text.is_empty() {
            return Next::Send(text);
        }
        seat.place.since = seat.place.since.max(*latest);
        if seat.ending {
            return Next::End;
        }
        take_comment(seat, now_ms, ALIVE)
    }

    /// The page that `Next::Read` asked for: the text of it. An empty text is not an end.
    pub fn caught_up(&mut self, id: Id, page: &Page) -> String {
        let Some(seat) = self.seats.get_mut(&id) else {
            return String::new();
        };
        if self.at.as_ref().is_none_or(|(epoch, _)| *epoch != page.epoch) {
            // The epoch has changed since the last look.
            self.look_at_ms = 0;
        }
        if page.reset {
            start_over(seat, &page.epoch, page.latest);
            return String::new();
        }
        let mut text = String::new();
        for item in &page.items {
            text.push_str(&seat.event(item));
            if seat.is_ended_by(item) {
                seat.over = true;
                break;
            }
        }
        seat.ours = true;
        seat.place = Place {
            since: page.next,
            epoch: Some(page.epoch.clone()),
        };
        text
    }

    /// The agents that listen, each stream by itself.
    pub fn callers(&self) -> Vec<(Id, AgentDid, Ulid)> {
        let callers = self
            .seats
            .iter()
            .filter_map(|(id, seat)| seat.caller.as_ref().map(|caller| (*id, caller)));
        callers
            .map(|(id, caller)| (id, caller.agent.clone(), caller.jti))
            .collect()
    }

    /// How many listen.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// Whether nobody listens.
    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
    }

    /// Whether a look is due now.
    pub fn look_is_due(&self, now_ms: u64) -> bool {
        !self.seats.is_empty() && now_ms >= self.look_at_ms
    }
}

fn start_over(seat: &mut Seat, epoch: &str, latest: u64) {
    seat.ours = true;
    seat.reset = Some((epoch.to_owned(), latest));
    seat.place = Place {
        since: 0,
        epoch: Some(epoch.to_owned()),
    };
}

fn take_comment(seat: &mut Seat, now_ms: u64, comment: &str) -> Next {
    if std::mem::take(&mut seat.comment) {
        seat.comment_at_ms = now_ms.saturating_add(COMMENT_EVERY_MS);
        return Next::Send(comment.to_owned());
    }
    seat.asks = true;
    Next::Wait
}

/// One item as a server-sent event. JSON on one line needs no more than one `data:`.
pub fn event(item: &Item) -> String {
    format!(
        "event: revocation\nid: {}\ndata: {}\n\n",
        item.seq,
        item.to_json()
    )
}

#[cfg(test)]
mod tests;

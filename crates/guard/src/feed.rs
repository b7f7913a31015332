//! How a cache is kept equal to a ledger: the decisions, over explicit time.
//!
//! Two activities run side by side and ask this module what to do next: the *reader* (`GET /v1/revocations`) and the
//! *listener* (the event stream). The `position` is the last number up to which nothing is missing. Only three things
//! move it: a complete read, a page that was asked for from it, and a pushed item with the very next number.
//!
//! - **Complete reads.** The first read goes into a set of its own, which then replaces the cache's. It is repeated
//!   once a day, to drop what the ledger has swept, and at once if the ledger's last number is below ours, because
//!   then the ledger was cut or replaced.
//! - **Epochs.** A page of another epoch, one that says `reset`, or the stream's `reset` begins a complete read, because
//!   the numbers mean other rows now. What the cache holds stays until the new set is complete.
//! - **Gaps.** If a pushed item leaves a gap, it is applied at once if it revokes something, because waiting would
//!   let the caller in. The reader then fetches everything from the position on, in order. Numbers that the ledger
//!   itself leaves out are skipped that way.
//! - **Confirmation.** A cache is *confirmed* when the ledger says that nothing comes after the position; the
//!   confirmation is dated to before the question. A push confirms nothing. So the reader asks once a minute while
//!   the stream stands, and every 5 s while it does not.
//! - **Failures** are retried after 1 s, doubling to 30 s. Each pause is shortened by up to half at random, so that
//!   sidecars do not all come back at once.
//!
//! Requests and threads are in `client`, and what a stale cache means is decided in `verify`.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};

use super::cache::{Freshness, RevocationSet};
use clawdentity_core::backoff::doubled;
use clawdentity_protocol::revocation::{Item, Page, Subject, tag};

/// How many items that were pushed ahead are held until the reader has caught up; what is over is read, not held.
const MAX_HELD: usize = 1000;
/// No pause is longer, whatever a server asks for; one that seems longer shows a clock that was set back.
const MAX_PAUSE_MS: u64 = 300_000;

/// Any value: the key of the hash is what is random.
const SEED_OF: &str = "jitter";

/// How often things are done. All in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct FeedSettings {
    /// The reader's pause while the stream stands.
    pub confirm_every_ms: u64,
    /// The reader's pause while it does not.
    pub poll_every_ms: u64,
    /// How often everything is read anew.
    pub complete_every_ms: u64,
    /// The first pause after a failure.
    pub retry_first_ms: u64,
    /// The longest pause after a failure.
    pub retry_most_ms: u64,
    /// Decides the jitter: another number for each guard, by default a random one. 0: no jitter.
    pub seed: u64,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            confirm_every_ms: 60_000,
            poll_every_ms: 5_000,
            complete_every_ms: 24 * 3_600_000,
            retry_first_ms: 1_000,
            retry_most_ms: 30_000,
            seed: random_seed(),
        }
    }
}

/// Never 0. The standard library's hashers are keyed at random, which is random enough to spread guards.
fn random_seed() -> u64 {
    RandomState::new().hash_one(SEED_OF) | 1
}

/// What the reader does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Ask for the items after this number.
    Page {
        /// `since`.
        since: u64,
        /// `If-None-Match`: the answer may be that this is still the last number.
        unless: Option<String>,
    },
    /// Nothing until then, Unix milliseconds, unless woken.
    Wait(u64),
}

/// What the listener does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Open the stream after this number.
    Open(u64),
    /// Nothing until then, Unix milliseconds, unless woken.
    Wait(u64),
}

/// What the answer to a page was.
#[derive(Debug)]
pub enum Got {
    /// A page.
    Page(Page),
    /// Still the same last number.
    Unchanged,
    /// No answer that can be used; the server may have said when to come again, milliseconds.
    Failed(Option<u64>),
}

/// What is to be done to the cache, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Add it.
    Apply(Item),
    /// Put this set in its place.
    Replace(RevocationSet),
}

/// The state.
#[derive(Debug)]
pub struct Feed {
    settings: FeedSettings,
    freshness: Freshness,
    /// What a complete read has collected, and from where it goes on.
    complete: Option<(RevocationSet, u64)>,
    /// What was pushed ahead of the position.
    held: BTreeMap<u64, Item>,
    /// The highest number that was pushed.
    seen: u64,
    asked_at_ms: u64,
    asked_from: u64,
    read_at_ms: u64,
    read_failures: u32,
    listening: bool,
    /// What the ledger's numbers belong to, as its pages say.
    ledger: String,
    /// Which ledger the listener listens to: another one after the position went back.
    epoch: u64,
    listen_at_ms: u64,
    listen_failures: u32,
    draws: u64,
}

impl Feed {
    /// A feed that knows nothing yet.
    pub fn new(settings: FeedSettings) -> Self {
        Self {
            settings,
            freshness: Freshness::default(),
            complete: Some((RevocationSet::default(), 0)),
            held: BTreeMap::new(),
            seen: 0,
            asked_at_ms: 0,
            asked_from: 0,
            read_at_ms: 0,
            read_failures: 0,
            listening: false,
            ledger: String::new(),
            epoch: 0,
            listen_at_ms: 0,
            listen_failures: 0,
            draws: 0,
        }
    }

    /// What the reader does now. Who gets a page answers with `got`.
    pub fn next_read(&mut self, now_ms: u64) -> Read {
        if let Some(at_ms) = ahead(now_ms, self.read_at_ms) {
            return Read::Wait(at_ms);
        }
        let due = self
            .freshness
            .complete_ms
            .is_none_or(|at| now_ms.abs_diff(at) >= self.settings.complete_every_ms);
        if due && self.complete.is_none() {
            self.complete = Some((RevocationSet::default(), 0));
        }
        self.asked_at_ms = now_ms;
        let position = self.freshness.position;
        let (since, unless) = match &self.complete {
            Some((_, since)) => (*since, None),
            None => (
                position,
                (self.seen <= position).then(|| tag(&self.ledger, position)),
            ),
        };
        self.asked_from = since;
        Read::Page { since, unless }
    }

    /// The answer to what `next_read` asked for.
    pub fn got(&mut self, now_ms: u64, answer: Got) -> Vec<Effect> {
        let page = match answer {
            Got::Page(page) => page,
            // Only what was asked for with a condition has such an answer.
            Got::Unchanged if self.complete.is_none() => {
                self.read_failures = 0;
                self.freshness.confirmed_ms = Some(self.asked_at_ms);
                self.rest(now_ms);
                return Vec::new();
            }
            Got::Unchanged => return self.failed(now_ms, None),
            Got::Failed(retry_after_ms) => return self.failed(now_ms, retry_after_ms),
        };
        self.read_failures = 0;
        let other = page.epoch != self.ledger;
        self.ledger.clone_from(&page.epoch);
        // Pages of two ledgers make no set. One that was begun is begun anew; what is held stays until it is complete.
        let halfway = self.complete.as_ref().is_none_or(|(_, since)| *since > 0);
        if halfway && (other || page.reset) {
            return self.start_over(now_ms);
        }
        if self.complete.is_some() {
            self.collect(now_ms, page)
        } else {
            self.follow(now_ms, page)
        }
    }

    fn failed(&mut self, now_ms: u64, retry_after_ms: Option<u64>) -> Vec<Effect> {
        self.read_failures = self.read_failures.saturating_add(1);
        let pause_ms = self.pause_ms(self.read_failures).max(retry_after_ms.unwrap_or(0));
        self.read_at_ms = now_ms.saturating_add(pause_ms.min(MAX_PAUSE_MS));
        Vec::new()
    }

    /// A page of a complete read.
    fn collect(&mut self, now_ms: u64, page: Page) -> Vec<Effect> {
        let Some((mut set, since)) = self.complete.take() else {
            return Vec::new();
        };
        // The ledger was cut while it was read.
        let cut = page.latest < since || page.next < since;
        if cut {
            return self.start_over(now_ms);
        }
        page.items.iter().for_each(|item| set.apply(item));
        if page.more {
            self.complete = Some((set, page.next));
            self.read_at_ms = now_ms;
            return Vec::new();
        }
        if page.next < self.freshness.position {
            self.go_back();
        }
        self.freshness.position = page.next;
        self.freshness.confirmed_ms = Some(self.asked_at_ms);
        self.freshness.complete_ms = Some(self.asked_at_ms);
        let mut effects = vec![Effect::Replace(set)];
        self.held.retain(|seq, _| *seq > page.next);
        // The set was read before these came.
        effects.extend(
            self.held
                .values()
                .filter(|item| revokes(item))
                .cloned()
                .map(Effect::Apply),
        );
        self.rest(now_ms);
        effects
    }

    /// A page after the position.
    fn follow(&mut self, now_ms: u64, page: Page) -> Vec<Effect> {
        let position = self.freshness.position;
        if page.latest < self.asked_from {
            return self.start_over(now_ms);
        }
        let effects = page
            .items
            .into_iter()
            .filter(|item| item.seq > position)
            .map(Effect::Apply)
            .collect();
        // The stream may have gone further while the page was on its way.
        self.freshness.position = position.max(page.next);
        self.held.retain(|seq, _| *seq > page.next);
        if page.more {
            self.read_at_ms = now_ms;
        } else {
            self.freshness.confirmed_ms = Some(self.asked_at_ms);
            self.rest(now_ms);
        }
        effects
    }

    fn start_over(&mut self, now_ms: u64) -> Vec<Effect> {
        self.complete = Some((RevocationSet::default(), 0));
        self.go_back();
        // A ledger that answers so each time is not asked in a loop.
        self.read_failures = 1;
        self.read_at_ms = now_ms.saturating_add(self.pause_ms(1));
        Vec::new()
    }

    /// What was pushed was of another ledger; so is the stream, which waits for numbers that may never come.
    fn go_back(&mut self) {
        self.held.clear();
        self.seen = 0;
        self.epoch += 1;
        self.listening = false;
    }

    /// Sets the reader's next time after it has got everything that there was.
    fn rest(&mut self, now_ms: u64) {
        let pause_ms = if self.seen > self.freshness.position {
            // More was pushed than the ledger showed: ask again soon.
            self.settings.retry_first_ms
        } else if self.listening {
            self.settings.confirm_every_ms
        } else {
            self.settings.poll_every_ms
        };
        self.read_at_ms = now_ms.saturating_add(pause_ms.min(MAX_PAUSE_MS));
    }

    /// What the listener does now. Who opens a stream says `opened` or `ended`.
    pub fn next_listen(&self, now_ms: u64) -> Listen {
        if self.freshness.complete_ms.is_none() {
            // Woken by the first complete read.
            Listen::Wait(now_ms.saturating_add(self.settings.retry_first_ms))
        } else if let Some(at_ms) = ahead(now_ms, self.listen_at_ms) {
            Listen::Wait(at_ms)
        } else {
            Listen::Open(self.freshness.position)
        }
    }

    /// The stream stands. It is to be closed once `epoch` is no longer what it was.
    pub fn opened(&mut self, now_ms: u64) {
        self.listening = true;
        // What came between the last page and this moment is pushed, or read now.
        self.read_at_ms = self.read_at_ms.min(now_ms);
    }

    /// What the numbers of the ledger belong to that the position is one of, as the proxy says; empty before the first page.
    pub fn ledger(&self) -> &str {
        &self.ledger
    }

    /// Which ledger is listened to.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The stream lives: it brought something, if only a comment.
    pub fn alive(&mut self) {
        self.listen_failures = 0;
    }

    /// The proxy cannot read its ledger at the moment: it lives, and nothing is confirmed.
    pub fn degraded(&mut self, now_ms: u64) {
        self.alive();
        self.read_at_ms = self
            .read_at_ms
            .min(now_ms.saturating_add(self.settings.poll_every_ms));
    }

    /// The stream says that its numbers start over: everything is read anew.
    pub fn reset(&mut self, now_ms: u64) {
        self.alive();
        self.complete = Some((RevocationSet::default(), 0));
        self.go_back();
        self.read_at_ms = now_ms;
    }

    /// The stream ended or never stood.
    pub fn ended(&mut self, now_ms: u64, retry_after_ms: Option<u64>) {
        let stood = std::mem::take(&mut self.listening);
        self.listen_failures = self.listen_failures.saturating_add(1);
        let pause_ms = self
            .pause_ms(self.listen_failures)
            .max(retry_after_ms.unwrap_or(0));
        self.listen_at_ms = now_ms.saturating_add(pause_ms.min(MAX_PAUSE_MS));
        // Polling takes over; what the stream did not bring is asked for at once.
        if self.read_failures == 0 {
            let wait_ms = if stood { 0 } else { self.settings.poll_every_ms };
            self.read_at_ms = self.read_at_ms.min(now_ms.saturating_add(wait_ms));
        }
    }

    /// The stream brought an item. Afterwards the reader is to be asked again what it does.
    pub fn pushed(&mut self, now_ms: u64, item: Item) -> Option<Effect> {
        self.alive();
        let (seq, position) = (item.seq, self.freshness.position);
        if seq <= position {
            return None;
        }
        self.freshness.pushed_ms = Some(now_ms);
        self.seen = self.seen.max(seq);
        let reading = self.complete.is_some();
        if seq == position + 1 && !reading {
            self.freshness.position = seq;
            self.held.remove(&seq);
            return Some(Effect::Apply(item));
        }
        if self.held.len() < MAX_HELD {
            self.held.insert(seq, item.clone());
        }
        if !reading && self.read_failures == 0 {
            self.read_at_ms = self.read_at_ms.min(now_ms);
        }
        // A lift must not overtake what it lifts: it waits for the reader.
        revokes(&item).then_some(Effect::Apply(item))
    }

    /// How true the cache is, once all effects are in it.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// The pause after so many failures in a row.
    fn pause_ms(&mut self, failures: u32) -> u64 {
        let whole = doubled(
            self.settings.retry_first_ms,
            self.settings.retry_most_ms,
            failures,
        );
        if self.settings.seed == 0 {
            return whole;
        }
        self.draws = self.draws.wrapping_add(1);
        whole - mix(self.settings.seed ^ self.draws.rotate_left(32)) % (whole / 2 + 1)
    }
}

/// The moment, where it lies ahead, and not so far that the clock must have been set back since.
fn ahead(now_ms: u64, at_ms: u64) -> Option<u64> {
    let wait_ms = at_ms.saturating_sub(now_ms);
    (1..=MAX_PAUSE_MS).contains(&wait_ms).then_some(at_ms)
}

fn revokes(item: &Item) -> bool {
    !matches!(item.subject, Subject::Lift { .. })
}

/// splitmix64: spreads sidecars, keeps no secret.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests;

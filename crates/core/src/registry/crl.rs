//! The polled CRL: which list counts, and when it is asked for (docs/design.md §4 and docs/wire.md §4.2).
//!
//! * A list is fresh for `ages.fresh_ms`, and is served while it is refreshed until `ages.stale_ms`.
//! * `CRL_NOT_FOUND` is an answer, "nothing has been revoked yet", and is remembered like one.
//! * **The list never goes back.** A list that was signed earlier than the one held is not an answer. "Nothing has
//!   been revoked yet", which nobody signed, does not end a signed list before that list is dead. So a cache between
//!   us and the registry that keeps an old answer can make a list stale, which shows in the log, but cannot undo a
//!   revocation.
//! * A cold isolate waits for its first list with one call at a time. A request that finds a call under way looks
//!   again every `LOOK_AGAIN_MS` by its own timer, because it cannot await another request's promise, and asks for
//!   itself if nothing came for `patience_ms`. So a list of 32 MiB is in memory as text once, and not once for each
//!   request of a busy first second.
//! * Where no list counts, `Gone` says why and hands over the last list: what it lists is still revoked, and what it
//!   does not list is unknown.
//! * A list that is too large is not asked for again for `ages.fresh_ms`.
//!
//! `V` is the parsed list and cheap to clone. Verifying a list, and applying `CRL_STALE_BEHAVIOR`, is done elsewhere.

use clawdentity_protocol::proof::MAX_SKEW_SECONDS;
use serde::Deserialize;

use super::answer;
use super::consult::{self, Decision};
use crate::cache::{Ages, Look, Refresh, Slot};
use crate::circuit::{Circuit, CircuitSettings, FailureKind, Outcome, Permit};
use crate::provenance::Provenance;

/// How long a caller waits before it looks again for the answer to another request's call.
pub const LOOK_AGAIN_MS: u64 = 25;

/// The figures that these decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrlSettings {
    /// Of a list.
    pub ages: Ages,
    /// See `Cache::new`.
    pub claim_ms: u64,
    /// How long a cold isolate leaves its first list to one call.
    pub patience_ms: u64,
    /// Of the circuit.
    pub circuit: CircuitSettings,
}

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum CrlDecision<V> {
    /// Look in this one.
    Serve {
        /// `None`: nothing revoked yet.
        list: Option<V>,
        /// What this decision rests on.
        provenance: Provenance,
        /// Ask again in the background under this permit.
        refresh: Option<Permit>,
    },
    /// Ask the registry and wait.
    Ask(Permit),
    /// Another request is asking: look again in `LOOK_AGAIN_MS`.
    Wait,
    /// No list counts.
    Gone {
        /// The last list, which is dead.
        last: Option<V>,
        /// Why there is none.
        cause: Missing,
    },
}

/// Why no list counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The circuit is open.
    CircuitOpen {
        /// When a call is made again.
        retry_after_ms: u64,
    },
    /// The registry's list is over the limit.
    TooLarge,
}

/// What the registry said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<V> {
    /// A list that verified.
    List {
        list: V,
        /// Its `iat`, Unix seconds.
        iat_s: u64,
    },
    /// 404 `CRL_NOT_FOUND`.
    Nothing,
    /// 304 to a question with the tag of the list held.
    NotModified,
    /// A list over the limit.
    TooLarge,
    /// No answer; this is what the circuit makes of it.
    None(Outcome),
}

/// What became of an answer. Everything but `Taken` and `None` is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// It is the list now.
    Taken,
    /// It was signed earlier than the one that is held.
    OlderThanHeld,
    /// Its date lies ahead: believed, it would make every list after it an older one.
    FromTheFuture,
    /// "Nothing revoked yet", while a signed list is held.
    NothingWhileHeld,
    /// It is over the limit.
    TooLarge,
    /// There was no answer, or one to an earlier question than the one that was answered.
    None,
}

/// The state of the list, for `/health` and the operator's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This isolate never had one.
    Never,
    /// It is served without asking.
    Fresh,
    /// It is served while it is refreshed.
    Stale,
    /// It no longer counts.
    Dead,
}

impl Standing {
    /// For `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Dead => "dead",
        }
    }
}

/// `None`: nothing revoked yet.
#[derive(Clone, Debug)]
struct Listed<V> {
    list: Option<V>,
    /// Of the latest signed list so far, Unix seconds.
    iat_s: u64,
}

#[derive(Debug)]
pub struct CrlDesk<V> {
    settings: CrlSettings,
    slot: Slot<Listed<V>>,
    circuit: Circuit,
    too_large_at_ms: Option<u64>,
}

impl<V: Clone> CrlDesk<V> {
    /// The state without a list.
    pub fn new(settings: CrlSettings) -> Self {
        Self {
            settings,
            slot: Slot::new(),
            circuit: Circuit::new(settings.circuit),
            too_large_at_ms: None,
        }
    }

    /// What to do now.
    pub fn decide(&mut self, now_ms: u64) -> CrlDecision<V> {
        let mut found = self.slot.look(now_ms, self.settings.claim_ms);
        match &mut found {
            Look::Fetch if self.too_large(now_ms) => return self.gone(Missing::TooLarge),
            Look::Fetch if !self.slot.claim(now_ms, self.settings.patience_ms) => return CrlDecision::Wait,
            Look::Stale { refresh, .. } if self.too_large(now_ms) => *refresh = Refresh::Claimed,
            _ => {}
        }
        match consult::decide(found, &mut self.circuit, now_ms) {
            Decision::Serve {
                value,
                provenance,
                refresh,
            } => CrlDecision::Serve {
                list: value.list,
                provenance,
                refresh,
            },
            Decision::Ask(permit) => CrlDecision::Ask(permit),
            Decision::Unavailable { retry_after_ms } => {
                self.slot.release();
                self.gone(Missing::CircuitOpen { retry_after_ms })
            }
        }
    }

    /// Takes the registry's answer to the question asked at `asked_at_ms`.
    pub fn answered(&mut self, permit: Permit, asked_at_ms: u64, answer: Answer<V>, now_ms: u64) -> Note {
        let alive = self.slot.serves(now_ms);
        let (outcome, note) = match answer {
            Answer::List { iat_s, .. } if iat_s > (now_ms / 1000).saturating_add(MAX_SKEW_SECONDS) => {
                (failed(FailureKind::Body), Note::FromTheFuture)
            }
            // A dead list says nothing about what may take its place.
            Answer::List { list, iat_s } => match self.slot.last() {
                Some(held) if held.iat_s > iat_s && alive => (failed(FailureKind::Body), Note::OlderThanHeld),
                _ => (
                    Outcome::Success,
                    self.take(
                        Listed {
                            list: Some(list),
                            iat_s,
                        },
                        asked_at_ms,
                    ),
                ),
            },
            Answer::Nothing => match self.slot.last() {
                Some(held) if held.list.is_some() && alive => (Outcome::Success, Note::NothingWhileHeld),
                _ => (
                    Outcome::Success,
                    self.take(Listed { list: None, iat_s: 0 }, asked_at_ms),
                ),
            },
            Answer::NotModified => match self.slot.last().cloned() {
                Some(held) => (Outcome::Success, self.take(held, asked_at_ms)),
                None => (failed(FailureKind::Status), Note::None),
            },
            Answer::TooLarge => {
                self.too_large_at_ms = Some(now_ms);
                (Outcome::Success, Note::TooLarge)
            }
            Answer::None(outcome) => (outcome, Note::None),
        };
        self.circuit.report(permit, outcome, now_ms);
        if !alive && note != Note::Taken {
            // Who waits for the first list asks next, at once: through the circuit, one after the other.
            self.slot.release();
        }
        note
    }

    /// The last list, dead or alive: what it lists is revoked, what it does not list is unknown.
    pub fn last(&self) -> Option<V> {
        self.slot.last().and_then(|held| held.list.clone())
    }

    /// The state of the list. Changes nothing.
    pub fn standing(&self, now_ms: u64) -> Standing {
        match self.age_ms(now_ms) {
            None => Standing::Never,
            Some(age_ms) if age_ms < self.settings.ages.fresh_ms => Standing::Fresh,
            Some(age_ms) if age_ms < self.settings.ages.stale_ms => Standing::Stale,
            Some(_) => Standing::Dead,
        }
    }

    /// How old the list is; none where there never was one.
    pub fn age_ms(&self, now_ms: u64) -> Option<u64> {
        self.slot.as_of_ms().map(|at_ms| now_ms.saturating_sub(at_ms))
    }

    /// The circuit, for its transitions and the status page.
    pub fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }

    fn too_large(&self, now_ms: u64) -> bool {
        let age_ms = self.too_large_at_ms.and_then(|at_ms| now_ms.checked_sub(at_ms));
        age_ms.is_some_and(|age_ms| age_ms < self.settings.ages.fresh_ms)
    }

    fn gone(&self, cause: Missing) -> CrlDecision<V> {
        CrlDecision::Gone {
            last: self.last(),
            cause,
        }
    }

    fn take(&mut self, listed: Listed<V>, asked_at_ms: u64) -> Note {
        if self.slot.put(listed, asked_at_ms, self.settings.ages) {
            Note::Taken
        } else {
            Note::None
        }
    }
}

/// Whether a 404's body says that nothing has been revoked yet. Any other 404 is not an answer to this question.
pub fn says_not_found(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        code: String,
    }
    answer::parse_object::<Body>(body).is_some_and(|body| body.error.code == "CRL_NOT_FOUND")
}

fn failed(kind: FailureKind) -> Outcome {
    Outcome::Failure {
        kind,
        retry_after_ms: None,
    }
}

#[cfg(test)]
mod tests;

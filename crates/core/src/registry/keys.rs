//! The registry's signing keys: which are active, and when they are asked for (docs/design.md §4 and docs/wire.md
//! §4.1).
//!
//! * Keys are fresh and stale like every answer. Where memory has nothing that may be served, the copy in D1 is read
//!   first, under the same ages. So a fresh isolate works during an outage, and does not ask a working registry for
//!   what is known.
//! * A `kid` that is not among the keys earns one refresh in each cool-down, shared by all such `kid`s. So `kid`s
//!   that are made up do not become a request each, and a rotation is found within the cool-down. A caller that comes
//!   while that refresh is under way waits a little (`KidDecision::Wait`), because the key may be there in a moment.
//! * If that refresh fails, nobody knows whether the `kid` is a new one. Until the cool-down is over the answer is
//!   therefore "unavailable" and not a refusal. The copy in D1 may still have the key, if another isolate asked
//!   before the registry went down. It is read at most once in `DURABLE_AGAIN_MS`, because a stranger can make up
//!   `kid`s by the thousand.
//!
//! `V` is the parsed key set and cheap to clone. Parsing it is done elsewhere.

use super::consult::{self, Decision};
use crate::cache::{Ages, Look, Slot};
use crate::circuit::{Circuit, CircuitSettings, Outcome, Permit};
use crate::provenance::{Provenance, Source};

/// How long a caller waits before it looks again for the result of another request's refresh.
pub const LOOK_AGAIN_MS: u64 = 25;

/// How often the copy in D1 is read for a `kid` that the registry could not be asked about.
pub const DURABLE_AGAIN_MS: u64 = 1_000;

/// How often an isolate looks whether another one has fetched newer keys.
pub const FOLLOW_EVERY_MS: u64 = 25_000;

/// A copy that says that it was fetched later than this from now was dated by a wrong clock.
pub const MAX_AHEAD_MS: u64 = 60_000;

/// When a copy counts as fetched that says that it was fetched at `fetched_at_ms`. A date that lies ahead gives it no
/// fresh age.
pub fn dated_ms(fetched_at_ms: u64, now_ms: u64, fresh_ms: u64) -> u64 {
    match fetched_at_ms > now_ms.saturating_add(MAX_AHEAD_MS) {
        true => now_ms.saturating_sub(fresh_ms),
        false => fetched_at_ms,
    }
}

/// The figures that these decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysSettings {
    /// Of a key set.
    pub ages: Ages,
    /// Between two refreshes for an unknown `kid`.
    pub cooldown_ms: u64,
    /// See `Cache::new`; also how long a refresh for a `kid` is waited for.
    pub claim_ms: u64,
    /// Of the circuit.
    pub circuit: CircuitSettings,
}

/// What to do with a request that needs keys.
#[derive(Debug, PartialEq, Eq)]
pub enum KeysDecision<V> {
    /// Serve these.
    Serve {
        value: V,
        /// What this decision rests on.
        provenance: Provenance,
        /// Ask again in the background under this permit.
        refresh: Option<Permit>,
    },
    /// Read the copy in D1, hand it over by `take_over`, decide again.
    ReadDurable,
    /// Ask the registry and wait.
    Ask(Permit),
    /// There is nothing to serve, and the registry may not be asked now.
    Unavailable {
        /// When it may be asked again.
        retry_after_ms: u64,
    },
}

/// What to do about a `kid` that is not among the keys.
#[derive(Debug, PartialEq, Eq)]
pub enum KidDecision {
    /// Ask the registry and wait.
    Refresh(Permit),
    /// It was asked within the cool-down: there is no more than what is held.
    CoolingDown,
    /// Another request is asking: look again in `LOOK_AGAIN_MS`.
    Wait,
    /// It could not be asked within the cool-down, so nobody knows.
    Unavailable {
        /// When it may be asked again.
        retry_after_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KidRefresh {
    Out,
    Answered,
    Failed,
}

/// What to do about the copy in D1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KidCopy {
    Read,
    /// Another request is reading it: look again in `LOOK_AGAIN_MS`.
    BeingRead,
    /// It was read within `DURABLE_AGAIN_MS`: there is no more than what is held.
    JustRead,
}

#[derive(Debug)]
pub struct KeysDesk<V> {
    settings: KeysSettings,
    slot: Slot<V>,
    circuit: Circuit,
    kid_refresh: Option<(u64, KidRefresh)>,
    /// When the copy in D1 was last read for a `kid`, and whether that is over.
    durable_for_kid: Option<(u64, bool)>,
    /// When the copy in D1 was last looked at beside a request.
    followed_at_ms: Option<u64>,
}

impl<V: Clone> KeysDesk<V> {
    /// The state without keys.
    pub fn new(settings: KeysSettings) -> Self {
        Self {
            settings,
            slot: Slot::new(),
            circuit: Circuit::new(settings.circuit),
            kid_refresh: None,
            durable_for_kid: None,
            followed_at_ms: None,
        }
    }

    /// What to do now. `durable_read`: this request has read the copy in D1 already. Each request reads for
    /// itself, so that none asks a registry that is down while another is still reading.
    pub fn decide(&mut self, durable_read: bool, now_ms: u64) -> KeysDecision<V> {
        let found = self.slot.look(now_ms, self.settings.claim_ms);
        if matches!(found, Look::Fetch) && !durable_read {
            return KeysDecision::ReadDurable;
        }
        match consult::decide(found, &mut self.circuit, now_ms) {
            Decision::Serve {
                value,
                provenance,
                refresh,
            } => KeysDecision::Serve {
                value,
                provenance,
                refresh,
            },
            Decision::Ask(permit) => KeysDecision::Ask(permit),
            Decision::Unavailable { retry_after_ms } => KeysDecision::Unavailable { retry_after_ms },
        }
    }

    /// Takes the copy in D1, as fetched at `fetched_at_ms`, and then decides like `decide`.
    pub fn take_over(&mut self, copy: V, fetched_at_ms: u64, now_ms: u64) -> KeysDecision<V> {
        let taken = self.slot.put(copy, fetched_at_ms, self.settings.ages);
        match self.decide(true, now_ms) {
            KeysDecision::Serve {
                value,
                provenance,
                refresh,
            } if taken => {
                let provenance = Provenance {
                    source: Source::Durable,
                    ..provenance
                };
                KeysDecision::Serve {
                    value,
                    provenance,
                    refresh,
                }
            }
            other => other,
        }
    }

    /// Leave to ask the registry now, whatever is held: on schedule, or at an operator's word.
    ///
    /// # Errors
    /// The circuit is open: when a call is made again, in milliseconds.
    pub fn ask_now(&mut self, now_ms: u64) -> Result<Permit, u64> {
        self.circuit.ask(now_ms).map_err(|refused| refused.retry_after_ms)
    }

    /// Whether the copy in D1 is to be looked at, beside a request that is served already: at most once in
    /// `FOLLOW_EVERY_MS`, so that every isolate follows a refresh that another one made.
    pub fn follow_due(&mut self, now_ms: u64) -> bool {
        let age_ms = self.followed_at_ms.and_then(|at_ms| now_ms.checked_sub(at_ms));
        let due = age_ms.is_none_or(|age_ms| age_ms >= FOLLOW_EVERY_MS);
        if due {
            self.followed_at_ms = Some(now_ms);
        }
        due
    }

    /// What to do about a `kid` that is not among the keys.
    pub fn unknown_kid(&mut self, now_ms: u64) -> KidDecision {
        if let Some((at_ms, refresh)) = self.kid_refresh {
            let age_ms = now_ms.checked_sub(at_ms);
            if let Some(age_ms) = age_ms.filter(|age_ms| *age_ms < self.settings.cooldown_ms) {
                let retry_after_ms = self.settings.cooldown_ms - age_ms;
                return match refresh {
                    KidRefresh::Answered => KidDecision::CoolingDown,
                    KidRefresh::Out if age_ms < self.settings.claim_ms => KidDecision::Wait,
                    KidRefresh::Out | KidRefresh::Failed => KidDecision::Unavailable { retry_after_ms },
                };
            }
        }
        match self.circuit.ask(now_ms) {
            Ok(permit) => {
                self.kid_refresh = Some((now_ms, KidRefresh::Out));
                KidDecision::Refresh(permit)
            }
            Err(refused) => KidDecision::Unavailable {
                retry_after_ms: refused.retry_after_ms,
            },
        }
    }

    /// The registry could not be asked about a `kid`: whether to read the copy in D1 for it now. A caller that is told
    /// to read reports with `durable_was_read` that it did.
    pub fn durable_for_kid(&mut self, now_ms: u64) -> KidCopy {
        let lately = self.durable_for_kid.filter(|(at_ms, _)| {
            now_ms
                .checked_sub(*at_ms)
                .is_some_and(|age_ms| age_ms < DURABLE_AGAIN_MS)
        });
        match lately {
            Some((_, true)) => KidCopy::JustRead,
            Some((_, false)) => KidCopy::BeingRead,
            None => {
                self.durable_for_kid = Some((now_ms, false));
                KidCopy::Read
            }
        }
    }

    /// See `durable_for_kid`.
    pub fn durable_was_read(&mut self) {
        if let Some((_, over)) = &mut self.durable_for_kid {
            *over = true;
        }
    }

    /// Takes that copy, as fetched at `fetched_at_ms`. It replaces what is held if it is later.
    pub fn take_over_for_kid(&mut self, copy: V, fetched_at_ms: u64, now_ms: u64) -> Option<(V, Provenance)> {
        if self
            .slot
            .as_of_ms()
            .is_some_and(|held_ms| held_ms >= fetched_at_ms)
        {
            return None;
        }
        let taken = self.slot.put(copy.clone(), fetched_at_ms, self.settings.ages);
        (taken && self.slot.serves(now_ms)).then_some((
            copy,
            Provenance {
                source: Source::Durable,
                age_ms: now_ms.saturating_sub(fetched_at_ms),
            },
        ))
    }

    /// Takes the registry's answer to the question asked at `asked_at_ms`: a valid key set, or what the circuit
    /// makes of its absence. Returns whether it is the latest, and so must be written to D1.
    pub fn answered(
        &mut self,
        permit: Permit,
        asked_at_ms: u64,
        answer: Result<V, Outcome>,
        now_ms: u64,
    ) -> bool {
        // Any answer to a question asked since then is as good as the one to the refresh itself.
        let concerns_kid = self.kid_refresh.filter(|(at_ms, _)| *at_ms <= asked_at_ms);
        match answer {
            Ok(value) => {
                self.circuit.report(permit, Outcome::Success, now_ms);
                if let Some((at_ms, _)) = concerns_kid {
                    self.kid_refresh = Some((at_ms, KidRefresh::Answered));
                }
                self.slot.put(value, asked_at_ms, self.settings.ages)
            }
            Err(outcome) => {
                self.circuit.report(permit, outcome, now_ms);
                if let Some((at_ms, KidRefresh::Out)) = concerns_kid {
                    self.kid_refresh = Some((at_ms, KidRefresh::Failed));
                }
                false
            }
        }
    }

    /// When the keys held were asked for; `None` where there are none.
    pub fn as_of_ms(&self) -> Option<u64> {
        self.slot.as_of_ms()
    }

    /// The keys held, however old, and when they were asked for.
    pub fn held(&self) -> Option<(&V, u64)> {
        Some((self.slot.last()?, self.slot.as_of_ms()?))
    }

    /// The circuit, for its transitions and the status page.
    pub fn circuit(&mut self) -> &mut Circuit {
        &mut self.circuit
    }
}

#[cfg(test)]
mod tests;

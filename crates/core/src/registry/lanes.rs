//! The lanes on which one dependency of the registry is asked: one for what was confirmed before, and for what was not,
//! one for callers that are known here and one for strangers.
//!
//! What was never confirmed may be made up. So nothing that is asked on one lane can close another: each has its own
//! circuit and its own number of questions that may be without a yes at a time. On each:
//!
//! - A yes costs nothing. A question counts until it is answered, and a no counts for a minute, so that honest callers may
//!   ask as much as they like and whoever makes things up may not.
//! - One caller may have no more of these places than there are left for all others. So the first to come cannot take all
//!   of them, and there is one left for a caller that has asked nothing yet.
//! - A 429 says that somebody asks too much. It holds up the caller that met it, longer each time, and counts once a minute
//!   for the circuit, so that no single caller can open a lane's circuit by it. All other failures say that the registry
//!   fails, and always count.
//!
//! A `Pass` is the right to make one call. One that is never reported, because its request was cancelled, counts no longer
//! than `LOST_AFTER_MS`.

use std::collections::VecDeque;

use crate::backoff::doubled;
use crate::circuit::{Circuit, CircuitSettings, FailureKind, Outcome, Permit, Phase};

/// For how long a no counts.
pub const WINDOW_MS: u64 = 60_000;
/// Questions without a yes, by lane. Those about what was not confirmed are few: the registry takes 120 validations a
/// minute from one address (docs/wire.md §4).
pub const MOST: [usize; 3] = [600, 60, 30];
/// When it is worth looking again where only unanswered questions are in the way.
pub const BUSY_MS: u64 = 100;
/// Longer than any call may take.
const LOST_AFTER_MS: u64 = 10_000;
/// How long the second 429 in a row holds up its caller. It doubles, up to the circuit's pause.
const HELD_MS: u64 = 1_000;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The registry said yes to this very question before.
    Confirmed,
    /// It never did, but the caller has a pair here, or the registry has said yes about it.
    Known,
    /// Neither.
    Stranger,
}

impl Lane {
    /// For log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Known => "known",
            Self::Stranger => "stranger",
        }
    }
}

/// Who asks: the ULID of the agent.
pub type Caller = u128;

/// The right to make one call. Hand it back with `report`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call is made under it, and what came of it reported with it"]
pub struct Pass {
    lane: Lane,
    caller: Caller,
    number: u64,
    permit: Permit,
}

impl Pass {
    /// On which lane the call is made.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

/// No call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotNow {
    /// When it is worth asking again, in milliseconds; at least 1.
    pub retry_after_ms: u64,
    pub cause: NotAsked,
}

/// Why the registry is not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAsked {
    /// The lane's circuit is open.
    CircuitOpen,
    /// The lane, or the caller's share of it, is full.
    TooMany,
    /// The registry has told this caller to stop asking.
    Held,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Yes,
    No,
    /// Neither; this is what the circuit makes of it.
    Nothing(Outcome),
}

/// See the module.
#[derive(Debug)]
pub struct Lanes([Track; 3]);

#[derive(Debug)]
struct Track {
    settings: CircuitSettings,
    circuit: Circuit,
    most: usize,
    next_number: u64,
    /// At most `most`, oldest first.
    asked: VecDeque<Asked>,
    /// Callers that met a 429 within the window; at most as many as there are places.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Asked {
    number: u64,
    caller: Caller,
    at_ms: u64,
    /// Not answered yet; otherwise the answer was no.
    is_out: bool,
}

#[derive(Debug)]
struct Held {
    caller: Caller,
    counted_at_ms: u64,
    last_at_ms: u64,
    in_a_row: u32,
    until_ms: u64,
}

impl Lanes {
    /// All closed and empty.
    pub fn new(circuit: CircuitSettings) -> Self {
        Self(MOST.map(|most| Track::new(circuit, most)))
    }

    /// Asks for the right to make a call now.
    ///
    /// # Errors
    /// Not now.
    pub fn ask(&mut self, lane: Lane, caller: Caller, now_ms: u64) -> Result<Pass, NotNow> {
        let track = self.track(lane);
        track.room(caller, now_ms)?;
        let permit = track.circuit.ask(now_ms).map_err(|refused| NotNow {
            retry_after_ms: refused.retry_after_ms,
            cause: NotAsked::CircuitOpen,
        })?;
        let number = track.next_number;
        track.next_number = number.wrapping_add(1);
        track.asked.push_back(Asked {
            number,
            caller,
            at_ms: now_ms,
            is_out: true,
        });
        Ok(Pass {
            lane,
            caller,
            number,
            permit,
        })
    }

    /// Reports what came of the call under `pass`.
    pub fn report(&mut self, pass: Pass, said: Said, now_ms: u64) {
        let Pass {
            lane,
            caller,
            number,
            permit,
        } = pass;
        let track = self.track(lane);
        match said {
            Said::No => {
                if let Some(asked) = track.asked.iter_mut().find(|asked| asked.number == number) {
                    asked.is_out = false;
                }
            }
            Said::Yes | Said::Nothing(_) => track.asked.retain(|asked| asked.number != number),
        }
        let outcome = match said {
            Said::Yes | Said::No => Outcome::Success,
            Said::Nothing(outcome) => outcome,
        };
        let counts = match outcome {
            Outcome::Failure {
                kind: FailureKind::TooMany,
                retry_after_ms,
            } => track.hold(caller, retry_after_ms, now_ms),
            _ => true,
        };
        // A probe's answer always counts: nothing else closes or opens a circuit that is half-open.
        let counts = counts || track.circuit.phase() != Phase::Closed;
        let outcome = if counts { outcome } else { Outcome::Inconclusive };
        track.circuit.report(permit, outcome, now_ms);
    }

    /// The circuits, for their transitions and the status page.
    pub fn circuits(&mut self) -> [(Lane, &mut Circuit); 3] {
        let [confirmed, known, stranger] = &mut self.0;
        [
            (Lane::Confirmed, &mut confirmed.circuit),
            (Lane::Known, &mut known.circuit),
            (Lane::Stranger, &mut stranger.circuit),
        ]
    }

    fn track(&mut self, lane: Lane) -> &mut Track {
        let [confirmed, known, stranger] = &mut self.0;
        match lane {
            Lane::Confirmed => confirmed,
            Lane::Known => known,
            Lane::Stranger => stranger,
        }
    }
}

impl Track {
    fn new(settings: CircuitSettings, most: usize) -> Self {
        Self {
            settings,
            circuit: Circuit::new(settings),
            most,
            next_number: 0,
            asked: VecDeque::new(),
            held: VecDeque::new(),
        }
    }

    /// Whether there is a place for one more question of this caller.
    fn room(&mut self, caller: Caller, now_ms: u64) -> Result<(), NotNow> {
        let age = |at_ms: u64| now_ms.checked_sub(at_ms);
        // What lies ahead is of a clock that was set back.
        self.asked.retain(|asked| {
            let counts_for_ms = if asked.is_out { LOST_AFTER_MS } else { WINDOW_MS };
            age(asked.at_ms).is_some_and(|age_ms| age_ms < counts_for_ms)
        });
        self.held.retain(|held| {
            held.until_ms > now_ms || age(held.last_at_ms).is_some_and(|age_ms| age_ms < WINDOW_MS)
        });
        let too_many = |retry_after_ms: u64| {
            Err(NotNow {
                retry_after_ms: retry_after_ms.max(1),
                cause: NotAsked::TooMany,
            })
        };
        let longest_ms = self.settings.pause_ms.max(self.settings.max_pause_ms);
        let held_ms = self.held.iter().find(|held| held.caller == caller);
        let held_ms = held_ms.map_or(0, |held| held.until_ms.saturating_sub(now_ms).min(longest_ms));
        if held_ms > 0 {
            return Err(NotNow {
                retry_after_ms: held_ms,
                cause: NotAsked::Held,
            });
        }
        let own = self.asked.iter().filter(|asked| asked.caller == caller).count();
        if own < self.most.saturating_sub(self.asked.len()) {
            return Ok(());
        }
        if self.asked.iter().any(|asked| asked.is_out) {
            return too_many(BUSY_MS);
        }
        let oldest_ms = self.asked.front().map_or(now_ms, |asked| asked.at_ms);
        too_many(oldest_ms.saturating_add(WINDOW_MS).saturating_sub(now_ms))
    }

    /// A caller met a 429. Returns whether that counts as a failure.
    fn hold(&mut self, caller: Caller, retry_after_ms: Option<u64>, now_ms: u64) -> bool {
        let asked_for_ms = retry_after_ms.unwrap_or(0).min(self.settings.max_pause_ms);
        let Some(held) = self.held.iter_mut().find(|held| held.caller == caller) else {
            if self.held.len() >= self.most {
                self.held.pop_front();
            }
            self.held.push_back(Held {
                caller,
                counted_at_ms: now_ms,
                last_at_ms: now_ms,
                in_a_row: 0,
                until_ms: now_ms.saturating_add(asked_for_ms),
            });
            return true;
        };
        held.in_a_row = held.in_a_row.saturating_add(1);
        let held_ms = doubled(HELD_MS, self.settings.pause_ms, held.in_a_row).max(asked_for_ms);
        held.until_ms = held.until_ms.max(now_ms.saturating_add(held_ms));
        held.last_at_ms = now_ms;
        let counts = now_ms.saturating_sub(held.counted_at_ms) > self.settings.window_ms;
        if counts {
            held.counted_at_ms = now_ms;
        }
        counts
    }
}

#[cfg(test)]
mod tests;

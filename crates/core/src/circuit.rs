//! When a failing dependency is left alone (docs/design.md §4).
//!
//! [`Circuit`] promises that a dependency which only fails gets no more than `failures` calls (and those that are
//! already in flight at that moment), and after that one call for each pause. This holds because a call needs a
//! `Permit`, and only `ask` gives permits: freely while the circuit is closed, none while it is open, and one at a
//! time while it is half-open.
//!
//! A permit carries the epoch in which it was given, and every opening, probe and closing begins a new epoch. So the
//! answer to a call from before the circuit opened changes nothing, and neither does a probe that answers too late. A
//! probe that never reports, because its request was cancelled, counts as failed after `probe_timeout_ms`, so the
//! circuit cannot get stuck.
//!
//! Making calls, telling failures from answers and writing log lines is not done here. Transitions are returned as
//! data, for a shell to log once.

use std::collections::VecDeque;

/// How many transitions are kept until a shell fetches them; the oldest goes first.
const MAX_PENDING_TRANSITIONS: usize = 64;

/// The figures that a circuit depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitSettings {
    /// Failures within the window that open it; 0 counts as 1.
    pub failures: u32,
    /// The window: two failures at most this far apart are in one window.
    pub window_ms: u64,
    /// Pause between opening and the probe.
    pub pause_ms: u64,
    /// Longest pause that a `Retry-After` can ask for; never shortens `pause_ms`.
    pub max_pause_ms: u64,
    /// A probe that has not reported for this long counts as failed. It is longer than any call may take.
    pub probe_timeout_ms: u64,
}

impl Default for CircuitSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            window_ms: 60_000,
            pause_ms: 30_000,
            max_pause_ms: 300_000,
            probe_timeout_ms: 10_000,
        }
    }
}

/// How a call can fail. Counted by the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No complete answer within the budget.
    Timeout,
    /// No connection, or one that broke.
    Connection,
    ServerError,
    TooMany,
    /// A redirect or another status that no answer has.
    Status,
    /// A body that is too large, does not parse or does not verify.
    Body,
}

impl FailureKind {
    /// For log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::ServerError => "5xx",
            Self::TooMany => "429",
            Self::Status => "status",
            Self::Body => "body",
        }
    }
}

/// The state, as a log line or a status page names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Calls are made.
    Closed,
    /// No calls are made.
    Open,
    /// One call is made as a probe.
    HalfOpen,
}

impl Phase {
    /// For log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Enough failures within the window.
    Failures,
    /// The pause is over and a probe is made.
    PauseOver,
    /// The probe was answered.
    ProbeSucceeded,
    /// The probe failed.
    ProbeFailed,
    /// The probe never reported.
    ProbeLost,
}

impl Reason {
    /// For log lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::PauseOver => "pause_over",
            Self::ProbeSucceeded => "probe_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::ProbeLost => "probe_lost",
        }
    }
}

/// One change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When, Unix milliseconds.
    pub at_ms: u64,
    /// From which state.
    pub from: Phase,
    /// To which state.
    pub to: Phase,
    pub reason: Reason,
    /// Failures within the window and of probes, since it was last closed.
    pub failures: u32,
    /// Calls refused since it was last closed.
    pub refused: u64,
    /// How long no call is made from now on; 0 unless it opens.
    pub pause_ms: u64,
    /// What the last failure was.
    pub last_failure: Option<FailureKind>,
}

/// The right to make one call. Hand it back with `report`.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a call is made under it, and its outcome reported with it"]
pub struct Permit {
    epoch: u64,
}

/// No call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it is worth asking again, in milliseconds; at least 1.
    pub retry_after_ms: u64,
}

/// How a call ended, as far as it matters to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The dependency answered: 2xx, 401 or 404 with a valid body.
    Success,
    /// Timeout, connection, 5xx, 429, a body that does not verify.
    Failure {
        kind: FailureKind,
        /// The dependency's own `Retry-After`.
        retry_after_ms: Option<u64>,
    },
    /// Another status, or a call that was not made after all: says nothing about the dependency.
    Inconclusive,
}

#[derive(Debug)]
enum State {
    Closed {
        failed_at_ms: VecDeque<u64>,
        hold_until_ms: u64,
    },
    Open {
        until_ms: u64,
    },
    /// `None`: the last probe was inconclusive, so the next caller probes.
    HalfOpen {
        probe_since_ms: Option<u64>,
    },
}

#[derive(Debug)]
pub struct Circuit {
    settings: CircuitSettings,
    state: State,
    epoch: u64,
    failures: u32,
    refused: u64,
    last_failure: Option<FailureKind>,
    pending: VecDeque<Transition>,
}

impl Circuit {
    pub fn new(settings: CircuitSettings) -> Self {
        Self {
            settings,
            state: State::closed(),
            epoch: 0,
            failures: 0,
            refused: 0,
            last_failure: None,
            pending: VecDeque::new(),
        }
    }

    /// Asks for the right to make a call now.
    ///
    /// # Errors
    /// The circuit is open, or a probe is under way.
    pub fn ask(&mut self, now_ms: u64) -> Result<Permit, Refused> {
        self.settle(now_ms);
        match &mut self.state {
            State::Closed { .. } => Ok(Permit { epoch: self.epoch }),
            State::Open { until_ms } if now_ms < *until_ms => {
                let retry_after_ms = *until_ms - now_ms;
                self.refused = self.refused.saturating_add(1);
                Err(Refused { retry_after_ms })
            }
            State::Open { .. } => {
                self.enter(
                    State::HalfOpen {
                        probe_since_ms: Some(now_ms),
                    },
                    Reason::PauseOver,
                    now_ms,
                    0,
                );
                Ok(Permit { epoch: self.epoch })
            }
            State::HalfOpen {
                probe_since_ms: Some(since),
            } => {
                let retry_after_ms = since
                    .saturating_add(self.settings.probe_timeout_ms)
                    .saturating_sub(now_ms);
                self.refused = self.refused.saturating_add(1);
                Err(Refused {
                    retry_after_ms: retry_after_ms.max(1),
                })
            }
            State::HalfOpen {
                probe_since_ms: probe @ None,
            } => {
                *probe = Some(now_ms);
                self.epoch = self.epoch.wrapping_add(1);
                Ok(Permit { epoch: self.epoch })
            }
        }
    }

    /// Reports how the call under `permit` ended.
    pub fn report(&mut self, permit: Permit, outcome: Outcome, now_ms: u64) {
        self.settle(now_ms);
        if permit.epoch != self.epoch {
            return;
        }
        match outcome {
            Outcome::Success => self.succeeded(now_ms),
            Outcome::Failure { kind, retry_after_ms } => self.failed(kind, retry_after_ms, now_ms),
            Outcome::Inconclusive => {
                if let State::HalfOpen { probe_since_ms } = &mut self.state {
                    *probe_since_ms = None;
                }
            }
        }
    }

    /// The transitions since the last time, oldest first, each to be logged once.
    pub fn take_transitions(&mut self) -> impl Iterator<Item = Transition> + '_ {
        self.pending.drain(..)
    }

    /// The state now, for a status page. Changes nothing.
    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    fn succeeded(&mut self, now_ms: u64) {
        if matches!(self.state, State::HalfOpen { .. }) {
            self.enter(State::closed(), Reason::ProbeSucceeded, now_ms, 0);
            (self.failures, self.refused) = (0, 0);
        }
    }

    fn failed(&mut self, kind: FailureKind, retry_after_ms: Option<u64>, now_ms: u64) {
        let settings = self.settings;
        self.last_failure = Some(kind);
        let asked_for = retry_after_ms.unwrap_or(0).min(settings.max_pause_ms);
        match &mut self.state {
            State::Closed {
                failed_at_ms,
                hold_until_ms,
            } => {
                *hold_until_ms = (*hold_until_ms).max(now_ms.saturating_add(asked_for));
                // A failure in the future means that the clock went back: it counts no more.
                failed_at_ms.retain(|at| {
                    now_ms
                        .checked_sub(*at)
                        .is_some_and(|age| age <= settings.window_ms)
                });
                failed_at_ms.push_back(now_ms);
                let in_window = u32::try_from(failed_at_ms.len()).unwrap_or(u32::MAX);
                self.failures = in_window;
                if in_window >= settings.failures {
                    let asked_for = hold_until_ms.saturating_sub(now_ms).min(settings.max_pause_ms);
                    let pause_ms = settings.pause_ms.max(asked_for);
                    self.open(Reason::Failures, now_ms, pause_ms);
                }
            }
            State::HalfOpen { .. } => {
                self.failures = self.failures.saturating_add(1);
                self.open(Reason::ProbeFailed, now_ms, settings.pause_ms.max(asked_for));
            }
            // No permit carries the epoch of an open circuit.
            State::Open { .. } => {}
        }
    }

    fn open(&mut self, reason: Reason, at_ms: u64, pause_ms: u64) {
        self.enter(
            State::Open {
                until_ms: at_ms.saturating_add(pause_ms),
            },
            reason,
            at_ms,
            pause_ms,
        );
    }

    /// Applies what time alone changes: a probe that was lost, and a clock that went back.
    fn settle(&mut self, now_ms: u64) {
        let settings = self.settings;
        match &mut self.state {
            State::Closed { .. } | State::HalfOpen { probe_since_ms: None } => {}
            State::Open { until_ms } => {
                let longest = settings.pause_ms.max(settings.max_pause_ms);
                *until_ms = (*until_ms).min(now_ms.saturating_add(longest));
            }
            State::HalfOpen {
                probe_since_ms: Some(since),
            } => {
                *since = (*since).min(now_ms);
                let lost_at_ms = since.saturating_add(settings.probe_timeout_ms);
                if now_ms >= lost_at_ms {
                    self.failures = self.failures.saturating_add(1);
                    self.last_failure = Some(FailureKind::Timeout);
                    // From the moment it was lost, not from the one at which somebody looked.
                    self.open(Reason::ProbeLost, lost_at_ms, settings.pause_ms);
                }
            }
        }
    }

    fn enter(&mut self, state: State, reason: Reason, at_ms: u64, pause_ms: u64) {
        let from = self.state.phase();
        self.state = state;
        self.epoch = self.epoch.wrapping_add(1);
        if self.pending.len() >= MAX_PENDING_TRANSITIONS {
            self.pending.pop_front();
        }
        self.pending.push_back(Transition {
            at_ms,
            from,
            to: self.state.phase(),
            reason,
            failures: self.failures,
            refused: self.refused,
            pause_ms,
            last_failure: self.last_failure,
        });
    }
}

impl State {
    fn closed() -> Self {
        Self::Closed {
            failed_at_ms: VecDeque::new(),
            hold_until_ms: 0,
        }
    }

    fn phase(&self) -> Phase {
        match self {
            Self::Closed { .. } => Phase::Closed,
            Self::Open { .. } => Phase::Open,
            Self::HalfOpen { .. } => Phase::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests;

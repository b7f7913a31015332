//! The canary: the kill switch measures itself.
//!
//! Every few minutes the scheduled run revokes a token of an agent that nobody has, once by an event on the real queue and
//! once as an operator does, and takes the time until its object says so (the overlay), until the socket that it holds is
//! closed, and until the feed has been told. This module knows the canaries, when a run is due, when to look again, and what
//! the runs of a day amount to.
//!
//! It proves everything from the queue on. It does not prove that the registry publishes.
//!
//! A canary's identifiers are of the year 1970, so that no registry has ever issued them. Its token lives for ten minutes,
//! and with it everything that is stored of its revocation.

use serde::{Deserialize, Serialize};

use clawdentity_protocol::did::{AgentDid, Authority};
use clawdentity_protocol::ids::Ulid;

/// How long a canary's token lives, and its revocation is kept.
pub const LIFE_MS: u64 = 10 * 60_000;
/// What has not happened by then counts as silence.
pub const GIVE_UP_MS: u64 = 20_000;
/// docs/design.md §1.
pub const PROMISED_MS: u64 = 1_000;
/// Results are kept for this long.
pub const KEPT_MS: u64 = 24 * 3_600_000;
/// Runs are started each minute, at no exact second.
const EARLY_MS: u64 = 30_000;
/// The looks are close together for as long as the answer may still be a good one.
const CLOSE_LOOKS_MS: u64 = 20;
const FAR_LOOKS_MS: u64 = 500;
/// The digits of `CANARY` in a ULID.
const CANARY: [u128; 6] = [12, 10, 21, 10, 24, 30];

/// A way by which revocations come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// The events queue.
    Event,
    /// An operator's order.
    Operator,
}

impl Way {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Event, Self::Operator];

    /// As it is stored and logged.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Operator => "operator",
        }
    }

    /// The agent that is struck by this way.
    pub fn agent(self, authority: &Authority) -> AgentDid {
        AgentDid::from_parts(authority, self.ulid())
    }

    /// `000000000000000000CANARY01`, and so on.
    fn ulid(self) -> Ulid {
        let name = CANARY.into_iter().fold(0, |number, digit| number * 32 + digit);
        Ulid::from_u128(name * 32 * 32 + 1 + self as u128)
    }
}

/// Whether this agent is a canary.
pub fn is_canary(agent: &AgentDid) -> bool {
    Way::ALL.iter().any(|way| agent.ulid() == way.ulid())
}

/// A new token of a canary's, by random bytes.
pub fn token(random: [u8; 10]) -> Ulid {
    Ulid::from_parts(0, random)
}

/// Whether this token is one of a canary's.
pub fn is_canary_token(jti: Ulid) -> bool {
    jti.timestamp_ms() == 0
}

/// A run is due if none has started after this. A run that is dated ahead does not count.
pub const fn due_if_none_since_ms(now_ms: u64, interval_ms: u64) -> u64 {
    now_ms.saturating_sub(interval_ms.saturating_sub(EARLY_MS))
}

/// The feed's clock and the canary's may differ by this much. The run before was minutes ago.
const CLOCKS_DIFFER_MS: u64 = 10_000;

/// Whether what the feed was told at this time, by its own clock, was told by the run that started then.
pub const fn is_of_this_run(told_at_ms: u64, started_ms: u64) -> bool {
    told_at_ms.saturating_add(CLOCKS_DIFFER_MS) >= started_ms
}

/// How long after the start each thing was seen, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// The agent's object calls the token revoked.
    pub overlay_ms: Option<u64>,
    /// The socket that the token opened was closed.
    pub socket_ms: Option<u64>,
    /// The feed was told.
    pub feed_ms: Option<u64>,
}

/// What is watched, in the order of the stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Overlay,
    Socket,
    Feed,
}

impl Stage {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Overlay, Self::Socket, Self::Feed];

    /// As it is logged.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Socket => "socket",
            Self::Feed => "feed",
        }
    }
}

impl Times {
    /// The time of one stage.
    pub const fn of(&self, stage: Stage) -> Option<u64> {
        match stage {
            Stage::Overlay => self.overlay_ms,
            Stage::Socket => self.socket_ms,
            Stage::Feed => self.feed_ms,
        }
    }
}

/// One run of one way, while it is watched.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    started_ms: u64,
    stages: [bool; 3],
    times: Times,
}

impl Watch {
    /// `has_feed`: there is a feed that can be told.
    pub const fn new(started_ms: u64, has_feed: bool) -> Self {
        Self {
            started_ms,
            stages: [true, true, has_feed],
            times: Times {
                overlay_ms: None,
                socket_ms: None,
                feed_ms: None,
            },
        }
    }

    /// The feed cannot say what it was told, because it runs an earlier version.
    pub fn leave_out_feed(&mut self) {
        let [overlay, socket, _] = self.stages;
        self.stages = [overlay, socket, false];
    }

    /// A stage was seen; the first time counts.
    pub fn saw(&mut self, stage: Stage, now_ms: u64) {
        let time = match stage {
            Stage::Overlay => &mut self.times.overlay_ms,
            Stage::Socket => &mut self.times.socket_ms,
            Stage::Feed => &mut self.times.feed_ms,
        };
        time.get_or_insert(now_ms.saturating_sub(self.started_ms));
    }

    /// Whether a stage is still to be looked at.
    pub fn awaits(&self, stage: Stage) -> bool {
        let watched = Stage::ALL
            .iter()
            .zip(self.stages)
            .any(|(each, is)| *each == stage && is);
        watched && self.times.of(stage).is_none()
    }

    /// How long to wait until the next look; none if everything was seen, or too late.
    pub fn next_look_ms(&self, now_ms: u64) -> Option<u64> {
        let passed_ms = now_ms.saturating_sub(self.started_ms);
        if passed_ms >= GIVE_UP_MS || !Stage::ALL.iter().any(|stage| self.awaits(*stage)) {
            return None;
        }
        let pause_ms = if passed_ms < PROMISED_MS {
            CLOSE_LOOKS_MS
        } else {
            FAR_LOOKS_MS
        };
        Some(pause_ms.min(GIVE_UP_MS - passed_ms))
    }

    /// What was seen.
    pub const fn times(&self) -> Times {
        self.times
    }

    /// What an operator must hear of: stages that were not seen, and those that were seen late.
    pub fn late(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        let named = |is: &dyn Fn(Stage) -> bool| {
            let stages = Stage::ALL.into_iter().filter(|stage| is(*stage));
            stages.map(Stage::as_str).collect()
        };
        let silent = named(&|stage| self.awaits(stage));
        let slow = named(&|stage| self.times.of(stage).is_some_and(|ms| ms > PROMISED_MS));
        (silent, slow)
    }
}

/// One run as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub way: Way,
    pub started_ms: u64,
    /// None while it goes on, or if it was broken off.
    pub finished_ms: Option<u64>,
    pub times: Times,
}

impl Run {
    /// It has ended, or should have.
    pub const fn is_over(&self, now_ms: u64) -> bool {
        self.finished_ms.is_some() || now_ms.saturating_sub(self.started_ms) > GIVE_UP_MS
    }

    /// The overlay or the socket was not seen to follow. The feed is not part of the kill.
    pub const fn is_silent(&self) -> bool {
        self.times.overlay_ms.is_none() || self.times.socket_ms.is_none()
    }
}

/// Half of the runs, and 99 of 100, took no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Percentiles {
    pub p50_ms: u64,
    pub p99_ms: u64,
}

/// What the runs of a day say of one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OfWay {
    pub runs: u64,
    /// Runs in which the kill was not seen.
    pub silent: u64,
    /// Unix milliseconds.
    pub last_at_ms: Option<u64>,
    pub last_was_silent: bool,
    /// The slower of overlay and socket in the last run.
    pub last_ms: Option<u64>,
    pub overlay: Option<Percentiles>,
    pub socket: Option<Percentiles>,
    pub feed: Option<Percentiles>,
}

impl OfWay {
    /// Of the runs of the last day that are over.
    pub fn of(runs: &[Run], way: Way, now_ms: u64) -> Self {
        let mut runs: Vec<&Run> = runs
            .iter()
            .filter(|run| run.way == way && run.is_over(now_ms))
            .filter(|run| run.started_ms <= now_ms && now_ms - run.started_ms <= KEPT_MS)
            .collect();
        runs.sort_by_key(|run| run.started_ms);
        let last = runs.last();
        let of = |stage| percentiles(runs.iter().filter_map(|run| run.times.of(stage)).collect());
        Self {
            runs: runs.len() as u64,
            silent: runs.iter().filter(|run| run.is_silent()).count() as u64,
            last_at_ms: last.map(|run| run.started_ms),
            last_was_silent: last.is_some_and(|run| run.is_silent()),
            last_ms: last.and_then(|run| run.times.overlay_ms.max(run.times.socket_ms)),
            overlay: of(Stage::Overlay),
            socket: of(Stage::Socket),
            feed: of(Stage::Feed),
        }
    }
}

/// By the nearest rank.
fn percentiles(mut times: Vec<u64>) -> Option<Percentiles> {
    times.sort_unstable();
    let rank = |percent: usize| {
        let at = (times.len() * percent).div_ceil(100);
        times.get(at.saturating_sub(1)).copied()
    };
    Some(Percentiles {
        p50_ms: rank(50)?,
        p99_ms: rank(99)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use clawdentity_protocol::testing::{agent, authority};

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn nobody_else_is_a_canary() {
        for way in Way::ALL {
            let canary = way.agent(&authority());
            assert!(is_canary(&canary), "{canary}");
            let digits = format!("000000000000000000CANARY0{}", 1 + way as u8);
            assert_eq!(canary.ulid().to_string(), digits);
            assert_eq!(serde_json::to_value(way).unwrap(), way.as_str());
        }
        assert!(!is_canary(&agent(1)));
        assert!(is_canary_token(token([255; 10])));
        assert!(!is_canary_token(Ulid::from_parts(1, [0; 10])));
        assert!(!is_canary_token(Ulid::from_parts(NOW_MS, [0; 10])));
    }

    #[test]
    fn a_run_is_due_once_in_its_interval() {
        // A run every minute, a few hundred milliseconds off: due at every fifth, and again at once after a wrong clock.
        let interval_ms = 300_000;
        let mut started: Vec<u64> = vec![NOW_MS + 5_000_000];
        for minute in 0..30 {
            let now_ms = NOW_MS + minute * 60_000 + (minute * 377) % 900;
            let since = due_if_none_since_ms(now_ms, interval_ms);
            if !started.iter().any(|at| *at > since && *at <= now_ms) {
                started.push(now_ms);
            }
        }
        assert_eq!(started.len() - 1, 6, "{started:?}");
    }

    proptest! {
        /// Whatever is seen when: the looks end, what was seen first counts, and what is missing or late is said.
        #[test]
        fn a_watch_ends_and_says_what_it_saw(
            at_ms in proptest::array::uniform3(proptest::option::of(0_u64..40_000)),
            has_feed in any::<bool>(),
            call_ms in 0_u64..300,
        ) {
            let mut watch = Watch::new(NOW_MS, has_feed);
            let mut now_ms = NOW_MS;
            let mut looks = 0;
            while let Some(pause_ms) = watch.next_look_ms(now_ms) {
                looks += 1;
                prop_assert!(looks < 120);
                now_ms += pause_ms + call_ms;
                for (stage, at_ms) in Stage::ALL.into_iter().zip(at_ms) {
                    if watch.awaits(stage) && at_ms.is_some_and(|at_ms| NOW_MS + at_ms <= now_ms) {
                        watch.saw(stage, now_ms);
                        watch.saw(stage, now_ms + 1);
                    }
                }
            }
            prop_assert!(now_ms <= NOW_MS + GIVE_UP_MS + call_ms);
            let (silent, slow) = watch.late();
            for (n, stage) in Stage::ALL.into_iter().enumerate() {
                let seen = watch.times().of(stage);
                let watched = stage != Stage::Feed || has_feed;
                prop_assert_eq!(silent.contains(&stage.as_str()), watched && seen.is_none());
                prop_assert_eq!(slow.contains(&stage.as_str()), seen.is_some_and(|ms| ms > PROMISED_MS));
                if let (Some(seen), Some(at_ms)) = (seen, at_ms[n]) {
                    prop_assert!(seen >= at_ms && seen <= at_ms.max(CLOSE_LOOKS_MS) + FAR_LOOKS_MS + call_ms);
                }
                if watched && at_ms[n].is_some_and(|ms| ms < GIVE_UP_MS - FAR_LOOKS_MS) {
                    prop_assert!(seen.is_some());
                }
            }
        }
    }

    #[test]
    fn a_day_of_runs_is_summed_up() {
        let run = |n: u64, way, overlay_ms, socket_ms| Run {
            way,
            started_ms: NOW_MS - n * 300_000,
            finished_ms: Some(NOW_MS),
            times: Times {
                overlay_ms,
                socket_ms,
                feed_ms: None,
            },
        };
        let mut runs: Vec<Run> = (0..100)
            .map(|n| run(n, Way::Event, Some(100 - n), Some(200 - n)))
            .collect();
        let summary = OfWay::of(&runs, Way::Event, NOW_MS);
        assert_eq!(
            (summary.runs, summary.silent, summary.last_ms),
            (100, 0, Some(200))
        );
        assert_eq!(
            summary.overlay,
            Some(Percentiles {
                p50_ms: 50,
                p99_ms: 99
            })
        );
        assert_eq!(
            summary.socket,
            Some(Percentiles {
                p50_ms: 150,
                p99_ms: 199
            })
        );
        assert_eq!(summary.feed, None);
        assert_eq!(OfWay::of(&runs, Way::Operator, NOW_MS).runs, 0);

        // One whose socket was not closed; one that goes on; one that was broken off; one of yesterday; one dated ahead.
        let going_on = Run {
            started_ms: NOW_MS - 1000,
            finished_ms: None,
            ..run(0, Way::Operator, None, None)
        };
        let broken_off = Run {
            started_ms: NOW_MS - GIVE_UP_MS - 1,
            ..going_on
        };
        let ahead = Run {
            started_ms: NOW_MS + 1,
            ..run(0, Way::Operator, Some(1), Some(1))
        };
        runs.extend([
            run(1, Way::Operator, Some(9), None),
            run(289, Way::Operator, Some(1), Some(1)),
            going_on,
            ahead,
        ]);
        let summary = OfWay::of(&runs, Way::Operator, NOW_MS);
        assert_eq!(
            (summary.runs, summary.silent, summary.last_was_silent),
            (1, 1, true)
        );
        runs.push(broken_off);
        let summary = OfWay::of(&runs, Way::Operator, NOW_MS);
        assert_eq!((summary.runs, summary.silent, summary.last_ms), (2, 2, None));
    }
}

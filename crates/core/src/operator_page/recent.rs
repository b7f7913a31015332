//! What an isolate remembers of the last hour for the operator's page: how requests ended, whose clock is off, for whom mail
//! waited, and what was decided about whom.
//!
//! It is memory, of bounded size, and it costs a request a few additions. Another isolate remembers something else, and the
//! page says so; what all of them did is in the log and in the metrics (docs/metrics.md).

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use lru::LruCache;

use clawdentity_protocol::did::AgentDid;

const MINUTE_MS: u64 = 60_000;
const MINUTES: u64 = 60;
/// Agents that are remembered for their clock, and for their mail.
const AGENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(49);
const DECISIONS: usize = 500;

/// How the requests of a minute ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// With a status below 400.
    pub good: u64,
    /// With 4xx.
    pub refused: u64,
    /// With 5xx.
    pub failed: u64,
}

/// What was decided about an agent's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub at_ms: u64,
    pub agent: AgentDid,
    pub path: String,
    /// The refusal's code; none where it was admitted.
    pub code: Option<&'static str>,
}

/// See the module.
#[derive(Debug)]
pub struct Recent {
    since_ms: u64,
    minutes: VecDeque<(u64, Minute)>,
    /// Seconds by which our clock was ahead, and when.
    skewed: LruCache<AgentDid, (i64, u64)>,
    waited: LruCache<AgentDid, u64>,
    decisions: VecDeque<Decision>,
}

impl Recent {
    /// `now_ms`: the first thing that is remembered comes now.
    pub fn new(now_ms: u64) -> Self {
        Self {
            since_ms: now_ms,
            minutes: VecDeque::new(),
            skewed: LruCache::new(AGENTS),
            waited: LruCache::new(AGENTS),
            decisions: VecDeque::new(),
        }
    }

    /// Since when it remembers, Unix milliseconds.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// A request was answered.
    pub fn answered(&mut self, status: u16, now_ms: u64) {
        let minute = now_ms / MINUTE_MS;
        // A clock that is set back counts in the minute that it was set back from.
        if self.minutes.back().is_none_or(|(last, _)| *last < minute) {
            self.minutes.push_back((minute, Minute::default()));
            if self.minutes.len() as u64 > MINUTES {
                self.minutes.pop_front();
            }
        }
        if let Some((_, counts)) = self.minutes.back_mut() {
            match status {
                ..400 => counts.good += 1,
                400..500 => counts.refused += 1,
                500.. => counts.failed += 1,
            }
        }
    }

    /// The minutes of the last hour, oldest first.
    pub fn outcomes(&self, now_ms: u64) -> Vec<Minute> {
        let now = now_ms / MINUTE_MS;
        let first = now.saturating_sub(MINUTES - 1);
        let of = |minute| {
            let found = self.minutes.iter().find(|(each, _)| *each == minute);
            found.map_or_else(Minute::default, |(_, counts)| *counts)
        };
        (first..=now).map(of).collect()
    }

    /// A caller's clock was about to fail it.
    pub fn skewed(&mut self, agent: &AgentDid, skew_s: i64, now_ms: u64) {
        self.skewed.put(agent.clone(), (skew_s, now_ms));
    }

    /// Agents whose clock was off in the last hour, the latest first.
    pub fn clocks(&self, now_ms: u64) -> Vec<(AgentDid, i64, u64)> {
        let within = self
            .skewed
            .iter()
            .filter(|(_, (_, at_ms))| lately(*at_ms, now_ms));
        within
            .map(|(agent, (skew_s, at_ms))| (agent.clone(), *skew_s, *at_ms))
            .collect()
    }

    /// A message for this agent had to wait.
    pub fn waited(&mut self, agent: &AgentDid, now_ms: u64) {
        self.waited.put(agent.clone(), now_ms);
    }

    /// Agents for whom a message had to wait in the last hour, the latest first.
    pub fn queues(&self, now_ms: u64) -> Vec<AgentDid> {
        let within = self.waited.iter().filter(|(_, at_ms)| lately(**at_ms, now_ms));
        within.map(|(agent, _)| agent.clone()).collect()
    }

    /// A request of a proven agent was admitted or refused.
    pub fn decided(&mut self, decision: Decision) {
        if self.decisions.len() >= DECISIONS {
            self.decisions.pop_front();
        }
        self.decisions.push_back(decision);
    }

    /// The last decisions about an agent, the latest first.
    pub fn decisions_about<'a>(&'a self, agent: &'a AgentDid) -> impl Iterator<Item = &'a Decision> {
        self.decisions
            .iter()
            .rev()
            .filter(move |each| each.agent == *agent)
    }
}

/// A time that lies ahead is of a clock that was set back.
fn lately(at_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(at_ms) < MINUTES * MINUTE_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::testing::agent;

    const NOW_MS: u64 = 1_700_000_000_000 / MINUTE_MS * MINUTE_MS;

    #[test]
    fn an_hour_of_outcomes_by_the_minute() {
        let mut recent = Recent::new(NOW_MS);
        for (status, minute) in [(200, 0), (101, 0), (404, 0), (503, 1), (200, 30), (200, 3)] {
            recent.answered(status, NOW_MS + minute * MINUTE_MS);
        }
        let outcomes = recent.outcomes(NOW_MS + 30 * MINUTE_MS);
        assert_eq!(outcomes.len(), 60);
        let shown: Vec<(usize, Minute)> = outcomes
            .into_iter()
            .enumerate()
            .filter(|(_, each)| *each != Minute::default())
            .collect();
        let minute = |good, refused, failed| Minute {
            good,
            refused,
            failed,
        };
        assert_eq!(
            shown,
            [
                (29, minute(2, 1, 0)),
                (30, minute(0, 0, 1)),
                (59, minute(2, 0, 0))
            ]
        );
        for n in 0..500 {
            recent.answered(200, NOW_MS + n * MINUTE_MS);
        }
        assert!(recent.minutes.len() <= 60);
        assert!(
            recent
                .outcomes(NOW_MS + 499 * MINUTE_MS)
                .iter()
                .all(|each| each.good >= 1)
        );
        assert_eq!(
            recent.outcomes(NOW_MS + 9999 * MINUTE_MS),
            vec![Minute::default(); 60]
        );
    }

    #[test]
    fn agents_are_remembered_for_an_hour_and_only_so_many() {
        let mut recent = Recent::new(NOW_MS);
        for n in 0..200 {
            recent.skewed(&agent(n), 250, NOW_MS + n as u64);
            recent.waited(&agent(n), NOW_MS + n as u64);
        }
        let clocks = recent.clocks(NOW_MS + 200);
        assert_eq!(
            (clocks.len(), clocks[0].clone()),
            (50, (agent(199), 250, NOW_MS + 199))
        );
        assert_eq!(
            (recent.queues(NOW_MS).len(), recent.queues(NOW_MS)[0].clone()),
            (50, agent(199))
        );
        assert_eq!(recent.clocks(NOW_MS + 200 + 60 * MINUTE_MS), []);
        assert_eq!(recent.queues(NOW_MS + 200 + 60 * MINUTE_MS), []);
    }

    #[test]
    fn the_last_decisions_about_one_agent() {
        let mut recent = Recent::new(NOW_MS);
        let decision = |n: u64, who| Decision {
            at_ms: NOW_MS + n,
            agent: agent(who),
            path: "/hooks/message".into(),
            code: n.is_multiple_of(2).then_some("PROXY_AUTH_REVOKED"),
        };
        for n in 0..2000 {
            recent.decided(decision(n, u128::from(n % 3)));
        }
        assert_eq!(recent.decisions.len(), DECISIONS);
        let about = agent(1);
        let first: Vec<&Decision> = recent.decisions_about(&about).take(2).collect();
        assert_eq!(first, [&decision(1999, 1), &decision(1996, 1)]);
    }
}

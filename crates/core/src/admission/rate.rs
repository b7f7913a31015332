//! The rate of one agent: at most so many admissions within a sliding window.
//!
//! What the receipt routes admit is counted apart from everything else, because a connector posts a receipt for each
//! message: it must not use up what its agent needs to connect and to pair (docs/wire.md §8).
//!
//! A log holds the times of the admissions in the window and nothing else. Refused requests do not count, so an
//! agent that is over its rate is served again as soon as its oldest admission leaves the window. The log is in
//! memory only; after an eviction it is rebuilt from the times in the nonce rows.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Admissions of one agent on the receipt routes within `RECEIPTS_WINDOW_MS` (docs/wire.md §8).
pub const RECEIPTS_LIMIT: u32 = 1_200;
/// See `RECEIPTS_LIMIT`.
pub const RECEIPTS_WINDOW_MS: u64 = 60_000;

/// What a request counts against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// The agent's rate of requests.
    #[default]
    Requests,
    /// Its rate on the receipt routes.
    Receipts,
}

impl Rate {
    /// Whether this is the usual one.
    pub fn is_requests(&self) -> bool {
        *self == Self::Requests
    }
}

/// The admissions of the last window. Holds at most `limit` times, oldest first.
#[derive(Debug)]
pub struct RateLog {
    limit: usize,
    window_ms: u64,
    times: VecDeque<u64>,
}

impl RateLog {
    /// From the admissions known, in any order (Unix milliseconds).
    pub fn new(limit: u32, window_ms: u64, mut seen_at_ms: Vec<u64>) -> Self {
        let limit = limit as usize;
        seen_at_ms.sort_unstable();
        let surplus = seen_at_ms.len().saturating_sub(limit);
        Self {
            limit,
            window_ms,
            times: seen_at_ms.into_iter().skip(surplus).collect(),
        }
    }

    /// Whether one more may be admitted now.
    ///
    /// # Errors
    /// After how many whole seconds, at least 1, to ask again.
    pub fn check(&mut self, now_ms: u64) -> Result<(), u32> {
        // The clock jumped back: what seems to come from the future came just now at the latest.
        for time in self.times.iter_mut().rev().take_while(|time| **time > now_ms) {
            *time = now_ms;
        }
        while self
            .times
            .front()
            .is_some_and(|time| time.saturating_add(self.window_ms) <= now_ms)
        {
            self.times.pop_front();
        }
        match self.times.front() {
            Some(oldest) if self.times.len() >= self.limit => {
                let wait_ms = oldest.saturating_add(self.window_ms).saturating_sub(now_ms);
                Err(u32::try_from(wait_ms.div_ceil(1000)).unwrap_or(u32::MAX).max(1))
            }
            _ => Ok(()),
        }
    }

    /// Counts one admission.
    pub fn record(&mut self, now_ms: u64) {
        if self.times.len() >= self.limit {
            self.times.pop_front();
        }
        self.times.push_back(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(log: &mut RateLog, now_ms: u64) -> Result<(), u32> {
        log.check(now_ms)?;
        log.record(now_ms);
        Ok(())
    }

    #[test]
    fn the_window_slides() {
        let mut log = RateLog::new(3, 60_000, vec![]);
        for (now_ms, expect) in [
            (1_000, Ok(())),
            (2_000, Ok(())),
            (30_000, Ok(())),
            (30_001, Err(31)),
            (60_999, Err(1)),
            (61_000, Ok(())),
            (61_500, Err(1)),
            (62_000, Ok(())),
            (62_001, Err(28)),
        ] {
            assert_eq!(admit(&mut log, now_ms), expect, "at {now_ms}");
        }
    }

    #[test]
    fn rebuilt_it_answers_the_same() {
        let mut log = RateLog::new(2, 60_000, vec![50_000, 10_000, 49_000]);
        assert_eq!(log.check(100_000), Err(9));
        assert_eq!(log.check(109_000), Ok(()));
    }

    #[test]
    fn a_clock_that_jumps_back_costs_one_window_at_most() {
        let mut log = RateLog::new(1, 60_000, vec![]);
        assert_eq!(admit(&mut log, 10_000_000), Ok(()));
        assert_eq!(admit(&mut log, 1_000_000), Err(60));
        assert_eq!(admit(&mut log, 1_060_000), Ok(()));
    }
}

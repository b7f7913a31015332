//! The time that all registry calls of one request may take together (docs/design.md §4).
//!
//! A budget is a deadline: whatever a request must ask, and of whom, the last
//! answer comes before it or not at all. So three slow dependencies cost a caller
//! no more than one. It stands still while the body is read, so that a slow upload
//! does not spend it. Work after the answer (`wait_until`) gets one of its own.

/// A deadline. Copying it copies the deadline, not the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    deadline_ms: u64,
    limit_ms: u64,
}

impl Budget {
    /// `limit_ms` from `started_ms` on.
    pub fn new(started_ms: u64, limit_ms: u64) -> Self {
        Self {
            deadline_ms: started_ms.saturating_add(limit_ms),
            limit_ms,
        }
    }

    /// The same budget, ended `ms` earlier, but never in its first half.
    pub fn but(&self, ms: u64) -> Self {
        let ms = ms.min(self.limit_ms / 2);
        Self {
            deadline_ms: self.deadline_ms.saturating_sub(ms),
            limit_ms: self.limit_ms - ms,
        }
    }

    /// The same budget, had it been paused for `ms`.
    #[must_use]
    pub fn paused(&self, ms: u64) -> Self {
        Self {
            deadline_ms: self.deadline_ms.saturating_add(ms),
            limit_ms: self.limit_ms,
        }
    }

    /// What is left, milliseconds; 0: make no call. Never more than the whole, should the clock go back.
    pub fn remaining_ms(&self, now_ms: u64) -> u64 {
        self.deadline_ms.saturating_sub(now_ms).min(self.limit_ms)
    }

    /// The timeout of a call that starts now, as `AbortSignal.timeout` takes it; `None`: make no call.
    pub fn timeout_ms(&self, now_ms: u64) -> Option<u32> {
        match self.remaining_ms(now_ms) {
            0 => None,
            left => Some(u32::try_from(left).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_one_deadline_for_all_calls() {
        let budget = Budget::new(1_000, 5_000);
        let table = [
            (1_000, Some(5_000), "at its start"),
            (3_500, Some(2_500), "the second call has what the first left"),
            (5_999, Some(1), "the last millisecond"),
            (6_000, None, "spent"),
            (9_000, None, "long spent"),
            (
                0,
                Some(5_000),
                "a clock that went back gives no more than the whole",
            ),
        ];
        for (now_ms, expect, why) in table {
            assert_eq!(budget.timeout_ms(now_ms), expect, "{why}");
        }
    }

    #[test]
    fn a_part_of_it_can_be_kept_for_later() {
        let budget = Budget::new(1_000, 5_000);
        assert_eq!(budget.but(2_000).remaining_ms(1_000), 3_000);
        assert_eq!(budget.but(2_000).remaining_ms(4_000), 0);
        assert_eq!(budget.but(9_000).remaining_ms(1_000), 2_500);
    }

    #[test]
    fn a_pause_does_not_spend_it() {
        let budget = Budget::new(1_000, 5_000).paused(9_000);
        assert_eq!(budget.remaining_ms(12_000), 3_000);
        assert_eq!(budget.remaining_ms(1_000), 5_000);
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert_eq!(Budget::new(u64::MAX, 5).timeout_ms(u64::MAX), None);
        assert_eq!(Budget::new(0, u64::MAX).timeout_ms(0), Some(u32::MAX));
    }
}

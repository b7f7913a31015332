//! Where a nonce is kept, for how long, and when it is forgotten.
//!
//! A timestamp `t` in whole seconds is accepted while `|now - t| <= 300` (docs/wire.md §3), so a request that carries
//! it can be accepted until `t + 301 s`. Its nonce is kept in the minute, the *bucket*, in which that moment falls.
//! The bucket follows from the request alone, so a captured request always looks in the bucket to which the original
//! was written.
//!
//! Ten buckets are a *group*, which has a table of its own and is forgotten as a whole, because storage bills nothing for
//! dropping a table. The highest bucket that was ever forgotten is the *mark*, and a timestamp whose bucket is at or
//! below the mark is refused as skewed. So a clock that jumps back cannot make a forgotten request acceptable again.

use std::ops::RangeInclusive;

use clawdentity_protocol::proof::MAX_SKEW_SECONDS;

/// Length of a bucket.
pub const BUCKET_SECONDS: u64 = 60;
/// Buckets in which a nonce can lie that was written while the clock stood at one moment and is still to be refused.
pub const LIVE_BUCKETS: usize = 12;

/// Buckets that are forgotten together.
pub const GROUP_BUCKETS: u64 = 10;

/// When a timestamp can no longer be accepted: the first second in which it is too old.
pub fn expires_at_s(timestamp_s: u64) -> u64 {
    timestamp_s.saturating_add(MAX_SKEW_SECONDS + 1)
}

/// The bucket of a request.
pub fn bucket_of(timestamp_s: u64) -> u64 {
    expires_at_s(timestamp_s) / BUCKET_SECONDS
}

/// The buckets that can hold a nonce whose timestamp could still be accepted now. Always `LIVE_BUCKETS` of them.
pub fn live_buckets(now_ms: u64) -> RangeInclusive<u64> {
    let first = now_ms / 1000 / BUCKET_SECONDS;
    first..=first + (LIVE_BUCKETS as u64 - 1)
}

/// The group of a bucket.
pub fn group_of(bucket: u64) -> u64 {
    bucket / GROUP_BUCKETS
}

/// The first and the last bucket of a group.
pub fn buckets_of(group: u64) -> (u64, u64) {
    let first = group.saturating_mul(GROUP_BUCKETS);
    (first, first.saturating_add(GROUP_BUCKETS - 1))
}

/// Whether the clock takes this timestamp.
pub fn within_skew(now_ms: u64, timestamp_s: u64) -> bool {
    (now_ms / 1000).abs_diff(timestamp_s) <= MAX_SKEW_SECONDS
}

/// The last bucket that may be forgotten now, always the last of a group: all timestamps of the group are past, and its
/// rows are older than the rate window, so that the rate log can always be rebuilt from what is left.
pub fn forgettable_through(now_ms: u64, rate_window_ms: u64) -> Option<u64> {
    let bucket_now = now_ms.saturating_sub(rate_window_ms) / 1000 / BUCKET_SECONDS;
    buckets_of(group_of(bucket_now)).0.checked_sub(1)
}

/// When a bucket may be forgotten, and with it its group; Unix milliseconds.
pub fn forget_at_ms(bucket: u64, rate_window_ms: u64) -> u64 {
    let (_, last) = buckets_of(group_of(bucket));
    last.saturating_add(1)
        .saturating_mul(BUCKET_SECONDS * 1000)
        .saturating_add(rate_window_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acceptable_timestamp_has_a_live_bucket_at_every_second() {
        for now_s in 1_700_000_000..1_700_000_000 + 3 * BUCKET_SECONDS {
            let live = live_buckets(now_s * 1000 + 999);
            assert_eq!(live.clone().count(), LIVE_BUCKETS);
            for t in now_s - MAX_SKEW_SECONDS..=now_s + MAX_SKEW_SECONDS {
                assert!(live.contains(&bucket_of(t)), "now {now_s} t {t}");
                // And it stays acceptable no longer than its bucket stays unforgotten.
                let forget_ms = forget_at_ms(bucket_of(t), 0);
                assert!(!within_skew(forget_ms, t) && within_skew(forget_ms.min((t + 300) * 1000), t));
            }
        }
    }

    #[test]
    fn forgetting_is_due_exactly_at_its_time() {
        for window_ms in [0, 100, 60_000, 600_000] {
            for bucket in 28_333_340..=28_333_349 {
                let at = forget_at_ms(bucket, window_ms);
                assert_eq!(forgettable_through(at, window_ms), Some(28_333_349));
                assert_eq!(forgettable_through(at - 1, window_ms), Some(28_333_339));
            }
        }
        assert_eq!(forgettable_through(59_999, 0), None);
    }

    #[test]
    fn skew_counts_whole_seconds() {
        let cases = [(300, 0, true), (301, 0, false), (0, 300, true), (0, 301, false)];
        for (now_s, t, expect) in cases {
            assert_eq!(within_skew(now_s * 1000 + 999, t), expect, "now {now_s} t {t}");
        }
        let end_ms = expires_at_s(1000) * 1000;
        assert!(within_skew(end_ms - 1, 1000) && !within_skew(end_ms, 1000));
    }
}

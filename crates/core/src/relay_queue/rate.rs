//! How many frames an agent may send a minute: `enqueue` frames, and frames that only cost the proxy time
//! (docs/wire.md §8).
//!
//! It is a bucket of one minute's frames that fills up evenly. It is one number, small enough to be kept in a
//! socket's attachment and beyond the end of that socket, so neither hibernation nor a new connection fills it. The
//! agent's rate of requests is kept by its trust object.

use serde::{Deserialize, Serialize};

/// What a full bucket holds is let through in no less than this time, Unix microseconds.
const MINUTE_US: u64 = 60_000_000;

/// What was taken out, as the moment at which the bucket will be full again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bucket {
    full_at_us: u64,
}

impl Bucket {
    /// Lets one frame through, or not.
    pub fn admit(&mut self, per_minute: u32, now_ms: u64) -> bool {
        let now_us = now_ms.saturating_mul(1_000);
        let costs_us = MINUTE_US / u64::from(per_minute.max(1));
        // A clock that stood ahead cannot close it for more than a minute.
        let full_at_us = self.full_at_us.clamp(now_us, now_us.saturating_add(MINUTE_US));
        let after_us = full_at_us.saturating_add(costs_us);
        let admitted = after_us <= now_us.saturating_add(MINUTE_US);
        if admitted {
            self.full_at_us = after_us;
        }
        admitted
    }

    /// Whether there is nothing to remember: a new bucket is no fuller.
    pub fn is_full(self, now_ms: u64) -> bool {
        self.full_at_us <= now_ms.saturating_mul(1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_frames_at_once_then_as_they_come() {
        let start = 1_000_000_000;
        let mut bucket = Bucket::default();
        let passed = (0..7_000)
            .filter(|n| bucket.admit(6_000, start + n / 1_000))
            .count();
        assert_eq!(passed, 6_000, "and none of the 7 ms has brought a new one");
        let later = (0..100).filter(|_| bucket.admit(6_000, start + 506)).count();
        assert_eq!(later, 50, "a hundred a second");
        assert!(!bucket.is_full(start + 60_000) && bucket.is_full(start + 60_506));
        let again = (0..7_000)
            .filter(|_| bucket.admit(6_000, start + 200_000))
            .count();
        assert_eq!(again, 6_000);
    }

    #[test]
    fn a_date_in_the_future_closes_it_for_a_minute_at_most() {
        let mut bucket = Bucket { full_at_us: u64::MAX };
        assert!(!bucket.admit(60, 1_000_000));
        bucket = Bucket { full_at_us: u64::MAX };
        assert!(
            bucket.admit(60, u64::MAX / 1_000 - 1) || !bucket.admit(60, 0),
            "and nothing overflows"
        );
        let mut bucket = Bucket {
            full_at_us: 9_000_000_000_000,
        };
        bucket.admit(60, 1_000_000);
        bucket.full_at_us = bucket.full_at_us.min(1_000_000_000 + MINUTE_US);
        assert!(bucket.admit(60, 1_001_000));
    }

    #[test]
    fn of_two_the_one_that_gave_more() {
        let (mut one, other) = (Bucket::default(), Bucket::default());
        one.admit(10, 5);
        assert_eq!(one.max(other), one);
        assert_eq!(other.max(one), one);
        assert_eq!(serde_json::to_string(&one).unwrap(), "6005000");
    }
}

//! The per-address limit of the hook and connect routes (docs/wire.md §8).
//!
//! It counts requests for each path and client address in fixed windows of a minute. The counters live in the
//! isolate's memory and are bounded. They keep a stranger from making this isolate check signatures all day; they are
//! not a promise across isolates. The limit for each agent is kept by admission, and is such a promise.

use std::num::NonZeroUsize;

use lru::LruCache;

const WINDOW_MS: u64 = 60_000;
/// An address is a header's text; longer ones share a counter.
const MAX_ADDRESS_CHARS: usize = 64;

/// Counters by path and address.
pub struct AddressLimit {
    per_minute: u32,
    counters: LruCache<(&'static str, String), Window>,
}

struct Window {
    started_ms: u64,
    count: u32,
}

impl AddressLimit {
    /// `per_minute` requests for each path and address; `capacity` addresses are remembered.
    pub fn new(per_minute: u32, capacity: NonZeroUsize) -> Self {
        Self {
            per_minute,
            counters: LruCache::new(capacity),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// Over the limit: the seconds until the window ends.
    pub fn check(&mut self, path: &'static str, address: Option<&str>, now_ms: u64) -> Result<(), u64> {
        let address: String = address
            .unwrap_or("unknown")
            .chars()
            .take(MAX_ADDRESS_CHARS)
            .collect();
        let window = self.counters.get_or_insert_mut((path, address), || Window {
            started_ms: now_ms,
            count: 0,
        });
        let age_ms = now_ms.saturating_sub(window.started_ms);
        if age_ms >= WINDOW_MS || now_ms < window.started_ms {
            *window = Window {
                started_ms: now_ms,
                count: 0,
            };
        } else if window.count >= self.per_minute {
            return Err((WINDOW_MS - age_ms).div_ceil(1000));
        }
        window.count = window.count.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_per_path_and_address_and_forgets_after_a_minute() {
        let mut limit = AddressLimit::new(2, NonZeroUsize::new(8).unwrap());
        let mut check = |path, address, now_ms, expect| {
            assert_eq!(
                limit.check(path, address, now_ms),
                expect,
                "{path} {address:?} {now_ms}"
            );
        };
        check("/a", Some("1.1.1.1"), 1_000, Ok(()));
        check("/a", Some("1.1.1.1"), 2_000, Ok(()));
        check("/a", Some("1.1.1.1"), 3_000, Err(58));
        check("/b", Some("1.1.1.1"), 3_000, Ok(()));
        check("/a", Some("2.2.2.2"), 3_000, Ok(()));
        check("/a", None, 3_000, Ok(()));
        check("/a", Some("unknown"), 3_000, Ok(()));
        check("/a", None, 3_000, Err(60));
        check("/a", Some("1.1.1.1"), 60_999, Err(1));
        check("/a", Some("1.1.1.1"), 61_000, Ok(()));
        check("/a", Some("1.1.1.1"), 5, Ok(()));
    }
}

//! The address that a request came from, and the per-address limit of the hook and connect routes (docs/wire.md §8).
//!
//! Whoever has one IPv6 address has all 2^64 of its network, so an *address* is an IPv4 address or an IPv6 /64. An IPv4
//! address that is written as an IPv6 one (`::ffff:192.0.2.1`) is that IPv4 address.
//!
//! The limit counts requests for each path and address in fixed windows of a minute. The counters live in the
//! isolate's memory and are bounded. They keep a stranger from making this isolate check signatures all day; they are
//! not a promise across isolates. The limit for each agent is kept by admission, and is such a promise.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;

use lru::LruCache;

const WINDOW_MS: u64 = 60_000;
/// The platform's header holds an address, always. What does not parse as one is some other runtime's; longer texts than
/// this share a counter.
const MAX_ADDRESS_CHARS: usize = 64;

/// Whom a limit by address counts as one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    V4(Ipv4Addr),
    /// The first 64 bits of an IPv6 address.
    V6Network(u64),
    /// Not an address, or none: its text, cut.
    Other(String),
}

impl ClientAddress {
    /// Reads the text of `CF-Connecting-IP`.
    pub fn of(header: Option<&str>) -> Self {
        let text = header.unwrap_or("unknown").trim();
        match text.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(address)) => Self::V4(address),
            Ok(IpAddr::V6(address)) => Self::V6Network((u128::from(address) >> 64) as u64),
            Err(_) => Self::Other(text.chars().take(MAX_ADDRESS_CHARS).collect()),
        }
    }
}

/// Counters by path and address.
pub struct AddressLimit {
    per_minute: u32,
    counters: LruCache<(&'static str, ClientAddress), Window>,
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
        let key = (path, ClientAddress::of(address));
        let window = self.counters.get_or_insert_mut(key, || Window {
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
    fn an_address_is_an_ipv4_address_or_an_ipv6_network() {
        let same = |one: &str, other: &str, expect: bool| {
            let [one_is, other_is] = [one, other].map(|text| ClientAddress::of(Some(text)));
            assert_eq!(one_is == other_is, expect, "{one} {other}");
        };
        same("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true);
        same("2001:db8:1:2::1", "2001:0DB8:0001:0002:0:0:0:1", true);
        same("2001:db8:1:2::1", "2001:db8:1:3::1", false);
        same("2001:db8:1:2::1", "2001:db8:1:2::", true);
        same("192.0.2.1", "::ffff:192.0.2.1", true);
        same("192.0.2.1", "::ffff:c000:201", true);
        same("192.0.2.1", "192.0.2.2", false);
        same("::ffff:192.0.2.1", "::ffff:192.0.2.2", false);
        same("::1", "::ffff:192.0.2.2", false);
        same("192.0.2.1", " 192.0.2.1 ", true);
        same("no address", "another", false);
        let long = "x".repeat(MAX_ADDRESS_CHARS);
        same(&long, &format!("{long}y"), true);
        same(&long, &long[1..], false);
        assert_eq!(ClientAddress::of(None), ClientAddress::of(Some("unknown")));
    }

    #[test]
    fn a_whole_ipv6_network_has_one_counter() {
        let mut limit = AddressLimit::new(120, NonZeroUsize::new(8).unwrap());
        let mut from = |n: u32| limit.check("/a", Some(&format!("2001:db8::{n:x}")), 1_000);
        assert!((0..120).all(|n| from(n).is_ok()));
        assert_eq!(from(120), Err(60));
        assert_eq!(limit.check("/a", Some("2001:db8:0:1::"), 1_000), Ok(()));
    }

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

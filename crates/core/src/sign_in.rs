//! Bearer tokens: they are compared in constant time, and an address that guesses is stopped.
//!
//! Hashes are compared, so that neither the length nor the first wrong byte shows in the time that it takes. The
//! counters of failed attempts live in the isolate and are bounded. What makes a token impossible to guess is its
//! length (docs/wire.md §9).

use std::num::NonZeroUsize;

use lru::LruCache;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::address::ClientAddress;

/// After how many failed sign-ins within the window an address is refused.
pub const MAX_FAILURES: u32 = 10;
const WINDOW_MS: u64 = 60_000;
const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// Why a sign-in was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInError {
    /// No `Authorization`, or another scheme: nothing was guessed.
    NoBearer,
    /// A token that is not the expected one.
    Wrong,
    /// Too many wrong ones from this address.
    TooMany {
        /// Seconds until it may try again.
        retry_after_s: u64,
    },
}

/// The token of `Authorization: Bearer <token>`; the scheme in any case.
pub fn bearer(authorization: Option<&str>) -> Option<&str> {
    let (scheme, token) = authorization?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty()).then(|| token.trim())
}

/// Whether two tokens are equal, in constant time.
pub fn same(presented: &str, expected: &str) -> bool {
    let hash = |token: &str| Sha256::digest(token.as_bytes());
    hash(presented).ct_eq(&hash(expected)).into()
}

/// Failed sign-ins by address.
pub struct SignIns {
    failures: LruCache<ClientAddress, Window>,
}

struct Window {
    started_ms: u64,
    count: u32,
}

impl SignIns {
    /// The state before anybody has failed.
    pub fn new() -> Self {
        Self {
            failures: LruCache::new(CAPACITY),
        }
    }

    /// Accepts a request that presents the expected token.
    ///
    /// # Errors
    /// See `SignInError`.
    pub fn check(
        &mut self,
        authorization: Option<&str>,
        expected: &str,
        address: Option<&str>,
        now_ms: u64,
    ) -> Result<(), SignInError> {
        let presented = bearer(authorization);
        // Before the limit is looked at: whoever guesses from an operator's address must not lock the operator out. A token
        // is too long for this to help anybody who guesses.
        if presented.is_some_and(|presented| same(presented, expected)) {
            return Ok(());
        }
        let address = ClientAddress::of(address);
        let age_of = |window: &Window| {
            now_ms
                .checked_sub(window.started_ms)
                .filter(|age| *age < WINDOW_MS)
        };
        let known = self.failures.get(&address);
        if let Some((window, age_ms)) = known.and_then(|window| Some((window, age_of(window)?)))
            && window.count >= MAX_FAILURES
        {
            let retry_after_s = (WINDOW_MS - age_ms).div_ceil(1000);
            return Err(SignInError::TooMany { retry_after_s });
        }
        if presented.is_none() {
            return Err(SignInError::NoBearer);
        }
        let window = self.failures.get_or_insert_mut(address, || Window {
            started_ms: now_ms,
            count: 0,
        });
        if age_of(window).is_none() {
            *window = Window {
                started_ms: now_ms,
                count: 0,
            };
        }
        window.count += 1;
        Err(SignInError::Wrong)
    }
}

impl Default for SignIns {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "an-operators-token-of-32-characters";

    #[test]
    fn a_bearer_is_read_strictly_enough() {
        for (header, expect) in [
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer  abc "), Some("abc")),
            (Some("Bearer"), None),
            (Some("Bearer "), None),
            (Some("Claw abc"), None),
            (Some(""), None),
            (None, None),
        ] {
            assert_eq!(bearer(header), expect, "{header:?}");
        }
    }

    #[test]
    fn who_guesses_is_stopped_for_a_minute_and_nobody_else() {
        let mut sign_ins = SignIns::new();
        let good = format!("Bearer {TOKEN}");
        let mut check =
            |header: &str, address, now_ms| sign_ins.check(Some(header), TOKEN, Some(address), now_ms);
        assert_eq!(check(&good, "a", 1_000), Ok(()));
        for n in 0..u64::from(MAX_FAILURES) {
            assert_eq!(check("Bearer wrong", "a", 1_000 + n), Err(SignInError::Wrong));
        }
        let stopped = |retry_after_s| Err(SignInError::TooMany { retry_after_s });
        assert_eq!(check("Bearer wrong", "a", 2_000), stopped(59));
        assert_eq!(
            check(&good, "a", 2_000),
            Ok(()),
            "the right token is never refused because of failed attempts"
        );
        assert_eq!(check(&good, "b", 2_000), Ok(()));
        assert_eq!(check(&good, "a", 61_000), Ok(()));
        assert_eq!(check("Bearer wrong", "a", 61_000), Err(SignInError::Wrong));
        assert_eq!(check("Claw x", "a", 61_000), Err(SignInError::NoBearer));
        let network: Vec<String> = (0..=MAX_FAILURES).map(|n| format!("2001:db8::{n:x}")).collect();
        let answers: Vec<_> = network
            .iter()
            .map(|address| check("Bearer wrong", address, 61_000))
            .collect();
        let last = SignInError::TooMany { retry_after_s: 60 };
        assert!(
            answers
                .iter()
                .rev()
                .skip(1)
                .all(|answer| *answer == Err(SignInError::Wrong))
        );
        assert_eq!(answers.last(), Some(&Err(last)));
    }

    #[test]
    fn a_token_is_the_whole_token() {
        for (presented, expect) in [
            (TOKEN, true),
            ("", false),
            (&TOKEN[1..], false),
            (&format!("{TOKEN}x"), false),
        ] {
            assert_eq!(same(presented, TOKEN), expect, "{presented}");
        }
    }
}

//! What a response of the registry says about the registry itself (docs/design.md §4).
//!
//! - A timeout, a failed connection, a 5xx, a 429 and a body that does not verify are failures.
//! - A 2xx, a 401 and a 404 are answers.
//! - Any other 4xx means that the registry is unavailable to this caller, and is not counted.
//! - Everything else is a failure. A redirect is never followed, so it counts as an answer that does not verify.
//!
//! What an answer means is decided by each dependency's own module.

use chrono::DateTime;
use serde::Deserialize;

pub use crate::circuit::FailureKind;

/// What a status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The registry answered; its body has yet to be checked.
    Answer,
    Failure(FailureKind),
    /// Another 4xx: not counted, no answer.
    Refused,
}

/// Sorts a status. 304 is an answer only to a conditional request.
pub fn classify(status: u16, conditional: bool) -> Class {
    match status {
        200..=299 | 401 | 404 => Class::Answer,
        304 if conditional => Class::Answer,
        429 => Class::Failure(FailureKind::TooMany),
        500..=599 => Class::Failure(FailureKind::ServerError),
        400..=499 => Class::Refused,
        _ => Class::Failure(FailureKind::Status),
    }
}

/// `Retry-After` in milliseconds: seconds or a date (RFC 9110 §10.2.3). Anything else counts as absent.
pub fn retry_after_ms(value: Option<&str>, now_ms: u64) -> Option<u64> {
    let value = value?.trim();
    if !value.is_empty() && value.len() <= 10 && value.bytes().all(|b| b.is_ascii_digit()) {
        return value
            .parse::<u64>()
            .ok()
            .map(|seconds| seconds.saturating_mul(1000));
    }
    let at_ms = DateTime::parse_from_rfc2822(value).ok()?.timestamp_millis();
    Some(u64::try_from(at_ms).ok()?.saturating_sub(now_ms))
}

/// A body that is a JSON object of this shape. `serde` would take an array of the fields for it as well.
pub fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    serde_json::from_slice(body).ok().filter(|_| first == Some(&b'{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_sorted_as_the_policy_says() {
        use Class::{Answer, Failure, Refused};
        let table = [
            (200, Answer),
            (204, Answer),
            (401, Answer),
            (404, Answer),
            (400, Refused),
            (403, Refused),
            (408, Refused),
            (422, Refused),
            (499, Refused),
            (429, Failure(FailureKind::TooMany)),
            (500, Failure(FailureKind::ServerError)),
            (503, Failure(FailureKind::ServerError)),
            (599, Failure(FailureKind::ServerError)),
            (301, Failure(FailureKind::Status)),
            (304, Failure(FailureKind::Status)),
            (101, Failure(FailureKind::Status)),
            (0, Failure(FailureKind::Status)),
            (600, Failure(FailureKind::Status)),
        ];
        for (status, expect) in table {
            assert_eq!(classify(status, false), expect, "{status}");
        }
        assert_eq!(classify(304, true), Answer);
        assert_eq!(classify(302, true), Failure(FailureKind::Status));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 2015-10-21T07:28:00Z
        let at_ms = 1_445_412_480_000;
        let table = [
            (None, None),
            (Some(""), None),
            (Some("0"), Some(0)),
            (Some(" 120 "), Some(120_000)),
            (Some("9999999999"), Some(9_999_999_999_000)),
            (Some("99999999999"), None),
            (Some("-1"), None),
            (Some("+1"), None),
            (Some("1.5"), None),
            (Some("soon"), None),
            (Some("Wed, 21 Oct 2015 07:28:00 GMT"), Some(30_000)),
            (Some("Wed, 21 Oct 2015 07:00:00 GMT"), Some(0)),
        ];
        for (value, expect) in table {
            assert_eq!(retry_after_ms(value, at_ms - 30_000), expect, "{value:?}");
        }
    }
}

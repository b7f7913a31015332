//! When a failed call to a Durable Object is made again.
//!
//! What the platform calls retryable failed on its way. Nothing is tried again on an object that is overloaded,
//! because more calls would make that worse. Every attempt uses a fresh stub and the same body, and all calls are
//! idempotent.

/// Pauses before the tries after the first.
const RETRY_PAUSES_MS: [u64; 2] = [25, 100];

/// What the platform says of a failed call to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// The failure was on the way; the call may be made again.
    pub retryable: bool,
    /// The object has too much to do; another call makes it worse.
    pub overloaded: bool,
}

/// The pause before the next try, where there may be one. `failures` counts the tries that failed so far.
pub fn retry_pause_ms(failures: usize, failure: CallFailure) -> Option<u64> {
    if !failure.retryable || failure.overloaded {
        return None;
    }
    RETRY_PAUSES_MS.get(failures.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_platform_calls_retryable_is_tried_again_and_twice_at_most() {
        let cases = [
            (1, true, false, Some(25)),
            (2, true, false, Some(100)),
            (3, true, false, None),
            (1, true, true, None),
            (1, false, false, None),
            (1, false, true, None),
        ];
        for (failures, retryable, overloaded, expect) in cases {
            let got = retry_pause_ms(
                failures,
                CallFailure {
                    retryable,
                    overloaded,
                },
            );
            assert_eq!(got, expect, "{failures} {retryable} {overloaded}");
        }
    }
}

//! How long to wait before something that failed is tried again.
//!
//! The only place that doubles a pause. Where many would come back at once, the caller adds its own jitter.

/// The pause after so many failures in a row: `first` after one, doubling to `longest`.
pub fn doubled(first: u64, longest: u64, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1);
    let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    first.saturating_mul(factor).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_never_overflow() {
        let cases = [
            (0, 1_000),
            (1, 1_000),
            (2, 2_000),
            (5, 16_000),
            (6, 30_000),
            (64, 30_000),
            (65, 30_000),
            (u32::MAX, 30_000),
        ];
        for (failures, expected) in cases {
            assert_eq!(doubled(1_000, 30_000, failures), expected, "{failures}");
        }
        assert_eq!(doubled(u64::MAX, u64::MAX, 9), u64::MAX);
        assert_eq!(doubled(5, 3, 1), 3);
    }
}

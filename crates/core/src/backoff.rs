//! How long to wait before something that failed is tried again.
//!
//! The only place that doubles a pause. What failed for many at the same moment must not all come back together:
//! `spread` keeps them apart.

/// The pause after so many failures in a row: `first` after one, doubling to `longest`.
pub fn doubled(first: u64, longest: u64, failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1);
    let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
    first.saturating_mul(factor).min(longest)
}

/// The pause, shortened by up to a quarter of it. `random` is any number.
pub fn spread(pause: u64, random: u8) -> u64 {
    pause - pause / 4 * u64::from(random) / u64::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_is_spread_keeps_three_quarters_of_itself_and_never_overflows() {
        for (pause, random, expected) in [
            (1_000, 0, 1_000),
            (1_000, u8::MAX, 750),
            (60, u8::MAX, 45),
            (1, u8::MAX, 1),
            (0, u8::MAX, 0),
        ] {
            assert_eq!(spread(pause, random), expected, "{pause} {random}");
        }
        assert!(spread(u64::MAX / 256, u8::MAX) >= u64::MAX / 256 / 4 * 3);
    }

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

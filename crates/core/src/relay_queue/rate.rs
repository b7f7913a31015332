//! How many `enqueue` frames an agent may send a minute (docs/wire.md §8).
//!
//! A window opens with the first frame and lasts a minute; within it no more than the limit is let through. The window
//! is small enough to ride in a socket's attachment, so that neither hibernation nor a new connection starts it anew.
//! Not its job: the agent's request rate, which its trust object keeps.

use serde::{Deserialize, Serialize};

/// How long a window lasts.
const WINDOW_MS: u64 = 60_000;

/// What was let through since when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateWindow {
    /// Unix milliseconds of the window's first frame.
    pub since_ms: u64,
    /// Frames let through since.
    pub count: u32,
}

impl RateWindow {
    /// Lets one frame through, or not.
    pub fn admit(&mut self, limit: u32, now_ms: u64) -> bool {
        if now_ms.saturating_sub(self.since_ms) >= WINDOW_MS {
            *self = Self {
                since_ms: now_ms,
                count: 0,
            };
        }
        let within = self.count < limit;
        self.count += u32::from(within);
        within
    }

    /// The one of two that knows more: after a wake there is one in memory and one in the attachment.
    pub fn later(self, other: Self) -> Self {
        if (self.since_ms, self.count) >= (other.since_ms, other.count) {
            self
        } else {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_lets_its_limit_through_and_no_more() {
        let mut window = RateWindow::default();
        let start = 1_000_000;
        let passed = (0..700).filter(|n| window.admit(600, start + n)).count();
        assert_eq!(passed, 600);
        assert!(
            !window.admit(600, start + WINDOW_MS - 1),
            "the window is still open"
        );
        assert!(window.admit(600, start + WINDOW_MS), "a new one opens");
        assert_eq!(
            window,
            RateWindow {
                since_ms: start + WINDOW_MS,
                count: 1
            }
        );
    }

    #[test]
    fn of_two_the_one_that_knows_more() {
        let check = |a: (u64, u32), b: (u64, u32), expect: (u64, u32)| {
            let window = |(since_ms, count)| RateWindow { since_ms, count };
            assert_eq!(window(a).later(window(b)), window(expect));
            assert_eq!(window(b).later(window(a)), window(expect));
        };
        check((5, 1), (5, 2), (5, 2));
        check((5, 9), (6, 0), (6, 0));
    }
}

//! How far an agent's clock was off: the worst of the last hour, for the operator's status.
//!
//! Only requests that were admitted for the first time count, so that a captured one which is sent late does not
//! blame anybody's clock. There is one entry for each five minutes that saw a request, and at most an hour of them.
//! Entries are kept in memory. From the warning threshold on an entry gets a row (`record` says so), which is written
//! again only when its five minutes get worse. So an honest clock costs no row, and a clock that drifts costs few.

use serde::{Deserialize, Serialize};

const SLOT_MS: u64 = 300_000;
/// An hour of them, and the one it begins in.
const MAX_SLOTS: u64 = 13;

/// The worst skew, and when it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorstSkew {
    /// The object's clock minus the agent's, whole seconds.
    pub skew_s: i64,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// The worst of each five minutes, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkewLog(Vec<WorstSkew>);

impl SkewLog {
    /// From `to_text`; what it did not write counts as nothing seen.
    pub fn from_text(text: &str) -> Self {
        let mut slots: Vec<WorstSkew> = serde_json::from_str(text).unwrap_or_default();
        slots.truncate(MAX_SLOTS as usize);
        Self(slots)
    }

    /// What is stored; pinned by a test.
    pub fn to_text(&self) -> String {
        // Numbers alone: nothing that JSON could not hold.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// An admitted request. True where that is worth a row: over `warn_s`, and worse than its five minutes so far.
    pub fn record(&mut self, now_ms: u64, skew_s: i64, warn_s: u64) -> bool {
        self.forget(now_ms);
        let seen = WorstSkew {
            skew_s,
            at_ms: now_ms,
        };
        match self.0.last_mut() {
            Some(last) if last.at_ms / SLOT_MS == now_ms / SLOT_MS => {
                if last.skew_s.unsigned_abs() >= skew_s.unsigned_abs() {
                    return false;
                }
                *last = seen;
            }
            _ => self.0.push(seen),
        }
        skew_s.unsigned_abs() > warn_s
    }

    /// The worst of the last hour; `None` where nothing was admitted in it.
    pub fn worst(&self, now_ms: u64) -> Option<WorstSkew> {
        let recent = self.0.iter().filter(|seen| is_recent(seen, now_ms));
        recent.max_by_key(|seen| seen.skew_s.unsigned_abs()).copied()
    }

    fn forget(&mut self, now_ms: u64) {
        self.0.retain(|seen| is_recent(seen, now_ms));
    }
}

/// What comes from the future is of a clock that was set back.
fn is_recent(seen: &WorstSkew, now_ms: u64) -> bool {
    let slots = (now_ms / SLOT_MS).checked_sub(seen.at_ms / SLOT_MS);
    slots.is_some_and(|slots| slots < MAX_SLOTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_100_000;
    const MINUTE_MS: u64 = 60_000;

    #[test]
    fn the_worst_of_the_last_hour_and_few_rows() {
        let mut log = SkewLog::default();
        let steps = [
            // minute, skew, worth a row, the worst then
            (0, 3, false, 3),
            (0, 250, true, 250),
            (0, 250, false, 250),
            (1, 249, false, 250),
            (1, -260, true, -260),
            (2, 259, false, -260),
            (10, 201, true, -260),
            (11, 201, false, -260),
            (12, 200, false, -260),
            (61, -1, false, -260),
            (71, 0, false, 201),
            (200, 0, false, 0),
        ];
        for (minute, skew_s, row, worst) in steps {
            let now_ms = NOW_MS + minute * MINUTE_MS;
            assert_eq!(
                log.record(now_ms, skew_s, 200),
                row,
                "minute {minute}, {skew_s} s"
            );
            assert_eq!(log.worst(now_ms).unwrap().skew_s, worst, "minute {minute}");
        }
        assert_eq!(log.worst(NOW_MS + 270 * MINUTE_MS), None);
    }

    #[test]
    fn it_is_bounded_and_survives_a_clock_that_goes_back() {
        let mut log = SkewLog::default();
        for minute in 0..500 {
            log.record(NOW_MS + minute * MINUTE_MS, 1, 200);
            assert!(log.0.len() <= MAX_SLOTS as usize, "{}", log.0.len());
        }
        log.record(NOW_MS, 2, 200);
        assert_eq!(
            log.worst(NOW_MS),
            Some(WorstSkew {
                skew_s: 2,
                at_ms: NOW_MS
            })
        );
    }

    #[test]
    fn the_row_is_pinned() {
        let mut log = SkewLog::default();
        log.record(NOW_MS, -250, 200);
        let text = r#"[{"skew_s":-250,"at_ms":1700000100000}]"#;
        assert_eq!(log.to_text(), text);
        assert_eq!(SkewLog::from_text(text), log);
        for other in ["", "{}", "[1]"] {
            assert_eq!(SkewLog::from_text(other), SkewLog::default(), "{other:?}");
        }
    }
}

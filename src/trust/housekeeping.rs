//! The scheduled sweep of D1: it deletes rows that have expired, in bounded batches.
//!
//! Revocations of tokens and sessions, their lifts and the tokens' owners are deleted a day after they expired, and the
//! memory of an applied event after 90 days. Revocations of
//! agents stay. So do the ledger's last row, because a number is given out once, and the last one that readers of the feed
//! see, because they know its number as the latest. What one run leaves, the next one takes, and nothing waits for it. Tickets are swept where they are made (`tickets`).

use serde_json::json;

use super::d1::{Sql, batch, number};
use super::ledger::feed::latest_shown;
use crate::app::App;

/// Rows per table and batch, and batches per run.
const SWEEP_ROWS: u64 = 1_000;
const SWEEP_BATCHES: usize = 20;
const SWEEP_TIMEOUT_MS: u64 = 20_000;
/// Kept this long after the end, for clocks that differ and for who still asks.
const GRACE_MS: u64 = 24 * 3_600_000;

/// An event is remembered this long (docs/design.md §3), and its sweep has this much less grace than the others.
const REMEMBERED_MS: u64 = 90 * 24 * 3_600_000 - GRACE_MS;

const SWEEPS: [&str; 3] = [
    concat!(
        "DELETE FROM revocations WHERE seq IN
      (SELECT seq FROM revocations WHERE expires_at_ms < ?1 AND kind IN ('token', 'session', 'lift')
         AND seq < (SELECT MAX(seq) FROM revocations) AND seq <> ",
        latest_shown!(),
        " ORDER BY expires_at_ms LIMIT ?2)"
    ),
    "DELETE FROM agent_tokens WHERE jti IN
      (SELECT jti FROM agent_tokens WHERE expires_at_ms < ?1 ORDER BY expires_at_ms LIMIT ?2)",
    "DELETE FROM applied_events WHERE (event_id, kind, subject) IN
      (SELECT event_id, kind, subject FROM applied_events WHERE applied_at_ms < ?1 - ?3
       ORDER BY applied_at_ms LIMIT ?2)",
];

/// One run.
pub async fn housekeeping(app: &App) {
    let before_ms = app.now_ms().saturating_sub(GRACE_MS);
    let sweep = |text: &'static str| {
        let mut values = vec![number(before_ms), number(SWEEP_ROWS)];
        if text.contains("?3") {
            values.push(number(REMEMBERED_MS));
        }
        Sql::new(text, values)
    };
    for _ in 0..SWEEP_BATCHES {
        match batch(app, SWEEP_TIMEOUT_MS, SWEEPS.into_iter().map(sweep).collect()).await {
            Ok(results) => {
                let swept = |result: &worker::D1Result| {
                    let meta = result.meta().ok().flatten();
                    meta.and_then(|meta| meta.changes).unwrap_or(0)
                };
                if results.iter().all(|result| (swept(result) as u64) < SWEEP_ROWS) {
                    return;
                }
            }
            Err(error) => {
                let fields = json!({ "error": error.to_string() });
                return app.log.warn("proxy.housekeeping.failed", fields);
            }
        }
    }
}

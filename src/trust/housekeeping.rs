//! The scheduled sweep of D1: rows whose time is over, in bounded batches.
//!
//! Tokens' revocations and the tokens' owners go a day after they expired; revocations of agents stay. What one run
//! leaves the next takes; nothing waits for it. Tickets are swept where they are made (`tickets`).

use serde_json::json;
use worker::Env;

use super::d1::{Sql, batch, number};
use crate::app::App;

/// Rows per table and run.
const SWEEP_ROWS: u64 = 1_000;
const SWEEP_TIMEOUT_MS: u64 = 20_000;
/// Kept this long after the end, for clocks that differ and for who still asks.
const GRACE_MS: u64 = 24 * 3_600_000;

const SWEEPS: [&str; 2] = [
    "DELETE FROM revocations WHERE seq IN
      (SELECT seq FROM revocations WHERE expires_at_ms < ?1 AND kind = 'token' ORDER BY expires_at_ms LIMIT ?2)",
    "DELETE FROM agent_tokens WHERE jti IN
      (SELECT jti FROM agent_tokens WHERE expires_at_ms < ?1 ORDER BY expires_at_ms LIMIT ?2)",
];

/// One run.
pub async fn housekeeping(env: Env) {
    // Faulty settings answer every request with 500 already; there is nothing to sweep then.
    let Ok(app) = App::new(env, None) else { return };
    let before_ms = app.now_ms().saturating_sub(GRACE_MS);
    let sweep = |text| Sql::new(text, [number(before_ms), number(SWEEP_ROWS)]);
    if let Err(error) = batch(&app, SWEEP_TIMEOUT_MS, SWEEPS.into_iter().map(sweep).collect()).await {
        app.log
            .warn("proxy.housekeeping.failed", json!({ "error": error.to_string() }));
    }
}

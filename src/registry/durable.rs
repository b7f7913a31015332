//! The last good signing keys in D1, for a fresh isolate during an outage (docs/design.md §4).
//!
//! This is one row. The later answer stays, whoever writes last. If D1 fails here, that is only a warning, and the
//! registry is asked instead.

use serde::Deserialize;
use serde_json::json;
use wasm_bindgen::JsValue;

use super::{Dependency, state};
use crate::app::App;
use crate::clock;
use crate::core::budget::Budget;
use crate::core::registry::keys::{MAX_AHEAD_MS, dated_ms};
use crate::protocol::keyset::KeySet;

const READ: &str = "SELECT document, fetched_at_ms FROM signing_keys WHERE id = 1";
const WRITE: &str = "INSERT INTO signing_keys (id, document, fetched_at_ms) VALUES (1, ?1, ?2) \
     ON CONFLICT (id) DO UPDATE SET document = excluded.document, fetched_at_ms = excluded.fetched_at_ms \
     WHERE excluded.fetched_at_ms > signing_keys.fetched_at_ms OR signing_keys.fetched_at_ms > ?3";

#[derive(Deserialize)]
struct Row {
    document: String,
    /// D1 has no other numbers.
    fetched_at_ms: f64,
}

/// The copy and when the registry was asked for it, Unix milliseconds.
pub async fn read(app: &App, budget: &Budget) -> Option<(KeySet, u64)> {
    let timeout_ms = app.config.trust.timeout_ms.min(budget.remaining_ms(app.now_ms()));
    let row = async { app.db()?.prepare(READ).first::<Row>(None).await };
    let problem = match clock::within_ms(timeout_ms, row).await {
        Some(Ok(None)) => return None,
        Some(Ok(Some(row))) => match KeySet::parse(row.document.as_bytes()) {
            Ok(keys) => {
                let fetched_at_ms = row.fetched_at_ms.max(0.0) as u64;
                let fresh_ms = app.config.registry.keys_fresh_ms;
                return Some((keys, dated_ms(fetched_at_ms, app.now_ms(), fresh_ms)));
            }
            Err(error) => error.to_string(),
        },
        Some(Err(error)) => error.to_string(),
        None => "no answer in time".into(),
    };
    state::warn(
        app,
        "proxy.registry.durable_keys_unreadable",
        Dependency::Keys,
        json!(problem),
    );
    None
}

/// Keeps a key set that the registry was asked for at `fetched_at_ms`.
pub async fn write(app: &App, keys: &KeySet, fetched_at_ms: u64) {
    let written = async {
        let values = [
            JsValue::from_str(&keys.to_json()),
            JsValue::from_f64(fetched_at_ms as f64),
            // A row that was dated by a clock that ran ahead is overwritten.
            JsValue::from_f64(app.now_ms().saturating_add(MAX_AHEAD_MS) as f64),
        ];
        app.db()?.prepare(WRITE).bind(&values)?.run().await
    };
    if let Err(error) = written.await {
        let problem = json!(error.to_string());
        state::warn(
            app,
            "proxy.registry.durable_keys_unwritten",
            Dependency::Keys,
            problem,
        );
    }
}

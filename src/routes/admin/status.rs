//! `GET /admin/v1/status`: how the kill switch stands (WIRE.md §10).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE` where the ledger cannot be read; 200.

use serde::Serialize;
use worker::Response;

use super::unavailable;
use crate::app::{App, binding};
use crate::error::ApiError;
use crate::http::json_response;
use crate::protocol::time::iso_ms;
use crate::registry;
use crate::trust::ledger::{feed, reconciliation};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'a str,
    environment: &'static str,
    now: String,
    /// The ledger's highest number.
    latest: u64,
    /// Rows by kind, source and whether they stand.
    counts: Vec<feed::Count>,
    /// `never`, `fresh`, `stale` or `dead`, in the isolate that answered.
    crl: &'static str,
    /// The last run; `startedAtMs` is 0 where there was none.
    reconciliation: reconciliation::State,
    feed_token_configured: bool,
    feed_stream_configured: bool,
}

/// See the module.
pub async fn handle(app: &App) -> Result<Response, ApiError> {
    let latest = feed::latest(app)
        .await
        .map_err(|error| unavailable(app, &error))?;
    let counts = feed::counts(app)
        .await
        .map_err(|error| unavailable(app, &error))?;
    let reconciliation = reconciliation::load(app).await;
    let status = Status {
        version: &app.config.version,
        environment: app.config.environment.as_str(),
        now: iso_ms(app.now_ms()),
        latest,
        counts,
        crl: registry::crl::state(app),
        reconciliation: reconciliation.map_err(|error| unavailable(app, &error))?,
        feed_token_configured: app.config.feed_token.is_some(),
        feed_stream_configured: app.env.durable_object(binding::REVOCATION_FEED).is_ok(),
    };
    json_response(200, &status)
}

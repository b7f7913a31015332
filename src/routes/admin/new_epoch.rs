//! `POST /admin/v1/feed/epoch`: begins a new epoch of the feed, after the database was restored (docs/wire.md §10.3).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE`; 200 with the new epoch and the ledger's latest number. Every reader of the feed
//! starts over.

use serde_json::json;

use super::unavailable;
use crate::app::App;
use crate::error::ApiError;
use crate::feed;
use crate::http::{self, Incoming, Response, json_response};
use crate::trust::ledger;

pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let epoch = app
        .new_ulid()
        .map_err(|_| http::internal())?
        .to_string()
        .to_ascii_lowercase();
    ledger::feed::begin_epoch(app, &epoch)
        .await
        .map_err(|error| unavailable(app, &error))?;
    feed::poke_later(app, Vec::new());
    let head = ledger::feed::head(app)
        .await
        .map_err(|error| unavailable(app, &error))?;
    let fields = json!({ "requestId": incoming.request_id.as_str(), "epoch": head.epoch });
    app.log.warn("proxy.admin.new_epoch", fields);
    json_response(200, &json!({ "epoch": head.epoch, "latest": head.latest }))
}

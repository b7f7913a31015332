//! `GET /v1/revocations?since=&limit=`: the ledger after a number (docs/wire.md §10.2).
//!
//! 400 `PROXY_FEED_INVALID_QUERY`; 503 `PROXY_REVOCATION_UNAVAILABLE`; 304 if `If-None-Match` names the latest
//! number; 200.

use worker::Response;

use super::{bad_query, tagged, unavailable};
use crate::app::App;
use crate::core::admin::page_query;
use crate::error::ApiError;
use crate::http::{Incoming, json_response};
use crate::trust::ledger::feed;

/// See the module.
pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, limit) = page_query(incoming.target.url.query_pairs()).map_err(bad_query)?;
    let page = feed::page(app, since, limit).await;
    let page = page.map_err(|error| unavailable(app, &error))?;
    tagged(&incoming, page.latest, || json_response(200, &page))
}

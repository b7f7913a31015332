//! `GET /admin/v1/revocations?since=&limit=`: the ledger after a number, as the feed shows it (docs/wire.md §10.3).
//!
//! 400 `PROXY_ADMIN_INVALID_INPUT`; 503 `PROXY_REVOCATION_UNAVAILABLE`; 200.

use super::{bad_input, unavailable};
use crate::app::App;
use crate::core::admin::page_query;
use crate::core::feed::Place;
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::trust::ledger::feed;

pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, limit) = page_query(incoming.target.query_pairs()).map_err(bad_input)?;
    let page = feed::page(app, &Place { since, epoch: None }, limit).await;
    json_response(200, &page.map_err(|error| unavailable(app, &error))?)
}

//! `GET /v1/revocations?since=&limit=&epoch=`: the ledger after a number (docs/wire.md §10.2).
//!
//! 400 `PROXY_FEED_INVALID_QUERY`; 503 `PROXY_REVOCATION_UNAVAILABLE`; 304 if `If-None-Match` names the epoch and the
//! latest number; 200. A number of another epoch, or above the latest, is answered from the beginning with `reset`.
//! An agent gets no reasons.

use super::{bad_query, epoch_of, tag, tagged, unavailable};
use crate::app::App;
use crate::core::admin::page_query;
use crate::core::feed::{Place, for_agents};
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::trust::ledger::feed;

pub async fn handle(app: &App, caller: Option<&Caller>, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, limit) = page_query(incoming.target.query_pairs()).map_err(bad_query)?;
    let epoch = epoch_of(&incoming)?;
    let page = feed::page(app, &Place { since, epoch }, limit).await;
    let mut page = page.map_err(|error| unavailable(app, &error))?;
    if caller.is_some() {
        page.items = page.items.into_iter().map(for_agents).collect();
    }
    tagged(&incoming, &tag(&page.epoch, page.latest), || {
        json_response(200, &page)
    })
}

//! `/admin/v1/dead-letters`: what could not be applied, and what is done about it (docs/wire.md §10).
//!
//! - `GET`: 200 with a page of them, oldest first, and how many there are
//! - `GET …/<id>`: 200 with its body
//! - `POST …/<id>/retry`: 200 with how it ended; what failed again is kept
//! - `POST …/<id>/drop`: 200
//! - 400 `PROXY_ADMIN_INVALID_INPUT`, 404 `PROXY_DEAD_LETTER_NOT_FOUND`, 503 `PROXY_REVOCATION_UNAVAILABLE`

use serde_json::json;

use super::{bad_input, unavailable};
use crate::app::App;
use crate::consumers::dead_letters;
use crate::core::admin::{number, page_query};
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code;

/// Answers the list.
pub async fn list(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, limit) = page_query(incoming.target.query_pairs()).map_err(bad_input)?;
    let count = dead_letters::count(app).await;
    let count = count.map_err(|error| unavailable(app, &error))?;
    let items = dead_letters::page(app, since, limit).await;
    let items = items.map_err(|error| unavailable(app, &error))?;
    let more = items.len() as u64 >= limit;
    let next = items.last().map_or(since, |last| last.id);
    let body = json!({
        "total": count.total, "revocations": count.revocations, "items": items, "next": next, "more": more,
    });
    json_response(200, &body)
}

/// Answers one.
pub async fn show(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let id = id_of(incoming.target.path().rsplit('/').next())?;
    let letter = dead_letters::one(app, id).await;
    let letter = letter.map_err(|error| unavailable(app, &error))?;
    json_response(200, &letter.ok_or_else(not_found)?)
}

/// Retries one.
pub async fn retry(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let id = id_of(incoming.target.path().rsplit('/').nth(1))?;
    let retried = dead_letters::retry(app, id).await;
    let retried = retried.map_err(|error| unavailable(app, &error))?;
    json_response(200, &retried.ok_or_else(not_found)?)
}

/// Drops one.
pub async fn drop_letter(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let id = id_of(incoming.target.path().rsplit('/').nth(1))?;
    let dropped = dead_letters::drop_letter(app, id).await;
    if !dropped.map_err(|error| unavailable(app, &error))? {
        return Err(not_found());
    }
    let fields = json!({ "requestId": incoming.request_id.as_str(), "id": id });
    app.log.warn("proxy.dead_letter.dropped", fields);
    json_response(200, &json!({ "dropped": true }))
}

fn id_of(segment: Option<&str>) -> Result<u64, ApiError> {
    segment
        .and_then(number)
        .ok_or_else(|| bad_input("the path does not hold a number"))
}

/// There is no letter of this number.
pub fn not_found() -> ApiError {
    ApiError::new(
        &code::PROXY_DEAD_LETTER_NOT_FOUND,
        "There is no such dead letter.",
    )
}

//! `GET /v1/time`: the clock that timestamps are compared with (docs/wire.md §10.1).

use serde::Serialize;

use crate::app::App;
use crate::error::ApiError;
use crate::http::{Response, json_response};
use crate::protocol::proof::MAX_SKEW_SECONDS;
use crate::protocol::time::iso_ms;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Time {
    now: String,
    unix_seconds: u64,
    max_skew_seconds: u64,
}

/// Answers 200, never stored by a cache.
pub fn handle(app: &App) -> Result<Response, ApiError> {
    let now_ms = app.now_ms();
    let time = Time {
        now: iso_ms(now_ms),
        unix_seconds: now_ms / 1000,
        max_skew_seconds: MAX_SKEW_SECONDS,
    };
    Ok(json_response(200, &time)?.with_header("cache-control", "no-store"))
}

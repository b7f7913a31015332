//! `GET /admin/v1/import`: how much of what an earlier proxy kept is in the record (docs/wire.md §10.3).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE` if D1 does not answer; otherwise 200. `state` is `notBegun` until the first request of
//! an agent begins the import, then `running`, then `finished`.

use super::unavailable;
use crate::app::App;
use crate::error::ApiError;
use crate::http::{Response, json_response};
use crate::trust::takeover;

pub async fn handle(app: &App) -> Result<Response, ApiError> {
    let status = takeover::status(app)
        .await
        .map_err(|error| unavailable(app, &error))?;
    json_response(200, &status)
}

//! `POST /admin/v1/reconcile`: the scheduled run, now (docs/wire.md §10).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE` where the registry gave no list; 200 with what was done. `outcome` is `partial`
//! where there was more than one run does: ask again, and it goes on.

use worker::Response;

use super::unavailable;
use crate::app::App;
use crate::error::ApiError;
use crate::http::json_response;
use crate::revocation::reconcile::reconcile;

/// See the module.
pub async fn handle(app: &App) -> Result<Response, ApiError> {
    let report = reconcile(app).await.map_err(|error| unavailable(app, &error))?;
    json_response(200, &report)
}

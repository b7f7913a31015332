//! `POST /admin/v1/reconcile`: reconciles with the registry's CRL now (docs/wire.md §10.3).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE` if the registry gave no list; otherwise 200 with what was done. If `outcome` is
//! `partial`, there was more to do than one run does: ask again, and the next run goes on.

use super::unavailable;
use crate::app::App;
use crate::error::ApiError;
use crate::http::{Response, json_response};
use crate::revocation::reconcile::reconcile;

pub async fn handle(app: &App) -> Result<Response, ApiError> {
    let report = reconcile(app).await.map_err(|error| unavailable(app, &error))?;
    json_response(200, &report)
}

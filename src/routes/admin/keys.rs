//! `POST /admin/v1/keys/refresh`: fetches the registry's signing keys now (docs/wire.md §10.3).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE` if the registry gave no keys; otherwise 200 with the `kid`s that are active. This
//! isolate uses them at once, every other one within 30 s.

use serde_json::json;

use super::unavailable;
use crate::app::App;
use crate::error::ApiError;
use crate::http::{Response, json_response};
use crate::registry::keys;

pub async fn handle(app: &App) -> Result<Response, ApiError> {
    let keys = keys::refresh_now(app)
        .await
        .map_err(|_| unavailable(app, &"the registry gave no signing keys"))?;
    let active: Vec<&str> = keys.active_kids().collect();
    app.log
        .warn("proxy.admin.keys_refreshed", json!({ "kids": active }));
    json_response(200, &json!({ "kids": active }))
}

//! The operator's routes (docs/wire.md §10.3), one file for each.
//!
//! They exist only if `ADMIN_TOKEN` is set, and are open to its bearer alone (`routes::sign_in`). The work is done in
//! `revocation` and read from the ledger. These files parse the request and write the answer.

pub mod dead_letters;
pub mod import;
pub mod keys;
pub mod lift;
pub mod list;
pub mod new_epoch;
pub mod page;
pub mod reconcile;
pub mod revoke;
pub mod status;

use crate::app::App;
use crate::error::ApiError;
use crate::protocol::code;

/// 400: what is wrong stands in the message.
fn bad_input(reason: &'static str) -> ApiError {
    ApiError::new(&code::PROXY_ADMIN_INVALID_INPUT, reason)
}

/// 503: nothing was done, or not all of it; the same request completes it.
pub fn unavailable(app: &App, error: &impl std::fmt::Display) -> ApiError {
    let fields = serde_json::json!({ "error": error.to_string() });
    app.log.error("proxy.admin.failed", fields);
    let message = "The request was not carried out, or not completely: send it again.";
    ApiError::new(&code::PROXY_REVOCATION_UNAVAILABLE, message).with_retry_after(1)
}

//! The revocation feed for sidecars that check for themselves (docs/wire.md §10.2), one file for each route.

pub mod bundle;
pub mod page;
pub mod stream;

use worker::Response;

use crate::app::App;
use crate::core::admin::matches_tag;
use crate::error::ApiError;
use crate::http::Incoming;
use crate::protocol::code;

/// Whether the caller has it already.
fn is_known(incoming: &Incoming, latest: u64) -> bool {
    matches_tag(incoming.header("if-none-match").as_deref(), &tag_of(latest))
}

fn tag_of(latest: u64) -> String {
    format!("\"{latest}\"")
}

/// The answer, or 304 where the caller has it already.
fn tagged(
    incoming: &Incoming,
    latest: u64,
    answer: impl FnOnce() -> Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    let mut response = match is_known(incoming, latest) {
        true => Response::empty()
            .map_err(|_| crate::http::internal())?
            .with_status(304),
        false => answer()?,
    };
    let headers = response.headers_mut();
    // Literal names, a number and a literal value: setting them cannot fail.
    let _ = headers.set("etag", &tag_of(latest));
    let _ = headers.set("cache-control", "private, no-cache");
    Ok(response)
}

fn bad_query(reason: &'static str) -> ApiError {
    ApiError::new(&code::PROXY_FEED_INVALID_QUERY, reason)
}

fn unavailable(app: &App, error: &impl std::fmt::Display) -> ApiError {
    let fields = serde_json::json!({ "error": error.to_string() });
    app.log.error("proxy.feed.failed", fields);
    ApiError::new(
        &code::PROXY_REVOCATION_UNAVAILABLE,
        "The ledger does not answer at the moment.",
    )
    .with_retry_after(1)
}

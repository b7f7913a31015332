//! `GET /v1/events/revocations`: the ledger as it grows, as server-sent events (docs/wire.md §10.2).
//!
//! The stream begins after `Last-Event-ID`, otherwise after `?since=`, otherwise at the beginning. 400
//! `PROXY_FEED_INVALID_QUERY`; 503 `PROXY_FEED_STREAM_UNAVAILABLE`; 200, and the stream ends when the agent that
//! opened it is revoked. A `HEAD` opens none.

use serde_json::json;
use worker::{Headers, Response, ResponseBody, ResponseBuilder};

use super::bad_query;
use crate::app::App;
use crate::core::admin::{number, page_query};
use crate::core::feed::{Listener, ListeningAgent};
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{self, Incoming};
use crate::protocol::code;
use crate::revocation::feed::{NoStream, open};

/// See the module.
pub async fn handle(app: &App, caller: Option<&Caller>, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, _) = page_query(incoming.target.url.query_pairs()).map_err(bad_query)?;
    let since = match incoming.header("last-event-id") {
        Some(id) => number(id.trim()).ok_or_else(|| bad_query("Last-Event-ID must be a number"))?,
        None => since,
    };
    let listener = Listener {
        since,
        caller: caller.map(|caller| ListeningAgent {
            agent: caller.agent().clone(),
            jti: caller.jti(),
            expires_at_ms: caller.ait_expires_at_ms(),
        }),
    };
    if incoming.target.is_head() {
        return Ok(ResponseBuilder::new().with_headers(stream_headers()).empty());
    }
    let response = open(app, &listener).await.map_err(|error| {
        if let NoStream::Failed(error) = error {
            app.log.warn("proxy.feed.failed", json!({ "error": error }));
        }
        let message = "This proxy has no stream of revocations at the moment: poll GET /v1/revocations.";
        ApiError::new(&code::PROXY_FEED_STREAM_UNAVAILABLE, message).with_retry_after(15)
    })?;
    let ResponseBody::Stream(body) = response.body() else {
        return Err(http::internal());
    };
    Ok(ResponseBuilder::new()
        .with_headers(stream_headers())
        .stream(body.clone()))
}

fn stream_headers() -> Headers {
    let headers = Headers::new();
    // Literal names and values: setting them cannot fail.
    let _ = headers.set("content-type", "text/event-stream");
    let _ = headers.set("cache-control", "no-cache, no-transform");
    headers
}

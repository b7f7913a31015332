//! `GET /v1/events/revocations`: the ledger as it grows, as server-sent events (docs/wire.md §10.2).
//!
//! The stream begins after `Last-Event-ID`, otherwise after `?since=`, otherwise at the beginning; `?epoch=` says which
//! epoch the number belongs to. 400 `PROXY_FEED_INVALID_QUERY`; 429 `PROXY_FEED_STREAM_LIMIT_EXCEEDED`; 503
//! `PROXY_FEED_STREAM_UNAVAILABLE`; 200, and the stream ends after an hour, or when the agent that opened it is revoked
//! or loses its last pair. A `HEAD` opens none.

use serde_json::json;
use worker::{ResponseBody, ResponseBuilder};

use super::{Call, EPOCH_HEADER, NoAnswer, bad_query, epoch_of};
use crate::app::App;
use crate::core::admin::page_query;
use crate::core::feed::{Listener, ListeningAgent, Place, last_event_id};
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{self, Incoming, Response};
use crate::protocol::code;

pub async fn handle(app: &App, caller: Option<&Caller>, incoming: Incoming) -> Result<Response, ApiError> {
    let (since, _) = page_query(incoming.target.query_pairs()).map_err(bad_query)?;
    let epoch = epoch_of(&incoming)?;
    let last = incoming.header("last-event-id").unwrap_or_default();
    let since = last_event_id(last).map_err(bad_query)?.unwrap_or(since);
    let listener = Listener {
        place: Place { since, epoch },
        caller: caller.map(|caller| ListeningAgent {
            agent: caller.agent().clone(),
            jti: caller.jti(),
            expires_at_ms: caller.ait_expires_at_ms(),
        }),
    };
    if incoming.target.is_head() {
        return Ok(with_stream_headers(Response::new(200, Vec::new())));
    }
    let opened = super::call(app, super::CALL_URL, &Call::Stream(listener)).await;
    let opened = match opened {
        Ok(response) if response.status_code() == 200 => Ok(response),
        Ok(response) if response.status_code() == 429 => return Err(too_many(caller)),
        Ok(response) => Err(Some(format!("status {}", response.status_code()))),
        Err(NoAnswer::Failed(error)) => Err(Some(error)),
        Err(NoAnswer::NoBinding) => Err(None),
    };
    let response = opened.map_err(|error| {
        if let Some(error) = error {
            app.log.warn("proxy.feed.failed", json!({ "error": error }));
        }
        let message = "This proxy has no stream of revocations at the moment: poll GET /v1/revocations.";
        ApiError::new(&code::PROXY_FEED_STREAM_UNAVAILABLE, message).with_retry_after(15)
    })?;
    let epoch = response.headers().get(EPOCH_HEADER).ok().flatten();
    let ResponseBody::Stream(body) = response.body() else {
        return Err(http::internal());
    };
    let stream = ResponseBuilder::new().stream(body.clone());
    let response = with_stream_headers(stream.into());
    Ok(match epoch {
        // Letters and digits.
        Some(epoch) => response.with_header(EPOCH_HEADER, epoch),
        None => response,
    })
}

fn with_stream_headers(response: Response) -> Response {
    response
        .with_header("content-type", "text/event-stream")
        .with_header("cache-control", "no-cache, no-transform")
        .with_header("x-accel-buffering", "no")
}

fn too_many(caller: Option<&Caller>) -> ApiError {
    let message = match caller {
        Some(_) => "This agent, or this proxy, has as many streams as it may have: poll GET /v1/revocations.",
        None => "This proxy has as many streams as it may have: poll GET /v1/revocations.",
    };
    ApiError::new(&code::PROXY_FEED_STREAM_LIMIT_EXCEEDED, message).with_retry_after(15)
}

//! Requests and responses as the routes see them.
//!
//! `Incoming` holds a request whose body was read under its limit: nothing after
//! this file can meet a body that is too large. `path_and_query` is the text the
//! client signed, taken from the request's URL as the runtime gives it, never
//! put together again (WIRE.md §3).

use futures_util::StreamExt;
use serde::Serialize;
use url::Url;
use worker::{Headers, Request, Response, ResponseBuilder};

use crate::core::budget::Budget;
use crate::error::ApiError;
use crate::protocol::code;
use crate::protocol::ids::RequestId;

/// Tells the caller its skew: the proxy's clock minus its own, seconds.
pub const SKEW_HEADER: &str = "x-claw-clock-skew";

/// A request line, parsed.
pub struct Target {
    /// Upper case.
    pub method: String,
    /// The whole URL.
    pub url: Url,
    /// Path and, where not empty, `?` and query: as received.
    pub path_and_query: String,
}

impl Target {
    /// `None` where the runtime's URL does not parse, which it always does.
    pub fn of(request: &Request) -> Option<Self> {
        let raw = request.inner().url();
        let url = Url::parse(&raw).ok()?;
        let after_scheme = raw.split_once("://")?.1;
        let from_path = after_scheme
            .find(['/', '?', '#'])
            .and_then(|at| after_scheme.get(at..))
            .unwrap_or("/");
        let without_fragment = from_path.split('#').next().unwrap_or("/");
        let path_and_query = without_fragment
            .strip_suffix('?')
            .unwrap_or(without_fragment)
            .to_owned();
        Some(Self {
            method: request.inner().method(),
            url,
            path_and_query,
        })
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or("/")
    }
}

/// A request whose body was read.
pub struct Incoming {
    /// The request line.
    pub target: Target,
    /// The headers.
    pub headers: Headers,
    /// The raw body; empty where there is none.
    pub body: Vec<u8>,
    /// The caller's where it is well-formed, else a new one.
    pub request_id: RequestId,
    /// What the request may still spend on the registry, whatever it must ask (DESIGN.md §1).
    pub budget: Budget,
}

impl Incoming {
    /// A header's value. Repeated headers are joined by `, `, as Fetch does it.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).ok().flatten()
    }
}

/// How reading a body can fail.
pub enum BodyError {
    /// Over the limit.
    TooLarge,
    /// It broke off.
    Broken,
}

/// Refuses by the declared length, before a byte is read.
pub fn declared_too_large(headers: &Headers, limit: usize) -> bool {
    let declared = headers.get("content-length").ok().flatten();
    declared
        .and_then(|text| text.trim().parse::<u64>().ok())
        .is_some_and(|length| length > limit as u64)
}

/// Reads the body, at most `limit` bytes of it.
///
/// # Errors
/// See `BodyError`.
pub async fn read_body(request: &mut Request, limit: usize) -> Result<Vec<u8>, BodyError> {
    if request.inner().body().is_none() {
        return Ok(Vec::new());
    }
    let mut stream = request.stream().map_err(|_| BodyError::Broken)?;
    let mut body = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| BodyError::Broken)?;
        if body.len().saturating_add(chunk.len()) > limit {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// A JSON answer.
///
/// # Errors
/// 500 where the value cannot be written, which no type of this crate causes.
pub fn json_response(status: u16, body: &impl Serialize) -> Result<Response, ApiError> {
    ResponseBuilder::new()
        .with_status(status)
        .from_json(body)
        .map_err(|_| internal())
}

/// A refusal as a response.
pub fn error_response(error: &ApiError, request_id: &str) -> Response {
    let headers = Headers::new();
    let set = |name: &str, value: &str| {
        // Names and values are ours and well-formed: there is nothing to do about a failure.
        let _ = headers.set(name, value);
    };
    set("content-type", "application/json");
    if let Some(seconds) = error.retry_after_s {
        set("retry-after", &seconds.to_string());
    }
    if let Some(allow) = &error.allow {
        set("allow", allow);
    }
    if let Some(skew_s) = error.skew_s {
        set(SKEW_HEADER, &skew_s.to_string());
    }
    ResponseBuilder::new()
        .with_status(error.code.status)
        .with_headers(headers)
        .fixed(error.body(request_id).into_bytes())
}

/// The refusal of last resort: something of ours broke.
pub fn internal() -> ApiError {
    ApiError::new(
        &code::INTERNAL_SERVER_ERROR,
        "The proxy could not answer this request.",
    )
}

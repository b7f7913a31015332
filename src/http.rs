//! Requests and responses as the routes see them.
//!
//! `Head` is a request whose body nobody has looked at. `Unread` is that body, which the gate reads once the headers
//! are proven (docs/design.md §2, step 3). The two together make an `Incoming`, so nothing after this file can meet a
//! body that is too large. `path_and_query` is the text that the client signed. It is taken from the request's URL as
//! the runtime gives it, and never put together again (docs/wire.md §3).

use serde::Serialize;
use serde_json::json;
use url::Url;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::JsFuture;
use worker::{Headers, Request, Response, ResponseBuilder};

use crate::clock;
use crate::core::budget::Budget;
use crate::error::ApiError;
use crate::protocol::code::{self, Code};
use crate::protocol::ids::RequestId;

/// A body must have come within this time.
const BODY_TIMEOUT_MS: u64 = 10_000;

#[wasm_bindgen(module = "/glue/body.js")]
extern "C" {
    /// See the JavaScript.
    #[wasm_bindgen(js_name = readBody)]
    fn read_body(message: &web_sys::Request, limit: f64, limit_ms: f64) -> js_sys::Promise;
}

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
    /// `None` where the URL does not parse, because of a `Host` that is none: the runtime passes on what it was sent.
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

    /// Only the answer's status and headers are wanted.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or("/")
    }
}

/// A request but for its body.
pub struct Head {
    /// The request line.
    pub target: Target,
    pub headers: Headers,
    /// The caller's where it is well-formed, else a new one.
    pub request_id: RequestId,
    /// What the request may still spend on the registry, whatever it must ask (docs/design.md §1).
    pub budget: Budget,
}

impl Head {
    /// A header's value. Repeated headers are joined by `, `, as Fetch does it.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).ok().flatten()
    }

    /// The whole request. The time that its body took is not the registry's.
    pub fn with_body(self, body: Body) -> Incoming {
        Incoming {
            target: self.target,
            headers: self.headers,
            body: body.bytes,
            request_id: self.request_id,
            budget: self.budget.paused(body.took_ms),
        }
    }
}

/// A body that was read.
pub struct Body {
    /// The raw bytes; none where there is no body.
    pub bytes: Vec<u8>,
    /// How long it took to come, milliseconds.
    pub took_ms: u64,
}

/// A body that is yet to be read.
pub struct Unread {
    request: Request,
    limit: usize,
    broken: &'static Code,
}

impl Unread {
    /// The body of this request, of at most `limit` bytes; `broken` is the code of one that breaks off.
    ///
    /// # Errors
    /// 413 by the declared length, before a byte is read.
    pub fn new(request: Request, limit: usize, broken: &'static Code) -> Result<Self, ApiError> {
        let declared = request.headers().get("content-length").ok().flatten();
        let too_large = declared
            .and_then(|text| text.trim().parse::<u64>().ok())
            .is_some_and(|length| length > limit as u64);
        if too_large {
            return Err(body_too_large(limit));
        }
        Ok(Self {
            request,
            limit,
            broken,
        })
    }

    /// Reads it.
    ///
    /// # Errors
    /// 413, 408 after 10 s, or the code of a body that broke off.
    pub async fn read(self) -> Result<Body, ApiError> {
        let started_ms = clock::now_ms();
        let read = read_body(self.request.inner(), self.limit as f64, BODY_TIMEOUT_MS as f64);
        let read = JsFuture::from(read)
            .await
            .map_err(|_| ApiError::new(self.broken, "The request body ended early."))?;
        match read.dyn_ref::<js_sys::Uint8Array>() {
            Some(bytes) => Ok(Body {
                bytes: bytes.to_vec(),
                took_ms: clock::now_ms().saturating_sub(started_ms),
            }),
            None if read == "too large" => Err(body_too_large(self.limit)),
            None => Err(ApiError::new(
                &code::PROXY_BODY_TIMEOUT,
                "The request body did not arrive in time.",
            )),
        }
    }
}

fn body_too_large(limit: usize) -> ApiError {
    ApiError::new(&code::PROXY_BODY_TOO_LARGE, "The request body is too large.")
        .with_details(json!({ "maxBytes": limit }))
}

/// A request whose body was read.
pub struct Incoming {
    /// The request line.
    pub target: Target,
    pub headers: Headers,
    /// The raw body; empty where there is none.
    pub body: Vec<u8>,
    /// The caller's where it is well-formed, else a new one.
    pub request_id: RequestId,
    /// What the request may still spend on the registry, whatever it must ask (docs/design.md §1).
    pub budget: Budget,
}

impl Incoming {
    /// A header's value. Repeated headers are joined by `, `, as Fetch does it.
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers.get(name).ok().flatten()
    }
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
    if let Some((name, value)) = error.code.challenge() {
        set(name, value);
    }
    if let Some(skew_s) = error.skew_s {
        set(SKEW_HEADER, &skew_s.to_string());
    }
    ResponseBuilder::new()
        .with_status(error.code.status)
        .with_headers(headers)
        .fixed(error.body(request_id).into_bytes())
}

/// The answer to a `HEAD`: the same, without its body.
pub fn without_body(response: Response) -> Response {
    let headers = response.headers().clone();
    ResponseBuilder::new()
        .with_status(response.status_code())
        .with_headers(headers)
        .empty()
}

/// The refusal of last resort: something of ours broke.
pub fn internal() -> ApiError {
    ApiError::new(
        &code::INTERNAL_SERVER_ERROR,
        "The proxy could not answer this request.",
    )
}

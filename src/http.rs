//! Requests and responses as the routes see them.
//!
//! `Head` is a request whose body nobody has looked at. `Unread` is that body, which the gate reads once the headers
//! are proven (docs/design.md §2, step 3). The two together make an `Incoming`, so nothing after this file can meet a
//! body that is too large. `path_and_query` is the text that the client signed. It is taken from the request's URL as
//! the runtime gives it, and never put together again (docs/wire.md §3).

use serde::Serialize;
use serde_json::json;
use url::{Url, form_urlencoded};
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::Request;

use crate::clock;
use crate::core::budget::Budget;
use crate::error::ApiError;
use crate::protocol::code::{self, Code};
use crate::protocol::ids::RequestId;

/// A body must have come within this time.
const BODY_TIMEOUT_MS: u64 = 10_000;

#[wasm_bindgen(module = "/glue/http.js")]
extern "C" {
    /// See the JavaScript.
    #[wasm_bindgen(js_name = readBody)]
    fn read_body(request: &Request, limit: f64, limit_ms: f64) -> js_sys::Promise;

    /// See the JavaScript.
    #[wasm_bindgen(js_name = respond)]
    fn respond(status: u16, headers: &str, body: &[u8]) -> web_sys::Response;
}

/// Tells the caller its skew: the proxy's clock minus its own, seconds.
pub const SKEW_HEADER: &str = "x-claw-clock-skew";

/// A request line.
pub struct Target {
    /// Upper case.
    pub method: String,
    /// Path and, where not empty, `?` and query: as received.
    pub path_and_query: String,
    /// The whole URL, as the runtime gives it.
    raw: String,
}

impl Target {
    /// `None` where the URL does not parse, because of a `Host` that is none: the runtime passes on what it was sent.
    fn of(method: &str, raw: &str) -> Option<Self> {
        let after_scheme = raw.split_once("://")?.1;
        let path_at = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
        let (authority, from_path) = after_scheme.split_at(path_at);
        if !is_plain_authority(authority) {
            Url::parse(raw).ok()?;
        }
        let from_path = if from_path.is_empty() { "/" } else { from_path };
        let without_fragment = from_path.split('#').next().unwrap_or("/");
        let path_and_query = without_fragment
            .strip_suffix('?')
            .unwrap_or(without_fragment)
            .to_owned();
        Some(Self {
            method: method.to_owned(),
            path_and_query,
            raw: raw.to_owned(),
        })
    }

    /// The whole URL, parsed, for the few who need more of it than the path.
    ///
    /// # Errors
    /// 500, which cannot be: a URL that does not parse was refused before.
    pub fn url(&self) -> Result<Url, ApiError> {
        Url::parse(&self.raw).map_err(|_| internal())
    }

    /// Only the answer's status and headers are wanted.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or("/")
    }

    /// The query's names and values, decoded.
    pub fn query_pairs(&self) -> form_urlencoded::Parse<'_> {
        let query = self.path_and_query.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes())
    }

    /// Whether it came by TLS.
    pub fn is_https(&self) -> bool {
        self.raw.starts_with("https:")
    }
}

/// A host name of ASCII letters, with or without a port, which needs no parser to be seen valid. Most are.
fn is_plain_authority(authority: &str) -> bool {
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let is_label = |label: &str| {
        label.starts_with(|first: char| first.is_ascii_lowercase())
            && !label.starts_with("xn--")
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    host.split('.').all(is_label)
        && port.parse::<u16>().is_ok()
        && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// What the entry hands over: the method, the URL, then each header's name and value, in lines (`glue/entry.js`).
pub struct Headers {
    lines: String,
}

impl Headers {
    /// The request line and the headers of what the entry handed over.
    pub fn parse(lines: String) -> (Option<Target>, Self) {
        let mut first = lines.splitn(3, '\n');
        let target = Target::of(first.next().unwrap_or_default(), first.next().unwrap_or_default());
        (target, Self { lines })
    }

    /// The method, upper case.
    pub fn method(&self) -> &str {
        self.lines.split('\n').next().unwrap_or_default()
    }

    /// The path, also of a URL that does not parse; for the log.
    pub fn logged_path(&self) -> &str {
        let raw = self.lines.split('\n').nth(1).unwrap_or_default();
        let after_scheme = raw.split_once("://").map_or(raw, |(_, rest)| rest);
        let from_path = after_scheme.find('/').and_then(|at| after_scheme.get(at..));
        from_path.unwrap_or("/").split(['?', '#']).next().unwrap_or("/")
    }

    /// A header's value; the name in lower case. Repeated headers are joined by `, `, as Fetch does it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut lines = self.lines.split('\n').skip(2);
        while let (Some(found), Some(value)) = (lines.next(), lines.next()) {
            if found == name {
                return Some(value);
            }
        }
        None
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
    /// See [`Headers::get`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
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
    pub fn new(
        request: Request,
        headers: &Headers,
        limit: usize,
        broken: &'static Code,
    ) -> Result<Self, ApiError> {
        let too_large = headers
            .get("content-length")
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
        let read = read_body(&self.request, self.limit as f64, BODY_TIMEOUT_MS as f64);
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
    /// See [`Headers::get`].
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }
}

/// An answer. One of our own takes a single step into JavaScript when it is whole; one that the runtime has made, such as
/// a stream or an upgrade, is passed on.
pub struct Response {
    status: u16,
    /// Names in lower case.
    headers: Vec<(&'static str, String)>,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    OfRuntime(worker::Response),
}

impl Response {
    /// An answer with these bytes as its body, which may be none.
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Bytes(body),
        }
    }

    pub fn status_code(&self) -> u16 {
        self.status
    }

    /// Sets a header. A value that is not one line of printable ASCII is left out.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(found, _)| *found != name);
        self.headers.push((name, value.into()));
        self
    }

    /// The answer to a `HEAD`: the same, without its body.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        if let Content::OfRuntime(response) = &mut self.content {
            let headers = response.headers().clone();
            let builder = worker::ResponseBuilder::new().with_status(self.status);
            self.content = Content::OfRuntime(builder.with_headers(headers).empty());
        } else {
            self.content = Content::Bytes(Vec::new());
        }
        self
    }

    /// What the runtime takes.
    pub fn into_runtime(self) -> JsValue {
        match self.content {
            Content::Bytes(body) => {
                let mut lines = String::new();
                for (name, value) in &self.headers {
                    // Anything else would make JavaScript throw, or begin another header.
                    if value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
                        lines.extend(["\n", name, "\n", value]);
                    }
                }
                respond(self.status, lines.get(1..).unwrap_or_default(), &body).into()
            }
            Content::OfRuntime(mut response) => {
                for (name, value) in self.headers {
                    // Well-formed, and the response is our own: nothing refuses it.
                    let _ = response.headers_mut().set(name, &value);
                }
                web_sys::Response::from(response).into()
            }
        }
    }
}

impl From<worker::Response> for Response {
    fn from(response: worker::Response) -> Self {
        Self {
            status: response.status_code(),
            headers: Vec::new(),
            content: Content::OfRuntime(response),
        }
    }
}

/// A JSON answer.
///
/// # Errors
/// 500 where the value cannot be written, which no type of this crate causes.
pub fn json_response(status: u16, body: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(body).map_err(|_| internal())?;
    Ok(Response::new(status, body).with_header("content-type", "application/json"))
}

/// A refusal as a response.
pub fn error_response(error: &ApiError, request_id: &str) -> Response {
    let body = error.body(request_id).into_bytes();
    let mut response = Response::new(error.code.status, body).with_header("content-type", "application/json");
    if let Some(seconds) = error.retry_after_s {
        response = response.with_header("retry-after", seconds.to_string());
    }
    if let Some(allow) = &error.allow {
        response = response.with_header("allow", allow.as_str());
    }
    if let Some((name, value)) = error.code.challenge() {
        response = response.with_header(name, value);
    }
    if let Some(skew_s) = error.skew_s {
        response = response.with_header(SKEW_HEADER, skew_s.to_string());
    }
    response
}

/// The refusal of last resort: something of ours broke.
pub fn internal() -> ApiError {
    ApiError::new(
        &code::INTERNAL_SERVER_ERROR,
        "The proxy could not answer this request.",
    )
}

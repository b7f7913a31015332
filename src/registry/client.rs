//! One outbound call to the registry: bounded in time and size, never redirected, and sorted by what it says about
//! the registry.
//!
//! A failure in the sense of docs/design.md §4 comes back as what the circuit is to be told. An answer comes back
//! with its body, for the dependency's own module to read.

use futures_util::StreamExt;
use wasm_bindgen::JsValue;
use worker::{
    AbortSignal, CacheMode, Fetch, Headers, Method, Request, RequestInit, RequestRedirect, Response,
    ResponseBody,
};

use crate::app::App;
use crate::core::circuit::{FailureKind, Outcome};
use crate::core::registry::answer::{self, Class};

/// What the registry says in an answer that nobody needs more of than its status.
pub const NO_BODY: usize = 0;
/// The largest answer of the internal routes.
pub const MAX_INTERNAL_BODY_BYTES: usize = 16 * 1024;
/// An `ETag` longer than this is not kept.
const MAX_TAG_BYTES: usize = 256;

/// A call to make.
pub struct Call<'a> {
    /// From the root of the registry.
    pub path: &'a str,
    /// Name and value.
    pub headers: &'a [(&'a str, &'a str)],
    /// JSON; with one it is a POST, without one a GET past every cache.
    pub body: Option<String>,
    /// A tag the caller has: 304 is an answer.
    pub if_none_match: Option<&'a str>,
    /// The largest body that is read; `NO_BODY`: none is.
    pub max_body_bytes: usize,
}

/// How it ended.
pub enum Reply {
    /// 2xx, 401, 404, or 304 where the call had a tag.
    Answer {
        status: u16,
        /// The whole body; empty where none was asked for.
        body: Vec<u8>,
        /// The body's tag.
        tag: Option<String>,
    },
    /// An answer whose body is over the limit; it was not read to its end.
    TooLarge,
    /// Another 4xx: unavailability for this caller, not counted.
    Refused { status: u16 },
    Failed {
        kind: FailureKind,
        /// As the registry asked for, milliseconds.
        retry_after_ms: Option<u64>,
    },
}

impl Reply {
    /// What the circuit is told when there is no answer, or an answer that is not valid.
    pub fn outcome(&self, unless_failed: FailureKind) -> Outcome {
        match *self {
            Self::Failed { kind, retry_after_ms } => Outcome::Failure { kind, retry_after_ms },
            Self::Refused { .. } => Outcome::Inconclusive,
            Self::Answer { .. } | Self::TooLarge => Outcome::Failure {
                kind: unless_failed,
                retry_after_ms: None,
            },
        }
    }

    /// For log lines.
    pub fn describe(&self) -> String {
        match self {
            Self::Answer { status, .. } | Self::Refused { status } => status.to_string(),
            Self::TooLarge => "too large".into(),
            Self::Failed { kind, .. } => kind.as_str().into(),
        }
    }
}

/// Makes the call; it takes `timeout_ms` at most, the body included.
pub async fn make(app: &App, timeout_ms: u32, call: &Call<'_>) -> Reply {
    let failed = |kind| Reply::Failed {
        kind,
        retry_after_ms: None,
    };
    let Ok(request) = request(app, call) else {
        return failed(FailureKind::Connection);
    };
    let signal = AbortSignal::from(web_sys::AbortSignal::timeout_with_u32(timeout_ms));
    // The signal cuts a stalled body as well, and the stream may then end as if it were whole.
    let broken = |signal: &AbortSignal| match signal.aborted() {
        true => failed(FailureKind::Timeout),
        false => failed(FailureKind::Connection),
    };
    let Ok(mut response) = Fetch::Request(request).send_with_signal(&signal).await else {
        return broken(&signal);
    };

    let status = response.status_code();
    let header = |name: &str| response.headers().get(name).ok().flatten();
    match answer::classify(status, call.if_none_match.is_some()) {
        Class::Answer => {}
        Class::Refused => {
            discard(&response).await;
            return Reply::Refused { status };
        }
        Class::Failure(kind) => {
            let retry_after_ms = answer::retry_after_ms(header("retry-after").as_deref(), app.now_ms());
            discard(&response).await;
            return Reply::Failed { kind, retry_after_ms };
        }
    }
    let tag = header("etag").filter(|tag| tag.len() <= MAX_TAG_BYTES);
    let declared = header("content-length")
        .and_then(|length| length.parse::<u64>().ok())
        .unwrap_or(0);
    if call.max_body_bytes == NO_BODY || declared > call.max_body_bytes as u64 {
        discard(&response).await;
        return match call.max_body_bytes {
            NO_BODY => Reply::Answer {
                status,
                body: Vec::new(),
                tag,
            },
            _ => Reply::TooLarge,
        };
    }
    match read(&mut response, declared as usize, call.max_body_bytes).await {
        _ if signal.aborted() => failed(FailureKind::Timeout),
        Ok(Some(body)) => Reply::Answer { status, body, tag },
        Ok(None) => Reply::TooLarge,
        Err(_) => broken(&signal),
    }
}

fn request(app: &App, call: &Call<'_>) -> worker::Result<Request> {
    let mut url = app.config.registry.url.clone();
    url.set_path(call.path);
    url.set_query(None);
    url.set_fragment(None);

    let headers = Headers::new();
    headers.set("accept", "application/json")?;
    for (name, value) in call.headers {
        headers.set(name, value)?;
    }
    if let Some(tag) = call.if_none_match {
        headers.set("if-none-match", tag)?;
    }
    let mut init = RequestInit::new();
    // docs/wire.md §4: past any shared cache. A POST is never cached, and carries secrets that must not go elsewhere.
    init.with_redirect(RequestRedirect::Manual)
        .with_cache(CacheMode::NoStore);
    if let Some(body) = &call.body {
        headers.set("content-type", "application/json")?;
        init.with_method(Method::Post)
            .with_body(Some(JsValue::from_str(body)));
    }
    init.with_headers(headers);
    Request::new_with_init(url.as_str(), &init)
}

/// `None`: over the limit. Room is made for what was declared, and beyond that in small steps: a vector that doubles
/// would hold a list of 32 MiB three times while it grows, in an isolate of 128 MB.
async fn read(response: &mut Response, declared: usize, limit: usize) -> worker::Result<Option<Vec<u8>>> {
    if !matches!(response.body(), ResponseBody::Stream(_)) {
        return Ok(Some(Vec::new()));
    }
    let mut stream = response.stream()?;
    let mut body = Vec::with_capacity(declared.min(limit));
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        let length = body.len().saturating_add(chunk.len());
        if length > limit {
            return Ok(None);
        }
        if length > body.capacity() {
            body.reserve_exact(chunk.len().max(body.len() / 4));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

/// A body that nobody reads holds its connection, of which a request has few.
async fn discard(response: &Response) {
    if let ResponseBody::Stream(stream) = response.body() {
        // It is of no use either way.
        let _ = wasm_bindgen_futures::JsFuture::from(stream.cancel()).await;
    }
}

//! A small HTTP client: one origin, one way to sign in, answers of bounded size, and waits of bounded length.
//!
//! A credential goes to that origin only. Redirects are not followed, and plain HTTP is allowed for loopback
//! addresses alone unless the caller says otherwise. Neither the credential nor the body of an answer appears in an
//! error text.
//!
//! `ureq` does the work. It is blocking, which suits two threads, and it has a time limit for each single read, which
//! tells a stream that has died from one that has nothing to say.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::HeaderMap;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, RETRY_AFTER};
use ureq::{Body, Proxy};
use url::{Host, Url};

use clawdentity_protocol::time::parse_http_date;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// See `with_call_timeout`.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Three comments of the event stream (docs/wire.md §10) may be lost before it counts as dead.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(45);
/// The longest answer that is not a page: errors are at most 4 KiB (docs/wire.md §5), a single item as much.
pub const MAX_SMALL_ANSWER_BYTES: usize = 64 * 1024;

/// A credential: visible ASCII. It is never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Trims the text. `None` if it is blank or cannot be the value of a header.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let fits = (1..=4096).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Makes the headers of one request from its method and its path with query.
pub type Signer = dyn Fn(&str, &str) -> Vec<(String, String)> + Send + Sync;

/// How to sign in.
#[derive(Clone)]
pub enum Auth {
    /// Does not sign in.
    None,
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// Makes the headers of each request: Claw authentication as a known agent, whose key the program holds.
    Signed(Arc<Signer>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be used.
    #[error("{0}")]
    Address(&'static str),
    /// Nobody answered in time, or the answer ended early.
    #[error("{0}")]
    Unreachable(String),
    /// The answer is larger than any that is expected.
    #[error("the answer is too large")]
    TooLarge,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `ETag`.
    pub etag: Option<String>,
    /// `Retry-After` in milliseconds, if it is a number of seconds.
    pub retry_after_ms: Option<u64>,
    /// `Date`, Unix milliseconds; whole seconds.
    pub date_ms: Option<u64>,
    /// The body.
    pub body: Vec<u8>,
}

/// A client for one origin.
#[derive(Clone)]
pub struct Client {
    calls: ureq::Agent,
    streams: ureq::Agent,
    call_timeout: Duration,
    base: String,
    auth: Auth,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client for the origin of this URL. The URL's path, if it has one, is put before every requested path.
    ///
    /// # Errors
    /// `Address`: no http(s) URL with a host, one with user info, query or fragment, or plain HTTP to another machine
    /// where `allow_http` is not set. That holds without a credential too: signing keys that somebody on the way has
    /// exchanged admit whomever they like.
    pub fn new(url: &str, auth: Auth, allow_http: bool) -> Result<Self, HttpError> {
        let url = Url::parse(url.trim()).map_err(|_| HttpError::Address("not a URL"))?;
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => return Err(HttpError::Address("the URL has no host")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(HttpError::Address("not an http(s) URL"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(HttpError::Address("the URL must not hold credentials"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(HttpError::Address("the URL must not have a query or a fragment"));
        }
        if url.scheme() == "http" && !loopback && !allow_http {
            return Err(HttpError::Address(match auth {
                Auth::None => "what comes over plain http:// may have been changed on its way; use https://",
                _ => "plain http:// would show the credential to the network; use https://",
            }));
        }
        let proxy = if loopback { None } else { Proxy::try_from_env() };
        let config = || {
            ureq::Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(proxy.clone())
                .timeout_connect(Some(CONNECT_TIMEOUT))
                .user_agent(concat!("clawdentity-proxy/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            calls: config().build().new_agent(),
            streams: config()
                .timeout_recv_response(Some(CALL_TIMEOUT))
                .timeout_per_read(Some(SILENCE_TIMEOUT))
                .build()
                .new_agent(),
            call_timeout: CALL_TIMEOUT,
            base: url.as_str().trim_end_matches('/').to_owned(),
            auth,
        })
    }

    /// The same client with another time limit for each `get` and `post`. The default is 10 s.
    #[must_use]
    pub fn with_call_timeout(self, call_timeout: Duration) -> Self {
        Self { call_timeout, ..self }
    }

    /// A `GET` whose answer may have up to `max_bytes`.
    ///
    /// # Errors
    /// As [`HttpError`] lists them. Any status is an answer.
    pub fn get(
        &self,
        path: &str,
        if_none_match: Option<&str>,
        max_bytes: usize,
    ) -> Result<Answer, HttpError> {
        // What a shared cache holds may be minutes old (docs/wire.md §4).
        let mut request = self.calls.get(self.url(path)).header(CACHE_CONTROL, "no-store");
        for (name, value) in self.credentials("GET", path) {
            request = request.header(name, value);
        }
        if let Some(tag) = if_none_match {
            request = request.header("If-None-Match", tag);
        }
        let request = request.config().timeout_global(Some(self.call_timeout)).build();
        read_answer(request.call(), max_bytes)
    }

    /// A `POST` of a JSON text.
    ///
    /// # Errors
    /// As [`HttpError`] lists them. Any status is an answer.
    pub fn post(&self, path: &str, json: &str) -> Result<Answer, HttpError> {
        let mut request = self
            .calls
            .post(self.url(path))
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in self.credentials("POST", path) {
            request = request.header(name, value);
        }
        let request = request.config().timeout_global(Some(self.call_timeout)).build();
        read_answer(request.send(json), MAX_SMALL_ANSWER_BYTES)
    }

    /// A `GET` of an event stream: its bytes if the status is 200 and it is one, otherwise the answer. A read fails
    /// after 45 s of silence.
    ///
    /// # Errors
    /// As [`HttpError`] lists them.
    pub fn stream(
        &self,
        path: &str,
        last_event_id: u64,
    ) -> Result<Result<Box<dyn Read + Send>, Answer>, HttpError> {
        let mut request = self
            .streams
            .get(self.url(path))
            .header(ACCEPT, "text/event-stream")
            .header("Last-Event-ID", last_event_id.to_string());
        for (name, value) in self.credentials("GET", path) {
            request = request.header(name, value);
        }
        let response = request.call().map_err(unreachable)?;
        let is_stream = response.status().as_u16() == 200
            && header(response.headers(), &CONTENT_TYPE)
                .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/event-stream"));
        if is_stream {
            Ok(Ok(Box::new(response.into_body().into_reader())))
        } else {
            // What is not a stream may have no end either: its body is nobody's matter.
            Ok(Err(head(&response)))
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn credentials(&self, method: &str, path: &str) -> Vec<(String, String)> {
        match &self.auth {
            Auth::None => Vec::new(),
            Auth::Bearer(secret) => vec![(AUTHORIZATION.to_string(), format!("Bearer {}", secret.0))],
            Auth::Signed(sign) => sign(method, path),
        }
    }
}

fn read_answer(
    result: Result<ureq::http::Response<Body>, ureq::Error>,
    max_bytes: usize,
) -> Result<Answer, HttpError> {
    let mut response = result.map_err(unreachable)?;
    let mut answer = head(&response);
    let body = response
        .body_mut()
        .with_config()
        .limit(max_bytes as u64)
        .read_to_vec();
    answer.body = body.map_err(|error| match error {
        ureq::Error::BodyExceedsLimit(_) => HttpError::TooLarge,
        other => unreachable(other),
    })?;
    Ok(answer)
}

fn head(response: &ureq::http::Response<Body>) -> Answer {
    let headers = response.headers();
    Answer {
        status: response.status().as_u16(),
        etag: header(headers, &ETAG).map(str::to_owned),
        retry_after_ms: header(headers, &RETRY_AFTER)
            .and_then(|text| text.trim().parse::<u64>().ok())
            .map(|seconds| seconds.saturating_mul(1000)),
        date_ms: header(headers, &DATE).and_then(parse_http_date),
        body: Vec::new(),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &ureq::http::HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn unreachable(error: ureq::Error) -> HttpError {
    HttpError::Unreachable(match error {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        other => other.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_credential_may_go() {
        let secret = || Auth::Bearer(Secret::parse("s3cret").unwrap());
        let table = [
            ("https://proxy.example.com", true),
            ("https://proxy.example.com/base/", true),
            ("http://127.0.0.1:8787", true),
            ("http://localhost:8787", true),
            ("http://[::1]:8787", true),
            ("http://proxy.example.com", false),
            ("http://10.0.0.1", false),
            ("https://user:pass@proxy.example.com", false),
            ("https://proxy.example.com?token=x", false),
            ("ftp://proxy.example.com", false),
            ("proxy.example.com", false),
            ("", false),
        ];
        for (url, expect) in table {
            let client = Client::new(url, secret(), false);
            assert_eq!(client.is_ok(), expect, "{url}");
            assert!(!format!("{client:?}").contains("s3cret"));
        }
        assert!(Client::new("http://10.0.0.1", secret(), true).is_ok());
        assert!(Client::new("http://10.0.0.1", Auth::None, false).is_err());
        assert!(Client::new("http://127.0.0.1", Auth::None, false).is_ok());
    }

    #[test]
    fn secrets() {
        for (text, good) in [
            (" abc\n", true),
            ("", false),
            (" ", false),
            ("a b", false),
            ("a\nb", false),
            ("é", false),
        ] {
            assert_eq!(Secret::parse(text).is_some(), good, "{text:?}");
        }
        assert_eq!(format!("{:?}", Secret::parse("abc").unwrap()), "Secret");
    }
}

//! The only place that turns a refusal into HTTP.
//!
//! A refusal is a code of docs/wire.md §8 with a text for people. The answer is
//! `{"error":{"code","message","requestId","details"?}}` and at most 4 KiB long. It repeats nothing of the request
//! that was not parsed (docs/wire.md §5.1), because the texts are written here and never by the caller.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

use crate::core::pipeline::Refusal;
use crate::protocol::code::Code;

/// Largest error body (docs/wire.md §5).
pub const MAX_ERROR_BYTES: usize = 4096;

/// What a caller is told when it is refused.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// The code: its name is the API, the log field and the metric label at once.
    pub code: &'static Code,
    /// For people; English, one sentence.
    pub message: Cow<'static, str>,
    /// Only where it helps the caller and leaks nothing.
    pub details: Option<Value>,
    /// `Retry-After`, seconds.
    pub retry_after_s: Option<u64>,
    /// `Allow`, on 405.
    pub allow: Option<String>,
    /// `X-Claw-Clock-Skew`, where the caller's clock is about to fail it or just did; seconds.
    pub skew_s: Option<i64>,
}

impl ApiError {
    /// A refusal without details.
    pub fn new(code: &'static Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            retry_after_s: None,
            allow: None,
            skew_s: None,
        }
    }

    /// Adds `details`.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Adds `Retry-After`, at least one second.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// Adds `Allow`.
    #[must_use]
    pub fn with_allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// The JSON body. Details that would make it too large are left out, as a cut JSON helps nobody.
    pub fn body(&self, request_id: &str) -> String {
        let with = |details: Option<&Value>| {
            let envelope = Envelope {
                error: Body {
                    code: self.code.name,
                    message: &self.message,
                    request_id,
                    details,
                },
            };
            serde_json::to_string(&envelope).unwrap_or_default()
        };
        let whole = with(self.details.as_ref());
        if whole.len() <= MAX_ERROR_BYTES {
            whole
        } else {
            with(None)
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let mut error = Self::new(refusal.code(), refusal.message());
        error.details = refusal.details();
        match refusal.retry_after_s() {
            Some(seconds) => error.with_retry_after(seconds),
            None => error,
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    code: &'a str,
    message: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::code;

    #[test]
    fn envelope_is_pinned() {
        let plain = ApiError::new(
            &code::PROXY_AUTH_REPLAY,
            "This request was already accepted once.",
        );
        assert_eq!(
            plain.body("req-12345"),
            r#"{"error":{"code":"PROXY_AUTH_REPLAY","message":"This request was already accepted once.","requestId":"req-12345"}}"#
        );
        let detailed = plain.with_details(json!({"reason": "x"}));
        assert!(
            detailed
                .body("req-12345")
                .ends_with(r#""details":{"reason":"x"}}}"#)
        );
    }

    #[test]
    fn details_that_do_not_fit_are_left_out() {
        let error = ApiError::new(&code::PROXY_AUTH_REPLAY, "m").with_details(json!("x".repeat(5000)));
        let body = error.body("req-12345");
        assert!(body.len() <= MAX_ERROR_BYTES && !body.contains("details"));
        let with = |chars: usize| {
            let error = ApiError::new(&code::PROXY_AUTH_REPLAY, "m").with_details(json!("x".repeat(chars)));
            error.body("req-12345")
        };
        let room = 4096 - with(0).len();
        assert_eq!(with(room).len(), 4096);
        assert!(with(room).contains("details") && !with(room + 1).contains("details"));
    }
}

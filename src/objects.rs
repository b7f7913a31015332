//! Calls Durable Objects: one POST of a text, and one text back.
//!
//! A call has a time limit that includes its retries (`core::retry`). Every call is idempotent, so one whose answer
//! was lost can be made again. What a call says is defined by each object's own module.

use wasm_bindgen::JsValue;
use worker::{Method, Request, RequestInit, Response, Stub};

use crate::clock;
use crate::core::retry::{CallFailure, retry_pause_ms};

/// The object gave no answer; the texts are for the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The binding is missing.
    #[error("{0}")]
    NoBinding(String),
    /// It may or may not have been done.
    #[error("{0}")]
    Failed(String),
}

/// Posts `body` to the object that `stub` finds, and returns what it answers with 200.
///
/// # Errors
/// No such answer within `limit_ms`.
pub async fn post(
    limit_ms: u64,
    url: &str,
    body: &str,
    stub: impl Fn() -> worker::Result<Stub>,
) -> Result<String, NoAnswer> {
    clock::within_ms(limit_ms, post_until_answered(url, body, stub))
        .await
        .unwrap_or_else(|| Err(NoAnswer::Failed("no answer in time".into())))
}

async fn post_until_answered(
    url: &str,
    body: &str,
    stub: impl Fn() -> worker::Result<Stub>,
) -> Result<String, NoAnswer> {
    let mut failures = 0;
    loop {
        // A stub whose object failed stays broken: each try takes a fresh one.
        let stub = stub().map_err(|error| NoAnswer::NoBinding(error.to_string()))?;
        let error = match post_once(&stub, url, body).await {
            Ok(mut response) if response.status_code() == 200 => {
                return response
                    .text()
                    .await
                    .map_err(|error| NoAnswer::Failed(error.to_string()));
            }
            Ok(response) => return Err(NoAnswer::Failed(format!("status {}", response.status_code()))),
            Err(error) => error,
        };
        failures += 1;
        let Some(pause_ms) = retry_pause_ms(failures, failure(&error)) else {
            return Err(NoAnswer::Failed(error.to_string()));
        };
        clock::sleep_ms(pause_ms).await;
    }
}

async fn post_once(stub: &Stub, url: &str, body: &str) -> worker::Result<Response> {
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_body(Some(JsValue::from_str(body)));
    stub.fetch_with_request(Request::new_with_init(url, &init)?).await
}

/// The flags are properties of the JavaScript error; what does not have them is not retryable.
fn failure(error: &worker::Error) -> CallFailure {
    let original = error.to_js_value();
    let flag = |name: &str| {
        js_sys::Reflect::get(&original, &JsValue::from_str(name)).is_ok_and(|value| value.is_truthy())
    };
    CallFailure {
        retryable: flag("retryable"),
        overloaded: flag("overloaded"),
    }
}

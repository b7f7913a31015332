//! Calls Durable Objects: one text to the object's method `call`, and one text back.
//!
//! A call has a time limit that includes its retries (`core::retry`). Every call is idempotent, so one whose answer
//! was lost can be made again. What a call says is defined by each object's own module.

use wasm_bindgen::JsValue;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen_futures::JsFuture;
use worker::Env;

use crate::clock;
use crate::core::backoff::spread;
use crate::core::retry::{CallFailure, retry_pause_ms};
use crate::random;

#[wasm_bindgen(module = "/glue/objects.js")]
extern "C" {
    /// See the JavaScript.
    #[wasm_bindgen(js_name = callObject)]
    fn call_object(
        env: &JsValue,
        binding: &str,
        name: &str,
        text: &str,
        limit_ms: f64,
    ) -> Option<js_sys::Promise>;
}

/// Where an object is found.
pub struct Address {
    /// The binding of its namespace.
    pub binding: &'static str,
    /// Its name there.
    pub name: String,
}

/// The object gave no answer; the texts are for the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoAnswer {
    /// The binding is missing.
    #[error("Binding `{0}` is undefined.")]
    NoBinding(&'static str),
    /// It may or may not have been done.
    #[error("{0}")]
    Failed(String),
}

/// Asks the object at `address`, and returns its answer.
///
/// # Errors
/// No answer within `limit_ms`.
pub async fn call(env: &Env, limit_ms: u64, address: &Address, text: &str) -> Result<String, NoAnswer> {
    let started_ms = clock::now_ms();
    let mut failures = 0;
    loop {
        let left_ms = limit_ms.saturating_sub(clock::now_ms().saturating_sub(started_ms));
        let asked = call_object(env, address.binding, &address.name, text, left_ms as f64)
            .ok_or(NoAnswer::NoBinding(address.binding))?;
        let error = match JsFuture::from(asked).await {
            Ok(answer) => {
                return answer
                    .as_string()
                    .ok_or_else(|| NoAnswer::Failed("the answer is not a text".into()));
            }
            Err(error) => error,
        };
        failures += 1;
        match retry_pause_ms(failures, failure(&error)) {
            Some(pause_ms) if pause_ms < left_ms => clock::sleep_ms(spread(pause_ms, random::byte())).await,
            _ => return Err(NoAnswer::Failed(worker::Error::from(error).to_string())),
        }
    }
}

/// The flags are properties of the JavaScript error; what does not have them is not retryable.
fn failure(error: &JsValue) -> CallFailure {
    let flag = |name: &str| {
        js_sys::Reflect::get(error, &JsValue::from_str(name)).is_ok_and(|value| value.is_truthy())
    };
    CallFailure {
        retryable: flag("retryable"),
        overloaded: flag("overloaded"),
    }
}

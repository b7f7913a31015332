//! One queue message, read in a way that cannot throw.

use js_sys::{Object, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use worker::worker_sys;

/// A message of a batch.
pub struct QueueMessage {
    inner: worker_sys::Message,
}

impl From<JsValue> for QueueMessage {
    fn from(value: JsValue) -> Self {
        Self {
            inner: value.unchecked_into(),
        }
    }
}

impl QueueMessage {
    /// The platform's id of it.
    pub fn id(&self) -> String {
        self.inner.id().map(String::from).unwrap_or_default()
    }

    /// How often it was tried, this time included.
    pub fn attempts(&self) -> u32 {
        // Not among what `worker` wraps.
        let attempts = Reflect::get(&self.inner, &JsValue::from_str("attempts"));
        attempts
            .ok()
            .and_then(|value| value.as_f64())
            .map_or(1, |attempts| attempts as u32)
    }

    /// Its body, where that is a string.
    pub fn body(&self) -> Option<String> {
        self.inner.body().ok()?.as_string()
    }

    /// It is done.
    pub fn ack(&self) {
        // A message that could not be acknowledged comes again, and its effect is idempotent.
        let _ = self.inner.ack();
    }

    /// It comes again.
    pub fn retry(&self, delay_s: u32) {
        let options = Object::new();
        let _ = Reflect::set(
            &options,
            &JsValue::from_str("delaySeconds"),
            &JsValue::from(delay_s),
        );
        // The call can only fail for options that are not as they should be, and these are.
        let _ = self.inner.retry(options.into());
    }
}

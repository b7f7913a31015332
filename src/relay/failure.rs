//! What can break in a session. It goes to the log only; callers get 500.

use serde_json::json;

use crate::log::Log;

/// Something of ours or of the platform's broke.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// One that is not the platform's.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<getrandom::Error> for Failure {
    fn from(error: getrandom::Error) -> Self {
        Self(error.to_string())
    }
}

/// One line, and nothing of the message's.
pub fn log_failure(error: &Failure) {
    Log.error("proxy.relay.failed", json!({ "error": error.to_string() }));
}

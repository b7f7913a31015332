//! Log lines: one JSON object each, with `timestamp`, `level`, `message` and `service` (docs/wire.md §9).
//!
//! `message` is a stable name, such as `proxy.auth.verified`, on which operators alert. Everything that varies is in
//! the other fields. Tokens, nonces, proofs and payloads are never fields. The line is built here and can be tested
//! natively; only `emit` touches the console, and only on Workers. A line that is counted is a data point as well
//! (`core::metrics`).

use serde_json::{Map, Value};

use crate::protocol::time::iso_ms;

/// The `service` of every line.
pub const SERVICE: &str = "proxy";

/// How much an operator should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Info,
    /// Something degraded; the service goes on.
    Warn,
    /// Something is lost or broken and needs a person.
    Error,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The text of one line. `fields` is a JSON object; anything else stands under `details`.
pub fn line(now_ms: u64, level: Level, message: &str, fields: Value) -> String {
    let mut object = Map::new();
    object.insert("timestamp".into(), iso_ms(now_ms).into());
    object.insert("level".into(), level.as_str().into());
    object.insert("message".into(), message.into());
    object.insert("service".into(), SERVICE.into());
    match fields {
        Value::Object(fields) => object.extend(fields),
        Value::Null => {}
        other => {
            object.insert("details".into(), other);
        }
    }
    Value::Object(object).to_string()
}

#[cfg(target_arch = "wasm32")]
thread_local! {
    /// An isolate's settings never change. Until they are read, every line is written.
    static LEAST: std::cell::Cell<Level> = const { std::cell::Cell::new(Level::Info) };
}

/// Writes no line below this level from now on.
#[cfg(target_arch = "wasm32")]
pub fn set_least(level: Level) {
    LEAST.set(level);
}

/// Writes lines to the console.
#[cfg(target_arch = "wasm32")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Log;

#[cfg(target_arch = "wasm32")]
impl Log {
    /// Writes an `info` line.
    pub fn info(self, message: &str, fields: Value) {
        self.emit(Level::Info, message, fields);
    }

    /// Writes a `warn` line.
    pub fn warn(self, message: &str, fields: Value) {
        self.emit(Level::Warn, message, fields);
    }

    /// Writes an `error` line.
    pub fn error(self, message: &str, fields: Value) {
        self.emit(Level::Error, message, fields);
    }

    fn emit(self, level: Level, message: &str, fields: Value) {
        crate::metrics::write(|| crate::core::metrics::of_line(message, &fields));
        if level < LEAST.get() {
            return;
        }
        let line = line(crate::clock::now_ms(), level, message, fields);
        match level {
            Level::Info => worker::console_log!("{line}"),
            Level::Warn => worker::console_warn!("{line}"),
            Level::Error => worker::console_error!("{line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn line_is_pinned() {
        assert_eq!(
            line(1_700_000_000_123, Level::Warn, "proxy.x", json!({"a": 1})),
            r#"{"timestamp":"2023-11-14T22:13:20.123Z","level":"warn","message":"proxy.x","service":"proxy","a":1}"#
        );
    }
}

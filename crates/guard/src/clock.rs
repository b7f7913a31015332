//! The native clock: the only place in the guard that reads it. Everything else takes `now_ms`.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time, milliseconds.
#[allow(clippy::disallowed_methods)] // the adapter itself
pub fn now_ms() -> u64 {
    // A clock before 1970 makes every token not valid yet: closed.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

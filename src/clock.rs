//! The only place that reads the wall clock and sets timers. Everything else is told the time.

use std::time::Duration;

use futures_util::future::{Either, select};

/// Unix time, milliseconds. On Workers it stands still while a request computes.
#[allow(clippy::disallowed_methods)] // the one place that may
pub fn now_ms() -> u64 {
    // A whole number, far below 2^53.
    js_sys::Date::now() as u64
}

/// Waits.
pub async fn sleep_ms(ms: u64) {
    worker::Delay::from(Duration::from_millis(ms)).await;
}

/// `future`, unless `ms` pass first: then `None`, and the future is dropped.
pub async fn within_ms<T>(ms: u64, future: impl Future<Output = T>) -> Option<T> {
    let timer = std::pin::pin!(sleep_ms(ms));
    let future = std::pin::pin!(future);
    match select(future, timer).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

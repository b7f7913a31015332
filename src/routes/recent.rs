//! What this isolate remembers of the last hour for the operator's page: `core::operator_page::recent`, in memory.

use std::cell::RefCell;

use crate::app::App;
use crate::core::operator_page::recent::Recent;

thread_local! {
    static RECENT: RefCell<Option<Recent>> = const { RefCell::new(None) };
}

/// Lends it for one step, which must not wait or come back here.
pub fn with<R>(app: &App, step: impl FnOnce(&mut Recent, u64) -> R) -> R {
    let now_ms = app.now_ms();
    RECENT.with_borrow_mut(|recent| step(recent.get_or_insert_with(|| Recent::new(now_ms)), now_ms))
}

//! The object's one alarm: it is set for the next thing that is due, and is never lost (docs/design.md §5.5).
//!
//! The alarm is set only if it is not already set for that moment or an earlier one. Setting it writes a row, so an
//! alarm that fires early is left alone and finds nothing to do. A handler that fails sets the alarm again by itself
//! and needs no settings for that, because the platform stops after six tries. What is due already was left by the
//! step that has just ended, and is not due again before a second has passed. So whatever goes wrong, an alarm never
//! fires in a tight loop.

use std::cell::Cell;
use std::rc::Rc;

use worker::{ScheduledTime, Storage};

use super::failure::Failure;

/// An alarm that is this late counts as lost and is set again.
const LOST_AFTER_MS: u64 = 60_000;
/// The pause after a handler that failed.
const AGAIN_AFTER_MS: u64 = 30_000;
/// The least time between two alarms for the same thing.
const LEAST_MS: u64 = 1_000;

/// What is known about the platform's alarm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing, because the object has just woken.
    Nothing,
    /// None is set.
    Unset,
    /// It is set, Unix milliseconds.
    At(u64),
}

/// The object's alarm.
pub struct Alarm {
    storage: Storage,
    known: Cell<Known>,
}

impl Alarm {
    /// The alarm of an object that has just woken.
    pub fn new(storage: Storage) -> Self {
        Self {
            storage,
            known: Cell::new(Known::Nothing),
        }
    }

    /// The platform fired it, so it is no longer set.
    pub fn fired(&self) {
        self.known.set(Known::Unset);
    }

    /// What has to be done beside the step so that it is set for `due_ms` or earlier.
    pub fn arm(
        self: &Rc<Self>,
        due_ms: Option<u64>,
        now_ms: u64,
    ) -> Option<impl Future<Output = Result<(), Failure>> + 'static> {
        let mut due_ms = due_ms?;
        if due_ms <= now_ms {
            due_ms = now_ms.saturating_add(LEAST_MS);
        }
        let known = self.known.get();
        if matches!(known, Known::At(at_ms) if at_ms <= due_ms && now_ms < at_ms.saturating_add(LOST_AFTER_MS))
        {
            return None;
        }
        self.known.set(Known::At(due_ms));
        let alarm = self.clone();
        Some(async move {
            if known == Known::Nothing {
                let set = alarm.storage.get_alarm().await?;
                match (set.and_then(|ms| u64::try_from(ms).ok()), alarm.known.get()) {
                    // A step in between may have found something earlier still.
                    (Some(set_ms), Known::At(due_ms)) if set_ms <= due_ms => {
                        alarm.known.set(Known::At(set_ms));
                        return Ok(());
                    }
                    (_, Known::At(due_ms)) => return alarm.set(due_ms).await,
                    // It fired meanwhile, and the step that it made set it.
                    (_, Known::Nothing | Known::Unset) => return Ok(()),
                }
            }
            alarm.set(due_ms).await
        })
    }

    /// The handler failed.
    ///
    /// # Errors
    /// It could not be set, so the platform must call again.
    pub async fn failed(&self, now_ms: u64) -> Result<(), Failure> {
        let due_ms = now_ms.saturating_add(AGAIN_AFTER_MS);
        self.known.set(Known::At(due_ms));
        self.set(due_ms).await
    }

    async fn set(&self, due_ms: u64) -> Result<(), Failure> {
        let at = js_sys::Date::new(&wasm_bindgen::JsValue::from_f64(due_ms as f64));
        let result = self.storage.set_alarm(ScheduledTime::new(at)).await;
        if result.is_err() {
            self.known.set(Known::Nothing);
        }
        Ok(result?)
    }
}

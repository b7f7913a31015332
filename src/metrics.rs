//! Metrics by the platform's Analytics Engine (docs/metrics.md). `core::metrics` says what a point is; this file writes it.
//!
//! The binding `METRICS` is optional, and without it nothing is built and nothing is called. A point is one call, which the
//! platform does not make anybody wait for; one that it refuses is lost, and nothing else is.

use std::cell::OnceCell;

use js_sys::{Function, JSON, Reflect};
use wasm_bindgen::{JsCast as _, JsValue};
use worker::Env;

use crate::core::metrics::Point;

const BINDING: &str = "METRICS";
const METHOD: &str = "writeDataPoint";

/// A dataset and its method, looked up once.
struct Dataset {
    it: JsValue,
    write: Function,
}

thread_local! {
    /// An isolate's bindings never change.
    static DATASET: OnceCell<Option<Dataset>> = const { OnceCell::new() };
}

/// Finds the dataset, at the start of every entry point; the first one counts.
pub fn find(env: &Env) {
    DATASET.with(|dataset| {
        dataset.get_or_init(|| {
            let it = Reflect::get(env, &BINDING.into()).ok()?;
            let write = Reflect::get(&it, &METHOD.into()).ok()?.dyn_into().ok()?;
            Some(Dataset { it, write })
        });
    });
}

/// Writes a point, if there is a dataset. `point` is not called otherwise.
pub fn write(point: impl FnOnce() -> Option<Point>) {
    DATASET.with(|dataset| {
        let Some(Some(dataset)) = dataset.get() else {
            return;
        };
        let Some(point) = point() else { return };
        if let Ok(point) = JSON::parse(&point.to_json()) {
            // Nobody waits for it, and nothing depends on it.
            let _ = dataset.write.call1(&dataset.it, &point);
        }
    });
}

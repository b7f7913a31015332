//! `GET /v1/bundles/revocations.tar.gz`: the revocations in force as an OPA bundle (docs/wire.md §10.2).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE`; 304 if `If-None-Match` names the latest number, before anything else is read;
//! 200. The archive is built as a whole, because its header says how large it is, and compressed by the platform.

use js_sys::{Array, Function, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use worker::{Response, ResponseBody, ResponseBuilder};

use super::{is_known, tagged, unavailable};
use crate::app::App;
use crate::core::feed::Bundle;
use crate::error::ApiError;
use crate::http::{self, Incoming};
use crate::trust::ledger::feed;

/// Rows read by one query.
const ROWS: u64 = 5_000;

/// See the module.
pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let failed = |error| unavailable(app, &error);
    let latest = feed::latest(app).await.map_err(failed)?;
    if is_known(&incoming, latest) {
        return tagged(&incoming, latest, || Err(http::internal()));
    }
    let mut bundle = Bundle::default();
    let mut since = 0;
    loop {
        let items = feed::standing_between(app, since, latest, ROWS)
            .await
            .map_err(failed)?;
        let Some(last) = items.last() else { break };
        since = last.seq;
        let now_ms = app.now_ms();
        items.into_iter().for_each(|item| bundle.push(item, now_ms));
    }
    let archive = bundle.tar(latest);
    tagged(&incoming, latest, || {
        let plain = ResponseBuilder::new().fixed(archive);
        let mut response = compressed(plain).map_err(|_| http::internal())?;
        // A literal name and value: setting them cannot fail.
        let _ = response.headers_mut().set("content-type", "application/gzip");
        Ok(response)
    })
}

/// `CompressionStream` is not among what is wrapped.
fn compressed(plain: Response) -> Result<Response, JsValue> {
    let plain: web_sys::Response = plain.into();
    let body = plain.body().ok_or(JsValue::NULL)?;
    let constructor: Function = Reflect::get(&js_sys::global(), &"CompressionStream".into())?.dyn_into()?;
    let gzip = Reflect::construct(&constructor, &Array::of1(&"gzip".into()))?;
    let pipe: Function = Reflect::get(&body, &"pipeThrough".into())?.dyn_into()?;
    let piped = pipe.call1(&body, &gzip)?.dyn_into()?;
    Ok(ResponseBuilder::new().body(ResponseBody::Stream(piped)))
}

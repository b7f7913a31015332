//! `GET /v1/bundles/revocations.tar.gz`: the revocations in force as an OPA bundle (docs/wire.md §10.2).
//!
//! 503 `PROXY_REVOCATION_UNAVAILABLE`; 304 if `If-None-Match` names the epoch and the latest number; 200. An agent gets
//! no reasons.
//!
//! The object builds a bundle once for each epoch and latest number, and everyone who asks gets the same bytes. A
//! deployment without the object builds it for each request.
//!
//! What is in a bundle was in force when it was read, and everything is in it that was in force at its number the whole
//! time: it is read in the order of agents and tokens, so a row that gets a new number is not missed. If the ledger grew
//! in the meantime, it is read once more.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use worker::{Response, ResponseBody, ResponseBuilder};

use super::{Call, NoAnswer, tag, tagged, unavailable};
use crate::app::App;
use crate::core::feed::archive::Archive;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{self, Incoming};
use crate::trust::DbError;
use crate::trust::ledger::feed::{self, Head, Part};

/// Rows that one query turns into one text: with the longest reasons it stays below what D1 returns as one value.
const ROWS: u64 = 1_000;
/// Readings, where the ledger grows meanwhile.
const READINGS: usize = 3;

pub async fn handle(app: &App, caller: Option<&Caller>, incoming: Incoming) -> Result<Response, ApiError> {
    let reasons = caller.is_none();
    let asked = Call::Bundle {
        reasons,
        unless: incoming.header("if-none-match"),
    };
    let response = match super::call(app, super::CALL_URL, &asked).await {
        Ok(response) => response,
        Err(NoAnswer::Failed(error)) => return Err(unavailable(app, &error)),
        Err(NoAnswer::NoBinding) => {
            let head = feed::head(app).await.map_err(|error| unavailable(app, &error))?;
            let known = super::is_known(&incoming, &tag(&head.epoch, head.latest));
            let built = match known {
                true => None,
                false => Some(
                    build(app, head.clone(), reasons)
                        .await
                        .map_err(|error| unavailable(app, &error))?,
                ),
            };
            let head = built.as_ref().map_or(head, |built| built.head.clone());
            return tagged(&incoming, &tag(&head.epoch, head.latest), || {
                built
                    .ok_or_else(http::internal)
                    .and_then(|built| built.response().map_err(|_| http::internal()))
            });
        }
    };
    let etag = response.headers().get("etag").ok().flatten();
    match (response.status_code(), etag) {
        (304, Some(etag)) => tagged(&incoming, &etag, || Err(http::internal())),
        (200, Some(etag)) => {
            let ResponseBody::Stream(body) = response.body() else {
                return Err(http::internal());
            };
            let mut answer = ResponseBuilder::new().stream(body.clone());
            // A literal name and value: setting them cannot fail.
            let _ = answer.headers_mut().set("content-type", "application/gzip");
            let _ = answer.headers_mut().set("etag", &etag);
            let _ = answer.headers_mut().set("cache-control", "private, no-cache");
            Ok(answer)
        }
        (status, _) => Err(unavailable(app, &format!("status {status}"))),
    }
}

/// A bundle, compressed.
pub(super) struct Built {
    /// What it is a bundle of.
    pub head: Head,
    gzip: Uint8Array,
}

impl Built {
    /// Its bytes.
    pub fn response(&self) -> worker::Result<Response> {
        let body = web_sys::Response::new_with_opt_js_u8_array(Some(&self.gzip))?;
        Ok(Response::from(body))
    }
}

/// Reads it and compresses it.
pub(super) async fn build(app: &App, head: Head, reasons: bool) -> Result<Built, DbError> {
    let mut head = head;
    for reading in 1.. {
        let mut archive = Archive::default();
        for part in [Part::Agents, Part::Tokens] {
            let mut after = String::new();
            loop {
                let read = feed::members(app, part, &after, ROWS, reasons).await?;
                let (Some(last), Some(members)) = (read.last, read.members) else {
                    break;
                };
                after = last;
                match part {
                    Part::Agents => archive.push_agents(members),
                    Part::Tokens => archive.push_tokens(members),
                }
            }
        }
        let now = feed::head(app).await?;
        if now == head || reading >= READINGS {
            let gzip = gzip(archive.tar(&head.epoch, head.latest)).await;
            let gzip = gzip.map_err(|_| DbError::Failed("the bundle could not be compressed".into()))?;
            return Ok(Built { head, gzip });
        }
        head = now;
    }
    Err(DbError::Failed("the bundle was not read".into()))
}

/// `CompressionStream` is not among what is wrapped. Each piece is given up as soon as it was taken.
async fn gzip(pieces: Vec<Vec<u8>>) -> Result<Uint8Array, JsValue> {
    let constructor: Function = Reflect::get(&js_sys::global(), &"CompressionStream".into())?.dyn_into()?;
    let stream = Reflect::construct(&constructor, &Array::of1(&"gzip".into()))?;
    let readable = Reflect::get(&stream, &"readable".into())?;
    let writable = Reflect::get(&stream, &"writable".into())?;
    let whole =
        web_sys::Response::new_with_opt_readable_stream(Some(readable.unchecked_ref()))?.array_buffer()?;
    let writer = method(&writable, "getWriter", None)?;
    let write = async {
        for piece in pieces {
            let bytes = Uint8Array::from(piece.as_slice());
            drop(piece);
            JsFuture::from(method(&writer, "write", Some(&bytes))?.dyn_into::<Promise>()?).await?;
        }
        JsFuture::from(method(&writer, "close", None)?.dyn_into::<Promise>()?).await
    };
    let (written, read) = futures_util::future::join(write, JsFuture::from(whole)).await;
    written?;
    Ok(Uint8Array::new(&read?))
}

fn method(of: &JsValue, name: &str, argument: Option<&JsValue>) -> Result<JsValue, JsValue> {
    let function: Function = Reflect::get(of, &name.into())?.dyn_into()?;
    match argument {
        Some(argument) => function.call1(of, argument),
        None => function.call0(of),
    }
}

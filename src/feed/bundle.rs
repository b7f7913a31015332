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
//! in the meantime, it is read once more; if it keeps growing, the last reading is given out under the number it began at.

use js_sys::{Array, Function, Promise, Reflect, Uint8Array};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use worker::{ResponseBody, ResponseBuilder};

use super::{Call, NoAnswer, tag, tagged, unavailable};
use crate::app::App;
use crate::archive::{Archive, NoRoom};
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{self, Incoming, Response};
use crate::trust::DbError;
use crate::trust::ledger::feed::{self, Head, Part};

/// Rows that one query turns into one text: with the longest reasons it stays below what D1 returns as one value.
const ROWS: u64 = 1_000;
/// Readings, where the ledger grows meanwhile.
const READINGS: usize = 3;
/// Room for what the ledger gains while it is read, more with each reading.
const SPARE_BYTES: usize = 64 * 1024;

pub async fn handle(app: &App, caller: Option<&Caller>, incoming: Incoming) -> Result<Response, ApiError> {
    let reasons = caller.is_none();
    let asked = Call::Bundle {
        reasons,
        unless: incoming.header("if-none-match").map(str::to_owned),
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
                built.ok_or_else(http::internal).and_then(|built| {
                    let response = built.response().map_err(|_| http::internal())?;
                    Ok(response.into())
                })
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
            let answer = Response::from(ResponseBuilder::new().stream(body.clone()));
            Ok(answer
                .with_header("content-type", "application/gzip")
                .with_header("etag", etag)
                .with_header("cache-control", "private, no-cache"))
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
    pub fn response(&self) -> worker::Result<worker::Response> {
        let body = web_sys::Response::new_with_opt_js_u8_array(Some(&self.gzip))?;
        Ok(worker::Response::from(body))
    }
}

/// Reads it, and compresses what was read as it comes, so that no more than a query's rows and the compressed bytes are in
/// memory.
pub(super) async fn build(app: &App, head: Head, reasons: bool) -> Result<Built, DbError> {
    let mut head = head;
    for reading in 1..=READINGS {
        let is_last = reading == READINGS;
        let room = feed::members_len(app, reasons).await? + SPARE_BYTES * reading;
        match read(app, &head, reasons, room).await? {
            Some(gzip) => {
                let now = feed::head(app).await?;
                if now == head || is_last {
                    return Ok(Built { head, gzip });
                }
                head = now;
            }
            None if is_last => break,
            None => head = feed::head(app).await?,
        }
    }
    Err(DbError::Failed(
        "the ledger grows faster than it can be read".into(),
    ))
}

/// One reading; none where the members have outgrown their room meanwhile.
async fn read(app: &App, head: &Head, reasons: bool, room: usize) -> Result<Option<Uint8Array>, DbError> {
    let failed = |_| DbError::Failed("the bundle could not be compressed".into());
    let (gzip, whole) = Gzip::open().map_err(failed)?;
    let write = async {
        let written = write_members(app, &gzip, head, reasons, room).await;
        match &written {
            Ok(true) => gzip.close().await.map_err(failed)?,
            // Who waits for the whole is not to wait for ever.
            Ok(false) | Err(_) => gzip.abort().await,
        }
        written
    };
    let (written, read) = futures_util::future::join(write, JsFuture::from(whole)).await;
    match written? {
        true => Ok(Some(Uint8Array::new(&read.map_err(failed)?))),
        false => Ok(None),
    }
}

/// Whether there was room for all of them.
async fn write_members(
    app: &App,
    gzip: &Gzip,
    head: &Head,
    reasons: bool,
    room: usize,
) -> Result<bool, DbError> {
    let failed = |_| DbError::Failed("the bundle could not be compressed".into());
    let (mut archive, begin) = Archive::begin(&head.epoch, head.latest, room);
    gzip.write(&begin).await.map_err(failed)?;
    for part in [Part::Agents, Part::Tokens] {
        if part == Part::Tokens {
            gzip.write(&archive.begin_tokens()).await.map_err(failed)?;
        }
        let mut after = String::new();
        loop {
            let read = feed::members(app, part, &after, ROWS, reasons).await?;
            let (Some(last), Some(members)) = (read.last, read.members) else {
                break;
            };
            after = last;
            match archive.members(members) {
                Ok(bytes) => gzip.write(&bytes).await.map_err(failed)?,
                Err(NoRoom) => return Ok(false),
            }
        }
    }
    gzip.write(&archive.end()).await.map_err(failed)?;
    Ok(true)
}

/// A `CompressionStream`, which is not among what is wrapped.
struct Gzip {
    writer: JsValue,
}

impl Gzip {
    /// Opens one, and what will be the whole of its bytes once it is closed.
    fn open() -> Result<(Self, Promise), JsValue> {
        let constructor: Function =
            Reflect::get(&js_sys::global(), &"CompressionStream".into())?.dyn_into()?;
        let stream = Reflect::construct(&constructor, &Array::of1(&"gzip".into()))?;
        let readable = Reflect::get(&stream, &"readable".into())?;
        let writable = Reflect::get(&stream, &"writable".into())?;
        let whole = web_sys::Response::new_with_opt_readable_stream(Some(readable.unchecked_ref()))?;
        let writer = method(&writable, "getWriter", None)?;
        Ok((Self { writer }, whole.array_buffer()?))
    }

    /// Waits until the bytes were taken.
    async fn write(&self, bytes: &[u8]) -> Result<(), JsValue> {
        self.done("write", Some(&Uint8Array::from(bytes))).await
    }

    async fn close(&self) -> Result<(), JsValue> {
        self.done("close", None).await
    }

    async fn abort(&self) {
        // Then it has failed already.
        let _ = self.done("abort", None).await;
    }

    async fn done(&self, name: &str, argument: Option<&JsValue>) -> Result<(), JsValue> {
        let promise = method(&self.writer, name, argument)?.dyn_into::<Promise>()?;
        JsFuture::from(promise).await.map(|_| ())
    }
}

fn method(of: &JsValue, name: &str, argument: Option<&JsValue>) -> Result<JsValue, JsValue> {
    let function: Function = Reflect::get(of, &name.into())?.dyn_into()?;
    match argument {
        Some(argument) => function.call1(of, argument),
        None => function.call0(of),
    }
}

//! The revocation feed for sidecars that check for themselves (docs/wire.md §10.2).
//!
//! `page`, `bundle` and `stream` are its three routes. The one object, `RevocationFeed` (`object`), does what must be
//! done once and not once for each reader: it reads the ledger for all streams, and builds a bundle for all who ask
//! for it. The decisions are in `core::feed`, and the reading is in `trust::ledger::feed`.
//!
//! Nobody who revokes waits for a reader: `poke_later` is one call, made after the answer. A poke that is lost costs the
//! readers a minute.

pub mod bundle;
mod object;
pub mod page;
pub mod stream;

use serde::{Deserialize, Serialize};
use serde_json::json;
use worker::{Headers, Method, Request, RequestInit, Stub};

use crate::app::{App, binding};
use crate::clock;
use crate::core::admin::matches_tag;
use crate::core::feed::{Listener, epoch_query};
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::revocation::tag;

const NAME: &str = "revocations";
const CALL_URL: &str = "https://feed/read";
const POKE_URL: &str = "https://feed/poke";
/// Carries a `Call` as JSON. The worker builds that request itself.
const CALL_HEADER: &str = "x-clawdentity-feed-call";
/// The epoch of a stream's numbers, for a reader that begins with a number of its own.
const EPOCH_HEADER: &str = "x-claw-feed-epoch";
const POKE_TIMEOUT_MS: u64 = 2_000;
/// The object's answer to a call that it does not know.
const NOT_A_CALL: u16 = 400;

/// What is asked of the object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Call {
    /// Open a stream.
    Stream(Listener),
    /// The bundle, unless its tag is among these.
    Bundle {
        reasons: bool,
        #[serde(default)]
        unless: Option<String>,
    },
    /// The ledger has grown, or this agent was revoked or has lost a pair.
    Poke {
        #[serde(default)]
        agents: Vec<AgentDid>,
    },
    /// When it was last told of this canary; a text of milliseconds, empty where it was not.
    Told { canary: AgentDid },
}

/// Why the object did not do it.
enum NoAnswer {
    /// The deployment has no such object.
    NoBinding,
    /// It does not answer.
    Failed(String),
}

async fn call(app: &App, url: &str, call: &Call) -> Result<worker::Response, NoAnswer> {
    let namespace = app.env.durable_object(binding::REVOCATION_FEED);
    let namespace = namespace.map_err(|_| NoAnswer::NoBinding)?;
    let work = async {
        let stub: Stub = namespace.get_by_name(NAME)?;
        let headers = Headers::new();
        headers.set(CALL_HEADER, &serde_json::to_string(call)?)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Get).with_headers(headers);
        stub.fetch_with_request(Request::new_with_init(url, &init)?).await
    };
    let answer: worker::Result<worker::Response> = work.await;
    answer.map_err(|error| NoAnswer::Failed(error.to_string()))
}

/// Tells the listeners, after the answer, that the ledger has grown. Streams of the agents named are looked at even if
/// the ledger cannot be read.
pub fn poke_later(app: &App, agents: Vec<AgentDid>) {
    let background = app.clone();
    app.wait_until(async move { poke(&background, agents).await });
}

/// Tells them now. A deployment without the object has no listeners.
pub async fn poke(app: &App, agents: Vec<AgentDid>) {
    let poke = Call::Poke { agents };
    if let Some(Err(NoAnswer::Failed(error))) =
        clock::within_ms(POKE_TIMEOUT_MS, call(app, POKE_URL, &poke)).await
    {
        app.log.warn("proxy.feed.poke_lost", json!({ "error": error }));
    }
}

/// What the object knows of a canary.
pub enum Told {
    /// When it was last told of it, by its clock, Unix milliseconds.
    At(u64),
    /// It was not told of it, or gives no answer.
    No,
    /// It runs an earlier version, which cannot say.
    Unknown,
}

/// Asks the object when it was last told of a canary.
pub async fn told_of_canary(app: &App, canary: &AgentDid) -> Told {
    let told = Call::Told {
        canary: canary.clone(),
    };
    match clock::within_ms(POKE_TIMEOUT_MS, call(app, POKE_URL, &told)).await {
        Some(Ok(response)) if response.status_code() == NOT_A_CALL => Told::Unknown,
        Some(Ok(mut response)) => {
            let text = response.text().await.unwrap_or_default();
            text.parse().map_or(Told::No, Told::At)
        }
        _ => Told::No,
    }
}

/// Whether the caller has it already.
fn is_known(incoming: &Incoming, etag: &str) -> bool {
    matches_tag(incoming.header("if-none-match"), etag)
}

/// The answer, or 304 where the caller has it already.
fn tagged(
    incoming: &Incoming,
    etag: &str,
    answer: impl FnOnce() -> Result<Response, ApiError>,
) -> Result<Response, ApiError> {
    let response = match is_known(incoming, etag) {
        true => Response::new(304, Vec::new()),
        false => answer()?,
    };
    Ok(response
        .with_header("etag", etag)
        .with_header("cache-control", "private, no-cache"))
}

fn bad_query(reason: &'static str) -> ApiError {
    ApiError::new(&code::PROXY_FEED_INVALID_QUERY, reason)
}

fn epoch_of(incoming: &Incoming) -> Result<Option<String>, ApiError> {
    epoch_query(incoming.target.query_pairs()).map_err(bad_query)
}

fn unavailable(app: &App, error: &impl std::fmt::Display) -> ApiError {
    let fields = json!({ "error": error.to_string() });
    app.log.error("proxy.feed.failed", fields);
    ApiError::new(
        &code::PROXY_REVOCATION_UNAVAILABLE,
        "The ledger does not answer at the moment.",
    )
    .with_retry_after(1)
}

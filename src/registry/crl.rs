//! The polled CRL: `GET /v1/crl` (docs/wire.md §4.2), decided by `core::registry::crl`.
//!
//! The text of the list is dropped as soon as it was read. Only its sorted `jti`s are kept.

use std::rc::Rc;

use serde_json::json;
use url::Host;

use super::client::{self, Call, Reply};
use super::{Dependency, RETRY_AFTER_FAILURE_MS, Unavailable, keys, state};
use crate::app::App;
use crate::clock;
use crate::config::{CrlStaleBehavior, Environment};
use crate::core::budget::Budget;
use crate::core::circuit::{FailureKind, Outcome, Permit};
use crate::core::pipeline::Refusal;
use crate::core::provenance::Provenance;
use crate::core::registry::crl::{self as desk, Answer, CrlDecision, LOOK_AGAIN_MS, Missing, Note};
use crate::protocol::crl::{Crl, CrlEntry, CrlError, MAX_CRL_BODY_BYTES, UnverifiedCrl, parse_crl_body};
use crate::protocol::ids::Ulid;
use crate::protocol::issuer::Issuer;

const PATH: &str = "/v1/crl";

/// Whether the CRL lists this token. No provenance: there is no list that counts, and the overlay decides alone.
///
/// # Errors
/// 503: no list counts, and `CRL_STALE_BEHAVIOR` is `fail-closed`.
pub async fn lists(app: &App, budget: &Budget, jti: &Ulid) -> Result<(bool, Option<Provenance>), Refusal> {
    loop {
        match state::with(app, |desks| desks.crl.decide(app.now_ms())) {
            CrlDecision::Serve {
                list,
                provenance,
                refresh,
            } => {
                state::warn_if_stale(
                    app,
                    Dependency::Crl,
                    provenance,
                    app.config.crl.refresh_interval_ms,
                );
                if let Some(permit) = refresh {
                    refresh_later(app, permit);
                }
                return Ok((contains(list.as_deref(), jti), Some(provenance)));
            }
            // One call a request: what it brings decides.
            CrlDecision::Ask(permit) => match fetch(app, budget, permit).await {
                Fetched {
                    note: Note::Taken,
                    list,
                } => {
                    return Ok((contains(list.as_deref(), jti), Some(Provenance::NETWORK)));
                }
                Fetched {
                    note: Note::TooLarge, ..
                } => return without(app, jti, Why::TooLarge),
                Fetched { .. } => {
                    return without(
                        app,
                        jti,
                        Why::Failed {
                            retry_after_ms: RETRY_AFTER_FAILURE_MS,
                        },
                    );
                }
            },
            CrlDecision::Wait if budget.timeout_ms(app.now_ms()).is_some() => {
                clock::sleep_ms(LOOK_AGAIN_MS).await
            }
            CrlDecision::Wait => {
                return without(
                    app,
                    jti,
                    Why::Failed {
                        retry_after_ms: RETRY_AFTER_FAILURE_MS,
                    },
                );
            }
            CrlDecision::Gone {
                cause: Missing::TooLarge,
                ..
            } => return without(app, jti, Why::TooLarge),
            CrlDecision::Gone {
                cause: Missing::CircuitOpen { retry_after_ms },
                ..
            } => {
                return without(app, jti, Why::Failed { retry_after_ms });
            }
        }
    }
}

/// How the list stands in this isolate, for `/health`: `never`, `fresh`, `stale` or `dead`.
pub fn state(app: &App) -> &'static str {
    state::with(app, |desks| desks.crl.standing(app.now_ms()).as_str())
}

enum Why {
    TooLarge,
    Failed { retry_after_ms: u64 },
}

/// No list counts. What the last one listed is still revoked.
fn without(app: &App, jti: &Ulid, why: Why) -> Result<(bool, Option<Provenance>), Refusal> {
    let last = state::with(app, |desks| desks.crl.last());
    if contains(last.as_deref(), jti) {
        return Ok((true, None));
    }
    match (why, app.config.crl.stale_behavior) {
        // docs/design.md §4: the reconciled overlay serves, whatever the setting says.
        (Why::TooLarge, _) => state::error(app, "proxy.registry.crl_too_large", Dependency::Crl, json!(null)),
        (Why::Failed { .. }, CrlStaleBehavior::FailOpen) => {
            state::warn(
                app,
                "proxy.registry.crl_unavailable",
                Dependency::Crl,
                json!("fail-open"),
            );
        }
        (Why::Failed { retry_after_ms }, CrlStaleBehavior::FailClosed) => {
            state::warn(
                app,
                "proxy.registry.crl_unavailable",
                Dependency::Crl,
                json!("fail-closed"),
            );
            return Err(Unavailable {
                dependency: Dependency::Crl,
                retry_after_ms,
            }
            .into());
        }
    }
    Ok((false, None))
}

fn contains(list: Option<&Crl>, jti: &Ulid) -> bool {
    list.is_some_and(|list| list.contains(jti))
}

fn refresh_later(app: &App, permit: Permit) {
    let background = app.clone();
    app.wait_until(async move {
        let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
        fetch(&background, &budget, permit).await;
    });
}

struct Fetched {
    note: Note,
    /// `None` where the answer was that nothing is revoked, and where there was none.
    list: Option<Rc<Crl>>,
}

async fn fetch(app: &App, budget: &Budget, permit: Permit) -> Fetched {
    let asked_at_ms = app.now_ms();
    let (answer, tag) = match budget.timeout_ms(asked_at_ms) {
        Some(timeout_ms) => {
            let tag = state::with(app, |desks| desks.crl_tag.clone());
            ask(app, budget, timeout_ms, tag.as_deref(), None).await
        }
        None => (Answer::None(Outcome::Inconclusive), None),
    };
    let list = match &answer {
        Answer::List { list, .. } => Some(list.clone()),
        Answer::NotModified => state::with(app, |desks| desks.crl.last()),
        Answer::Nothing | Answer::TooLarge | Answer::None(_) => None,
    };
    let renewed = matches!(answer, Answer::NotModified);
    let note = state::with(app, |desks| {
        let note = desks.crl.answered(permit, asked_at_ms, answer, app.now_ms());
        if note == Note::Taken && !renewed {
            desks.crl_tag = tag;
        }
        note
    });
    match note {
        Note::OlderThanHeld => state::warn(
            app,
            "proxy.registry.crl_went_back",
            Dependency::Crl,
            json!("older iat"),
        ),
        Note::FromTheFuture => state::warn(
            app,
            "proxy.registry.crl_dated_ahead",
            Dependency::Crl,
            json!("its iat lies ahead"),
        ),
        Note::NothingWhileHeld => {
            state::warn(
                app,
                "proxy.registry.crl_went_back",
                Dependency::Crl,
                json!("CRL_NOT_FOUND"),
            );
        }
        Note::TooLarge => state::error(app, "proxy.registry.crl_too_large", Dependency::Crl, json!(null)),
        Note::Taken | Note::None => {}
    }
    Fetched { note, list }
}

/// The whole list, for the reconciliation.
pub enum Whole {
    /// Every entry was handed out.
    List {
        /// Its `ETag`, where it has one.
        tag: Option<String>,
    },
    /// It is the one of this tag.
    NotModified,
    /// Nothing has been revoked yet.
    Nothing,
}

/// Asks for the list, whatever the isolate holds, and hands out its entries; with a `tag` only a list of another one.
/// The isolate's circuit is asked first and told after.
///
/// # Errors
/// There was no list that holds: a text for the log.
pub async fn each_listed(
    app: &App,
    budget: &Budget,
    tag: Option<&str>,
    visit: &mut dyn FnMut(CrlEntry),
) -> Result<Whole, &'static str> {
    let asked = state::with(app, |desks| desks.crl.circuit().ask(app.now_ms()));
    let permit = asked.map_err(|_| "its circuit is open")?;
    let (answer, tag) = match budget.timeout_ms(app.now_ms()) {
        Some(timeout_ms) => ask(app, budget, timeout_ms, tag, Some(visit)).await,
        None => (Answer::None(Outcome::Inconclusive), None),
    };
    let (outcome, whole) = match answer {
        Answer::List { .. } => (Outcome::Success, Ok(Whole::List { tag })),
        Answer::NotModified => (Outcome::Success, Ok(Whole::NotModified)),
        Answer::Nothing => (Outcome::Success, Ok(Whole::Nothing)),
        Answer::TooLarge => (Outcome::Success, Err("it is too large")),
        Answer::None(outcome) => (outcome, Err("no valid answer")),
    };
    state::with(app, |desks| {
        desks.crl.circuit().report(permit, outcome, app.now_ms());
    });
    whole
}

async fn ask(
    app: &App,
    budget: &Budget,
    timeout_ms: u32,
    tag: Option<&str>,
    visit: Option<&mut dyn FnMut(CrlEntry)>,
) -> (Answer<Rc<Crl>>, Option<String>) {
    let call = Call {
        path: PATH,
        headers: &[],
        body: None,
        if_none_match: tag,
        max_body_bytes: MAX_CRL_BODY_BYTES,
    };
    let reply = client::make(app, timeout_ms, &call).await;
    let problem = match &reply {
        Reply::Answer {
            status: 200,
            body,
            tag,
        } => match read(app, budget, body, visit).await {
            Ok(answer) => return (answer, tag.clone()),
            // The keys' outage is not the CRL's.
            Err(Unread::NoKeys) => return (Answer::None(Outcome::Inconclusive), None),
            Err(Unread::Bad(error)) => error.reason().into(),
        },
        Reply::Answer { status: 304, .. } => return (Answer::NotModified, None),
        Reply::Answer {
            status: 404, body, ..
        } if desk::says_not_found(body) => return (Answer::Nothing, None),
        Reply::TooLarge => return (Answer::TooLarge, None),
        other => other.describe(),
    };
    state::warn(app, "proxy.registry.call_failed", Dependency::Crl, json!(problem));
    (Answer::None(reply.outcome(FailureKind::Body)), None)
}

enum Unread {
    NoKeys,
    Bad(CrlError),
}

/// An unknown `kid` earns the one refresh that unknown `kid`s share (docs/wire.md §4).
async fn read(
    app: &App,
    budget: &Budget,
    body: &[u8],
    visit: Option<&mut dyn FnMut(CrlEntry)>,
) -> Result<Answer<Rc<Crl>>, Unread> {
    let text = parse_crl_body(body).map_err(Unread::Bad)?;
    let unverified = UnverifiedCrl::parse(&text).map_err(Unread::Bad)?;
    let (mut key_set, _) = keys::held(app, budget).await.map_err(|_| Unread::NoKeys)?;
    if key_set.active(unverified.kid()).is_none() {
        (key_set, _) = keys::refreshed(app, budget).await.map_err(|_| Unread::NoKeys)?;
    }
    let (expected, now_s) = (expected_issuer(app), app.now_ms() / 1000);
    let crl = match visit {
        Some(visit) => unverified.verify_each(&key_set, expected, now_s, visit),
        None => unverified.verify(&key_set, expected, now_s),
    };
    let crl = crl.map_err(Unread::Bad)?;
    // A verified list says when it was signed; the empty one, which nobody signs, comes as a 404.
    let iat_s = crl.info.as_ref().map_or(0, |info| info.iat_s);
    Ok(Answer::List {
        list: Rc::new(crl),
        iat_s,
    })
}

/// Not compared where requests may move the expectation: locally, with a loopback registry
/// and no issuer set (docs/wire.md §2). The list is the isolate's, not one request's.
fn expected_issuer(app: &App) -> Option<&Issuer> {
    let registry = &app.config.registry;
    let loopback = match registry.url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    let moves = app.config.environment == Environment::Local && registry.issuer.is_none() && loopback;
    (!moves).then_some(&registry.expected_issuer)
}

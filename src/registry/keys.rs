//! Signing keys: `GET /.well-known/claw-keys.json` (docs/wire.md §4.1), decided by `core::registry::keys`.

use std::rc::Rc;

use serde_json::json;

use super::client::{self, Call, Reply};
use super::{Dependency, Unavailable, durable, state};
use crate::app::App;
use crate::clock;
use crate::core::budget::Budget;
use crate::core::circuit::{FailureKind, Outcome, Permit};
use crate::core::pipeline::Refusal;
use crate::core::provenance::Provenance;
use crate::core::registry::keys::{KeysDecision, KidCopy, KidDecision, LOOK_AGAIN_MS};
use crate::protocol::keyset::{KeySet, MAX_KEYSET_BYTES};

const PATH: &str = "/.well-known/claw-keys.json";

type Keys = (Rc<KeySet>, Provenance);

/// The keys a token's `kid` is looked up in.
///
/// # Errors
/// 503: none are known and none can be had.
pub async fn active(app: &App, budget: &Budget) -> Result<Keys, Refusal> {
    held(app, budget).await.map_err(Refusal::from)
}

/// The same for a `kid` that is not among them: refreshed, at most once per cool-down for all such `kid`s.
///
/// # Errors
/// 503: they could not be refreshed, so nobody knows whether the `kid` is a new one.
pub async fn after_unknown_kid(app: &App, budget: &Budget) -> Result<Keys, Refusal> {
    refreshed(app, budget).await.map_err(Refusal::from)
}

/// Whether this isolate holds keys that were asked for after `since_ms` and in which this `kid` is no longer active. Asks
/// nobody.
pub fn is_withdrawn(app: &App, kid: &str, since_ms: u64) -> bool {
    state::with(app, |desks| {
        let held = desks.keys.held();
        held.is_some_and(|(keys, as_of_ms)| as_of_ms > since_ms && keys.active(kid).is_none())
    })
}

pub(super) async fn held(app: &App, budget: &Budget) -> Result<Keys, Unavailable> {
    let mut decision = state::with(app, |desks| desks.keys.decide(false, app.now_ms()));
    if matches!(decision, KeysDecision::ReadDurable) {
        // This is a look at the copy as well.
        state::with(app, |desks| desks.keys.follow_due(app.now_ms()));
        let copy = durable::read(app, budget).await;
        decision = state::with(app, |desks| match copy {
            Some((keys, fetched_at_ms)) => desks.keys.take_over(Rc::new(keys), fetched_at_ms, app.now_ms()),
            None => desks.keys.decide(true, app.now_ms()),
        });
    }
    match decision {
        KeysDecision::Serve {
            value,
            provenance,
            refresh,
        } => {
            state::warn_if_stale(
                app,
                Dependency::Keys,
                provenance,
                app.config.registry.keys_fresh_ms,
            );
            if let Some(permit) = refresh {
                refresh_later(app, permit);
            }
            follow_later(app);
            Ok((value, provenance))
        }
        KeysDecision::Ask(permit) => fetch(app, budget, permit).await,
        KeysDecision::Unavailable { retry_after_ms } => Err(Unavailable {
            dependency: Dependency::Keys,
            retry_after_ms,
        }),
        KeysDecision::ReadDurable => Err(Unavailable::failed(Dependency::Keys)),
    }
}

pub(super) async fn refreshed(app: &App, budget: &Budget) -> Result<Keys, Unavailable> {
    let held_ms = state::with(app, |desks| desks.keys.as_of_ms());
    // What a slow registry may not use up: the time in which D1 answers.
    let of_registry = budget.but(app.config.trust.timeout_ms);
    match asked_for_kid(app, &of_registry).await {
        Ok(keys) => Ok(keys),
        Err(unavailable) => later_in_d1(app, budget, held_ms).await.ok_or(unavailable),
    }
}

/// The keys in D1, where they are later than those held: another isolate may have asked before the registry went.
async fn later_in_d1(app: &App, budget: &Budget, held_ms: Option<u64>) -> Option<Keys> {
    while budget.remaining_ms(app.now_ms()) > 0 {
        if state::with(app, |desks| desks.keys.as_of_ms()) > held_ms {
            return held(app, budget).await.ok();
        }
        match state::with(app, |desks| desks.keys.durable_for_kid(app.now_ms())) {
            KidCopy::Read => {
                let copy = durable::read(app, budget).await;
                return state::with(app, |desks| {
                    desks.keys.durable_was_read();
                    let (copy, fetched_at_ms) = copy?;
                    desks
                        .keys
                        .take_over_for_kid(Rc::new(copy), fetched_at_ms, app.now_ms())
                });
            }
            KidCopy::BeingRead => clock::sleep_ms(LOOK_AGAIN_MS).await,
            KidCopy::JustRead => return None,
        }
    }
    None
}

async fn asked_for_kid(app: &App, budget: &Budget) -> Result<Keys, Unavailable> {
    loop {
        match state::with(app, |desks| desks.keys.unknown_kid(app.now_ms())) {
            KidDecision::Refresh(permit) => return fetch(app, budget, permit).await,
            KidDecision::CoolingDown => return held(app, budget).await,
            KidDecision::Wait if budget.timeout_ms(app.now_ms()).is_some() => {
                clock::sleep_ms(LOOK_AGAIN_MS).await
            }
            KidDecision::Wait => return Err(Unavailable::failed(Dependency::Keys)),
            KidDecision::Unavailable { retry_after_ms } => {
                return Err(Unavailable {
                    dependency: Dependency::Keys,
                    retry_after_ms,
                });
            }
        }
    }
}

/// How often the schedule refreshes the keys; a minute's run is never far from it.
const SCHEDULED_EVERY_MS: u64 = 15 * 60_000 - 30_000;

/// The scheduled refresh: asks the registry where the copy in D1 is older than a quarter of an hour, or is dated ahead.
pub async fn refresh_if_due(app: &App) {
    let budget = Budget::new(app.now_ms(), app.config.registry.budget_ms);
    let copy = durable::read(app, &budget).await;
    let now_ms = app.now_ms();
    let age_ms = copy.and_then(|(_, fetched_at_ms)| now_ms.checked_sub(fetched_at_ms));
    if age_ms.is_none_or(|age_ms| age_ms >= SCHEDULED_EVERY_MS) {
        // Its failure is in the log, and the next minute tries again.
        let _ = refresh_now(app).await;
    }
}

/// How many active keys the copy in D1 has, and when the registry was asked for them, Unix milliseconds.
pub async fn kept(app: &App) -> Option<(usize, u64)> {
    let budget = Budget::new(app.now_ms(), app.config.registry.budget_ms);
    let (keys, fetched_at_ms) = durable::read(app, &budget).await?;
    Some((keys.active_kids().count(), fetched_at_ms))
}

/// Asks the registry now, and keeps its keys in D1, where every isolate finds them within 30 s.
///
/// # Errors
/// It could not be asked, or gave no keys.
pub async fn refresh_now(app: &App) -> Result<Rc<KeySet>, Refusal> {
    let permit = state::with(app, |desks| desks.keys.ask_now(app.now_ms()));
    let permit = permit
        .map_err(|retry_after_ms| Unavailable {
            dependency: Dependency::Keys,
            retry_after_ms,
        })
        .map_err(Refusal::from)?;
    let asked_at_ms = app.now_ms();
    let budget = Budget::new(asked_at_ms, app.config.registry.budget_ms);
    let (keys, _) = fetch(app, &budget, permit).await.map_err(Refusal::from)?;
    durable::write(app, &keys, asked_at_ms).await;
    Ok(keys)
}

/// Follows a refresh that another isolate made, beside the request that is served.
fn follow_later(app: &App) {
    if !state::with(app, |desks| desks.keys.follow_due(app.now_ms())) {
        return;
    }
    let background = app.clone();
    app.wait_until(async move {
        let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
        if let Some((copy, fetched_at_ms)) = durable::read(&background, &budget).await {
            state::with(&background, |desks| {
                desks
                    .keys
                    .take_over_for_kid(Rc::new(copy), fetched_at_ms, background.now_ms())
            });
        }
    });
}

fn refresh_later(app: &App, permit: Permit) {
    let background = app.clone();
    app.wait_until(async move {
        let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
        // Its failure is in the log; what is held is served on.
        let _ = fetch(&background, &budget, permit).await;
    });
}

async fn fetch(app: &App, budget: &Budget, permit: Permit) -> Result<Keys, Unavailable> {
    let asked_at_ms = app.now_ms();
    let answer = match budget.timeout_ms(asked_at_ms) {
        Some(timeout_ms) => ask(app, timeout_ms).await.map(Rc::new),
        None => Err(Outcome::Inconclusive),
    };
    let keys = answer.as_ref().ok().cloned();
    let latest = state::with(app, |desks| {
        desks.keys.answered(permit, asked_at_ms, answer, app.now_ms())
    });
    let keys = keys.ok_or(Unavailable::failed(Dependency::Keys))?;
    if latest {
        let (background, keys) = (app.clone(), keys.clone());
        app.wait_until(async move { durable::write(&background, &keys, asked_at_ms).await });
    }
    Ok((keys, Provenance::NETWORK))
}

async fn ask(app: &App, timeout_ms: u32) -> Result<KeySet, Outcome> {
    let call = Call {
        path: PATH,
        headers: &[],
        body: None,
        if_none_match: None,
        max_body_bytes: MAX_KEYSET_BYTES,
    };
    let reply = client::make(app, timeout_ms, &call).await;
    let problem = match &reply {
        Reply::Answer {
            status: 200, body, ..
        } => match KeySet::parse(body) {
            // A registry that lost its keys must not make us lose them. One that revoked them all names them.
            Ok(keys) if keys.is_empty() => "no keys".into(),
            Ok(keys) => return Ok(keys),
            Err(error) => error.to_string(),
        },
        other => other.describe(),
    };
    state::warn(
        app,
        "proxy.registry.call_failed",
        Dependency::Keys,
        json!(problem),
    );
    Err(reply.outcome(FailureKind::Body))
}

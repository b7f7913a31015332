//! Agent access: `POST REGISTRY_VALIDATE_PATH` (docs/wire.md §4), decided by `core::registry::access`.

use std::future::Future;

use futures_channel::oneshot;
use serde::Serialize;
use serde_json::json;

use super::client::{self, Call, NO_BODY, Reply};
use super::{Dependency, Unavailable, state};
use crate::app::App;
use crate::core::admission::Generation;
use crate::core::admission::unconfirmed::{MayAsk, Named};
use crate::core::budget::Budget;
use crate::core::circuit::{FailureKind, Outcome};
use crate::core::pipeline::Refusal;
use crate::core::provenance::Provenance;
use crate::core::registry::access::{self as desk, AccessDecision, Answer, Keep, Question};
use crate::core::registry::lanes::{NotAsked, NotNow, Pass};
use crate::protocol::ait::Ait;
use crate::protocol::proof::AccessToken;
use crate::trust;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    agent_did: &'a str,
    ait_jti: String,
}

/// What a call needs, also after the request that began it.
#[derive(Clone)]
struct Asking {
    question: Question,
    body: String,
    token: AccessToken,
}

/// Whether the access token holds for this agent and AIT. `generation` and `kept_at_ms` came with the admission: the
/// latter is when this very token was last validated, as the agent's object remembers it.
///
/// `keep` takes to that object what it is to remember or to drop; it runs after the answer, and not at all where
/// nothing changed. It is called once per answer of the registry.
///
/// # Errors
/// 401 where the registry refuses the token, 503 where nobody knows.
pub async fn validate<K, F>(
    app: &App,
    budget: &Budget,
    ait: &Ait,
    token: &AccessToken,
    generation: Generation,
    kept_at_ms: Option<u64>,
    keep: K,
) -> Result<Provenance, Refusal>
where
    K: FnOnce(Keep) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let question = Question::new(&ait.sub, ait.jti, token.hash(), generation);
    let asking = || {
        let body = Body {
            agent_did: ait.sub.as_str(),
            ait_jti: ait.jti.to_string(),
        };
        // Two texts: nothing that JSON could not hold.
        Asking {
            question,
            body: serde_json::to_string(&body).unwrap_or_default(),
            token: token.clone(),
        }
    };
    let named = Named::Token(token.hash());
    // What the agent's object said, where it was asked; a question that it lets pass counts until it is told of the answer.
    let mut standing = None;
    loop {
        let decision = state::with(app, |desks| {
            desks
                .access
                .decide(&question, kept_at_ms, standing.as_ref(), app.now_ms())
        });
        let counted = matches!(standing, Some(MayAsk::Ask { .. }));
        match decision {
            AccessDecision::Valid { provenance, refresh } => {
                if let Some(pass) = refresh {
                    let (told, word) = oneshot::channel();
                    let (background, asking) = (app.clone(), asking());
                    app.wait_until(async move {
                        let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
                        let (answer, kept) = ask(&background, &budget, &asking, pass).await;
                        // Nobody waits any more where it took too long.
                        let _ = told.send(answer);
                        if !matches!(kept, Keep::Nothing | Keep::Unanswered) {
                            keep(kept).await;
                        }
                    });
                    match super::word_in_time(app, word).await {
                        Some(Answer::Valid) => return Ok(Provenance::NETWORK),
                        Some(Answer::Invalid) => return Err(Refusal::AccessInvalid),
                        Some(Answer::None(_)) | None => {}
                    }
                }
                state::warn_if_stale(
                    app,
                    Dependency::Access,
                    provenance,
                    app.config.registry.access_fresh_ms,
                );
                return Ok(provenance);
            }
            AccessDecision::Invalid => return Err(Refusal::AccessInvalid),
            AccessDecision::AskObject => {
                let said = trust::client::may_ask(app, &ait.sub, &named).await;
                standing = Some(said.map_err(|_| super::trust_unavailable())?);
            }
            AccessDecision::Ask(pass) => {
                let (answer, told) = ask(app, budget, &asking(), pass).await;
                if told != Keep::Nothing && (told != Keep::Unanswered || counted) {
                    app.wait_until(keep(told));
                }
                return match answer {
                    Answer::Valid => Ok(Provenance::NETWORK),
                    Answer::Invalid => Err(Refusal::AccessInvalid),
                    Answer::None(_) => Err(Unavailable::failed(Dependency::Access).into()),
                };
            }
            AccessDecision::Unavailable(NotNow {
                retry_after_ms,
                cause,
            }) => {
                let circuit_open = cause == NotAsked::CircuitOpen;
                if !circuit_open && super::in_a_moment(app, budget, retry_after_ms).await {
                    standing = standing.filter(|_| counted);
                    continue;
                }
                if counted {
                    trust::client::answered(app, &ait.sub, named, None);
                }
                if !circuit_open {
                    let detail = json!({ "agentDid": ait.sub.as_str() });
                    state::warn(app, "proxy.registry.too_many_tokens", Dependency::Access, detail);
                }
                return Err(Unavailable {
                    dependency: Dependency::Access,
                    retry_after_ms,
                }
                .into());
            }
        }
    }
}

async fn ask(app: &App, budget: &Budget, asking: &Asking, pass: Pass) -> (Answer, Keep) {
    let asked_at_ms = app.now_ms();
    let answer = match budget.timeout_ms(asked_at_ms) {
        Some(timeout_ms) => call(app, timeout_ms, asking).await,
        None => Answer::None(Outcome::Inconclusive),
    };
    let told = state::with(app, |desks| {
        desks
            .access
            .answered(&asking.question, pass, asked_at_ms, answer, app.now_ms())
    });
    (answer, told)
}

async fn call(app: &App, timeout_ms: u32, asking: &Asking) -> Answer {
    let call = Call {
        path: &app.config.registry.validate_path,
        headers: &[("x-claw-agent-access", asking.token.expose())],
        body: Some(asking.body.clone()),
        if_none_match: None,
        max_body_bytes: NO_BODY,
    };
    let reply = client::make(app, timeout_ms, &call).await;
    let answer = match &reply {
        Reply::Answer { status, .. } => desk::read_status(*status),
        other => Answer::None(other.outcome(FailureKind::Body)),
    };
    if matches!(answer, Answer::None(_)) {
        state::warn(
            app,
            "proxy.registry.call_failed",
            Dependency::Access,
            json!(reply.describe()),
        );
    }
    answer
}

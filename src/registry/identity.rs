//! Ownership and group membership: the registry's internal routes (docs/wire.md §4), decided by
//! `core::registry::identity`.
//!
//! 401 and 403 mean that *our* credentials are wrong. That is logged as an error, and no caller is refused for it.
//! The circuit is told what docs/design.md §4 says about these answers.

use futures_channel::oneshot;
use serde::Serialize;
use serde_json::json;

use super::client::{self, Call, MAX_INTERNAL_BODY_BYTES, Reply};
use super::{Dependency, Unavailable, state};
use crate::app::App;
use crate::core::admission::Generation;
use crate::core::budget::Budget;
use crate::core::circuit::{FailureKind, Outcome, Permit};
use crate::core::provenance::Provenance;
use crate::core::registry::consult::Decision;
use crate::core::registry::identity::{Membership, Ownership, parse_membership};
use crate::protocol::did::{AgentDid, HumanDid};
use crate::protocol::ids::GroupId;

const OWNERSHIP_PATH: &str = "/internal/v1/identity/agent-ownership";
const MEMBERSHIP_PATH: &str = "/internal/v1/groups/membership/check";

/// Why the registry did not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityError {
    /// 503 `PROXY_PAIR_OWNERSHIP_UNAVAILABLE` or `PROXY_GROUP_MEMBERSHIP_UNAVAILABLE`.
    Unavailable {
        /// `Retry-After`, seconds.
        retry_after_s: u64,
    },
    /// 503 `PROXY_INTERNAL_AUTH_UNAUTHORIZED`: the registry does not take our credentials.
    CredentialsRefused {
        /// `Retry-After`, seconds.
        retry_after_s: u64,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OwnershipBody<'a> {
    owner_did: &'a str,
    agent_did: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MembershipBody<'a> {
    group_id: String,
    member_agent_did: &'a str,
}

/// Whether this owner owns this agent, and how the agent stands. Never from memory.
///
/// # Errors
/// See `IdentityError`.
pub async fn owns(
    app: &App,
    budget: &Budget,
    owner: &HumanDid,
    agent: &AgentDid,
) -> Result<Ownership, IdentityError> {
    let body = OwnershipBody {
        owner_did: owner.as_str(),
        agent_did: agent.as_str(),
    };
    let permit = match state::with(app, |desks| desks.identity.circuit().ask(app.now_ms())) {
        Ok(permit) => permit,
        Err(refused) => return Err(unavailable(refused.retry_after_ms)),
    };
    let answer = ask(app, budget, OWNERSHIP_PATH, &body, Ownership::parse).await;
    let outcome = answer
        .as_ref()
        .map_or_else(|failed| failed.outcome, |_| Outcome::Success);
    state::with(app, |desks| {
        desks.identity.circuit().report(permit, outcome, app.now_ms())
    });
    answer.map_err(|failed| failed.error)
}

/// Whether this agent is in this group. `generation` is the one of the admission of the caller who wants to know.
///
/// # Errors
/// See `IdentityError`.
pub async fn is_member(
    app: &App,
    budget: &Budget,
    group: &GroupId,
    member: &AgentDid,
    generation: Generation,
) -> Result<(bool, Provenance), IdentityError> {
    let question = Membership::new(group, member, generation);
    let asking = || MembershipBody {
        group_id: group.to_string(),
        member_agent_did: member.as_str(),
    };
    match state::with(app, |desks| desks.identity.decide(&question, app.now_ms())) {
        Decision::Serve {
            value,
            provenance,
            refresh,
        } => {
            if let Some(permit) = refresh {
                let (told, word) = oneshot::channel();
                let (background, group, member) = (app.clone(), *group, member.clone());
                app.wait_until(async move {
                    let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
                    let body = MembershipBody {
                        group_id: group.to_string(),
                        member_agent_did: member.as_str(),
                    };
                    // Its failure is in the log; nobody waits any more where it took too long.
                    let _ = told.send(ask_membership(&background, &budget, &question, &body, permit).await);
                });
                if let Some(Ok(is_member)) = super::word_in_time(app, word).await {
                    return Ok((is_member, Provenance::NETWORK));
                }
            }
            state::warn_if_stale(
                app,
                Dependency::Identity,
                provenance,
                app.config.registry.membership_fresh_ms,
            );
            Ok((value, provenance))
        }
        Decision::Ask(permit) => {
            let is_member = ask_membership(app, budget, &question, &asking(), permit).await?;
            Ok((is_member, Provenance::NETWORK))
        }
        Decision::Unavailable { retry_after_ms } => Err(unavailable(retry_after_ms)),
    }
}

async fn ask_membership(
    app: &App,
    budget: &Budget,
    question: &Membership,
    body: &MembershipBody<'_>,
    permit: Permit,
) -> Result<bool, IdentityError> {
    let asked_at_ms = app.now_ms();
    let answer = ask(app, budget, MEMBERSHIP_PATH, body, parse_membership).await;
    let told = answer
        .as_ref()
        .map_or_else(|failed| Err(failed.outcome), |is_member| Ok(*is_member));
    state::with(app, |desks| {
        desks
            .identity
            .answered(question, permit, asked_at_ms, told, app.now_ms())
    });
    answer.map_err(|failed| failed.error)
}

/// What the circuit and the caller are told when there is no answer.
struct Failed {
    outcome: Outcome,
    error: IdentityError,
}

async fn ask<T>(
    app: &App,
    budget: &Budget,
    path: &str,
    body: &impl Serialize,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Failed> {
    let error = IdentityError::Unavailable {
        retry_after_s: Unavailable::failed(Dependency::Identity).retry_after_s(),
    };
    let not_made = Failed {
        outcome: Outcome::Inconclusive,
        error,
    };
    let Some(timeout_ms) = budget.timeout_ms(app.now_ms()) else {
        return Err(not_made);
    };
    let Ok(body) = serde_json::to_string(body) else {
        return Err(not_made);
    };
    let registry = &app.config.registry;
    let call = Call {
        path,
        headers: &[
            ("x-claw-service-id", registry.service_id.expose()),
            ("x-claw-service-secret", registry.service_secret.expose()),
        ],
        body: Some(body),
        if_none_match: None,
        max_body_bytes: MAX_INTERNAL_BODY_BYTES,
    };
    let reply = client::make(app, timeout_ms, &call).await;
    let (outcome, error) = match &reply {
        Reply::Answer {
            status: 200, body, ..
        } => match parse(body) {
            Some(answer) => return Ok(answer),
            None => (reply.outcome(FailureKind::Body), error),
        },
        Reply::Answer { status: 401, .. } | Reply::Refused { status: 403 } => {
            let detail = json!({ "path": path, "status": reply.describe() });
            state::error(
                app,
                "proxy.registry.credentials_refused",
                Dependency::Identity,
                detail,
            );
            let outcome = match reply {
                Reply::Answer { .. } => Outcome::Success,
                _ => Outcome::Inconclusive,
            };
            let retry_after_s = Unavailable::failed(Dependency::Identity).retry_after_s();
            return Err(Failed {
                outcome,
                error: IdentityError::CredentialsRefused { retry_after_s },
            });
        }
        // A registry that is up and does not have the route.
        Reply::Answer { status: 404, .. } => (Outcome::Success, error),
        other => (other.outcome(FailureKind::Body), error),
    };
    state::warn(
        app,
        "proxy.registry.call_failed",
        Dependency::Identity,
        json!(reply.describe()),
    );
    Err(Failed { outcome, error })
}

fn unavailable(retry_after_ms: u64) -> IdentityError {
    let unavailable = Unavailable {
        dependency: Dependency::Identity,
        retry_after_ms,
    };
    IdentityError::Unavailable {
        retry_after_s: unavailable.retry_after_s(),
    }
}

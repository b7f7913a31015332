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
use crate::core::admission::unconfirmed::{MayAsk, Named};
use crate::core::budget::Budget;
use crate::core::circuit::{FailureKind, Outcome};
use crate::core::provenance::Provenance;
use crate::core::registry::confirm::Decision;
use crate::core::registry::identity::{Ownership, membership_key, parse_membership};
use crate::core::registry::lanes::{Caller, Lane, NotAsked, NotNow, Pass, Said};
use crate::protocol::did::{AgentDid, HumanDid};
use crate::protocol::ids::GroupId;
use crate::trust;

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
    /// As `Unavailable`, but not to be tried again in a moment: the registry answered 429 to this caller's question.
    Held {
        /// `Retry-After`, seconds.
        retry_after_s: u64,
    },
    /// 429 `PROXY_RATE_LIMIT_EXCEEDED`: this agent has named too much that the registry did not confirm.
    TooMany {
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
    let named = Named::Owner(owner.clone());
    let asked = may_ask(app, budget, agent, &named).await?;
    let pass = loop {
        let passed = state::with(app, |desks| {
            desks.ownership.ask(asked.lane, caller(agent), app.now_ms())
        });
        match passed {
            Ok(pass) => break pass,
            Err(not_now) => asked.not_now(app, budget, agent, &named, not_now).await?,
        }
    };
    let answer = ask(
        app,
        budget,
        Dependency::Ownership,
        OWNERSHIP_PATH,
        &body,
        Ownership::parse,
    )
    .await;
    let said = match &answer {
        Ok(ownership) if ownership.is_confirmed() => Said::Yes,
        Ok(_) => Said::No,
        Err(failed) => Said::Nothing(failed.outcome),
    };
    state::with(app, |desks| desks.ownership.report(pass, said, app.now_ms()));
    asked.tell(app, agent, named, said);
    answer.map_err(|failed| failed.error)
}

/// Whether this agent is in this group, which `caller` wants to know. `generation` is the one of its admission.
///
/// # Errors
/// See `IdentityError`.
pub async fn is_member(
    app: &App,
    budget: &Budget,
    asker: &AgentDid,
    group: &GroupId,
    member: &AgentDid,
    generation: Generation,
) -> Result<(bool, Provenance), IdentityError> {
    let question = MembershipQuestion {
        asker: asker.clone(),
        group: *group,
        member: member.clone(),
        key: membership_key(group, member, generation),
    };
    let mut asked: Option<Asked> = None;
    loop {
        let decision = state::with(app, |desks| {
            let standing = asked.as_ref().map(|asked| &asked.said);
            desks
                .membership
                .decide(&question.key, caller(asker), standing, app.now_ms())
        });
        match decision {
            Decision::Serve {
                is_yes,
                provenance,
                refresh,
            } => {
                if let Some(pass) = refresh {
                    let (told, word) = oneshot::channel();
                    let background = app.clone();
                    app.wait_until(async move {
                        let budget = Budget::new(background.now_ms(), background.config.registry.budget_ms);
                        let asked = Asked::confirmed();
                        // Its failure is in the log; nobody waits any more where it took too long.
                        let _ = told.send(ask_membership(&background, &budget, &question, asked, pass).await);
                    });
                    if let Some(Ok(is_member)) = super::word_in_time(app, word).await {
                        return Ok((is_member, Provenance::NETWORK));
                    }
                }
                state::warn_if_stale(
                    app,
                    Dependency::Membership,
                    provenance,
                    app.config.registry.membership_fresh_ms,
                );
                return Ok((is_yes, provenance));
            }
            Decision::AskObject => asked = Some(may_ask(app, budget, asker, &question.named()).await?),
            Decision::Ask(pass) => {
                let asked = asked.unwrap_or_else(Asked::confirmed);
                let is_member = ask_membership(app, budget, &question, asked, pass).await?;
                return Ok((is_member, Provenance::NETWORK));
            }
            Decision::Unavailable(not_now) => {
                let confirmed = Asked::confirmed();
                let standing = asked.as_ref().unwrap_or(&confirmed);
                standing
                    .not_now(app, budget, asker, &question.named(), not_now)
                    .await?;
            }
        }
    }
}

struct MembershipQuestion {
    asker: AgentDid,
    group: GroupId,
    member: AgentDid,
    key: [u8; 32],
}

impl MembershipQuestion {
    fn named(&self) -> Named {
        Named::Member {
            group: self.group,
            member: self.member.clone(),
        }
    }
}

async fn ask_membership(
    app: &App,
    budget: &Budget,
    question: &MembershipQuestion,
    asked: Asked,
    pass: Pass,
) -> Result<bool, IdentityError> {
    let asked_at_ms = app.now_ms();
    let body = MembershipBody {
        group_id: question.group.to_string(),
        member_agent_did: question.member.as_str(),
    };
    let answer = ask(
        app,
        budget,
        Dependency::Membership,
        MEMBERSHIP_PATH,
        &body,
        parse_membership,
    )
    .await;
    let said = match &answer {
        Ok(true) => Said::Yes,
        Ok(false) => Said::No,
        Err(failed) => Said::Nothing(failed.outcome),
    };
    state::with(app, |desks| {
        desks
            .membership
            .answered(&question.key, pass, asked_at_ms, said, app.now_ms())
    });
    asked.tell(app, &question.asker, question.named(), said);
    answer.map_err(|failed| failed.error)
}

/// What the asking agent's own object said about a question.
struct Asked {
    said: MayAsk,
    lane: Lane,
}

impl Asked {
    fn confirmed() -> Self {
        Self {
            said: MayAsk::Confirmed,
            lane: Lane::Confirmed,
        }
    }

    /// The object counts the question until it is told what came of it.
    fn is_counted(&self) -> bool {
        matches!(self.said, MayAsk::Ask { .. })
    }

    /// Tells the object what the registry said. A yes is always told: it is what makes the question a confirmed one.
    fn tell(self, app: &App, agent: &AgentDid, named: Named, said: Said) {
        let is_yes = match said {
            Said::Yes => Some(true),
            Said::No => Some(false),
            Said::Nothing(_) => None,
        };
        if is_yes.is_some() || self.is_counted() {
            trust::client::answered(app, agent, named, is_yes);
        }
    }

    /// The lane does not let the question pass. Waits where it will in a moment; the place that the object gave is kept.
    async fn not_now(
        &self,
        app: &App,
        budget: &Budget,
        agent: &AgentDid,
        named: &Named,
        not_now: NotNow,
    ) -> Result<(), IdentityError> {
        let circuit_open = not_now.cause == NotAsked::CircuitOpen;
        if !circuit_open && super::in_a_moment(app, budget, not_now.retry_after_ms).await {
            return Ok(());
        }
        if self.is_counted() {
            trust::client::answered(app, agent, named.clone(), None);
        }
        Err(match not_now.cause {
            NotAsked::Held => IdentityError::Held {
                retry_after_s: not_now.retry_after_ms.div_ceil(1000).max(1),
            },
            NotAsked::TooMany | NotAsked::CircuitOpen => unavailable(not_now.retry_after_ms),
        })
    }
}

/// Asks the agent's own object, which counts what nobody has confirmed.
async fn may_ask(
    app: &App,
    budget: &Budget,
    agent: &AgentDid,
    named: &Named,
) -> Result<Asked, IdentityError> {
    loop {
        let said = trust::client::may_ask(app, agent, named)
            .await
            .map_err(|_| unavailable(0))?;
        let lane = match said {
            MayAsk::Confirmed => Lane::Confirmed,
            MayAsk::Ask { known: true } => Lane::Known,
            MayAsk::Ask { known: false } => Lane::Stranger,
            MayAsk::Wait { retry_after_ms } if super::in_a_moment(app, budget, retry_after_ms).await => {
                continue;
            }
            // Only questions that are still out are in the way: that says nothing against the agent.
            MayAsk::Wait { retry_after_ms } if retry_after_ms <= super::A_MOMENT_MS => {
                return Err(unavailable(retry_after_ms));
            }
            MayAsk::Wait { retry_after_ms } => {
                let retry_after_s = retry_after_ms.div_ceil(1000).max(1);
                return Err(IdentityError::TooMany { retry_after_s });
            }
            // Said of tokens alone.
            MayAsk::Refused => return Err(unavailable(0)),
        };
        return Ok(Asked { said, lane });
    }
}

fn caller(agent: &AgentDid) -> Caller {
    agent.ulid().as_u128()
}

/// What the circuit and the caller are told when there is no answer.
struct Failed {
    outcome: Outcome,
    error: IdentityError,
}

async fn ask<T>(
    app: &App,
    budget: &Budget,
    dependency: Dependency,
    path: &str,
    body: &impl Serialize,
    parse: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Failed> {
    let error = IdentityError::Unavailable {
        retry_after_s: Unavailable::failed(dependency).retry_after_s(),
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
            state::error(app, "proxy.registry.credentials_refused", dependency, detail);
            let outcome = match reply {
                Reply::Answer { .. } => Outcome::Success,
                _ => Outcome::Inconclusive,
            };
            let retry_after_s = Unavailable::failed(dependency).retry_after_s();
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
        dependency,
        json!(reply.describe()),
    );
    Err(Failed { outcome, error })
}

fn unavailable(retry_after_ms: u64) -> IdentityError {
    IdentityError::Unavailable {
        retry_after_s: retry_after_ms.div_ceil(1000).max(1),
    }
}

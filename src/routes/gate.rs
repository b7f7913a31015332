//! The gate: the outside of the pipeline, made of the registry client, the trust object and D1.
//!
//! It hands `core::pipeline` what the pipeline asks for, reads the body between the two halves of step 3, and writes
//! the log lines: `proxy.auth.verified` with everything that the decision rested on, `proxy.auth.refused` with the
//! code, and `proxy.auth.clock_skew` when a caller's clock is about to fail. It decides nothing.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use lru::LruCache;
use serde_json::json;

use crate::app::App;
use crate::config::Environment;
use crate::core::admission::unconfirmed::Named;
use crate::core::admission::{Generation, Rate, StoreValidation};
use crate::core::budget::Budget;
use crate::core::operator_page::recent::Decision;
use crate::core::pipeline::{self, Admission, Policy, Ports, Presented, Refusal, Verified, VerifiedAit};
use crate::core::provenance::Provenance;
use crate::core::registry::access::Keep;
use crate::core::router::KnownAgent;
use crate::error::ApiError;
use crate::http::{Head, Incoming, Response, SKEW_HEADER, Unread};
use crate::protocol::ait::Ait;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{GroupId, Ulid};
use crate::protocol::issuer::Issuer;
use crate::protocol::keyset::KeySet;
use crate::protocol::proof::{AccessToken, ProofHeaders, Timestamp, skew_seconds};
use crate::registry;
use crate::routes::recent;
use crate::trust;

/// One warning line per agent in this time.
const WARN_EVERY_MS: u64 = 60_000;
/// Membership of the group it names stands in for being a known agent (docs/wire.md §5).
const GROUP_HEADER: &str = "x-claw-group-id";
/// Whom a hook is for. Other routes do not have it; where it is sent all the same it means nothing.
const RECIPIENT_HEADER: &str = "x-claw-recipient-agent-did";

/// The address of whoever sent the request, as the platform says.
const ADDRESS_HEADER: &str = "cf-connecting-ip";

thread_local! {
    /// AITs verified in this isolate, by the hash of their text (docs/design.md §2, step 2).
    static VERIFIED_AITS: RefCell<Option<LruCache<[u8; 32], VerifiedAit>>> = const { RefCell::new(None) };
    /// When an agent was last warned of its clock.
    static SKEW_WARNINGS: RefCell<Option<LruCache<AgentDid, u64>>> = const { RefCell::new(None) };
}

/// Which steps this request needs.
pub fn policy(known: KnownAgent, access_token: bool, head: &Head) -> Policy {
    let known_agent = match known {
        KnownAgent::NotNeeded => false,
        KnownAgent::Needed => true,
        KnownAgent::NeededUnlessGroup => !names_group(head),
    };
    Policy {
        known_agent,
        access_token,
    }
}

/// Steps 2 to 7 of docs/design.md §2, and the whole request.
///
/// # Errors
/// The refusal, with its code; or that of the body.
pub async fn admit(
    app: &App,
    head: Head,
    unread: Unread,
    policy: Policy,
    rate: Rate,
) -> Result<(Verified, Incoming), ApiError> {
    let header = |name| head.header(name);
    let presented = Presented {
        authorization: header("authorization"),
        timestamp: header("x-claw-timestamp"),
        nonce: header("x-claw-nonce"),
        body_sha256: header("x-claw-body-sha256"),
        proof: header("x-claw-proof"),
        access_token: header("x-claw-agent-access"),
        method: &head.target.method,
        path_and_query: &head.target.path_and_query,
    };
    let mut gate = Gate {
        app,
        budget: head.budget,
        expected_issuer: expected_issuer(app, &head),
        peer: named_peer(&head),
        rate,
    };
    let refused = |refusal: Refusal, agent: Option<&AgentDid>| {
        let timestamp = presented.timestamp.and_then(|text| Timestamp::parse(text).ok());
        let skew_s = timestamp.map(|timestamp| skew_seconds(app.now_ms(), timestamp));
        app.note(|noted| noted.skew_s = skew_s);
        let skew_s = skew_s.filter(|skew_s| is_off(app, *skew_s));
        log_refused(app, &head, &refusal, agent, skew_s);
        let mut error = ApiError::from(refusal);
        error.skew_s = skew_s;
        error
    };
    let proven = pipeline::prove(&gate, &presented)
        .await
        .map_err(|refusal| refused(refusal, None))?;
    let agent = proven.agent().clone();
    let body = unread.read().await?;
    gate.budget = gate.budget.paused(body.took_ms);
    let verified = pipeline::verify(&gate, proven, &body.bytes, policy)
        .await
        .map_err(|refusal| refused(refusal, Some(&agent)))?;
    log_verified(app, &head, &verified);
    Ok((verified, head.with_body(body)))
}

/// Adds the skew header, to an answer as to a refusal, where the caller's clock is about to fail it.
///
/// # Errors
/// The handler's own.
pub fn tell_skew(app: &App, response: Result<Response, ApiError>, skew_s: i64) -> Result<Response, ApiError> {
    if !is_off(app, skew_s) {
        return response;
    }
    match response {
        Ok(response) => Ok(response.with_header(SKEW_HEADER, skew_s.to_string())),
        Err(mut error) => {
            error.skew_s = Some(skew_s);
            Err(error)
        }
    }
}

fn is_off(app: &App, skew_s: i64) -> bool {
    skew_s.unsigned_abs() > app.config.clock_skew_warn_s
}

fn names_group(head: &Head) -> bool {
    let header = head.header(GROUP_HEADER).unwrap_or_default();
    GroupId::parse(header.trim()).is_ok()
}

fn named_peer(head: &Head) -> Option<AgentDid> {
    let header = head.header(RECIPIENT_HEADER).unwrap_or_default();
    AgentDid::parse(header.trim()).ok().filter(|_| !names_group(head))
}

struct Gate<'a> {
    app: &'a App,
    budget: Budget,
    expected_issuer: Issuer,
    /// The agent that the request names, where it is to reach it by a pair.
    peer: Option<AgentDid>,
    /// What the request counts against.
    rate: Rate,
}

impl Ports for Gate<'_> {
    type Validations = trust::client::Validations;

    fn now_ms(&self) -> u64 {
        self.app.now_ms()
    }

    fn expected_issuer(&self) -> &Issuer {
        &self.expected_issuer
    }

    fn recall(&self, token_hash: &[u8; 32]) -> Option<VerifiedAit> {
        VERIFIED_AITS.with_borrow_mut(|cache| cache.as_mut()?.get(token_hash).cloned())
    }

    fn remember(&self, token_hash: [u8; 32], verified: VerifiedAit) {
        VERIFIED_AITS.with_borrow_mut(|cache| {
            cache
                .get_or_insert_with(|| LruCache::sparse(capacity(self.app)))
                .put(token_hash, verified);
        });
    }

    async fn keys(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        registry::keys::active(self.app, &self.budget).await
    }

    async fn keys_refreshed(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        registry::keys::after_unknown_kid(self.app, &self.budget).await
    }

    async fn admit(&self, ait: &Ait, proof: &ProofHeaders) -> Result<Admission<Self::Validations>, Refusal> {
        // An agent may always write to itself: that is no pair.
        let peer = self.peer.as_ref().filter(|peer| **peer != ait.sub);
        trust::client::admit(self.app, ait, proof, peer, self.rate).await
    }

    async fn crl_lists(&self, jti: &Ulid) -> Result<(bool, Option<Provenance>), Refusal> {
        registry::crl::lists(self.app, &self.budget, jti).await
    }

    async fn validate_access(
        &self,
        ait: &Ait,
        token: &AccessToken,
        admission: &Admission<Self::Validations>,
    ) -> Result<Provenance, Refusal> {
        let kept_at_ms = admission.validations.at_ms(&token.hash());
        let keep = keep_validation(self.app, ait, token, admission.generation);
        registry::access::validate(
            self.app,
            &self.budget,
            ait,
            token,
            admission.generation,
            kept_at_ms,
            keep,
        )
        .await
    }
}

/// Takes to the agent's object what the registry said of an access token, so that an isolate that knows nothing can
/// serve the agent in an outage.
fn keep_validation(
    app: &App,
    ait: &Ait,
    token: &AccessToken,
    generation: Generation,
) -> impl FnOnce(Keep) -> LocalBoxFuture<'static, ()> + use<> {
    let (app, agent, jti, token_hash) = (app.clone(), ait.sub.clone(), ait.jti, token.hash());
    move |keep| {
        Box::pin(async move {
            let done = match keep {
                Keep::Validated { at_ms } => {
                    let call = StoreValidation {
                        agent,
                        jti,
                        token_hash,
                        validated_at_ms: at_ms,
                        generation,
                    };
                    trust::client::store_validation(&app, call).await.map(|_| ())
                }
                Keep::Refused => trust::client::drop_validation(&app, &agent, token_hash).await,
                Keep::Unanswered => {
                    trust::client::answered(&app, &agent, Named::Token(token_hash), None);
                    Ok(())
                }
                Keep::Nothing => Ok(()),
            };
            if let Err(error) = done {
                app.log.warn(
                    "proxy.trust.validation_not_kept",
                    json!({ "error": error.to_string() }),
                );
            }
        })
    }
}

/// docs/wire.md §2: only a local deployment with a loopback registry and no issuer set may
/// take anything from the request's host.
fn expected_issuer(app: &App, head: &Head) -> Issuer {
    let registry = &app.config.registry;
    let local = app.config.environment == Environment::Local && registry.issuer.is_none();
    let request_url = local.then(|| head.target.url().ok()).flatten();
    let moved = request_url.and_then(|url| Issuer::for_request(&registry.url, local, &url));
    moved.unwrap_or_else(|| registry.expected_issuer.clone())
}

fn log_verified(app: &App, head: &Head, verified: &Verified) {
    let caller = &verified.caller;
    app.note(|noted| {
        noted.evidence = Some(verified.evidence);
        noted.skew_s = Some(verified.skew_s);
    });
    app.log_success("proxy.auth.verified", || {
        json!({
            "requestId": head.request_id.as_str(),
            "agentDid": caller.agent().as_str(),
            "ownerDid": caller.owner().as_str(),
            "jti": caller.jti().to_string(),
            "skewSeconds": verified.skew_s,
            "evidence": verified.evidence,
        })
    });
    decided(app, head, caller.agent(), None);
    if is_off(app, verified.skew_s) {
        recent::with(app, |recent, now_ms| {
            recent.skewed(caller.agent(), verified.skew_s, now_ms)
        });
    }
    if is_off(app, verified.skew_s) && warns_now(app, caller.agent()) {
        app.log.warn(
            "proxy.auth.clock_skew",
            json!({ "agentDid": caller.agent().as_str(), "skewSeconds": verified.skew_s }),
        );
    }
}

/// For the operator's page.
fn decided(app: &App, head: &Head, agent: &AgentDid, code: Option<&'static str>) {
    recent::with(app, |recent, at_ms| {
        recent.decided(Decision {
            at_ms,
            agent: agent.clone(),
            path: head.target.path().to_owned(),
            code,
        });
    });
}

/// `agent`: who it is, where its identity and its proof hold.
fn log_refused(app: &App, head: &Head, refusal: &Refusal, agent: Option<&AgentDid>, skew_s: Option<i64>) {
    if let Some(agent) = agent {
        decided(app, head, agent, Some(refusal.code().name));
    }
    let mut fields = json!({
        "requestId": head.request_id.as_str(),
        "agentDid": agent.map(AgentDid::as_str),
        "address": head.header(ADDRESS_HEADER),
        "code": refusal.code().name,
        "cause": refusal.cause(),
    });
    if let (Some(skew_s), Some(fields)) = (skew_s, fields.as_object_mut()) {
        fields.insert("skewSeconds".into(), skew_s.into());
    }
    match refusal {
        Refusal::OverRate { .. } => app.log.warn("proxy.rate_limit.exceeded", fields),
        Refusal::Internal(_) => app.log.error("proxy.auth.refused", fields),
        _ => app.log.warn("proxy.auth.refused", fields),
    }
}

fn warns_now(app: &App, agent: &AgentDid) -> bool {
    let now_ms = app.now_ms();
    SKEW_WARNINGS.with_borrow_mut(|warnings| {
        let warnings = warnings.get_or_insert_with(|| LruCache::sparse(capacity(app)));
        let due = warnings
            .get(agent)
            .is_none_or(|last_ms| now_ms.saturating_sub(*last_ms) >= WARN_EVERY_MS);
        if due {
            warnings.put(agent.clone(), now_ms);
        }
        due
    })
}

fn capacity(app: &App) -> NonZeroUsize {
    NonZeroUsize::new(app.config.cache_max_entries).unwrap_or(NonZeroUsize::MIN)
}

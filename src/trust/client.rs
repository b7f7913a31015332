//! Calls an agent's `ProxyTrustState`. Everyone who needs a trust object calls it through here.
//!
//! A call takes `TRUST_STATE_TIMEOUT_MS` at most, including its retries (`objects`). A retry has the same body, so an
//! admission keeps its attempt id. Without an answer the caller is refused with 503, because protection against
//! replay is not optional (docs/design.md §4).

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_json::json;

use crate::app::App;
use crate::core::admission::refusals::Refusals;
use crate::core::admission::{
    AdmitReply, AdmitRequest, CALL_URL, Changed, CheckReply, Generation, LiftRequest, RevokeReply,
    RevokeRequest, RevokedWhat, StoreReply, StoreValidation, TrustCall,
};
use crate::core::pipeline::{Admission, Refusal, RevokedBy};
use crate::objects;
use crate::protocol::ait::Ait;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::proof::{ProofHeaders, skew_seconds};

pub use crate::core::admission::Validations;

/// The `Retry-After` when an object gave no answer.
const RETRY_AFTER_S: u64 = 1;

thread_local! {
    static REFUSALS: RefCell<Option<Refusals>> = const { RefCell::new(None) };
}

/// The object gave no answer. The text is for the log alone.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrustUnavailable(String);

/// Step 4 of docs/design.md §2: one call to the caller's object, or none where this isolate was told lately that the agent or
/// its token is revoked (`REVOKED_MEMORY_MS`).
///
/// # Errors
/// What the object refused, or 503.
pub async fn admit(app: &App, ait: &Ait, proof: &ProofHeaders) -> Result<Admission<Validations>, Refusal> {
    let agent = ait.sub.ulid();
    let now_ms = app.now_ms();
    if let Some(what) = with_refusals(app, |refusals| refusals.recall(agent, ait.jti, now_ms)) {
        return Err(Refusal::Revoked(revoked_by(what)));
    }
    let timestamp_s = proof.timestamp.seconds();
    let request = AdmitRequest {
        agent: ait.sub.clone(),
        jti: ait.jti,
        jti_expires_at_ms: ait.exp_s.saturating_mul(1000),
        timestamp_s,
        nonce_hash: proof.nonce.hash(),
        attempt: app.random().map_err(|_| Refusal::Internal("no randomness"))?,
    };
    let reply = call(app, agent, &TrustCall::Admit(request))
        .await
        .map_err(|error| {
            app.log.warn(
                "proxy.trust.unavailable",
                json!({ "agentDid": ait.sub.as_str(), "error": error.to_string() }),
            );
            Refusal::DependencyUnavailable {
                what: "trust_state",
                retry_after_s: RETRY_AFTER_S,
            }
        })?;
    match reply {
        AdmitReply::Admitted {
            generation,
            pairs_generation,
            validations,
            token_lifted,
        } => Ok(Admission {
            generation,
            pairs_generation,
            validations,
            token_lifted,
        }),
        AdmitReply::Revoked { what } => {
            with_refusals(app, |refusals| refusals.remember(what, agent, ait.jti, now_ms));
            Err(Refusal::Revoked(revoked_by(what)))
        }
        AdmitReply::Replayed => Err(Refusal::Replay),
        AdmitReply::OverRate { retry_after_s } => Err(Refusal::OverRate {
            retry_after_s: retry_after_s.into(),
        }),
        AdmitReply::Skewed => Err(Refusal::TimestampSkew {
            skew_s: skew_seconds(app.now_ms(), proof.timestamp),
        }),
    }
}

/// How an agent stands, or the token that opened one of its sockets. For whoever acts for an agent without a request
/// of it: an open socket, queued mail.
///
/// # Errors
/// No answer: the caller must not act.
pub async fn check(app: &App, agent: &AgentDid, jti: Option<Ulid>) -> Result<CheckReply, TrustUnavailable> {
    call(
        app,
        agent.ulid(),
        &TrustCall::Check {
            agent: agent.clone(),
            jti,
        },
    )
    .await
}

/// Writes a revocation to the overlay: from the answer on, nothing of it is admitted.
///
/// # Errors
/// No answer: it must be tried again.
pub async fn revoke(app: &App, request: RevokeRequest) -> Result<RevokeReply, TrustUnavailable> {
    call(app, request.agent.ulid(), &TrustCall::Revoke(request)).await
}

/// Takes a revocation back: within 30 s, for as long as isolates remember it, the agent is admitted again.
///
/// # Errors
/// No answer: it must be tried again.
pub async fn lift(app: &App, request: LiftRequest) -> Result<RevokeReply, TrustUnavailable> {
    call(app, request.agent.ulid(), &TrustCall::Lift(request)).await
}

/// Ends what is cached about an agent's session, and, where its owner ended it, the authority of what was accepted
/// under it until now.
///
/// # Errors
/// No answer: it must be tried again.
pub async fn end_session(app: &App, agent: &AgentDid, by_owner: bool) -> Result<(), TrustUnavailable> {
    let end = TrustCall::ReplaceGeneration {
        agent: agent.clone(),
        changed: Changed::Session,
        by_owner,
    };
    call::<RevokeReply>(app, agent.ulid(), &end).await.map(|_| ())
}

/// Voids what is cached about an agent and may have changed. Returns the generation that is now in force, for the
/// agent's relay session.
///
/// # Errors
/// No answer: it may or may not have been replaced.
pub async fn replace_generation(
    app: &App,
    agent: &AgentDid,
    changed: Changed,
) -> Result<Generation, TrustUnavailable> {
    let reply: RevokeReply = call(
        app,
        agent.ulid(),
        &TrustCall::ReplaceGeneration {
            agent: agent.clone(),
            changed,
            by_owner: false,
        },
    )
    .await?;
    Ok(reply.generation)
}

/// Keeps a validated access token in the agent's object, for isolates that know nothing yet.
///
/// # Errors
/// No answer; nothing depends on it.
pub async fn store_validation(
    app: &App,
    validation: StoreValidation,
) -> Result<StoreReply, TrustUnavailable> {
    call(
        app,
        validation.agent.ulid(),
        &TrustCall::StoreValidation(validation),
    )
    .await
}

/// Drops what the agent's object keeps of an access token that the registry refused.
///
/// # Errors
/// No answer; the next refusal tries again.
pub async fn drop_validation(
    app: &App,
    agent: &AgentDid,
    token_hash: [u8; 32],
) -> Result<(), TrustUnavailable> {
    let drop = TrustCall::DropValidation {
        agent: agent.clone(),
        token_hash,
    };
    call::<StoreReply>(app, agent.ulid(), &drop).await.map(|_| ())
}

fn with_refusals<R>(app: &App, act: impl FnOnce(&mut Refusals) -> R) -> R {
    REFUSALS.with_borrow_mut(|refusals| {
        act(refusals.get_or_insert_with(|| Refusals::new(app.config.trust.revoked_memory_ms)))
    })
}

fn revoked_by(what: RevokedWhat) -> RevokedBy {
    match what {
        RevokedWhat::Agent => RevokedBy::OverlayAgent,
        RevokedWhat::Token => RevokedBy::OverlayToken,
    }
}

async fn call<R: DeserializeOwned>(app: &App, agent: Ulid, call: &TrustCall) -> Result<R, TrustUnavailable> {
    let body = serde_json::to_string(call).map_err(|error| TrustUnavailable(error.to_string()))?;
    let limit_ms = app.config.trust.state_timeout_ms;
    let text = objects::post(limit_ms, CALL_URL, &body, || app.trust_object(agent))
        .await
        .map_err(|error| TrustUnavailable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|_| TrustUnavailable("the answer cannot be parsed".into()))
}

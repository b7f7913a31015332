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
use crate::core::admission::unconfirmed::{MayAsk, Named};
use crate::core::admission::{
    AdmitReply, AdmitRequest, Changed, CheckReply, EndPairReply, EndedPair, Generation, LiftRequest,
    MailQuestion, PairId, Rate, RevokeReply, RevokeRequest, RevokedWhat, StoreReply, StoreValidation,
    TrustCall,
};
use crate::core::pipeline::{Admission, Refusal, RevokedBy};
use crate::core::takeover;
use crate::protocol::ait::Ait;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::proof::{ProofHeaders, skew_seconds};

pub use crate::core::admission::Validations;

/// The `Retry-After` when an object gave no answer.
const RETRY_AFTER_S: u64 = 1;

/// The whole import may take this long in one call; one that takes longer goes on in the next.
const TAKEOVER_TIMEOUT_MS: u64 = 20_000;

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
pub async fn admit(
    app: &App,
    ait: &Ait,
    proof: &ProofHeaders,
    peer: Option<&AgentDid>,
    rate: Rate,
) -> Result<Admission<Validations>, Refusal> {
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
        peer: peer.cloned(),
        rate,
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
            peers,
            validations,
            token_lifted,
        } => Ok(Admission {
            generation,
            peers,
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
    check_pair(app, agent, jti, None, None).await
}

/// The same, and whether the agent may write to `peer`; with `pair_id`, whether that pair, under which something was let
/// in before, has not been ended.
///
/// # Errors
/// As `check`.
pub async fn check_pair(
    app: &App,
    agent: &AgentDid,
    jti: Option<Ulid>,
    peer: Option<&AgentDid>,
    pair_id: Option<&PairId>,
) -> Result<CheckReply, TrustUnavailable> {
    let check = TrustCall::Check {
        agent: agent.clone(),
        jti,
        peer: peer.cloned(),
        pair_id: pair_id.cloned(),
        mail: None,
        named: None,
    };
    call(app, agent.ulid(), &check).await
}

/// How an agent stands whose mail to `recipient` waits, and what has ended of what that mail rests on.
///
/// # Errors
/// As `check`.
pub async fn check_mail(
    app: &App,
    agent: &AgentDid,
    recipient: &AgentDid,
    question: MailQuestion,
) -> Result<CheckReply, TrustUnavailable> {
    let check = TrustCall::Check {
        agent: agent.clone(),
        jti: None,
        peer: Some(recipient.clone()),
        pair_id: None,
        mail: Some(question),
        named: None,
    };
    call(app, agent.ulid(), &check).await
}

/// Whether the registry may be asked about something that this agent has named and nobody has confirmed. Where it may, the
/// question counts until `answered` says what came of it.
///
/// # Errors
/// No answer: it must not be asked.
pub async fn may_ask(app: &App, agent: &AgentDid, named: &Named) -> Result<MayAsk, TrustUnavailable> {
    let check = TrustCall::Check {
        agent: agent.clone(),
        jti: None,
        peer: None,
        pair_id: None,
        mail: None,
        named: Some(named.clone()),
    };
    let reply: CheckReply = call(app, agent.ulid(), &check).await?;
    // An object of an older version counts nothing; the isolate's lanes still do.
    Ok(reply.may_ask.unwrap_or(MayAsk::Ask { known: false }))
}

/// Tells the agent's object, beside the request, what the registry said; none where it did not say.
pub fn answered(app: &App, agent: &AgentDid, named: Named, is_yes: Option<bool>) {
    let background = app.clone();
    let agent = agent.clone();
    app.wait_until(async move {
        let told = TrustCall::Answered {
            agent: agent.clone(),
            named,
            is_yes,
        };
        if let Err(error) = call::<StoreReply>(&background, agent.ulid(), &told).await {
            let fields = json!({ "agentDid": agent.as_str(), "error": error.to_string() });
            background.log.warn("proxy.trust.answer_not_kept", fields);
        }
    });
}

/// Has an agent's object read the record of this pair.
///
/// # Errors
/// No answer: it must be tried again.
pub async fn pair_changed(
    app: &App,
    agent: &AgentDid,
    peer: &AgentDid,
) -> Result<RevokeReply, TrustUnavailable> {
    let changed = TrustCall::PairChanged {
        agent: agent.clone(),
        peer: peer.clone(),
    };
    call(app, agent.ulid(), &changed).await
}

/// Ends an agent's pair on its own word: from the answer on, its object admits nothing by it, and takes the end to all
/// others.
///
/// # Errors
/// No answer: it may have ended.
pub async fn end_pair(
    app: &App,
    agent: &AgentDid,
    peer: &AgentDid,
) -> Result<EndPairReply, TrustUnavailable> {
    let end = TrustCall::EndPair {
        agent: agent.clone(),
        peer: peer.clone(),
    };
    call(app, agent.ulid(), &end).await
}

/// Tells an agent's object that the other side has ended a pair, and with it every one of the two that was made until
/// `until_ms` (0: not known), and whether the record does not know yet.
///
/// # Errors
/// No answer: it must be tried again.
pub(super) async fn pair_ended(
    app: &App,
    agent: &AgentDid,
    ended: EndedPair,
    until_ms: u64,
    unrecorded: bool,
) -> Result<RevokeReply, TrustUnavailable> {
    let told = TrustCall::PairEnded {
        agent: agent.clone(),
        ended,
        until_ms,
        unrecorded,
    };
    call(app, agent.ulid(), &told).await
}

/// Tells an agent's object that all others know of the end of a pair.
///
/// # Errors
/// No answer: the object tells them again.
pub async fn pair_settled(app: &App, agent: &AgentDid, ended: EndedPair) -> Result<(), TrustUnavailable> {
    let settled = TrustCall::PairSettled {
        agent: agent.clone(),
        ended,
    };
    call::<StoreReply>(app, agent.ulid(), &settled).await.map(|_| ())
}

/// Has the object that an earlier proxy kept its trust state in bring that into the record.
///
/// # Errors
/// It is not finished, and the next call goes on.
pub(super) async fn take_over(app: &App) -> Result<(), TrustUnavailable> {
    let name = takeover::OBJECT_NAME.to_owned();
    let done: StoreReply = call_named(app, TAKEOVER_TIMEOUT_MS, name, &TrustCall::TakeOver {}).await?;
    match done.stored {
        true => Ok(()),
        false => Err(TrustUnavailable("the import is not finished".into())),
    }
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

/// Tells an agent's object when its owner ended its session, as the ledger says.
///
/// # Errors
/// No answer: it must be tried again.
pub async fn session_ended(app: &App, agent: &AgentDid, at_ms: Option<u64>) -> Result<(), TrustUnavailable> {
    let ended = TrustCall::SessionEnded {
        agent: agent.clone(),
        at_ms,
    };
    call::<StoreReply>(app, agent.ulid(), &ended).await.map(|_| ())
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
    let limit_ms = app.config.trust.state_timeout_ms;
    call_named(app, limit_ms, agent.to_string(), call).await
}

async fn call_named<R: DeserializeOwned>(
    app: &App,
    limit_ms: u64,
    name: String,
    call: &TrustCall,
) -> Result<R, TrustUnavailable> {
    let body = serde_json::to_string(call).map_err(|error| TrustUnavailable(error.to_string()))?;
    let text = app
        .call_trust(limit_ms, name, &body)
        .await
        .map_err(|error| TrustUnavailable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|_| TrustUnavailable("the answer cannot be parsed".into()))
}

//! `POST /pair/start`: makes a ticket with which another agent can pair with the caller (docs/wire.md §5.5).

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Object, own_origin, parse_body, present, unavailable};
use crate::app::App;
use crate::core::budget::Budget;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::issuer::Origin;
use crate::protocol::key::PublicKey;
use crate::protocol::profile::Profile;
use crate::protocol::ticket::{Ticket, UnsignedTicket};
use crate::protocol::time::iso_ms;
use crate::registry::identity::{self, IdentityError};
use crate::trust::tickets::{self, StoredTicket, TicketProof};

const DEFAULT_TTL_SECONDS: u64 = 300;
const MAX_TTL_SECONDS: u64 = 900;
const EXPECTED: &str = "The body must be {ttlSeconds?: 1-900, initiatorProfile: {agentName, humanName, proxyOrigin?}, \
                        allowResponderAgentDid?: an agent's DID}.";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    #[serde(default, deserialize_with = "present")]
    ttl_seconds: Option<u64>,
    initiator_profile: Object<Profile>,
    #[serde(default, deserialize_with = "present")]
    allow_responder_agent_did: Option<AgentDid>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    initiator_agent_did: &'a AgentDid,
    initiator_profile: &'a Profile,
    ticket: String,
    expires_at: String,
}

/// 1. body: 400 `PROXY_PAIR_INVALID_BODY`
/// 2. the caller's owner owns the caller's agent, which is active: 403 `PROXY_PAIR_OWNERSHIP_FORBIDDEN`, 503
///    `PROXY_PAIR_OWNERSHIP_UNAVAILABLE`, `PROXY_INTERNAL_AUTH_UNAUTHORIZED`
/// 3. a key pair for this one ticket: 503 `PROXY_PAIR_TICKET_SIGNING_UNAVAILABLE`
/// 4. the ticket is kept: 503 `PROXY_PAIR_STATE_UNAVAILABLE`
/// 5. 200
pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let body: Body = parse_body(&incoming, EXPECTED)?;
    let ttl_s = body.ttl_seconds.unwrap_or(DEFAULT_TTL_SECONDS);
    if !(1..=MAX_TTL_SECONDS).contains(&ttl_s) {
        return Err(ApiError::new(
            &code::PROXY_PAIR_INVALID_BODY,
            "ttlSeconds must be from 1 to 900.",
        ));
    }

    confirm_ownership(app, &caller, &incoming.budget).await?;

    let issuer = own_origin(&incoming)?;
    let exp_s = app.now_ms() / 1000 + ttl_s;
    let made = make_ticket(app, issuer.clone(), exp_s).map_err(|_| {
        ApiError::new(
            &code::PROXY_PAIR_TICKET_SIGNING_UNAVAILABLE,
            "Tickets cannot be signed at the moment.",
        )
        .with_retry_after(1)
    })?;
    let stored = StoredTicket {
        issuer,
        proof: TicketProof::Key(made.key),
        expires_at_ms: exp_s.saturating_mul(1000),
        initiator: caller.agent().clone(),
        initiator_profile: body.initiator_profile.0,
        allow_responder: body.allow_responder_agent_did,
        confirmation: None,
        untold: false,
    };
    tickets::create(app, made.kid, &stored)
        .await
        .map_err(|error| unavailable(app, &error))?;

    let expires_at = iso_ms(stored.expires_at_ms);
    let fields = json!({
        "requestId": incoming.request_id.as_str(),
        "initiatorAgentDid": stored.initiator.as_str(),
        "kid": made.kid.to_string(),
        "expiresAt": expires_at,
    });
    app.log.info("proxy.pair.start", fields);
    let answer = Answer {
        initiator_agent_did: &stored.initiator,
        initiator_profile: &stored.initiator_profile,
        ticket: made.text,
        expires_at,
    };
    json_response(200, &answer)
}

struct NewTicket {
    kid: Ulid,
    text: String,
    key: PublicKey,
}

/// The private key is used once and dropped.
fn make_ticket(app: &App, iss: Origin, exp_s: u64) -> Result<NewTicket, getrandom::Error> {
    let key = SigningKey::from_bytes(&app.random()?);
    let kid = app.new_ulid()?;
    let unsigned = UnsignedTicket {
        iss,
        kid,
        nonce: app.random()?,
        exp_s,
        pkid: app.new_ulid()?,
    };
    Ok(NewTicket {
        kid,
        text: Ticket::sign(unsigned, &key),
        key: PublicKey::from(&key),
    })
}

async fn confirm_ownership(app: &App, caller: &Caller, budget: &Budget) -> Result<(), ApiError> {
    let refusal = match identity::owns(app, budget, caller.owner(), caller.agent()).await {
        Ok(ownership) if ownership.is_confirmed() => return Ok(()),
        Ok(_) => ApiError::new(
            &code::PROXY_PAIR_OWNERSHIP_FORBIDDEN,
            "The registry does not confirm that the caller's owner owns this agent and that it is active.",
        ),
        Err(IdentityError::Unavailable { retry_after_s } | IdentityError::Held { retry_after_s }) => {
            ApiError::new(
                &code::PROXY_PAIR_OWNERSHIP_UNAVAILABLE,
                "The registry cannot be asked at the moment who owns this agent.",
            )
            .with_retry_after(retry_after_s)
        }
        Err(IdentityError::CredentialsRefused { retry_after_s }) => ApiError::new(
            &code::PROXY_INTERNAL_AUTH_UNAUTHORIZED,
            "The registry does not accept this proxy's credentials.",
        )
        .with_retry_after(retry_after_s),
        Err(IdentityError::TooMany { retry_after_s }) => ApiError::new(
            &code::PROXY_RATE_LIMIT_EXCEEDED,
            "The registry was asked too often for an owner that it does not confirm.",
        )
        .with_retry_after(retry_after_s),
    };
    Err(refusal)
}

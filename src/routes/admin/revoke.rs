//! `POST /admin/v1/revocations`: the operator revokes (docs/wire.md §10.3).
//!
//! 400 `PROXY_ADMIN_INVALID_INPUT`; 503 `PROXY_REVOCATION_UNAVAILABLE`, and the same request completes it; 201 with
//! the item, or 200 where it stood already. It is applied like an event, also where it stood already.

use serde_json::json;

use super::{bad_input, unavailable};
use crate::app::App;
use crate::core::admin::check_order;
use crate::core::admission::{TokenRevocation, token_expiry_ms};
use crate::error::ApiError;
use crate::http::{self, Incoming, Response, json_response};
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::revocation::{self, Source, Subject};
use crate::revocation::{Order, apply};
use crate::trust::ledger::{self, feed};

pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let issuer = &app.config.registry.expected_issuer;
    let authority = issuer.authority().map_err(|_| http::internal())?;
    let now_ms = app.now_ms();
    let asked = revocation::Order::parse(&incoming.body).map_err(|error| bad_input(error.reason()))?;
    check_order(&asked, authority.as_str(), now_ms).map_err(bad_input)?;
    let subject = asked.subject;
    let tokens = match &subject {
        Subject::Token {
            jti, expires_at_ms, ..
        } => vec![TokenRevocation {
            jti: *jti,
            expires_at_ms: token_expiry_ms(*expires_at_ms, now_ms),
        }],
        _ => Vec::new(),
    };
    let order = Order {
        agent: subject.agent().cloned(),
        revoke_agent: matches!(subject, Subject::Agent { .. }),
        session_ended: matches!(subject, Subject::Session { .. }),
        tokens,
        reason: asked.reason,
        source: Source::Operator,
        event_id: None,
        revoked_at_ms: now_ms,
        told_at_ms: Some(now_ms),
        told_expiry_ms: match &subject {
            Subject::Token { expires_at_ms, .. } => *expires_at_ms,
            _ => None,
        },
        patience_ms: app.config.trust.write_timeout_ms,
    };
    refuse_mismatch(app, &subject).await?;
    let before = apply(app, &order)
        .await
        .map_err(|error| unavailable(app, &error))?;
    let item = match &subject {
        Subject::Agent { agent } => feed::of_agent(app, agent).await,
        Subject::Token { jti, .. } => feed::of_token(app, *jti).await,
        Subject::Session { agent } => feed::of_session(app, before, agent).await,
        Subject::Lift { .. } => return Err(bad_input("a lift has a route of its own")),
    };
    let item = item.map_err(|error| unavailable(app, &error))?;
    // Lifted by somebody else in this very moment, it has no row that stands.
    let item = item.ok_or_else(|| unavailable(app, &"it was lifted at once"))?;
    let new = item.seq > before;
    let fields = json!({
        "requestId": incoming.request_id.as_str(),
        "seq": item.seq,
        "kind": subject.kind(),
        "agentDid": item.subject.agent().map(AgentDid::as_str),
        "jti": item.subject.jti().map(|jti| jti.to_string()),
        "new": new,
    });
    app.log.warn("proxy.admin.revoked", fields);
    json_response(if new { 201 } else { 200 }, &item)
}

/// A token that belongs to another agent than the one that is named beside it is a mistake to be mended by the operator.
/// A record that does not answer keeps no kill waiting: whoever holds the token is struck when the order is repeated.
async fn refuse_mismatch(app: &App, subject: &Subject) -> Result<(), ApiError> {
    let (Some(jti), Some(named)) = (subject.jti(), subject.agent()) else {
        return Ok(());
    };
    let owners = ledger::agents_of(app, &[jti]).await.unwrap_or_default();
    match owners.into_iter().find(|(_, owner)| owner != named) {
        Some((_, owner)) => {
            let message =
                "This token belongs to another agent than the one that is named. Nothing was revoked.";
            let error = ApiError::new(&code::PROXY_REVOCATION_AGENT_MISMATCH, message);
            Err(error.with_details(json!({ "ownerAgentDid": owner.as_str() })))
        }
        None => Ok(()),
    }
}

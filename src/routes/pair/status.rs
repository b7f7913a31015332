//! `POST /pair/status`: the state of a ticket, for its participants only (docs/wire.md §5.5).

use serde::{Deserialize, Serialize};

use super::{expired, find_ticket, parse_body, refused};
use crate::app::App;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::profile::{Profile, ResponderProfile};
use crate::protocol::ticket::Ticket;
use crate::protocol::time::iso_ms;
use crate::trust::pairs;

#[derive(Deserialize)]
struct Body {
    ticket: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    status: &'static str,
    initiator_agent_did: &'a AgentDid,
    initiator_profile: &'a Profile,
    #[serde(skip_serializing_if = "Option::is_none")]
    responder_agent_did: Option<&'a AgentDid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    responder_profile: Option<&'a ResponderProfile>,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_at: Option<String>,
}

/// 1. body: 400 `PROXY_PAIR_INVALID_BODY`; ticket: 400 `PROXY_PAIR_TICKET_…`
/// 2. known: 404 `PROXY_PAIR_TICKET_NOT_FOUND`; its own: 400; 503 `PROXY_PAIR_STATE_UNAVAILABLE`
/// 3. the caller is its initiator or confirmed it: 403 `PROXY_PAIR_STATUS_FORBIDDEN`
/// 4. confirmed, or not expired: 410 `PROXY_PAIR_TICKET_EXPIRED`
/// 5. where not both objects are known to have been told of the pair, they are told again
/// 6. 200
pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let body: Body = parse_body(&incoming, "The body must be {ticket}.")?;
    let ticket = Ticket::parse(&body.ticket).map_err(refused)?;
    let stored = find_ticket(app, &incoming, &ticket).await?;
    let confirmation = stored.confirmation.as_ref();
    let confirmed_it = confirmation.is_some_and(|confirmation| confirmation.responder == *caller.agent());
    if *caller.agent() != stored.initiator && !confirmed_it {
        return Err(ApiError::new(
            &code::PROXY_PAIR_STATUS_FORBIDDEN,
            "The caller has no part in this ticket.",
        ));
    }
    if confirmation.is_none() && stored.expires_at_ms <= app.now_ms() {
        return Err(expired());
    }
    if let Some(confirmation) = confirmation.filter(|_| stored.untold) {
        // What fails stays marked, and is told again.
        pairs::tell(app, &stored.initiator, &confirmation.responder, &confirmation.id).await;
    }
    let answer = Answer {
        status: if confirmation.is_some() {
            "confirmed"
        } else {
            "pending"
        },
        initiator_agent_did: &stored.initiator,
        initiator_profile: &stored.initiator_profile,
        responder_agent_did: confirmation.map(|confirmation| &confirmation.responder),
        responder_profile: confirmation.map(|confirmation| &confirmation.responder_profile),
        expires_at: iso_ms(stored.expires_at_ms),
        confirmed_at: confirmation.map(|confirmation| iso_ms(confirmation.at_ms)),
    };
    json_response(200, &answer)
}

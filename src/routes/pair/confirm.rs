//! `POST /pair/confirm`: the caller takes a ticket, and the two agents become a pair (docs/wire.md §5.5).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Object, already_confirmed, expired, find_ticket, not_found, parse_body, refused, unavailable};
use crate::app::{App, binding};
use crate::clock;
use crate::core::admission::PairId;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{self, Incoming, Response, json_response};
use crate::protocol::b64;
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::event::PairAccepted;
use crate::protocol::profile::{Profile, ResponderProfile};
use crate::protocol::ticket::Ticket;
use crate::trust::pairs;
use crate::trust::tickets::{self, Confirmation, Confirmed, StoredTicket};

const EXPECTED: &str =
    "The body must be {ticket, responderProfile: {agentName, humanName, proxyOrigin: an http(s) URL}}.";
/// One try to put the event on the queue.
const SEND_TIMEOUT_MS: u64 = 2_000;
/// Pauses before the tries that follow.
const SEND_PAUSES_MS: [u64; 2] = [100, 400];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    ticket: String,
    responder_profile: Object<ResponderProfile>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    paired: bool,
    initiator_agent_did: &'a AgentDid,
    initiator_profile: &'a Profile,
    responder_agent_did: &'a AgentDid,
    responder_profile: &'a ResponderProfile,
}

/// 1. body: 400 `PROXY_PAIR_INVALID_BODY`; ticket: 400 `PROXY_PAIR_TICKET_…`
/// 2. known: 404 `PROXY_PAIR_TICKET_NOT_FOUND`; its own: 400; 503 `PROXY_PAIR_STATE_UNAVAILABLE`
/// 3. not confirmed by another: 409 `PROXY_PAIR_TICKET_ALREADY_CONFIRMED`; by the caller itself: on with 7
/// 4. not expired: 410 `PROXY_PAIR_TICKET_EXPIRED`
/// 5. meant for the caller, who is not the initiator: 403 `PROXY_PAIR_RESPONDER_FORBIDDEN`
/// 6. confirmed by one conditional write: 409 where another was first
/// 7. both agents' objects are told, `pair.accepted` goes to the events queue; what fails of these is logged, and the
///    objects are told again by the scheduled run and by whoever asks about the ticket
/// 8. 201, the same however often the caller confirms
pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let body: Body = parse_body(&incoming, EXPECTED)?;
    let ticket = Ticket::parse(&body.ticket).map_err(refused)?;
    let mut stored = find_ticket(app, &incoming, &ticket).await?;
    if stored.confirmation.is_none() {
        stored = confirm(app, &caller, &ticket, stored, body.responder_profile.0).await?;
    }
    let Some(confirmation) = stored.confirmation else {
        return Err(http::internal());
    };
    if confirmation.responder != *caller.agent() {
        return Err(already_confirmed());
    }

    let event = PairAccepted {
        initiator: stored.initiator,
        responder: confirmation.responder,
        responder_profile: confirmation.responder_profile,
        issuer_proxy_origin: stored.issuer,
        event_at_ms: confirmation.at_ms,
    };
    if stored.untold {
        let told = pairs::tell(app, &event.initiator, &event.responder, &confirmation.id).await;
        let fields = json!({
            "requestId": incoming.request_id.as_str(),
            "initiatorAgentDid": event.initiator.as_str(),
            "responderAgentDid": event.responder.as_str(),
            "kid": ticket.kid.to_string(),
            "announced": told,
        });
        app.log.info("proxy.pair.confirmed", fields);
        publish(app, &event).await;
    }
    let answer = Answer {
        paired: true,
        initiator_agent_did: &event.initiator,
        initiator_profile: &stored.initiator_profile,
        responder_agent_did: &event.responder,
        responder_profile: &event.responder_profile,
    };
    json_response(201, &answer)
}

/// Steps 4 to 6: the ticket with its one confirmation, which may be another's.
async fn confirm(
    app: &App,
    caller: &Caller,
    ticket: &Ticket,
    stored: StoredTicket,
    responder_profile: ResponderProfile,
) -> Result<StoredTicket, ApiError> {
    let now_ms = app.now_ms();
    if stored.expires_at_ms <= now_ms {
        return Err(expired());
    }
    may_confirm(&stored, caller.agent())?;
    let id: [u8; 16] = app.random().map_err(|_| http::internal())?;
    let confirmation = Confirmation {
        id: PairId::parse(&b64::encode(&id)).map_err(|_| http::internal())?,
        responder: caller.agent().clone(),
        responder_profile,
        at_ms: now_ms,
    };
    let outcome = tickets::confirm(app, ticket.kid, &confirmation).await;
    match outcome.map_err(|error| unavailable(app, &error))? {
        Confirmed::Yes(stored) => Ok(*stored),
        Confirmed::Expired => Err(expired()),
        Confirmed::NotFound => Err(not_found()),
    }
}

fn may_confirm(ticket: &StoredTicket, caller: &AgentDid) -> Result<(), ApiError> {
    let forbidden = |message| Err(ApiError::new(&code::PROXY_PAIR_RESPONDER_FORBIDDEN, message));
    if *caller == ticket.initiator {
        return forbidden("An agent cannot confirm its own ticket.");
    }
    match &ticket.allow_responder {
        Some(allowed) if allowed != caller => forbidden("The ticket is meant for another agent."),
        _ => Ok(()),
    }
}

/// Tells the initiator's connector, through the queue. The pair stands without it: a failure is only logged.
async fn publish(app: &App, event: &PairAccepted) {
    let fields = |error: &str| json!({ "initiatorAgentDid": event.initiator.as_str(), "responderAgentDid": event.responder.as_str(), "error": error });
    let queue = match app.queue(binding::EVENTS_QUEUE) {
        Ok(queue) => queue,
        Err(_) => {
            return app
                .log
                .warn("proxy.pair.event_not_sent", fields("no binding EVENTS_QUEUE"));
        }
    };
    let body = event.to_queue_json();
    let mut pauses = SEND_PAUSES_MS.into_iter();
    loop {
        let error = match clock::within_ms(SEND_TIMEOUT_MS, queue.send(body.as_str())).await {
            Some(Ok(())) => return,
            Some(Err(error)) => error.to_string(),
            None => "no answer in time".into(),
        };
        let Some(pause_ms) = pauses.next() else {
            return app.log.error("proxy.pair.event_not_sent", fields(&error));
        };
        clock::sleep_ms(pause_ms).await;
    }
}

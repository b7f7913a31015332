//! `POST /hooks/message`: one message to one agent (docs/wire.md §5).
//!
//! Steps, and what each can end in, after the gate:
//! 1. media type: 415 `PROXY_HOOK_UNSUPPORTED_MEDIA_TYPE`
//! 2. body: 400 `PROXY_HOOK_INVALID_JSON`, also where a strict reader could not parse it
//! 3. recipient: 400 `PROXY_HOOK_RECIPIENT_REQUIRED`, `PROXY_HOOK_RECIPIENT_INVALID`; group: 400
//!    `PROXY_HOOK_GROUP_INVALID`; conversation: 400 `PROXY_HOOK_CONVERSATION_INVALID`; receipt URL: 400
//!    `PROXY_HOOK_RECEIPT_URL_INVALID`
//! 4. trust: the pair, or with a group the membership of both: 403 `PROXY_AUTH_FORBIDDEN`, 503
//! 5. the identity block, where it is wanted; then the size of the frame: 413 `PROXY_BODY_TOO_LARGE`
//! 6. the recipient's session: 202; 409 `PROXY_HOOK_REQUEST_ID_REUSED`, 507 `PROXY_RELAY_QUEUE_FULL`, 502
//!    `PROXY_RELAY_DELIVERY_FAILED`, 503 `PROXY_RELAY_UNAVAILABLE`
//!
//! The payload goes on as the sender wrote it, byte for byte; the request's id is the message's. A
//! header that is blank counts as absent.

use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::core::budget::Budget;
use crate::core::pipeline::{Caller, Refusal};
use crate::core::provenance::Provenance;
use crate::core::relay_queue::identity::{Entrance, Identity, Rewrite};
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code::{self, Code};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::{self, Deliver};
use crate::protocol::ids::{GroupId, Ulid};
use crate::protocol::payload;
use crate::registry::identity::IdentityError;
use crate::relay::client::{self, RelayError};
use crate::relay::may_write::{Allowed, MayNot, may_write};
use crate::relay::protocol::{DeliverCall, Delivery, DeliveryState, RelayCall, RelayReply, hash_of};
use crate::routes::recent;

/// The 202, in the order of docs/wire.md §5.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    accepted: bool,
    delivery_id: Ulid,
    state: DeliveryState,
    delivered: bool,
    queued: bool,
    queue_depth: u32,
    connected_sockets: u32,
}

pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    check_media_type(&incoming)?;
    let payload = parse_payload(&incoming)?;
    let recipient = parse_recipient(&incoming)?;
    let group = parse_group(&incoming)?;
    let conversation_id = optional(
        &incoming,
        "x-claw-conversation-id",
        &code::PROXY_HOOK_CONVERSATION_INVALID,
        frame::parse_conversation_id,
    )?;
    let reply_to = optional(
        &incoming,
        "x-claw-delivery-receipt-url",
        &code::PROXY_HOOK_RECEIPT_URL_INVALID,
        frame::parse_reply_to,
    )?;
    let allowed = check_trust(app, &caller, &recipient, group, &incoming.budget).await?;
    let rewrite = app
        .config
        .identity_block
        .rewrite(Entrance::Hook, payload, || Some(identity_of(&caller)));
    let call = DeliverCall {
        sender: caller.agent().clone(),
        request_id: incoming.request_id.clone().into(),
        payload,
        delivery_source: None,
        content_type: None,
        group_id: group,
        conversation_id,
        reply_to,
        pair_id: allowed.pair_id,
        sender_admitted: true,
        wait: true,
        hash: rewrite.as_ref().map(|_| hash_of(payload)),
        jti: Some(caller.jti()),
        generation: Some(caller.generation()),
    };
    check_size(app, &call, rewrite.as_ref(), &recipient)?;
    let rewritten = rewrite.and_then(|rewrite| rewrite.build());
    let payload = rewritten.as_deref().unwrap_or(payload);
    let delivery = deliver(app, DeliverCall { payload, ..call }, &recipient).await?;
    log(app, &caller, &incoming, &recipient, &delivery, &allowed.evidence);
    json_response(
        202,
        &Accepted {
            accepted: true,
            delivery_id: delivery.delivery_id,
            state: delivery.state,
            delivered: delivery.state.is_delivered(),
            queued: delivery.state == DeliveryState::Queued,
            queue_depth: delivery.queue_depth,
            connected_sockets: delivery.connected_sockets,
        },
    )
}

fn check_media_type(incoming: &Incoming) -> Result<(), ApiError> {
    let content_type = incoming.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        &code::PROXY_HOOK_UNSUPPORTED_MEDIA_TYPE,
        "Content-Type must be application/json.",
    ))
}

/// Any JSON value that a strict reader takes; its text is kept.
fn parse_payload(incoming: &Incoming) -> Result<&RawValue, ApiError> {
    payload::parse(&incoming.body).map_err(|error| {
        ApiError::new(
            &code::PROXY_HOOK_INVALID_JSON,
            "The body must be JSON that a strict reader takes.",
        )
        .with_details(json!({ "reason": error.reason() }))
    })
}

fn parse_recipient(incoming: &Incoming) -> Result<AgentDid, ApiError> {
    let header = incoming.header("x-claw-recipient-agent-did").unwrap_or_default();
    let text = header.trim();
    if text.is_empty() {
        let message = "X-Claw-Recipient-Agent-Did is missing.";
        return Err(ApiError::new(&code::PROXY_HOOK_RECIPIENT_REQUIRED, message));
    }
    AgentDid::parse(text).map_err(|_| {
        ApiError::new(
            &code::PROXY_HOOK_RECIPIENT_INVALID,
            "X-Claw-Recipient-Agent-Did must be an agent's DID.",
        )
    })
}

fn parse_group(incoming: &Incoming) -> Result<Option<GroupId>, ApiError> {
    let header = incoming.header("x-claw-group-id").unwrap_or_default();
    let text = header.trim();
    if text.is_empty() {
        return Ok(None);
    }
    GroupId::parse(text).map(Some).map_err(|_| {
        ApiError::new(
            &code::PROXY_HOOK_GROUP_INVALID,
            "X-Claw-Group-Id must be grp_<ULID>.",
        )
    })
}

/// By what the caller may write to the recipient.
async fn check_trust(
    app: &App,
    caller: &Caller,
    recipient: &AgentDid,
    group: Option<GroupId>,
    budget: &Budget,
) -> Result<Allowed, ApiError> {
    // The admission has asked already, in its one step.
    let paired = async || caller.paired().cloned().unwrap_or_default();
    let agents = (caller.agent(), recipient);
    may_write(app, budget, agents, group.as_ref(), caller.generation(), paired)
        .await
        .map_err(|refused| match refused {
            MayNot::NotPaired => forbidden("You and the recipient are not paired."),
            MayNot::NotMembers => forbidden("You and the recipient must both be members of the group."),
            MayNot::TrustUnavailable => Refusal::TrustUnavailable { retry_after_s: 1 }.into(),
            MayNot::MembershipUnavailable(error) => membership_unavailable(error),
        })
}

fn forbidden(message: &'static str) -> ApiError {
    ApiError::new(&code::PROXY_AUTH_FORBIDDEN, message)
}

fn membership_unavailable(error: IdentityError) -> ApiError {
    match error {
        IdentityError::Unavailable { retry_after_s } | IdentityError::Held { retry_after_s } => {
            let message = "Group membership cannot be looked up at the moment.";
            ApiError::new(&code::PROXY_GROUP_MEMBERSHIP_UNAVAILABLE, message).with_retry_after(retry_after_s)
        }
        IdentityError::CredentialsRefused { retry_after_s } => {
            let message = "The registry does not accept this proxy's credentials.";
            ApiError::new(&code::PROXY_INTERNAL_AUTH_UNAUTHORIZED, message).with_retry_after(retry_after_s)
        }
        IdentityError::TooMany { retry_after_s } => {
            let message =
                "This agent has named too many groups and members that the registry does not confirm.";
            ApiError::new(&code::PROXY_RATE_LIMIT_EXCEEDED, message).with_retry_after(retry_after_s)
        }
    }
}

fn identity_of(caller: &Caller) -> Identity {
    Identity {
        agent: caller.agent().to_string(),
        owner: caller.owner().to_string(),
        issuer: caller.issuer().to_string(),
        jti: caller.jti().to_string(),
    }
}

/// A header that may be absent or blank, and must hold otherwise.
fn optional(
    incoming: &Incoming,
    name: &str,
    code: &'static Code,
    parse: impl Fn(&str) -> Result<String, &'static str>,
) -> Result<Option<String>, ApiError> {
    let header = incoming.header(name).unwrap_or_default();
    if header.trim().is_empty() {
        return Ok(None);
    }
    // What surrounds a header's value (RFC 9110 §5.5), and no more: other white space may be a control character.
    let text = header.trim_matches([' ', '\t']);
    parse(text).map(Some).map_err(|reason| {
        ApiError::new(code, format!("{name} was not accepted.")).with_details(json!({ "reason": reason }))
    })
}

/// What could never be delivered is refused at the door (docs/wire.md §6).
fn check_size(
    app: &App,
    call: &DeliverCall<'_>,
    rewrite: Option<&Rewrite<'_>>,
    recipient: &AgentDid,
) -> Result<(), ApiError> {
    let frame = Deliver {
        // The id and the time of a frame have one length, whatever they are.
        id: Ulid::from_parts(0, [0; 10]),
        ts_ms: app.now_ms(),
        from: &call.sender,
        to: recipient,
        payload: call.payload,
        meta: call.meta(),
    };
    let max_bytes = app.config.relay.max_frame_bytes;
    let frame_bytes = frame.text_len(rewrite.map_or(call.payload.get().len(), Rewrite::len));
    if frame_bytes <= max_bytes {
        return Ok(());
    }
    let message = "The message is too large to be delivered.";
    let details = json!({ "maxFrameBytes": max_bytes, "frameBytes": frame_bytes });
    Err(ApiError::new(&code::PROXY_BODY_TOO_LARGE, message).with_details(details))
}

async fn deliver(app: &App, call: DeliverCall<'_>, recipient: &AgentDid) -> Result<Delivery, ApiError> {
    match client::call(app, recipient, RelayCall::Deliver(call)).await {
        Ok(RelayReply::Delivery(delivery)) => Ok(delivery),
        Ok(RelayReply::QueueFull) => Err(ApiError::new(
            &code::PROXY_RELAY_QUEUE_FULL,
            "The recipient's queue is full.",
        )),
        Ok(RelayReply::RequestIdReused) => Err(ApiError::new(
            &code::PROXY_HOOK_REQUEST_ID_REUSED,
            "This request id was given to another message.",
        )),
        Err(RelayError::NoBinding) => Err(ApiError::new(
            &code::PROXY_RELAY_UNAVAILABLE,
            "This proxy has no relay.",
        )),
        Ok(_) | Err(RelayError::Failed) => {
            let message = "The message could not be handed to the recipient's relay session: send it again.";
            Err(ApiError::new(&code::PROXY_RELAY_DELIVERY_FAILED, message))
        }
    }
}

fn log(
    app: &App,
    caller: &Caller,
    incoming: &Incoming,
    recipient: &AgentDid,
    delivery: &Delivery,
    evidence: &[Provenance],
) {
    app.note(|noted| {
        noted.delivery = Some(match delivery.state {
            DeliveryState::Queued => "queued",
            state if state.is_delivered() => "delivered",
            _ => "other",
        });
        noted.queue_depth = Some(delivery.queue_depth);
    });
    if delivery.state == DeliveryState::Queued {
        recent::with(app, |recent, now_ms| recent.waited(recipient, now_ms));
    }
    app.log_success("proxy.hooks.agent.delivered_to_relay", || {
        json!({
            "requestId": incoming.request_id.as_str(),
            "senderAgentDid": caller.agent().as_str(),
            "recipientAgentDid": recipient.as_str(),
            "deliveryId": delivery.delivery_id,
            "state": delivery.state,
            "delivered": delivery.state.is_delivered(),
            "queued": delivery.state == DeliveryState::Queued,
            "queueDepth": delivery.queue_depth,
            "connectedSockets": delivery.connected_sockets,
            "evidence": evidence,
        })
    });
}

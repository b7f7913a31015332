//! `/v1/relay/delivery-receipts`: what became of a message (docs/wire.md §5.6).
//!
//! `POST`, by the recipient: 400 `PROXY_RELAY_RECEIPT_INVALID_INPUT`; 403 `PROXY_RELAY_RECEIPT_FORBIDDEN` if the
//! caller is not the recipient that it names; 403 `PROXY_AUTH_FORBIDDEN`; 503
//! `PROXY_RELAY_RECEIPT_QUEUE_UNAVAILABLE`, 502 `PROXY_RELAY_RECEIPT_QUEUE_FAILED`; 202. The receipt goes through the
//! receipts queue.
//!
//! `GET`, by the sender: 400 `PROXY_RELAY_RECEIPT_INVALID_QUERY`; 403 `PROXY_AUTH_FORBIDDEN`; 404; 200.
//!
//! Both are open to two agents if this proxy relayed that very message from one to the other, or if they are a pair.
//! The recipient's session knows the first, so a message of a group needs no pair. A sender's question goes to that
//! session only if the sender's own object says that it may have written to the recipient: a session that is asked about
//! by strangers would be an object made for each name that they make up.

use serde::Serialize;
use serde_json::json;

use crate::app::{App, binding};
use crate::core::admission::{PairId, Paired};
use crate::core::pipeline::{Caller, Refusal};
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{MessageId, Ulid};
use crate::protocol::receipt::Receipt;
use crate::protocol::time::iso_ms;
use crate::relay::client;
use crate::relay::protocol::{DeliveryState, FoundDelivery, RelayCall, RelayReply};
use crate::trust;

/// The 200, in the order of docs/wire.md §5.
#[derive(Serialize)]
struct Found<'a> {
    found: bool,
    receipt: FoundReceipt<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FoundReceipt<'a> {
    request_id: &'a MessageId,
    delivery_id: Ulid,
    expires_at_ms: u64,
    sender_agent_did: &'a AgentDid,
    recipient_agent_did: &'a AgentDid,
    state: DeliveryState,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    status_updated_at: String,
}

pub async fn post(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let receipt = Receipt::parse_post(&incoming.body, app.now_ms()).map_err(|reason| {
        let details = json!({ "reason": reason });
        ApiError::new(
            &code::PROXY_RELAY_RECEIPT_INVALID_INPUT,
            "The receipt cannot be read.",
        )
        .with_details(details)
    })?;
    if receipt.recipient != *caller.agent() {
        let message = "Only the recipient of a message can give a receipt for it.";
        return Err(ApiError::new(&code::PROXY_RELAY_RECEIPT_FORBIDDEN, message));
    }
    if find(app, &receipt.sender, &receipt.recipient, &receipt.request_id)
        .await?
        .is_none()
    {
        acquainted(app, caller.agent(), &receipt.sender)
            .await?
            .check_paired()?;
    }
    let Ok(queue) = app.queue(binding::RECEIPT_QUEUE) else {
        app.log.error(
            "proxy.relay.receipt_queue_unavailable",
            json!({ "requestId": incoming.request_id.as_str() }),
        );
        let message = "This proxy has no receipts queue.";
        return Err(ApiError::new(
            &code::PROXY_RELAY_RECEIPT_QUEUE_UNAVAILABLE,
            message,
        ));
    };
    queue.send(receipt.to_queue_json()).await.map_err(|error| {
        let fields = json!({ "requestId": incoming.request_id.as_str(), "error": error.to_string() });
        app.log.warn("proxy.relay.receipt_queue_failed", fields);
        let message = "The receipt could not be queued: send it again.";
        ApiError::new(&code::PROXY_RELAY_RECEIPT_QUEUE_FAILED, message)
    })?;
    json_response(202, &json!({ "accepted": true }))
}

pub async fn get(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let sender = caller.agent();
    let request_id: MessageId = query(&incoming, "requestId", |text| MessageId::parse(text).ok())?;
    let recipient: AgentDid = query(&incoming, "recipientAgentDid", |text| AgentDid::parse(text).ok())?;
    let acquainted = acquainted(app, sender, &recipient).await?;
    if !acquainted.has_met {
        acquainted.check_paired()?;
    }
    let Some(found) = find(app, sender, &recipient, &request_id).await? else {
        acquainted.check_paired()?;
        return json_response(404, &json!({ "found": false }));
    };
    let receipt = FoundReceipt {
        request_id: &found.request_id,
        delivery_id: found.delivery_id,
        expires_at_ms: found.expires_at_ms,
        sender_agent_did: sender,
        recipient_agent_did: &recipient,
        state: found.state,
        reason: found.reason.as_deref(),
        status_updated_at: iso_ms(found.status_updated_at_ms),
    };
    json_response(200, &Found { found: true, receipt })
}

/// A query parameter, given once.
fn query<T>(incoming: &Incoming, name: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, ApiError> {
    let mut values = incoming
        .target
        .query_pairs()
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value);
    let value = values.next().filter(|_| values.next().is_none());
    value.and_then(|value| parse(value.trim())).ok_or_else(|| {
        let details = json!({ "parameter": name });
        let message = "The query must have requestId and recipientAgentDid, an agent's DID.";
        ApiError::new(&code::PROXY_RELAY_RECEIPT_INVALID_QUERY, message).with_details(details)
    })
}

/// What the recipient's session knows of the message.
async fn find(
    app: &App,
    sender: &AgentDid,
    recipient: &AgentDid,
    request_id: &MessageId,
) -> Result<Option<FoundDelivery>, ApiError> {
    let call = RelayCall::FindDelivery {
        sender: sender.clone(),
        request_id: request_id.clone(),
    };
    match client::call(app, recipient, call).await {
        Ok(RelayReply::Found(found)) => Ok(Some(found)),
        Ok(RelayReply::NotFound) => Ok(None),
        Ok(_) | Err(_) => {
            let message = "The relay session does not answer at the moment.";
            Err(ApiError::new(&code::PROXY_RELAY_UNAVAILABLE, message).with_retry_after(1))
        }
    }
}

/// What an agent's own object says of it and another one.
struct Acquainted {
    paired: Paired,
    /// They may have written to each other, in a group or by a pair that has ended.
    has_met: bool,
}

async fn acquainted(app: &App, caller: &AgentDid, other: &AgentDid) -> Result<Acquainted, ApiError> {
    let standing = trust::client::check_pair(app, caller, None, Some(other), None)
        .await
        .map_err(|_| ApiError::from(Refusal::TrustUnavailable { retry_after_s: 1 }))?;
    let is_oneself = caller == other;
    Ok(Acquainted {
        paired: match is_oneself {
            true => Paired::Yes(PairId::unnumbered()),
            false => standing.peers.paired.unwrap_or_default(),
        },
        has_met: standing.met,
    })
}

impl Acquainted {
    fn check_paired(&self) -> Result<(), ApiError> {
        match self.paired {
            Paired::Yes(_) => Ok(()),
            Paired::No => {
                let message = "This proxy relayed no such message between you, and you are not paired.";
                Err(ApiError::new(&code::PROXY_AUTH_FORBIDDEN, message))
            }
            Paired::Unavailable => Err(Refusal::TrustUnavailable { retry_after_s: 1 }.into()),
        }
    }
}

//! The registry's events: revocations, refreshed sessions, pairs and groups (docs/wire.md §7).
//!
//! A revocation is applied by `revocation::apply`, like every other, and acknowledged after that. If something fails
//! in between, the message is given back. No step waits for a connector.

use serde_json::json;
use serde_json::value::RawValue;

use super::Outcome;
use crate::app::App;
use crate::core::admission::Changed;
use crate::core::consume::Revocation;
use crate::core::relay_queue::identity::Entrance;
use crate::protocol::did::AgentDid;
use crate::protocol::event::{
    AuthRefreshed, AuthRevoked, GROUP_MEMBER_JOINED_SOURCE, GroupMemberJoined, PAIR_ACCEPTED_SOURCE,
    PairAccepted,
};
use crate::protocol::ids::MessageId;
use crate::protocol::proof::body_id;
use crate::protocol::revocation::Source;
use crate::relay;
use crate::relay::protocol::{DeliverCall, RelayCall, RelayReply};
use crate::revocation::{Order, apply_all};
use crate::trust::client;

/// How long a batch waits for each step of its revocations at a first try, which longer at each try up to
/// `MAX_PATIENCES` times: the next batch, and the kills in it, begin when this one has ended.
const PATIENCE_MS: u64 = 500;
const MAX_PATIENCES: u32 = 8;

/// Why it must be tried again.
struct Again(String);

impl<E: std::error::Error> From<E> for Again {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl From<Result<(), Again>> for Outcome {
    fn from(result: Result<(), Again>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(Again(reason)) => Self::Again(reason),
        }
    }
}

/// `agent.auth.revoked`: what it takes from whom. `body` is the message's, by whose hash an event without an id is told
/// from others.
pub fn order_of(app: &App, message_id: &str, attempts: u32, body: &str, event: &AuthRevoked) -> Order {
    let revocation = Revocation::of_event(event, app.now_ms());
    if event.bad_tokens {
        // What can be read of it is applied; the rest is for a person to see.
        let fields = json!({
            "messageId": message_id,
            "agentDid": revocation.agent.as_ref().map(AgentDid::as_str),
            "reason": "a token or an expiry that the revocation names cannot be read",
            "then": "the rest is applied",
        });
        app.log.error("proxy.queue.message_failed", fields);
    }
    Order {
        agent: revocation.agent,
        revoke_agent: revocation.revoke_agent,
        session_ended: revocation.session_ended,
        tokens: revocation.tokens,
        reason: event.reason.clone(),
        source: Source::Queue,
        event_id: Some(event.event_id.clone().unwrap_or_else(|| body_id(body))),
        revoked_at_ms: revocation.revoked_at_ms,
        told_at_ms: event.event_at_ms,
        told_expiry_ms: event.token_expires_at_ms,
        patience_ms: PATIENCE_MS.saturating_mul(attempts.clamp(1, MAX_PATIENCES).into()),
    }
}

/// Applies the revocations of one batch side by side.
pub async fn revoke(app: &App, orders: &[Order]) -> Vec<Outcome> {
    let results = apply_all(app, orders).await;
    let outcome = |result: Result<u64, _>| match result {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Again(format!("{error}")),
    };
    results.into_iter().map(outcome).collect()
}

/// `agent.auth.refreshed`: the old access token is dead, what is cached of it is void. Sockets stay.
pub async fn refreshed(app: &App, event: &AuthRefreshed) -> Outcome {
    void_caches(app, &event.agent).await.into()
}

/// `pair.accepted`: the initiator's connector is told.
pub async fn pair_accepted(app: &App, event: &PairAccepted) -> Outcome {
    let notice = Notice {
        sender: &event.responder,
        recipient: &event.initiator,
        request_id: event.request_id(),
        payload: event.payload_json(),
        source: PAIR_ACCEPTED_SOURCE,
    };
    notice.deliver(app).await.into()
}

/// `group.member.joined`: the recipient's connector is told.
pub async fn group_member_joined(app: &App, event: &GroupMemberJoined) -> Outcome {
    let notice = Notice {
        sender: &event.joined,
        recipient: &event.recipient,
        request_id: event.request_id(),
        payload: event.payload_json(),
        source: GROUP_MEMBER_JOINED_SOURCE,
    };
    notice.deliver(app).await.into()
}

/// Replaces an agent's generation and tells its session.
async fn void_caches(app: &App, agent: &AgentDid) -> Result<(), Again> {
    let generation = client::replace_generation(app, agent, Changed::Session).await?;
    relay::client::call(app, agent, RelayCall::GenerationChanged { generation }).await?;
    Ok(())
}

/// Queues a message for a connector that an event asks for. It does not wait for the connector.
struct Notice<'a> {
    sender: &'a AgentDid,
    recipient: &'a AgentDid,
    request_id: MessageId,
    payload: String,
    source: &'static str,
}

impl Notice<'_> {
    async fn deliver(self, app: &App) -> Result<(), Again> {
        let payload = RawValue::from_string(self.payload)?;
        let rewrite = app
            .config
            .identity_block
            .rewrite(Entrance::Notice, &payload, || None);
        let rewritten = rewrite.and_then(|rewrite| rewrite.build());
        let call = RelayCall::Deliver(DeliverCall {
            sender: self.sender.clone(),
            request_id: self.request_id,
            payload: rewritten.as_deref().unwrap_or(&payload),
            delivery_source: Some(self.source.into()),
            content_type: None,
            group_id: None,
            conversation_id: None,
            reply_to: None,
            pair_id: None,
            sender_admitted: false,
            wait: false,
            hash: None,
            jti: None,
            generation: None,
        });
        match relay::client::call(app, self.recipient, call).await? {
            // Told in other words before: once is enough.
            RelayReply::Delivery(_) | RelayReply::RequestIdReused => Ok(()),
            RelayReply::QueueFull => Err(Again("the recipient's queue is full".into())),
            _ => Err(unexpected_reply()),
        }
    }
}

fn unexpected_reply() -> Again {
    Again("the session's answer does not match the question".into())
}

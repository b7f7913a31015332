//! The calls to an agent's `AgentRelaySession`: one JSON call in, one JSON reply out, at `https://relay/call`.
//!
//! - A call names the agent whose session it is (`RelayRequest::agent`), because an object that its alarm has woken
//!   must know whose it is without the platform's help.
//! - Every call is idempotent, so a caller may retry one whose answer was lost.
//! - A payload travels as the sender's own JSON text (`RawValue`) and is never rewritten. The enums are therefore
//!   tagged from outside (`{"deliver":{..}}`): serde buffers an enum that is tagged from inside, and a `RawValue`
//!   does not survive that.
//!
//! Who may call what is not checked here. Callers hold a `Caller`, an event of the queue or an open socket, and the
//! object trusts them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

pub use super::outcome::DeliveryState;
use crate::admission::{Generation, PairId};
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::frame::DeliverMeta;
use clawdentity_protocol::ids::{GroupId, MessageId, Ulid};
pub use clawdentity_protocol::receipt::ReceiptStatus;

/// The one path of the object that takes a WebSocket upgrade.
pub const CONNECT_URL: &str = "https://relay/connect";

/// Carries a `ConnectCall` as JSON beside an upgrade. The worker builds that request itself, from nothing of the
/// caller's but the upgrade, so that nobody outside can set it.
pub const CONNECT_HEADER: &str = "x-clawdentity-relay-connect";

/// How long a caller that waits is kept waiting for the connector's acknowledgement (docs/wire.md §6).
pub const ACK_WAIT_MS: u64 = 15_000;

/// One call, with the agent whose session is called.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RelayRequest<'a> {
    /// The agent whose session this is: its DID is the object's name.
    pub agent: AgentDid,
    /// What is asked.
    #[serde(borrow)]
    pub call: RelayCall<'a>,
}

/// What can be asked of a session. "This agent" is the session's own.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::large_enum_variant)] // made once, and written or read at once
pub enum RelayCall<'a> {
    /// Deliver a message to this agent. Answered by `Delivery`, `QueueFull` or `RequestIdReused`.
    #[serde(borrow)]
    Deliver(DeliverCall<'a>),
    /// A receipt for a message that was sent *to* this agent (the receipts queue's consumer calls this at the
    /// recipient's session). Sets the message's state here and sees to it that the sender's session hears of it.
    /// Answered by `Done`.
    RecordReceipt(ReceiptCall),
    /// Receipts for messages *from* this agent, from their recipient's session: pushed to this agent's connector.
    /// Only that session calls this. Answered by `Done`.
    PushReceipts(PushReceiptsCall),
    /// The state of a message that was sent *to* this agent. Answered by `Found` or `NotFound`.
    FindDelivery {
        /// Who sent it.
        sender: AgentDid,
        /// The request's id, or the `deliver` frame's.
        request_id: MessageId,
    },
    /// Something cached about this agent may have changed: its sockets use this generation from now on.
    /// Answered by `Done`.
    GenerationChanged {
        /// The generation that is now in force.
        generation: Generation,
    },
    /// Close this agent's sockets that a revocation names, with 1008 `revoked`. Never waits for a connector.
    /// Answered by `Closed`.
    RevokeSockets {
        /// Which of them.
        which: RevokedSockets,
    },
    /// The revocation of this agent was lifted: mail for it is queued again. Answered by `Done`.
    LiftRevocation,
    /// How the session is doing, for an operator. Answered by `Status`.
    Inspect,
}

/// Which sockets a revocation ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RevokedSockets {
    /// The agent is revoked: all its sockets, and its queue is dead-lettered (`recipient_revoked`), now and later.
    Agent,
    /// The agent's session ended: all its sockets; its queue waits for the next connection.
    Session,
    /// Those that one of these tokens opened.
    Tokens(Vec<Ulid>),
}

/// A message for this agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverCall<'a> {
    /// Who sends it.
    pub sender: AgentDid,
    /// The message's id, unique per sender and recipient: asked again with the same payload, the first outcome is
    /// repeated (docs/wire.md §6).
    pub request_id: MessageId,
    /// The JSON text, as the sender wrote it.
    #[serde(borrow)]
    pub payload: &'a RawValue,
    /// `deliverySource` of the frame: `agent.enqueue`, `proxy.events.queue.…`; a hook has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_source: Option<String>,
    /// `contentType` of the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// `groupId` of the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// `conversationId` of the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// `replyTo` of the frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// The pair under which the message was let in. None where it names a group (`group_id`), where it is the agent's own,
    /// and for the notices of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pair_id: Option<PairId>,
    /// The sender was admitted for this very message (a hook request, a frame on its open socket). A message of
    /// which that is not so (an event's) is sent only after the sender's trust object was asked.
    pub sender_admitted: bool,
    /// Wait for the connector's acknowledgement, 15 s at most, where the message can go out at once.
    pub wait: bool,
    /// `hash_of` what the sender wrote, where the payload is not that: a retry under a newer token carries another
    /// identity block, and is the same message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
    /// The token that the sender was admitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<Ulid>,
    /// The sender's generation at its admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}

impl DeliverCall<'_> {
    /// What tells this message from another under the same id.
    pub fn content_hash(&self) -> String {
        self.hash.clone().unwrap_or_else(|| hash_of(self.payload))
    }

    /// What goes with the message.
    pub fn meta(&self) -> DeliverMeta<'_> {
        DeliverMeta {
            delivery_source: self.delivery_source.as_deref(),
            content_type: self.content_type.as_deref(),
            group_id: self.group_id,
            conversation_id: self.conversation_id.as_deref(),
            reply_to: self.reply_to.as_deref(),
        }
    }

    /// Whether this is a notice of the system, in the name of its sender.
    pub fn is_notice(&self) -> bool {
        self.delivery_source.as_deref().is_some_and(is_notice)
    }
}

/// Half of the SHA-256 of a payload, as hexadecimal digits: it is held against the sender's own messages alone.
pub fn hash_of(payload: &RawValue) -> String {
    let digest = Sha256::digest(payload.get().as_bytes());
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a message of this source is a notice of the system.
pub fn is_notice(delivery_source: &str) -> bool {
    delivery_source.starts_with("proxy.events.queue.")
}

/// A recipient's word on what became of a message (docs/wire.md §5, §7).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceiptCall {
    /// Who sent the message.
    pub sender: AgentDid,
    /// The request's id, or the `deliver` frame's: either finds the message.
    pub request_id: MessageId,
    /// What became of it.
    pub status: ReceiptStatus,
    /// Why, where it was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Receipts on their way to the sender's connector.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReceiptsCall {
    /// The agent the messages went to.
    pub recipient: AgentDid,
    /// At most 100.
    pub receipts: Vec<PushReceipt>,
}

/// One of them. Only messages whose request id is a ULID have any: connectors refuse others (docs/wire.md §6).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReceipt {
    /// The request's id: `originalFrameId` of the frame.
    pub request_id: Ulid,
    /// What became of the message.
    pub status: ReceiptStatus,
    /// Why, where it was not delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a session answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RelayReply {
    /// The message is here, and this is its state.
    Delivery(Delivery),
    /// The recipient's queue is at its limit: 507 `PROXY_RELAY_QUEUE_FULL`. Nothing was kept.
    QueueFull,
    /// The sender gave this id to another message: 409 `PROXY_HOOK_REQUEST_ID_REUSED`. Nothing was kept.
    RequestIdReused,
    /// What is known of the message.
    Found(FoundDelivery),
    /// No such message from that sender.
    NotFound,
    /// That many sockets were told to close.
    Closed {
        /// How many.
        sockets: u32,
    },
    /// Done, or done before.
    Done,
    /// For an operator.
    Status(SessionStatus),
}

/// A message's state, in the shape of the hook's 202 (docs/wire.md §5).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// The `deliver` frame's id: the same on every retry.
    pub delivery_id: Ulid,
    /// Where the message is.
    pub state: DeliveryState,
    /// How many messages wait or are in flight for this agent.
    pub queue_depth: u32,
    /// How many sockets this agent has open.
    pub connected_sockets: u32,
}

/// What `GET /v1/relay/delivery-receipts` tells of a message.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FoundDelivery {
    /// The request's id, whichever id was asked for.
    pub request_id: MessageId,
    /// The `deliver` frame's id.
    pub delivery_id: Ulid,
    /// Where the message is.
    pub state: DeliveryState,
    /// Why, where it was dead-lettered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Unix milliseconds; until then this is kept.
    pub expires_at_ms: u64,
    /// Unix milliseconds of the last change of state.
    pub status_updated_at_ms: u64,
}

/// How a session is doing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionStatus {
    /// Messages that wait or are in flight.
    pub queue_depth: u32,
    /// Of those, sent and not acknowledged.
    pub in_flight: u32,
    /// Bytes of their payloads.
    pub queued_bytes: u64,
    /// Milliseconds since the oldest of them came; none where there is none.
    pub oldest_age_ms: Option<u64>,
    /// Open sockets.
    pub connected_sockets: u32,
    /// The agent is revoked: its mail is dead-lettered.
    pub revoked: bool,
    /// Bytes of the object's database.
    pub stored_bytes: u64,
}

/// Who opens a socket, beside the upgrade request: all of it proven by the pipeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectCall {
    /// The agent.
    pub agent: AgentDid,
    /// Its owner.
    pub owner: HumanDid,
    /// The token that opens the socket.
    pub jti: Ulid,
    /// Who issued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The key that signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// Unix milliseconds: when that token ends, so does the socket.
    pub ait_expires_at_ms: u64,
    /// The generation its admission returned.
    pub generation: Generation,
}

/// What `https://relay/connect` answers instead of 101, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ConnectRefusal {
    /// The agent or its token was revoked between the admission and now: 401 `PROXY_AUTH_REVOKED`.
    Revoked,
    /// The trust state could not be asked: 503.
    TrustUnavailable,
    /// Not an upgrade, or without its internal header.
    NotAnUpgrade,
}

#[cfg(test)]
mod tests;

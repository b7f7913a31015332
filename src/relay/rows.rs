//! The rows of deliveries as types: what is written of a new message, and what is read of any.

use serde::Deserialize;

use super::session::Failure;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::{Launch, StoredRow};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{GroupId, MessageId, Ulid};

/// A new message.
pub struct NewDelivery<'a> {
    /// Its number.
    pub seq: u64,
    /// Its request's id.
    pub request_id: &'a MessageId,
    /// Who sends it.
    pub sender: &'a AgentDid,
    /// The `deliver` frame's id.
    pub deliver_id: Ulid,
    /// Its first state.
    pub first: First,
    /// Unix milliseconds.
    pub now_ms: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Fields of the frame.
    pub delivery_source: Option<&'a str>,
    /// Fields of the frame.
    pub content_type: Option<&'a str>,
    /// Fields of the frame.
    pub group_id: Option<GroupId>,
    /// Fields of the frame.
    pub conversation_id: Option<&'a str>,
    /// Fields of the frame.
    pub reply_to: Option<&'a str>,
}

/// The state a message begins with.
pub enum First {
    /// Live: in flight on this socket where there is a launch, else queued.
    Live {
        /// The send it begins with, and the socket.
        launch: Option<(Launch, String)>,
        /// The JSON text.
        payload: String,
    },
    /// Done, for this reason.
    Done {
        /// Its state.
        state: DeliveryState,
        /// Why.
        reason: Option<String>,
    },
}

/// A live message at a wake.
pub struct LiveDelivery {
    /// What the queue needs of it; `due_at_ms` and in-flight as stored.
    pub row: StoredRow,
    /// The `deliver` frame's id.
    pub deliver_id: Ulid,
    /// The socket it was last sent on.
    pub sent_on: Option<String>,
    /// Unix milliseconds of its last change of state.
    pub status_updated_at_ms: u64,
}

/// What is kept of any message.
pub struct KeptDelivery {
    /// Its number.
    pub seq: u64,
    /// Its request's id.
    pub request_id: MessageId,
    /// Who sent it.
    pub sender: AgentDid,
    /// The `deliver` frame's id.
    pub deliver_id: Ulid,
    /// Where it is.
    pub state: DeliveryState,
    /// Why, where it was dead-lettered.
    pub reason: Option<String>,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Unix milliseconds.
    pub status_updated_at_ms: u64,
}

/// What goes into a `deliver` frame.
pub struct Outgoing {
    /// Who sent it.
    pub sender: AgentDid,
    /// The `deliver` frame's id.
    pub deliver_id: Ulid,
    /// The JSON text.
    pub payload: String,
    /// Fields of the frame.
    pub delivery_source: Option<String>,
    /// Fields of the frame.
    pub content_type: Option<String>,
    /// Fields of the frame.
    pub group_id: Option<GroupId>,
    /// Fields of the frame.
    pub conversation_id: Option<String>,
    /// Fields of the frame.
    pub reply_to: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct KeptRow {
    seq: u64,
    request_id: MessageId,
    sender_did: AgentDid,
    deliver_id: Option<Ulid>,
    state: String,
    reason: Option<String>,
    expires_at_ms: u64,
    status_updated_at_ms: u64,
}

impl KeptRow {
    pub(super) fn read(self) -> Result<KeptDelivery, Failure> {
        let state = match self.state.as_str() {
            "queued" | "in_flight" => DeliveryState::Queued,
            "delivered" => DeliveryState::Delivered,
            "delivered_to_webhook" => DeliveryState::DeliveredToWebhook,
            "dead_lettered" => DeliveryState::DeadLettered,
            _ => return Err(Failure::new("a stored delivery has an unknown state")),
        };
        Ok(KeptDelivery {
            seq: self.seq,
            deliver_id: frame_id(self.deliver_id, &self.request_id)?,
            request_id: self.request_id,
            sender: self.sender_did,
            state,
            reason: self.reason,
            expires_at_ms: self.expires_at_ms,
            status_updated_at_ms: self.status_updated_at_ms,
        })
    }
}

pub(super) fn stored_state(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Queued => "queued",
        DeliveryState::Delivered => "delivered",
        DeliveryState::DeliveredToWebhook => "delivered_to_webhook",
        DeliveryState::DeadLettered => "dead_lettered",
    }
}

/// A delivery whose frame has the request's id stores none of its own.
pub(super) fn frame_id(stored: Option<Ulid>, request_id: &MessageId) -> Result<Ulid, Failure> {
    stored
        .or_else(|| request_id.as_ulid())
        .ok_or_else(|| Failure::new("a stored delivery has no frame id"))
}

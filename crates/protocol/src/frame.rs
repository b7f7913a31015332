//! Relay frames in both directions (docs/wire.md §6).
//!
//! Frames from a connector have a closed set of fields, none of them twice. A payload stays the sender's own JSON
//! text; it is not rewritten. An `enqueue` whose `id` can be read is never merely malformed: it becomes a
//! `BadEnqueue`, because its sender must be answered.
//!
//! Frames to a connector have exactly the fields of the specification and no `null`, because some connectors drop a
//! frame that has more.
//!
//! What to do about a frame is decided elsewhere.

use serde::Serialize;
use serde_json::value::RawValue;

use super::did::AgentDid;
use super::ids::{GroupId, Ulid};
use super::issuer::is_reply_url;
use super::receipt::ReceiptStatus;
use super::text::{has_control, json};
use super::time::iso_ms;

mod inbound;

pub use inbound::{parse_inbound, text_of};

/// The largest frame that is parsed at all. The session's own limit (`RELAY_MAX_FRAME_BYTES`) is below this.
pub const MAX_INBOUND_FRAME_BYTES: usize = 32 * 1024 * 1024;
/// The longest `conversationId` and `replyTo`.
pub const MAX_FIELD_CHARS: usize = 4096;
/// `deliverySource` of what came in an `enqueue` frame.
pub const SOURCE_ENQUEUE: &str = "agent.enqueue";

/// What a connector may send.
#[derive(Clone, Debug)]
pub enum InboundFrame {
    /// To be answered by a `heartbeat_ack`.
    Heartbeat {
        /// The frame's id.
        id: Ulid,
    },
    /// The answer to a heartbeat of ours.
    HeartbeatAck {
        /// The heartbeat's id.
        ack_id: Ulid,
    },
    /// The answer to a `deliver` frame.
    DeliverAck {
        /// The frame's id.
        id: Ulid,
        /// The `deliver` frame's id.
        ack_id: Ulid,
        /// Whether the connector took the message.
        accepted: bool,
        /// Why not: one line of at most 280 characters.
        reason: Option<String>,
    },
    /// A message to another agent.
    Enqueue(Enqueue),
}

/// A message to another agent.
#[derive(Clone, Debug)]
pub struct Enqueue {
    /// The frame's id: the message's request id.
    pub id: Ulid,
    /// Its recipient.
    pub to: AgentDid,
    /// Any JSON value that a strict reader takes, `null` included, as the sender wrote it.
    pub payload: Box<RawValue>,
    /// The group it is sent in.
    pub group_id: Option<GroupId>,
    /// Not blank, at most 4,096 characters, none of them control characters.
    pub conversation_id: Option<String>,
    /// See `parse_reply_to`.
    pub reply_to: Option<String>,
}

/// Why a frame is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not a JSON object, or too large to look at.
    #[error("not a JSON object")]
    Unreadable,
    /// Not one of the frames that a connector sends.
    #[error("not a frame")]
    Malformed,
    /// An `enqueue` that cannot be accepted, but can be answered.
    #[error("{reason}")]
    BadEnqueue {
        /// The frame's id: the `ackId` of the answer.
        id: Ulid,
        /// The `reason` of the answer.
        reason: &'static str,
    },
}

/// Parses a conversation id, of a frame or of a hook's header: not blank, at most 4,096 characters, none of them control
/// characters (docs/wire.md §5).
///
/// # Errors
/// What to tell the sender.
pub fn parse_conversation_id(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() || text.chars().nth(MAX_FIELD_CHARS).is_some() || has_control(text) {
        return Err("conversationId must be 1-4096 characters without control characters, and not blank");
    }
    Ok(text.to_owned())
}

/// Parses where receipts are to go, of a frame or of a hook's header: an absolute URL of at most 4,096 characters, of one
/// of the schemes that docs/wire.md §5 lists, without user info. We never fetch it.
///
/// # Errors
/// What to tell the sender.
pub fn parse_reply_to(text: &str) -> Result<String, &'static str> {
    if text.chars().nth(MAX_FIELD_CHARS).is_some() || !is_reply_url(text) {
        return Err(
            "replyTo must be an https, http, wss, mailto, did or urn URL of at most 4096 characters without user info",
        );
    }
    Ok(text.to_owned())
}

/// A message on its way to a connector.
#[derive(Clone, Copy, Debug)]
pub struct Deliver<'a> {
    /// The delivery's id, the same on every retry.
    pub id: Ulid,
    /// Unix milliseconds.
    pub ts_ms: u64,
    /// The sender.
    pub from: &'a AgentDid,
    /// The recipient.
    pub to: &'a AgentDid,
    /// The message, as the sender wrote it.
    pub payload: &'a RawValue,
    /// What goes with it.
    pub meta: DeliverMeta<'a>,
}

/// What goes with a message to its recipient, each where there is one.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliverMeta<'a> {
    /// Where it came from, if not from a hook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_source: Option<&'a str>,
    /// Its media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<&'a str>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_id: Option<GroupId>,
    /// Its conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<&'a str>,
    /// Where receipts are to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<&'a str>,
}

impl Deliver<'_> {
    /// How many bytes the frame has, were its payload of this many, without building it.
    pub fn text_len(&self, payload_bytes: usize) -> usize {
        let empty = Deliver {
            payload: RawValue::NULL,
            ..*self
        };
        let without = empty.to_text().len() - RawValue::NULL.get().len();
        without.saturating_add(payload_bytes)
    }

    /// The frame.
    pub fn to_text(&self) -> String {
        frame(
            "deliver",
            self.id,
            self.ts_ms,
            DeliverFields {
                from_agent_did: self.from,
                to_agent_did: self.to,
                payload: self.payload,
                meta: self.meta,
            },
        )
    }
}

impl Enqueue {
    /// What goes with the message that this becomes.
    pub fn meta(&self) -> DeliverMeta<'_> {
        DeliverMeta {
            delivery_source: Some(SOURCE_ENQUEUE),
            content_type: None,
            group_id: self.group_id,
            conversation_id: self.conversation_id.as_deref(),
            reply_to: self.reply_to.as_deref(),
        }
    }
}

/// A `heartbeat`.
pub fn heartbeat(id: Ulid, ts_ms: u64) -> String {
    frame("heartbeat", id, ts_ms, NoFields {})
}

/// The answer to a `heartbeat`.
pub fn heartbeat_ack(id: Ulid, ts_ms: u64, ack_id: Ulid) -> String {
    frame("heartbeat_ack", id, ts_ms, AckId { ack_id })
}

/// The answer to an `enqueue`.
pub fn enqueue_ack(id: Ulid, ts_ms: u64, ack_id: Ulid, accepted: bool, reason: Option<&str>) -> String {
    frame(
        "enqueue_ack",
        id,
        ts_ms,
        EnqueueAckFields {
            ack_id,
            accepted,
            reason,
        },
    )
}

/// What became of a message of this agent's. `original_frame_id` is the message's id; `to` its recipient.
pub fn receipt(
    id: Ulid,
    ts_ms: u64,
    original_frame_id: Ulid,
    to: &AgentDid,
    status: ReceiptStatus,
    reason: Option<&str>,
) -> String {
    frame(
        "receipt",
        id,
        ts_ms,
        ReceiptFields {
            original_frame_id,
            to_agent_did: to,
            status,
            reason,
        },
    )
}

/// What every frame has, then its own fields.
#[derive(Serialize)]
struct Frame<T> {
    v: u8,
    #[serde(rename = "type")]
    kind: &'static str,
    id: Ulid,
    ts: String,
    #[serde(flatten)]
    fields: T,
}

#[derive(Serialize)]
struct NoFields {}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AckId {
    ack_id: Ulid,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EnqueueAckFields<'a> {
    ack_id: Ulid,
    accepted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptFields<'a> {
    original_frame_id: Ulid,
    to_agent_did: &'a AgentDid,
    status: ReceiptStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeliverFields<'a> {
    from_agent_did: &'a AgentDid,
    to_agent_did: &'a AgentDid,
    payload: &'a RawValue,
    #[serde(flatten)]
    meta: DeliverMeta<'a>,
}

fn frame(kind: &'static str, id: Ulid, ts_ms: u64, fields: impl Serialize) -> String {
    json(&Frame {
        v: 1,
        kind,
        id,
        ts: iso_ms(ts_ms),
        fields,
    })
}

#[cfg(test)]
mod tests;

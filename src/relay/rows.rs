//! Messages as types: what is written of one that arrives, what is read of one that is live, and what is kept of any.

use serde::Deserialize;

use crate::core::admission::{Generation, PairId};
use crate::core::relay_queue::authority::{Authority, Basis};
use crate::core::relay_queue::calls::is_notice;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::{Mark, StoredRow, Trouble};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::DeliverMeta;
use crate::protocol::ids::{GroupId, MessageId, Ulid};

/// What identifies a message while it is live and afterwards.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its request's id.
    pub request_id: MessageId,
    /// Who sent it.
    pub sender: AgentDid,
    /// The `deliver` frame's id.
    pub deliver_id: Ulid,
    /// `calls::hash_of` its payload; unknown for what an older version stored.
    pub hash: Option<String>,
}

impl Identity {
    /// The frame's id as it is stored: only if it is not the request's.
    pub(super) fn stored_deliver_id(&self) -> Option<String> {
        let same = self.request_id.as_ulid() == Some(self.deliver_id);
        (!same).then(|| self.deliver_id.to_string())
    }

    /// Whether a message with this content is this one. Of what an older version stored this is assumed.
    pub fn is_of(&self, hash: &str) -> bool {
        self.hash.as_deref().is_none_or(|own| own == hash)
    }
}

/// A new message.
pub struct NewMail<'a> {
    /// Its number.
    pub seq: u64,
    /// What identifies it.
    pub identity: &'a Identity,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Fields of the frame.
    pub meta: DeliverMeta<'a>,
    /// The sender's token.
    pub jti: Option<Ulid>,
    /// The sender's generation.
    pub generation: Option<Generation>,
    /// The pair by which it was sent.
    pub pair_id: Option<&'a PairId>,
    /// The JSON text.
    pub payload: &'a str,
}

/// A live message as it is read when the object wakes.
pub struct LiveMail {
    /// What the queue needs to know.
    pub row: StoredRow,
    /// What identifies it.
    pub identity: Identity,
}

/// What is kept of every message, live or not.
#[derive(Clone, Debug)]
pub struct Kept {
    /// What identifies it.
    pub identity: Identity,
    /// Its number, while it is live.
    pub live: Option<u64>,
    /// Its state.
    pub state: DeliveryState,
    /// Why it was dead-lettered, if it was.
    pub reason: Option<String>,
    /// Until when this is kept, Unix milliseconds.
    pub expires_at_ms: u64,
    /// When its state last changed, Unix milliseconds.
    pub status_updated_at_ms: u64,
}

/// What goes into a `deliver` frame, beside its identifiers, as it is stored.
#[derive(Deserialize)]
pub struct Outgoing {
    /// The JSON text.
    pub payload: String,
    delivery_source: Option<String>,
    content_type: Option<String>,
    group_id: Option<GroupId>,
    conversation_id: Option<String>,
    reply_to: Option<String>,
}

impl Outgoing {
    /// What goes with the payload.
    pub fn meta(&self) -> DeliverMeta<'_> {
        DeliverMeta {
            delivery_source: self.delivery_source.as_deref(),
            content_type: self.content_type.as_deref(),
            group_id: self.group_id,
            conversation_id: self.conversation_id.as_deref(),
            reply_to: self.reply_to.as_deref(),
        }
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

pub(super) fn read_state(text: &str) -> Option<DeliveryState> {
    Some(match text {
        "delivered" => DeliveryState::Delivered,
        "delivered_to_webhook" => DeliveryState::DeliveredToWebhook,
        "dead_lettered" => DeliveryState::DeadLettered,
        _ => return None,
    })
}

pub(super) fn stored_mark(mark: Mark) -> Option<&'static str> {
    match mark {
        Mark::None => None,
        Mark::Cut => Some("cut"),
        Mark::Unanswered => Some("unanswered"),
        Mark::Suspect => Some("suspect"),
    }
}

/// A value that a later version wrote says at least that the message is not settled.
pub(super) fn read_trouble(mark: Option<&str>, cuts: u32, breaks: u32) -> Trouble {
    let mark = match mark {
        None => Mark::None,
        Some("unanswered") => Mark::Unanswered,
        Some("suspect") => Mark::Suspect,
        Some(_) => Mark::Cut,
    };
    Trouble { mark, cuts, breaks }
}

/// What a message rests on, by what is known of it (docs/design.md §5.4). `to` is the session's agent.
pub(super) struct AcceptedBy<'a> {
    pub sender: &'a AgentDid,
    pub to: Option<&'a AgentDid>,
    pub delivery_source: Option<&'a str>,
    pub group_id: Option<GroupId>,
    pub pair_id: Option<PairId>,
    pub jti: Option<Ulid>,
    pub generation: Option<Generation>,
}

impl AcceptedBy<'_> {
    pub(super) fn authority(self) -> Authority {
        if self.delivery_source.is_some_and(is_notice) {
            return Authority::NOTICE;
        }
        let basis = match self.group_id {
            Some(group) => Basis::Group(group),
            None if self.to == Some(self.sender) => Basis::Own,
            None => Basis::Pair(self.pair_id),
        };
        Authority {
            jti: self.jti,
            generation: self.generation,
            basis,
        }
    }
}

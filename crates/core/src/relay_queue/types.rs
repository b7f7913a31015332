//! What goes into a relay queue and what comes out of it.

use clawdentity_protocol::did::AgentDid;

/// What docs/wire.md §6 lets an operator set. Durations in milliseconds.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Live messages; one more is refused.
    pub max_messages: usize,
    /// Bytes of their payloads; one more is refused.
    pub max_bytes: u64,
    /// Messages sent and not acknowledged, over all senders.
    pub max_in_flight: usize,
    /// Sends of one message before it is dead-lettered.
    pub max_attempts: u32,
    /// The first pause after a failed send; doubles with each.
    pub retry_initial_ms: u64,
    /// The longest pause.
    pub retry_max_ms: u64,
    /// A pause varies by this part of itself, either way; 0 to 1.
    pub retry_jitter_ratio: f64,
    /// A send without an acknowledgement for so long has failed.
    pub ack_timeout_ms: u64,
    /// For how long "this sender is not revoked" is believed.
    pub sender_check_ms: u64,
    /// The pause before a sender is asked about again that nobody could tell anything about.
    pub sender_retry_ms: u64,
}

/// A live message, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Its number: order of arrival.
    pub seq: u64,
    /// Who sent it.
    pub sender: AgentDid,
    /// Its payload's size.
    pub bytes: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// Where it is.
    pub place: Place,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Unix milliseconds; not sent any more from then on.
    pub expires_at_ms: u64,
}

impl StoredRow {
    /// Whether it was sent and not acknowledged.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.place, Place::InFlight { .. })
    }
}

/// Where a live message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the queue, not to be sent before this moment.
    Waiting {
        /// Unix milliseconds.
        due_at_ms: u64,
    },
    /// Sent, and to be acknowledged before this moment.
    InFlight {
        /// Unix milliseconds.
        deadline_ms: u64,
    },
}

/// A message that asks to be taken.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Who sends it.
    pub sender: AgentDid,
    /// Its payload's size.
    pub bytes: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Its sender was admitted for this very message, so nobody need be asked before it goes out.
    pub admitted: bool,
}

/// What became of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The queue is at its limit; nothing changed.
    Full,
    /// It waits under this number.
    Queued {
        /// Its number.
        seq: u64,
    },
    /// It is in flight under this number: write it so, then send it.
    Launched(Launch),
}

/// A send: to be written, then done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which message.
    pub seq: u64,
    /// The how-manieth send this is.
    pub attempts: u32,
    /// Unix milliseconds; unacknowledged by then, it has failed.
    pub deadline_ms: u64,
}

/// What happened to a message: to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Acknowledged; it is gone from here.
    Delivered {
        /// Which message.
        seq: u64,
    },
    /// The send failed; it waits again.
    Requeued {
        /// Which message.
        seq: u64,
        /// How often it was sent.
        attempts: u32,
        /// Unix milliseconds.
        due_at_ms: u64,
    },
    /// Its socket is gone; it waits for the next. Need not be written: a stored send names its socket.
    CutOff {
        /// Which message.
        seq: u64,
    },
    /// Given up; it is gone from here.
    DeadLetter {
        /// Which message.
        seq: u64,
        /// Why.
        reason: DeadReason,
    },
}

/// Why a message was given up: as `reason` on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadReason {
    /// Nobody acknowledged it in its time.
    Expired,
    /// It was sent as often as may be.
    AttemptsExhausted,
    /// The agent it is for was revoked.
    RecipientRevoked,
    /// The agent that sent it was revoked.
    SenderRevoked,
}

impl DeadReason {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::RecipientRevoked => "recipient_revoked",
            Self::SenderRevoked => "sender_revoked",
        }
    }
}

/// What `pump` found to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pumped {
    /// Write and send these, in this order.
    pub launches: Vec<Launch>,
    /// Ask whether these senders are revoked, and tell `sender_is`.
    pub ask: Vec<AgentDid>,
}

/// What is known of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not revoked, just now.
    Good,
    /// Revoked.
    Revoked,
    /// Nobody could tell.
    Unknown,
}

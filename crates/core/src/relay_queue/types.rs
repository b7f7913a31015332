//! What goes into a relay queue and what comes out of it.

use super::authority::{Authority, Question};
use clawdentity_protocol::did::AgentDid;

/// What an operator may set of a queue (docs/wire.md §9). Durations in milliseconds.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// Live messages of all senders together.
    pub max_messages: usize,
    /// Live messages of one sender; the notices of the system, together, count as one more.
    pub max_messages_per_sender: usize,
    /// Bytes of all payloads together. One sender may have a quarter.
    pub max_bytes: u64,
    /// Messages sent and not acknowledged, over all senders.
    pub max_in_flight: usize,
    /// Refusals of one message after which it is dead-lettered.
    pub max_attempts: u32,
    /// The pause after the first refusal; doubles with each.
    pub retry_initial_ms: u64,
    /// The longest pause.
    pub retry_max_ms: u64,
    /// A pause varies by this part of itself, either way; 0 to 1.
    pub retry_jitter_ratio: f64,
    /// For how long "this sender may still send" is believed.
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
    /// What it was accepted under. No sender's share is charged for a notice of the system.
    pub authority: Authority,
    /// Its payload's size.
    pub bytes: u64,
    /// How often it was refused.
    pub attempts: u32,
    /// What broken connections say about it.
    pub trouble: Trouble,
    /// Unix milliseconds: not to be sent before.
    pub due_at_ms: u64,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Unix milliseconds; not sent any more from then on.
    pub expires_at_ms: u64,
}

/// What broken connections say about a message: nothing, until one message alone keeps breaking them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Whether it still has to be settled before frames go out side by side again.
    pub mark: Mark,
    /// How many connections ended with it in flight.
    pub cuts: u32,
    /// How many proven connections the connector ended on sight of it.
    pub breaks: u32,
}

/// See `Trouble`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// No connection ended with it in flight, or it was answered since.
    #[default]
    None,
    /// It was in flight when a connection ended.
    Cut,
    /// It was alone in flight and had no answer for so long that a connection proves itself in that time.
    Unanswered,
    /// It was alone in flight, and the connector ended the connection at once.
    Suspect,
}

/// The open connection, as its socket remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Unix milliseconds.
    pub opened_at_ms: u64,
    /// Unix milliseconds: the last answer to a frame on it.
    pub progress_at_ms: u64,
    /// What was sent on it and is not answered: the number, and when it was sent.
    pub in_flight: Vec<(u64, u64)>,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// The other side, or the line between.
    Connector,
    /// We did: superseded, revoked, silent, stalled, a frame too large. Says nothing about a message.
    Us,
}

/// A message that asks to be taken.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Who sends it.
    pub sender: AgentDid,
    /// See `StoredRow`.
    pub authority: Authority,
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
    /// Its sender's share, or the queue, is at its limit; nothing changed.
    Full,
    /// It waits under this number.
    Queued {
        /// Its number.
        seq: u64,
    },
    /// It is in flight under this number: write it, then send it.
    Launched(Launch),
}

/// A send: to be remembered by the socket, then done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Which message.
    pub seq: u64,
    /// How often it was refused before.
    pub attempts: u32,
}

/// What happened to a message: to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Acknowledged; it is gone from here.
    Delivered {
        /// Which message.
        seq: u64,
    },
    /// Refused; it waits again, and no connection is held against it any more.
    Requeued {
        /// Which message.
        seq: u64,
        /// How often it was refused.
        attempts: u32,
        /// Unix milliseconds.
        due_at_ms: u64,
    },
    /// Its connection ended; it waits for the next.
    Cut {
        /// Which message.
        seq: u64,
        /// What that says about it.
        trouble: Trouble,
        /// Unix milliseconds: the end of its connection, from which its place in the line may count.
        due_at_ms: u64,
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
    /// It was refused as often as may be.
    AttemptsExhausted,
    /// The connector ended connection after connection on sight of it.
    ConnectorBroke,
    /// The agent it is for was revoked.
    RecipientRevoked,
    /// The agent that sent it was revoked.
    SenderRevoked,
    /// The token that it was sent with was.
    SenderTokenRevoked,
    /// Its sender's owner ended the session in which it was sent.
    SenderSessionEnded,
    /// The pair by which it was sent has ended.
    PairEnded,
    /// Its sender is no longer in the group in which it was sent.
    SenderLeftGroup,
}

impl DeadReason {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::AttemptsExhausted => "attempts_exhausted",
            Self::ConnectorBroke => "connector_broke",
            Self::RecipientRevoked => "recipient_revoked",
            Self::SenderRevoked => "sender_revoked",
            Self::SenderTokenRevoked => "sender_token_revoked",
            Self::SenderSessionEnded => "sender_session_ended",
            Self::PairEnded => "pair_ended",
            Self::SenderLeftGroup => "sender_left_group",
        }
    }
}

/// What `pump` found to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pumped {
    /// Remember and send these, in this order.
    pub launches: Vec<Launch>,
    /// Ask these, and tell `learn`.
    pub ask: Vec<Question>,
}

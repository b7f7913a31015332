//! Queue messages: bodies that are JSON texts, parsed into what they ask for (docs/wire.md §7).
//!
//! A request for a revocation is never mistaken for something harmless. An `agent.auth.revoked` that cannot be read
//! is an error of its own (`UnreadableRevocation`), and its consumer must not acknowledge it. A message that can
//! never succeed is `Poison` or `Unreadable`, and is to be acknowledged and logged. A body that is `null`, an array
//! or a number is a body like any other, and never an exception.
//!
//! Applying an event, and deciding what may be retried, happens elsewhere.

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::did::Authority;
use super::receipt::DELIVERY_RECEIPT;

mod auth;
mod group;
mod pair;

pub use super::receipt::{Receipt, ReceiptStatus};
pub use auth::{AuthRefreshed, AuthRevoked, Effect};
pub use group::{GROUP_MEMBER_JOINED, GROUP_MEMBER_JOINED_SOURCE, GroupMemberJoined, GroupRole};
pub use pair::{PAIR_ACCEPTED, PAIR_ACCEPTED_MESSAGE, PAIR_ACCEPTED_SOURCE, PairAccepted};

/// The largest body: the platform's own limit for a queue message.
pub const MAX_EVENT_BYTES: usize = 128 * 1024;
/// How much of an unknown `type` is kept for the log line.
pub const MAX_KIND_CHARS: usize = 64;

const AUTH_REVOKED: &str = "agent.auth.revoked";
const AUTH_REFRESHED: &str = "agent.auth.refreshed";
const AUTH_ISSUED: &str = "agent.auth.issued";
const AUTH_REFRESH_REJECTED: &str = "agent.auth.refresh_rejected";

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An agent, tokens of it or its session are revoked.
    AuthRevoked(AuthRevoked),
    /// An agent's cached access validations are void.
    AuthRefreshed(AuthRefreshed),
    /// A type that is known and means nothing here.
    Ignored {
        /// The type.
        kind: &'static str,
    },
    /// Two agents were paired: tell the initiator.
    PairAccepted(Box<PairAccepted>),
    /// An agent joined a group: tell the recipient.
    GroupMemberJoined(Box<GroupMemberJoined>),
    /// What became of a message: tell its sender.
    DeliveryReceipt(Box<Receipt>),
    /// A type that is not known: to be ignored with a warning.
    Unknown {
        /// The type: at most 64 characters, none of them control characters.
        kind: String,
    },
}

/// Why a message asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Not a message: to be acknowledged and logged.
    #[error("{0}")]
    Poison(&'static str),
    /// A revocation that cannot be read: never to be acknowledged.
    #[error("{0}")]
    UnreadableRevocation(&'static str),
    /// A message of a known type, other than a revocation, that cannot be read: to be acknowledged and logged.
    #[error("{0}")]
    Unreadable(&'static str),
}

/// Parses a body. `issuer` is the authority of the agents that a bare `agentId` names.
///
/// # Errors
/// As `EventError` lists them.
pub fn parse_event(body: &str, issuer: &Authority) -> Result<Event, EventError> {
    // Some producers write a byte order mark; it must not cost a revocation (RFC 8259 §8.1 lets a reader ignore it).
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    if body.len() > MAX_EVENT_BYTES {
        // Not parsed, but not lost either where it might be a revocation.
        return Err(if body.contains(AUTH_REVOKED) {
            EventError::UnreadableRevocation("body over 128 KiB")
        } else {
            EventError::Poison("body over 128 KiB")
        });
    }
    let kinds = serde_json::from_str::<Kinds>(body)
        .map_err(|_| EventError::Poison("body is not a JSON object"))?
        .0;
    match kinds.as_slice() {
        [Some(kind)] => parse_kind(kind, body, issuer),
        // A second `type` makes it anyone's guess, and a guess must not lose a revocation.
        kinds if kinds.iter().flatten().any(|kind| kind == AUTH_REVOKED) => {
            Err(EventError::UnreadableRevocation("more than one type"))
        }
        _ => Err(EventError::Poison(
            "body does not have exactly one type that is a string",
        )),
    }
}

fn parse_kind(kind: &str, body: &str, issuer: &Authority) -> Result<Event, EventError> {
    match kind {
        AUTH_REVOKED => AuthRevoked::parse(body, issuer)
            .map(Event::AuthRevoked)
            .map_err(EventError::UnreadableRevocation),
        AUTH_REFRESHED => AuthRefreshed::parse(body, issuer)
            .map(Event::AuthRefreshed)
            .map_err(EventError::Poison),
        AUTH_ISSUED => Ok(Event::Ignored { kind: AUTH_ISSUED }),
        AUTH_REFRESH_REJECTED => Ok(Event::Ignored {
            kind: AUTH_REFRESH_REJECTED,
        }),
        PAIR_ACCEPTED => PairAccepted::parse(body)
            .map(|event| Event::PairAccepted(Box::new(event)))
            .map_err(EventError::Unreadable),
        GROUP_MEMBER_JOINED => GroupMemberJoined::parse(body)
            .map(|event| Event::GroupMemberJoined(Box::new(event)))
            .map_err(EventError::Unreadable),
        DELIVERY_RECEIPT => Receipt::parse_queued(body)
            .map(|receipt| Event::DeliveryReceipt(Box::new(receipt)))
            .map_err(EventError::Unreadable),
        _ => Ok(Event::Unknown {
            kind: kind
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_KIND_CHARS)
                .collect(),
        }),
    }
}

/// Every `type` at the top of the body; `None` for one that is no string.
struct Kinds(Vec<Option<String>>);

impl<'de> Deserialize<'de> for Kinds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KindsVisitor;

        impl<'de> Visitor<'de> for KindsVisitor {
            type Value = Kinds;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a queue message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kinds, A::Error> {
                let mut kinds = Vec::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "type" {
                        kinds.push(serde_json::from_str(map.next_value::<&RawValue>()?.get()).ok());
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Kinds(kinds))
            }
        }

        deserializer.deserialize_map(KindsVisitor)
    }
}

#[cfg(test)]
mod tests;

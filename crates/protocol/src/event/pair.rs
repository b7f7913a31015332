//! `pair.accepted`: `/pair/confirm` puts it on the events queue, and the initiator's connector is told (docs/wire.md
//! §7).

use serde::{Deserialize, Serialize};

use crate::did::AgentDid;
use crate::ids::MessageId;
use crate::issuer::Origin;
use crate::profile::{Name, ResponderProfile};
use crate::text::{json, object};
use crate::time::{iso_ms, parse_iso};

/// Its `type`.
pub const PAIR_ACCEPTED: &str = "pair.accepted";
/// `deliverySource` of its delivery.
pub const PAIR_ACCEPTED_SOURCE: &str = "proxy.events.queue.pair_accepted";
/// Its `message`, always.
pub const PAIR_ACCEPTED_MESSAGE: &str = "Clawdentity pairing complete. You can now message this peer.";

/// Two agents were paired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairAccepted {
    /// Who made the ticket, and is told.
    pub initiator: AgentDid,
    /// Who confirmed it: the sender of the delivery.
    pub responder: AgentDid,
    /// How to reach the responder.
    pub responder_profile: ResponderProfile,
    /// The proxy that made the ticket.
    pub issuer_proxy_origin: Origin,
    /// When, Unix milliseconds.
    pub event_at_ms: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    initiator_agent_did: AgentDid,
    responder_agent_did: AgentDid,
    responder_profile: ResponderProfile,
    issuer_proxy_origin: Origin,
    event_timestamp_utc: String,
}

/// The event as it is written, in this order, in the queue and in the payload.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    initiator_agent_did: &'a AgentDid,
    responder_agent_did: &'a AgentDid,
    responder_profile: OutgoingProfile<'a>,
    issuer_proxy_origin: &'a Origin,
    event_timestamp_utc: String,
    message: &'static str,
}

/// One family of connectors reads `humanName`, one `displayName`, and dead-letters the event without it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutgoingProfile<'a> {
    agent_name: &'a Name,
    human_name: &'a Name,
    display_name: &'a Name,
    proxy_origin: &'a Origin,
}

impl PairAccepted {
    pub(super) fn parse(body: &str) -> Result<Self, &'static str> {
        let incoming: Incoming = object(body.as_bytes()).ok_or("pair.accepted is malformed")?;
        let event_at_ms = parse_iso(incoming.event_timestamp_utc.trim())
            .map_err(|_| "eventTimestampUtc is not an ISO-8601 time")?;
        Ok(Self {
            initiator: incoming.initiator_agent_did,
            responder: incoming.responder_agent_did,
            responder_profile: incoming.responder_profile,
            issuer_proxy_origin: incoming.issuer_proxy_origin,
            event_at_ms,
        })
    }

    /// The delivery's id: the same for every copy of the event, however its time is written.
    pub fn request_id(&self) -> MessageId {
        MessageId::of_parts(format!(
            "{PAIR_ACCEPTED}:{}:{}:{}",
            self.initiator,
            self.responder,
            iso_ms(self.event_at_ms)
        ))
    }

    /// What the initiator's connector is sent: `{"system":<event>}`.
    pub fn payload_json(&self) -> String {
        #[derive(Serialize)]
        struct Payload<'a> {
            system: Outgoing<'a>,
        }

        json(&Payload {
            system: self.outgoing(),
        })
    }

    /// The body for the events queue.
    pub fn to_queue_json(&self) -> String {
        json(&self.outgoing())
    }

    fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            kind: PAIR_ACCEPTED,
            initiator_agent_did: &self.initiator,
            responder_agent_did: &self.responder,
            responder_profile: OutgoingProfile {
                agent_name: &self.responder_profile.agent_name,
                human_name: &self.responder_profile.human_name,
                display_name: &self.responder_profile.human_name,
                proxy_origin: &self.responder_profile.proxy_origin,
            },
            issuer_proxy_origin: &self.issuer_proxy_origin,
            event_timestamp_utc: iso_ms(self.event_at_ms),
            message: PAIR_ACCEPTED_MESSAGE,
        }
    }
}

//! The mail that the TypeScript proxy kept for one agent, read from its own storage.
//!
//! An entry that cannot be read is set aside as it is, and stops nothing else. So is mail that no strict reader could
//! parse (docs/wire.md §5), because a connector would break on it. A `replyTo` that no frame may have is left out,
//! because there are connectors that never answer a frame with such a one.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::outcome::DeliveryState;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::frame::parse_reply_to;
use clawdentity_protocol::ids::{GroupId, MessageId, Ulid};
use clawdentity_protocol::payload;
use clawdentity_protocol::time::parse_iso;

/// The key that it is kept under, in the storage of the agent's session.
pub const KEY: &str = "relay:delivery-queue";
/// The key of what was set aside: an array of texts.
pub const KEY_SET_ASIDE: &str = "relay:delivery-queue:set-aside";

/// What was kept.
#[derive(Debug, Default)]
pub struct KeptMail {
    /// Mail that waits, in its order.
    pub waiting: Vec<Waiting>,
    /// What became of other messages, the oldest first.
    pub outcomes: Vec<Outcome>,
    /// The JSON of what could not be read.
    pub set_aside: Vec<String>,
}

/// A message that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Its request's id.
    pub request_id: MessageId,
    /// The id its sender was told, where a frame can have that.
    pub deliver_id: Option<Ulid>,
    /// Who sent it.
    pub sender: AgentDid,
    /// Whose session keeps it.
    pub recipient: AgentDid,
    /// Fields of the frame.
    pub delivery_source: Option<String>,
    /// Fields of the frame.
    pub group_id: Option<GroupId>,
    /// Fields of the frame.
    pub conversation_id: Option<String>,
    /// Fields of the frame.
    pub reply_to: Option<String>,
    /// The JSON text.
    pub payload: Box<RawValue>,
    /// Unix milliseconds.
    pub created_at_ms: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
}

/// What became of a message.
#[derive(Debug)]
pub struct Outcome {
    /// Its request's id.
    pub request_id: MessageId,
    /// The id its sender was told, where a frame can have that.
    pub deliver_id: Option<Ulid>,
    /// Who sent it.
    pub sender: AgentDid,
    /// Who it was for.
    pub recipient: AgentDid,
    /// What became of it.
    pub state: DeliveryState,
    /// Why.
    pub reason: Option<String>,
    /// Unix milliseconds.
    pub updated_at_ms: u64,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
}

impl KeptMail {
    /// Reads the JSON of what is stored under `KEY`.
    pub fn parse(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Stored<'a> {
            #[serde(borrow)]
            deliveries: Option<&'a RawValue>,
            #[serde(borrow)]
            receipts: Option<&'a RawValue>,
        }

        let mut kept = Self::default();
        let Ok(stored) = serde_json::from_str::<Stored<'_>>(text) else {
            kept.set_aside.push(text.to_owned());
            return kept;
        };
        let deliveries: Vec<&RawValue> = kept.part(stored.deliveries);
        let receipts: BTreeMap<String, &RawValue> = kept.part(stored.receipts);
        let mut waits = BTreeSet::new();
        for entry in deliveries {
            match waiting(entry.get()) {
                // One request is one message.
                Some(mail) if !waits.insert((mail.request_id.as_str().to_owned(), mail.sender.clone())) => {}
                Some(mail) => kept.waiting.push(mail),
                None => kept.set_aside.push(entry.get().to_owned()),
            }
        }
        for entry in receipts.into_values() {
            match outcome(entry.get()) {
                // It is among what waits, or nobody knows what became of it.
                Some(outcome) if outcome.state == DeliveryState::Queued => {}
                Some(outcome) => kept.outcomes.push(outcome),
                None => kept.set_aside.push(entry.get().to_owned()),
            }
        }
        kept.outcomes.sort_by_key(|outcome| outcome.updated_at_ms);
        kept
    }

    fn part<'a, T: Default + Deserialize<'a>>(&mut self, stored: Option<&'a RawValue>) -> T {
        let Some(stored) = stored else { return T::default() };
        serde_json::from_str(stored.get()).unwrap_or_else(|_| {
            self.set_aside.push(stored.get().to_owned());
            T::default()
        })
    }
}

/// A time is a number, which JavaScript may have made a fraction.
fn ms(at: f64) -> u64 {
    at.max(0.0) as u64
}

fn waiting(text: &str) -> Option<Waiting> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        delivery_id: String,
        request_id: String,
        sender_agent_did: AgentDid,
        recipient_agent_did: AgentDid,
        delivery_source: Option<String>,
        group_id: Option<GroupId>,
        conversation_id: Option<String>,
        reply_to: Option<String>,
        payload: Box<RawValue>,
        created_at_ms: f64,
        expires_at_ms: f64,
    }

    let entry: Entry = serde_json::from_str(text).ok()?;
    payload::check(&entry.payload).ok()?;
    Some(Waiting {
        request_id: MessageId::parse(&entry.request_id).ok()?,
        deliver_id: Ulid::parse(&entry.delivery_id).ok(),
        sender: entry.sender_agent_did,
        recipient: entry.recipient_agent_did,
        delivery_source: entry.delivery_source,
        group_id: entry.group_id,
        conversation_id: entry.conversation_id,
        reply_to: entry.reply_to.filter(|url| parse_reply_to(url).is_ok()),
        payload: entry.payload,
        created_at_ms: ms(entry.created_at_ms),
        expires_at_ms: ms(entry.expires_at_ms),
    })
}

fn outcome(text: &str) -> Option<Outcome> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        delivery_id: String,
        request_id: String,
        sender_agent_did: AgentDid,
        recipient_agent_did: AgentDid,
        state: String,
        reason: Option<String>,
        status_updated_at: String,
        expires_at_ms: f64,
    }

    let entry: Entry = serde_json::from_str(text).ok()?;
    let state = match entry.state.as_str() {
        "queued" => DeliveryState::Queued,
        "delivered" => DeliveryState::Delivered,
        "delivered_to_webhook" | "processed_by_openclaw" => DeliveryState::DeliveredToWebhook,
        "dead_lettered" => DeliveryState::DeadLettered,
        _ => return None,
    };
    Some(Outcome {
        request_id: MessageId::parse(&entry.request_id).ok()?,
        deliver_id: Ulid::parse(&entry.delivery_id).ok(),
        sender: entry.sender_agent_did,
        recipient: entry.recipient_agent_did,
        state,
        reason: entry.reason,
        updated_at_ms: parse_iso(&entry.status_updated_at).ok()?,
        expires_at_ms: ms(entry.expires_at_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "did:cdi:registry.test:agent:01JZ0000000000000000000001";
    const B: &str = "did:cdi:registry.test:agent:01JZ0000000000000000000002";

    fn text(deliveries: &str, receipts: &str) -> String {
        format!(r#"{{"deliveries":[{deliveries}],"receipts":{{{receipts}}}}}"#)
            .replace("\"A\"", &format!("\"{A}\""))
            .replace("\"B\"", &format!("\"{B}\""))
    }

    #[test]
    fn mail_keeps_its_order_and_its_payload_to_the_byte() {
        let one = r#"{"deliveryId":"01JZ0000000000000000000003","requestId":"request-1","senderAgentDid":"A","recipientAgentDid":"B",
            "payload":{"a":[1.0, "x"]},"createdAtMs":1,"attemptCount":2,"expiresAtMs":9.5,"nextAttemptAtMs":3,"replyTo":"https://r"}"#;
        let two = one
            .replace("request-1", "request-2")
            .replace("01JZ0000000000000000000003", "d")
            .replace("https://r", "r");
        let kept = KeptMail::parse(&text(&format!("{one},{{}},{two},{one}"), ""));
        let ids: Vec<_> = kept
            .waiting
            .iter()
            .map(|mail| mail.request_id.as_str().to_owned())
            .collect();
        assert_eq!(
            (ids, kept.set_aside),
            (
                vec!["request-1".to_owned(), "request-2".to_owned()],
                vec!["{}".to_owned()]
            )
        );
        let mail = &kept.waiting[0];
        assert_eq!(mail.payload.get(), r#"{"a":[1.0, "x"]}"#);
        assert_eq!((mail.created_at_ms, mail.expires_at_ms), (1, 9));
        assert!(mail.deliver_id.is_some() && kept.waiting[1].deliver_id.is_none());
        assert_eq!(mail.reply_to.as_deref(), Some("https://r"));
        assert_eq!(kept.waiting[1].reply_to, None, "it is no URL");
    }

    #[test]
    fn outcomes_are_translated_and_what_waits_is_no_outcome() {
        let receipt = |id: &str, state: &str| {
            format!(
                r#""{id}":{{"requestId":"{id}","deliveryId":"d","expiresAtMs":9,"senderAgentDid":"A","recipientAgentDid":"B","state":"{state}","statusUpdatedAt":"2025-01-01T00:00:00.000Z"}}"#
            )
        };
        let states = [
            "queued",
            "delivered",
            "processed_by_openclaw",
            "dead_lettered",
            "else",
        ];
        let receipts: Vec<_> = states
            .iter()
            .map(|state| receipt(&format!("request-{state}"), state))
            .collect();
        let kept = KeptMail::parse(&text("", &receipts.join(",")));
        let mut found: Vec<_> = kept.outcomes.iter().map(|outcome| outcome.state).collect();
        found.sort_by_key(|state| *state as u8);
        assert_eq!(
            found,
            [
                DeliveryState::Delivered,
                DeliveryState::DeliveredToWebhook,
                DeliveryState::DeadLettered
            ]
        );
        assert_eq!(kept.set_aside.len(), 1);
    }

    #[test]
    fn mail_that_no_strict_reader_could_parse_is_set_aside() {
        let mail = |payload: &str| {
            format!(
                r#"{{"deliveryId":"d","requestId":"request-1","senderAgentDid":"A","recipientAgentDid":"B","payload":{payload},"createdAtMs":1,"attemptCount":0,"expiresAtMs":9,"nextAttemptAtMs":3}}"#
            )
        };
        for bad in [
            r#""\ud800""#,
            "1e999",
            &format!("{}1{}", "[".repeat(65), "]".repeat(65)),
        ] {
            let kept = KeptMail::parse(&text(&mail(bad), ""));
            assert!(kept.waiting.is_empty() && kept.set_aside.len() == 1, "{bad}");
        }
        assert_eq!(KeptMail::parse(&text(&mail("7"), "")).waiting.len(), 1);
    }

    #[test]
    fn what_is_no_queue_is_left_alone() {
        for bad in ["", "null", "7", r#"{"deliveries":}"#] {
            let kept = KeptMail::parse(bad);
            assert!(kept.waiting.is_empty() && kept.outcomes.is_empty(), "{bad}");
            assert_eq!(kept.set_aside, [bad]);
        }
        for part in ["deliveries", "receipts"] {
            let kept = KeptMail::parse(&format!(r#"{{"{part}":7,"unknown":8}}"#));
            assert_eq!(kept.set_aside, ["7"]);
        }
    }
}

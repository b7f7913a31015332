//! Delivery receipts: what became of a message at its recipient's own webhook (docs/wire.md §5.6 and docs/wire.md
//! §7).
//!
//! One type serves the body of the `POST`, the queue, and the session that records the receipt. Receipts come from
//! connectors of all ages, so unknown fields are ignored.

use serde::{Deserialize, Serialize};

use super::did::AgentDid;
use super::ids::MessageId;
use super::text::{self, json, object};
use super::time::{iso_ms, parse_loose};

/// The `type` in the receipts queue.
pub const DELIVERY_RECEIPT: &str = "delivery_receipt";

/// What became of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptStatus {
    /// The recipient's webhook took it.
    DeliveredToWebhook,
    /// It was given up.
    DeadLettered,
}

impl ReceiptStatus {
    /// Its text on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeliveredToWebhook => "delivered_to_webhook",
            Self::DeadLettered => "dead_lettered",
        }
    }
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The message: the request's id, or the `deliver` frame's.
    pub request_id: MessageId,
    /// Who sent the message.
    pub sender: AgentDid,
    /// Who got it, and says so.
    pub recipient: AgentDid,
    /// What became of it.
    pub status: ReceiptStatus,
    /// Why, for people: one line of at most 280 characters.
    pub reason: Option<String>,
    /// When, Unix milliseconds; `None` where it does not say so readably.
    pub processed_at_ms: Option<u64>,
}

/// What is read. `reason` may be `null`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    request_id: MessageId,
    sender_agent_did: AgentDid,
    recipient_agent_did: AgentDid,
    status: ReceiptStatus,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    processed_at: serde_json::Value,
}

/// What the queue holds, in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Queued<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    request_id: &'a MessageId,
    sender_agent_did: &'a AgentDid,
    recipient_agent_did: &'a AgentDid,
    status: ReceiptStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processed_at: Option<String>,
}

impl Receipt {
    /// Parses the body of `POST /v1/relay/delivery-receipts`. The time is the proxy's: what the caller says of it is
    /// ignored.
    ///
    /// # Errors
    /// What to tell the caller.
    pub fn parse_post(body: &[u8], now_ms: u64) -> Result<Self, &'static str> {
        let incoming: Incoming = object(body).ok_or({
            "the body must be {requestId, senderAgentDid, recipientAgentDid, status, reason?} with agent DIDs and a status \
             of delivered_to_webhook or dead_lettered"
        })?;
        Ok(Self {
            processed_at_ms: Some(now_ms),
            ..Self::of(incoming)
        })
    }

    /// Parses a body of the receipts queue whose `type` is known already.
    ///
    /// # Errors
    /// What to log.
    pub(super) fn parse_queued(body: &str) -> Result<Self, &'static str> {
        object(body.as_bytes())
            .map(Self::of)
            .ok_or("delivery_receipt is malformed")
    }

    fn of(incoming: Incoming) -> Self {
        Self {
            request_id: incoming.request_id,
            sender: incoming.sender_agent_did,
            recipient: incoming.recipient_agent_did,
            status: incoming.status,
            reason: incoming.reason.as_deref().and_then(text::reason),
            processed_at_ms: parse_loose(&incoming.processed_at),
        }
    }

    /// The body for the receipts queue.
    pub fn to_queue_json(&self) -> String {
        json(&Queued {
            kind: DELIVERY_RECEIPT,
            request_id: &self.request_id,
            sender_agent_did: &self.sender,
            recipient_agent_did: &self.recipient,
            status: self.status,
            reason: self.reason.as_deref(),
            processed_at: self.processed_at_ms.map(iso_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::agent;

    fn receipt() -> Receipt {
        Receipt {
            request_id: MessageId::parse("req-0001").unwrap(),
            sender: agent(1),
            recipient: agent(2),
            status: ReceiptStatus::DeadLettered,
            reason: Some("webhook answered 500".into()),
            processed_at_ms: Some(1_767_323_045_678),
        }
    }

    /// Receipts that lie in the queue during a deploy must be read after it.
    #[test]
    fn queue_format_unchanged() {
        assert_eq!(
            receipt().to_queue_json(),
            concat!(
                r#"{"type":"delivery_receipt","requestId":"req-0001","#,
                r#""senderAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000001","#,
                r#""recipientAgentDid":"did:cdi:registry.example.com:agent:00000000000000000000000002","#,
                r#""status":"dead_lettered","reason":"webhook answered 500","processedAt":"2026-01-02T03:04:05.678Z"}"#
            )
        );
        assert_eq!(Receipt::parse_queued(&receipt().to_queue_json()), Ok(receipt()));
        let bare = Receipt {
            status: ReceiptStatus::DeliveredToWebhook,
            reason: None,
            processed_at_ms: None,
            ..receipt()
        };
        assert!(
            bare.to_queue_json()
                .ends_with(r#""status":"delivered_to_webhook"}"#)
        );
        assert_eq!(Receipt::parse_queued(&bare.to_queue_json()), Ok(bare));
    }

    #[test]
    fn statuses() {
        for status in [ReceiptStatus::DeliveredToWebhook, ReceiptStatus::DeadLettered] {
            assert_eq!(
                serde_json::to_string(&status).unwrap(),
                format!("\"{}\"", status.as_str())
            );
        }
    }

    #[test]
    fn posted_bodies() {
        let good = receipt()
            .to_queue_json()
            .replace(r#""type":"delivery_receipt","#, "");
        let table = [
            (good.clone(), true),
            (good.replace(r#""webhook answered 500""#, "null"), true),
            (good.replace(r#""2026-01-02T03:04:05.678Z""#, "[]"), true),
            (good.replace("}", r#","more":1}"#), true),
            (good.replace(r#""webhook answered 500""#, "7"), false),
            (good.replace("dead_lettered", "queued"), false),
            (good.replace("dead_lettered", "Dead_Lettered"), false),
            (good.replace("req-0001", " "), false),
            (good.replace(":agent:", ":human:"), false),
            (good.replace(r#""status":"dead_lettered","#, ""), false),
            (good.replace("}", r#","status":"delivered_to_webhook"}"#), false),
            ("null".into(), false),
            ("[]".into(), false),
            (String::new(), false),
        ];
        for (body, expect) in table {
            let parsed = Receipt::parse_post(body.as_bytes(), 5);
            assert_eq!(parsed.is_ok(), expect, "{body}");
            assert!(parsed.is_err() || parsed.unwrap().processed_at_ms == Some(5));
        }
        let nulled = good.replace(r#""webhook answered 500""#, "null");
        assert_eq!(Receipt::parse_post(nulled.as_bytes(), 5).unwrap().reason, None);
    }
}

//! What a message's state becomes when its recipient sends a receipt (docs/wire.md §5.6 and docs/wire.md §7).
//!
//! Receipts come through a queue that delivers at least once and in no order. So states are merged and not
//! overwritten: whatever the order, and however often a receipt comes, the end is the same. That the recipient's
//! webhook has taken the message is final. That the message was given up is final only as long as nobody says that it
//! arrived after all.

use serde::{Deserialize, Serialize};

use clawdentity_protocol::receipt::ReceiptStatus;

/// Where a message is, as docs/wire.md §5 names it. One that is in flight is `queued`: nobody has acknowledged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Waiting, or sent and not acknowledged.
    Queued,
    /// The connector acknowledged it.
    Delivered,
    /// The recipient says its own webhook took it.
    DeliveredToWebhook,
    /// Given up; the reason says why.
    DeadLettered,
}

impl DeliveryState {
    /// Whether the recipient has it.
    pub fn is_delivered(self) -> bool {
        matches!(self, Self::Delivered | Self::DeliveredToWebhook)
    }
}

/// The state a message has that this was said of.
pub fn state_of(status: ReceiptStatus) -> DeliveryState {
    match status {
        ReceiptStatus::DeliveredToWebhook => DeliveryState::DeliveredToWebhook,
        ReceiptStatus::DeadLettered => DeliveryState::DeadLettered,
    }
}

/// Whether this changes the state of a message, and so is news for its sender.
pub fn is_news(status: ReceiptStatus, current: DeliveryState) -> bool {
    match current {
        DeliveryState::Queued | DeliveryState::Delivered => true,
        DeliveryState::DeliveredToWebhook => false,
        DeliveryState::DeadLettered => status == ReceiptStatus::DeliveredToWebhook,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipts_in_any_order_end_alike() {
        use DeliveryState::{DeadLettered, Delivered, DeliveredToWebhook, Queued};
        let webhook = ReceiptStatus::DeliveredToWebhook;
        let dead = ReceiptStatus::DeadLettered;
        let check = |start: DeliveryState, receipts: &[ReceiptStatus], expect: DeliveryState, news: usize| {
            let mut state = start;
            let mut told = 0;
            for receipt in receipts {
                if is_news(*receipt, state) {
                    state = state_of(*receipt);
                    told += 1;
                }
            }
            assert_eq!((state, told), (expect, news), "{start:?} {receipts:?}");
        };
        check(Queued, &[webhook], DeliveredToWebhook, 1);
        check(Delivered, &[webhook, webhook, webhook], DeliveredToWebhook, 1);
        check(Delivered, &[dead, dead], DeadLettered, 1);
        check(Delivered, &[dead, webhook], DeliveredToWebhook, 2);
        check(Delivered, &[webhook, dead], DeliveredToWebhook, 1);
        check(DeadLettered, &[webhook], DeliveredToWebhook, 1);
        check(DeadLettered, &[dead], DeadLettered, 0);
    }

    #[test]
    fn names_are_those_of_the_wire() {
        let name = |state: DeliveryState| serde_json::to_value(state).unwrap();
        assert_eq!(name(DeliveryState::Queued), "queued");
        assert_eq!(name(DeliveryState::Delivered), "delivered");
        for status in [ReceiptStatus::DeliveredToWebhook, ReceiptStatus::DeadLettered] {
            assert_eq!(name(state_of(status)), status.as_str());
        }
    }
}

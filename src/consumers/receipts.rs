//! The receipts queue: what became of a message at its recipient's own webhook (docs/wire.md §7).
//!
//! A receipt is recorded in the session that holds the message, which is the recipient's. That session then tells the
//! sender's.

use super::Outcome;
use crate::app::App;
use crate::protocol::event::Receipt;
use crate::relay;
use crate::relay::protocol::{ReceiptCall, RelayCall, RelayReply};

/// `delivery_receipt`.
pub async fn record(app: &App, receipt: Receipt) -> Outcome {
    let Receipt {
        request_id,
        sender,
        recipient,
        status,
        reason,
        ..
    } = receipt;
    let call = RelayCall::RecordReceipt(ReceiptCall {
        sender,
        request_id,
        status,
        reason,
    });
    match relay::client::call(app, &recipient, call).await {
        Ok(RelayReply::Done) => Outcome::Done,
        Ok(_) => Outcome::Again("the session's answer does not match the question".into()),
        Err(error) => Outcome::Again(error.to_string()),
    }
}

//! The consumers of the queues (docs/wire.md §7).
//!
//! - The failure or slowness of one message decides nothing for another. All messages of a batch are worked on at the
//!   same time, each within a time limit, and each is acknowledged or given back by itself as soon as it is done.
//! - A message ends in one of four ways (`Outcome`), which are decided in one place.
//! - A message is recognised by its type and not by the queue through which it came, so a revocation is applied
//!   wherever it turns up.
//! - A message of a dead-letter queue is kept for a person (`dead_letters`).
//! - Every effect is idempotent, because queues deliver at least once and in no order.

pub mod dead_letters;
mod events;
mod message;
mod receipts;

use futures_util::future;
use serde_json::{Value, json};
use wasm_bindgen::JsValue;
use worker::{Context, Env, worker_sys};

use self::message::QueueMessage;
use crate::app::App;
use crate::clock;
use crate::core::consume::retry_delay_s;
use crate::log::Log;
use crate::protocol::event::{Event, EventError, parse_event};
use crate::random;

/// The longest that a notice is worked on before it is given back: a batch with kills may be waiting behind this one. What
/// its session does about it goes on, and the next try finds it done.
const NOTICE_TIMEOUT_MS: u64 = 500;
/// Likewise for a receipt, which has a queue of its own.
const RECEIPT_TIMEOUT_MS: u64 = 5_000;
/// Faulty settings are mended by people: nothing is gained by asking every second.
const SETTINGS_RETRY_S: u32 = 60;

/// A message on its way to the dead-letter queue is logged at its first try and then once in so many.
const DEAD_LETTER_LINE_EVERY: u32 = 25;

/// What becomes of a message.
enum Outcome {
    /// Acknowledged.
    Done,
    /// Acknowledged and logged: it can never succeed.
    Poison(String),
    /// Acknowledged with a warning or less: it asks for nothing here.
    Ignored { kind: String, known: bool },
    /// Given back with a growing pause: it may succeed later.
    Again(String),
    /// Given back without a pause, so that it soon lies in the dead-letter queue: it must be seen by a person.
    DeadLetter(String),
}

/// Works on a batch; returns when every message of it is acknowledged or given back.
pub async fn serve(batch: worker_sys::MessageBatch, env: Env, ctx: Context) {
    let queue = batch.queue().map(String::from).unwrap_or_default();
    let messages: Vec<QueueMessage> = match batch.messages() {
        Ok(messages) => messages.iter().map(QueueMessage::from).collect(),
        Err(_) => {
            // What is neither acknowledged nor given back counts as acknowledged.
            let _ = batch.retry_all(JsValue::NULL);
            return Log.error("proxy.queue.batch_unreadable", json!({ "queue": queue }));
        }
    };
    match App::new(env, Some(ctx)) {
        Ok(app) => {
            serve_batch(&app, &queue, &messages).await;
        }
        Err(_) => {
            Log.error(
                "proxy.config.invalid",
                json!({ "queue": queue, "messages": messages.len() }),
            );
            messages
                .iter()
                .for_each(|message| message.retry(SETTINGS_RETRY_S));
        }
    }
}

/// Revocations first, and all of them side by side; then the rest, so that no notice keeps a kill waiting.
async fn serve_batch(app: &App, queue: &str, messages: &[QueueMessage]) {
    if dead_letters::is_dead_letter_queue(queue) {
        let kept = messages
            .iter()
            .map(|message| dead_letters::keep(app, queue, message));
        future::join_all(kept).await;
        return;
    }
    let (mut orders, mut revocations, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for message in messages {
        let body = message.body();
        match read(app, body.as_deref()) {
            Ok(Event::AuthRevoked(event)) => {
                let body = body.as_deref().unwrap_or_default();
                orders.push(events::order_of(
                    app,
                    &message.id(),
                    message.attempts(),
                    body,
                    &event,
                ));
                revocations.push(message);
            }
            Ok(event) => rest.push((message, event)),
            Err(outcome) => settle(app, queue, message, outcome),
        }
    }
    if !orders.is_empty() {
        let outcomes = events::revoke(app, &orders).await;
        for (message, outcome) in revocations.into_iter().zip(outcomes) {
            settle(app, queue, message, outcome);
        }
    }
    let others = rest.into_iter().map(async |(message, event)| {
        let timeout_ms = match event {
            Event::DeliveryReceipt(_) => RECEIPT_TIMEOUT_MS,
            _ => NOTICE_TIMEOUT_MS,
        };
        let outcome = match clock::within_ms(timeout_ms, handle(app, event)).await {
            Some(outcome) => outcome,
            None => Outcome::Again("it took too long".into()),
        };
        settle(app, queue, message, outcome);
    });
    future::join_all(others).await;
}

/// One message by itself, as an operator has it tried again: its id, and its body where that is a string.
async fn try_again(app: &App, id: &str, body: Option<&str>) -> Outcome {
    match read(app, body) {
        Ok(Event::AuthRevoked(event)) => {
            let order = events::order_of(app, id, 1, body.unwrap_or_default(), &event);
            let outcomes = events::revoke(app, std::slice::from_ref(&order)).await;
            let outcome = outcomes.into_iter().next();
            outcome.unwrap_or_else(|| Outcome::Again("nothing was applied".into()))
        }
        Ok(event) => handle(app, event).await,
        Err(outcome) => outcome,
    }
}

/// What a message says.
fn read(app: &App, body: Option<&str>) -> Result<Event, Outcome> {
    let Some(body) = body else {
        return Err(Outcome::Poison("the body is not a string".into()));
    };
    let Ok(issuer) = app.config.registry.expected_issuer.authority() else {
        let reason = "the expected issuer's host name cannot be part of a DID";
        return Err(Outcome::Again(reason.into()));
    };
    match parse_event(body, &issuer) {
        Ok(event) => Ok(event),
        Err(EventError::Poison(reason) | EventError::Unreadable(reason)) => {
            Err(Outcome::Poison(reason.into()))
        }
        Err(EventError::UnreadableRevocation(reason)) => Err(Outcome::DeadLetter(format!(
            "a revocation that cannot be read: {reason}"
        ))),
    }
}

fn settle(app: &App, queue: &str, message: &QueueMessage, outcome: Outcome) {
    let fields = |reason: &str, then: &str| {
        json!({
            "queue": queue,
            "messageId": message.id(),
            "attempts": message.attempts(),
            "reason": reason,
            "then": then,
        })
    };
    match outcome {
        Outcome::Done => message.ack(),
        Outcome::Poison(reason) => {
            app.log
                .error("proxy.queue.message_failed", fields(&reason, "acknowledged"));
            message.ack();
        }
        Outcome::Ignored { kind, known } => {
            let fields = json!({ "queue": queue, "messageId": message.id(), "type": kind });
            ignored(app, known, fields);
            message.ack();
        }
        Outcome::Again(reason) => {
            app.log
                .error("proxy.queue.message_failed", fields(&reason, "retried"));
            message.retry(retry_delay_s(message.attempts(), random::byte()));
        }
        Outcome::DeadLetter(reason) => {
            // It is tried as often as the queue is set to, in a row: one line of many says it.
            if message.attempts() % DEAD_LETTER_LINE_EVERY == 1 {
                app.log
                    .error("proxy.queue.message_failed", fields(&reason, "dead-lettered"));
            }
            message.retry(0);
        }
    }
}

async fn handle(app: &App, event: Event) -> Outcome {
    match event {
        Event::AuthRevoked(_) => Outcome::Again("a revocation is applied with its batch".into()),
        Event::AuthRefreshed(event) => events::refreshed(app, &event).await,
        Event::PairAccepted(event) => events::pair_accepted(app, &event).await,
        Event::GroupMemberJoined(event) => events::group_member_joined(app, &event).await,
        Event::DeliveryReceipt(receipt) => receipts::record(app, *receipt).await,
        Event::Ignored { kind } => Outcome::Ignored {
            kind: kind.into(),
            known: true,
        },
        Event::Unknown { kind } => Outcome::Ignored { kind, known: false },
    }
}

fn ignored(app: &App, known: bool, fields: Value) {
    match known {
        true => app.log.info("proxy.queue.message_ignored", fields),
        false => app.log.warn("proxy.queue.message_ignored", fields),
    }
}

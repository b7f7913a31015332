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

/// The longest that one message is worked on before it is given back.
const MESSAGE_TIMEOUT_MS: u64 = 15_000;
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
            future::join_all(messages.iter().map(|message| work(&app, &queue, message))).await;
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

async fn work(app: &App, queue: &str, message: &QueueMessage) {
    if dead_letters::is_dead_letter_queue(queue) {
        return dead_letters::keep(app, queue, message).await;
    }
    let outcome = match clock::within_ms(
        MESSAGE_TIMEOUT_MS,
        handle(app, &message.id(), message.attempts(), message.body().as_deref()),
    )
    .await
    {
        Some(outcome) => outcome,
        None => Outcome::Again("it took too long".into()),
    };
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
            message.retry(retry_delay_s(message.attempts()));
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

/// Works on a message: its id, how often it was tried, this time included, and its body where that is a string.
async fn handle(app: &App, id: &str, attempts: u32, body: Option<&str>) -> Outcome {
    let Some(body) = body else {
        return Outcome::Poison("the body is not a string".into());
    };
    let Ok(issuer) = app.config.registry.expected_issuer.authority() else {
        return Outcome::Again("the expected issuer's host name cannot be part of a DID".into());
    };
    match parse_event(body, &issuer) {
        Ok(Event::AuthRevoked(event)) => events::revoked(app, id, attempts, &event).await,
        Ok(Event::AuthRefreshed(event)) => events::refreshed(app, &event).await,
        Ok(Event::PairAccepted(event)) => events::pair_accepted(app, &event).await,
        Ok(Event::GroupMemberJoined(event)) => events::group_member_joined(app, &event).await,
        Ok(Event::DeliveryReceipt(receipt)) => receipts::record(app, *receipt).await,
        Ok(Event::Ignored { kind }) => Outcome::Ignored {
            kind: kind.into(),
            known: true,
        },
        Ok(Event::Unknown { kind }) => Outcome::Ignored { kind, known: false },
        Err(EventError::Poison(reason) | EventError::Unreadable(reason)) => Outcome::Poison(reason.into()),
        Err(EventError::UnreadableRevocation(reason)) => {
            Outcome::DeadLetter(format!("a revocation that cannot be read: {reason}"))
        }
    }
}

fn ignored(app: &App, known: bool, fields: Value) {
    match known {
        true => app.log.info("proxy.queue.message_ignored", fields),
        false => app.log.warn("proxy.queue.message_ignored", fields),
    }
}

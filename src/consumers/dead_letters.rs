//! The dead-letter queues' consumer, and what a person does with what it keeps.
//!
//! - Every message of a dead-letter queue becomes one row in D1, whatever it is. It is acknowledged only once the row is
//!   there. Each is an error line, because each is something that was not done.
//! - At most `MAX_LETTERS` rows are kept. Where there are more, the oldest that are not revocations go first; what is lost
//!   in this way is an error line too.
//! - A retry works on the message as its own queue's consumer does, and removes the row only if that succeeded.
//! - Dropping removes the row, and nothing else.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::message::QueueMessage;
use super::{Outcome, try_again};
use crate::app::App;
use crate::clock;
use crate::core::consume::retry_delay_s;
use crate::core::dead_letter::describe;
use crate::protocol::event::{EventError, parse_event};
use crate::protocol::time::iso_ms;
use crate::random;
use crate::trust::d1::{self, DbError, Sql, batch, number, optional_text, query, text};

/// How long a message is tried that an operator has tried again.
const MESSAGE_TIMEOUT_MS: u64 = 15_000;
/// Rows that are kept.
const MAX_LETTERS: u64 = 1000;
/// The name of a dead-letter queue has this (docs/wire.md §9).
const DEAD_LETTER_MARK: &str = "-dlq";
const TIMEOUT_MS: u64 = 5_000;
/// What D1 cannot take now waits at least this long, because after the last try nothing keeps it any more.
const LEAST_RETRY_S: u32 = 30;

const KEEP: &str = "
INSERT INTO dead_letters (message_id, queue, type, subject, revocation, reason, body, dead_lettered_at_ms)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING";

const BOUND: &str = "
DELETE FROM dead_letters WHERE id IN (
  SELECT id FROM dead_letters ORDER BY revocation, id
  LIMIT MAX(0, (SELECT COUNT(*) FROM dead_letters) - ?1)) RETURNING id";

const PAGE: &str = "
SELECT id, message_id, queue, type, subject, revocation, reason, dead_lettered_at_ms, retried_at_ms
FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2";

const ONE: &str = "
SELECT id, message_id, queue, type, subject, revocation, reason, dead_lettered_at_ms, retried_at_ms, body
FROM dead_letters WHERE id = ?1";

/// A dead letter as the operator sees it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    pub id: u64,
    /// The platform's id of the message.
    pub message_id: String,
    pub queue: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The agent or token that it is about, where that can be read.
    pub subject: Option<String>,
    /// A revocation that was not applied.
    pub revocation: bool,
    pub reason: String,
    pub dead_lettered_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retried_at: Option<String>,
    /// Only where one letter is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

#[derive(Deserialize)]
struct Row {
    id: f64,
    message_id: String,
    queue: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    subject: Option<String>,
    revocation: f64,
    reason: String,
    dead_lettered_at_ms: f64,
    retried_at_ms: Option<f64>,
    #[serde(default)]
    body: Option<String>,
}

impl From<Row> for DeadLetter {
    fn from(row: Row) -> Self {
        Self {
            id: row.id as u64,
            message_id: row.message_id,
            queue: row.queue,
            kind: row.kind,
            subject: row.subject,
            revocation: row.revocation != 0.0,
            reason: row.reason,
            dead_lettered_at: iso_ms(row.dead_lettered_at_ms as u64),
            retried_at: row.retried_at_ms.map(|at_ms| iso_ms(at_ms as u64)),
            body: row.body,
        }
    }
}

/// How many letters there are.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Count {
    pub total: u64,
    /// Those that are revocations that were not applied.
    pub revocations: u64,
}

/// How a retry ended.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
pub enum Retried {
    /// It was applied, and the letter is gone.
    Applied,
    /// It asks for nothing here, and the letter is gone.
    Ignored,
    /// It failed again, and the letter is kept.
    Failed { reason: String },
}

/// Whether this is the name of a dead-letter queue.
pub fn is_dead_letter_queue(queue: &str) -> bool {
    queue.ends_with(DEAD_LETTER_MARK) || queue.contains("-dlq-")
}

/// Keeps a message; it is acknowledged once it is kept.
pub async fn keep(app: &App, queue: &str, message: &QueueMessage) {
    let body = message.body();
    let reason = reason_of(app, body.as_deref());
    let body = body.unwrap_or_default();
    let description = describe(&body);
    let fields = json!({
        "queue": queue,
        "messageId": message.id(),
        "type": description.kind,
        "subject": description.subject,
        "revocation": description.revocation,
        "reason": reason,
    });
    app.log.error("proxy.dead_letter.kept", fields);
    let values = [
        text(&message.id()),
        text(queue),
        optional_text(description.kind.as_deref()),
        optional_text(description.subject.as_deref()),
        number(description.revocation.into()),
        text(&reason),
        text(&body),
        number(app.now_ms()),
    ];
    let statements = vec![Sql::new(KEEP, values), Sql::new(BOUND, [number(MAX_LETTERS)])];
    match batch(app, TIMEOUT_MS, statements).await {
        Ok(results) => {
            message.ack();
            let lost = d1::rows::<serde_json::Value>(&results, 1).map_or(0, |rows| rows.len());
            if lost > 0 {
                let fields = json!({ "lost": lost, "kept": MAX_LETTERS });
                app.log.error("proxy.dead_letter.lost", fields);
            }
        }
        Err(error) => {
            let fields = json!({ "queue": queue, "messageId": message.id(), "error": error.to_string() });
            app.log.error("proxy.dead_letter.not_kept", fields);
            let delay_s = retry_delay_s(message.attempts(), random::byte());
            message.retry(delay_s.max(LEAST_RETRY_S));
        }
    }
}

/// The queue does not say why; what never can be read says so itself.
fn reason_of(app: &App, body: Option<&str>) -> String {
    let Some(body) = body else {
        return "the body is not a string".into();
    };
    let Ok(issuer) = app.config.registry.expected_issuer.authority() else {
        return "it was tried as often as the queue is set to".into();
    };
    match parse_event(body, &issuer) {
        Err(EventError::UnreadableRevocation(reason)) => {
            format!("a revocation that cannot be read: {reason}")
        }
        Err(EventError::Poison(reason) | EventError::Unreadable(reason)) => reason.into(),
        Ok(_) => "it was tried as often as the queue is set to, and never succeeded".into(),
    }
}

/// Letters after this one, oldest first.
///
/// # Errors
/// D1 gave no answer.
pub async fn page(app: &App, since: u64, limit: u64) -> Result<Vec<DeadLetter>, DbError> {
    let rows: Vec<Row> = query(app, TIMEOUT_MS, Sql::new(PAGE, [number(since), number(limit)])).await?;
    Ok(rows.into_iter().map(DeadLetter::from).collect())
}

/// One letter, with its body.
///
/// # Errors
/// D1 gave no answer.
pub async fn one(app: &App, id: u64) -> Result<Option<DeadLetter>, DbError> {
    let rows: Vec<Row> = query(app, TIMEOUT_MS, Sql::new(ONE, [number(id)])).await?;
    Ok(rows.into_iter().next().map(DeadLetter::from))
}

/// How many letters there are.
///
/// # Errors
/// D1 gave no answer.
pub async fn count(app: &App) -> Result<Count, DbError> {
    #[derive(Deserialize)]
    struct Counts {
        total: f64,
        revocations: f64,
    }

    let sql = "SELECT COUNT(*) AS total, COALESCE(SUM(revocation), 0) AS revocations FROM dead_letters";
    let rows: Vec<Counts> = query(app, TIMEOUT_MS, Sql::new(sql, [])).await?;
    Ok(rows.first().map_or_else(Count::default, |row| Count {
        total: row.total as u64,
        revocations: row.revocations as u64,
    }))
}

/// Works on a letter once more, as the consumer of its own queue does. None where there is no such letter.
///
/// # Errors
/// D1 gave no answer; the message may have been applied, which may be repeated.
pub async fn retry(app: &App, id: u64) -> Result<Option<Retried>, DbError> {
    let Some(letter) = one(app, id).await? else {
        return Ok(None);
    };
    let work = try_again(app, &letter.message_id, letter.body.as_deref());
    let retried = match clock::within_ms(MESSAGE_TIMEOUT_MS, work).await {
        Some(Outcome::Done) => Retried::Applied,
        Some(Outcome::Ignored { .. }) => Retried::Ignored,
        Some(Outcome::Poison(reason) | Outcome::Again(reason) | Outcome::DeadLetter(reason)) => {
            Retried::Failed { reason }
        }
        None => Retried::Failed {
            reason: "it took too long".into(),
        },
    };
    match &retried {
        Retried::Applied | Retried::Ignored => {
            drop_letter(app, id).await?;
        }
        Retried::Failed { reason } => {
            let sql = "UPDATE dead_letters SET reason = ?2, retried_at_ms = ?3 WHERE id = ?1 RETURNING id";
            let values = [number(id), text(reason), number(app.now_ms())];
            query::<serde_json::Value>(app, TIMEOUT_MS, Sql::new(sql, values)).await?;
        }
    }
    let fields = json!({ "id": id, "messageId": letter.message_id, "type": letter.kind, "retried": retried });
    app.log.warn("proxy.dead_letter.retried", fields);
    Ok(Some(retried))
}

/// Removes a letter for good; whether it was there.
///
/// # Errors
/// D1 gave no answer.
pub async fn drop_letter(app: &App, id: u64) -> Result<bool, DbError> {
    let sql = "DELETE FROM dead_letters WHERE id = ?1 RETURNING id";
    let rows: Vec<serde_json::Value> = query(app, TIMEOUT_MS, Sql::new(sql, [number(id)])).await?;
    Ok(!rows.is_empty())
}

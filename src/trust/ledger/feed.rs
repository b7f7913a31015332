//! The ledger as it is read after a number: by the feed, the stream, the bundle and an operator.

use serde::{Deserialize, Serialize};
use worker::D1Result;

use super::super::d1::{self, DbError, Sql, batch, number, query, text};
use crate::app::App;
use crate::core::canary::is_canary;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::{Item, Page, Source, Subject};

const READ_TIMEOUT_MS: u64 = 5_000;

pub(super) const LATEST: &str = "SELECT COALESCE(MAX(seq), 0) AS latest FROM revocations";

const PAGE: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE seq > ?1 ORDER BY seq LIMIT ?2";

const STANDING_BETWEEN: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE seq > ?1 AND seq <= ?3 AND lifted_by IS NULL AND kind IN ('agent', 'token') ORDER BY seq LIMIT ?2";

const BY_AGENT: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE kind = 'agent' AND agent_did = ?1 AND lifted_by IS NULL";

const BY_JTI: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE kind = 'token' AND jti = ?1 AND lifted_by IS NULL";

const AFTER_OF_KIND: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE seq > ?1 AND kind = 'session' AND agent_did = ?2 ORDER BY seq DESC LIMIT 1";

const COUNTS: &str = "
SELECT kind, source, lifted_by IS NULL AS standing, COUNT(*) AS rows FROM revocations
GROUP BY kind, source, lifted_by IS NULL ORDER BY 1, 2, 3";

const HOUR_MS: u64 = 60 * 60 * 1000;
/// As many as a plot shows.
const MAX_LAGS: u64 = 150;

/// Goes back from the highest number, so that a long ledger costs no more than a short one.
const LAGS: &str = "
SELECT recorded_at_ms - revoked_at_ms AS lag_ms FROM
  (SELECT recorded_at_ms, revoked_at_ms, source FROM revocations ORDER BY seq DESC LIMIT ?2)
WHERE source = 'queue' AND recorded_at_ms > ?1";

/// A row as D1 returns it.
#[derive(Deserialize)]
pub(super) struct Row {
    seq: f64,
    kind: String,
    agent_did: Option<AgentDid>,
    jti: Option<Ulid>,
    lifts: Option<f64>,
    reason: Option<String>,
    source: Source,
    revoked_at_ms: f64,
    expires_at_ms: Option<f64>,
}

impl Row {
    /// None for a row with an unexpected shape, and for the kill switch's measurements of itself.
    pub(super) fn item(self) -> Option<Item> {
        if self.agent_did.as_ref().is_some_and(is_canary) {
            return None;
        }
        let subject = match self.kind.as_str() {
            "agent" => Subject::Agent {
                agent: self.agent_did?,
            },
            "session" => Subject::Session {
                agent: self.agent_did?,
            },
            "token" => Subject::Token {
                jti: self.jti?,
                agent: self.agent_did,
                expires_at_ms: self.expires_at_ms.map(|at_ms| at_ms as u64),
            },
            "lift" => Subject::Lift {
                lifts: self.lifts? as u64,
                agent: self.agent_did,
                jti: self.jti,
            },
            _ => return None,
        };
        Some(Item {
            seq: self.seq as u64,
            subject,
            reason: self.reason,
            revoked_at_ms: self.revoked_at_ms as u64,
            source: self.source,
        })
    }
}

/// The rows after number `since`, at most `limit`.
///
/// # Errors
/// D1 gave no answer.
pub async fn page(app: &App, since: u64, limit: u64) -> Result<Page, DbError> {
    let statements = vec![
        Sql::new(LATEST, []),
        Sql::new(PAGE, [number(since), number(limit)]),
    ];
    let results = batch(app, READ_TIMEOUT_MS, statements).await?;
    let latest = latest_of(&results, 0)?;
    let items: Vec<Item> = d1::rows::<Row>(&results, 1)?
        .into_iter()
        .filter_map(Row::item)
        .collect();
    let more = items.len() as u64 >= limit && items.last().is_some_and(|last| last.seq < latest);
    Ok(Page {
        latest,
        next: match items.last() {
            Some(last) if more => last.seq,
            _ => latest.max(since),
        },
        more,
        items,
    })
}

/// The ledger's highest number; 0 if it is empty.
///
/// # Errors
/// D1 gave no answer.
pub async fn latest(app: &App) -> Result<u64, DbError> {
    let results = batch(app, READ_TIMEOUT_MS, vec![Sql::new(LATEST, [])]).await?;
    latest_of(&results, 0)
}

/// Agents and tokens that are revoked now, by the rows after number `since` and up to `through`; at most `limit`.
///
/// # Errors
/// D1 gave no answer.
pub async fn standing_between(app: &App, since: u64, through: u64, limit: u64) -> Result<Vec<Item>, DbError> {
    items(
        app,
        Sql::new(STANDING_BETWEEN, [number(since), number(limit), number(through)]),
    )
    .await
}

/// The row by which an agent is revoked.
///
/// # Errors
/// D1 gave no answer.
pub async fn of_agent(app: &App, agent: &AgentDid) -> Result<Option<Item>, DbError> {
    Ok(items(app, Sql::new(BY_AGENT, [text(agent.as_str())]))
        .await?
        .pop())
}

/// The row by which a token is revoked.
///
/// # Errors
/// D1 gave no answer.
pub async fn of_token(app: &App, jti: Ulid) -> Result<Option<Item>, DbError> {
    Ok(items(app, Sql::new(BY_JTI, [text(&jti.to_string())]))
        .await?
        .pop())
}

/// The last row after number `since` by which a session of the agent ended.
///
/// # Errors
/// D1 gave no answer.
pub async fn of_session(app: &App, since: u64, agent: &AgentDid) -> Result<Option<Item>, DbError> {
    let sql = Sql::new(AFTER_OF_KIND, [number(since), text(agent.as_str())]);
    Ok(items(app, sql).await?.pop())
}

async fn items(app: &App, sql: Sql<'_>) -> Result<Vec<Item>, DbError> {
    let rows: Vec<Row> = query(app, READ_TIMEOUT_MS, sql).await?;
    Ok(rows.into_iter().filter_map(Row::item).collect())
}

pub(super) fn latest_of(results: &[D1Result], n: usize) -> Result<u64, DbError> {
    #[derive(Deserialize)]
    struct Latest {
        latest: f64,
    }

    let rows: Vec<Latest> = d1::rows(results, n)?;
    Ok(rows.first().map_or(0, |row| row.latest as u64))
}

/// Of the last hour's revocations by the queue, at most `MAX_LAGS` of the latest, oldest first: from the event's own time
/// to the record here, milliseconds.
///
/// # Errors
/// D1 gave no answer.
pub async fn lags_of_the_last_hour(app: &App) -> Result<Vec<u64>, DbError> {
    #[derive(Deserialize)]
    struct Lag {
        lag_ms: f64,
    }

    let since_ms = app.now_ms().saturating_sub(HOUR_MS);
    let rows: Vec<Lag> = query(
        app,
        READ_TIMEOUT_MS,
        Sql::new(LAGS, [number(since_ms), number(MAX_LAGS)]),
    )
    .await?;
    Ok(rows.iter().rev().map(|row| row.lag_ms.max(0.0) as u64).collect())
}

/// How many rows of one kind, source and state there are.
#[derive(Deserialize, Serialize)]
pub struct Count {
    kind: String,
    source: Source,
    standing: bool,
    rows: u64,
}

/// Counts rows by kind, source and whether they are in force. It reads the whole ledger, so it is for people only.
///
/// # Errors
/// D1 gave no answer.
pub async fn counts(app: &App) -> Result<Vec<Count>, DbError> {
    #[derive(Deserialize)]
    struct Row {
        kind: String,
        source: Source,
        standing: f64,
        rows: f64,
    }

    let rows: Vec<Row> = query(app, READ_TIMEOUT_MS, Sql::new(COUNTS, [])).await?;
    let count = |row: Row| Count {
        kind: row.kind,
        source: row.source,
        standing: row.standing != 0.0,
        rows: row.rows as u64,
    };
    Ok(rows.into_iter().map(count).collect())
}

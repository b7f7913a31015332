//! The ledger as it is read after a number: by the feed, the stream, the bundle and an operator.

use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;
use worker::D1Result;

use super::super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use crate::app::App;
use crate::core::canary::is_canary;
use crate::core::feed::{Place, page_end};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::{Item, Page, Source, Subject};

const READ_TIMEOUT_MS: u64 = 5_000;

pub(super) const LATEST: &str = "SELECT COALESCE(MAX(seq), 0) AS latest FROM revocations";

/// Readers see nothing of the kill switch's measurements of itself (`core::canary`): neither the rows nor, as the latest
/// number, that there are any, for each change of it costs every reader a page. So what a reader calls the latest is the
/// highest number of a row that is not theirs. A handful of theirs are kept, so this looks at a handful of rows.
macro_rules! latest_shown {
    () => {
        "COALESCE((SELECT seq FROM revocations
  WHERE agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_' ORDER BY seq DESC LIMIT 1), 0)"
    };
}
pub(in crate::trust) use latest_shown;

/// Without its row, which a restore to before the first one leaves, the epoch is 0.
const HEAD: &str = concat!(
    "SELECT COALESCE((SELECT epoch FROM feed_epoch WHERE id = 1), '0') AS epoch, ",
    latest_shown!(),
    " AS latest"
);

/// From the beginning where the position is above the latest number or of another epoch, in the same step.
const PAGE: &str = concat!(
    "SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms FROM revocations
WHERE seq > CASE WHEN ?1 > ",
    latest_shown!(),
    " OR ?3 <> COALESCE((SELECT epoch FROM feed_epoch WHERE id = 1), '0') THEN 0 ELSE ?1 END
  AND (agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_')
ORDER BY seq LIMIT ?2"
);

/// Streams whose agent is revoked or has no pair left, or whose token is revoked.
const MAY_NOT_LISTEN: &str = "
SELECT value ->> '$.id' AS id FROM json_each(?1)
WHERE NOT EXISTS (SELECT 1 FROM pairs WHERE agent_did = value ->> '$.agent')
  OR EXISTS (SELECT 1 FROM revocations WHERE kind = 'agent' AND agent_did = value ->> '$.agent' AND lifted_by IS NULL)
  OR EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND jti = value ->> '$.jti' AND lifted_by IS NULL)";

/// Members of the bundle's `agents`, each a name and the text of its fields. In the order of their keys, so that a row that gets a new number while
/// they are read is neither missed nor there twice.
const BUNDLE_AGENTS: &str = "
  SELECT agent_did AS name, '{\"seq\":' || seq || ',\"revokedAt\":' || CAST(revoked_at_ms AS INTEGER) ||
    ',\"source\":' || json_quote(source) ||
    CASE WHEN ?3 AND reason IS NOT NULL THEN ',\"reason\":' || json_quote(reason) ELSE '' END || '}' AS fields
  FROM revocations WHERE kind = 'agent' AND lifted_by IS NULL AND agent_did > ?1 ORDER BY agent_did LIMIT ?2";

/// The same of `tokens`; one that is over is left out, and so is a canary's (`core::canary`).
const BUNDLE_TOKENS: &str = "
  SELECT jti AS name, '{\"seq\":' || seq || ',\"revokedAt\":' || CAST(revoked_at_ms AS INTEGER) ||
    ',\"source\":' || json_quote(source) ||
    CASE WHEN ?3 AND reason IS NOT NULL THEN ',\"reason\":' || json_quote(reason) ELSE '' END ||
    CASE WHEN agent_did IS NOT NULL THEN ',\"agentDid\":' || json_quote(agent_did) ELSE '' END ||
    CASE WHEN expires_at_ms IS NOT NULL THEN ',\"expiresAt\":' || CAST(expires_at_ms AS INTEGER) ELSE '' END ||
    '}' AS fields
  FROM revocations WHERE kind = 'token' AND lifted_by IS NULL AND jti > ?1
    AND (expires_at_ms IS NULL OR expires_at_ms > ?4)
    AND (agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_') ORDER BY jti LIMIT ?2";

const NEW_EPOCH: &str = "
INSERT INTO feed_epoch (id, epoch, begun_at_ms) VALUES (1, ?1, ?2)
ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, begun_at_ms = excluded.begun_at_ms";

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
WHERE agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_'
GROUP BY kind, source, lifted_by IS NULL ORDER BY 1, 2, 3";

const HOUR_MS: u64 = 60 * 60 * 1000;
/// As many as a plot shows.
const MAX_LAGS: u64 = 150;

/// Goes back from the highest number, so that a long ledger costs no more than a short one.
const LAGS: &str = "
SELECT recorded_at_ms - revoked_at_ms AS lag_ms FROM
  (SELECT recorded_at_ms, revoked_at_ms, source FROM revocations
   WHERE agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_' ORDER BY seq DESC LIMIT ?2)
WHERE source = 'queue' AND recorded_at_ms > ?1";

const LATEST_ROWS: &str = "
SELECT seq, kind, agent_did, jti, lifts, reason, source, revoked_at_ms, expires_at_ms,
  recorded_at_ms - revoked_at_ms AS lag_ms FROM revocations
WHERE agent_did IS NULL OR agent_did NOT LIKE '%:agent:000000000000000000CANARY0_' ORDER BY seq DESC LIMIT ?1";

const LAST_EVENT: &str = "
SELECT applied_at_ms FROM applied_events WHERE NOT (event_id >= 'canary:' AND event_id < 'canary;')
ORDER BY applied_at_ms DESC LIMIT 1";

/// A row as D1 returns it.
#[derive(Deserialize)]
pub(super) struct Row {
    seq: f64,
    kind: String,
    agent_did: Option<String>,
    jti: Option<String>,
    lifts: Option<f64>,
    reason: Option<String>,
    source: Source,
    revoked_at_ms: f64,
    expires_at_ms: Option<f64>,
}

impl Row {
    /// None for a row of a shape that this version does not write, or cannot read, and for the kill switch's measurements
    /// of itself.
    pub(super) fn item(self) -> Option<Item> {
        let agent = self
            .agent_did
            .as_deref()
            .and_then(|did| AgentDid::parse(did).ok());
        if agent.as_ref().is_some_and(is_canary) {
            return None;
        }
        let jti = self.jti.as_deref().and_then(|jti| Ulid::parse(jti).ok());
        let subject = match self.kind.as_str() {
            "agent" => Subject::Agent { agent: agent? },
            "session" => Subject::Session { agent: agent? },
            "token" => Subject::Token {
                jti: jti?,
                agent,
                expires_at_ms: self.expires_at_ms.map(|at_ms| at_ms as u64),
            },
            "lift" => Subject::Lift {
                lifts: self.lifts? as u64,
                agent,
                jti,
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

/// The rows after a position, `limit` at most; from the beginning where the position is none of this ledger.
///
/// # Errors
/// D1 gave no answer.
pub async fn page(app: &App, place: &Place, limit: u64) -> Result<Page, DbError> {
    look(app, Some(place), limit, "").await.map(|(page, _)| page)
}

/// The same, and which of the streams that agents have opened must end, in one call. Without a position, only where the
/// ledger stands. `streams`: a JSON array of `{id, agent, jti}`, or nothing.
///
/// # Errors
/// D1 gave no answer.
pub async fn look(
    app: &App,
    place: Option<&Place>,
    limit: u64,
    streams: &str,
) -> Result<(Page, Vec<u64>), DbError> {
    #[derive(Deserialize)]
    struct Stream {
        id: f64,
    }

    let mut statements = vec![Sql::new(HEAD, [])];
    if let Some(place) = place {
        let epoch = optional_text(place.epoch.as_deref());
        statements.push(Sql::new(PAGE, [number(place.since), number(limit), epoch]));
    }
    if !streams.is_empty() {
        statements.push(Sql::new(MAY_NOT_LISTEN, [text(streams)]));
    }
    let results = batch(app, READ_TIMEOUT_MS, statements).await?;
    let Head { epoch, latest } = head_of(&results)?;
    let rows: Vec<Row> = match place {
        Some(_) => d1::rows(&results, 1)?,
        None => Vec::new(),
    };
    let ended: Vec<Stream> = match streams {
        "" => Vec::new(),
        _ => d1::rows(&results, results.len().saturating_sub(1))?,
    };
    let reset = place.is_some_and(|place| place.is_reset(&epoch, latest));
    let since = match place {
        Some(place) if !reset => place.since,
        _ => 0,
    };
    let last = rows.last().map(|row| row.seq as u64);
    let (next, more) = page_end(since, latest, limit, rows.len() as u64, last);
    let page = Page {
        epoch,
        latest,
        next,
        more,
        reset,
        items: rows.into_iter().filter_map(Row::item).collect(),
    };
    Ok((page, ended.iter().map(|stream| stream.id as u64).collect()))
}

/// Where the ledger stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What its numbers belong to.
    pub epoch: String,
    /// Its highest number; 0 where it is empty.
    pub latest: u64,
}

/// Where the ledger stands.
///
/// # Errors
/// D1 gave no answer.
pub async fn head(app: &App) -> Result<Head, DbError> {
    head_of(&batch(app, READ_TIMEOUT_MS, vec![Sql::new(HEAD, [])]).await?)
}

fn head_of(results: &[D1Result]) -> Result<Head, DbError> {
    #[derive(Deserialize)]
    struct Row {
        epoch: String,
        latest: f64,
    }

    let rows: Vec<Row> = d1::rows(results, 0)?;
    let row = rows.into_iter().next();
    row.map(|row| Head {
        epoch: row.epoch,
        latest: row.latest as u64,
    })
    .ok_or_else(|| DbError::Failed("D1 left out a result".into()))
}

/// Begins a new epoch: every reader of the feed starts over.
///
/// # Errors
/// D1 gave no answer.
pub async fn begin_epoch(app: &App, epoch: &str) -> Result<(), DbError> {
    let sql = Sql::new(NEW_EPOCH, [text(epoch), number(app.now_ms())]);
    batch(app, app.config.trust.write_timeout_ms, vec![sql])
        .await
        .map(|_| ())
}

/// Which part of the bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The agents that are revoked.
    Agents,
    /// The tokens that are revoked.
    Tokens,
}

/// Some of the revocations in force, as members of a JSON object with commas between them.
#[derive(Deserialize)]
pub struct Members {
    /// The last key, where there is any.
    pub last: Option<String>,
    /// The text.
    pub members: Option<String>,
}

/// The members of a part of the bundle after this key, `limit` at most; with reasons where `reasons` says so.
///
/// # Errors
/// D1 gave no answer.
pub async fn members(
    app: &App,
    part: Part,
    after: &str,
    limit: u64,
    reasons: bool,
) -> Result<Members, DbError> {
    let members = "MAX(name) AS last, group_concat(json_quote(name) || ':' || fields, ',') AS members";
    let (sql, values) = of_members(app, part, members, after, limit, reasons);
    let rows: Vec<Members> = query(app, READ_TIMEOUT_MS, Sql::new(&sql, values)).await?;
    rows.into_iter()
        .next()
        .ok_or_else(|| DbError::Failed("D1 left out a result".into()))
}

/// How many bytes the members of both parts have now, with a comma each.
///
/// # Errors
/// D1 gave no answer.
pub async fn members_len(app: &App, reasons: bool) -> Result<usize, DbError> {
    #[derive(Deserialize)]
    struct Row {
        bytes: f64,
    }

    let bytes = "COALESCE(SUM(length(CAST(json_quote(name) || fields AS BLOB)) + 2), 0) AS bytes";
    let of = |part| of_members(app, part, bytes, "", u64::from(u32::MAX), reasons);
    let queries = [of(Part::Agents), of(Part::Tokens)];
    let statements = queries
        .iter()
        .map(|(sql, values)| Sql::new(sql, values.clone()))
        .collect();
    let results = batch(app, READ_TIMEOUT_MS, statements).await?;
    let mut all = 0;
    for n in 0..queries.len() {
        let rows: Vec<Row> = d1::rows(&results, n)?;
        all += rows.first().map_or(0, |row| row.bytes as usize);
    }
    Ok(all)
}

/// A query for this of the rows of a part of the bundle.
fn of_members(
    app: &App,
    part: Part,
    what: &str,
    after: &str,
    limit: u64,
    reasons: bool,
) -> (String, Vec<JsValue>) {
    let mut values = vec![text(after), number(limit), number(u64::from(reasons))];
    let rows = match part {
        Part::Agents => BUNDLE_AGENTS,
        Part::Tokens => {
            values.push(number(app.now_ms()));
            BUNDLE_TOKENS
        }
    };
    (format!("SELECT {what} FROM ({rows})"), values)
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

/// When an event of the registry was last applied, Unix milliseconds; none in the last 90 days. The kill switch's own
/// events do not count.
///
/// # Errors
/// D1 gave no answer.
pub async fn last_event_at_ms(app: &App) -> Result<Option<u64>, DbError> {
    #[derive(Deserialize)]
    struct Last {
        applied_at_ms: f64,
    }

    let rows: Vec<Last> = query(app, READ_TIMEOUT_MS, Sql::new(LAST_EVENT, [])).await?;
    Ok(rows.first().map(|row| row.applied_at_ms as u64))
}

/// The latest rows, the latest first, each with how long it took from what it tells of to the record, milliseconds.
///
/// # Errors
/// D1 gave no answer.
pub async fn latest_rows(app: &App, limit: u64) -> Result<Vec<(Item, u64)>, DbError> {
    #[derive(Deserialize)]
    struct Recorded {
        #[serde(flatten)]
        row: Row,
        lag_ms: f64,
    }

    let rows: Vec<Recorded> = query(app, READ_TIMEOUT_MS, Sql::new(LATEST_ROWS, [number(limit)])).await?;
    let item = |recorded: Recorded| Some((recorded.row.item()?, recorded.lag_ms.max(0.0) as u64));
    Ok(rows.into_iter().filter_map(item).collect())
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

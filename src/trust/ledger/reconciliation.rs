//! What reconciliation with the CRL asks of the ledger, and how far it has come: one row, which survives every
//! interruption.

use serde::{Deserialize, Serialize};

use super::super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use super::json_of;
use crate::app::App;
use crate::core::admission::overlay::UNKNOWN_EXPIRY_MS;
use crate::core::listing::ListedToken;
use crate::protocol::ids::Ulid;

/// For statements about many rows.
const TIMEOUT_MS: u64 = 10_000;

/// A token that was lifted is not missing: the list goes on naming it, and the operator has the last word.
const LACKING: &str = "
SELECT value AS jti FROM json_each(?1)
WHERE NOT EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND jti = value AND lifted_by IS NULL)
  AND NOT EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND jti = value AND lifted_by IS NOT NULL)";

/// Changes the source of those tokens that only an operator has revoked to the list.
const ADOPT: &str = "
UPDATE revocations SET source = 'crl' WHERE kind = 'token' AND lifted_by IS NULL AND source = 'operator'
  AND jti IN (SELECT value FROM json_each(?1))";

/// As with an event, the agent of a token's row is the token's owner by the record, else the agent that the list names.
const RECORD: &str = "
INSERT INTO revocations
  (kind, agent_did, jti, reason, source, revoked_at_ms, recorded_at_ms, expires_at_ms)
SELECT 'token',
  COALESCE((SELECT agent_did FROM agent_tokens WHERE agent_tokens.jti = value ->> '$.jti'), value ->> '$.agent_did'),
  value ->> '$.jti', value ->> '$.reason', 'crl',
  value ->> '$.revoked_at_ms', ?2, ?3
FROM json_each(?1)
WHERE NOT EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND jti = value ->> '$.jti' AND lifted_by IS NULL)
  AND NOT EXISTS (SELECT 1 FROM revocations WHERE kind = 'token' AND jti = value ->> '$.jti' AND lifted_by IS NOT NULL)
ON CONFLICT DO NOTHING RETURNING seq";

const LOAD: &str = "
SELECT cursor, pending, etag, started_at_ms, finished_at_ms, listed, added FROM reconciliation WHERE id = 1";

/// The run gets a number of its own, whatever the clock says, so any run that was under way sees that another has begun.
const BEGIN: &str = "
INSERT INTO reconciliation (id, started_at_ms, listed, added) VALUES (1, ?1, ?2, 0)
ON CONFLICT (id) DO UPDATE SET started_at_ms = MAX(excluded.started_at_ms, started_at_ms + 1), finished_at_ms = NULL,
  etag = NULL, listed = excluded.listed, added = 0
RETURNING cursor, pending, etag, started_at_ms, finished_at_ms, listed, added";

const SAVE: &str = "
UPDATE reconciliation SET cursor = ?1, pending = ?2, etag = ?3, started_at_ms = ?4, finished_at_ms = ?5,
  listed = ?6, added = ?7
WHERE id = 1 AND started_at_ms = ?8 RETURNING id";

/// How far reconciliation has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The last token that an unfinished run has done.
    pub cursor: Option<Ulid>,
    /// The tokens that it was recording when it ended.
    #[serde(skip)]
    pub pending: Vec<Ulid>,
    /// The tag of the list that was last gone through completely.
    #[serde(skip)]
    pub etag: Option<String>,
    /// When the last run began, Unix milliseconds. No two runs have the same.
    pub started_at_ms: u64,
    /// When the last run ended, if it went through the whole list.
    pub finished_at_ms: Option<u64>,
    /// How many entries the last list had.
    pub listed: u64,
    /// How many rows the last run added.
    pub added: u64,
}

/// Which of these listed tokens the ledger does not have.
///
/// # Errors
/// D1 gave no answer.
pub async fn lacking(app: &App, jtis: &[Ulid]) -> Result<Vec<Ulid>, DbError> {
    #[derive(Deserialize)]
    struct Row {
        jti: Ulid,
    }

    let listed = text(&json_of(jtis)?);
    let statements = vec![Sql::new(ADOPT, [listed.clone()]), Sql::new(LACKING, [listed])];
    let results = batch(app, TIMEOUT_MS, statements).await?;
    let rows: Vec<Row> = d1::rows(&results, 1)?;
    Ok(rows.into_iter().map(|row| row.jti).collect())
}

/// Records listed tokens that the ledger does not have. Returns how many.
///
/// # Errors
/// D1 gave no answer. Do it again.
pub async fn record(app: &App, tokens: &[ListedToken]) -> Result<u64, DbError> {
    #[derive(Deserialize)]
    struct Row {
        #[allow(dead_code)] // only how many there are is asked for
        seq: f64,
    }

    let json = serde_json::to_string(tokens).map_err(|error| DbError::Failed(error.to_string()))?;
    let now_ms = app.now_ms();
    let until_ms = now_ms.saturating_add(UNKNOWN_EXPIRY_MS);
    let sql = Sql::new(RECORD, [text(&json), number(now_ms), number(until_ms)]);
    let rows: Vec<Row> = query(app, TIMEOUT_MS, sql).await?;
    Ok(rows.len() as u64)
}

/// How far reconciliation has come.
///
/// # Errors
/// D1 gave no answer.
pub async fn load(app: &App) -> Result<State, DbError> {
    state_of(app, Sql::new(LOAD, [])).await
}

/// Begins a run over a list of so many entries. From here on no earlier run stores anything. What that run left behind
/// (cursor and pending) is this run's.
///
/// # Errors
/// D1 gave no answer.
pub async fn begin(app: &App, now_ms: u64, listed: u64) -> Result<State, DbError> {
    state_of(app, Sql::new(BEGIN, [number(now_ms), number(listed)])).await
}

/// Stores how far the run has come that began at `begun_at_ms`, unless a later run has begun. Returns whether it was
/// stored.
///
/// # Errors
/// D1 gave no answer.
pub async fn save(app: &App, begun_at_ms: u64, state: &State) -> Result<bool, DbError> {
    #[derive(Deserialize)]
    struct Kept {
        #[allow(dead_code)] // only whether there is one is asked for
        id: f64,
    }

    let cursor = state.cursor.map(|jti| jti.to_string());
    let pending = match state.pending.is_empty() {
        true => None,
        false => Some(json_of(&state.pending)?),
    };
    let values = [
        optional_text(cursor.as_deref()),
        optional_text(pending.as_deref()),
        optional_text(state.etag.as_deref()),
        number(state.started_at_ms),
        state.finished_at_ms.map_or(wasm_bindgen::JsValue::NULL, number),
        number(state.listed),
        number(state.added),
        number(begun_at_ms),
    ];
    let kept: Vec<Kept> = query(app, TIMEOUT_MS, Sql::new(SAVE, values)).await?;
    Ok(!kept.is_empty())
}

async fn state_of(app: &App, sql: Sql<'_>) -> Result<State, DbError> {
    #[derive(Deserialize)]
    struct Row {
        cursor: Option<Ulid>,
        pending: Option<String>,
        etag: Option<String>,
        started_at_ms: f64,
        finished_at_ms: Option<f64>,
        listed: f64,
        added: f64,
    }

    let Some(row) = query::<Row>(app, TIMEOUT_MS, sql).await?.pop() else {
        return Ok(State::default());
    };
    let pending = row.pending.as_deref().map(serde_json::from_str);
    Ok(State {
        cursor: row.cursor,
        // Ours, written as it is read; one that does not parse costs a look at the next run's own tokens, no more.
        pending: pending.and_then(Result::ok).unwrap_or_default(),
        etag: row.etag,
        started_at_ms: row.started_at_ms as u64,
        finished_at_ms: row.finished_at_ms.map(|at_ms| at_ms as u64),
        listed: row.listed as u64,
        added: row.added as u64,
    })
}

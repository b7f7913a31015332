//! Takes over what the TypeScript proxy kept, once.
//!
//! That proxy kept pairs, tickets and revoked agents in one object, `global-trust` of `ProxyTrustState`, under a few keys.
//! The object of that name brings them into D1, from where every agent's object loads what is its own. No object
//! believes the record to be complete before the import is finished, so that nobody is told "unknown" on the way.
//!
//! The import is made of small steps. A step's rows and the position that follows it are written in one transaction, and
//! only where the position is still the one that the step began at: so it may be interrupted anywhere and run twice at
//! the same time, and every row is written once. A pair that was removed in the meantime does not come back. What the
//! other proxy kept is not touched.
//!
//! The mail of each agent is not part of it: every `AgentRelaySession` takes over its own (`relay::takeover`).

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};
use worker::{D1Result, Storage};

use super::d1::{self, DbError, Sql, batch, number, query, text};
use crate::app::App;
use crate::core::takeover::{self, Kept};

/// Whether it is finished.
pub(super) const FINISHED: &str = "SELECT finished_at_ms FROM takeover WHERE finished_at_ms IS NOT NULL";

const BEGIN: &str = "
INSERT INTO takeover (id, stage, position, pairs, tickets, revocations, skipped, started_at_ms)
VALUES (1, 0, 0, 0, 0, 0, 0, ?1) ON CONFLICT DO NOTHING";

const POSITION: &str = "SELECT stage, position, pairs, tickets, revocations, skipped, started_at_ms, finished_at_ms FROM takeover";

const PAIRS: &str = "
INSERT INTO pairs (agent_did, peer_did, paired_at_ms, pair_id)
SELECT value ->> '$[0]', value ->> '$[1]', ?4, 'imported' FROM json_each(?1)
WHERE EXISTS (SELECT 1 FROM takeover WHERE stage = ?2 AND position = ?3)
ON CONFLICT DO NOTHING";

const TICKETS: &str = "
INSERT INTO pair_tickets
  (kid, issuer, public_key_x, expires_at_ms, initiator_did, initiator_profile, allow_responder_did,
   responder_did, responder_profile, confirmation_id, confirmed_at_ms, ticket)
SELECT value ->> '$.kid', value ->> '$.issuer', value ->> '$.publicKeyX', value ->> '$.expiresAtMs',
  value ->> '$.initiator', value ->> '$.initiatorProfile', value ->> '$.allowResponder', value ->> '$.responder',
  value ->> '$.responderProfile', value ->> '$.confirmationId', value ->> '$.confirmedAtMs', value ->> '$.ticket'
FROM json_each(?1)
WHERE EXISTS (SELECT 1 FROM takeover WHERE stage = ?2 AND position = ?3) AND ?4 IS NOT NULL
ON CONFLICT DO NOTHING";

const REVOCATIONS: &str = "
INSERT INTO revocations (kind, agent_did, reason, source, revoked_at_ms, recorded_at_ms)
SELECT 'agent', value, 'taken over', 'queue', ?4, ?4 FROM json_each(?1)
WHERE EXISTS (SELECT 1 FROM takeover WHERE stage = ?2 AND position = ?3)
ON CONFLICT DO NOTHING";

const ADVANCE: &str = "
UPDATE takeover SET position = position + ?3, pairs = pairs + ?4, tickets = tickets + ?5, revocations = revocations + ?6
WHERE stage = ?1 AND position = ?2";

const NEXT_STAGE: &str = "
UPDATE takeover SET stage = stage + 1, position = 0, skipped = skipped + ?3,
  finished_at_ms = CASE WHEN stage + 1 >= ?5 THEN ?4 END
WHERE stage = ?1 AND position = ?2";

/// What is imported, in this order.
const STAGES: [&str; 3] = [PAIRS, TICKETS, REVOCATIONS];
/// Rows of one step.
const STEP: usize = 100;

/// How far it is; for an operator.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Progress {
    stage: f64,
    position: f64,
    pairs: f64,
    tickets: f64,
    revocations: f64,
    skipped: f64,
    started_at_ms: f64,
    finished_at_ms: Option<f64>,
}

/// Whether it is finished, from the n-th result of a batch, which asked `FINISHED`.
pub(super) fn is_finished(results: &[D1Result], n: usize) -> Result<bool, DbError> {
    let rows: Vec<serde::de::IgnoredAny> = d1::rows(results, n)?;
    Ok(!rows.is_empty())
}

/// Runs it to its end, in the object of that name. Running it again where it is finished is one question.
///
/// # Errors
/// D1 or the storage gave no answer: what was written stays, and the next run goes on from there.
pub(super) async fn run(app: &App, storage: &Storage) -> Result<(), DbError> {
    let timeout_ms = app.config.trust.write_timeout_ms;
    let mut kept = None;
    loop {
        let now = number(app.now_ms());
        let begin = vec![Sql::new(BEGIN, [now.clone()]), Sql::new(POSITION, [])];
        let results = batch(app, timeout_ms, begin).await?;
        let progress: Vec<Progress> = d1::rows(&results, 1)?;
        let Some(at) = progress.first().copied() else {
            return Err(DbError::Failed("the takeover has no row".into()));
        };
        let stage = at.stage as usize;
        let Some(statement) = STAGES.get(stage) else {
            return Ok(());
        };
        let kept = match &mut kept {
            Some(kept) => kept,
            None => kept.insert(read(storage).await?),
        };
        let (items, skipped) = kept.stage(stage);
        let position = at.position as usize;
        let (from_stage, from) = (number(stage as u64), number(position as u64));
        let step: Vec<&Value> = items.iter().skip(position).take(STEP).collect();
        let statements = if step.is_empty() {
            let values = [
                from_stage,
                from,
                number(skipped),
                now,
                number(STAGES.len() as u64),
            ];
            vec![Sql::new(NEXT_STAGE, values)]
        } else {
            let rows = serde_json::to_string(&step).map_err(|error| DbError::Failed(error.to_string()))?;
            let of = |this: usize| number(if this == stage { step.len() as u64 } else { 0 });
            let count = number(step.len() as u64);
            vec![
                Sql::new(statement, [text(&rows), from_stage.clone(), from.clone(), now]),
                Sql::new(ADVANCE, [from_stage, from, count, of(0), of(1), of(2)]),
            ]
        };
        batch(app, timeout_ms, statements).await?;
        let fields = json!({ "stage": stage, "position": position + step.len(), "of": items.len(), "skipped": skipped });
        app.log.info("proxy.takeover.step", fields);
    }
}

/// How far it is, as JSON for an operator.
///
/// # Errors
/// D1 gave no answer.
pub async fn status(app: &App) -> Result<Value, DbError> {
    let rows: Vec<Progress> = query(app, app.config.trust.timeout_ms, Sql::new(POSITION, [])).await?;
    let Some(at) = rows.first() else {
        return Ok(json!({ "state": "notBegun" }));
    };
    let state = match at.finished_at_ms {
        Some(_) => "finished",
        None => "running",
    };
    // Each direction of a pair is a row.
    Ok(json!({
        "state": state,
        "pairs": at.pairs as u64 / 2,
        "tickets": at.tickets as u64,
        "revocations": at.revocations as u64,
        "skipped": at.skipped as u64,
        "startedAtMs": at.started_at_ms as u64,
        "finishedAtMs": at.finished_at_ms.map(|at| at as u64),
    }))
}

/// The keys, as JSON: whatever is stored under them, a shape that is not understood stops nothing else.
async fn read(storage: &Storage) -> Result<Kept, DbError> {
    let keys: BTreeSet<&str> = takeover::KEYS.into_iter().collect();
    let found = storage.get_multiple(keys.into_iter().collect()).await?;
    let value = |key: &str| {
        let text = js_sys::JSON::stringify(&found.get(&key.into())).ok()?;
        serde_json::from_str(&text.as_string()?).ok()
    };
    Ok(Kept::parse(value))
}

//! The ledger: the numbered record of every revocation and every lift, in D1, and which agent a token belongs to
//! (docs/design.md §3.2).
//!
//! - **Every write is idempotent.** The same event, however often and in whatever order it comes, leaves one row for
//!   each thing that it revokes. Of two expiries of a token the later one stays. What an operator lifted, the same
//!   event does not revoke again.
//! - **The registry's revocation outweighs the operator's.** If the registry also revokes what an operator revoked,
//!   the row's source changes from operator to registry, whichever came first. Lifting it then needs `force`
//!   (docs/wire.md §10.3).
//! - **A row that gets a later expiry gets a new number.** Readers of the feed follow the numbers, and may drop a
//!   token when it expires. It is still one row, and whoever has read it reads it again. A repeated event changes
//!   nothing, and neither does an expiry later than any token can live. D1 has one writer at a time, so a row that
//!   can be read is never followed by one with a lower number.
//! - **A revocation that names only a token is not lost** between "nobody has seen this token" and its first
//!   admission. An object writes the token's row and reads the ledger in one transaction (`first_sight`). Whoever
//!   writes such a revocation looks for the token's row again afterwards (`revocation::apply`). Whichever comes
//!   first, one of the two sees the other.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use super::{pairs, takeover};
use crate::app::App;
use crate::core::admission::overlay::REISSUED;
use crate::core::admission::{LedgerAnswer, RecordedPair};
pub use crate::core::ledger::Entry;
use crate::core::ledger::{named, statements};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;

pub mod feed;
pub mod lift;
pub mod reconciliation;

const AGENTS_OF: &str = "
SELECT jti, agent_did FROM agent_tokens WHERE jti IN (SELECT value FROM json_each(?1))";

/// What the ledger says about an agent and some tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the agent is revoked, or was and is no longer; none if the ledger does not have it.
    pub agent: Option<bool>,
    /// The same for each token that the ledger has, and until when that is kept, Unix milliseconds.
    pub tokens: BTreeMap<Ulid, (bool, u64)>,
}

/// What a record found and left.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The ledger's highest number before that.
    pub latest_before: u64,
    /// Of what was named, what was ever lifted: there the overlay may say something else than the ledger.
    pub lifted_agents: Vec<AgentDid>,
    /// Likewise.
    pub lifted_tokens: Vec<Ulid>,
    /// When the owners of the agents whose sessions were named last ended these, Unix milliseconds.
    pub sessions_ended: Vec<(AgentDid, u64)>,
    /// Whose the tokens are that were named, of those that were ever shown here.
    pub owners: Vec<(Ulid, AgentDid)>,
}

/// What the record says at a first sight.
#[derive(Debug, Default)]
pub struct FirstSight {
    pub ledger: LedgerAnswer,
    /// All peers of the agent, where they were asked for.
    pub peers: Option<Vec<(AgentDid, RecordedPair)>>,
    /// What an earlier proxy kept is not all in the record yet: nothing of this may be believed to be missing.
    pub is_before_takeover: bool,
}

/// For the first sight of a token: records which agent it belongs to, and reads what the ledger says about both.
/// Without a token, it reads what the ledger says about the agent.
///
/// # Errors
/// D1 gave no answer in time.
pub async fn first_sight(
    app: &App,
    agent: &AgentDid,
    token: Option<(Ulid, u64)>,
    with_peers: bool,
) -> Result<FirstSight, DbError> {
    #[derive(Deserialize)]
    struct Row {
        kind: String,
        reason: Option<String>,
        expires_at_ms: Option<f64>,
    }

    let mut statements = Vec::with_capacity(4);
    if let Some((jti, expires_at_ms)) = token {
        let values = [
            text(&jti.to_string()),
            text(agent.as_str()),
            number(expires_at_ms),
        ];
        let [jti, agent, expires_at] = values.clone();
        statements.push(Sql::new(statements::REMEMBER_TOKEN, values));
        statements.push(Sql::new(statements::CORRECT_OWNER, [jti.clone(), agent.clone()]));
        let values = [jti, agent, expires_at, number(app.now_ms())];
        statements.push(Sql::new(statements::CORRECT_EXPIRY, values));
    }
    let jti = token.map(|(jti, _)| jti.to_string());
    statements.push(Sql::new(
        statements::ACTIVE,
        [text(agent.as_str()), optional_text(jti.as_deref())],
    ));
    let last = statements.len() - 1;
    if with_peers {
        statements.push(Sql::new(pairs::PEERS, [text(agent.as_str())]));
        statements.push(Sql::new(takeover::FINISHED, []));
    }
    let results = batch(app, app.config.trust.timeout_ms, statements).await?;
    let mut answer = LedgerAnswer::default();
    for row in d1::rows::<Row>(&results, last)? {
        match row.kind.as_str() {
            "agent" => answer.agent_revoked = true,
            "lifted" => answer.token_lifted = true,
            "session" => {
                let at_ms = row.expires_at_ms.map(|at_ms| at_ms as u64);
                answer.session_ended_at_ms = answer.session_ended_at_ms.max(at_ms);
            }
            _ => {
                answer.token_revoked_until_ms = Some(kept_until_ms(row.expires_at_ms));
                answer.token_reissued = row.reason.as_deref() == Some(REISSUED);
            }
        }
    }
    answer.token_lifted &= answer.token_revoked_until_ms.is_none();
    if !with_peers {
        return Ok(FirstSight {
            ledger: answer,
            ..FirstSight::default()
        });
    }
    Ok(FirstSight {
        ledger: answer,
        peers: Some(pairs::peers_of(&results, last + 1)?),
        is_before_takeover: !takeover::is_finished(&results, last + 2)?,
    })
}

/// Writes what was revoked by all of these, in one transaction.
///
/// # Errors
/// D1 gave no answer: write it again.
pub async fn record(app: &App, entries: &[Entry<'_>]) -> Result<Recorded, DbError> {
    #[derive(Deserialize)]
    struct Lifted {
        kind: String,
        subject: String,
    }

    #[derive(Deserialize)]
    struct Session {
        agent_did: String,
        at_ms: f64,
    }

    let Some(named) = named(entries) else {
        return Ok(Recorded::default());
    };
    let (named, now) = (text(&named), number(app.now_ms()));
    let mut statements = vec![Sql::new(feed::LATEST, [])];
    for write in statements::RECORD {
        statements.push(Sql::new(write, [named.clone(), now.clone()]));
    }
    let lifted_at = statements.len();
    statements.push(Sql::new(statements::EVER_LIFTED, [named.clone()]));
    statements.push(Sql::new(statements::OWNERS, [named.clone()]));
    statements.push(Sql::new(statements::SESSIONS_ENDED, [named]));
    let results = batch(app, app.config.trust.write_timeout_ms, statements).await?;
    let mut recorded = Recorded {
        latest_before: feed::latest_of(&results, 0)?,
        owners: owners_of(d1::rows(&results, lifted_at + 1)?),
        ..Recorded::default()
    };
    for row in d1::rows::<Lifted>(&results, lifted_at)? {
        match row.kind.as_str() {
            "agent" => recorded.lifted_agents.extend(AgentDid::parse(&row.subject)),
            _ => recorded.lifted_tokens.extend(Ulid::parse(&row.subject)),
        }
    }
    for row in d1::rows::<Session>(&results, lifted_at + 2)? {
        let agent = AgentDid::parse(&row.agent_did).ok();
        recorded
            .sessions_ended
            .extend(agent.map(|agent| (agent, row.at_ms as u64)));
    }
    Ok(recorded)
}

/// What the ledger says about an agent, if one is given, and about tokens.
///
/// # Errors
/// D1 gave no answer.
pub async fn standing(app: &App, agent: Option<&AgentDid>, jtis: &[Ulid]) -> Result<Standing, DbError> {
    let sql = standing_sql(agent.map(AgentDid::as_str), jtis)?;
    query(app, app.config.trust.write_timeout_ms, sql)
        .await
        .map(standing_of)
}

/// Which agents these tokens belong to, of those that were ever admitted here.
///
/// # Errors
/// D1 gave no answer.
pub async fn agents_of(app: &App, jtis: &[Ulid]) -> Result<Vec<(Ulid, AgentDid)>, DbError> {
    if jtis.is_empty() {
        return Ok(Vec::new());
    }
    let sql = Sql::new(AGENTS_OF, [text(&json_of(jtis)?)]);
    query(app, app.config.trust.write_timeout_ms, sql)
        .await
        .map(owners_of)
}

#[derive(Deserialize)]
struct OwnerRow {
    jti: String,
    agent_did: String,
}

/// An owner that this version cannot read has no object that it could tell; the rest of the order must not fail for it.
fn owners_of(rows: Vec<OwnerRow>) -> Vec<(Ulid, AgentDid)> {
    let owner = |row: OwnerRow| Some((Ulid::parse(&row.jti).ok()?, AgentDid::parse(&row.agent_did).ok()?));
    rows.into_iter().filter_map(owner).collect()
}

#[derive(Deserialize)]
struct StandingRow {
    jti: Option<Ulid>,
    expires_at_ms: Option<f64>,
    stands: f64,
}

fn standing_sql(agent: Option<&str>, jtis: &[Ulid]) -> Result<Sql<'static>, DbError> {
    Ok(Sql::new(
        statements::STANDING,
        [optional_text(agent), text(&json_of(jtis)?)],
    ))
}

/// A row that is in force outweighs rows that were lifted.
fn standing_of(rows: Vec<StandingRow>) -> Standing {
    let mut standing = Standing::default();
    for row in rows {
        let stands = row.stands != 0.0;
        match row.jti {
            None => standing.agent = Some(standing.agent.unwrap_or(false) || stands),
            Some(jti) => {
                let until_ms = kept_until_ms(row.expires_at_ms);
                let known = standing.tokens.entry(jti).or_insert((stands, until_ms));
                *known = (known.0 || stands, known.1.max(until_ms));
            }
        }
    }
    standing
}

/// A token's row without an expiry is in force for good. We write no such row, and it must not be read as expired.
fn kept_until_ms(expires_at_ms: Option<f64>) -> u64 {
    expires_at_ms.map_or(u64::MAX, |at| at as u64)
}

fn json_of(jtis: &[Ulid]) -> Result<String, DbError> {
    serde_json::to_string(jtis).map_err(|error| DbError::Failed(error.to_string()))
}

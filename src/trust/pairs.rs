//! Pairs in D1, and telling the two agents' objects what became of them.
//!
//! D1 is the record and each agent's object has the copy that decides. A pair is made in the record first, as a part of
//! confirming a ticket (`tickets`); then both objects are told to read it (`tell`). A row of which the object is not
//! known to have been told is marked, and the scheduled run tells it again (`tell_untold`). A pair ends in the object of
//! the agent that ends it first; `settle` then takes the end to the record, to the other object and to both sessions,
//! and is repeated by that object's alarm until all of them have it. Should that object lose its storage meanwhile, the
//! record knows whom it has to tell (`ended_pairs`, told by the scheduled run), and the other object whether the record
//! has been told.

use futures_util::{StreamExt as _, future, stream};
use serde::Deserialize;
use serde_json::json;
use worker::D1Result;

use super::client;
use super::d1::{self, DbError, Sql, batch, number, query, text};
use crate::app::App;
use crate::core::admission::{EndedPair, Generation, PairId, RecordedPair};
use crate::core::relay_queue::calls::{RelayCall, RelayRequest};
use crate::protocol::did::AgentDid;

/// An agent's rows.
pub(super) const PEERS: &str = "SELECT peer_did, pair_id, paired_at_ms FROM pairs WHERE agent_did = ?1";

const SOME_PEERS: &str =
    "SELECT peer_did, pair_id, paired_at_ms FROM pairs WHERE agent_did = ?1 ORDER BY peer_did LIMIT ?2";

const PAIR: &str = "SELECT peer_did, pair_id, paired_at_ms FROM pairs WHERE agent_did = ?1 AND peer_did = ?2";

/// The pair of this id, and every one of the two that was made until then (`?5`). Rows from before pairs had ids have none;
/// both of such a pair go together.
macro_rules! of_this_end {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "WHERE ((agent_did = ?1 AND peer_did = ?2) OR (agent_did = ?2 AND peer_did = ?1))
  AND (COALESCE(pair_id, ?4) = ?3 OR paired_at_ms <= ?5)
",
            $after
        )
    };
}

/// Only what the record had: an end that is told again has been told. The agent that ended the pair is told as well, by the
/// scheduled run: its object may have lost its storage, and have read the pair from the record just before.
const END_UNTOLD: &str = of_this_end!(
    "INSERT INTO ended_pairs (agent_did, peer_did, pair_id, untold_since_ms)
SELECT agent_did, peer_did, COALESCE(pair_id, ?4), ?6 FROM pairs ",
    "ON CONFLICT DO NOTHING"
);

const END: &str = of_this_end!("DELETE FROM pairs ", "RETURNING pair_id");

const END_TOLD: &str = "DELETE FROM ended_pairs WHERE agent_did = ?1 AND peer_did = ?2 AND pair_id = ?3";

const ENDS_UNTOLD: &str = "
SELECT agent_did, peer_did, pair_id FROM ended_pairs
WHERE untold_since_ms < ?1 ORDER BY untold_since_ms LIMIT ?2";

const END_STILL_UNTOLD: &str = "
UPDATE ended_pairs SET untold_since_ms = ?4 WHERE agent_did = ?1 AND peer_did = ?2 AND pair_id = ?3";

const TOLD: &str = "
UPDATE pairs SET untold_since_ms = NULL WHERE agent_did = ?1 AND peer_did = ?2 AND untold_since_ms IS NOT NULL
  AND COALESCE(pair_id, ?4) = ?3";

const UNTOLD: &str = "
SELECT agent_did, peer_did, pair_id FROM pairs
WHERE untold_since_ms < ?1 ORDER BY untold_since_ms LIMIT ?2";

/// What could not be told goes to the end of the line, so that it holds up nothing else.
const STILL_UNTOLD: &str = "
UPDATE pairs SET untold_since_ms = ?3 WHERE agent_did = ?1 AND peer_did = ?2 AND untold_since_ms IS NOT NULL";

/// A confirmation is given so long to tell both objects itself.
const GRACE_MS: u64 = 10_000;
/// Rows of one run, and how many of them at the same time.
const RUN_ROWS: u64 = 200;
const AT_ONCE: usize = 6;

#[derive(Deserialize)]
struct PeerRow {
    peer_did: String,
    pair_id: Option<String>,
    paired_at_ms: f64,
}

impl PeerRow {
    /// A row that this version does not understand is left alone.
    fn peer(self) -> Option<(AgentDid, RecordedPair)> {
        let pair = RecordedPair {
            id: id_of(self.pair_id.as_deref())?,
            made_at_ms: self.paired_at_ms as u64,
        };
        Some((AgentDid::parse(&self.peer_did).ok()?, pair))
    }
}

fn id_of(text: Option<&str>) -> Option<PairId> {
    text.map_or(Some(PairId::unnumbered()), |text| PairId::parse(text).ok())
}

/// The peers of an agent, from the n-th result of a batch, which asked `PEERS`.
pub(super) fn peers_of(results: &[D1Result], n: usize) -> Result<Vec<(AgentDid, RecordedPair)>, DbError> {
    let rows: Vec<PeerRow> = d1::rows(results, n)?;
    Ok(rows.into_iter().filter_map(PeerRow::peer).collect())
}

/// The pair of two agents, as the record has it now.
///
/// # Errors
/// D1 gave no answer.
pub(super) async fn read(
    app: &App,
    agent: &AgentDid,
    peer: &AgentDid,
) -> Result<Option<RecordedPair>, DbError> {
    let sql = Sql::new(PAIR, [text(agent.as_str()), text(peer.as_str())]);
    let rows: Vec<PeerRow> = query(app, app.config.trust.timeout_ms, sql).await?;
    Ok(rows.into_iter().find_map(PeerRow::peer).map(|(_, pair)| pair))
}

/// With whom an agent is paired, `limit` at most, for an operator.
///
/// # Errors
/// D1 gave no answer.
pub async fn of_agent(app: &App, agent: &AgentDid, limit: u64) -> Result<Vec<AgentDid>, DbError> {
    let sql = Sql::new(SOME_PEERS, [text(agent.as_str()), number(limit)]);
    let rows: Vec<PeerRow> = query(app, app.config.trust.timeout_ms, sql).await?;
    Ok(rows
        .into_iter()
        .filter_map(PeerRow::peer)
        .map(|(peer, _)| peer)
        .collect())
}

/// Has both objects and both sessions take in a pair that is in the record, at the same time. True where all did; the
/// row of an agent whose object did is marked as told.
pub async fn tell(app: &App, one: &AgentDid, other: &AgentDid, pair_id: &PairId) -> bool {
    let (first, second) = future::join(
        tell_one(app, one, other, pair_id),
        tell_one(app, other, one, pair_id),
    )
    .await;
    first && second
}

async fn tell_one(app: &App, agent: &AgentDid, peer: &AgentDid, pair_id: &PairId) -> bool {
    let told = async {
        let reply = client::pair_changed(app, agent, peer)
            .await
            .map_err(|error| error.to_string())?;
        tell_session(app, agent, reply.generation).await?;
        let values = [
            text(agent.as_str()),
            text(peer.as_str()),
            text(pair_id.as_str()),
            text(PairId::unnumbered().as_str()),
        ];
        batch(
            app,
            app.config.trust.write_timeout_ms,
            vec![Sql::new(TOLD, values)],
        )
        .await
        .map_err(|error| error.to_string())
    };
    let Err(error) = told.await else { return true };
    let fields = json!({ "agentDid": agent.as_str(), "peerAgentDid": peer.as_str(), "error": error });
    app.log.warn("proxy.pair.untold", fields);
    false
}

/// What its frames were allowed is asked anew.
async fn tell_session(app: &App, agent: &AgentDid, generation: Generation) -> Result<(), String> {
    let request = RelayRequest {
        agent: agent.clone(),
        call: RelayCall::GenerationChanged { generation },
    };
    let body = serde_json::to_string(&request).map_err(|error| error.to_string())?;
    let limit_ms = app.config.trust.state_timeout_ms;
    let told = app.call_relay(limit_ms, agent, &body).await;
    told.map(|_| ()).map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct UntoldRow {
    agent_did: String,
    peer_did: String,
    pair_id: Option<String>,
}

impl UntoldRow {
    fn read(&self) -> Option<(AgentDid, AgentDid, PairId)> {
        let agent = AgentDid::parse(&self.agent_did).ok()?;
        let peer = AgentDid::parse(&self.peer_did).ok()?;
        Some((agent, peer, id_of(self.pair_id.as_deref())?))
    }
}

/// Tells what confirmations and removals could not: some rows of each in each run, the longest untold first.
pub async fn tell_untold(app: &App) {
    let pairs = tell_rows(app, UNTOLD, async |row| {
        let told = match row.read() {
            Some((agent, peer, pair_id)) => tell_one(app, &agent, &peer, &pair_id).await,
            None => false,
        };
        let values = [text(&row.agent_did), text(&row.peer_did), number(app.now_ms())];
        (!told).then(|| Sql::new(STILL_UNTOLD, values))
    });
    let ends = tell_rows(app, ENDS_UNTOLD, async |row| {
        let told = match row.read() {
            Some((agent, peer, pair_id)) => {
                let told = tell_end(app, &agent, EndedPair { peer, pair_id }, 0, false).await;
                told.map_err(|error| log_untold(app, &row, &error)).is_ok()
            }
            None => false,
        };
        let id = row.pair_id.as_deref().unwrap_or_default();
        let key = [text(&row.agent_did), text(&row.peer_did), text(id)];
        (!told).then(|| Sql::new(END_STILL_UNTOLD, key.into_iter().chain([number(app.now_ms())])))
    });
    future::join(pairs, ends).await;
}

async fn tell_rows(app: &App, untold: &'static str, tell: impl AsyncFn(UntoldRow) -> Option<Sql<'static>>) {
    let since_ms = app.now_ms().saturating_sub(GRACE_MS);
    let sql = Sql::new(untold, [number(since_ms), number(RUN_ROWS)]);
    let rows: Vec<UntoldRow> = match query(app, app.config.trust.write_timeout_ms, sql).await {
        Ok(rows) => rows,
        Err(error) => {
            let fields = json!({ "error": error.to_string() });
            return app.log.warn("proxy.pair.untold_unknown", fields);
        }
    };
    let tell = &tell;
    stream::iter(rows)
        .for_each_concurrent(AT_ONCE, async |row| {
            if let Some(still_untold) = tell(row).await {
                // Where this fails, the next run finds it where it was.
                let _ = batch(app, app.config.trust.write_timeout_ms, vec![still_untold]).await;
            }
        })
        .await;
}

fn log_untold(app: &App, row: &UntoldRow, error: &str) {
    let fields = json!({ "agentDid": row.agent_did, "peerAgentDid": row.peer_did, "error": error });
    app.log.warn("proxy.pair.untold", fields);
}

/// Tells an agent's object and session that the other side has ended a pair; the record then need not.
async fn tell_end(
    app: &App,
    agent: &AgentDid,
    ended: EndedPair,
    until_ms: u64,
    unrecorded: bool,
) -> Result<(), String> {
    let key = [
        text(agent.as_str()),
        text(ended.peer.as_str()),
        text(ended.pair_id.as_str()),
    ];
    let reply = client::pair_ended(app, agent, ended, until_ms, unrecorded)
        .await
        .map_err(|error| error.to_string())?;
    tell_session(app, agent, reply.generation).await?;
    if unrecorded {
        return Ok(());
    }
    batch(
        app,
        app.config.trust.write_timeout_ms,
        vec![Sql::new(END_TOLD, key)],
    )
    .await
    .map(|_| ())
    .map_err(|error| error.to_string())
}

/// Takes the end of a pair everywhere: to the record, then to the other object, then to both sessions. With it ends every
/// pair of the two that was made until `until_ms`, which the agent's object may never have been told of. `generation` is the
/// agent's since the end. The other object is told even where the record does not answer, because that is what refuses the
/// next message; but the end is settled only once it was told after the record, so that an object that has lost its storage
/// cannot load the pair again.
///
/// # Errors
/// Something did not answer: to be repeated as a whole.
pub async fn settle(
    app: &App,
    agent: &AgentDid,
    ended: &EndedPair,
    until_ms: u64,
    generation: Generation,
) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Row {
        pair_id: Option<String>,
    }

    let until_ms = until_ms.min(app.now_ms());
    let values = || {
        [
            text(agent.as_str()),
            text(ended.peer.as_str()),
            text(ended.pair_id.as_str()),
            text(PairId::unnumbered().as_str()),
            number(until_ms),
        ]
    };
    let untold = values().into_iter().chain([number(app.now_ms())]);
    let statements = vec![Sql::new(END_UNTOLD, untold), Sql::new(END, values())];
    let recorded = batch(app, app.config.trust.write_timeout_ms, statements)
        .await
        .and_then(|results| d1::rows::<Row>(&results, 1));
    let mut ids = vec![ended.pair_id.clone()];
    for row in recorded.iter().flatten() {
        ids.extend(id_of(row.pair_id.as_deref()).filter(|id| !ids.contains(id)));
    }
    let tell_peer = future::join_all(ids.into_iter().map(|pair_id| {
        let of_peer = EndedPair {
            peer: agent.clone(),
            pair_id,
        };
        tell_end(app, &ended.peer, of_peer, until_ms, recorded.is_err())
    }));
    let (peer, own) = future::join(tell_peer, tell_session(app, agent, generation)).await;
    recorded.map_err(|error| error.to_string())?;
    peer.into_iter().collect::<Result<(), String>>()?;
    own
}

//! Who is known and who is paired, from D1 through the isolate's memory (`core::trust`, docs/design.md §4).
//!
//! If D1 does not answer and memory has nothing that may be served, the answer is 403 with `trust_store_unavailable`:
//! it fails closed and tells the sender so.

use std::cell::RefCell;

use serde::Deserialize;
use serde_json::json;

use super::d1::{DbError, Sql, query, text};
use crate::app::App;
use crate::core::admission::Generation;
use crate::core::cache::Ages;
use crate::core::circuit::CircuitSettings;
use crate::core::pipeline::Refusal;
use crate::core::provenance::{Provenance, Source};
use crate::core::trust::{Decision, Question, TrustDesk};
use crate::protocol::did::AgentDid;

/// A probe that did not report this long after its own time limit is lost.
const PROBE_GRACE_MS: u64 = 1_000;

const IS_KNOWN: &str = "SELECT EXISTS (SELECT 1 FROM pairs WHERE agent_did = ?1) AS answer";
const IS_PAIRED: &str =
    "SELECT EXISTS (SELECT 1 FROM pairs WHERE agent_did = ?1 AND peer_did = ?2) AS answer";

thread_local! {
    static DESK: RefCell<Option<TrustDesk>> = const { RefCell::new(None) };
}

/// Step 6 of docs/design.md §2: whether the agent has a pair here. `generation` is the one of its admission.
///
/// # Errors
/// 403 `trust_store_unavailable`.
pub async fn is_known(
    app: &App,
    agent: &AgentDid,
    generation: Generation,
) -> Result<(bool, Provenance), Refusal> {
    let sql = Sql::new(IS_KNOWN, [text(agent.as_str())]);
    ask(app, agent, Question::known(agent, generation), sql).await
}

/// Whether `agent` may write to `peer`: they are paired, or one and the same. `generation` is `agent`'s.
///
/// # Errors
/// 403 `trust_store_unavailable`.
pub async fn is_paired(
    app: &App,
    agent: &AgentDid,
    peer: &AgentDid,
    generation: Generation,
) -> Result<(bool, Provenance), Refusal> {
    if agent == peer {
        return Ok((
            true,
            Provenance {
                source: Source::Fresh,
                age_ms: 0,
            },
        ));
    }
    let sql = Sql::new(IS_PAIRED, [text(agent.as_str()), text(peer.as_str())]);
    ask(app, agent, Question::pair(agent, peer, generation), sql).await
}

async fn ask(
    app: &App,
    agent: &AgentDid,
    question: Question,
    sql: Sql<'_>,
) -> Result<(bool, Provenance), Refusal> {
    let asked_at_ms = app.now_ms();
    let permit = match with_desk(app, |desk| desk.decide(&question, asked_at_ms)) {
        Decision::Serve { answer, provenance } => return Ok(served(app, agent, answer, provenance)),
        Decision::Unavailable { retry_after_ms } => {
            return Err(unavailable(app, agent, "circuit open", retry_after_ms));
        }
        Decision::Ask(permit) => permit,
    };
    match from_d1(app, sql).await {
        Ok(answer) => {
            with_desk(app, |desk| {
                desk.answered(question, permit, asked_at_ms, answer, app.now_ms())
            });
            Ok((
                answer,
                Provenance {
                    source: Source::Durable,
                    age_ms: 0,
                },
            ))
        }
        Err(error) => match with_desk(app, |desk| {
            desk.failed(&question, permit, error.kind(), app.now_ms())
        }) {
            Ok((answer, provenance)) => Ok(served(app, agent, answer, provenance)),
            Err(retry_after_ms) => Err(unavailable(app, agent, &error.to_string(), retry_after_ms)),
        },
    }
}

async fn from_d1(app: &App, sql: Sql<'_>) -> Result<bool, DbError> {
    #[derive(Deserialize)]
    struct Row {
        answer: f64,
    }

    let rows: Vec<Row> = query(app, app.config.trust.timeout_ms, sql).await?;
    rows.first()
        .map(|row| row.answer != 0.0)
        .ok_or_else(|| DbError::Failed("no row".into()))
}

fn served(app: &App, agent: &AgentDid, answer: bool, provenance: Provenance) -> (bool, Provenance) {
    if provenance.source == Source::Stale {
        let fields = json!({ "agentDid": agent.as_str(), "ageMs": provenance.age_ms });
        app.log.warn("proxy.trust_store.stale", fields);
    }
    (answer, provenance)
}

fn unavailable(app: &App, agent: &AgentDid, error: &str, retry_after_ms: u64) -> Refusal {
    app.log.warn(
        "proxy.trust_store.unavailable",
        json!({ "agentDid": agent.as_str(), "error": error }),
    );
    Refusal::TrustUnavailable {
        retry_after_s: retry_after_ms.div_ceil(1000).max(1),
    }
}

fn with_desk<R>(app: &App, act: impl FnOnce(&mut TrustDesk) -> R) -> R {
    DESK.with_borrow_mut(|desk| {
        let desk = desk.get_or_insert_with(|| new_desk(app));
        let result = act(desk);
        for change in desk.take_transitions() {
            let fields = json!({
                "from": change.from.as_str(),
                "to": change.to.as_str(),
                "reason": change.reason.as_str(),
                "failures": change.failures,
                "refused": change.refused,
                "pauseMs": change.pause_ms,
                "lastFailure": change.last_failure.map(|kind| kind.as_str()),
            });
            app.log.warn("proxy.trust_store.circuit", fields);
        }
        result
    })
}

fn new_desk(app: &App) -> TrustDesk {
    let trust = &app.config.trust;
    let figures = &app.config.registry.circuit;
    let circuit = CircuitSettings {
        failures: figures.failures,
        window_ms: figures.window_ms,
        pause_ms: figures.open_ms,
        max_pause_ms: figures.open_max_ms,
        probe_timeout_ms: trust.timeout_ms.saturating_add(PROBE_GRACE_MS),
    };
    TrustDesk::new(
        app.config.cache_max_entries,
        Ages {
            fresh_ms: trust.fresh_ms,
            stale_ms: trust.stale_ms,
        },
        circuit,
    )
}

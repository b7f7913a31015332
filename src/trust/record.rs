//! The look into the record that an agent's object takes at a first sight, and when it is not taken.
//!
//! The database has a circuit of its own in each isolate, so that one that hangs makes one request at a time wait and
//! not all of them. A failure is one that lasts: an error is answered by asking again within half a second.

use std::cell::{Cell, RefCell};

use serde_json::json;

use super::client;
use super::d1::DbError;
use super::ledger::{self, FirstSight};
use crate::app::App;
use crate::clock;
use crate::core::circuit::{Circuit, CircuitSettings, Outcome};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;

/// Pauses before a database that failed is asked again.
const AGAIN_AFTER_MS: [u64; 2] = [100, 400];
/// How long a database that does not answer is left alone.
const PAUSE_MS: u64 = 1_000;
/// A probe that did not report this long after its own time limits is lost.
const PROBE_GRACE_MS: u64 = 30_000;

thread_local! {
    static CIRCUIT: RefCell<Option<Circuit>> = const { RefCell::new(None) };
}

/// Asks about an agent and a token as `ledger::first_sight` does, once what an earlier proxy kept is in the record, and
/// again where `changes` moves meanwhile.
///
/// # Errors
/// No answer, or the database is left alone.
pub(super) async fn ask(
    app: &App,
    agent: &AgentDid,
    token: Option<(Ulid, u64)>,
    with_peers: bool,
    changes: &Cell<u64>,
) -> Result<FirstSight, DbError> {
    let permit = with_circuit(app, |circuit| circuit.ask(app.now_ms()))
        .map_err(|_| DbError::Failed("the circuit is open".into()))?;
    let answer = ask_until_answered(app, agent, token, with_peers, changes).await;
    let outcome = match &answer {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure {
            kind: error.kind(),
            retry_after_ms: None,
        },
    };
    with_circuit(app, |circuit| circuit.report(permit, outcome, app.now_ms()));
    answer
}

async fn ask_until_answered(
    app: &App,
    agent: &AgentDid,
    token: Option<(Ulid, u64)>,
    with_peers: bool,
    changes: &Cell<u64>,
) -> Result<FirstSight, DbError> {
    let mut pauses = AGAIN_AFTER_MS.into_iter();
    loop {
        let before = changes.get();
        match ledger::first_sight(app, agent, token, with_peers).await {
            Ok(sight) if sight.is_before_takeover => client::take_over(app)
                .await
                .map_err(|error| DbError::Failed(error.to_string()))?,
            Ok(_) if changes.get() != before => {}
            Ok(sight) => return Ok(sight),
            Err(DbError::TimedOut) => return Err(DbError::TimedOut),
            Err(error) => match pauses.next() {
                Some(pause_ms) => clock::sleep_ms(pause_ms).await,
                None => return Err(error),
            },
        }
    }
}

fn with_circuit<R>(app: &App, act: impl FnOnce(&mut Circuit) -> R) -> R {
    CIRCUIT.with_borrow_mut(|circuit| {
        let circuit = circuit.get_or_insert_with(|| {
            Circuit::new(CircuitSettings {
                failures: 1,
                window_ms: PAUSE_MS,
                pause_ms: PAUSE_MS,
                max_pause_ms: PAUSE_MS,
                probe_timeout_ms: app.config.trust.timeout_ms.saturating_add(PROBE_GRACE_MS),
            })
        });
        let result = act(circuit);
        for change in circuit.take_transitions() {
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

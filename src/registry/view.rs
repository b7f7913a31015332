//! What this isolate holds of the registry, for an operator: how old its copies are, and which circuits are open. Another
//! isolate may see it otherwise.

use serde::Serialize;

use super::state;
use crate::app::App;
use crate::core::circuit::Phase;

/// See the module.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Signing keys that are active, and how old the answer is that they are from; none where there is none.
    pub keys: usize,
    pub keys_age_ms: Option<u64>,
    /// `never`, `fresh`, `stale` or `dead`.
    pub crl: &'static str,
    pub crl_age_ms: Option<u64>,
    /// The circuits that are not closed.
    pub circuits: Vec<CircuitView>,
}

/// A circuit that is not closed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitView {
    pub dependency: &'static str,
    /// Of the dependencies that are asked about callers.
    pub lane: Option<&'static str>,
    /// `open` or `half-open`.
    pub phase: &'static str,
}

/// How it stands now. Asks nobody.
pub fn view(app: &App) -> View {
    let now_ms = app.now_ms();
    state::with(app, |desks| {
        let held = desks.keys.held();
        let keys = held.map_or(0, |(keys, _)| keys.active_kids().count());
        let keys_age_ms = held.map(|(_, as_of_ms)| now_ms.saturating_sub(as_of_ms));
        let circuits = desks
            .circuits()
            .filter(|(_, _, circuit)| circuit.phase() != Phase::Closed)
            .map(|(dependency, lane, circuit)| CircuitView {
                dependency: dependency.as_str(),
                lane: lane.map(|lane| lane.as_str()),
                phase: circuit.phase().as_str(),
            });
        let circuits = circuits.collect();
        View {
            keys,
            keys_age_ms,
            crl: desks.crl.standing(now_ms).as_str(),
            crl_age_ms: desks.crl.age_ms(now_ms),
            circuits,
        }
    })
}

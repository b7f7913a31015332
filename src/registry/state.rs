//! The isolate's state for the registry's dependencies, and the log lines about it.
//!
//! `with` is the only way to this state. It lends it for one step that does not wait, and then writes one
//! `proxy.registry.circuit` line for every transition that the step caused.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};

use super::Dependency;
use crate::app::App;
use crate::config::Config;
use crate::core::cache::Ages;
use crate::core::circuit::{Circuit, CircuitSettings, Phase, Transition};
use crate::core::provenance::Provenance;
use crate::core::registry::access::AccessDesk;
use crate::core::registry::confirm::{ConfirmSettings, Desk};
use crate::core::registry::crl::{CrlDesk, CrlSettings};
use crate::core::registry::keys::{KeysDesk, KeysSettings};
use crate::core::registry::lanes::{Lane, Lanes};
use crate::log::Level;
use crate::protocol::crl::Crl;
use crate::protocol::keyset::KeySet;

/// A line that could come with every request comes this often, with how many were left out since the last.
const WRITE_EVERY_MS: u64 = 10_000;

thread_local! {
    static DESKS: RefCell<Option<Desks>> = const { RefCell::new(None) };
}

/// What an isolate knows of the registry.
pub struct Desks {
    pub keys: KeysDesk<Rc<KeySet>>,
    pub crl: CrlDesk<Rc<Crl>>,
    /// The `ETag` of the list held, where the registry gave one.
    pub crl_tag: Option<String>,
    /// Agent access.
    pub access: AccessDesk,
    /// Who owns an agent: never remembered.
    pub ownership: Lanes,
    /// Group membership.
    pub membership: Desk,
    lines: Vec<Line>,
}

/// A kind of line that is bounded; there are a handful.
struct Line {
    message: &'static str,
    dependency: Dependency,
    last_ms: u64,
    left_out: u64,
}

/// Lends the desks for one step. `step` must not call `with`.
pub fn with<R>(app: &App, step: impl FnOnce(&mut Desks) -> R) -> R {
    let (result, transitions) = DESKS.with_borrow_mut(|desks| {
        let desks = desks.get_or_insert_with(|| Desks::new(&app.config));
        let result = step(desks);
        (result, desks.take_transitions())
    });
    for (dependency, lane, transition) in transitions {
        log_transition(app, dependency, lane, transition);
    }
    result
}

/// A warning where what was served is past its fresh time; bounded, as it may come with every request of an outage.
/// What each single request rested on is in its `proxy.auth.verified` line.
pub fn warn_if_stale(app: &App, dependency: Dependency, provenance: Provenance, fresh_ms: u64) {
    if provenance.age_ms >= fresh_ms {
        let detail = json!({ "source": provenance.source, "ageMs": provenance.age_ms });
        warn(app, "proxy.registry.stale_served", dependency, detail);
    }
}

/// A bounded warning; `detail` is that of the one that is written.
pub fn warn(app: &App, message: &'static str, dependency: Dependency, detail: Value) {
    bounded(app, Level::Warn, message, dependency, detail);
}

/// A bounded error line; as `warn`.
pub fn error(app: &App, message: &'static str, dependency: Dependency, detail: Value) {
    bounded(app, Level::Error, message, dependency, detail);
}

fn bounded(app: &App, level: Level, message: &'static str, dependency: Dependency, detail: Value) {
    let now_ms = app.now_ms();
    let Some(suppressed) = with(app, |desks| desks.may_write(message, dependency, now_ms)) else {
        return;
    };
    let fields = json!({ "dependency": dependency.as_str(), "detail": detail, "suppressed": suppressed });
    match level {
        Level::Error => app.log.error(message, fields),
        Level::Warn | Level::Info => app.log.warn(message, fields),
    }
}

impl Desks {
    fn new(config: &Config) -> Self {
        let registry = &config.registry;
        // Longer than any call may take: a probe older than this was lost with its request.
        let lost_after_ms = registry.budget_ms.saturating_mul(2);
        let circuit = CircuitSettings {
            failures: registry.circuit.failures,
            window_ms: registry.circuit.window_ms,
            pause_ms: registry.circuit.open_ms,
            max_pause_ms: registry.circuit.open_max_ms,
            probe_timeout_ms: lost_after_ms,
        };
        Self {
            keys: KeysDesk::new(KeysSettings {
                ages: Ages {
                    fresh_ms: registry.keys_fresh_ms,
                    stale_ms: registry.keys_stale_ms,
                },
                cooldown_ms: registry.keys_cooldown_ms,
                claim_ms: registry.refresh_claim_ms,
                circuit,
            }),
            crl: CrlDesk::new(CrlSettings {
                ages: Ages {
                    fresh_ms: config.crl.refresh_interval_ms,
                    stale_ms: config.crl.max_age_ms,
                },
                claim_ms: registry.refresh_claim_ms,
                patience_ms: registry.budget_ms / 2,
                circuit,
            }),
            crl_tag: None,
            access: AccessDesk::new(ConfirmSettings {
                ages: Ages {
                    fresh_ms: registry.access_fresh_ms,
                    stale_ms: registry.access_stale_ms,
                },
                refused_ms: registry.access_refused_ms,
                max_entries: config.cache_max_entries,
                claim_ms: registry.refresh_claim_ms,
                circuit,
            }),
            ownership: Lanes::new(circuit),
            membership: Desk::new(ConfirmSettings {
                ages: Ages {
                    fresh_ms: registry.membership_fresh_ms,
                    stale_ms: registry.membership_stale_ms,
                },
                refused_ms: registry.membership_refused_ms,
                max_entries: config.cache_max_entries,
                claim_ms: registry.refresh_claim_ms,
                circuit,
            }),
            lines: Vec::new(),
        }
    }

    fn take_transitions(&mut self) -> Vec<(Dependency, Option<Lane>, Transition)> {
        let mut transitions = Vec::new();
        for (dependency, lane, circuit) in self.circuits() {
            let of_circuit = circuit.take_transitions();
            transitions.extend(of_circuit.map(|transition| (dependency, lane, transition)));
        }
        transitions
    }

    /// Every circuit, with the lane that it is of where there is one.
    pub fn circuits(&mut self) -> impl Iterator<Item = (Dependency, Option<Lane>, &mut Circuit)> {
        let lanes = [
            (Dependency::Access, self.access.lanes()),
            (Dependency::Ownership, &mut self.ownership),
            (Dependency::Membership, self.membership.lanes()),
        ];
        let in_lanes = lanes.into_iter().flat_map(|(dependency, lanes)| {
            lanes
                .circuits()
                .map(|(lane, circuit)| (dependency, Some(lane), circuit))
        });
        let circuits: [(Dependency, Option<Lane>, &mut Circuit); 2] = [
            (Dependency::Keys, None, self.keys.circuit()),
            (Dependency::Crl, None, self.crl.circuit()),
        ];
        circuits.into_iter().chain(in_lanes)
    }

    /// If such a line may be written now: how many were left out since the last.
    fn may_write(&mut self, message: &'static str, dependency: Dependency, now_ms: u64) -> Option<u64> {
        match self
            .lines
            .iter_mut()
            .find(|line| line.message == message && line.dependency == dependency)
        {
            Some(line) if now_ms.saturating_sub(line.last_ms) < WRITE_EVERY_MS => {
                line.left_out += 1;
                None
            }
            Some(line) => {
                line.last_ms = now_ms;
                Some(std::mem::take(&mut line.left_out))
            }
            None => {
                self.lines.push(Line {
                    message,
                    dependency,
                    last_ms: now_ms,
                    left_out: 0,
                });
                Some(0)
            }
        }
    }
}

fn log_transition(app: &App, dependency: Dependency, lane: Option<Lane>, transition: Transition) {
    let fields = json!({
        "dependency": dependency.as_str(),
        "lane": lane.map(Lane::as_str),
        "from": transition.from.as_str(),
        "to": transition.to.as_str(),
        "reason": transition.reason.as_str(),
        "failures": transition.failures,
        "refused": transition.refused,
        "pauseMs": transition.pause_ms,
        "lastFailure": transition.last_failure.map(|kind| kind.as_str()),
    });
    match transition.to {
        Phase::Open => app.log.warn("proxy.registry.circuit", fields),
        Phase::HalfOpen | Phase::Closed => app.log.info("proxy.registry.circuit", fields),
    }
}

//! What one simulated isolate knows: the real caches and circuits with the real figures.

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::*;
use super::world::{ACCESS_STALE_MS, BUDGET_MS, MINUTE_MS};
use crate::cache::Ages;
use crate::circuit::CircuitSettings;
use crate::registry::access::{AccessDesk, AccessSettings};
use crate::registry::crl::{CrlDesk, CrlSettings};
use crate::registry::keys::{KeysDesk, KeysSettings};
use crate::trust::TrustDesk;

pub const D1_TIMEOUT_MS: u64 = 2_000;
const CLAIM_MS: u64 = 10_000;
const TRUST_STALE_MS: u64 = 15 * MINUTE_MS;

/// What one isolate knows. Keys are named by their version.
pub struct Isolate {
    pub name: u32,
    pub keys: RefCell<KeysDesk<usize>>,
    pub crl: RefCell<CrlDesk<Rc<Vec<Ulid>>>>,
    pub access: RefCell<AccessDesk>,
    pub trust: RefCell<TrustDesk>,
    /// Agent and how often its pairs had changed: when D1 was asked.
    pub pairs_known: RefCell<HashMap<(usize, u32), u64>>,
}

impl Isolate {
    pub fn new(name: u32) -> Self {
        let circuit = CircuitSettings::default();
        let ages = |fresh_ms, stale_ms| Ages { fresh_ms, stale_ms };
        let access = AccessSettings {
            ages: ages(45_000, ACCESS_STALE_MS),
            refused_ms: 5_000,
            refused_max_ms: 30_000,
            max_entries: 100,
            max_unknown_tokens: 5,
            claim_ms: CLAIM_MS,
            circuit,
        };
        let keys = KeysSettings {
            ages: ages(60 * MINUTE_MS, 24 * 60 * MINUTE_MS),
            cooldown_ms: 30_000,
            claim_ms: CLAIM_MS,
            circuit,
        };
        let crl = CrlSettings {
            ages: ages(15 * MINUTE_MS, 60 * MINUTE_MS),
            claim_ms: CLAIM_MS,
            patience_ms: BUDGET_MS / 2,
            circuit,
        };
        let trust_circuit = CircuitSettings {
            probe_timeout_ms: D1_TIMEOUT_MS + 1_000,
            ..circuit
        };
        Self {
            name,
            keys: RefCell::new(KeysDesk::new(keys)),
            crl: RefCell::new(CrlDesk::new(crl)),
            access: RefCell::new(AccessDesk::new(access)),
            trust: RefCell::new(TrustDesk::new(100, ages(90_000, TRUST_STALE_MS), trust_circuit)),
            pairs_known: RefCell::default(),
        }
    }

    pub fn knows_pairs(&self, agent: usize, pairs: u32, now_ms: u64) -> bool {
        let asked = self.pairs_known.borrow().get(&(agent, pairs)).copied();
        asked.is_some_and(|at_ms| now_ms - at_ms < TRUST_STALE_MS)
    }
}

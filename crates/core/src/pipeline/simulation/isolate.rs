//! What one simulated isolate knows: the real caches and circuits with the real figures.

use std::cell::RefCell;

use super::super::*;
use super::world::{ACCESS_STALE_MS, BUDGET_MS, MINUTE_MS};
use crate::cache::Ages;
use crate::circuit::CircuitSettings;
use crate::registry::access::AccessDesk;
use crate::registry::confirm::ConfirmSettings;
use crate::registry::crl::{CrlDesk, CrlSettings};
use crate::registry::keys::{KeysDesk, KeysSettings};

pub const D1_TIMEOUT_MS: u64 = 2_000;
const CLAIM_MS: u64 = 10_000;

/// What one isolate knows. Keys are named by their version.
pub struct Isolate {
    pub name: u32,
    pub keys: RefCell<KeysDesk<usize>>,
    pub crl: RefCell<CrlDesk<Rc<Vec<Ulid>>>>,
    pub access: RefCell<AccessDesk>,
}

impl Isolate {
    pub fn new(name: u32) -> Self {
        let circuit = CircuitSettings::default();
        let ages = |fresh_ms, stale_ms| Ages { fresh_ms, stale_ms };
        let access = ConfirmSettings {
            ages: ages(45_000, ACCESS_STALE_MS),
            refused_ms: 5_000,
            max_entries: 100,
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
        Self {
            name,
            keys: RefCell::new(KeysDesk::new(keys)),
            crl: RefCell::new(CrlDesk::new(crl)),
            access: RefCell::new(AccessDesk::new(access)),
        }
    }
}

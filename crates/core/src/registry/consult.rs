//! First the cache, then the circuit: what a caller that needs one answer does now.
//!
//! A cached answer that may be served is served without asking a circuit. If it is stale it is also refreshed, once
//! at a time, if the circuit permits. A caller waits for a call only where nothing may be served, and only if the
//! circuit permits it. So a cached caller never waits for the registry.

use std::hash::Hash;

use crate::cache::{Cache, Look, Refresh};
use crate::circuit::{Circuit, Permit};
use crate::provenance::{Provenance, Source};

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision<V> {
    Serve {
        value: V,
        /// `Fresh` or `Stale`, and its age.
        provenance: Provenance,
        /// Refresh it in the background under this permit.
        refresh: Option<Permit>,
    },
    /// Make the call and wait for it.
    Ask(Permit),
    /// There is nothing to serve, and no call may be made.
    Unavailable {
        /// When it is worth asking again.
        retry_after_ms: u64,
    },
}

/// For one key of a cache.
pub fn consult<K: Hash + Eq, V: Clone>(
    cache: &mut Cache<K, V>,
    circuit: &mut Circuit,
    key: &K,
    now_ms: u64,
) -> Decision<V> {
    decide(cache.look(key, now_ms), circuit, now_ms)
}

/// For a look that was already taken.
pub fn decide<V>(look: Look<V>, circuit: &mut Circuit, now_ms: u64) -> Decision<V> {
    match look {
        Look::Fresh { value, age_ms } => Decision::Serve {
            value,
            provenance: Provenance {
                source: Source::Fresh,
                age_ms,
            },
            refresh: None,
        },
        Look::Stale {
            value,
            age_ms,
            refresh,
        } => {
            let refresh = match refresh {
                Refresh::Yours => circuit.ask(now_ms).ok(),
                Refresh::Claimed => None,
            };
            Decision::Serve {
                value,
                provenance: Provenance {
                    source: Source::Stale,
                    age_ms,
                },
                refresh,
            }
        }
        Look::Fetch => match circuit.ask(now_ms) {
            Ok(permit) => Decision::Ask(permit),
            Err(refused) => Decision::Unavailable {
                retry_after_ms: refused.retry_after_ms,
            },
        },
    }
}

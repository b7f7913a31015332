//! The registry client: five dependencies, each with its own circuits and cache (docs/design.md §4).
//!
//! The decisions are made in `core::registry`, of whose state each isolate has one copy (`state`). The files here ask
//! for a decision, make the call that it permits (`client`), read the answer and hand it back. There is one file for
//! each dependency.
//!
//! * No borrow of that state is held across an `await`.
//! * No request waits for another request's call. A refresh is claimed, runs beside the request that claimed it and
//!   past that request's answer (`wait_until`), and the others serve what they have. A request that needs the result
//!   of another's call looks again by its own timer.
//! * A decision about a caller is stale *only while the registry does not answer*. The request that claimed the
//!   refresh waits `REGISTRY_STALE_WAIT_MS` for the registry's answer, which counts; without one it serves what is
//!   stale.
//! * The calls of a request share one `Budget`. A refresh in the background has its own.

pub mod access;
mod client;
pub mod crl;
mod durable;
pub mod identity;
pub mod keys;
mod state;
mod view;

pub use view::{CircuitView, View, view};

use futures_channel::oneshot;

use crate::app::App;
use crate::clock;
use crate::core::budget::Budget;
use crate::core::pipeline::Refusal;

/// The `Retry-After` when a call failed and the circuit is still closed.
const RETRY_AFTER_FAILURE_MS: u64 = 5_000;

/// A request that may ask after this time waits for it.
const A_MOMENT_MS: u64 = 1_000;

/// Which dependency: the name in log lines and in `details.dependency`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dependency {
    Keys,
    Crl,
    Access,
    Ownership,
    Membership,
}

impl Dependency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "registry_keys",
            Self::Crl => "registry_crl",
            Self::Access => "registry_access",
            Self::Ownership => "registry_ownership",
            Self::Membership => "registry_membership",
        }
    }
}

/// The registry gave no answer, and nothing that is remembered may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unavailable {
    dependency: Dependency,
    retry_after_ms: u64,
}

impl Unavailable {
    /// A call that failed.
    fn failed(dependency: Dependency) -> Self {
        Self {
            dependency,
            retry_after_ms: RETRY_AFTER_FAILURE_MS,
        }
    }

    /// `Retry-After`, whole seconds, at least one.
    fn retry_after_s(self) -> u64 {
        self.retry_after_ms.div_ceil(1000).max(1)
    }
}

impl From<Unavailable> for Refusal {
    fn from(unavailable: Unavailable) -> Self {
        Self::DependencyUnavailable {
            what: unavailable.dependency.as_str(),
            retry_after_s: unavailable.retry_after_s(),
        }
    }
}

/// Waits where the registry may be asked in a moment. False where that takes longer than a request can wait.
async fn in_a_moment(app: &App, budget: &Budget, retry_after_ms: u64) -> bool {
    let waits = retry_after_ms <= A_MOMENT_MS && retry_after_ms < budget.remaining_ms(app.now_ms());
    if waits {
        clock::sleep_ms(retry_after_ms).await;
    }
    waits
}

/// The agent's object cannot be asked, and so the registry must not be.
fn trust_unavailable() -> Refusal {
    Refusal::DependencyUnavailable {
        what: "trust_state",
        retry_after_s: 1,
    }
}

/// What a refresh of this request's own says, if it says it soon enough to be waited for.
async fn word_in_time<T>(app: &App, word: oneshot::Receiver<T>) -> Option<T> {
    clock::within_ms(app.config.registry.stale_wait_ms, word)
        .await?
        .ok()
}

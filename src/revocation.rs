//! The kill switch on Workers: what all sources of a revocation have in common.
//!
//! `apply` revokes something, whoever asks for it. `lift` takes a revocation back. `reconcile` reads the registry's
//! CRL for what the queue has lost. In all three the ledger is the record, the agent's objects are made to agree with
//! it (`settle`), and listeners of the feed are told.

mod apply;
mod lift;
pub mod reconcile;
mod settle;

use worker::Env;

pub use self::apply::{Order, apply, apply_all};
pub use self::lift::{Lifted, lift};
use crate::app::App;
use crate::registry;
use crate::trust;

/// It was not done, or not wholly: every step may be repeated. For the log.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotDone(pub String);

impl From<trust::client::TrustUnavailable> for NotDone {
    fn from(error: trust::client::TrustUnavailable) -> Self {
        Self(error.to_string())
    }
}

impl From<crate::relay::client::RelayError> for NotDone {
    fn from(error: crate::relay::client::RelayError) -> Self {
        Self(error.to_string())
    }
}

impl From<worker::Error> for NotDone {
    fn from(error: worker::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<trust::DbError> for NotDone {
    fn from(error: trust::DbError) -> Self {
        Self(error.to_string())
    }
}

/// The scheduled run, every minute: does what is due, and what an earlier run left.
pub async fn scheduled(env: Env) {
    // Faulty settings answer every request with 500 already; there is nothing to do then.
    let Ok(app) = App::new(env, None) else { return };
    registry::keys::refresh_if_due(&app).await;
    reconcile::run_if_due(&app).await;
    trust::housekeeping(&app).await;
    trust::pairs::tell_untold(&app).await;
}

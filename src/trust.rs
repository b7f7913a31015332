//! Trust on Workers: the agents' `ProxyTrustState` objects, and what D1 keeps of agents, pairs, tickets and
//! revocations.
//!
//! - `object` is an agent's object, `tables` is its SQL, and `client` calls it.
//! - `store` answers who is known and who is paired; `pairs` and `tickets` change that.
//! - `ledger` records revocations and lifts.
//!
//! The decisions are made in `core::admission` and `core::trust`. These files ask and write.

pub mod client;
pub mod d1;
mod housekeeping;
pub mod ledger;
mod object;
pub mod pairs;
pub mod store;
mod tables;
pub mod tickets;

pub use self::d1::DbError;
pub use self::housekeeping::housekeeping;

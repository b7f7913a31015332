//! Trust on Workers: the agents' `ProxyTrustState` objects, and what D1 keeps of agents, pairs, tickets and
//! revocations.
//!
//! - `object` is an agent's object, `tables` and `nonce_tables` are its SQL, and `client` calls it.
//! - `record` is what an object asks D1 at a first sight; `pairs` and `tickets` are the record of pairs, and `takeover`
//!   brings into it what an earlier proxy kept.
//! - `ledger` records revocations and lifts.
//!
//! The decisions are made in `core::admission`. These files ask and write.

pub mod client;
pub mod d1;
mod housekeeping;
pub mod ledger;
mod nonce_tables;
mod object;
pub mod pairs;
mod record;
mod tables;
pub mod takeover;
pub mod tickets;

pub use self::d1::DbError;
pub use self::housekeeping::housekeeping;

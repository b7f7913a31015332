//! Trust on Workers: the agents' `ProxyTrustState` objects, and what D1 keeps of agents, pairs, tickets and revocations.
//!
//! `client` calls an agent's object, `object` is that object, `tables` its SQL. `store` answers who is known and who is
//! paired, `pairs` and `tickets` change it, `ledger` records revocations. What is decided is decided in
//! `core::admission` and `core::trust`; here it is asked and written.

pub mod client;
mod d1;
mod housekeeping;
pub mod ledger;
mod object;
pub mod pairs;
pub mod store;
mod tables;
pub mod tickets;

pub use self::d1::DbError;
pub use self::housekeeping::housekeeping;

//! The relay on Workers: `AgentRelaySession`, one object per agent, and how to call it.
//!
//! `core::relay_queue` decides what goes out and when; here that is asked, written to SQL and sent. `object` is the
//! Durable Object, `session` its one way in (`step`), `deliver`, `drain`, `sockets`, `enqueue` and `receipts` are what
//! can happen to it, `tables` and `receipt_tables` its SQL, `rows` their rows. `protocol` is what may be asked of it,
//! `client` asks.

pub mod client;
mod deliver;
mod drain;
mod enqueue;
mod object;
pub mod protocol;
mod receipt_tables;
mod receipts;
mod rows;
mod session;
mod sockets;
mod tables;

//! The relay on Workers: `AgentRelaySession`, one object per agent, and how to call it.
//!
//! `core::relay_queue` decides what goes out and when; here that is asked, written to SQL and sent. `object` is the
//! Durable Object, `session` its one way in (`step`), `awake` what it holds meanwhile; `deliver`, `drain`, `sockets`,
//! `enqueue` and `receipts` are what can happen to it, and `may_write` says who may write to whom. `tables` and
//! `receipt_tables` are its SQL, `rows` their rows, `takeover` what an earlier proxy left; `open_socket`, `alarm` and `turns` one thing each that it holds.
//! `protocol` is what may be asked of it, `client` asks.

mod alarm;
mod awake;
pub mod client;
mod deliver;
mod drain;
mod enqueue;
mod failure;
mod look;
pub mod may_write;
mod object;
mod open_socket;
pub mod protocol;
mod receipt_tables;
mod receipts;
mod rows;
mod session;
mod sockets;
mod tables;
mod takeover;
mod turns;

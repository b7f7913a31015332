//! The decisions, as state machines over explicit time.
//!
//! Nothing in this crate does I/O, reads a clock or knows of Workers. The time (`now_ms`) and randomness are
//! arguments, and what has to be done is returned as data for a thin shell to do. So a test can live through a
//! ten-minute outage in a microsecond, and can try every interleaving.

pub mod address;
pub mod admin;
pub mod admission;
pub mod backoff;
pub mod budget;
pub mod cache;
pub mod canary;
pub mod circuit;
pub mod consume;
pub mod dead_letter;
pub mod doors;
pub mod feed;
pub mod health;
pub mod ledger;
pub mod listing;
pub mod metrics;
pub mod operator_page;
pub mod pipeline;
pub mod provenance;
pub mod registry;
pub mod relay_queue;
pub mod retry;
pub mod router;
pub mod sign_in;
pub mod takeover;

#[cfg(test)]
mod caps;

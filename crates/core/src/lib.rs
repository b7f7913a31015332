//! The decisions as state machines over explicit time.
//!
//! Nothing here does I/O, reads a clock or knows of Workers: `now_ms` is an
//! argument, randomness is an argument, and what has to be done is returned as
//! data for a thin shell to do. That is why a ten-minute outage takes a
//! microsecond in a test, and every interleaving can be tried.

pub mod address_limit;
pub mod admin;
pub mod admission;
pub mod budget;
pub mod cache;
pub mod circuit;
pub mod consume;
pub mod feed;
pub mod listing;
pub mod pipeline;
pub mod provenance;
pub mod registry;
pub mod relay_queue;
pub mod retry;
pub mod router;
pub mod sign_in;
pub mod trust;

//! What the registry client decides, as state machines (docs/design.md §4).
//!
//! There is one module for each dependency. It holds that dependency's cache and circuit, is told the time and the
//! answers, and says what to do next. The shells in `src/registry` make the calls and do nothing else.

pub mod access;
pub mod answer;
pub mod answers;
pub mod confirm;
pub mod consult;
pub mod crl;
pub mod identity;
pub mod keys;
pub mod lanes;

#[cfg(test)]
mod simulation;

//! The calls to an agent's `AgentRelaySession`: the types of `core::relay_queue::calls`, where native tests pin them.

pub use crate::core::relay_queue::calls::*;

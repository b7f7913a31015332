//! What is said to an agent's `AgentRelaySession`: the types of `core::relay_queue::calls`, where they are pinned by
//! native tests.

pub use crate::core::relay_queue::calls::*;

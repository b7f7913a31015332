//! Admission: what one agent's `ProxyTrustState` decides, as a state machine over its tables.
//!
//! Its promises, and why they hold:
//!
//! - **A captured request is accepted once, ever.** Its nonce is a row that is kept for as long as its timestamp can
//!   be accepted. The row's bucket follows from the timestamp alone, so the same request always looks where it was
//!   written. What was forgotten stays refused, whatever the clock does later (`nonces`).
//! - **Nothing is admitted after its revocation was written here**, not even the retry of a call that was admitted
//!   before, because revocation is checked first.
//! - **A retried call gets the first call's answer**, because the attempt's random id is stored with the nonce.
//! - **Once the record of its pairs is loaded, a miss is a no.** Nothing is looked up because of what a caller names,
//!   and a pair that was ended here never comes back, because its id is kept, and the time of its end for those of the
//!   same two agents that this object was never told of (`machine::pairs`).
//! - **A flood fills nothing**, because a refused request writes no row.
//! - **What the agent can make up costs the registry little**, because what nobody has confirmed is counted here
//!   (`unconfirmed`).
//!
//! `Admission::admit` is one synchronous step, so no other call can come between its reads and its writes. Asking D1
//! is the shell's job, before that step. The types of the object's calls are in `calls`.

pub mod calls;
pub mod generation;
pub mod machine;
pub mod nonces;
pub mod overlay;
pub mod pairs;
pub mod rate;
pub mod refusals;
pub mod skew;
pub mod tables;
pub mod unconfirmed;

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod pair_races;
#[cfg(test)]
mod simulation;

pub use self::calls::{
    AdmitReply, AdmitRequest, Changed, CheckReply, EndPairReply, LiftRequest, MailQuestion, MailReply,
    RevokeReply, RevokeRequest, StoreReply, StoreValidation, TrustCall, Validated, Validations,
};
pub use self::generation::Generation;
pub use self::machine::{Admission, Limits, Unsettled};
pub use self::overlay::{LedgerAnswer, RevokedWhat, TokenRevocation, token_expiry_ms};
pub use self::pairs::{EndedPair, Known, PairId, Paired, PeersReply, RecordedPair};
pub use self::rate::Rate;

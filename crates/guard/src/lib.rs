//! The guard: a sidecar's own check of agents, native and local.
//!
//! [`Guard`] verifies an AIT and its proof of possession, refuses what it has seen, and asks a [`RevocationCache`];
//! [`FeedClient`] keeps that cache equal to a proxy's ledger, and [`KeyClient`] keeps the registry's signing keys. A
//! check makes no request to anybody: both clients run beside it, on threads of their own.
//!
//! What holds, and what does not:
//! - A revocation that the stream brings is in force for the next check. Where the stream is down, polling brings it.
//! - The guard knows how long ago its cache was *confirmed* equal to the ledger, which a push alone does not do. Past a
//!   limit it fails closed or goes on, as it was told; what it knows to be revoked it refuses either way.
//! - A request is accepted once **by this process**. Two sidecars, or one restarted within 600 s, may each accept it
//!   once: what must hold across processes belongs behind the proxy, whose nonces are durable.
//! - A revoked *session* does not make an AIT invalid (docs/design.md §1): the check tells when the agent's session last
//!   ended, for those who keep sessions of their own.
//!
//! Not its job: known agents, agent access, rates, which are the proxy's.

mod cache;
mod client;
mod clock;
mod feed;
mod http;
mod keys;
mod nonces;
mod sse;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod verify;

pub use self::cache::{Freshness, MemoryCache, RevocationCache, RevocationSet, Standing};
pub use self::client::{FeedClient, FeedConfig};
pub use self::clock::now_ms;
pub use self::feed::FeedSettings;
pub use self::http::{Answer, Auth, Client, HttpError, MAX_SMALL_ANSWER_BYTES, Secret};
pub use self::keys::{KeyClient, KeyConfig};
pub use self::verify::{Admitted, Guard, GuardConfig, Refusal, RequestHead, WhenStale};

//! The guard: a native library with which a sidecar checks agents locally.
//!
//! [`Guard`] verifies an AIT and its proof of possession, refuses requests that it has already seen, and looks into a
//! [`RevocationCache`]. [`FeedClient`] keeps that cache equal to a proxy's ledger, and [`KeyClient`] keeps the
//! registry's signing keys. A check makes no request: both clients run beside it on threads of their own.
//!
//! What it guarantees, and what it does not:
//!
//! - A revocation that the stream brings is in force for the next check. While the stream is down, polling brings it.
//! - The guard knows how long ago its cache was *confirmed* to be equal to the ledger, which a push alone does not
//!   do. If that is longer ago than a limit, the guard rejects requests, or keeps allowing them if it was configured
//!   to. It refuses what it knows to be revoked in either case.
//! - A request is accepted once **by this process**. Two sidecars, or one that was restarted within 600 s, may each
//!   accept it once. What must hold across processes belongs behind the proxy, whose nonces are durable.
//! - A revoked *session* does not make an AIT invalid (docs/design.md §1). The check reports when the agent's session
//!   last ended, for programs that keep sessions of their own.
//!
//! Known agents, agent access and rates are checked by the proxy only.

#![warn(missing_docs)]

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
pub use self::sse::{Parser as EventParser, Signal, TooLong};
pub use self::verify::{Admitted, Guard, GuardConfig, Refusal, RequestHead, WhenStale};

//! The wire as types that cannot hold a wrong value.
//!
//! Everything that comes from outside is text until a parser in this crate has turned it into a type. The fields of
//! these types are private, or are themselves such types, so parsing is the only way to obtain a value, and nothing
//! downstream needs to check it again.
//!
//! - Sizes are capped by named constants before anything is parsed.
//! - No parser panics, whatever its input.
//! - Where docs/wire.md closes a set of fields (claims, frames, tickets), unknown and repeated fields are refused.
//!
//! This crate makes no decisions. It does no I/O and reads no clock: where time matters, it is an argument.

#![warn(missing_docs)]

pub mod ait;
pub mod b64;
pub mod code;
pub mod crl;
pub mod did;
pub mod event;
pub mod frame;
pub mod ids;
pub mod issuer;
pub mod jws;
pub mod key;
pub mod keyset;
pub mod payload;
pub mod profile;
pub mod proof;
pub mod receipt;
pub mod revocation;
pub mod text;
pub mod ticket;
pub mod time;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(test)]
mod caps;

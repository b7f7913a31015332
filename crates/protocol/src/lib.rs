//! The wire as types that cannot hold a wrong value.
//!
//! Everything that comes from outside is text until a parser here has turned it into a type; a value of such a type
//! needs no second look, because its fields are private or typed themselves and parsing is the only way to one.
//! Sizes are capped by named constants before anything is parsed, no parser panics on any input, and what is closed in
//! docs/wire.md (claims, frames, tickets) is closed here: unknown and repeated fields are refused.
//!
//! Not its job: deciding. Nothing here does I/O or reads a clock; where time matters it is an argument.

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
pub mod profile;
pub mod proof;
pub mod receipt;
pub mod revocation;
pub mod text;
pub mod ticket;
pub mod time;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

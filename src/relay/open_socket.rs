//! A socket of the agent and what it remembers (`relay_queue::socket`), and connections that are about to become one.
//!
//! Whoever closes a socket first marks its attachment, because the platform lists a socket until the other side has
//! answered. From a socket that is marked in this way only an acceptance counts.

use std::cell::Cell;

use worker::WebSocket;

use super::failure::Failure;
use crate::core::relay_queue::socket::Attachment;
use crate::protocol::ids::Ulid;

/// Close codes (RFC 6455 §7.4.1; docs/wire.md §6).
pub const NORMAL: u16 = 1000;
/// Revoked, or the token ended.
pub const POLICY: u16 = 1008;
/// A frame over the limit.
pub const TOO_BIG: u16 = 1009;
/// Silent, stalled, or something of ours failed.
pub const BROKEN: u16 = 1011;

/// An open socket, and what it remembers.
pub struct OpenSocket {
    /// The platform's.
    pub ws: WebSocket,
    /// What is in its attachment.
    pub it: Attachment,
}

impl OpenSocket {
    /// Writes what it remembers.
    pub fn store(&self) -> Result<(), Failure> {
        let text = serde_json::to_string(&self.it).unwrap_or_default();
        Ok(self.ws.serialize_attachment(text)?)
    }

    /// Whether it is the one of this id.
    pub fn is(&self, socket_id: &str) -> bool {
        self.it.socket_id == socket_id
    }

    /// Marks it and tells the other side; never waits for it.
    pub fn close(mut self, code: u16, reason: &str) {
        self.it.closed = true;
        // A socket that is gone already takes neither, and needs neither.
        let _ = self.store();
        let _ = self.ws.close(Some(code), Some(reason));
    }
}

/// What a socket remembers; nothing where it is not one of ours.
pub fn attachment(ws: &WebSocket) -> Option<Attachment> {
    let text: String = ws.deserialize_attachment().ok()??;
    serde_json::from_str(&text).ok()
}

/// Something of the agent's that began and is not done: a revocation marks it.
pub struct Underway {
    /// The token it began with.
    pub jti: Ulid,
    /// It was revoked since.
    pub revoked: Cell<bool>,
}

impl Underway {
    /// Whether it was revoked since it began.
    pub fn is_revoked(&self) -> bool {
        self.revoked.get()
    }
}

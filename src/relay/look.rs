//! An open socket is checked again (docs/design.md §5.5). At its first frame after five minutes, its agent's trust object
//! is asked, which reconciliation keeps current, and the keys that this isolate holds are looked at.
//!
//! Only a definite no closes the socket. Without an answer it goes on, and the check is repeated. A revocation that arrives
//! closes sockets at once; this check catches what did not arrive.

use std::rc::Rc;

use super::failure::Failure;
use super::open_socket::POLICY;
use super::session::Session;
use crate::core::relay_queue::socket::Attachment;
use crate::registry;
use crate::trust;

impl Session {
    /// Asks about the agent of a socket, and closes that socket where the answer is no.
    pub async fn look_again(self: Rc<Self>, socket: Attachment) -> Result<(), Failure> {
        let app = self.app()?;
        let is_withdrawn = socket
            .kid
            .as_deref()
            .is_some_and(|kid| registry::keys::is_withdrawn(&app, kid, socket.opened_at_ms));
        let standing = trust::client::check(&app, &socket.agent, Some(socket.jti)).await;
        let is_revoked = standing.as_ref().is_ok_and(|standing| standing.revoked.is_some());
        self.step(|awake, moment| {
            if !awake
                .socket
                .as_ref()
                .is_some_and(|open| open.is(&socket.socket_id))
            {
                return Ok(());
            }
            if is_withdrawn || is_revoked {
                return awake.close_socket(POLICY, "revoked", moment);
            }
            match standing {
                Ok(standing) => awake.change_socket(moment, |it| {
                    it.looked_at_ms = moment.now_ms;
                    it.generation = standing.generation;
                }),
                Err(_) => Ok(()),
            }
        })
    }
}

//! Sends what may be sent, and asks about senders first.
//!
//! Mail that waited is sent only if its sender's own trust object has said, within the last half second, that the
//! sender may still send it (docs/design.md §5.4). Asking has a time limit, so an object that does not answer keeps
//! nobody else's mail for longer than that.

use std::rc::Rc;

use serde_json::json;
use serde_json::value::RawValue;

use super::awake::{Awake, Moment};
use super::failure::Failure;
use super::rows::Outgoing;
use super::session::Session;
use crate::app::App;
use crate::clock;
use crate::core::relay_queue::{Launch, Standing};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::Deliver;
use crate::protocol::ids::Ulid;
use crate::trust;

/// How long to wait for an answer about a sender: a little longer than its object waits for D1.
const ASK_TIMEOUT_MS: u64 = 2_500;

impl Session {
    /// Asks about a sender, then goes on sending. A slow answer about one sender keeps nobody else waiting.
    pub async fn ask_about(self: Rc<Self>, sender: AgentDid) -> Result<(), Failure> {
        let standing = standing_of(&self.app()?, &sender).await;
        self.step(|awake, moment| {
            let changes = awake.queue.sender_is(&sender, standing, moment.now_ms);
            awake.apply(changes, moment)
        })
    }
}

/// Whether a sender may still send, by its trust object and within `ASK_TIMEOUT_MS`.
pub(super) async fn standing_of(app: &App, agent: &AgentDid) -> Standing {
    match clock::within_ms(ASK_TIMEOUT_MS, trust::client::check(app, agent, None)).await {
        // Mail waits until the ledger has confirmed it.
        Some(Ok(reply)) if reply.revoked.is_some() && reply.unconfirmed => Standing::Unknown,
        Some(Ok(reply)) if reply.revoked.is_some() => Standing::Revoked,
        Some(Ok(_)) => Standing::Good,
        Some(Err(_)) | None => {
            app.log.warn(
                "proxy.relay.standing_unknown",
                json!({ "agentDid": agent.as_str() }),
            );
            Standing::Unknown
        }
    }
}

impl Awake {
    /// Sends everything that may go now. Senders that have to be asked about first are left in `ask`.
    pub(super) fn drain(&mut self, moment: &Moment) -> Result<(), Failure> {
        let pumped = self.queue.pump(moment.now_ms);
        self.ask.extend(pumped.ask);
        self.remember_flight(moment)?;
        for launch in pumped.launches {
            // A send that fails ends the socket, and with it what is still to be launched here.
            if !self.queue.is_in_flight(launch.seq) {
                continue;
            }
            let stored = self.tables.outgoing(launch.seq)?;
            let identity = self.identity(launch.seq).cloned();
            let (Some(outgoing), Some(identity)) = (stored, identity) else {
                return Err(Failure::new("a live message without its row"));
            };
            self.send_delivery(&identity.sender, identity.deliver_id, &outgoing, launch, moment)?;
        }
        Ok(())
    }

    /// Writes to the socket's attachment what is in flight on it, before it goes out and after it was answered.
    pub(super) fn remember_flight(&mut self, moment: &Moment) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let progress_at_ms = self.queue.progress_at_ms().unwrap_or(socket.it.progress_at_ms);
        let is_known = self.queue.in_flight().eq(socket.it.in_flight.iter().copied());
        if is_known && progress_at_ms == socket.it.progress_at_ms {
            return Ok(());
        }
        let in_flight = self.queue.in_flight().collect();
        self.change_socket(moment, |it| {
            it.in_flight = in_flight;
            it.progress_at_ms = progress_at_ms;
        })
    }

    /// Sends one message that is in flight.
    pub(super) fn send_delivery(
        &mut self,
        sender: &AgentDid,
        deliver_id: Ulid,
        outgoing: &Outgoing,
        launch: Launch,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(to) = &self.agent else {
            return Err(Failure::new("the session does not know its agent"));
        };
        let payload: &RawValue = serde_json::from_str(&outgoing.payload)
            .map_err(|_| Failure::new("a stored payload is not JSON"))?;
        let frame = Deliver {
            id: deliver_id,
            ts_ms: moment.now_ms,
            from: sender,
            to,
            payload,
            delivery_source: outgoing.delivery_source.as_deref(),
            content_type: outgoing.content_type.as_deref(),
            group_id: outgoing.group_id,
            conversation_id: outgoing.conversation_id.as_deref(),
            reply_to: outgoing.reply_to.as_deref(),
        };
        if launch.attempts > 0 {
            let fields = json!({
                "agentDid": to.as_str(),
                "deliveryId": deliver_id,
                "attempt": launch.attempts + 1,
            });
            moment.app.log.info("proxy.relay.retry", fields);
        }
        let text = frame.to_text();
        self.send(&text, moment).map(|_| ())
    }
}

//! Sends what may be sent, and asks about senders first.
//!
//! Mail that waited is sent only after its sender's own trust object said, within the last half second, that the agent
//! is not revoked (docs/design.md §3): "nothing queued of it is sent". Asking is bounded in time, so that one object that
//! does not answer keeps nobody else's mail for longer than that.

use std::rc::Rc;

use futures_util::future::join_all;
use serde_json::json;
use serde_json::value::RawValue;

use super::rows::Outgoing;
use super::session::{Awake, Failure, Moment, Session};
use crate::app::App;
use crate::clock;
use crate::core::relay_queue::{Launch, Standing};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::Deliver;
use crate::trust;

/// How long an answer about a sender is waited for: a little more than its object waits for D1.
const ASK_TIMEOUT_MS: u64 = 2_500;

impl Session {
    /// Asks about senders, side by side, then sends on.
    pub async fn ask_about(self: Rc<Self>, senders: Vec<AgentDid>) -> Result<(), Failure> {
        let app = self.app()?;
        let answers = join_all(senders.iter().map(|sender| standing_of(&app, sender))).await;
        self.step(|awake, moment| {
            for (sender, standing) in senders.iter().zip(&answers) {
                let changes = awake.queue.sender_is(sender, *standing, moment.now_ms);
                awake.apply(changes, moment)?;
            }
            Ok(())
        })
    }
}

/// How an agent stands, by its trust object, within `ASK_TIMEOUT_MS`.
pub(super) async fn standing_of(app: &App, agent: &AgentDid) -> Standing {
    match clock::within_ms(ASK_TIMEOUT_MS, trust::client::check(app, agent, None)).await {
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
    /// Sends everything that may go now; what has to be asked first is left in `ask`.
    pub(super) fn drain(&mut self, moment: &Moment) -> Result<(), Failure> {
        let pumped = self.queue.pump(moment.now_ms);
        self.ask.extend(pumped.ask);
        for launch in pumped.launches {
            // A send that fails ends the socket, and with it what is still to be launched here.
            if !self.queue.is_in_flight(launch.seq) {
                continue;
            }
            let Some(socket_id) = self.socket.as_ref().map(|socket| socket.it.socket_id.clone()) else {
                break;
            };
            match self.tables.launch(launch, &socket_id, moment.now_ms)? {
                Some(outgoing) => self.send_delivery(&outgoing, launch, moment)?,
                // Not live in SQL, so not here either.
                None => {
                    self.queue.settle(launch.seq);
                    self.forget(launch.seq, moment);
                }
            }
        }
        Ok(())
    }

    /// Sends one message that is written as in flight.
    pub(super) fn send_delivery(
        &mut self,
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
            id: outgoing.deliver_id,
            ts_ms: moment.now_ms,
            from: &outgoing.sender,
            to,
            payload,
            delivery_source: outgoing.delivery_source.as_deref(),
            content_type: outgoing.content_type.as_deref(),
            group_id: outgoing.group_id,
            conversation_id: outgoing.conversation_id.as_deref(),
            reply_to: outgoing.reply_to.as_deref(),
        };
        if launch.attempts > 1 {
            let fields = json!({
                "agentDid": to.as_str(),
                "deliveryId": outgoing.deliver_id,
                "attempt": launch.attempts,
            });
            moment.app.log.info("proxy.relay.retry", fields);
        }
        let text = frame.to_text();
        self.send(&text, moment).map(|_| ())
    }
}

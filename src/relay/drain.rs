//! Sends what may be sent, and asks about senders first.
//!
//! Mail that waited is sent only if its sender's own trust object has said, within the last half second, that what it was
//! accepted under still holds (docs/design.md §5.4); for a group it is the registry that says so. What each answer means
//! for each message is decided by `core::relay_queue::authority`. Asking has a time limit, so an object that does not
//! answer keeps nobody else's mail for longer than that.

use std::rc::Rc;

use futures_util::future::join_all;
use serde_json::json;
use serde_json::value::RawValue;

use super::awake::{Awake, Moment};
use super::failure::Failure;
use super::rows::Identity;
use super::session::Session;
use crate::app::App;
use crate::clock;
use crate::core::admission::{CheckReply, MailQuestion, PairId};
use crate::core::budget::Budget;
use crate::core::relay_queue::Launch;
use crate::core::relay_queue::authority::{Answer, Known, Question};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::{Deliver, DeliverMeta};
use crate::protocol::ids::Ulid;
use crate::registry::identity::is_member;
use crate::trust;
use crate::trust::client::TrustUnavailable;

/// How long to wait for an answer about a sender: a little longer than its object waits for D1.
const ASK_TIMEOUT_MS: u64 = 2_500;

impl Session {
    /// Asks about a sender, then goes on sending. A slow answer about one sender keeps nobody else waiting.
    pub async fn ask_about(self: Rc<Self>, question: Question) -> Result<(), Failure> {
        let agent = self.step(|awake, _| Ok(awake.agent.clone()))?;
        let answer = match agent {
            Some(agent) => answer(&self.app()?, &question, &agent).await,
            None => None,
        };
        let answer = answer.map_or(Answer::Nothing, |known| Answer::Of(Box::new(known)));
        self.step(|awake, moment| {
            let changes = awake.queue.learn(&question.sender, &answer, moment.now_ms);
            awake.apply(changes, moment)
        })
    }
}

/// Whether an agent is revoked, by its trust object and within `ASK_TIMEOUT_MS`. No answer, and a revocation that the
/// ledger has not confirmed yet, count as no.
pub(super) async fn is_revoked(app: &App, agent: &AgentDid) -> bool {
    let reply = said_in_time(app, agent, trust::client::check(app, agent, None)).await;
    reply.is_some_and(|reply| reply.revoked.is_some() && !reply.unconfirmed)
}

/// What its trust object says of a sender, and the registry of its groups.
async fn answer(app: &App, question: &Question, recipient: &AgentDid) -> Option<Known> {
    let sender = &question.sender;
    let asked = MailQuestion {
        tokens: question.tokens.clone(),
        pairs: question.pairs.clone(),
    };
    let asking = trust::client::check_mail(app, sender, recipient, asked);
    let reply = said_in_time(app, sender, asking).await?;
    // An object that still runs an older version does not answer this; it is asked again.
    let ended = reply.mail?;
    let budget = Budget::new(app.now_ms(), app.config.registry.budget_ms);
    // Of a revoked agent nobody else need be asked.
    let asked_groups = question.groups.iter().filter(|_| reply.revoked.is_none());
    let groups = asked_groups.map(async |group| {
        let answer = is_member(app, &budget, sender, group, sender, reply.generation).await;
        (*group, answer.ok().map(|(is_member, _)| is_member))
    });
    let groups = join_all(groups).await;
    let has_ended = |jti: &Ulid| (*jti, ended.ended_tokens.contains(jti));
    let pair_has_ended = |pair_id: &PairId| (pair_id.clone(), ended.ended_pairs.contains(pair_id));
    Some(Known {
        revoked: reply.revoked.is_some(),
        unconfirmed: reply.unconfirmed,
        generation: reply.generation,
        session_ended_at_ms: reply.session_ended_at_ms,
        session_unconfirmed: reply.session_unconfirmed,
        paired: reply.peers.paired.unwrap_or_default(),
        tokens: question.tokens.iter().map(has_ended).collect(),
        pairs: question.pairs.iter().map(pair_has_ended).collect(),
        groups,
    })
}

async fn said_in_time(
    app: &App,
    agent: &AgentDid,
    asking: impl Future<Output = Result<CheckReply, TrustUnavailable>>,
) -> Option<CheckReply> {
    let reply = clock::within_ms(ASK_TIMEOUT_MS, asking)
        .await
        .and_then(Result::ok);
    if reply.is_none() {
        let fields = json!({ "agentDid": agent.as_str() });
        app.log.warn("proxy.relay.standing_unknown", fields);
    }
    reply
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
            let payload: &RawValue = serde_json::from_str(&outgoing.payload)
                .map_err(|_| Failure::new("a stored payload is not JSON"))?;
            self.send_delivery(&identity, payload, outgoing.meta(), launch, moment)?;
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
        identity: &Identity,
        payload: &RawValue,
        meta: DeliverMeta<'_>,
        launch: Launch,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(to) = &self.agent else {
            return Err(Failure::new("the session does not know its agent"));
        };
        let frame = Deliver {
            id: identity.deliver_id,
            ts_ms: moment.now_ms,
            from: &identity.sender,
            to,
            payload,
            meta,
        };
        if launch.attempts > 0 {
            let fields = json!({
                "agentDid": to.as_str(),
                "deliveryId": identity.deliver_id,
                "attempt": launch.attempts + 1,
            });
            moment.app.log.info("proxy.relay.retry", fields);
        }
        let text = frame.to_text();
        self.send(&text, moment).map(|_| ())
    }
}

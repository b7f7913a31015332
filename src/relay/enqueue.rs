//! `enqueue` frames: messages that come in on an open socket (docs/wire.md §6).
//!
//! A frame is counted against its rate at once, and then waits for its turn. Frames to one recipient are passed on
//! one after the other, so that they arrive in the order in which they came; a recipient that is slow holds up only
//! its own. Then trust is asked, under the generation that the socket knows, and the message goes to the recipient's
//! session.
//!
//! Every frame whose id can be read is answered. Connectors take a refusal as final, so a recipient's session that
//! fails is called again first. A frame whose turn comes after its token was revoked, or after we closed its socket,
//! is not passed on, and nobody is left to be told.

use std::rc::Rc;

use serde_json::json;
use worker::WebSocket;

use super::awake::{Awake, Moment};
use super::client::{self, RelayError};
use super::failure::Failure;
use super::may_write::{MayNot, may_write};
use super::open_socket::{self, Underway};
use super::protocol::{DeliverCall, Delivery, RelayCall, RelayReply, hash_of};
use super::session::Session;
use super::turns::Turn;
use crate::app::App;
use crate::clock;
use crate::core::admission::{Generation, PairId, Paired};
use crate::core::budget::Budget;
use crate::core::relay_queue::identity::{Entrance, Identity, Rewrite};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::{self, Deliver, Enqueue, SOURCE_ENQUEUE};
use crate::protocol::ids::Ulid;
use crate::registry::identity::IdentityError;
use crate::trust;

/// How long a frame may take once its turn has come. Whoever is behind it waits no longer than this.
const PASS_ON_TIMEOUT_MS: u64 = 20_000;
/// A recipient with so many messages waiting is given a millisecond before the next frame; with twice as many, two.
const DEPTH_PER_MS: u32 = 10;
/// But no more than this.
const LONGEST_PAUSE_MS: u64 = 50;
/// Pauses before a session that failed is called again. Connectors take a refusal as final, and a session that has just
/// died is back in a moment.
const AGAIN_AFTER_MS: [u64; 5] = [50, 250, 1_000, 4_000, 8_000];

/// A frame that is being passed on.
pub struct Job {
    enqueue: Enqueue,
    ws: WebSocket,
    sender: AgentDid,
    generation: Generation,
    underway: Rc<Underway>,
    turn: Turn,
}

impl Session {
    /// Puts a frame in the queue of turns, or answers it.
    pub(super) fn take_enqueue(
        &self,
        awake: &mut Awake,
        enqueue: Enqueue,
        ws: WebSocket,
        moment: &Moment,
    ) -> Result<Option<Job>, Failure> {
        if !awake.admit_enqueue(&ws, enqueue.id, moment)? {
            return Ok(None);
        }
        let Some(it) = open_socket::attachment(&ws) else {
            return Ok(None);
        };
        let turn = self
            .turns
            .borrow_mut()
            .take(&enqueue.to, enqueue.payload.get().len());
        let Some(turn) = turn else {
            let reason = "too much is waiting to be passed on";
            awake.answer_enqueue(&ws, enqueue.id, Err(reason), moment)?;
            return Ok(None);
        };
        let (underway, sender, generation) = (self.begin(it.jti), it.agent, it.generation);
        Ok(Some(Job {
            enqueue,
            ws,
            sender,
            generation,
            underway,
            turn,
        }))
    }

    /// Waits for the frame's turn, passes it on, and answers it.
    pub async fn pass_on(self: Rc<Self>, mut job: Job) -> Result<(), Failure> {
        if let Some(before) = job.turn.before.take() {
            let _ = before.await;
        }
        let outcome = self.pass_on_now(&job).await;
        self.turns.borrow_mut().leave(&job.enqueue.to, &job.turn);
        let Job {
            enqueue, ws, turn, ..
        } = job;
        let answered = match outcome {
            Some(outcome) => {
                self.step(|awake, moment| awake.answer_enqueue(&ws, enqueue.id, outcome, moment))
            }
            None => Ok(()),
        };
        drop(turn.done);
        answered
    }

    /// Returns nothing if the frame may no longer be passed on.
    async fn pass_on_now(self: &Rc<Self>, job: &Job) -> Option<Result<(), &'static str>> {
        if job.underway.is_revoked() || open_socket::attachment(&job.ws).is_none_or(|it| it.closed) {
            return None;
        }
        let passed = clock::within_ms(PASS_ON_TIMEOUT_MS, self.check_and_deliver(job)).await;
        Some(passed.unwrap_or(Err("the recipient's relay session does not answer")))
    }

    /// Everything is asked again at each attempt, because a pair may end in between.
    async fn check_and_deliver(self: &Rc<Self>, job: &Job) -> Result<(), &'static str> {
        let app = self.app().map_err(|_| "the proxy's settings are not valid")?;
        let mut pauses = AGAIN_AFTER_MS.into_iter();
        loop {
            let reason = match self.may_pass(&app, job).await {
                Err(NotNow::Never(reason)) => return Err(reason),
                Err(NotNow::Yet(reason)) => reason,
                Ok(pair_id) => match self.deliver_to(&app, job, pair_id).await {
                    Ok(RelayReply::Delivery(delivery)) => {
                        let pause_ms = pause_ms_after(&delivery);
                        if pause_ms > 0 {
                            clock::sleep_ms(pause_ms).await;
                        }
                        return Ok(());
                    }
                    Ok(RelayReply::RequestIdReused) => return Err("this id was given to another message"),
                    Ok(RelayReply::QueueFull) => return Err("the recipient's queue is full"),
                    Err(RelayError::Failed) => "the recipient's relay session does not answer",
                    _ => return Err("the recipient's relay session does not answer"),
                },
            };
            let Some(pause_ms) = pauses.next() else {
                return Err(reason);
            };
            clock::sleep_ms(pause_ms).await;
        }
    }

    async fn deliver_to(
        self: &Rc<Self>,
        app: &App,
        job: &Job,
        pair_id: Option<PairId>,
    ) -> Result<RelayReply, RelayError> {
        let enqueue = &job.enqueue;
        let rewritten = rewrite(app, job).and_then(|rewrite| rewrite.build());
        let call = DeliverCall {
            sender: job.sender.clone(),
            request_id: enqueue.id.into(),
            payload: rewritten.as_deref().unwrap_or(&enqueue.payload),
            delivery_source: Some(SOURCE_ENQUEUE.to_owned()),
            content_type: None,
            group_id: enqueue.group_id,
            conversation_id: enqueue.conversation_id.clone(),
            reply_to: enqueue.reply_to.clone(),
            pair_id,
            sender_admitted: true,
            wait: false,
            hash: rewritten.as_ref().map(|_| hash_of(&enqueue.payload)),
            jti: Some(job.underway.jti),
            generation: Some(job.generation),
        };
        if enqueue.to == job.sender {
            self.deliver(&enqueue.to, call)
                .await
                .map_err(|_| RelayError::Failed)
        } else {
            client::call(app, &enqueue.to, RelayCall::Deliver(call)).await
        }
    }
}

impl Awake {
    /// Counts a frame, in memory and in the attachment. One that is over the rate is answered, and costs no log line of its
    /// own.
    fn admit_enqueue(&mut self, ws: &WebSocket, id: Ulid, moment: &Moment) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        let mut bucket = self.enqueued.max(socket.it.enqueued);
        let admitted = bucket.admit(moment.app.config.rate.enqueue_per_minute, moment.now_ms);
        self.enqueued = bucket;
        self.change_socket(moment, |it| it.enqueued = bucket)?;
        if !admitted {
            self.log_over_rate("enqueue", moment);
            Self::send_enqueue_ack(ws, id, Err("rate limit exceeded"), moment)?;
        }
        Ok(admitted)
    }

    /// Answers a frame whose id can be read and nothing more. It counts like one that is well-formed.
    pub(super) fn refuse_bad_enqueue(
        &mut self,
        ws: &WebSocket,
        id: Ulid,
        reason: &str,
        moment: &Moment,
    ) -> Result<(), Failure> {
        match self.admit_enqueue(ws, id, moment)? {
            true => self.answer_enqueue(ws, id, Err(reason), moment),
            false => Ok(()),
        }
    }

    /// Answers on the socket on which the frame came in, as long as that is open.
    pub(super) fn answer_enqueue(
        &mut self,
        ws: &WebSocket,
        id: Ulid,
        outcome: Result<(), &str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        if let Err(reason) = outcome {
            let agent = self.agent.as_ref().map(|agent| agent.as_str());
            let fields = json!({ "agentDid": agent, "messageId": id, "reason": reason });
            moment.app.log.warn("proxy.relay.enqueue_refused", fields);
        }
        Self::send_enqueue_ack(ws, id, outcome, moment)
    }

    fn send_enqueue_ack(
        ws: &WebSocket,
        id: Ulid,
        outcome: Result<(), &str>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let answer_id = moment.app.new_ulid()?;
        let text = frame::enqueue_ack(answer_id, moment.now_ms, id, outcome.is_ok(), outcome.err());
        // A socket that is gone has nobody to tell; its end comes as an event of its own.
        let _ = ws.send_with_str(&text);
        Ok(())
    }
}

/// A burst goes on no faster than a connected recipient takes it: what would not fit into its queue would be refused, and
/// connectors take that for final.
fn pause_ms_after(delivery: &Delivery) -> u64 {
    if delivery.connected_sockets == 0 {
        return 0;
    }
    u64::from(delivery.queue_depth / DEPTH_PER_MS).min(LONGEST_PAUSE_MS)
}

/// Why a frame is not passed on.
enum NotNow {
    /// For good.
    Never(&'static str),
    /// For a reason that passes.
    Yet(&'static str),
}

impl Session {
    /// Whether the frame may be passed on now: its size, the trust between the two, its token; and by which pair.
    async fn may_pass(self: &Rc<Self>, app: &App, job: &Job) -> Result<Option<PairId>, NotNow> {
        // The socket may have learned of a newer one since the frame came.
        let generation = open_socket::attachment(&job.ws).map_or(job.generation, |it| it.generation);
        let Enqueue { to, group_id, .. } = &job.enqueue;
        if frame_len(job, app) > app.config.relay.max_frame_bytes {
            return Err(NotNow::Never("the message is too large to be delivered"));
        }
        let budget = Budget::new(app.now_ms(), app.config.registry.budget_ms);
        let agents = (&job.sender, to);
        let paired = async || self.paired(app, job, generation).await;
        let allowed = may_write(app, &budget, agents, group_id.as_ref(), generation, paired).await;
        if job.underway.is_revoked() {
            return Err(NotNow::Never("revoked"));
        }
        match allowed {
            Ok(allowed) => Ok(allowed.pair_id),
            Err(MayNot::NotPaired) => Err(NotNow::Never("sender and recipient are not paired")),
            Err(MayNot::NotMembers) => Err(NotNow::Never(
                "sender and recipient are not both members of the group",
            )),
            Err(MayNot::TrustUnavailable) => Err(NotNow::Yet("trust_store_unavailable")),
            Err(MayNot::MembershipUnavailable(IdentityError::TooMany { .. })) => Err(NotNow::Never(
                "too many groups and members were named that the registry does not confirm",
            )),
            Err(MayNot::MembershipUnavailable(IdentityError::Held { .. })) => Err(NotNow::Never(
                "group membership cannot be looked up at the moment",
            )),
            Err(MayNot::MembershipUnavailable(_)) => {
                Err(NotNow::Yet("group membership cannot be looked up at the moment"))
            }
        }
    }

    /// What the sender's object says of the pair: a yes is kept for a minute, under the generation that it came with.
    async fn paired(self: &Rc<Self>, app: &App, job: &Job, generation: Generation) -> Paired {
        let (sender, to) = (&job.sender, &job.enqueue.to);
        let now_ms = app.now_ms();
        if let Some(pair_id) = self.verdicts.borrow_mut().recall(to, generation, now_ms) {
            return Paired::Yes(pair_id);
        }
        let Ok(standing) = trust::client::check_pair(app, sender, None, Some(to), None).await else {
            return Paired::Unavailable;
        };
        let paired = standing.peers.paired.unwrap_or_default();
        if let Paired::Yes(pair_id) = &paired {
            let mut verdicts = self.verdicts.borrow_mut();
            verdicts.remember(to.clone(), pair_id.clone(), standing.generation, now_ms);
        }
        paired
    }
}

/// The size of the `deliver` frame that this becomes. Its id and time always have the same length.
fn frame_len(job: &Job, app: &App) -> usize {
    let enqueue = &job.enqueue;
    let frame = Deliver {
        id: enqueue.id,
        ts_ms: app.now_ms(),
        from: &job.sender,
        to: &enqueue.to,
        payload: &enqueue.payload,
        meta: enqueue.meta(),
    };
    let payload_bytes = rewrite(app, job).map_or(enqueue.payload.get().len(), |rewrite| rewrite.len());
    frame.text_len(payload_bytes)
}

/// How the identity setting changes the payload.
fn rewrite<'a>(app: &App, job: &'a Job) -> Option<Rewrite<'a>> {
    let identity = || {
        let it = open_socket::attachment(&job.ws)?;
        // A socket that an older version let in has not been told its token's issuer.
        let issuer = it.issuer;
        Some(Identity {
            agent: it.agent.to_string(),
            owner: it.owner.to_string(),
            issuer: issuer.unwrap_or_else(|| app.config.registry.expected_issuer.to_string()),
            jti: it.jti.to_string(),
        })
    };
    let setting = app.config.identity_block;
    setting.rewrite(Entrance::Frame, &job.enqueue.payload, identity)
}

//! A message arrives for this agent.
//!
//! 1. If the message is known already, its outcome is repeated, whatever it is. The same id with another payload is
//!    refused.
//! 2. If the agent is revoked, the message is dead-lettered at once. A session in which nothing is stored, because it
//!    is new or has lost its storage, first asks its agent's trust object.
//! 3. If the sender's share or the queue is full, the message is refused and nothing is kept.
//! 4. Otherwise it is written, and sent if it can go out at once.
//!
//! A caller that waits is answered when the message is no longer in flight, after 15 s at most. The answer is what is
//! stored at that moment.

use std::rc::Rc;

use futures_channel::oneshot;
use serde_json::json;

use super::awake::{Awake, Moment};
use super::drain;
use super::failure::Failure;
use super::open_socket::BROKEN;
use super::protocol::{ACK_WAIT_MS, DeliverCall, Delivery, DeliveryState, FoundDelivery, RelayReply};
use super::rows::{AcceptedBy, Identity, NewMail};
use super::session::Session;
use crate::clock;
use crate::core::relay_queue::authority::Authority;
use crate::core::relay_queue::{DeadReason, Offer, Taken};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::{MessageId, Ulid};

/// The result of a message's first step.
enum Placed {
    Full,
    Reused,
    Here {
        deliver_id: Ulid,
        in_flight: Option<oneshot::Receiver<DeliveryState>>,
    },
}

impl Session {
    /// `RelayCall::Deliver`.
    pub async fn deliver(
        self: &Rc<Self>,
        agent: &AgentDid,
        call: DeliverCall<'_>,
    ) -> Result<RelayReply, Failure> {
        let revoked = self.is_new()? && self.is_revoked(agent).await?;
        let placed = self.step(|awake, moment| {
            awake.belongs_to(agent);
            if (revoked || self.unstored.revoked.get()) && !awake.revoked {
                // First of all that is stored: from then on nobody asks.
                awake.set_revoked(Some(moment.now_ms))?;
                awake.store_agent()?;
            }
            self.unstored.revoked.set(false);
            awake.place(&call, moment)
        })?;
        let (deliver_id, in_flight) = match placed {
            Placed::Full => return Ok(RelayReply::QueueFull),
            Placed::Reused => return Ok(RelayReply::RequestIdReused),
            Placed::Here {
                deliver_id,
                in_flight,
            } => (deliver_id, in_flight),
        };
        let told = match in_flight {
            Some(in_flight) => clock::within_ms(ACK_WAIT_MS, in_flight).await,
            None => None,
        };
        self.step(|awake, _| {
            // Timed out, not delivered, or dropped with the memory it was in: what is stored decides.
            let (deliver_id, state) = match told {
                Some(Ok(state)) => (deliver_id, state),
                _ => {
                    let kept = awake.by_request(&call.sender, &call.request_id)?;
                    let kept = kept.ok_or_else(|| Failure::new("a stored message is missing"))?;
                    (kept.identity.deliver_id, kept.state)
                }
            };
            Ok(RelayReply::Delivery(awake.delivery(deliver_id, state)))
        })
    }

    /// Asks the agent's trust object, again if a lift lands in the meantime. No answer counts as "not revoked": the
    /// mail waits, and no socket opens for a revoked agent.
    async fn is_revoked(&self, agent: &AgentDid) -> Result<bool, Failure> {
        let app = self.app()?;
        loop {
            let lifts = self.unstored.lifts.get();
            let is_revoked = drain::is_revoked(&app, agent).await;
            if self.unstored.lifts.get() == lifts {
                return Ok(is_revoked);
            }
        }
    }

    /// `RelayCall::FindDelivery`.
    pub fn find_delivery(self: &Rc<Self>, sender: &AgentDid, id: &MessageId) -> Result<RelayReply, Failure> {
        if self.is_unused()? {
            return Ok(RelayReply::NotFound);
        }
        self.step(|awake, _| {
            Ok(match awake.by_either_id(sender, id)? {
                Some(kept) => RelayReply::Found(FoundDelivery {
                    request_id: kept.identity.request_id,
                    delivery_id: kept.identity.deliver_id,
                    state: kept.state,
                    reason: kept.reason,
                    expires_at_ms: kept.expires_at_ms,
                    status_updated_at_ms: kept.status_updated_at_ms,
                }),
                None => RelayReply::NotFound,
            })
        })
    }
}

impl Awake {
    fn place(&mut self, call: &DeliverCall<'_>, moment: &Moment) -> Result<Placed, Failure> {
        let hash = call.content_hash();
        let (kept, id_is_used) = self.meets(&call.sender, &call.request_id)?;
        if let Some(kept) = kept {
            return Ok(match kept.identity.is_of(&hash) {
                true => self.placed(kept.identity.deliver_id, kept.live, call.wait),
                false => Placed::Reused,
            });
        }
        self.store_agent()?;
        let identity = Identity {
            request_id: call.request_id.clone(),
            sender: call.sender.clone(),
            deliver_id: frame_id(&call.request_id, id_is_used, moment)?,
            hash: Some(hash),
        };
        if self.revoked {
            let reason = DeadReason::RecipientRevoked.as_str();
            self.tell_dead_letter(&identity, reason, moment)?;
            self.put_outcome(&identity, DeliveryState::DeadLettered, Some(reason), moment)?;
            return Ok(self.placed(identity.deliver_id, None, false));
        }
        if self
            .socket
            .as_ref()
            .is_some_and(|socket| socket.it.is_doubtful(moment.now_ms))
        {
            self.close_socket(BROKEN, "silent", moment)?;
        }
        let payload = call.payload.get();
        let expires_at_ms = moment.now_ms.saturating_add(moment.app.config.relay.ttl_ms);
        let offer = Offer {
            sender: call.sender.clone(),
            authority: self.authority_of(call),
            bytes: payload.len() as u64,
            expires_at_ms,
            admitted: call.sender_admitted,
        };
        let (seq, launch) = match self.queue.offer(offer, moment.now_ms) {
            Taken::Full => return Ok(self.full(call, moment)),
            Taken::Queued { seq } => (seq, None),
            Taken::Launched(launch) => (launch.seq, Some(launch)),
        };
        self.tables.insert(&NewMail {
            seq,
            identity: &identity,
            created_at_ms: moment.now_ms,
            expires_at_ms,
            meta: call.meta(),
            jti: call.jti,
            generation: call.generation,
            pair_id: call.pair_id.as_ref(),
            payload,
        })?;
        self.enter(seq, identity.clone());
        if let Some(launch) = launch {
            self.remember_flight(moment)?;
            if self.queue.is_in_flight(seq) {
                self.send_delivery(&identity, call.payload, call.meta(), launch, moment)?;
            }
        }
        Ok(self.placed(identity.deliver_id, Some(seq), call.wait))
    }

    fn authority_of(&self, call: &DeliverCall<'_>) -> Authority {
        let accepted_by = AcceptedBy {
            sender: &call.sender,
            to: self.agent.as_ref(),
            delivery_source: call.delivery_source.as_deref(),
            group_id: call.group_id,
            pair_id: call.pair_id.clone(),
            jti: call.jti,
            generation: call.generation,
        };
        accepted_by.authority()
    }

    /// A message's state, with something to wait on if it is in flight and the caller wants to wait.
    fn placed(&mut self, deliver_id: Ulid, live: Option<u64>, wait: bool) -> Placed {
        let in_flight = live
            .filter(|seq| wait && self.queue.is_in_flight(*seq))
            .map(|seq| {
                let (told, wait) = oneshot::channel();
                self.waiting.entry(seq).or_default().push(told);
                wait
            });
        Placed::Here {
            deliver_id,
            in_flight,
        }
    }

    fn full(&self, call: &DeliverCall<'_>, moment: &Moment) -> Placed {
        let fields = json!({
            "agentDid": self.agent.as_ref().map(|agent| agent.as_str()),
            "senderAgentDid": call.sender.as_str(),
            "queueDepth": self.queue.depth(),
            "queuedBytes": self.queue.bytes(),
        });
        moment.app.log.warn("proxy.relay.queue_full", fields);
        Placed::Full
    }

    fn delivery(&self, delivery_id: Ulid, state: DeliveryState) -> Delivery {
        Delivery {
            delivery_id,
            state,
            queue_depth: count(self.queue.depth()),
            connected_sockets: u32::from(self.socket.is_some()),
        }
    }
}

/// One of our counts, which is far below its type's limit.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The request's id if it is a ULID that no other message has here, otherwise a new one. Two senders must never share
/// one (docs/wire.md §6). It is also what callers know as `deliveryId`.
pub(super) fn frame_id(request_id: &MessageId, is_used: bool, moment: &Moment) -> Result<Ulid, Failure> {
    match request_id.as_ulid() {
        Some(id) if !is_used => Ok(id),
        _ => Ok(moment.app.new_ulid()?),
    }
}

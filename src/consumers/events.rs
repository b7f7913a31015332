//! The registry's events: revocations, refreshed sessions, pairs and groups (WIRE.md §7).
//!
//! A revocation is applied in this order (DESIGN.md §3): overlay, which is the kill; sockets closed; ledger; acknowledge.
//! No step waits for a connector, every step may be repeated, and a failure in between gives the message back.

use futures_util::future;
use serde_json::json;
use serde_json::value::RawValue;

use super::Outcome;
use super::message::QueueMessage;
use crate::app::App;
use crate::core::admission::{Changed, RevokeRequest, Source, TokenRevocation};
use crate::core::consume::Revocation;
use crate::protocol::did::AgentDid;
use crate::protocol::event::{
    AuthRefreshed, AuthRevoked, GROUP_MEMBER_JOINED_SOURCE, GroupMemberJoined, PAIR_ACCEPTED_SOURCE,
    PairAccepted,
};
use crate::protocol::ids::{MessageId, Ulid};
use crate::relay;
use crate::relay::protocol::{DeliverCall, RelayCall, RelayReply, RevokedSockets};
use crate::trust::client;
use crate::trust::ledger::{self, Entry};

/// Why it must be tried again.
struct Again(String);

impl<E: std::error::Error> From<E> for Again {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl From<Result<(), Again>> for Outcome {
    fn from(result: Result<(), Again>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(Again(reason)) => Self::Again(reason),
        }
    }
}

/// `agent.auth.revoked`.
pub async fn revoked(app: &App, message: &QueueMessage, event: &AuthRevoked) -> Outcome {
    let revocation = Revocation::of_event(event, app.now_ms());
    if event.bad_tokens {
        // What can be read of it is applied; the rest is for a person to see.
        let fields = json!({
            "messageId": message.id(),
            "agentDid": revocation.agent.as_ref().map(AgentDid::as_str),
            "reason": "a token or an expiry that the revocation names cannot be read",
            "then": "the rest is applied",
        });
        app.log.error("proxy.queue.message_failed", fields);
    }
    // An event without an id is told from others by the message, which keeps its id when it is tried again.
    let event_id = event
        .event_id
        .clone()
        .unwrap_or_else(|| format!("message:{}", message.id()));
    let case = Case {
        app,
        event,
        event_id,
        revocation: &revocation,
    };
    match &revocation.agent {
        Some(agent) => case.named(agent).await.into(),
        None => case.tokens_alone().await.into(),
    }
}

/// `agent.auth.refreshed`: the old access token is dead, what is cached of it is void. Sockets stay.
pub async fn refreshed(app: &App, event: &AuthRefreshed) -> Outcome {
    void_caches(app, &event.agent).await.into()
}

/// `pair.accepted`: the initiator's connector is told.
pub async fn pair_accepted(app: &App, event: &PairAccepted) -> Outcome {
    let notice = Notice {
        sender: &event.responder,
        recipient: &event.initiator,
        request_id: event.request_id(),
        payload: event.payload_json(),
        source: PAIR_ACCEPTED_SOURCE,
    };
    notice.deliver(app).await.into()
}

/// `group.member.joined`: the recipient's connector is told.
pub async fn group_member_joined(app: &App, event: &GroupMemberJoined) -> Outcome {
    let notice = Notice {
        sender: &event.joined,
        recipient: &event.recipient,
        request_id: event.request_id(),
        payload: event.payload_json(),
        source: GROUP_MEMBER_JOINED_SOURCE,
    };
    notice.deliver(app).await.into()
}

/// One revocation event being applied.
struct Case<'a> {
    app: &'a App,
    event: &'a AuthRevoked,
    event_id: String,
    revocation: &'a Revocation,
}

impl Case<'_> {
    /// It names its agent.
    async fn named(&self, agent: &AgentDid) -> Result<(), Again> {
        let Revocation {
            revoke_agent,
            session_ended,
            tokens,
            ..
        } = self.revocation;
        self.strike(agent, *session_ended, tokens).await?;
        let entry = Entry {
            session_ended: *session_ended,
            ..self.entry(Some(agent), *revoke_agent, tokens)
        };
        Ok(ledger::record(self.app, &entry).await?)
    }

    /// It names only tokens: whose they are, the table says that is written at a token's first admission.
    ///
    /// The ledger is written before the table is looked at a second time. An object writes the table and reads the
    /// ledger in one transaction, so of a token that is first admitted at this very moment either the object finds the
    /// ledger's row or this finds the table's.
    async fn tokens_alone(&self) -> Result<(), Again> {
        let Revocation {
            revoke_agent, tokens, ..
        } = self.revocation;
        let known = ledger::agents_of(self.app, tokens).await?;
        self.strike_owners(known.iter()).await?;
        ledger::record(self.app, &self.entry(None, false, tokens)).await?;
        let known_now = ledger::agents_of(self.app, tokens).await?;
        self.strike_owners(known_now.iter().filter(|found| !known.contains(found)))
            .await?;

        if !revoke_agent {
            return Ok(());
        }
        if known_now.is_empty() {
            return Err(Again(
                "it revokes an agent that it names only by tokens never seen here".into(),
            ));
        }
        for (_, agent) in &known_now {
            ledger::record(self.app, &self.entry(Some(agent), true, &[])).await?;
        }
        Ok(())
    }

    /// Applies it to the agents whose tokens it names, all at the same time.
    async fn strike_owners<'b>(
        &self,
        found: impl Iterator<Item = &'b (Ulid, AgentDid)>,
    ) -> Result<(), Again> {
        let strikes = found.map(async |(jti, agent)| {
            let of_this_agent = self.revocation.tokens.iter().filter(|token| token.jti == *jti);
            let tokens: Vec<_> = of_this_agent.copied().collect();
            self.strike(agent, false, &tokens).await
        });
        future::join_all(strikes).await.into_iter().collect()
    }

    /// Takes it from one agent: overlay, then sockets.
    async fn strike(
        &self,
        agent: &AgentDid,
        session_ended: bool,
        tokens: &[TokenRevocation],
    ) -> Result<(), Again> {
        let revoke_agent = self.revocation.revoke_agent;
        let mut changed = session_ended;
        if revoke_agent || !tokens.is_empty() {
            let request = RevokeRequest {
                agent: agent.clone(),
                revoke_agent,
                tokens: tokens.to_vec(),
            };
            changed |= client::revoke(self.app, request).await?.changed;
        }
        if session_ended {
            client::replace_generation(self.app, agent, Changed::Session).await?;
        }
        let applied_at_ms = self.app.now_ms();

        let which = match (revoke_agent, session_ended) {
            (true, _) => RevokedSockets::Agent,
            (false, true) => RevokedSockets::Session,
            (false, false) => RevokedSockets::Tokens(tokens.iter().map(|token| token.jti).collect()),
        };
        let reply = relay::client::call(self.app, agent, RelayCall::RevokeSockets { which }).await?;
        let RelayReply::Closed { sockets } = reply else {
            return Err(unexpected_reply());
        };

        let fields = json!({
            "agentDid": agent.as_str(),
            "source": Source::Queue.as_str(),
            "eventId": self.event_id,
            "reason": self.event.reason,
            "agent": revoke_agent,
            "session": session_ended,
            "tokens": tokens.len(),
            "changed": changed,
            "socketsClosed": sockets,
            "lag_ms": self.event.event_at_ms.map(|at_ms| applied_at_ms.saturating_sub(at_ms)),
        });
        self.app.log.info("proxy.revocation.applied", fields);
        Ok(())
    }

    fn entry<'b>(
        &'b self,
        agent: Option<&'b AgentDid>,
        revoke_agent: bool,
        tokens: &'b [TokenRevocation],
    ) -> Entry<'b> {
        Entry {
            agent,
            revoke_agent,
            session_ended: false,
            tokens,
            reason: self.event.reason.as_deref(),
            source: Source::Queue,
            event_id: Some(&self.event_id),
            revoked_at_ms: self.revocation.revoked_at_ms,
        }
    }
}

/// Replaces an agent's generation and tells its session.
async fn void_caches(app: &App, agent: &AgentDid) -> Result<(), Again> {
    let generation = client::replace_generation(app, agent, Changed::Session).await?;
    relay::client::call(app, agent, RelayCall::GenerationChanged { generation }).await?;
    Ok(())
}

/// What a connector is told that an event asks for: queued, never waited for.
struct Notice<'a> {
    sender: &'a AgentDid,
    recipient: &'a AgentDid,
    request_id: MessageId,
    payload: String,
    source: &'static str,
}

impl Notice<'_> {
    async fn deliver(self, app: &App) -> Result<(), Again> {
        let payload = RawValue::from_string(self.payload)?;
        let call = RelayCall::Deliver(DeliverCall {
            sender: self.sender.clone(),
            request_id: self.request_id,
            payload: &payload,
            delivery_source: Some(self.source.into()),
            content_type: None,
            group_id: None,
            conversation_id: None,
            reply_to: None,
            sender_admitted: false,
            wait: false,
        });
        match relay::client::call(app, self.recipient, call).await? {
            RelayReply::Delivery(_) => Ok(()),
            RelayReply::QueueFull => Err(Again("the recipient's queue is full".into())),
            _ => Err(unexpected_reply()),
        }
    }
}

fn unexpected_reply() -> Again {
    Again("the session gave another answer than was asked for".into())
}

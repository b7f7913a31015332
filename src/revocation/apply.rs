//! Revokes something: one function for the queue, the CRL and an operator (docs/design.md §3.2).
//!
//! 1. The overlay of whoever is named and, by the record, of whoever holds a token that is named: this is the kill.
//! 2. Side by side: their sockets are closed, and the order is written to the ledger. Mail is held.
//! 3. Whoever showed a token for the first time meanwhile is struck as well.
//! 4. The ledger has spoken: what it knows to be lifted is given back (`settle`), so that a repeated event takes nothing
//!    away again; the rest is confirmed, and what waits for a revoked agent is dead-lettered.
//!
//! No step waits for a connector, every step has the order's patience, and every step may be repeated, so a failure in
//! between is a retry. Until the ledger has spoken everything that was done can be undone.

use futures_util::future;
use serde_json::json;

use super::NotDone;
use super::settle::settle;
use crate::app::App;
use crate::clock;
use crate::core::admission::overlay::{OWNER_AUTH_REVOKE, REISSUED};
use crate::core::admission::{RevokeRequest, TokenRevocation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply, RevokedSockets};
use crate::trust::client;
use crate::trust::ledger::{self, Entry, Recorded};

/// What is revoked, and by whom.
#[derive(Clone, Debug)]
pub struct Order {
    /// The agent; none if only tokens are named.
    pub agent: Option<AgentDid>,
    /// The agent is revoked: the one that is named, otherwise the one that the tokens belong to.
    pub revoke_agent: bool,
    /// The agent's session ended.
    pub session_ended: bool,
    /// These tokens are revoked.
    pub tokens: Vec<TokenRevocation>,
    /// Why.
    pub reason: Option<String>,
    /// Who revoked it.
    pub source: Source,
    /// The event. The same event is recorded once.
    pub event_id: Option<String>,
    /// When the source says that it happened, Unix milliseconds.
    pub revoked_at_ms: u64,
    /// The source's own time, if it gave one. The lag is counted from it.
    pub told_at_ms: Option<u64>,
    /// When the tokens end, as the source tells it, Unix milliseconds.
    pub told_expiry_ms: Option<u64>,
    /// How long each step may take, milliseconds.
    pub patience_ms: u64,
}

/// Applies one order. Returns the ledger's highest number before: what is recorded by this order alone is after it.
///
/// # Errors
/// Something did not answer. Apply it again.
pub async fn apply(app: &App, order: &Order) -> Result<u64, NotDone> {
    let mut results = apply_all(app, std::slice::from_ref(order)).await;
    results
        .pop()
        .unwrap_or_else(|| Err(NotDone("nothing was applied".into())))
}

/// Applies orders side by side; each has its own result. See the module for the steps.
pub async fn apply_all(app: &App, orders: &[Order]) -> Vec<Result<u64, NotDone>> {
    let mut work = Work::new(app, orders);
    work.strike_named().await;
    work.close_and_record().await;
    work.strike_new_owners().await;
    work.confirm().await;
    let struck = work.strikes.iter().map(|strike| strike.agent.clone()).collect();
    let results = work.results();
    // Also where the ledger failed: the streams of the agents end without it.
    crate::feed::poke_later(app, struck);
    results
}

/// What one agent loses by one order.
struct Strike {
    /// Which order.
    order: usize,
    agent: AgentDid,
    revoke_agent: bool,
    session_ended: bool,
    tokens: Vec<TokenRevocation>,
    /// The overlay holds it.
    struck: bool,
}

struct Work<'a> {
    app: &'a App,
    orders: &'a [Order],
    strikes: Vec<Strike>,
    owners: Vec<(Ulid, AgentDid)>,
    recorded: Option<Recorded>,
    failures: Vec<Option<NotDone>>,
}

impl<'a> Work<'a> {
    fn new(app: &'a App, orders: &'a [Order]) -> Self {
        let strike = |(order, given): (usize, &Order)| {
            Some(Strike {
                order,
                agent: given.agent.clone()?,
                revoke_agent: given.revoke_agent,
                session_ended: given.session_ended,
                tokens: given.tokens.clone(),
                struck: false,
            })
        };
        Self {
            app,
            orders,
            strikes: orders.iter().enumerate().filter_map(strike).collect(),
            owners: Vec::new(),
            recorded: None,
            failures: orders.iter().map(|_| None).collect(),
        }
    }

    /// The kill: the agents that are named, and, as soon as the record has told whose the tokens are, their owners.
    async fn strike_named(&mut self) {
        let jtis: Vec<Ulid> = self
            .orders
            .iter()
            .flat_map(|order| jtis_of(&order.tokens))
            .collect();
        let strikes = std::mem::take(&mut self.strikes);
        let (struck, owners) = future::join(
            self.overlays(strikes),
            self.within(ledger::agents_of(self.app, &jtis)),
        )
        .await;
        self.keep(struck);
        match owners {
            Ok(owners) => {
                let strikes = self.owners_strikes(&owners);
                self.warn_of_mismatches(&strikes);
                let struck = self.overlays(strikes).await;
                self.keep(struck);
                self.owners = owners;
            }
            // What is named is struck. The record will not be written either, and the order comes again.
            Err(error) => {
                for (failure, order) in self.failures.iter_mut().zip(self.orders) {
                    if !order.tokens.is_empty() {
                        failure.get_or_insert(error.clone());
                    }
                }
            }
        }
    }

    /// The strikes at those who hold the tokens, beside whoever is named.
    fn owners_strikes(&self, owners: &[(Ulid, AgentDid)]) -> Vec<Strike> {
        let mut strikes: Vec<Strike> = Vec::new();
        for (order, given) in self.orders.iter().enumerate() {
            for token in &given.tokens {
                let holds = |(jti, agent): &&(Ulid, AgentDid)| {
                    *jti == token.jti && given.agent.as_ref() != Some(agent)
                };
                for (_, agent) in owners.iter().filter(holds) {
                    let known = strikes
                        .iter_mut()
                        .find(|strike| strike.order == order && strike.agent == *agent);
                    match known {
                        Some(strike) => strike.tokens.push(*token),
                        None => strikes.push(Strike {
                            order,
                            agent: agent.clone(),
                            revoke_agent: given.revoke_agent && given.agent.is_none(),
                            session_ended: false,
                            tokens: vec![*token],
                            struck: false,
                        }),
                    }
                }
            }
        }
        strikes
    }

    fn warn_of_mismatches(&self, strikes: &[Strike]) {
        for strike in strikes {
            let Some(named) = self
                .orders
                .get(strike.order)
                .and_then(|order| order.agent.as_ref())
            else {
                continue;
            };
            let fields = json!({
                "agentDid": named.as_str(),
                "ownerAgentDid": strike.agent.as_str(),
                "jtis": jtis_of(&strike.tokens),
                "eventId": self.orders.get(strike.order).and_then(|order| order.event_id.as_deref()),
                "reason": "a revoked token belongs to another agent than the one that is named beside it",
                "then": "the revocation is applied to both",
            });
            self.app.log.error("proxy.revocation.agent_mismatch", fields);
        }
    }

    /// Side by side, so that a session that fails keeps no row out of the ledger, nor the ledger a socket open.
    async fn close_and_record(&mut self) {
        let entries: Vec<Entry<'_>> = self
            .orders
            .iter()
            .map(|order| entry(order, order.agent.as_ref()))
            .chain(self.agents_by_token(&self.owners))
            .collect();
        let closes = self.strikes.iter().map(|strike| self.close(strike));
        let (closed, recorded) = future::join(
            future::join_all(closes),
            self.within(ledger::record(self.app, &entries)),
        )
        .await;
        for (order, result) in closed {
            self.note(order, result);
        }
        match recorded {
            Ok(recorded) => self.recorded = Some(recorded),
            Err(error) => (0..self.orders.len()).for_each(|order| self.note(order, Err(error.clone()))),
        }
    }

    /// The rows of agents that an order names by their tokens alone.
    fn agents_by_token<'e>(&'e self, owners: &'e [(Ulid, AgentDid)]) -> impl Iterator<Item = Entry<'e>> {
        let nameless = self
            .orders
            .iter()
            .filter(|order| order.revoke_agent && order.agent.is_none());
        nameless.flat_map(move |order| {
            let owned = owners
                .iter()
                .filter(|(jti, _)| order.tokens.iter().any(|token| token.jti == *jti));
            owned.map(move |(_, agent)| Entry {
                revoke_agent: true,
                tokens: &[],
                ..entry(order, Some(agent))
            })
        })
    }

    /// A token may have been shown for the first time while its row was written: its object has written the table of
    /// owners and read the ledger in one transaction, so either it found the row or the record found its entry.
    async fn strike_new_owners(&mut self) {
        let Some(recorded) = &self.recorded else { return };
        let new: Vec<(Ulid, AgentDid)> = recorded
            .owners
            .iter()
            .filter(|owner| !self.owners.contains(owner))
            .cloned()
            .collect();
        for (order, given) in self.orders.iter().enumerate() {
            let is_owned = |token: &TokenRevocation| recorded.owners.iter().any(|(jti, _)| *jti == token.jti);
            if given.revoke_agent && given.agent.is_none() && !given.tokens.iter().any(is_owned) {
                let message = "it revokes an agent that it names only by tokens never seen here";
                if let Some(failure) = self.failures.get_mut(order) {
                    failure.get_or_insert(NotDone(message.into()));
                }
            }
        }
        if new.is_empty() {
            return;
        }
        let struck = self.overlays(self.owners_strikes(&new)).await;
        let first = self.strikes.len();
        self.keep(struck);
        let late = self.strikes.get(first..).unwrap_or_default();
        let entries: Vec<Entry<'_>> = self.agents_by_token(&new).collect();
        let closes = future::join_all(late.iter().map(|strike| self.close(strike)));
        let (closed, recorded) = future::join(closes, self.within(ledger::record(self.app, &entries))).await;
        // A lift may have come between the record and these strikes: the ledger is asked how they stand.
        let settles = late
            .iter()
            .map(async |strike| (strike.order, self.settle(strike).await));
        let settled = future::join_all(settles).await;
        for (order, result) in closed.into_iter().chain(settled) {
            self.note(order, result);
        }
        if let Err(error) = recorded {
            (0..self.orders.len()).for_each(|order| self.note(order, Err(error.clone())));
        }
    }

    /// The ledger has spoken. What it knows to be lifted is given back; the rest is final, and mail is given up.
    async fn confirm(&mut self) {
        let Some(recorded) = &self.recorded else { return };
        let work = self.strikes.iter().filter(|strike| strike.struck);
        let work = work.map(async |strike| {
            let lifted = (strike.revoke_agent && recorded.lifted_agents.contains(&strike.agent))
                || strike
                    .tokens
                    .iter()
                    .any(|token| recorded.lifted_tokens.contains(&token.jti));
            let result = match lifted {
                true => self.settle(strike).await,
                false => self.within(self.finish(strike)).await,
            };
            (strike.order, result)
        });
        for (order, result) in future::join_all(work).await {
            self.note(order, result);
        }
    }

    async fn settle(&self, strike: &Strike) -> Result<(), NotDone> {
        settle(
            self.app,
            &strike.agent,
            strike.revoke_agent,
            &jtis_of(&strike.tokens),
        )
        .await
    }

    async fn finish(&self, strike: &Strike) -> Result<(), NotDone> {
        if strike.revoke_agent || !strike.tokens.is_empty() {
            client::revoke(self.app, self.request(strike, false)).await?;
        }
        if strike.session_ended && self.is_by_owner(strike) {
            let ended = self.recorded.iter().flat_map(|recorded| &recorded.sessions_ended);
            let of_agent = ended.filter(|(agent, _)| *agent == strike.agent);
            let at_ms = of_agent.map(|(_, at_ms)| *at_ms).max();
            client::session_ended(self.app, &strike.agent, at_ms).await?;
        }
        if strike.revoke_agent {
            let which = RevokedSockets::Agent;
            relay::client::call(self.app, &strike.agent, RelayCall::RevokeSockets { which }).await?;
        }
        Ok(())
    }

    async fn overlays(&self, strikes: Vec<Strike>) -> Vec<(Strike, Result<(), NotDone>)> {
        let work = strikes.into_iter().map(async |mut strike| {
            let result = self.within(self.overlay(&strike)).await;
            strike.struck = result.is_ok();
            (strike, result)
        });
        future::join_all(work).await
    }

    async fn overlay(&self, strike: &Strike) -> Result<(), NotDone> {
        let order = self.orders.get(strike.order);
        let mut changed = strike.session_ended;
        if strike.revoke_agent || !strike.tokens.is_empty() {
            changed |= client::revoke(self.app, self.request(strike, true))
                .await?
                .changed;
        }
        if strike.session_ended {
            client::end_session(self.app, &strike.agent, self.is_by_owner(strike)).await?;
        }
        let applied_at_ms = self.app.now_ms();
        let fields = json!({
            "agentDid": strike.agent.as_str(),
            "source": order.map(|order| order.source.as_str()),
            "eventId": order.and_then(|order| order.event_id.as_deref()),
            "reason": order.and_then(|order| order.reason.as_deref()),
            "agent": strike.revoke_agent,
            "session": strike.session_ended,
            "tokens": strike.tokens.len(),
            "changed": changed,
            "lag_ms": order.and_then(|order| order.told_at_ms).map(|at_ms| applied_at_ms.saturating_sub(at_ms)),
        });
        self.app.log.info("proxy.revocation.applied", fields);
        Ok(())
    }

    /// Mail that was accepted under a session that the owner has ended is not carried any more.
    fn is_by_owner(&self, strike: &Strike) -> bool {
        let order = self.orders.get(strike.order);
        order.is_some_and(|order| order.reason.as_deref() == Some(OWNER_AUTH_REVOKE))
    }

    fn request(&self, strike: &Strike, unconfirmed: bool) -> RevokeRequest {
        let reason = self
            .orders
            .get(strike.order)
            .and_then(|order| order.reason.as_deref());
        RevokeRequest {
            agent: strike.agent.clone(),
            revoke_agent: strike.revoke_agent,
            tokens: strike.tokens.clone(),
            unconfirmed,
            reissued: Some(reason == Some(REISSUED)),
        }
    }

    /// Closes sockets. What waits for the agent is held until the ledger has spoken.
    async fn close(&self, strike: &Strike) -> (usize, Result<(), NotDone>) {
        let which = match strike.revoke_agent || strike.session_ended {
            true => RevokedSockets::Session,
            false => RevokedSockets::Tokens(jtis_of(&strike.tokens)),
        };
        let close = async {
            let call = RelayCall::RevokeSockets { which };
            match relay::client::call(self.app, &strike.agent, call).await? {
                RelayReply::Closed { .. } => Ok(()),
                _ => Err(NotDone(
                    "the session gave another answer than was asked for".into(),
                )),
            }
        };
        (strike.order, self.within(close).await)
    }

    /// Every step has the patience of its orders, so that what hangs keeps the next batch waiting no longer.
    async fn within<T, E>(&self, step: impl Future<Output = Result<T, E>>) -> Result<T, NotDone>
    where
        NotDone: From<E>,
    {
        let patience_ms = self
            .orders
            .iter()
            .map(|order| order.patience_ms)
            .max()
            .unwrap_or(0);
        match clock::within_ms(patience_ms, step).await {
            Some(result) => result.map_err(NotDone::from),
            None => Err(NotDone("a step did not answer in time".into())),
        }
    }

    fn keep(&mut self, struck: Vec<(Strike, Result<(), NotDone>)>) {
        for (strike, result) in struck {
            self.note(strike.order, result);
            self.strikes.push(strike);
        }
    }

    fn note(&mut self, order: usize, result: Result<(), NotDone>) {
        if let (Some(failure), Err(error)) = (self.failures.get_mut(order), result) {
            failure.get_or_insert(error);
        }
    }

    fn results(self) -> Vec<Result<u64, NotDone>> {
        let latest_before = self.recorded.map_or(0, |recorded| recorded.latest_before);
        let result = |failure: Option<NotDone>| failure.map_or(Ok(latest_before), Err);
        self.failures.into_iter().map(result).collect()
    }
}

fn entry<'a>(order: &'a Order, agent: Option<&'a AgentDid>) -> Entry<'a> {
    Entry {
        agent,
        revoke_agent: order.revoke_agent && order.agent.is_some(),
        session_ended: order.session_ended && order.agent.is_some(),
        tokens: &order.tokens,
        told_expiry_ms: order.told_expiry_ms,
        reason: order.reason.as_deref(),
        source: order.source,
        event_id: order.event_id.as_deref(),
        revoked_at_ms: order.revoked_at_ms,
    }
}

fn jtis_of(tokens: &[TokenRevocation]) -> Vec<Ulid> {
    tokens.iter().map(|token| token.jti).collect()
}

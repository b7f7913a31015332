//! `ProxyTrustState`: the Durable Object of one agent, named by the agent's ULID.
//!
//! It is a thin shell around `core::admission`: it parses a call, runs one synchronous step of the state machine, and
//! writes what the step returns. No step holds the machine across an `await`, so no other call comes between its
//! reads and its writes, and the platform makes these writes durable before it lets the answer out. After a storage
//! error the machine is dropped and loaded again from what is stored.
//!
//! The only thing it waits for is D1, before the step: when it sees a token for the first time, and for the agent's pairs
//! when it has none loaded (docs/design.md §3.1). If a lift or the change of a pair comes in the meantime, D1's answer is
//! out of date, and D1 is asked again. One alarm forgets what has expired, a group of nonces at a time, and takes the
//! ends of pairs to whoever has not been told of them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use wasm_bindgen::prelude::wasm_bindgen;
use wasm_bindgen::{JsError, JsValue};
use worker::{DurableObject, Env, Request, Response, ResponseBuilder, ScheduledTime, State, durable_object};

use super::ledger::FirstSight;
use super::tables::SqlTables;
use super::{pairs, record, takeover};
use crate::app::App;
use crate::clock;
use crate::core::admission::unconfirmed::{Named, TokenLimits};
use crate::core::admission::{
    Admission, CheckReply, Generation, Limits, StoreReply, TrustCall, Unsettled, token_expiry_ms,
};
use crate::log::Log;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::sql::Sql;

/// An alarm that is this late is lost and set again.
const ALARM_LOST_AFTER_MS: u64 = 5 * 60_000;
/// An alarm whose handler failed comes again after this time.
const ALARM_AGAIN: Duration = Duration::from_secs(30);
/// How often a call looks whether the import that another one runs is over.
const TAKING_OVER_PAUSE_MS: u64 = 50;

/// The object.
#[durable_object(alarm)]
pub struct ProxyTrustState {
    state: State,
    env: Env,
    awake: RefCell<Option<Awake>>,
    /// How often something came since it woke that makes an answer of the record an old one.
    changes: Cell<u64>,
    /// It is bringing what an earlier proxy kept into the record.
    taking_over: Cell<bool>,
}

/// What is lost in an eviction and found again.
struct Awake {
    machine: Admission<SqlTables>,
    /// The alarm that is known to be set; after an eviction none is, and setting it again is harmless.
    alarm_at_ms: Option<u64>,
}

/// The call cannot be answered; the caller gets 500 and refuses or tries again. For the log.
struct Failure(String);

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self(error.to_string())
    }
}

impl DurableObject for ProxyTrustState {
    fn new(state: State, env: Env) -> Self {
        Self {
            state,
            env,
            awake: RefCell::new(None),
            changes: Cell::new(0),
            taking_over: Cell::new(false),
        }
    }

    /// A call by an earlier version, while a deployment is under way.
    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        match self.answer_text(&request.text().await?).await {
            Ok(reply) => Ok(ResponseBuilder::new().fixed(reply.into_bytes())),
            Err(text) => Response::error(text, 500),
        }
    }

    async fn alarm(&self) -> worker::Result<Response> {
        if let Err(Failure(error)) = self.on_alarm().await {
            Log.error("proxy.trust.failed", json!({ "error": error }));
            // The platform stops after a few tries of its own.
            self.state.storage().set_alarm(ALARM_AGAIN).await?;
        }
        Response::empty()
    }
}

#[wasm_bindgen]
impl ProxyTrustState {
    /// A `TrustCall` as JSON, answered by its reply as JSON (`objects`).
    pub async fn call(&self, text: String) -> Result<String, JsError> {
        self.answer_text(&text).await.map_err(JsError::new)
    }
}

impl ProxyTrustState {
    /// The error is what the caller may know.
    async fn answer_text(&self, text: &str) -> Result<String, &'static str> {
        let call = serde_json::from_str::<TrustCall>(text).map_err(|_| "not a call")?;
        self.answer(call).await.map_err(|Failure(error)| {
            Log.error("proxy.trust.failed", json!({ "error": error }));
            "the call failed"
        })
    }

    async fn answer(&self, call: TrustCall) -> Result<String, Failure> {
        let app = self.app()?;
        match call {
            TrustCall::Admit(request) => {
                let token = Some((request.jti, request.jti_expires_at_ms));
                self.ask_record(&app, &request.agent, token).await?;
                self.step(&app, |machine, now_ms| machine.admit(now_ms, &request))
            }
            TrustCall::Revoke(request) => {
                let fresh = fresh(&app)?;
                self.step(&app, |machine, _| machine.revoke(&request, fresh))
            }
            TrustCall::Lift(request) => {
                self.changed();
                let fresh = fresh(&app)?;
                self.step(&app, |machine, _| machine.lift(&request, fresh))
            }
            TrustCall::ReplaceGeneration { by_owner: true, .. } => {
                let fresh = fresh(&app)?;
                self.step(&app, |machine, _| machine.hold_session(fresh))
            }
            TrustCall::SessionEnded { at_ms, .. } => {
                self.step(&app, |machine, _| machine.session_ended(at_ms))
            }
            TrustCall::ReplaceGeneration { changed, .. } => {
                let fresh = fresh(&app)?;
                self.step(&app, |machine, _| machine.replace_generation(fresh, changed))
            }
            TrustCall::Check {
                agent,
                peer: Some(peer),
                mail: Some(question),
                ..
            } => {
                self.ask_record(&app, &agent, None).await?;
                for jti in &question.tokens {
                    let token = Some((*jti, token_expiry_ms(None, app.now_ms())));
                    self.ask_record(&app, &agent, token).await?;
                }
                self.step(&app, |machine, now_ms| {
                    machine.check_mail(now_ms, &peer, &question)
                })
            }
            TrustCall::Check {
                agent,
                jti,
                peer,
                pair_id,
                named,
                ..
            } => {
                let token = jti.map(|jti| (jti, token_expiry_ms(None, app.now_ms())));
                self.ask_record(&app, &agent, token).await?;
                self.step(&app, |machine, now_ms| {
                    let reply = machine.check(now_ms, jti, peer.as_ref(), pair_id.as_ref())?;
                    let may_ask = named.map(|named| machine.may_ask(now_ms, &agent, &named));
                    Ok(CheckReply {
                        may_ask: may_ask.transpose()?,
                        ..reply
                    })
                })
            }
            TrustCall::Answered { agent, named, is_yes } => self.step(&app, |machine, now_ms| {
                machine.answered(now_ms, &agent, &named, is_yes)
            }),
            TrustCall::PairChanged { agent, peer } => {
                self.changed();
                self.read_pair(&app, &agent, &peer).await
            }
            TrustCall::EndPair { agent, peer } => {
                self.ask_record(&app, &agent, None).await?;
                self.changed();
                let fresh = fresh(&app)?;
                self.step(&app, |machine, now_ms| {
                    machine.end_pair(now_ms, &agent, &peer, fresh)
                })
            }
            TrustCall::PairEnded {
                agent,
                ended,
                until_ms,
                unrecorded,
            } => {
                self.changed();
                let fresh = fresh(&app)?;
                let untold_by = unrecorded.then_some(&agent);
                let (reply, holds_another) = self.with_awake(&app, |awake, now_ms| {
                    let machine = &mut awake.machine;
                    let reply = machine.pair_ended(now_ms, &ended, until_ms, untold_by, fresh)?;
                    Ok((reply, awake.machine.holds_another(&ended)?))
                })?;
                if holds_another {
                    return self.read_pair(&app, &agent, &ended.peer).await;
                }
                serde_json::to_string(&reply).map_err(|error| Failure(error.to_string()))
            }
            TrustCall::PairSettled { agent, ended } => {
                self.changed();
                let fresh = fresh(&app)?;
                let reply = self.with_awake(&app, |awake, now_ms| {
                    awake.machine.pair_settled(now_ms, &ended, fresh)
                })?;
                if self.with_awake(&app, |awake, _| awake.machine.holds_another(&ended))? {
                    self.read_pair(&app, &agent, &ended.peer).await?;
                }
                serde_json::to_string(&reply).map_err(|error| Failure(error.to_string()))
            }
            TrustCall::TakeOver {} => self.take_over(&app).await,
            TrustCall::StoreValidation(validation) => {
                let named = Named::Token(validation.token_hash);
                self.step(&app, |machine, now_ms| {
                    machine.answered(now_ms, &validation.agent, &named, Some(true))?;
                    machine.store_validation(&validation)
                })
            }
            TrustCall::DropValidation { agent, token_hash } => {
                let named = Named::Token(token_hash);
                self.step(&app, |machine, now_ms| {
                    machine.answered(now_ms, &agent, &named, Some(false))?;
                    machine.drop_validation(&token_hash)
                })
            }
        }
    }

    async fn on_alarm(&self) -> Result<(), Failure> {
        let app = self.app()?;
        let (generation, unsettled) = self.with_awake(&app, |awake, now_ms| {
            awake.alarm_at_ms = None;
            awake.machine.on_alarm(now_ms)?;
            Ok((awake.machine.generation(), awake.machine.to_settle(now_ms)?))
        })?;
        let mut failed = false;
        for Unsettled {
            agent,
            ended,
            until_ms,
        } in &unsettled
        {
            match pairs::settle(&app, agent, ended, *until_ms, generation).await {
                Ok(()) => {
                    if self.with_awake(&app, |awake, _| awake.machine.holds_another(ended))? {
                        self.changed();
                        self.read_pair(&app, agent, &ended.peer).await?;
                    }
                    let fresh = fresh(&app)?;
                    self.with_awake(&app, |awake, now_ms| {
                        awake.machine.pair_settled(now_ms, ended, fresh)
                    })?;
                }
                Err(error) => {
                    failed = true;
                    let fields = json!({ "agentDid": agent.as_str(), "peerAgentDid": ended.peer.as_str(), "error": error });
                    app.log.warn("proxy.pair.unsettled", fields);
                }
            }
        }
        if failed {
            self.with_awake(&app, |awake, now_ms| {
                awake.machine.settling_failed(now_ms);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Whatever the record was asked before this is asked again.
    fn changed(&self) {
        self.changes.set(self.changes.get().wrapping_add(1));
    }

    /// Asks the record about a token (or, without one, about the agent) that this object has not seen before, and for
    /// the agent's pairs, where it has not loaded them. A record that does not answer is a warning: the request goes on
    /// under the CRL, what needs a pair is refused, and the next one asks again, as often as the circuit allows.
    async fn ask_record(
        &self,
        app: &App,
        agent: &AgentDid,
        token: Option<(Ulid, u64)>,
    ) -> Result<(), Failure> {
        let jti = token.map(|(jti, _)| jti);
        let needs = |awake: &mut Awake, _| {
            let machine = &awake.machine;
            Ok((machine.needs_ledger(jti), !machine.peers_loaded()))
        };
        let (needs_record, with_peers) = self.with_awake(app, needs)?;
        if !needs_record {
            return Ok(());
        }
        match record::ask(app, agent, token, with_peers, &self.changes).await {
            Ok(FirstSight { ledger, peers, .. }) => {
                let fresh = fresh(app)?;
                self.with_awake(app, |awake, now_ms| {
                    awake
                        .machine
                        .learn(now_ms, agent, token, ledger, peers.as_deref(), fresh)
                })
            }
            Err(error) => {
                let jti = jti.map(|jti| jti.to_string());
                let fields = json!({ "agentDid": agent.as_str(), "jti": jti, "error": error.to_string() });
                app.log.warn("proxy.trust.ledger_unavailable", fields);
                Ok(())
            }
        }
    }

    /// Reads the record of one pair. An object that has not loaded its pairs reads them all when it needs them.
    async fn read_pair(&self, app: &App, agent: &AgentDid, peer: &AgentDid) -> Result<String, Failure> {
        loop {
            let before = self.changes.get();
            let recorded = pairs::read(app, agent, peer)
                .await
                .map_err(|error| Failure(error.to_string()))?;
            if self.changes.get() != before {
                continue;
            }
            let fresh = fresh(app)?;
            return self.step(app, |machine, now_ms| {
                machine.pair_read(now_ms, agent, peer, recorded.as_ref(), fresh)
            });
        }
    }

    /// One run at a time; who comes meanwhile waits for it.
    async fn take_over(&self, app: &App) -> Result<String, Failure> {
        while self.taking_over.get() {
            clock::sleep_ms(TAKING_OVER_PAUSE_MS).await;
        }
        self.taking_over.set(true);
        let done = takeover::run(app, &self.state.storage()).await;
        self.taking_over.set(false);
        done.map_err(|error| Failure(error.to_string()))?;
        serde_json::to_string(&StoreReply { stored: true }).map_err(|error| Failure(error.to_string()))
    }

    fn step<R: Serialize>(
        &self,
        app: &App,
        step: impl FnOnce(&mut Admission<SqlTables>, u64) -> worker::Result<R>,
    ) -> Result<String, Failure> {
        let reply = self.with_awake(app, |awake, now_ms| step(&mut awake.machine, now_ms))?;
        serde_json::to_string(&reply).map_err(|error| Failure(error.to_string()))
    }

    /// One synchronous step on the machine, woken where it sleeps; then the alarm, if one is due and none is pending.
    fn with_awake<R>(
        &self,
        app: &App,
        step: impl FnOnce(&mut Awake, u64) -> worker::Result<R>,
    ) -> Result<R, Failure> {
        let now_ms = app.now_ms();
        let mut slot = self
            .awake
            .try_borrow_mut()
            .map_err(|_| Failure("a step began while another was running".into()))?;
        // Taken out: where the step fails it is not put back, and the next step reads what is stored.
        let mut awake = match slot.take() {
            Some(awake) => awake,
            None => self.wake(app, now_ms)?,
        };
        let result = step(&mut awake, now_ms)?;
        self.arm(&mut awake, now_ms);
        *slot = Some(awake);
        Ok(result)
    }

    fn wake(&self, app: &App, now_ms: u64) -> Result<Awake, Failure> {
        let (rate, registry) = (&app.config.rate, &app.config.registry);
        let limits = Limits {
            rate_limit: rate.agent_requests,
            rate_window_ms: rate.agent_window_ms,
            warn_skew_s: app.config.clock_skew_warn_s,
            tokens: TokenLimits {
                most: registry.access_unknown_tokens_per_minute as usize,
                first_pause_ms: registry.access_refused_ms,
                longest_pause_ms: registry.access_refused_max_ms,
            },
        };
        let tables = SqlTables::open(Sql::new(self.state.storage().sql()))?;
        Ok(Awake {
            machine: Admission::wake(tables, limits, now_ms, fresh(app)?)?,
            alarm_at_ms: None,
        })
    }

    fn arm(&self, awake: &mut Awake, now_ms: u64) {
        let Some(at_ms) = awake.machine.next_alarm_ms() else {
            return;
        };
        let pending = awake.alarm_at_ms.is_some_and(|alarm_ms| {
            alarm_ms <= at_ms && now_ms < alarm_ms.saturating_add(ALARM_LOST_AFTER_MS)
        });
        if pending {
            return;
        }
        awake.alarm_at_ms = Some(at_ms);
        let storage = self.state.storage();
        self.state.wait_until(async move {
            let at = ScheduledTime::new(js_sys::Date::new(&JsValue::from_f64(at_ms as f64)));
            if let Err(error) = storage.set_alarm(at).await {
                // Nonces are kept longer than they must; the next wake sets it again.
                Log.warn("proxy.trust.alarm_not_set", json!({ "error": error.to_string() }));
            }
        });
    }

    fn app(&self) -> Result<App, Failure> {
        App::new(self.env.clone(), None).map_err(|_| Failure("the settings are not valid".into()))
    }
}

fn fresh(app: &App) -> Result<Generation, Failure> {
    app.random()
        .map(Generation::from_random)
        .map_err(|error| Failure(error.to_string()))
}

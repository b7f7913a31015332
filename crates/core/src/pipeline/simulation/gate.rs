//! The gate of a simulated isolate: what `src/registry`, `src/trust` and `src/routes/gate.rs` do on Workers.

use std::cell::Cell;

use super::super::*;
use super::isolate::{D1_TIMEOUT_MS, Isolate};
use super::world::{BUDGET_MS, Dependency, World};
use crate::admission::unconfirmed::{MayAsk, Named};
use crate::admission::{AdmitReply, AdmitRequest, Rate, StoreValidation, Validations};
use crate::budget::Budget;
use crate::circuit::{Outcome, Permit};
use crate::registry::access::{self, AccessDecision, Keep, Question};
use crate::registry::crl::{self, CrlDecision, Note};
use crate::registry::keys::{KeysDecision, KidCopy, KidDecision};
use crate::registry::lanes::Pass;

const LOOK_AGAIN_MS: u64 = 250; // slower than the real ones, and as good here

type Keys = (usize, Provenance);

/// The outside of one request.
pub struct Gate {
    pub world: World,
    pub isolate: Rc<Isolate>,
    pub agent: usize,
    pub token: u32,
    pub kid: usize,
    pub budget: Budget,
    pub admitted_at: Cell<Option<u64>>,
}

fn unavailable(what: &'static str) -> Refusal {
    Refusal::DependencyUnavailable {
        what,
        retry_after_s: 1,
    }
}

const INCONCLUSIVE: Outcome = Outcome::Inconclusive;

impl Gate {
    /// The same agent and isolate, after the answer, in a time of its own.
    fn background(&self) -> Self {
        Self {
            world: self.world.clone(),
            isolate: self.isolate.clone(),
            budget: Budget::new(self.now_ms(), BUDGET_MS),
            admitted_at: Cell::new(None),
            ..*self
        }
    }

    async fn call<T>(&self, of: Dependency, answer: T) -> Result<T, Outcome> {
        match self.budget.timeout_ms(self.now_ms()) {
            Some(timeout_ms) => self.world.call(self.isolate.name, of, timeout_ms, answer).await,
            None => Err(INCONCLUSIVE),
        }
    }

    async fn held_keys(&self) -> Result<Keys, Refusal> {
        let decide = |read| self.isolate.keys.borrow_mut().decide(read, self.now_ms());
        let mut decision = decide(false);
        if decision == KeysDecision::ReadDurable {
            let timeout_ms = D1_TIMEOUT_MS.min(self.budget.remaining_ms(self.now_ms()));
            let copy = self
                .world
                .ask_d1(timeout_ms)
                .await
                .then(|| self.world.d1_keys())
                .flatten();
            decision = match copy {
                Some((copy, at_ms)) => self
                    .isolate
                    .keys
                    .borrow_mut()
                    .take_over(copy, at_ms, self.now_ms()),
                None => decide(true),
            };
        }
        match decision {
            KeysDecision::Serve {
                value,
                provenance,
                refresh,
            } => {
                if let Some(permit) = refresh {
                    let gate = self.background();
                    self.world.spawn(async move {
                        let _ = gate.fetch_keys(permit).await;
                    });
                }
                Ok((value, provenance))
            }
            KeysDecision::Ask(permit) => self.fetch_keys(permit).await,
            KeysDecision::Unavailable { .. } | KeysDecision::ReadDurable => Err(unavailable("registry_keys")),
        }
    }

    async fn fetch_keys(&self, permit: Permit) -> Result<Keys, Refusal> {
        let asked_at_ms = self.now_ms();
        let answer = self.call(Dependency::Keys, self.world.key_version()).await;
        let version = answer.as_ref().ok().copied();
        let latest = self
            .isolate
            .keys
            .borrow_mut()
            .answered(permit, asked_at_ms, answer, self.now_ms());
        let version = version.ok_or(unavailable("registry_keys"))?;
        if latest {
            let world = self.world.clone();
            self.world.spawn(async move {
                if world.ask_d1(D1_TIMEOUT_MS).await {
                    world.keep_keys(version, asked_at_ms);
                }
            });
        }
        Ok((version, Provenance::NETWORK))
    }

    async fn asked_for_kid(&self) -> Result<Keys, Refusal> {
        loop {
            let decision = self.isolate.keys.borrow_mut().unknown_kid(self.now_ms());
            match decision {
                KidDecision::Refresh(permit) => return self.fetch_keys(permit).await,
                KidDecision::CoolingDown => return self.held_keys().await,
                KidDecision::Wait if self.budget.timeout_ms(self.now_ms()).is_some() => {
                    self.world.sleep(LOOK_AGAIN_MS).await;
                }
                KidDecision::Wait | KidDecision::Unavailable { .. } => {
                    return Err(unavailable("registry_keys"));
                }
            }
        }
    }

    async fn later_keys_in_d1(&self, held_ms: Option<u64>) -> Option<Keys> {
        let until_ms = self.now_ms() + D1_TIMEOUT_MS;
        while self.now_ms() < until_ms {
            let as_of_ms = self.isolate.keys.borrow().as_of_ms();
            if as_of_ms > held_ms {
                return self.held_keys().await.ok();
            }
            let copy = self.isolate.keys.borrow_mut().durable_for_kid(self.now_ms());
            match copy {
                KidCopy::Read => {
                    let answered = self.world.ask_d1(D1_TIMEOUT_MS).await;
                    let mut desk = self.isolate.keys.borrow_mut();
                    desk.durable_was_read();
                    let (copy, at_ms) = self.world.d1_keys().filter(|_| answered)?;
                    return desk.take_over_for_kid(copy, at_ms, self.now_ms());
                }
                KidCopy::BeingRead => {}
                KidCopy::JustRead => return None,
            }
            self.world.sleep(LOOK_AGAIN_MS).await;
        }
        None
    }

    fn named(&self, (version, provenance): Keys) -> (Rc<KeySet>, Provenance) {
        (self.world.key_set(version), provenance)
    }

    async fn fetch_crl(&self, permit: Permit) -> Option<Rc<Vec<Ulid>>> {
        let asked_at_ms = self.now_ms();
        let listed = self.world.crl();
        let answer = if listed.is_empty() {
            crl::Answer::Nothing
        } else {
            crl::Answer::List {
                list: Rc::new(listed),
                iat_s: asked_at_ms / 1000,
            }
        };
        let answer = self
            .call(Dependency::Crl, answer)
            .await
            .unwrap_or_else(crl::Answer::None);
        let list = match &answer {
            crl::Answer::List { list, .. } => list.clone(),
            _ => Rc::default(),
        };
        let mut desk = self.isolate.crl.borrow_mut();
        let note = desk.answered(permit, asked_at_ms, answer, self.now_ms());
        (note == Note::Taken).then_some(list)
    }

    async fn ask_access(
        &self,
        question: Question,
        pass: Pass,
        validation: StoreValidation,
    ) -> access::Answer {
        let asked_at_ms = self.now_ms();
        let answer = match self.world.token_holds(self.agent, self.token) {
            true => access::Answer::Valid,
            false => access::Answer::Invalid,
        };
        let answer = self
            .call(Dependency::Access, answer)
            .await
            .unwrap_or_else(access::Answer::None);
        let keep =
            self.isolate
                .access
                .borrow_mut()
                .answered(&question, pass, asked_at_ms, answer, self.now_ms());
        let gate = self.background();
        let named = Named::Token(validation.token_hash);
        self.world.spawn(async move {
            gate.world.sleep(gate.world.roll(20)).await;
            let is_yes = match keep {
                Keep::Validated { .. } => Some(true),
                Keep::Refused => Some(false),
                Keep::Unanswered | Keep::Nothing => None,
            };
            let now_ms = gate.now_ms();
            gate.world.object(gate.agent, |it| {
                it.answered(now_ms, &validation.agent, &named, is_yes).unwrap()
            });
            match keep {
                Keep::Validated { at_ms } => {
                    let call = StoreValidation {
                        validated_at_ms: at_ms,
                        ..validation
                    };
                    let reply = gate
                        .world
                        .object(gate.agent, |it| it.store_validation(&call).unwrap());
                    if reply.stored {
                        gate.world.kept(gate.agent, gate.token, at_ms);
                    }
                }
                Keep::Refused => {
                    let hash = validation.token_hash;
                    gate.world
                        .object(gate.agent, |it| it.drop_validation(&hash).unwrap());
                    gate.world.dropped(gate.agent, gate.token);
                }
                Keep::Unanswered | Keep::Nothing => {}
            }
        });
        answer
    }
}

impl Ports for Gate {
    type Validations = Validations;

    fn now_ms(&self) -> u64 {
        self.world.now_ms()
    }

    fn expected_issuer(&self) -> &Issuer {
        self.world.issuer()
    }

    fn recall(&self, token_hash: &[u8; 32]) -> Option<VerifiedAit> {
        self.world.remembered(self.agent, self.kid, token_hash)
    }

    fn remember(&self, _token_hash: [u8; 32], _verified: VerifiedAit) {}

    async fn keys(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        Ok(self.named(self.held_keys().await?))
    }

    async fn keys_refreshed(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        let held_ms = self.isolate.keys.borrow().as_of_ms();
        match self.asked_for_kid().await {
            Ok(keys) => Ok(self.named(keys)),
            Err(refusal) => {
                let later = self.later_keys_in_d1(held_ms).await;
                later.map(|keys| self.named(keys)).ok_or(refusal)
            }
        }
    }

    async fn admit(&self, ait: &Ait, proof: &ProofHeaders) -> Result<Admission<Validations>, Refusal> {
        self.world.sleep(self.world.roll(20)).await;
        let request = AdmitRequest {
            agent: ait.sub.clone(),
            jti: ait.jti,
            jti_expires_at_ms: ait.exp_s * 1000,
            timestamp_s: proof.timestamp.seconds(),
            nonce_hash: proof.nonce.hash(),
            attempt: u128::from(self.world.event()).to_be_bytes(),
            peer: Some(self.world.peer_of(self.agent)),
            rate: Rate::Requests,
        };
        let now_ms = self.now_ms();
        let reply = self
            .world
            .object(self.agent, |it| it.admit(now_ms, &request).unwrap());
        self.admitted_at.set(Some(self.world.event()));
        self.world.sleep(self.world.roll(20)).await;
        match reply {
            AdmitReply::Admitted {
                generation,
                peers,
                validations,
                token_lifted,
            } => Ok(Admission {
                generation,
                peers,
                validations,
                token_lifted,
            }),
            AdmitReply::Revoked { .. } => Err(Refusal::Revoked(RevokedBy::OverlayAgent)),
            AdmitReply::Replayed => Err(Refusal::Replay),
            AdmitReply::Skewed => Err(Refusal::TimestampSkew { skew_s: 0 }),
            AdmitReply::OverRate { .. } => Err(Refusal::OverRate { retry_after_s: 1 }),
        }
    }

    async fn crl_lists(&self, jti: &Ulid) -> Result<(bool, Option<Provenance>), Refusal> {
        let without = || {
            let last = self.isolate.crl.borrow().last();
            Ok((last.is_some_and(|list| list.contains(jti)), None))
        };
        loop {
            let decision = self.isolate.crl.borrow_mut().decide(self.now_ms());
            match decision {
                CrlDecision::Serve {
                    list,
                    provenance,
                    refresh,
                } => {
                    if let Some(permit) = refresh {
                        let gate = self.background();
                        self.world.spawn(async move {
                            gate.fetch_crl(permit).await;
                        });
                    }
                    return Ok((list.is_some_and(|list| list.contains(jti)), Some(provenance)));
                }
                CrlDecision::Ask(permit) => {
                    return match self.fetch_crl(permit).await {
                        Some(list) => Ok((list.contains(jti), Some(Provenance::NETWORK))),
                        None => without(),
                    };
                }
                CrlDecision::Wait if self.budget.timeout_ms(self.now_ms()).is_some() => {
                    self.world.sleep(LOOK_AGAIN_MS).await;
                }
                CrlDecision::Wait | CrlDecision::Gone { .. } => return without(),
            }
        }
    }

    async fn validate_access(
        &self,
        ait: &Ait,
        token: &AccessToken,
        admission: &Admission<Validations>,
    ) -> Result<Provenance, Refusal> {
        let question = Question::new(&ait.sub, ait.jti, token.hash(), admission.generation);
        let kept_at_ms = admission.validations.at_ms(&token.hash());
        let validation = StoreValidation {
            agent: ait.sub.clone(),
            jti: ait.jti,
            token_hash: token.hash(),
            validated_at_ms: 0,
            generation: admission.generation,
        };
        let decide = |standing: Option<&MayAsk>| {
            let mut desk = self.isolate.access.borrow_mut();
            desk.decide(&question, kept_at_ms, standing, self.now_ms())
        };
        let mut decision = decide(None);
        if decision == AccessDecision::AskObject {
            let named = Named::Token(token.hash());
            let now_ms = self.now_ms();
            let said = self
                .world
                .object(self.agent, |it| it.may_ask(now_ms, &ait.sub, &named).unwrap());
            decision = decide(Some(&said));
        }
        match decision {
            AccessDecision::Valid { provenance, refresh } => {
                if let Some(pass) = refresh {
                    let gate = self.background();
                    self.world.spawn(async move {
                        gate.ask_access(question, pass, validation).await;
                    });
                }
                Ok(provenance)
            }
            AccessDecision::Invalid => Err(Refusal::AccessInvalid),
            AccessDecision::Ask(pass) => match self.ask_access(question, pass, validation).await {
                access::Answer::Valid => Ok(Provenance::NETWORK),
                access::Answer::Invalid => Err(Refusal::AccessInvalid),
                access::Answer::None(_) => Err(unavailable("registry_access")),
            },
            AccessDecision::Unavailable(_) | AccessDecision::AskObject => Err(unavailable("registry_access")),
        }
    }
}

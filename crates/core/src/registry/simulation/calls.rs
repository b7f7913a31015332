//! The calls of the simulated world: when they are made, and how they end with a registry that works, fails or is
//! slow.

use super::*;

impl World<'_> {
    pub(super) fn call_access(&mut self, agent: usize, token: u8, pass: Pass) {
        let state = &self.agents[agent];
        let valid = state.session && token == state.token;
        let asked = Asked::Access {
            agent,
            token,
            generation: state.generation,
            valid,
            lane: pass.lane(),
        };
        self.call(asked, Right::Pass(pass));
    }

    /// A cache on the way may answer with an old list.
    pub(super) fn call_crl(&mut self, permit: Permit) {
        let age_s = if self.dice.roll(4) == 0 {
            self.dice.roll(1_000)
        } else {
            0
        };
        self.call(
            Asked::Crl {
                iat_s: self.now_ms / SECOND - age_s,
            },
            Right::Permit(permit),
        );
    }

    pub(super) fn call(&mut self, asked: Asked, right: Right) {
        let well = self.mode == Mode::Well;
        let takes_ms = if self.mode == Mode::Slow {
            BUDGET_MS
        } else {
            self.dice.roll(200)
        };
        if !well {
            let outage = self.outages.entry(asked.dependency()).or_default();
            outage.calls += 1;
            outage.in_flight += 1;
        }
        if self.dice.roll(30) == 0 {
            return; // the request was cancelled: nobody will ever report
        }
        let (now_ms, isolate) = (self.now_ms, self.isolate);
        self.calls.push(Call {
            asked,
            right,
            asked_at_ms: now_ms,
            due_ms: now_ms + takes_ms,
            well,
            isolate,
        });
    }

    pub(super) fn answer(&mut self, call: Call) {
        let Call {
            asked,
            right,
            asked_at_ms,
            well,
            isolate,
            ..
        } = call;
        if isolate != self.isolate {
            return;
        }
        let failure = Outcome::Failure {
            kind: FailureKind::Timeout,
            retry_after_ms: None,
        };
        let (now_ms, dependency) = (self.now_ms, asked.dependency());
        match (asked, right) {
            (
                Asked::Access {
                    agent,
                    token,
                    generation,
                    valid,
                    ..
                },
                Right::Pass(pass),
            ) => {
                let answer = match (well, valid) {
                    (false, _) => Answer::None(failure),
                    (true, true) => Answer::Valid,
                    (true, false) => Answer::Invalid,
                };
                let question = self.question(agent, token, generation);
                let keep = self.access.answered(&question, pass, asked_at_ms, answer, now_ms);
                let (did, named) = (&self.dids[agent], Named::Token([token; 32]));
                match answer {
                    Answer::Valid => self.unconfirmed[agent].confirmed(did, &named),
                    Answer::Invalid => self.unconfirmed[agent].refused(did, &named, now_ms),
                    Answer::None(_) => self.unconfirmed[agent].unanswered(did, &named),
                }
                let state = &mut self.agents[agent];
                state.refused |= state.token == token && answer == Answer::Invalid;
                if state.generation == generation && state.token == token {
                    match keep {
                        Keep::Validated { at_ms } => {
                            state.told = Some((at_ms, true));
                            state.kept = Some((token, at_ms));
                        }
                        Keep::Refused => (state.told, state.kept) = (Some((asked_at_ms, false)), None),
                        Keep::Unanswered | Keep::Nothing => {}
                    }
                }
            }
            (Asked::Keys { version }, Right::Permit(permit)) => {
                let answer = if well { Ok(version) } else { Err(failure) };
                if self.keys.answered(permit, asked_at_ms, answer, now_ms) {
                    self.d1_keys = self.d1_keys.max_by_time((version, asked_at_ms));
                }
            }
            (Asked::Crl { iat_s }, Right::Permit(permit)) => {
                let answer = if well {
                    crl::Answer::List { list: iat_s, iat_s }
                } else {
                    crl::Answer::None(failure)
                };
                self.crl.answered(permit, asked_at_ms, answer, now_ms);
            }
            _ => panic!("a call has the right of its kind"),
        }
        if !well && asked_at_ms >= self.outage_since_ms && self.mode != Mode::Well {
            let outage = self.outages.entry(dependency).or_default();
            outage.failures += 1;
            if outage.failures == 5 {
                outage.in_flight_at_fifth = outage.in_flight;
            }
            outage.in_flight = outage.in_flight.saturating_sub(1);
        }
    }
}

impl Asked {
    fn dependency(&self) -> Dependency {
        match self {
            Self::Access { lane, .. } => Dependency::Access(*lane),
            Self::Keys { .. } => Dependency::Keys,
            Self::Crl { .. } => Dependency::Crl,
        }
    }
}

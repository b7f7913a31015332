//! Who is known here and who is paired: the memory of what D1 said, and when D1 is left alone (docs/design.md §4).
//!
//! * A fresh decision is served without a question. For an older one D1 is asked first. Only while D1 does not
//!   answer, or its circuit is open, a decision up to its stale limit is served, with a warning. Nothing is served
//!   past that limit.
//! * The generation is part of the key. It is replaced when a pair is made or removed, and what was remembered under
//!   the old one is not found again. Writers write D1 before they replace it, so whoever comes with the new
//!   generation reads the new row.
//! * A decision is remembered whichever way it went. The memory is bounded, and the entry used least recently goes
//!   first.
//!
//! Asking D1, and deciding what an unknown agent may do, is done elsewhere.

use sha2::{Digest, Sha256};

use super::admission::Generation;
use super::cache::{Ages, Cache, Look};
use super::circuit::{Circuit, CircuitSettings, Outcome, Permit, Transition};
use super::provenance::{Provenance, Source};
use super::registry::answer::FailureKind;
use clawdentity_protocol::did::AgentDid;

/// When a failed question with nothing to serve is worth asking again, where the circuit does not say.
const RETRY_AFTER_MS: u64 = 2_000;

/// What is asked, under the generation of the agent that asks: a hash of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question([u8; 32]);

impl Question {
    /// Has this agent a pair here?
    pub fn known(agent: &AgentDid, generation: Generation) -> Self {
        Self::new("known-v1", agent, "", generation)
    }

    /// Are these two paired? The generation is `agent`'s.
    pub fn pair(agent: &AgentDid, peer: &AgentDid, generation: Generation) -> Self {
        Self::new("pair-v1", agent, peer.as_str(), generation)
    }

    fn new(kind: &str, agent: &AgentDid, peer: &str, generation: Generation) -> Self {
        // No part can hold a line end.
        let text = format!("{kind}\n{generation}\n{}\n{peer}", agent.as_str());
        Self(Sha256::digest(text.as_bytes()).into())
    }
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Serve this.
    Serve {
        /// The answer.
        answer: bool,
        /// `Fresh`, or `Stale` where D1 is left alone.
        provenance: Provenance,
    },
    /// Ask D1 and wait, then `answered` or `failed`.
    Ask(Permit),
    /// D1 is left alone, and there is nothing to serve.
    Unavailable {
        /// When it is worth asking again.
        retry_after_ms: u64,
    },
}

/// The memory and the circuit.
#[derive(Debug)]
pub struct TrustDesk {
    memory: Cache<Question, bool>,
    ages: Ages,
    circuit: Circuit,
}

impl TrustDesk {
    /// The state that knows nothing yet.
    pub fn new(max_entries: usize, ages: Ages, circuit: CircuitSettings) -> Self {
        // D1 is always asked in the foreground: there is no refresh to claim.
        Self {
            memory: Cache::new(max_entries, 0),
            ages,
            circuit: Circuit::new(circuit),
        }
    }

    /// What to do now.
    pub fn decide(&mut self, question: &Question, now_ms: u64) -> Decision {
        let stale = match self.memory.look(question, now_ms) {
            Look::Fresh { value, age_ms } => {
                let provenance = Provenance {
                    source: Source::Fresh,
                    age_ms,
                };
                return Decision::Serve {
                    answer: value,
                    provenance,
                };
            }
            Look::Stale { value, age_ms, .. } => Some((value, age_ms)),
            Look::Fetch => None,
        };
        match (self.circuit.ask(now_ms), stale) {
            (Ok(permit), _) => Decision::Ask(permit),
            (Err(_), Some((answer, age_ms))) => Decision::Serve {
                answer,
                provenance: Provenance {
                    source: Source::Stale,
                    age_ms,
                },
            },
            (Err(refused), None) => Decision::Unavailable {
                retry_after_ms: refused.retry_after_ms,
            },
        }
    }

    /// D1 answered the question asked at `asked_at_ms`.
    pub fn answered(
        &mut self,
        question: Question,
        permit: Permit,
        asked_at_ms: u64,
        answer: bool,
        now_ms: u64,
    ) {
        self.circuit.report(permit, Outcome::Success, now_ms);
        self.memory.put(question, answer, asked_at_ms, self.ages);
    }

    /// D1 did not answer: what may be served in its place.
    ///
    /// # Errors
    /// Nothing may; after how many milliseconds it is worth asking again.
    pub fn failed(
        &mut self,
        question: &Question,
        permit: Permit,
        kind: FailureKind,
        now_ms: u64,
    ) -> Result<(bool, Provenance), u64> {
        self.circuit.report(
            permit,
            Outcome::Failure {
                kind,
                retry_after_ms: None,
            },
            now_ms,
        );
        match self.memory.look(question, now_ms) {
            // Another request was answered meanwhile.
            Look::Fresh { value, age_ms } => Ok((
                value,
                Provenance {
                    source: Source::Fresh,
                    age_ms,
                },
            )),
            Look::Stale { value, age_ms, .. } => Ok((
                value,
                Provenance {
                    source: Source::Stale,
                    age_ms,
                },
            )),
            Look::Fetch => Err(RETRY_AFTER_MS),
        }
    }

    /// The circuit's changes since the last time, to be logged once each.
    pub fn take_transitions(&mut self) -> impl Iterator<Item = Transition> + '_ {
        self.circuit.take_transitions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGES: Ages = Ages {
        fresh_ms: 90_000,
        stale_ms: 900_000,
    };
    const NOW_MS: u64 = 1_700_000_000_000;

    fn did(n: char) -> AgentDid {
        AgentDid::parse(&format!(
            "did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDX{n}{n}"
        ))
        .unwrap()
    }

    fn generation(n: u8) -> Generation {
        Generation::from_random([n; 8])
    }

    fn desk() -> TrustDesk {
        TrustDesk::new(100, AGES, CircuitSettings::default())
    }

    fn ask(desk: &mut TrustDesk, question: &Question, now_ms: u64) -> Permit {
        match desk.decide(question, now_ms) {
            Decision::Ask(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn served(source: Source, age_ms: u64) -> Decision {
        Decision::Serve {
            answer: true,
            provenance: Provenance { source, age_ms },
        }
    }

    /// One life of a decision: asked, fresh, asked again when older, stale only while D1 is down, then dead.
    #[test]
    fn an_outage() {
        let mut desk = desk();
        let question = Question::pair(&did('A'), &did('B'), generation(1));
        let permit = ask(&mut desk, &question, NOW_MS);
        desk.answered(question, permit, NOW_MS, true, NOW_MS + 5);
        assert_eq!(
            desk.decide(&question, NOW_MS + 89_999),
            served(Source::Fresh, 89_999)
        );

        // Older: D1 is asked first. It is down: the last word stands in.
        for n in 0..5 {
            let now_ms = NOW_MS + 90_000 + n;
            let permit = ask(&mut desk, &question, now_ms);
            let stale = Provenance {
                source: Source::Stale,
                age_ms: now_ms - NOW_MS,
            };
            assert_eq!(
                desk.failed(&question, permit, FailureKind::Timeout, now_ms),
                Ok((true, stale))
            );
        }
        // Five failures: left alone, and served at once.
        assert_eq!(
            desk.decide(&question, NOW_MS + 90_005),
            served(Source::Stale, 90_005)
        );
        let stranger = Question::known(&did('C'), generation(1));
        let unavailable = Decision::Unavailable {
            retry_after_ms: 29_999,
        };
        assert_eq!(desk.decide(&stranger, NOW_MS + 90_005), unavailable);

        // The probe fails past the stale limit: nothing is served any more.
        let permit = ask(&mut desk, &question, NOW_MS + 899_999);
        let failed = desk.failed(&question, permit, FailureKind::Timeout, NOW_MS + 900_000);
        assert_eq!(failed, Err(RETRY_AFTER_MS));
        let unavailable = Decision::Unavailable {
            retry_after_ms: 30_000,
        };
        assert_eq!(desk.decide(&question, NOW_MS + 900_000), unavailable);

        // It is back.
        let permit = ask(&mut desk, &question, NOW_MS + 930_000);
        desk.answered(question, permit, NOW_MS + 930_000, true, NOW_MS + 930_001);
        assert_eq!(desk.decide(&question, NOW_MS + 930_001), served(Source::Fresh, 1));
        assert_eq!(desk.take_transitions().count(), 5);
    }

    #[test]
    fn an_answer_is_for_its_question_and_generation_alone() {
        let mut desk = desk();
        let question = Question::pair(&did('A'), &did('B'), generation(1));
        let permit = ask(&mut desk, &question, NOW_MS);
        desk.answered(question, permit, NOW_MS, true, NOW_MS);
        for other in [
            Question::pair(&did('A'), &did('B'), generation(2)),
            Question::pair(&did('B'), &did('A'), generation(1)),
            Question::pair(&did('A'), &did('C'), generation(1)),
            Question::known(&did('A'), generation(1)),
        ] {
            assert!(
                matches!(desk.decide(&other, NOW_MS), Decision::Ask(_)),
                "{other:?}"
            );
        }
        assert_eq!(desk.decide(&question, NOW_MS), served(Source::Fresh, 0));
    }

    #[test]
    fn a_no_is_remembered_as_well() {
        let mut desk = desk();
        let question = Question::known(&did('A'), generation(1));
        let permit = ask(&mut desk, &question, NOW_MS);
        desk.answered(question, permit, NOW_MS, false, NOW_MS);
        let provenance = Provenance {
            source: Source::Fresh,
            age_ms: 0,
        };
        assert_eq!(
            desk.decide(&question, NOW_MS),
            Decision::Serve {
                answer: false,
                provenance
            }
        );
    }
}

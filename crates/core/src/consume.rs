//! What becomes of a queue message that could not be applied, and what a revocation event asks for.
//!
//! The consumers apply, retry and acknowledge. What they have to decide is decided here.

use super::admission::{TokenRevocation, token_expiry_ms};
use super::backoff::{doubled, spread};
use super::canary;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::event::AuthRevoked;

/// First and longest pause between the tries of one message, seconds (docs/design.md §3).
const FIRST_RETRY_S: u64 = 1;
const LONGEST_RETRY_S: u64 = 60;

/// The pause after the n-th try, counted from 1: 1 s, doubling to 60 s, spread by `random`.
pub fn retry_delay_s(attempts: u32, random: u8) -> u32 {
    spread(doubled(FIRST_RETRY_S, LONGEST_RETRY_S, attempts), random) as u32
}

/// What a revocation event asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The agent it names.
    pub agent: Option<AgentDid>,
    /// The agent is revoked: the one that is named, otherwise the one that the tokens belong to.
    pub revoke_agent: bool,
    /// The agent's session ended.
    pub session_ended: bool,
    /// These tokens are revoked.
    pub tokens: Vec<TokenRevocation>,
    /// When the source says that it happened, otherwise now; Unix milliseconds.
    pub revoked_at_ms: u64,
}

impl Revocation {
    /// Of an event that came at `now_ms`.
    pub fn of_event(event: &AuthRevoked, now_ms: u64) -> Self {
        let is_canary = event.agent.as_ref().is_some_and(canary::is_canary);
        let token = |jti: &_| TokenRevocation {
            jti: *jti,
            expires_at_ms: match event.token_expires_at_ms {
                // The canary's token is of our own making: what is told of its life is so.
                Some(told_ms) if is_canary && canary::is_canary_token(*jti) => told_ms,
                told_ms => token_expiry_ms(told_ms, now_ms),
            },
        };
        Self {
            agent: event.agent.clone(),
            revoke_agent: event.effect.revoke_agent,
            session_ended: event.effect.session_ended,
            tokens: event.effect.tokens.iter().map(token).collect(),
            revoked_at_ms: event.event_at_ms.unwrap_or(now_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::overlay::UNKNOWN_EXPIRY_MS;
    use clawdentity_protocol::event::Effect;
    use clawdentity_protocol::testing::{agent, authority, ulid};

    #[test]
    fn pauses_double_to_a_minute() {
        let pauses: Vec<u32> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 100, u32::MAX]
            .map(|attempts| retry_delay_s(attempts, 0))
            .into();
        assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn a_canarys_token_alone_may_be_kept_for_less_than_any_token_can_live() {
        let now_ms = 1_700_000_000_000;
        let canary = canary::Way::Event.agent(&authority());
        let own = canary::token([1; 10]);
        let others = clawdentity_protocol::ids::Ulid::from_parts(now_ms, [1; 10]);
        for (agent, jti, told_ms, expect) in [
            (Some(canary.clone()), own, Some(now_ms + 9), now_ms + 9),
            (Some(canary.clone()), own, None, now_ms + UNKNOWN_EXPIRY_MS),
            (Some(canary), others, Some(now_ms + 9), now_ms + UNKNOWN_EXPIRY_MS),
            (Some(agent(1)), own, Some(now_ms + 9), now_ms + UNKNOWN_EXPIRY_MS),
            (None, own, Some(now_ms + 9), now_ms + UNKNOWN_EXPIRY_MS),
        ] {
            let event = AuthRevoked {
                event_id: None,
                agent,
                effect: Effect {
                    revoke_agent: false,
                    tokens: vec![jti],
                    session_ended: false,
                },
                token_expires_at_ms: told_ms,
                reason: None,
                event_at_ms: None,
                bad_tokens: false,
            };
            let tokens = Revocation::of_event(&event, now_ms).tokens;
            assert_eq!(
                tokens,
                [TokenRevocation {
                    jti,
                    expires_at_ms: expect
                }]
            );
        }
    }

    #[test]
    fn a_revocation_has_times_even_where_its_event_has_none() {
        const NOW_MS: u64 = 1_700_000_000_000;
        let event = AuthRevoked {
            event_id: None,
            agent: Some(agent(1)),
            effect: Effect {
                revoke_agent: false,
                tokens: vec![ulid(7), ulid(8)],
                session_ended: false,
            },
            token_expires_at_ms: None,
            reason: Some("reissued".into()),
            event_at_ms: None,
            bad_tokens: false,
        };
        for (told_ms, at_ms, expiry_ms, revoked_at_ms) in [
            (None, None, NOW_MS + UNKNOWN_EXPIRY_MS, NOW_MS),
            (
                Some(NOW_MS + 9),
                Some(NOW_MS - 5),
                NOW_MS + UNKNOWN_EXPIRY_MS,
                NOW_MS - 5,
            ),
            (
                Some(NOW_MS + 2 * UNKNOWN_EXPIRY_MS),
                None,
                NOW_MS + 2 * UNKNOWN_EXPIRY_MS,
                NOW_MS,
            ),
        ] {
            let event = AuthRevoked {
                token_expires_at_ms: told_ms,
                event_at_ms: at_ms,
                ..event.clone()
            };
            let token = |n| TokenRevocation {
                jti: ulid(n),
                expires_at_ms: expiry_ms,
            };
            let expect = Revocation {
                agent: Some(agent(1)),
                revoke_agent: false,
                session_ended: false,
                tokens: vec![token(7), token(8)],
                revoked_at_ms,
            };
            assert_eq!(Revocation::of_event(&event, NOW_MS), expect);
        }
    }
}

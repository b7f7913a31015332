//! How often the registry is asked about tokens that one agent made up (docs/design.md §4).
//!
//! A valid agent can send any text as its access token, and each text costs a call. The registry takes only so many
//! calls a minute from this proxy's address. Beyond that its answers would count as failures and open the circuit for
//! everybody. Therefore, for each agent by itself:
//!
//! * At most `max_tokens` *different* tokens that were never validated are asked about in any `WINDOW_MS`. A hundred
//!   requests with one good token are one token, and a token that turns out to be valid no longer counts.
//! * A token that the registry refused is asked about again only after a pause. The pause doubles with every refusal
//!   in a row, from `first_pause_ms` to `max_pause_ms`. Until then the token stays refused.
//! * Over the bound, a token that was never asked about is *not* refused, because nobody knows. It may be the fresh
//!   token of an agent whose software sent five old ones. Its caller is told to come back (`Verdict::Wait`), at most
//!   `WINDOW_MS` later.
//!
//! A token is named by a hash of everything that the answer depends on. The same text with another AIT is another
//! question, and a refusal of the one says nothing about the other.
//!
//! The number of agents is bounded. The one that asked least recently is forgotten first.

use std::hash::Hash;
use std::num::NonZeroUsize;

use lru::LruCache;

use crate::backoff::doubled;

/// The minute of "at most 5 a minute".
pub const WINDOW_MS: u64 = 60_000;

/// The figures that the bound depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBoundSettings {
    /// Agents remembered; 0 counts as 1.
    pub max_agents: usize,
    /// Different unvalidated tokens of one agent asked about in a window; 0 counts as 1.
    pub max_tokens: usize,
    /// The pause after the first refusal in a row: as long as a refusal is remembered.
    pub first_pause_ms: u64,
    /// The longest pause in a row; never shortens `first_pause_ms`.
    pub max_pause_ms: u64,
}

/// May this token be asked about?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes. Report with `asked` that you do.
    Ask,
    /// No: the registry refused it lately.
    Refused,
    /// No, and nobody knows whether it is valid.
    Wait {
        /// When it may be asked about again.
        retry_after_ms: u64,
    },
}

/// See the module. `A` names an agent.
#[derive(Debug)]
pub struct TokenBound<A: Hash + Eq> {
    agents: LruCache<A, Agent>,
    max_tokens: usize,
    first_pause_ms: u64,
    max_pause_ms: u64,
}

#[derive(Debug, Default)]
struct Agent {
    /// Never validated, asked about within the window; at most `max_tokens`.
    asked: Vec<Asked>,
    refused_in_a_row: u32,
    last_refused_ms: u64,
}

#[derive(Debug)]
struct Asked {
    token: [u8; 32],
    last_asked_ms: u64,
    refused: bool,
}

impl<A: Hash + Eq> TokenBound<A> {
    /// The state before any agent was seen.
    pub fn new(settings: TokenBoundSettings) -> Self {
        let max_agents = NonZeroUsize::new(settings.max_agents).unwrap_or(NonZeroUsize::MIN);
        Self {
            agents: LruCache::sparse(max_agents),
            max_tokens: settings.max_tokens.max(1),
            first_pause_ms: settings.first_pause_ms,
            max_pause_ms: settings.max_pause_ms.max(settings.first_pause_ms),
        }
    }

    /// May this token of this agent be asked about now?
    pub fn may_ask(&mut self, agent: &A, token: &[u8; 32], now_ms: u64) -> Verdict {
        let (first_pause_ms, max_pause_ms) = (self.first_pause_ms, self.max_pause_ms);
        let Some(state) = self.agents.get_mut(agent) else {
            return Verdict::Ask;
        };
        state.forget(now_ms);
        if let Some(asked) = state.asked.iter().find(|asked| asked.token == *token) {
            let until_ms = state
                .last_refused_ms
                .saturating_add(state.pause_ms(first_pause_ms, max_pause_ms));
            return if asked.refused && now_ms < until_ms {
                Verdict::Refused
            } else {
                Verdict::Ask
            };
        }
        if state.asked.len() < self.max_tokens {
            return Verdict::Ask;
        }
        let oldest_ms = state
            .asked
            .iter()
            .map(|asked| asked.last_asked_ms)
            .min()
            .unwrap_or(now_ms);
        let retry_after_ms = oldest_ms.saturating_add(WINDOW_MS).saturating_sub(now_ms).max(1);
        Verdict::Wait { retry_after_ms }
    }

    /// The token is being asked about.
    pub fn asked(&mut self, agent: A, token: [u8; 32], now_ms: u64) {
        let max_tokens = self.max_tokens;
        let state = self.agents.get_or_insert_mut(agent, Agent::default);
        state.forget(now_ms);
        let room = state.asked.len() < max_tokens;
        match state.asked.iter_mut().find(|asked| asked.token == token) {
            Some(asked) => asked.last_asked_ms = now_ms,
            None if room => state.asked.push(Asked {
                token,
                last_asked_ms: now_ms,
                refused: false,
            }),
            // Nobody asks without `may_ask`; if somebody did, the bound still holds for the next.
            None => {}
        }
    }

    /// The registry said that the token is valid.
    pub fn validated(&mut self, agent: &A, token: &[u8; 32]) {
        if let Some(state) = self.agents.get_mut(agent) {
            state.asked.retain(|asked| asked.token != *token);
            state.refused_in_a_row = 0;
        }
    }

    /// The registry said 401.
    pub fn refused(&mut self, agent: &A, token: &[u8; 32], now_ms: u64) {
        let Some(state) = self.agents.get_mut(agent) else {
            return;
        };
        state.refused_in_a_row = state.refused_in_a_row.saturating_add(1);
        state.last_refused_ms = now_ms;
        if let Some(asked) = state.asked.iter_mut().find(|asked| asked.token == *token) {
            asked.refused = true;
        }
    }
}

impl Agent {
    /// What is older than the window, or from a future that a clock took back.
    fn forget(&mut self, now_ms: u64) {
        let recent = |at_ms: u64| now_ms.checked_sub(at_ms).is_some_and(|age_ms| age_ms < WINDOW_MS);
        self.asked.retain(|asked| recent(asked.last_asked_ms));
        if !recent(self.last_refused_ms) {
            self.refused_in_a_row = 0;
        }
    }

    fn pause_ms(&self, first_ms: u64, max_ms: u64) -> u64 {
        doubled(first_ms, max_ms, self.refused_in_a_row)
    }
}

#[cfg(test)]
mod tests;

//! The overlay in an agent's object: what is revoked, lifted or ended, and what the ledger says of it.

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

use super::super::calls::{Changed, LiftRequest, RevokeReply, RevokeRequest, StoreReply};
use super::super::generation::Generation;
use super::super::overlay::{LedgerAnswer, TokenRevocation};
use super::super::pairs::RecordedPair;
use super::super::tables::Tables;
use super::Admission;

/// Tokens of one agent that are remembered as looked up in the ledger. An agent uses one or two; forgetting one costs
/// one question to the ledger.
pub const MAX_SEEN_TOKENS: usize = 256;

impl<T: Tables> Admission<T> {
    /// Writes a revocation. An agent's revocation replaces the generation with `fresh`, as it voids all that is cached.
    ///
    /// # Errors
    /// The storage's.
    pub fn revoke(&mut self, request: &RevokeRequest, fresh: Generation) -> Result<RevokeReply, T::Error> {
        let mut changed = self.revoke_agent_if(request.revoke_agent, fresh)?;
        for token in &request.tokens {
            let known = self.tables.token_revoked(token.jti)?;
            changed |= self.revoke_token(token)?;
            // A reason that ends the token's authority outweighs a reissue, whichever came first.
            match request.reissued {
                Some(true) if !known => self.tables.put_token_reissued(token, true)?,
                Some(false) if known && self.tables.token_reissued(token.jti)? => {
                    self.tables.put_token_reissued(token, false)?;
                }
                _ => {}
            }
        }
        // What stood confirmed stays so: a repeated order does not take that back. While the agent is revoked, an order about
        // tokens alone says nothing of whether the ledger has confirmed that.
        let unconfirmed = match request.revoke_agent || !self.agent_revoked {
            true => request.unconfirmed && (self.unconfirmed || changed),
            false => self.unconfirmed,
        };
        if self.unconfirmed != unconfirmed {
            self.tables.put_unconfirmed(unconfirmed)?;
            self.unconfirmed = unconfirmed;
        }
        Ok(RevokeReply {
            changed,
            generation: self.generation,
        })
    }

    /// Takes a revocation back. An agent's lift replaces the generation with `fresh`: nothing that was decided before
    /// it is decided now.
    ///
    /// # Errors
    /// The storage's.
    pub fn lift(&mut self, request: &LiftRequest, fresh: Generation) -> Result<RevokeReply, T::Error> {
        let lifts_agent = request.lift_agent && self.agent_revoked;
        if lifts_agent {
            self.tables.delete_agent_revoked()?;
            self.agent_revoked = false;
            self.replace_generation(fresh, Changed::Session)?;
        }
        for token in &request.tokens {
            self.tables.put_token_lifted(token)?;
            self.lifted_tokens.insert(token.jti, token.expires_at_ms);
        }
        if self.unconfirmed {
            self.tables.put_unconfirmed(false)?;
            self.unconfirmed = false;
        }
        Ok(RevokeReply {
            changed: lifts_agent || !request.tokens.is_empty(),
            generation: self.generation,
        })
    }

    /// The agent's owner is said to have ended its session: what was accepted under it is held until the ledger says when
    /// (`session_ended`), because the same event may come again long after the agent has a new session.
    ///
    /// # Errors
    /// The storage's.
    pub fn hold_session(&mut self, fresh: Generation) -> Result<RevokeReply, T::Error> {
        self.tables.put_session_unconfirmed(true)?;
        self.session_unconfirmed = true;
        self.replace_generation(fresh, Changed::Session)
    }

    /// When the agent's owner last ended its session, as the ledger says; none where it knows of no end any more. What
    /// was accepted until then has no authority any more.
    ///
    /// # Errors
    /// The storage's.
    pub fn session_ended(&mut self, at_ms: Option<u64>) -> Result<StoreReply, T::Error> {
        if at_ms > self.session_ended_at_ms {
            self.tables.put_session_ended_at(at_ms.unwrap_or_default())?;
            self.session_ended_at_ms = at_ms;
        }
        if self.session_unconfirmed {
            self.tables.put_session_unconfirmed(false)?;
            self.session_unconfirmed = false;
        }
        Ok(StoreReply { stored: true })
    }

    /// Takes in what the ledger says of the agent and, where one was asked about, of a token; it will not be asked
    /// again.
    ///
    /// # Errors
    /// The storage's.
    pub fn learn(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        token: Option<(Ulid, u64)>,
        answer: LedgerAnswer,
        peers: Option<&[(AgentDid, RecordedPair)]>,
        fresh: Generation,
    ) -> Result<(), T::Error> {
        if let Some(peers) = peers.filter(|_| !self.peers_loaded) {
            self.load_peers(now_ms, agent, peers)?;
        }
        self.revoke_agent_if(answer.agent_revoked, fresh)?;
        if answer.session_ended_at_ms > self.session_ended_at_ms {
            self.tables
                .put_session_ended_at(answer.session_ended_at_ms.unwrap_or_default())?;
            self.session_ended_at_ms = answer.session_ended_at_ms;
        }
        if !self.ledger_asked {
            self.tables.put_ledger_asked()?;
            self.ledger_asked = true;
        }
        let Some((jti, expires_at_ms)) = token else {
            return Ok(());
        };
        let answer = LedgerAnswer {
            token_revoked_until_ms: answer
                .token_revoked_until_ms
                .map(|until_ms| until_ms.max(expires_at_ms)),
            ..answer
        };
        if let Some(until_ms) = answer.token_revoked_until_ms {
            let token = TokenRevocation {
                jti,
                expires_at_ms: until_ms,
            };
            if answer.token_reissued && !self.tables.token_revoked(jti)? {
                self.tables.put_token_reissued(&token, true)?;
            }
            self.revoke_token(&token)?;
        } else if answer.token_lifted && !self.tables.token_revoked(jti)? {
            let token = TokenRevocation { jti, expires_at_ms };
            self.tables.put_token_lifted(&token)?;
            self.lifted_tokens.insert(jti, expires_at_ms);
        }
        while self.seen_tokens.len() >= MAX_SEEN_TOKENS {
            let Some(first) = self
                .seen_tokens
                .iter()
                .min_by_key(|(_, expiry)| **expiry)
                .map(|(jti, _)| *jti)
            else {
                break;
            };
            self.tables.delete_seen_token(first)?;
            self.seen_tokens.remove(&first);
        }
        self.tables.put_seen_token(jti, expires_at_ms)?;
        self.seen_tokens.insert(jti, expires_at_ms);
        Ok(())
    }

    fn revoke_agent_if(&mut self, revoke: bool, fresh: Generation) -> Result<bool, T::Error> {
        if !revoke || self.agent_revoked {
            return Ok(false);
        }
        self.tables.put_agent_revoked()?;
        self.agent_revoked = true;
        self.replace_generation(fresh, Changed::Session)?;
        Ok(true)
    }

    pub(super) fn revoke_token(&mut self, token: &TokenRevocation) -> Result<bool, T::Error> {
        let changed = self.tables.put_token_revoked(token)?;
        if self.lifted_tokens.contains_key(&token.jti) {
            self.tables.delete_lifted_token(token.jti)?;
            self.lifted_tokens.remove(&token.jti);
        }
        Ok(changed)
    }
}

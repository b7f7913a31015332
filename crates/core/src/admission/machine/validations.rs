//! What the registry has confirmed of an agent, and whether it may be asked about something that the agent has named.

use clawdentity_protocol::did::AgentDid;

use super::super::calls::{StoreReply, StoreValidation};
use super::super::tables::{Tables, Validation};
use super::super::unconfirmed::{MayAsk, Named};
use super::Admission;

/// Access validations that are kept per agent.
pub const MAX_VALIDATIONS: usize = 4;
/// A yes that repeats one is written at most so often.
const CONFIRM_AGAIN_MS: u64 = 24 * 3_600_000;

impl<T: Tables> Admission<T> {
    /// Keeps a validation made under the present generation.
    ///
    /// # Errors
    /// The storage's.
    pub fn store_validation(&mut self, call: &StoreValidation) -> Result<StoreReply, T::Error> {
        if call.generation != self.generation {
            return Ok(StoreReply { stored: false });
        }
        let StoreValidation {
            jti,
            token_hash,
            validated_at_ms,
            ..
        } = *call;
        let known = self
            .validations
            .iter()
            .find(|validation| validation.token_hash == token_hash);
        if known.is_some_and(|known| known.jti == jti && known.validated_at_ms >= validated_at_ms) {
            return Ok(StoreReply { stored: true });
        }
        let validation = Validation {
            token_hash,
            jti,
            validated_at_ms,
        };
        self.tables.put_validation(&validation)?;
        self.validations.retain(|known| known.token_hash != token_hash);
        self.validations.push(validation);
        if self.validations.len() > MAX_VALIDATIONS {
            let oldest = self
                .validations
                .iter()
                .min_by_key(|validation| validation.validated_at_ms);
            if let Some(token_hash) = oldest.map(|validation| validation.token_hash) {
                self.drop_validation(&token_hash)?;
            }
        }
        Ok(StoreReply { stored: true })
    }

    /// Drops what is kept of an access token.
    ///
    /// # Errors
    /// The storage's.
    pub fn drop_validation(&mut self, token_hash: &[u8; 32]) -> Result<StoreReply, T::Error> {
        if self
            .validations
            .iter()
            .any(|known| known.token_hash == *token_hash)
        {
            self.tables.delete_validation(token_hash)?;
            self.validations.retain(|known| known.token_hash != *token_hash);
        }
        Ok(StoreReply { stored: false })
    }

    /// May the registry be asked about this, which the agent has named?
    ///
    /// # Errors
    /// The storage's.
    pub fn may_ask(&mut self, now_ms: u64, agent: &AgentDid, named: &Named) -> Result<MayAsk, T::Error> {
        let confirmed = match named {
            Named::Token(hash) => self.validations.iter().any(|known| known.token_hash == *hash),
            other => {
                let tables = &self.tables;
                let at_ms = other
                    .with_confirmed(|what| tables.confirmed_at_ms(what))
                    .transpose()?;
                at_ms.flatten().is_some()
            }
        };
        if confirmed {
            return Ok(MayAsk::Confirmed);
        }
        let known =
            !self.validations.is_empty() || self.tables.has_confirmed()? || self.tables.peers(None)?.0;
        Ok(self.unconfirmed_names.may_ask(agent, named, known, now_ms))
    }

    /// What the registry said about something that the agent has named; none where it did not say.
    ///
    /// # Errors
    /// The storage's.
    pub fn answered(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        named: &Named,
        is_yes: Option<bool>,
    ) -> Result<StoreReply, T::Error> {
        let tables = &self.tables;
        match is_yes {
            Some(true) => {
                named
                    .with_confirmed(|what| {
                        let at_ms = tables.confirmed_at_ms(what)?;
                        let age_ms = at_ms.and_then(|at_ms| now_ms.checked_sub(at_ms));
                        match age_ms {
                            Some(age_ms) if age_ms < CONFIRM_AGAIN_MS => Ok(()),
                            _ => tables.put_confirmed(what, now_ms),
                        }
                    })
                    .transpose()?;
                self.unconfirmed_names.confirmed(agent, named);
            }
            Some(false) => {
                named
                    .with_confirmed(|what| match tables.confirmed_at_ms(what)? {
                        Some(_) => tables.delete_confirmed(what),
                        None => Ok(()),
                    })
                    .transpose()?;
                self.unconfirmed_names.refused(agent, named, now_ms);
            }
            None => self.unconfirmed_names.unanswered(agent, named),
        }
        Ok(StoreReply { stored: true })
    }
}

//! The state machine of one agent's `ProxyTrustState`. The parent module says what it promises. Here are waking, admission
//! and the answers to questions; `revocations`, `pairs` and `validations` have what changes each of these.
//!
//! Storage is written before memory, so a write that fails changes nothing. Memory holds exactly what `Tables::load`
//! would find, so an eviction between any two steps changes no answer.

mod pairs;
mod revocations;
mod validations;

use std::collections::HashMap;

pub use self::pairs::{KEEP_ENDED_MS, Unsettled};
pub use self::revocations::MAX_SEEN_TOKENS;
pub use self::validations::MAX_VALIDATIONS;
use super::calls::{
    AdmitReply, AdmitRequest, Changed, CheckReply, MailQuestion, MailReply, RevokeReply, Validated,
    Validations,
};
use super::generation::Generation;
use super::nonces;
use super::overlay::{RevokedWhat, TokenRevocation};
use super::pairs::PairId;
use super::rate::{RECEIPTS_LIMIT, RECEIPTS_WINDOW_MS, Rate, RateLog};
use super::skew::SkewLog;
use super::tables::{NonceRow, Stored, Tables, Validation};
use super::unconfirmed::{TokenLimits, Unconfirmed};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// Expired rows of tokens are kept this much longer, so that a clock that ran ahead for a while loses none, and longer than
/// any mail that was accepted under a token can wait (seven days).
pub const SWEEP_GRACE_MS: u64 = 8 * 24 * 3_600_000;

/// What the registry confirmed is remembered for so long after it last did: longer than any receipt is kept.
pub const KEEP_CONFIRMED_MS: u64 = 8 * 24 * 3_600_000;

/// The settings it works with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Admissions within the window.
    pub rate_limit: u32,
    /// The window.
    pub rate_window_ms: u64,
    /// A clock that is off by more seconds than this is kept on disk.
    pub warn_skew_s: u64,
    /// Of the tokens that nobody has confirmed.
    pub tokens: TokenLimits,
}

impl Limits {
    /// The longest window of all rates.
    fn longest_window_ms(&self) -> u64 {
        self.rate_window_ms.max(RECEIPTS_WINDOW_MS)
    }
}

/// What one agent's object knows and decides.
pub struct Admission<T> {
    tables: T,
    limits: Limits,
    generation: Generation,
    peers_loaded: bool,
    /// When others are next told of the pairs that this agent has ended, and how often that has failed.
    settle_due_ms: Option<u64>,
    settle_failures: u32,
    agent_revoked: bool,
    ledger_asked: bool,
    forgotten_through: Option<u64>,
    oldest_bucket: Option<u64>,
    requests: RateLog,
    receipts: RateLog,
    seen_tokens: HashMap<Ulid, u64>,
    validations: Vec<Validation>,
    lifted_tokens: HashMap<Ulid, u64>,
    skews: SkewLog,
    unconfirmed: bool,
    session_ended_at_ms: Option<u64>,
    session_unconfirmed: bool,
    unconfirmed_names: Unconfirmed,
}

impl<T: Tables> Admission<T> {
    /// Wakes the object: everything is as it was before it slept. An object that has no generation yet takes `fresh`,
    /// which must be random.
    ///
    /// # Errors
    /// The storage's.
    pub fn wake(tables: T, limits: Limits, now_ms: u64, fresh: Generation) -> Result<Self, T::Error> {
        let Stored {
            generation,
            peers_loaded,
            agent_revoked,
            ledger_asked,
            forgotten_through,
            oldest_bucket,
            admissions,
            seen_tokens,
            validations,
            lifted_tokens,
            skews,
            unconfirmed,
            session_ended_at_ms,
            session_unconfirmed,
        } = tables.load(now_ms.saturating_sub(limits.longest_window_ms()))?;
        let generation = match generation {
            Some(generation) => generation,
            None => {
                tables.put_generation(fresh, Changed::Session)?;
                fresh
            }
        };
        let seen_at_ms = |rate: Rate| {
            let of_rate = admissions.iter().filter(|(of, _)| *of == rate);
            of_rate.map(|(_, seen_at_ms)| *seen_at_ms).collect()
        };
        let settle_due_ms = (!tables.unsettled()?.is_empty()).then_some(now_ms);
        Ok(Self {
            tables,
            limits,
            generation,
            peers_loaded,
            settle_due_ms,
            settle_failures: 0,
            agent_revoked,
            ledger_asked,
            forgotten_through,
            oldest_bucket,
            requests: RateLog::new(
                limits.rate_limit,
                limits.rate_window_ms,
                seen_at_ms(Rate::Requests),
            ),
            receipts: RateLog::new(RECEIPTS_LIMIT, RECEIPTS_WINDOW_MS, seen_at_ms(Rate::Receipts)),
            seen_tokens: seen_tokens.into_iter().collect(),
            validations,
            lifted_tokens: lifted_tokens.into_iter().collect(),
            skews,
            unconfirmed,
            session_ended_at_ms,
            session_unconfirmed,
            unconfirmed_names: Unconfirmed::new(limits.tokens),
        })
    }

    /// Decides about one request: revoked, then the same attempt again, then the clock, replay, rate.
    ///
    /// # Errors
    /// The storage's; nothing was admitted then.
    pub fn admit(&mut self, now_ms: u64, request: &AdmitRequest) -> Result<AdmitReply, T::Error> {
        if self.agent_revoked {
            return Ok(AdmitReply::Revoked {
                what: RevokedWhat::Agent,
            });
        }
        let facts = self.tables.facts(request, nonces::live_buckets(now_ms))?;
        if facts.token_revoked {
            // Whoever presents the token tells how long it lives, and so how long its revocation must be kept.
            self.revoke_token(&TokenRevocation {
                jti: request.jti,
                expires_at_ms: request.jti_expires_at_ms,
            })?;
            return Ok(AdmitReply::Revoked {
                what: RevokedWhat::Token,
            });
        }
        if facts.attempt == Some(request.attempt) {
            return Ok(self.admitted(request, facts.peers));
        }
        let bucket = nonces::bucket_of(request.timestamp_s);
        if !nonces::within_skew(now_ms, request.timestamp_s) || self.forgotten_through >= Some(bucket) {
            return Ok(AdmitReply::Skewed);
        }
        if facts.attempt.is_some() {
            return Ok(AdmitReply::Replayed);
        }
        if let Err(retry_after_s) = self.log_of(request.rate).check(now_ms) {
            return Ok(AdmitReply::OverRate { retry_after_s });
        }
        let row = NonceRow {
            bucket,
            hash: request.nonce_hash,
            attempt: request.attempt,
            seen_at_ms: now_ms,
            rate: request.rate,
        };
        self.tables.insert_nonce(&row)?;
        self.log_of(request.rate).record(now_ms);
        let skew_s = (now_ms / 1000) as i64 - request.timestamp_s as i64;
        if self.skews.record(now_ms, skew_s, self.limits.warn_skew_s) {
            self.tables.put_skews(&self.skews.to_text())?;
        }
        self.oldest_bucket = Some(self.oldest_bucket.map_or(bucket, |oldest| oldest.min(bucket)));
        Ok(self.admitted(request, facts.peers))
    }

    /// Voids what is cached about the agent and may have changed.
    ///
    /// # Errors
    /// The storage's.
    pub fn replace_generation(
        &mut self,
        fresh: Generation,
        changed: Changed,
    ) -> Result<RevokeReply, T::Error> {
        self.tables.put_generation(fresh, changed)?;
        self.generation = fresh;
        if changed == Changed::Session {
            self.validations.clear();
        }
        Ok(RevokeReply {
            changed: true,
            generation: fresh,
        })
    }

    /// Forgets what can no longer matter. Returns when to be called again, if there is anything left to do.
    ///
    /// # Errors
    /// The storage's.
    pub fn on_alarm(&mut self, now_ms: u64) -> Result<Option<u64>, T::Error> {
        let through = nonces::forgettable_through(now_ms, self.limits.longest_window_ms());
        if let Some(through) =
            through.filter(|through| self.oldest_bucket.is_some_and(|oldest| oldest <= *through))
        {
            let forgotten = self.tables.forget_nonces(through)?;
            self.forgotten_through = self.forgotten_through.max(forgotten.highest);
            self.oldest_bucket = forgotten.oldest_left;
        }
        let expired_before_ms = now_ms.saturating_sub(SWEEP_GRACE_MS);
        self.tables.sweep_tokens(expired_before_ms)?;
        self.tables.sweep_ended(now_ms.saturating_sub(KEEP_ENDED_MS))?;
        self.tables
            .sweep_confirmed(now_ms.saturating_sub(KEEP_CONFIRMED_MS))?;
        self.seen_tokens.retain(|_, expiry| *expiry >= expired_before_ms);
        self.lifted_tokens
            .retain(|_, expiry| *expiry >= expired_before_ms);
        Ok(self.next_alarm_ms())
    }

    /// When `on_alarm` has something to forget, or others are to be told of the end of a pair; Unix milliseconds.
    pub fn next_alarm_ms(&self) -> Option<u64> {
        let forget_at_ms = self
            .oldest_bucket
            .map(|bucket| nonces::forget_at_ms(bucket, self.limits.longest_window_ms()));
        forget_at_ms.into_iter().chain(self.settle_due_ms).min()
    }

    /// The agent's generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the record of the agent's pairs has been read.
    pub fn peers_loaded(&self) -> bool {
        self.peers_loaded
    }

    /// Whether the ledger must be asked first: at a token's first sight, or (no token) at the agent's.
    pub fn needs_ledger(&self, jti: Option<Ulid>) -> bool {
        match jti {
            _ if !self.peers_loaded => true,
            Some(jti) => !self.seen_tokens.contains_key(&jti),
            None => !self.ledger_asked,
        }
    }

    /// How the agent, or a token of it, stands.
    ///
    /// # Errors
    /// The storage's.
    pub fn check(
        &self,
        now_ms: u64,
        jti: Option<Ulid>,
        peer: Option<&AgentDid>,
        pair_id: Option<&PairId>,
    ) -> Result<CheckReply, T::Error> {
        let revoked = match jti {
            _ if self.agent_revoked => Some(RevokedWhat::Agent),
            Some(jti) if self.tables.token_revoked(jti)? => Some(RevokedWhat::Token),
            _ => None,
        };
        Ok(CheckReply {
            revoked,
            generation: self.generation,
            worst_skew: self.skews.worst(now_ms),
            unconfirmed: revoked.is_some() && self.unconfirmed,
            reissued: match jti {
                Some(jti) if revoked == Some(RevokedWhat::Token) => self.tables.token_reissued(jti)?,
                _ => false,
            },
            session_ended_at_ms: self.session_ended_at_ms,
            session_unconfirmed: self.session_unconfirmed,
            peers: self.peers(peer, pair_id)?,
            met: peer
                .map(|peer| self.tables.has_met(peer))
                .transpose()?
                .unwrap_or(false),
            may_ask: None,
            mail: None,
        })
    }

    /// How the agent stands, and what has ended of what its mail to `peer` rests on.
    ///
    /// # Errors
    /// The storage's.
    pub fn check_mail(
        &self,
        now_ms: u64,
        peer: &AgentDid,
        question: &MailQuestion,
    ) -> Result<CheckReply, T::Error> {
        let reply = self.check(now_ms, None, Some(peer), None)?;
        let mut mail = MailReply::default();
        for jti in &question.tokens {
            if self.tables.token_revoked(*jti)? && !self.tables.token_reissued(*jti)? {
                mail.ended_tokens.push(*jti);
            }
        }
        for pair_id in &question.pairs {
            if self.tables.has_ended(peer, pair_id)? {
                mail.ended_pairs.push(pair_id.clone());
            }
        }
        let any_revoked = reply.revoked.is_some() || !mail.ended_tokens.is_empty();
        Ok(CheckReply {
            unconfirmed: any_revoked && self.unconfirmed,
            mail: Some(mail),
            ..reply
        })
    }

    fn log_of(&mut self, rate: Rate) -> &mut RateLog {
        match rate {
            Rate::Requests => &mut self.requests,
            Rate::Receipts => &mut self.receipts,
        }
    }

    fn unchanged(&self) -> RevokeReply {
        RevokeReply {
            changed: false,
            generation: self.generation,
        }
    }

    fn admitted(&self, request: &AdmitRequest, (known, pair): (bool, Option<PairId>)) -> AdmitReply {
        let of_this_ait = self
            .validations
            .iter()
            .filter(|validation| validation.jti == request.jti);
        let validated = |v: &Validation| Validated {
            token_hash: v.token_hash,
            at_ms: v.validated_at_ms,
        };
        AdmitReply::Admitted {
            generation: self.generation,
            peers: self.peers_reply(request.peer.as_ref(), known, pair),
            validations: Validations(of_this_ait.map(validated).collect()),
            token_lifted: self.lifted_tokens.contains_key(&request.jti),
        }
    }
}

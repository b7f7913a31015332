//! What the state machine needs of an agent's storage. The SQL is in the Worker's `trust::tables`, a model of it in
//! the tests.
//!
//! Every method is synchronous and takes effect at once. The platform writes what one step wrote as one transaction,
//! and lets no answer out before that. So the machine may treat each of its steps as atomic and durable.

use std::ops::RangeInclusive;

use super::calls::{AdmitRequest, Changed};
use super::generation::Generation;
use super::overlay::TokenRevocation;
use super::pairs::{EndedPair, PairId};
use super::rate::Rate;
use super::skew::SkewLog;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// A nonce that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonceRow {
    /// See `nonces::bucket_of`.
    pub bucket: u64,
    /// SHA-256 of the nonce.
    pub hash: [u8; 32],
    /// Which attempt it was accepted for.
    pub attempt: [u8; 16],
    /// When, Unix milliseconds: the rate log is rebuilt from it.
    pub seen_at_ms: u64,
    /// What it counted against.
    pub rate: Rate,
}

/// What one look-up says about a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The nonce is known: the attempt it was accepted for.
    pub attempt: Option<[u8; 16]>,
    /// The token is revoked.
    pub token_revoked: bool,
    /// As [`Tables::peers`] has it of the agent that the request names.
    pub peers: (bool, Option<PairId>),
}

/// What is left after forgetting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// The highest bucket of which a row was deleted: the new mark, where it is higher than the old one.
    pub highest: Option<u64>,
    /// The lowest bucket that still has a row.
    pub oldest_left: Option<u64>,
}

/// A validated access token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validation {
    /// SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// The AIT it was validated with.
    pub jti: Ulid,
    /// When, Unix milliseconds.
    pub validated_at_ms: u64,
}

/// What the machine keeps in memory, as it is found on waking.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The agent's generation.
    pub generation: Option<Generation>,
    /// The record of its pairs was read.
    pub peers_loaded: bool,
    /// The agent is revoked.
    pub agent_revoked: bool,
    /// The ledger was asked about this agent at least once.
    pub ledger_asked: bool,
    /// The mark (`nonces`).
    pub forgotten_through: Option<u64>,
    /// The lowest bucket that has a row.
    pub oldest_bucket: Option<u64>,
    /// What the nonces of the rate windows counted against, and `seen_at_ms`, in any order.
    pub admissions: Vec<(Rate, u64)>,
    /// Tokens the ledger was asked about, with their expiry.
    pub seen_tokens: Vec<(Ulid, u64)>,
    /// The validations.
    pub validations: Vec<Validation>,
    /// Tokens whose revocation was lifted, with their expiry.
    pub lifted_tokens: Vec<(Ulid, u64)>,
    /// How far off its clock was.
    pub skews: SkewLog,
    /// A revocation was written that the ledger has not confirmed yet.
    pub unconfirmed: bool,
    /// When the agent's owner last ended its session, Unix milliseconds.
    pub session_ended_at_ms: Option<u64>,
    /// Its owner is said to have ended its session, and the ledger has not said when.
    pub session_unconfirmed: bool,
}

/// How much is remembered of what the registry confirmed.
pub const MAX_CONFIRMED: usize = 1_000;
/// Agents of whom the time of the last removal is kept.
pub const MAX_REMOVED: usize = 1_000;

/// What the registry can confirm for longer than a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed<'a> {
    /// Whom it is about: a DID.
    pub about: &'a str,
    /// What of it: a group's id, or `owner`.
    pub what: &'a str,
}

/// The storage of one agent's object.
pub trait Tables {
    /// How it fails.
    type Error;

    /// Everything the machine keeps in memory; of the nonces, those seen after `seen_after_ms`.
    ///
    /// # Errors
    /// The storage failed. So for all methods.
    fn load(&self, seen_after_ms: u64) -> Result<Stored, Self::Error>;

    /// One look-up for one admission.
    ///
    /// # Errors
    /// See `load`.
    fn facts(&self, request: &AdmitRequest, buckets: RangeInclusive<u64>) -> Result<Facts, Self::Error>;

    /// Whether a token is revoked.
    ///
    /// # Errors
    /// See `load`.
    fn token_revoked(&self, jti: Ulid) -> Result<bool, Self::Error>;

    /// Keeps a nonce that is in no live bucket.
    ///
    /// # Errors
    /// See `load`.
    fn insert_nonce(&self, row: &NonceRow) -> Result<(), Self::Error>;

    /// Deletes the nonces of all buckets up to and including `through`, the last of a group, and keeps the mark in the same
    /// step.
    ///
    /// # Errors
    /// See `load`.
    fn forget_nonces(&self, through: u64) -> Result<Forgotten, Self::Error>;

    /// Replaces the generation and, where the session changed, deletes all validations in the same step.
    fn put_generation(&self, generation: Generation, changed: Changed) -> Result<(), Self::Error>;

    /// Keeps the text of a `SkewLog`.
    ///
    /// # Errors
    /// See `load`.
    fn put_skews(&self, text: &str) -> Result<(), Self::Error>;

    /// The agent is revoked from now on.
    ///
    /// # Errors
    /// See `load`.
    fn put_agent_revoked(&self) -> Result<(), Self::Error>;

    /// The agent is no longer revoked.
    ///
    /// # Errors
    /// See `load`.
    fn delete_agent_revoked(&self) -> Result<(), Self::Error>;

    /// The revocation of a token is lifted: it is deleted, and the lift kept until this time.
    ///
    /// # Errors
    /// See `load`.
    fn put_token_lifted(&self, token: &TokenRevocation) -> Result<(), Self::Error>;

    /// The lift of a token counts no more.
    ///
    /// # Errors
    /// See `load`.
    fn delete_lifted_token(&self, jti: Ulid) -> Result<(), Self::Error>;

    /// A token is revoked from now on; the later of two expiries counts. True where that changed anything.
    ///
    /// # Errors
    /// See `load`.
    fn put_token_revoked(&self, token: &TokenRevocation) -> Result<bool, Self::Error>;

    /// Whether all that is known of a token's revocation is that the token was reissued.
    ///
    /// # Errors
    /// See `load`.
    fn put_token_reissued(&self, token: &TokenRevocation, reissued: bool) -> Result<(), Self::Error>;

    /// See `put_token_reissued`.
    ///
    /// # Errors
    /// See `load`.
    fn token_reissued(&self, jti: Ulid) -> Result<bool, Self::Error>;

    /// Whether a revocation was written that the ledger has not confirmed yet.
    ///
    /// # Errors
    /// See `load`.
    fn put_unconfirmed(&self, unconfirmed: bool) -> Result<(), Self::Error>;

    /// The agent's owner ended its session.
    ///
    /// # Errors
    /// See `load`.
    fn put_session_ended_at(&self, at_ms: u64) -> Result<(), Self::Error>;

    /// Its owner is said to have ended its session, and the ledger has not said when.
    ///
    /// # Errors
    /// See `load`.
    fn put_session_unconfirmed(&self, unconfirmed: bool) -> Result<(), Self::Error>;

    /// The ledger was asked about the agent.
    ///
    /// # Errors
    /// See `load`.
    fn put_ledger_asked(&self) -> Result<(), Self::Error>;

    /// The ledger was asked about this token.
    ///
    /// # Errors
    /// See `load`.
    fn put_seen_token(&self, jti: Ulid, expires_at_ms: u64) -> Result<(), Self::Error>;

    /// The ledger will be asked about this token again.
    ///
    /// # Errors
    /// See `load`.
    fn delete_seen_token(&self, jti: Ulid) -> Result<(), Self::Error>;

    /// Keeps a validation, in the place of an older one of the same token.
    ///
    /// # Errors
    /// See `load`.
    fn put_validation(&self, validation: &Validation) -> Result<(), Self::Error>;

    /// Forgets a validation.
    ///
    /// # Errors
    /// See `load`.
    fn delete_validation(&self, token_hash: &[u8; 32]) -> Result<(), Self::Error>;

    /// Deletes the revocations, the lifts and the sightings of tokens that expired before this time.
    ///
    /// # Errors
    /// See `load`.
    fn sweep_tokens(&self, expired_before_ms: u64) -> Result<(), Self::Error>;

    /// Whether the agent has any peer, and the pair with this one.
    fn peers(&self, peer: Option<&AgentDid>) -> Result<(bool, Option<PairId>), Self::Error>;

    /// The record of its pairs was read, and these are all.
    fn put_all_peers(&self, peers: &[(AgentDid, PairId)]) -> Result<(), Self::Error>;

    /// The agent is paired with this one, by this pair and no other.
    fn put_peer(&self, peer: &AgentDid, pair_id: &PairId) -> Result<(), Self::Error>;

    /// The agent is not paired with this one.
    fn delete_peer(&self, peer: &AgentDid) -> Result<(), Self::Error>;

    /// Whether this pair has ended.
    fn has_ended(&self, peer: &AgentDid, pair_id: &PairId) -> Result<bool, Self::Error>;

    /// This pair has ended; with the agent of this object, on its own word, where others are still to be told. A second
    /// time changes nothing.
    fn put_ended(
        &self,
        ended: &EndedPair,
        at_ms: u64,
        untold_by: Option<&AgentDid>,
    ) -> Result<(), Self::Error>;

    /// Every pair with this agent that was made until this time has ended. The later of two times counts. Of more than
    /// `MAX_REMOVED` agents the earliest are forgotten, for a caller may name whom it likes.
    fn put_removed_until(&self, peer: &AgentDid, until_ms: u64) -> Result<(), Self::Error>;

    /// See `put_removed_until`.
    fn removed_until_ms(&self, peer: &AgentDid) -> Result<Option<u64>, Self::Error>;

    /// Everybody was told of the end of this pair.
    fn settle_ended(&self, ended: &EndedPair) -> Result<(), Self::Error>;

    /// The pairs of whose end others are still to be told, each with the agent of this object.
    fn unsettled(&self) -> Result<Vec<(AgentDid, EndedPair)>, Self::Error>;

    /// When the registry last confirmed this, Unix milliseconds.
    fn confirmed_at_ms(&self, what: Confirmed<'_>) -> Result<Option<u64>, Self::Error>;

    /// The registry confirmed this. Of more than `MAX_CONFIRMED` the oldest are forgotten.
    fn put_confirmed(&self, what: Confirmed<'_>, at_ms: u64) -> Result<(), Self::Error>;

    /// The registry denies this.
    fn delete_confirmed(&self, what: Confirmed<'_>) -> Result<(), Self::Error>;

    /// Whether the registry has confirmed anything about this agent.
    fn has_confirmed(&self) -> Result<bool, Self::Error>;

    /// Whether this one was confirmed to be in a group, or was a peer whose pair has ended.
    fn has_met(&self, peer: &AgentDid) -> Result<bool, Self::Error>;

    /// Forgets what was confirmed before this time.
    fn sweep_confirmed(&self, before_ms: u64) -> Result<(), Self::Error>;

    /// Forgets the ends of pairs that everybody was told of and that lie before this time.
    fn sweep_ended(&self, before_ms: u64) -> Result<(), Self::Error>;
}

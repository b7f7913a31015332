//! The calls to an agent's `ProxyTrustState`: one JSON call in, one JSON reply out.
//!
//! Every call names the agent, so an object that was just woken does not have to be told whose it is. Every call may
//! be repeated: `admit` because of its attempt id, the others because they merge. Tests pin the formats, because old
//! and new code talk to each other during a deployment.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::generation::Generation;
use super::overlay::{RevokedWhat, TokenRevocation};
use super::pairs::{EndedPair, PairId, PeersReply};
use super::rate::Rate;
use super::skew::WorstSkew;
use super::unconfirmed::{MayAsk, Named};
use clawdentity_protocol::b64;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// What can be asked. Each variant names its reply.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustCall {
    /// May this request pass? `AdmitReply`.
    Admit(AdmitRequest),
    /// Something of the agent is revoked. `RevokeReply`.
    Revoke(RevokeRequest),
    /// What was revoked no longer is, by an operator. `RevokeReply`.
    Lift(LiftRequest),
    /// Something cached about the agent may have changed: its session ended, a pair was made or removed.
    /// `RevokeReply` with the new generation.
    ReplaceGeneration {
        /// The agent.
        agent: AgentDid,
        /// What of it changed.
        #[serde(default)]
        changed: Changed,
        /// The agent's owner is said to have ended its session: what was accepted under it is held until `SessionEnded`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        by_owner: bool,
    },
    /// What the ledger says of the end of the agent's session by its owner. `StoreReply`.
    SessionEnded {
        /// The agent.
        agent: AgentDid,
        /// When it was recorded first, Unix milliseconds; none where the ledger knows of none any more.
        at_ms: Option<u64>,
    },
    /// Is the agent, or this token of it, revoked? For sockets and queued mail, which have no request. `CheckReply`.
    Check {
        /// The agent.
        agent: AgentDid,
        /// The token that opened the socket, where there is one.
        jti: Option<Ulid>,
        /// May the agent write to this one?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<AgentDid>,
        /// And has this pair of the two, under which something was let in before, not been ended?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pair_id: Option<PairId>,
        /// And what mail of the agent to `peer` rests on: has any of that ended? An object that does not know this question
        /// does not answer it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mail: Option<MailQuestion>,
        /// May the registry be asked about this, which the agent has named?
        #[serde(default, skip_serializing_if = "Option::is_none")]
        named: Option<Named>,
    },
    /// What the registry said about something that the agent has named. `StoreReply`.
    Answered {
        /// The agent.
        agent: AgentDid,
        /// What it was about.
        named: Named,
        /// None: it was not asked after all, or did not answer.
        is_yes: Option<bool>,
    },
    /// The record of this pair was written: read it. `RevokeReply`.
    PairChanged {
        /// The agent.
        agent: AgentDid,
        /// The other one of the pair.
        peer: AgentDid,
    },
    /// The agent ends its pair with this one. `EndPairReply`.
    EndPair {
        /// The agent.
        agent: AgentDid,
        /// The other one of the pair.
        peer: AgentDid,
    },
    /// The other one has ended this pair. `RevokeReply`.
    PairEnded {
        /// The agent.
        agent: AgentDid,
        /// Who ended it, and which.
        ended: EndedPair,
        /// With it every pair of the two that was made until then has ended, Unix milliseconds; 0 where that is not known.
        #[serde(default)]
        until_ms: u64,
        /// The record has not been told: this object tells it too, should the other one lose its storage.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unrecorded: bool,
    },
    /// Everybody has been told of the end of this pair. `StoreReply`.
    PairSettled {
        /// The agent.
        agent: AgentDid,
        /// The pair.
        ended: EndedPair,
    },
    /// Bring what an earlier proxy kept into the record; only the object that kept it is asked. `StoreReply`.
    TakeOver {},
    /// The registry called an access token valid. `StoreReply`.
    StoreValidation(StoreValidation),
    /// The registry called it invalid: what is kept of it is dropped. `StoreReply`, never stored.
    DropValidation {
        /// The agent.
        agent: AgentDid,
        /// SHA-256 of the token.
        #[serde(with = "bytes")]
        token_hash: [u8; 32],
    },
}

/// What about an agent changed. The generation is replaced either way. A peer that leaves while the registry is down must
/// not take the access validations along, so these are void only where the session changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Changed {
    /// Its session ended or got a new token: its access validations are void.
    #[default]
    Session,
    /// A pair was made or removed: the access validations stay.
    Pairs,
}

/// One request that wants to be admitted. Everything in it is proven by the pipeline but the timestamp's age, which
/// the object checks again by its own clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmitRequest {
    /// The caller.
    pub agent: AgentDid,
    /// Its AIT.
    pub jti: Ulid,
    /// When that AIT ends, Unix milliseconds.
    pub jti_expires_at_ms: u64,
    /// `X-Claw-Timestamp`, Unix seconds.
    pub timestamp_s: u64,
    /// SHA-256 of `X-Claw-Nonce`.
    #[serde(with = "bytes")]
    pub nonce_hash: [u8; 32],
    /// Random, made once per request and repeated when the call is retried.
    #[serde(with = "bytes")]
    pub attempt: [u8; 16],
    /// The agent that the request is to reach by a pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<AgentDid>,
    /// What it counts against.
    #[serde(default, skip_serializing_if = "Rate::is_requests")]
    pub rate: Rate,
}

/// What the object decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdmitReply {
    /// Go on.
    Admitted {
        /// The agent's generation now.
        generation: Generation,
        /// Its peers, and whether the one that the request names is among them.
        #[serde(default)]
        peers: PeersReply,
        /// The last validations of access tokens with this AIT, in its present session.
        #[serde(default, skip_serializing_if = "Validations::is_empty")]
        validations: Validations,
        /// An operator lifted the revocation of this very token: the polled CRL does not count against it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        token_lifted: bool,
    },
    /// 401 `PROXY_AUTH_REVOKED`.
    Revoked {
        /// What of the caller.
        what: RevokedWhat,
    },
    /// 401 `PROXY_AUTH_REPLAY`.
    Replayed,
    /// 429 `PROXY_RATE_LIMIT_EXCEEDED`.
    OverRate {
        /// `Retry-After`, seconds.
        retry_after_s: u32,
    },
    /// 401 `PROXY_AUTH_TIMESTAMP_SKEW`: by the object's clock, or the nonces of that time are forgotten.
    Skewed,
}

/// When the registry last called which access tokens of one agent and AIT valid. A few at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validations(pub Vec<Validated>);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// SHA-256 of the token.
    #[serde(with = "bytes")]
    pub token_hash: [u8; 32],
    /// When the registry was asked, Unix milliseconds.
    pub at_ms: u64,
}

impl Validations {
    /// When this token was validated, Unix milliseconds.
    pub fn at_ms(&self, token_hash: &[u8; 32]) -> Option<u64> {
        self.0
            .iter()
            .find(|validated| validated.token_hash == *token_hash)
            .map(|validated| validated.at_ms)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A revocation of an agent, of some of its tokens, or both. Who says so, and why, is in the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeRequest {
    /// The agent.
    pub agent: AgentDid,
    /// The agent itself is revoked.
    pub revoke_agent: bool,
    /// These tokens are.
    pub tokens: Vec<TokenRevocation>,
    /// The ledger has not spoken yet. Until it has, what rests on this revocation must be reversible.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
    /// Whether the tokens are revoked only because the agent has newer ones: mail that was accepted under them is still
    /// carried. Where it is not said, what is known of them stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reissued: Option<bool>,
}

/// The lift of an agent's revocation, of those of some of its tokens, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiftRequest {
    /// The agent.
    pub agent: AgentDid,
    /// The agent itself is no longer revoked.
    pub lift_agent: bool,
    /// These tokens are not; the expiry says how long that must be remembered against the polled CRL.
    pub tokens: Vec<TokenRevocation>,
}

/// What a revocation, a lift or a replacement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReply {
    /// False where everything stood already.
    pub changed: bool,
    /// The agent's generation now.
    pub generation: Generation,
}

/// What waiting mail of one agent rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailQuestion {
    /// The tokens that it was accepted under.
    pub tokens: Vec<Ulid>,
    /// The pairs.
    pub pairs: Vec<PairId>,
}

/// What of that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailReply {
    /// These tokens are revoked, and not because they were reissued.
    pub ended_tokens: Vec<Ulid>,
    /// These pairs were ended.
    pub ended_pairs: Vec<PairId>,
}

/// How an agent, or a token of it, stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReply {
    /// What is revoked, if anything.
    pub revoked: Option<RevokedWhat>,
    /// The agent's generation now.
    pub generation: Generation,
    /// How far off its clock was at worst in the last hour, if it was admitted in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_skew: Option<WorstSkew>,
    /// The ledger has not confirmed the revocation yet: mail waits, and is not given up.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
    /// The token was revoked only because it was reissued.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reissued: bool,
    /// When the agent's owner last ended its session, Unix milliseconds: mail accepted up to then has no authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_ended_at_ms: Option<u64>,
    /// Its owner is said to have ended its session, and the ledger has not said when: mail accepted under it waits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session_unconfirmed: bool,
    /// Its peers, and whether the one that was named is among them.
    #[serde(default)]
    pub peers: PeersReply,
    /// What has ended of what was asked for mail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<MailReply>,
    /// The agent may have written to the one that was named before: by a pair that has ended, or in a group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub met: bool,
    /// Whether the registry may be asked about what was named. An older object says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_ask: Option<MayAsk>,
}

/// What became of the end of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndPairReply {
    /// The pair that has ended and of which the other side, the sessions and the record are still to be told. None where
    /// there is no pair, or where its end is known everywhere.
    pub ended: Option<PairId>,
    /// With it every pair of the two that was made until then has ended, Unix milliseconds; 0 where that is not known.
    #[serde(default)]
    pub until_ms: u64,
    /// The record of the agent's pairs could not be read, so nothing is known of one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unavailable: bool,
    /// The agent's generation now.
    pub generation: Generation,
}

/// An access token that the registry called valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreValidation {
    /// The agent.
    pub agent: AgentDid,
    /// The AIT it was validated with.
    pub jti: Ulid,
    /// SHA-256 of the token.
    #[serde(with = "bytes")]
    pub token_hash: [u8; 32],
    /// When the registry was asked, Unix milliseconds.
    pub validated_at_ms: u64,
    /// The generation of the admission under which it was asked.
    pub generation: Generation,
}

/// Whether the validation was kept: only if the generation is still the one it was asked under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReply {
    /// Kept.
    pub stored: bool,
}

/// Fixed bytes as base64url.
pub(super) mod bytes {
    use super::{Deserialize, Deserializer, Serializer, b64, de};

    pub fn serialize<const N: usize, S: Serializer>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&b64::encode(bytes))
    }

    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let text = String::deserialize(deserializer)?;
        b64::decode_array(&text).map_err(|_| de::Error::custom("not base64url of the right length"))
    }
}

#[cfg(test)]
mod tests;

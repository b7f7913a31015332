//! Why a request was refused: one variant for each cause, with its code of docs/wire.md §8.

use std::borrow::Cow;

use serde_json::{Value, json};

use clawdentity_protocol::code::{self, Code};
use clawdentity_protocol::proof::MAX_SKEW_SECONDS;

/// Who said that the caller is revoked. For the log; the caller is told the same either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedBy {
    /// The overlay: the agent.
    OverlayAgent,
    /// The overlay: this token.
    OverlayToken,
    /// The polled CRL.
    Crl,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No `Authorization`.
    MissingToken,
    /// Not `Claw <AIT>`.
    InvalidScheme,
    /// The AIT does not hold; the reason is a fixed text.
    InvalidAit(&'static str),
    /// `X-Claw-Timestamp` is missing or no timestamp.
    InvalidTimestamp(&'static str),
    /// The caller's clock is too far off; ours minus theirs.
    TimestampSkew {
        /// Seconds.
        skew_s: i64,
    },
    /// `X-Claw-Nonce` is missing or no nonce.
    InvalidNonce(&'static str),
    /// The body's hash or the signature does not hold.
    InvalidProof(&'static str),
    /// The agent or its token was revoked.
    Revoked(RevokedBy),
    /// The nonce was seen.
    Replay,
    /// Over the agent's rate.
    OverRate {
        /// Seconds until the window has room.
        retry_after_s: u64,
    },
    /// No pair here.
    UnknownAgent,
    /// D1 does not answer and nothing is cached: fail closed, and say so.
    TrustUnavailable {
        /// Seconds.
        retry_after_s: u64,
    },
    /// No access token.
    AccessRequired,
    /// The access token does not hold.
    AccessInvalid,
    /// Something the decision needs does not answer; `what` is a fixed text.
    DependencyUnavailable {
        /// Which.
        what: &'static str,
        /// Seconds.
        retry_after_s: u64,
    },
    /// Ours is broken; `what` is a fixed text.
    Internal(&'static str),
}

impl Refusal {
    /// The code of docs/wire.md §8.
    pub fn code(&self) -> &'static Code {
        match self {
            Self::MissingToken => &code::PROXY_AUTH_MISSING_TOKEN,
            Self::InvalidScheme => &code::PROXY_AUTH_INVALID_SCHEME,
            Self::InvalidAit(_) => &code::PROXY_AUTH_INVALID_AIT,
            Self::InvalidTimestamp(_) => &code::PROXY_AUTH_INVALID_TIMESTAMP,
            Self::TimestampSkew { .. } => &code::PROXY_AUTH_TIMESTAMP_SKEW,
            Self::InvalidNonce(_) => &code::PROXY_AUTH_INVALID_NONCE,
            Self::InvalidProof(_) => &code::PROXY_AUTH_INVALID_PROOF,
            Self::Revoked(_) => &code::PROXY_AUTH_REVOKED,
            Self::Replay => &code::PROXY_AUTH_REPLAY,
            Self::OverRate { .. } => &code::PROXY_RATE_LIMIT_EXCEEDED,
            Self::UnknownAgent | Self::TrustUnavailable { .. } => &code::PROXY_AUTH_FORBIDDEN,
            Self::AccessRequired => &code::PROXY_AGENT_ACCESS_REQUIRED,
            Self::AccessInvalid => &code::PROXY_AGENT_ACCESS_INVALID,
            Self::DependencyUnavailable { .. } => &code::PROXY_AUTH_DEPENDENCY_UNAVAILABLE,
            Self::Internal(_) => &code::INTERNAL_SERVER_ERROR,
        }
    }

    /// For people; one fixed sentence.
    pub fn message(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::MissingToken => "The Authorization header is missing.",
            Self::InvalidScheme => "Authorization must be `Claw <AIT>`.",
            Self::InvalidAit(_) => "The AIT was not accepted.",
            Self::InvalidTimestamp(_) => "X-Claw-Timestamp must be Unix seconds.",
            Self::TimestampSkew { .. } => {
                "X-Claw-Timestamp is too far from the proxy's clock: see GET /v1/time."
            }
            Self::InvalidNonce(_) => "X-Claw-Nonce must be 1 to 1,024 characters.",
            Self::InvalidProof(_) => "The proof of possession was not accepted.",
            Self::Revoked(_) => "The agent or its token was revoked.",
            Self::Replay => "This nonce was already used.",
            Self::OverRate { .. } => "This agent has sent too many requests.",
            Self::UnknownAgent => "The agent has no pair on this proxy.",
            Self::TrustUnavailable { .. } => {
                "The agents that this agent may talk to cannot be looked up at the moment."
            }
            Self::AccessRequired => "X-Claw-Agent-Access is missing.",
            Self::AccessInvalid => "The access token is not valid: refresh it at the registry.",
            Self::DependencyUnavailable { .. } => {
                "A service that this decision depends on does not answer at the moment."
            }
            Self::Internal(_) => "The proxy could not answer this request.",
        })
    }

    /// What helps the caller and leaks nothing.
    pub fn details(&self) -> Option<Value> {
        match self {
            Self::InvalidAit(reason)
            | Self::InvalidTimestamp(reason)
            | Self::InvalidNonce(reason)
            | Self::InvalidProof(reason) => Some(json!({ "reason": reason })),
            Self::TimestampSkew { skew_s } => {
                Some(json!({ "skewSeconds": skew_s, "maxSkewSeconds": MAX_SKEW_SECONDS }))
            }
            Self::TrustUnavailable { .. } => Some(json!({ "reason": "trust_store_unavailable" })),
            Self::DependencyUnavailable { what, .. } => Some(json!({ "dependency": what })),
            _ => None,
        }
    }

    /// `Retry-After`, seconds.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::OverRate { retry_after_s }
            | Self::TrustUnavailable { retry_after_s }
            | Self::DependencyUnavailable { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }

    /// The fixed text that tells causes of one code apart in the log.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::InvalidAit(reason)
            | Self::InvalidTimestamp(reason)
            | Self::InvalidNonce(reason)
            | Self::InvalidProof(reason)
            | Self::Internal(reason) => Some(reason),
            Self::DependencyUnavailable { what, .. } => Some(what),
            Self::Revoked(RevokedBy::OverlayAgent) => Some("overlay: agent"),
            Self::Revoked(RevokedBy::OverlayToken) => Some("overlay: token"),
            Self::Revoked(RevokedBy::Crl) => Some("crl"),
            Self::TrustUnavailable { .. } => Some("trust_store_unavailable"),
            _ => None,
        }
    }
}

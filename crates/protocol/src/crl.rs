//! The certificate revocation list: the registry's signed list of revoked tokens (docs/wire.md §4.2).
//!
//! A [`Crl`] was verified as a whole: its signature, its closed set of claims, and every entry. It keeps only the
//! sorted 128-bit `jti`s, at 16 bytes each, so its text of up to 32 MiB can be dropped. An entry revokes its token,
//! never the agent.
//!
//! How old a list may be, and what to do without one, is decided elsewhere.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::ait::MAX_SECONDS;
use super::did::{AgentDid, Authority};
use super::ids::Ulid;
use super::issuer::Issuer;
use super::jws::{Jws, JwsError};
use super::keyset::KeySet;
use super::text::{self, MAX_REASON_CHARS, Object, object};
use super::time::parse_loose;

/// The largest CRL: some 150,000 entries.
pub const MAX_CRL_BYTES: usize = 32 * 1024 * 1024;
/// The largest response body around one.
pub const MAX_CRL_BODY_BYTES: usize = MAX_CRL_BYTES + 1024;

/// Why a CRL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum CrlError {
    /// The `kid` does not name an active key. This is the only fault that newer keys can remedy.
    UnknownKid,
    /// The response body is not `{"crl":"…"}`.
    Body,
    /// Not a JWS of ours.
    Jws(#[from] JwsError),
    /// The claims are not the closed set, or one of them breaks its rule.
    Claims(&'static str),
    /// The signature does not belong to that key.
    Signature,
    /// The issuer is not the expected one.
    Issuer,
    /// At or after `exp` when it arrived.
    Expired,
}

impl CrlError {
    /// What to say in a log line. It repeats nothing of the list.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownKid => "kid is not known",
            Self::Body => "body is not {\"crl\":\"…\"} or too large",
            Self::Jws(error) => error.reason(),
            Self::Claims(reason) => reason,
            Self::Signature => "the signature is not valid",
            Self::Issuer => "iss is not the expected issuer",
            Self::Expired => "expired",
        }
    }
}

/// A verified list, or the empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crl {
    /// What the list says of itself; `None` for the empty list, which nobody signs.
    pub info: Option<CrlInfo>,
    /// Sorted, each once.
    jtis: Vec<u128>,
}

/// What a list says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlInfo {
    /// Who issued it.
    pub issuer: Issuer,
    /// Its own id.
    pub jti: Ulid,
    /// When it was issued, Unix seconds.
    pub iat_s: u64,
    /// When it was to be replaced, Unix seconds: checked when it arrived, never later.
    pub exp_s: u64,
}

/// One entry, for whoever reconciles a ledger with the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlEntry {
    /// The revoked token.
    pub jti: Ulid,
    /// Whose token it was. The agent itself is not revoked.
    pub agent: AgentDid,
    /// The reason: one line of at most 280 characters.
    pub reason: Option<String>,
    /// Since when, Unix milliseconds.
    pub revoked_at_ms: u64,
}

impl Crl {
    /// The list of a registry that has revoked nothing yet (`CRL_NOT_FOUND`).
    pub fn empty() -> Self {
        Self::default()
    }

    /// Whether a token is revoked. Costs a binary search.
    pub fn contains(&self, jti: &Ulid) -> bool {
        self.jtis.binary_search(&jti.as_u128()).is_ok()
    }

    /// How many tokens are revoked.
    pub fn len(&self) -> usize {
        self.jtis.len()
    }

    /// Whether no token is revoked.
    pub fn is_empty(&self) -> bool {
        self.jtis.is_empty()
    }
}

/// The list's text in the response body of `GET /v1/crl`; borrowed from it where it can be.
///
/// # Errors
/// `Body`.
pub fn parse_crl_body(body: &[u8]) -> Result<Cow<'_, str>, CrlError> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        crl: Cow<'a, str>,
    }

    if body.len() > MAX_CRL_BODY_BYTES {
        return Err(CrlError::Body);
    }
    object::<Body<'_>>(body)
        .map(|body| body.crl)
        .ok_or(CrlError::Body)
}

/// A list whose header is right and that nobody has verified. Its claims are not looked at before its signature.
#[derive(Clone)]
pub struct UnverifiedCrl<'a>(Jws<'a>);

impl<'a> UnverifiedCrl<'a> {
    /// Splits the list's text and checks its header.
    ///
    /// # Errors
    /// `Jws`.
    pub fn parse(text: &'a str) -> Result<Self, CrlError> {
        Ok(Self(Jws::parse(text, "CRL", MAX_CRL_BYTES)?))
    }

    /// The name of the key that is said to have signed.
    pub fn kid(&self) -> &str {
        self.0.kid()
    }

    /// Checks the signature, the claims, the issuer (where one is expected) and the expiry.
    ///
    /// # Errors
    /// `UnknownKid`, `Signature`, `Jws`, `Claims`, `Issuer` or `Expired`.
    pub fn verify(&self, keys: &KeySet, expected: Option<&Issuer>, now_s: u64) -> Result<Crl, CrlError> {
        self.verify_and_visit(keys, expected, now_s, None)
    }

    /// The same, and hands out every entry in the list's order once the list as a whole is known to be right.
    ///
    /// # Errors
    /// As `verify`; then `visit` was not called.
    pub fn verify_each(
        &self,
        keys: &KeySet,
        expected: Option<&Issuer>,
        now_s: u64,
        mut visit: impl FnMut(CrlEntry),
    ) -> Result<Crl, CrlError> {
        self.verify_and_visit(keys, expected, now_s, Some(&mut visit))
    }

    fn verify_and_visit(
        &self,
        keys: &KeySet,
        expected: Option<&Issuer>,
        now_s: u64,
        visit: Option<&mut dyn FnMut(CrlEntry)>,
    ) -> Result<Crl, CrlError> {
        let key = keys.active(self.kid()).ok_or(CrlError::UnknownKid)?;
        if !self.0.is_signed_by(key) {
            return Err(CrlError::Signature);
        }
        let payload = self.0.decode_payload()?;
        let claims: RawClaims<'_> =
            object(&payload).ok_or(CrlError::Claims("claims are not the closed set of a CRL"))?;
        let authority = claims
            .iss
            .authority()
            .map_err(|_| CrlError::Claims("iss has a host that cannot be part of a DID"))?;
        if claims.iat.max(claims.exp) > MAX_SECONDS || claims.exp <= claims.iat {
            return Err(CrlError::Claims("exp is not after iat"));
        }
        if expected.is_some_and(|expected| *expected != claims.iss) {
            return Err(CrlError::Issuer);
        }
        if now_s >= claims.exp {
            return Err(CrlError::Expired);
        }
        let mut jtis = Vec::new();
        each_entry(claims.revocations, &authority, &mut |entry| {
            jtis.push(entry.jti.as_u128())
        })?;
        if jtis.is_empty() {
            return Err(CrlError::Claims("revocations is empty"));
        }
        if let Some(visit) = visit {
            each_entry(claims.revocations, &authority, visit)?;
        }
        jtis.sort_unstable();
        jtis.dedup();
        jtis.shrink_to_fit();
        let info = CrlInfo {
            issuer: claims.iss,
            jti: claims.jti,
            iat_s: claims.iat,
            exp_s: claims.exp,
        };
        Ok(Crl {
            info: Some(info),
            jtis,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClaims<'a> {
    iss: Issuer,
    jti: Ulid,
    iat: u64,
    exp: u64,
    #[serde(borrow)]
    revocations: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEntry {
    jti: Ulid,
    agent_did: AgentDid,
    #[serde(default)]
    reason: Option<String>,
    revoked_at: Value,
}

/// Parses the entries one by one: there may be a hundred thousand, and all that is kept of most is 16 bytes.
fn each_entry(
    list: &RawValue,
    authority: &Authority,
    visit: &mut dyn FnMut(CrlEntry),
) -> Result<(), CrlError> {
    let mut json = serde_json::Deserializer::from_str(list.get());
    Entries { authority, visit }
        .deserialize(&mut json)
        .map_err(|_| CrlError::Claims("an entry of revocations is not valid"))
}

struct Entries<'a> {
    authority: &'a Authority,
    visit: &'a mut dyn FnMut(CrlEntry),
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of revocations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(Object(entry)) = entries.next_element::<Object<RawEntry>>()? {
            if entry.agent_did.authority() != self.authority.as_str() {
                return Err(A::Error::custom("agentDid and iss have different authorities"));
            }
            if entry
                .reason
                .as_deref()
                .is_some_and(|reason| reason.chars().nth(MAX_REASON_CHARS).is_some())
            {
                return Err(A::Error::custom("reason is too long"));
            }
            let revoked_at_ms =
                parse_loose(&entry.revoked_at).ok_or_else(|| A::Error::custom("revokedAt is not a time"))?;
            (self.visit)(CrlEntry {
                jti: entry.jti,
                agent: entry.agent_did,
                reason: entry.reason.as_deref().and_then(text::reason),
                revoked_at_ms,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

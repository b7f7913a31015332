//! The Agent Identity Token (docs/wire.md §2).
//!
//! There are two steps with a type each. An [`UnverifiedAit`] has the right shape: its header, its closed set of
//! claims, each claim's own rule, and the DIDs' authority, which must match `iss`. An [`Ait`] also carries the
//! registry's signature, comes from the issuer that is expected here, and was within its times when it was verified.
//! Only [`UnverifiedAit::verify`] makes one.
//!
//! Where the keys come from, and whether the token is revoked, is decided elsewhere.

use serde::Deserialize;

use super::did::{AgentDid, HumanDid};
use super::ids::Ulid;
use super::issuer::Issuer;
use super::jws::{Jws, JwsError};
use super::key::PublicKey;
use super::keyset::KeySet;
use super::text::{Object, has_control, object, present};

/// The largest AIT: real ones have about 1 KiB.
pub const MAX_AIT_BYTES: usize = 8 * 1024;
/// The longest `name`.
pub const MAX_NAME_CHARS: usize = 64;
/// The longest `framework`.
pub const MAX_FRAMEWORK_CHARS: usize = 32;
/// The longest `description`.
pub const MAX_DESCRIPTION_CHARS: usize = 280;
/// The longest life: 90 days, in seconds (docs/wire.md §2).
pub const MAX_LIFE_S: u64 = 90 * 24 * 3600;
/// The largest number of seconds that is exact in every client: JavaScript's. In milliseconds it still fits a `u64`.
pub const MAX_SECONDS: u64 = (1 << 53) - 1;

/// Why an AIT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum AitError {
    /// The `kid` is not that of an active key: the only fault that newer keys can mend.
    UnknownKid,
    /// Not a JWS of ours.
    Jws(#[from] JwsError),
    /// The claims are not the closed set, or one of them breaks its rule.
    Claims(&'static str),
    /// The signature is not that key's.
    Signature,
    /// Not from the expected issuer.
    Issuer,
    /// Before `nbf`.
    NotYetValid,
    /// At or after `exp`.
    Expired,
}

impl AitError {
    /// What to tell the caller. It repeats nothing of the token.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::UnknownKid => "kid is not known",
            Self::Jws(error) => error.reason(),
            Self::Claims(reason) => reason,
            Self::Signature => "the signature is not valid",
            Self::Issuer => "iss is not the expected issuer",
            Self::NotYetValid => "not valid yet",
            Self::Expired => "expired",
        }
    }
}

/// A verified AIT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ait {
    /// The agent.
    pub sub: AgentDid,
    /// Who owns it.
    pub owner: HumanDid,
    /// Who issued the token.
    pub issuer: Issuer,
    /// The token's id.
    pub jti: Ulid,
    /// When it was issued, Unix seconds. The future is no fault.
    pub iat_s: u64,
    /// From when it is valid, Unix seconds.
    pub nbf_s: u64,
    /// From when it is no longer valid, Unix seconds.
    pub exp_s: u64,
    /// The agent's name: 1-64 of `A-Za-z0-9._ -`.
    pub name: String,
    /// What the agent runs on: 1-32 characters, none of them control characters.
    pub framework: String,
    /// At most 280 characters, none of them control characters.
    pub description: Option<String>,
    /// The key that the holder must prove possession of.
    pub cnf: PublicKey,
    /// The name of the key that signed the token.
    pub kid: String,
    /// The key that signed the token: a `kid` may be given to another key later.
    pub signed_by: PublicKey,
}

impl Ait {
    /// Whether now is in [`nbf`, `exp`).
    ///
    /// # Errors
    /// `NotYetValid` or `Expired`.
    pub fn check_time(&self, now_s: u64) -> Result<(), AitError> {
        check_time(self.nbf_s, self.exp_s, now_s)
    }
}

/// An AIT of the right shape that nobody has verified.
#[derive(Clone)]
pub struct UnverifiedAit {
    claims: Claims,
    kid: String,
    signed: String,
    signature: [u8; 64],
}

impl UnverifiedAit {
    /// Parses a token and checks all that needs neither keys nor settings nor a clock.
    ///
    /// # Errors
    /// `Jws` or `Claims`.
    pub fn parse(token: &str) -> Result<Self, AitError> {
        let jws = Jws::parse(token, "AIT", MAX_AIT_BYTES)?;
        let claims = Claims::parse(&jws.decode_payload()?).map_err(AitError::Claims)?;
        let (kid, signed, signature) = jws.into_parts();
        Ok(Self {
            claims,
            kid,
            signed: signed.to_owned(),
            signature,
        })
    }

    /// The name of the key that is said to have signed.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Checks the signature, the issuer and the times, in this order.
    ///
    /// # Errors
    /// `UnknownKid`, `Signature`, `Issuer`, `NotYetValid` or `Expired`.
    pub fn verify(&self, keys: &KeySet, expected: &Issuer, now_s: u64) -> Result<Ait, AitError> {
        let signed_by = keys.active(&self.kid).ok_or(AitError::UnknownKid)?;
        if !signed_by.verify(self.signed.as_bytes(), &self.signature) {
            return Err(AitError::Signature);
        }
        let claims = self.claims.clone();
        if claims.issuer != *expected {
            return Err(AitError::Issuer);
        }
        check_time(claims.nbf_s, claims.exp_s, now_s)?;
        Ok(Ait {
            sub: claims.sub,
            owner: claims.owner,
            issuer: claims.issuer,
            jti: claims.jti,
            iat_s: claims.iat_s,
            nbf_s: claims.nbf_s,
            exp_s: claims.exp_s,
            name: claims.name,
            framework: claims.framework,
            description: claims.description,
            cnf: claims.cnf,
            kid: self.kid.clone(),
            signed_by: signed_by.clone(),
        })
    }
}

fn check_time(nbf_s: u64, exp_s: u64, now_s: u64) -> Result<(), AitError> {
    if now_s < nbf_s {
        Err(AitError::NotYetValid)
    } else if now_s >= exp_s {
        Err(AitError::Expired)
    } else {
        Ok(())
    }
}

/// The claims after each one's own rule.
#[derive(Clone)]
struct Claims {
    issuer: Issuer,
    sub: AgentDid,
    owner: HumanDid,
    name: String,
    framework: String,
    description: Option<String>,
    cnf: PublicKey,
    iat_s: u64,
    nbf_s: u64,
    exp_s: u64,
    jti: Ulid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawClaims {
    iss: String,
    sub: String,
    owner_did: String,
    name: String,
    framework: String,
    #[serde(default, deserialize_with = "present")]
    description: Option<String>,
    cnf: Object<RawCnf>,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCnf {
    jwk: Object<RawJwk>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwk {
    kty: String,
    crv: String,
    x: String,
}

impl Claims {
    fn parse(payload: &[u8]) -> Result<Self, &'static str> {
        let raw: RawClaims = object(payload).ok_or("claims are not the closed set of an AIT")?;
        let issuer = Issuer::parse(&raw.iss).map_err(|_| "iss is not an http(s) URL with a host name")?;
        let authority = issuer
            .authority()
            .map_err(|_| "iss has a host that cannot be part of a DID")?;
        let sub = AgentDid::parse(&raw.sub).map_err(|_| "sub is not an agent DID")?;
        let owner = HumanDid::parse(&raw.owner_did).map_err(|_| "ownerDid is not a human DID")?;
        if sub.authority() != authority.as_str() {
            return Err("sub and iss have different authorities");
        }
        if owner.authority() != authority.as_str() {
            return Err("ownerDid and iss have different authorities");
        }
        if !is_name(&raw.name) {
            return Err("name does not match its pattern");
        }
        if raw.framework.is_empty() || !is_text(&raw.framework, MAX_FRAMEWORK_CHARS) {
            return Err("framework is not 1-32 characters");
        }
        if raw
            .description
            .as_deref()
            .is_some_and(|text| !is_text(text, MAX_DESCRIPTION_CHARS))
        {
            return Err("description is over 280 characters or has control characters");
        }
        let jwk = raw.cnf.0.jwk.0;
        if jwk.kty != "OKP" || jwk.crv != "Ed25519" {
            return Err("cnf is not an Ed25519 key");
        }
        let cnf = PublicKey::from_x(&jwk.x).map_err(|_| "cnf is not a canonical point of large order")?;
        if raw.iat.max(raw.nbf).max(raw.exp) > MAX_SECONDS {
            return Err("a time is out of range");
        }
        if raw.exp <= raw.nbf || raw.exp <= raw.iat {
            return Err("exp is not after nbf and iat");
        }
        if raw.exp - raw.nbf > MAX_LIFE_S {
            return Err("it would be valid for more than 90 days");
        }
        Ok(Self {
            issuer,
            sub,
            owner,
            name: raw.name,
            framework: raw.framework,
            description: raw.description,
            cnf,
            iat_s: raw.iat,
            nbf_s: raw.nbf,
            exp_s: raw.exp,
            jti: Ulid::parse(&raw.jti).map_err(|_| "jti is not a ULID")?,
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_CHARS).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b' ' | b'-'))
}

fn is_text(text: &str, max_chars: usize) -> bool {
    text.chars().nth(max_chars).is_none() && !has_control(text)
}

#[cfg(test)]
mod tests;

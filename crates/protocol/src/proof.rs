//! Proof of possession: the headers which show that a caller holds the key that its AIT names (docs/wire.md §3).
//!
//! The texts are signed and checked as they were received. Nothing is normalised on the way: a timestamp with leading
//! zeros keeps them. Nothing in this module is ever printed, because a nonce, a proof and an access token belong to
//! their caller.
//!
//! Whether the timestamp is near enough, and whether the nonce has been seen, is decided by admission.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::b64;
use super::key::PublicKey;
use super::text::has_control;

/// How far a timestamp may be from now, either way, in whole seconds.
pub const MAX_SKEW_SECONDS: u64 = 300;
/// The longest nonce.
pub const MAX_NONCE_CHARS: usize = 1024;
/// The longest agent-access token.
pub const MAX_ACCESS_TOKEN_CHARS: usize = 1024;
/// The first line of what is signed.
pub const PROOF_VERSION: &str = "CLAW-PROOF-V1";
const MAX_TIMESTAMP_DIGITS: usize = 12;

/// Which header is wrong, in the order they are looked at, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// `X-Claw-Timestamp`.
    #[error("{0}")]
    InvalidTimestamp(&'static str),
    /// `X-Claw-Nonce`.
    #[error("{0}")]
    InvalidNonce(&'static str),
    /// `X-Claw-Body-SHA256` or `X-Claw-Proof`.
    #[error("{0}")]
    InvalidProof(&'static str),
}

/// `X-Claw-Timestamp`: Unix seconds of 1 to 12 digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Parses the digits.
    ///
    /// # Errors
    /// `InvalidTimestamp`.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        let digits =
            (1..=MAX_TIMESTAMP_DIGITS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(seconds) if digits => Ok(Self(seconds)),
            _ => Err(ProofError::InvalidTimestamp(
                "X-Claw-Timestamp is not 1-12 digits",
            )),
        }
    }

    /// Unix seconds.
    pub const fn seconds(self) -> u64 {
        self.0
    }
}

/// Now minus the timestamp, in whole seconds: positive where the caller's clock is behind.
pub fn skew_seconds(now_ms: u64, timestamp: Timestamp) -> i64 {
    i64::try_from(i128::from(now_ms / 1000) - i128::from(timestamp.0)).unwrap_or(i64::MAX)
}

/// `X-Claw-Nonce`: not blank, at most 1,024 characters. Only its hash is kept anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// Parses the header as received.
    ///
    /// # Errors
    /// `InvalidNonce`.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        if text.trim().is_empty() {
            return Err(ProofError::InvalidNonce("X-Claw-Nonce is missing or blank"));
        }
        if text.chars().nth(MAX_NONCE_CHARS).is_some() {
            return Err(ProofError::InvalidNonce("X-Claw-Nonce is over 1,024 characters"));
        }
        // A line end would let one nonce stand for another line of the signed text.
        if has_control(text) {
            return Err(ProofError::InvalidNonce("X-Claw-Nonce has control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The form in which it is stored: its SHA-256. The agent is not part of it, because nonces are in the agent's own object.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce")
    }
}

/// The four headers, each well-formed. `verify` and `check_body` say whether they belong to a request.
#[derive(Clone)]
pub struct ProofHeaders {
    /// The caller's time.
    pub timestamp: Timestamp,
    /// What makes the request unique.
    pub nonce: Nonce,
    /// The SHA-256 of the body.
    pub body_sha256: [u8; 32],
    /// The proof.
    pub signature: [u8; 64],
    timestamp_text: String,
}

impl ProofHeaders {
    /// Parses the headers in the order of docs/wire.md §5: timestamp, nonce, body hash, proof. `None` is a missing header.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn parse(
        timestamp: Option<&str>,
        nonce: Option<&str>,
        body_sha256: Option<&str>,
        proof: Option<&str>,
    ) -> Result<Self, ProofError> {
        let text = timestamp.ok_or(ProofError::InvalidTimestamp("X-Claw-Timestamp is missing"))?;
        let timestamp = Timestamp::parse(text)?;
        let nonce = Nonce::parse(nonce.unwrap_or_default())?;
        let body_sha256 = body_sha256.ok_or(ProofError::InvalidProof("X-Claw-Body-SHA256 is missing"))?;
        let body_sha256 = b64::decode_array(body_sha256)
            .map_err(|_| ProofError::InvalidProof("X-Claw-Body-SHA256 is not base64url of 32 bytes"))?;
        let proof = proof.ok_or(ProofError::InvalidProof("X-Claw-Proof is missing"))?;
        let signature = b64::decode_array(proof)
            .map_err(|_| ProofError::InvalidProof("X-Claw-Proof is not base64url of 64 bytes"))?;
        Ok(Self {
            timestamp,
            nonce,
            body_sha256,
            signature,
            timestamp_text: text.to_owned(),
        })
    }

    /// Whether this key signed the headers. The signature covers the declared hash of the body, so no body is needed yet.
    ///
    /// # Errors
    /// `InvalidProof`.
    pub fn verify(&self, key: &PublicKey, method: &str, path_and_query: &str) -> Result<(), ProofError> {
        // base64url is canonical here: encoding the hash again gives the header's own text.
        let body_hash = b64::encode(&self.body_sha256);
        let text = signed_text(
            method,
            path_and_query,
            &self.timestamp_text,
            &self.nonce.0,
            &body_hash,
        );
        if key.verify(text.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(ProofError::InvalidProof(
                "X-Claw-Proof does not verify for this request and key",
            ))
        }
    }
}

impl ProofHeaders {
    /// Whether the body is the one whose hash was declared.
    ///
    /// # Errors
    /// `InvalidProof`.
    pub fn check_body(&self, body: &[u8]) -> Result<(), ProofError> {
        if Sha256::digest(body).as_slice() == self.body_sha256 {
            Ok(())
        } else {
            Err(ProofError::InvalidProof(
                "X-Claw-Body-SHA256 does not match the body",
            ))
        }
    }
}

impl fmt::Debug for ProofHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofHeaders")
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

/// What is signed: six lines, the method in upper case, the rest as sent.
pub fn signed_text(
    method: &str,
    path_and_query: &str,
    timestamp: &str,
    nonce: &str,
    body_hash: &str,
) -> String {
    [
        PROOF_VERSION,
        &method.to_ascii_uppercase(),
        path_and_query,
        timestamp,
        nonce,
        body_hash,
    ]
    .join("\n")
}

/// What is wrong with an `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizationError {
    /// There is none, or a blank one.
    #[error("Authorization is missing")]
    Missing,
    /// Anything but `Claw`, a space and one token.
    #[error("Authorization is not 'Claw <AIT>'")]
    InvalidScheme,
}

/// The token of `Claw <AIT>`. The scheme is case-sensitive.
///
/// # Errors
/// As `AuthorizationError` lists them.
pub fn parse_authorization(header: Option<&str>) -> Result<&str, AuthorizationError> {
    let header = header
        .map(str::trim)
        .filter(|header| !header.is_empty())
        .ok_or(AuthorizationError::Missing)?;
    let token = header
        .strip_prefix("Claw")
        .ok_or(AuthorizationError::InvalidScheme)?;
    let token = token
        .strip_prefix([' ', '\t'])
        .ok_or(AuthorizationError::InvalidScheme)?
        .trim_start();
    if token.contains(char::is_whitespace) {
        Err(AuthorizationError::InvalidScheme)
    } else {
        Ok(token)
    }
}

/// What is wrong with an `X-Claw-Agent-Access` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    /// There is none, or a blank one.
    #[error("X-Claw-Agent-Access is missing")]
    Missing,
    /// Over 1,024 characters, or with others than visible ASCII.
    #[error("X-Claw-Agent-Access is not a token")]
    Invalid,
}

/// `X-Claw-Agent-Access`: visible ASCII of at most 1,024 characters. It is never printed; `expose` is for the registry.
#[derive(Clone)]
pub struct AccessToken(String);

impl AccessToken {
    /// Parses the header.
    ///
    /// # Errors
    /// As `AccessTokenError` lists them.
    pub fn parse(header: Option<&str>) -> Result<Self, AccessTokenError> {
        let text = header
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .ok_or(AccessTokenError::Missing)?;
        if text.len() > MAX_ACCESS_TOKEN_CHARS || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(AccessTokenError::Invalid);
        }
        Ok(Self(text.to_owned()))
    }

    /// The token itself, for the one call that asks the registry about it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Its SHA-256: what caches may know of it.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken")
    }
}

/// The name of a message that has no id of its own: two of the same bytes are the same message.
pub fn body_id(body: &str) -> String {
    format!("body:{}", b64::encode(&Sha256::digest(body.as_bytes())))
}

#[cfg(test)]
mod tests;

//! For tests only: fixed keys, and a registry in a struct that signs good and bad AITs and CRLs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)] // for tests: a failure is a finding

use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::b64;
use super::did::{AgentDid, Authority, HumanDid};
use super::ids::Ulid;
use super::issuer::Issuer;
use super::key::PublicKey;
use super::keyset::KeySet;

/// The signing key of 32 times this byte.
pub fn key(byte: u8) -> SigningKey {
    SigningKey::from_bytes(&[byte; 32])
}

/// A ULID with this number.
pub fn ulid(number: u128) -> Ulid {
    Ulid::from_u128(number)
}

/// The agent with this number at `registry.example.com`.
pub fn agent(number: u128) -> AgentDid {
    AgentDid::from_parts(&authority(), ulid(number))
}

/// `registry.example.com`.
pub fn authority() -> Authority {
    Authority::parse("registry.example.com").unwrap()
}

/// A queue body of the registry's: what `data` holds, in its envelope.
pub fn envelope(kind: &str, data: &Value) -> String {
    json!({
        "id": "evt-1",
        "type": kind,
        "version": "v1",
        "timestampUtc": "2026-01-02T03:04:05.678Z",
        "initiatedByAccountId": "acc",
        "data": data,
    })
    .to_string()
}

/// A compact JWS of these two JSON texts.
pub fn sign_jws(key: &SigningKey, header: &str, payload: &str) -> String {
    let signed = format!(
        "{}.{}",
        b64::encode(header.as_bytes()),
        b64::encode(payload.as_bytes())
    );
    let signature = key.sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", b64::encode(&signature))
}

/// A `claw-keys.json` of `(kid, key, status)`.
pub fn keyset_json(keys: &[(&str, &SigningKey, &str)]) -> String {
    let key = |(kid, key, status): &(&str, &SigningKey, &str)| {
        let x = PublicKey::from(*key).x();
        json!({ "kid": kid, "alg": "EdDSA", "crv": "Ed25519", "x": x, "status": status })
    };
    json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() }).to_string()
}

/// A registry: one signing key `k1`.
pub struct Registry {
    /// Its signing key.
    pub key: SigningKey,
    /// Its `iss`.
    pub issuer: Issuer,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            key: key(1),
            issuer: Issuer::parse("https://registry.example.com").unwrap(),
        }
    }
}

impl Registry {
    /// Its keys.
    pub fn keys(&self) -> KeySet {
        KeySet::parse(keyset_json(&[("k1", &self.key, "active")]).as_bytes()).unwrap()
    }

    /// The claims of a good AIT of agent `number`, valid from 1,000 to 2,000 s, with token id `number` + 1000, for the
    /// holder of `cnf`.
    pub fn ait_claims(&self, number: u128, cnf: &SigningKey) -> Value {
        let authority = self.issuer.authority().unwrap();
        json!({
            "iss": self.issuer,
            "sub": AgentDid::from_parts(&authority, ulid(number)),
            "ownerDid": HumanDid::from_parts(&authority, ulid(500)),
            "name": "Agent 7",
            "framework": "openclaw",
            "description": "helps",
            "cnf": { "jwk": { "kty": "OKP", "crv": "Ed25519", "x": PublicKey::from(cnf).x() } },
            "iat": 1000,
            "nbf": 1000,
            "exp": 2000,
            "jti": ulid(number + 1000),
        })
    }

    /// An AIT of these claims.
    pub fn sign_ait(&self, claims: &Value) -> String {
        sign_jws(
            &self.key,
            r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#,
            &claims.to_string(),
        )
    }

    /// A good AIT: see `ait_claims`.
    pub fn ait(&self, number: u128, cnf: &SigningKey) -> String {
        self.sign_ait(&self.ait_claims(number, cnf))
    }

    /// The claims of a good CRL that lists these agents' tokens `(agent, jti)`, issued at 1,000 s, expiring at 1,390 s.
    pub fn crl_claims(&self, revoked: &[(u128, u128)]) -> Value {
        let authority = self.issuer.authority().unwrap();
        let entry = |(agent, jti): &(u128, u128)| {
            json!({
                "jti": ulid(*jti),
                "agentDid": AgentDid::from_parts(&authority, ulid(*agent)),
                "reason": "reissued",
                "revokedAt": 990,
            })
        };
        let revocations: Vec<_> = revoked.iter().map(entry).collect();
        json!({ "iss": self.issuer, "jti": ulid(9), "iat": 1000, "exp": 1390, "revocations": revocations })
    }

    /// A CRL of these claims.
    pub fn sign_crl(&self, claims: &Value) -> String {
        sign_jws(
            &self.key,
            r#"{"alg":"EdDSA","typ":"CRL","kid":"k1"}"#,
            &claims.to_string(),
        )
    }

    /// A good CRL: see `crl_claims`.
    pub fn crl(&self, revoked: &[(u128, u128)]) -> String {
        self.sign_crl(&self.crl_claims(revoked))
    }
}

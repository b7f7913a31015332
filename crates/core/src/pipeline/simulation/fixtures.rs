//! Tokens that are signed once for all runs, because signatures cost more than the rest of a run.

use super::super::*;
use super::world::START_MS;
use clawdentity_protocol::testing::{self, Registry, key};

pub const AGENTS: usize = 3;
pub const KIDS: usize = 3;

/// What is signed once for all lives.
#[derive(Clone)]
pub struct Fixtures(pub(super) Rc<Signed>);

pub(super) struct Signed {
    pub issuer: Issuer,
    /// The n-th has the first n + 1 keys.
    pub keys: Vec<Rc<KeySet>>,
    /// Per agent and key: `Authorization`, and what is remembered of it.
    pub aits: Vec<Vec<(String, [u8; 32], VerifiedAit)>>,
}

impl Fixtures {
    pub fn new() -> Self {
        let names: Vec<String> = (0..KIDS).map(|n| format!("k{n}")).collect();
        let signers: Vec<_> = (0..KIDS).map(|n| key(10 + n as u8)).collect();
        let all: Vec<_> = (0..KIDS)
            .map(|n| (names[n].as_str(), &signers[n], "active"))
            .collect();
        let key_set = |n: usize| KeySet::parse(testing::keyset_json(&all[..=n]).as_bytes()).unwrap();
        let keys: Vec<_> = (0..KIDS).map(|n| Rc::new(key_set(n))).collect();
        let registry = Registry::default();
        let ait = |agent: usize, kid: usize| {
            let mut claims = registry.ait_claims(agent as u128 + 1, &key(2));
            claims["exp"] = 7_000_000.into();
            let header = format!(r#"{{"alg":"EdDSA","typ":"AIT","kid":"k{kid}"}}"#);
            let token = testing::sign_jws(&signers[kid], &header, &claims.to_string());
            let unverified = UnverifiedAit::parse(&token).unwrap();
            let ait = unverified
                .verify(&keys[kid], &registry.issuer, START_MS / 1000)
                .unwrap();
            let verified = VerifiedAit {
                ait: Rc::new(ait),
                signed_by: keys[kid].active(&names[kid]).unwrap().clone(),
            };
            (
                format!("Claw {token}"),
                Sha256::digest(token.as_bytes()).into(),
                verified,
            )
        };
        let aits = (0..AGENTS).map(|agent| (0..KIDS).map(|kid| ait(agent, kid)).collect());
        Self(Rc::new(Signed {
            aits: aits.collect(),
            issuer: registry.issuer.clone(),
            keys,
        }))
    }
}

/// A request whose signature holds.
pub struct Proven {
    pub agent: usize,
    pub authorization: String,
    pub proof: ProofHeaders,
    pub access_token: String,
    pub token: u32,
    pub kid: usize,
    pub number: u64,
}

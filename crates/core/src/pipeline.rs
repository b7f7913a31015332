//! Who may act: steps 2 to 7 of docs/design.md §2, in that order and in one place.
//!
//! `verify` is the only maker of a `Caller` (its fields are private), and
//! handlers act for a `Caller`: so no route can forget a check. It needs a
//! `Proven`, which only `prove` makes, from the headers alone: whoever has one
//! has not yet read a byte of the body of a request that proves nothing. The pipeline does
//! no I/O. It asks through `Ports`, which the Worker's shell implements with the
//! registry client, the trust object and D1, and a test with numbers.
//!
//! 2. `Authorization` → AIT: 401 `MISSING_TOKEN`, `INVALID_SCHEME`, `INVALID_AIT`; 503 without keys
//! 3. proof of possession over the headers, then the body's hash: 401 `INVALID_TIMESTAMP`, `TIMESTAMP_SKEW`,
//!    `INVALID_NONCE`, `INVALID_PROOF`
//! 4. admission: 401 `REVOKED`, `REPLAY`, `TIMESTAMP_SKEW`; 429; 503
//! 5. the polled CRL: 401 `REVOKED`; 503 where `fail-closed`
//! 6. known agent: 403
//! 7. agent access: 401 `AGENT_ACCESS_REQUIRED`, `AGENT_ACCESS_INVALID`; 503
//!
//! A bad signature does not use up a nonce, because step 3 comes before step 4. A request that is refused after step
//! 4 has used up its nonce.

use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::admission::{Generation, Known, Paired, PeersReply};
use crate::provenance::Provenance;
use clawdentity_protocol::ait::{Ait, AitError, UnverifiedAit};
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::issuer::Issuer;
use clawdentity_protocol::key::PublicKey;
use clawdentity_protocol::keyset::KeySet;
use clawdentity_protocol::proof::{
    self, AccessToken, AccessTokenError, AuthorizationError, MAX_SKEW_SECONDS, ProofError, ProofHeaders,
};

mod refusal;

pub use self::refusal::{Refusal, RevokedBy};

/// An agent that has passed every check which its route needs.
///
/// Only `verify` makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    ait: Rc<Ait>,
    generation: Generation,
    peers: PeersReply,
}

impl Caller {
    /// The agent.
    pub fn agent(&self) -> &AgentDid {
        &self.ait.sub
    }

    /// Its owner.
    pub fn owner(&self) -> &HumanDid {
        &self.ait.owner
    }

    /// Who issued its token.
    pub fn issuer(&self) -> &Issuer {
        &self.ait.issuer
    }

    /// Its token's id.
    pub fn jti(&self) -> Ulid {
        self.ait.jti
    }

    /// The `kid` of the key that signed its token.
    pub fn kid(&self) -> &str {
        &self.ait.kid
    }

    /// When its token expires, Unix milliseconds.
    pub fn ait_expires_at_ms(&self) -> u64 {
        self.ait.exp_s.saturating_mul(1000)
    }

    /// The agent's generation at its admission: what is cached about the agent is bound to it.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether it is paired with the agent that its request names; none where it names nobody.
    pub fn paired(&self) -> Option<&Paired> {
        self.peers.paired.as_ref()
    }
}

/// An AIT whose signature was checked, and the key it was checked with.
#[derive(Clone, Debug)]
pub struct VerifiedAit {
    ait: Rc<Ait>,
    signed_by: PublicKey,
}

/// The headers of a request as they were received.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// `Authorization`.
    pub authorization: Option<&'a str>,
    /// `X-Claw-Timestamp`.
    pub timestamp: Option<&'a str>,
    /// `X-Claw-Nonce`.
    pub nonce: Option<&'a str>,
    /// `X-Claw-Body-SHA256`.
    pub body_sha256: Option<&'a str>,
    /// `X-Claw-Proof`.
    pub proof: Option<&'a str>,
    /// `X-Claw-Agent-Access`.
    pub access_token: Option<&'a str>,
    /// The method, upper case.
    pub method: &'a str,
    /// The path with its query.
    pub path_and_query: &'a str,
}

/// Which of the later steps the route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Step 6.
    pub known_agent: bool,
    /// Step 7.
    pub access_token: bool,
}

/// The part of admission's answer that the later steps need.
#[derive(Clone, Debug)]
pub struct Admission<V> {
    /// The agent's generation.
    pub generation: Generation,
    /// Its peers, and whether the one that the request names is among them.
    pub peers: PeersReply,
    /// The agent's last access validations, as its object keeps them.
    pub validations: V,
    /// An operator has lifted the revocation of this token, so the CRL does not count for it.
    pub token_lifted: bool,
}

/// What the pipeline needs from the outside. A refusal is final, because the shell has already retried.
#[allow(async_fn_in_trait)] // used through generics only, in a single-threaded runtime
pub trait Ports {
    /// The agent's last access validations; the pipeline only hands them from step 4 to step 7.
    type Validations;

    /// Unix time, milliseconds.
    fn now_ms(&self) -> u64;
    /// What an AIT's `iss` must be for this request (docs/wire.md §2).
    fn expected_issuer(&self) -> &Issuer;
    /// An AIT verified before, by the hash of its text.
    fn recall(&self, token_hash: &[u8; 32]) -> Option<VerifiedAit>;
    /// Remembers a verified AIT; as many as there is room for.
    fn remember(&self, token_hash: [u8; 32], verified: VerifiedAit);
    /// The registry's signing keys.
    async fn keys(&self) -> Result<(Rc<KeySet>, Provenance), Refusal>;
    /// The same after a `kid` that is not among them: refreshed once per cool-down.
    async fn keys_refreshed(&self) -> Result<(Rc<KeySet>, Provenance), Refusal>;
    /// Step 4: one call to the agent's own object.
    async fn admit(&self, ait: &Ait, proof: &ProofHeaders) -> Result<Admission<Self::Validations>, Refusal>;
    /// Step 5: whether the polled CRL lists this token; no provenance where the proxy goes on without a CRL.
    async fn crl_lists(&self, jti: &Ulid) -> Result<(bool, Option<Provenance>), Refusal>;
    /// Step 7: whether the access token is valid; a refusal if it is not.
    async fn validate_access(
        &self,
        ait: &Ait,
        token: &AccessToken,
        admission: &Admission<Self::Validations>,
    ) -> Result<Provenance, Refusal>;
}

/// A caller, and what the log line says about the decision.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The caller.
    pub caller: Caller,
    /// The object's clock minus the caller's, whole seconds.
    pub skew_s: i64,
    /// What the decision rested on.
    pub evidence: Evidence,
}

/// What a decision rested on; `None` for a step that was not needed or had nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Evidence {
    /// Step 2.
    pub keys: Provenance,
    /// Step 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<Provenance>,
    /// Step 7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<Provenance>,
}

/// A request whose headers are proven to be its agent's. Its body, whose hash they declare, has yet to be read.
#[derive(Debug)]
pub struct Proven<'a> {
    ait: Rc<Ait>,
    keys: Provenance,
    proof: ProofHeaders,
    access_token: Option<&'a str>,
}

impl Proven<'_> {
    /// Whose request it is.
    pub fn agent(&self) -> &AgentDid {
        &self.ait.sub
    }
}

/// Steps 2 and 3, as far as the headers go.
///
/// # Errors
/// The first step that refuses, with its code.
pub async fn prove<'a, P: Ports>(ports: &P, request: &Presented<'a>) -> Result<Proven<'a>, Refusal> {
    let (ait, keys) = identify(ports, request.authorization).await?;
    let proof = check_proof(request, &ait, ports.now_ms())?;
    Ok(Proven {
        ait,
        keys,
        proof,
        access_token: request.access_token,
    })
}

/// The rest of step 3, then 4 to 7.
///
/// # Errors
/// The first step that refuses, with its code.
pub async fn verify<P: Ports>(
    ports: &P,
    proven: Proven<'_>,
    body: &[u8],
    policy: Policy,
) -> Result<Verified, Refusal> {
    let Proven {
        ait,
        keys,
        proof,
        access_token,
    } = proven;
    proof.check_body(body).map_err(proof_refused)?;
    decide(ports, (ait, keys), &proof, access_token, policy).await
}

/// Steps 4 to 7, for a request that is proven.
async fn decide<P: Ports>(
    ports: &P,
    (ait, keys): (Rc<Ait>, Provenance),
    proof: &ProofHeaders,
    access_token: Option<&str>,
    policy: Policy,
) -> Result<Verified, Refusal> {
    let skew_s = proof::skew_seconds(ports.now_ms(), proof.timestamp);

    let admission = ports.admit(&ait, proof).await?;

    let (listed, crl) = ports.crl_lists(&ait.jti).await?;
    if listed && !admission.token_lifted {
        return Err(Refusal::Revoked(RevokedBy::Crl));
    }
    let mut evidence = Evidence {
        keys,
        crl,
        access: None,
    };
    if policy.known_agent {
        match admission.peers.known {
            Known::Yes => {}
            Known::No => return Err(Refusal::UnknownAgent),
            Known::Unavailable => return Err(Refusal::TrustUnavailable { retry_after_s: 1 }),
        }
    }
    if policy.access_token {
        let token = AccessToken::parse(access_token).map_err(|error| match error {
            AccessTokenError::Missing => Refusal::AccessRequired,
            AccessTokenError::Invalid => Refusal::AccessInvalid,
        })?;
        evidence.access = Some(ports.validate_access(&ait, &token, &admission).await?);
    }
    Ok(Verified {
        caller: Caller {
            ait,
            generation: admission.generation,
            peers: admission.peers,
        },
        skew_s,
        evidence,
    })
}

/// Step 2. A verified AIT is remembered by its hash; it counts only as long as it has
/// not expired and the very key that signed it is active, and for the issuer expected now.
async fn identify<P: Ports>(
    ports: &P,
    authorization: Option<&str>,
) -> Result<(Rc<Ait>, Provenance), Refusal> {
    let token = proof::parse_authorization(authorization).map_err(|error| match error {
        AuthorizationError::Missing => Refusal::MissingToken,
        AuthorizationError::InvalidScheme => Refusal::InvalidScheme,
    })?;
    let invalid = |error: AitError| Refusal::InvalidAit(error.reason());
    let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
    let now_s = ports.now_ms() / 1000;

    if let Some(VerifiedAit { ait, signed_by }) = ports.recall(&hash) {
        let (keys, provenance) = ports.keys().await?;
        if keys.active(&ait.kid) == Some(&signed_by) && ait.issuer == *ports.expected_issuer() {
            ait.check_time(now_s).map_err(invalid)?;
            return Ok((ait, provenance));
        }
    }

    // The shape is checked before keys are asked for: what is no AIT costs the registry nothing.
    let unverified = UnverifiedAit::parse(token).map_err(invalid)?;
    let (mut keys, mut provenance) = ports.keys().await?;
    if keys.active(unverified.kid()).is_none() {
        (keys, provenance) = ports.keys_refreshed().await?;
    }
    let ait = Rc::new(
        unverified
            .verify(&keys, ports.expected_issuer(), now_s)
            .map_err(invalid)?,
    );
    if let Some(signed_by) = keys.active(&ait.kid).cloned() {
        ports.remember(
            hash,
            VerifiedAit {
                ait: ait.clone(),
                signed_by,
            },
        );
    }
    Ok((ait, provenance))
}

/// Step 3, but for the body.
fn check_proof(request: &Presented<'_>, ait: &Ait, now_ms: u64) -> Result<ProofHeaders, Refusal> {
    let headers = ProofHeaders::parse(
        request.timestamp,
        request.nonce,
        request.body_sha256,
        request.proof,
    )
    .map_err(proof_refused)?;
    let skew_s = proof::skew_seconds(now_ms, headers.timestamp);
    if skew_s.unsigned_abs() > MAX_SKEW_SECONDS {
        return Err(Refusal::TimestampSkew { skew_s });
    }
    headers
        .verify(&ait.cnf, request.method, request.path_and_query)
        .map_err(proof_refused)?;
    Ok(headers)
}

fn proof_refused(error: ProofError) -> Refusal {
    match error {
        ProofError::InvalidTimestamp(reason) => Refusal::InvalidTimestamp(reason),
        ProofError::InvalidNonce(reason) => Refusal::InvalidNonce(reason),
        ProofError::InvalidProof(reason) => Refusal::InvalidProof(reason),
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

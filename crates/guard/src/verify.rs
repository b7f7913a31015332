//! The check of one request: the AIT, the proof of possession, what is revoked, and what was seen. All of it is
//! local.
//!
//! The steps are in the proxy's order (docs/design.md §2), each with the codes it refuses by:
//!
//! 1. the AIT in `Authorization`: `MISSING_TOKEN`, `INVALID_SCHEME`, `INVALID_AIT`; 503 without keys
//! 2. proof: `INVALID_TIMESTAMP`, `TIMESTAMP_SKEW`, `INVALID_NONCE`, `INVALID_PROOF`
//! 3. revocation, by everything that is known: `REVOKED`; then 503, if the cache was not confirmed for longer than
//!    the limit and the guard is configured to fail closed
//! 4. seen before by this process: `REPLAY`
//!
//! Revoked outweighs replayed. Neither a bad signature nor a revoked caller uses up a nonce. A verified AIT is
//! remembered by its hash until it expires or the key that signed it is no longer active.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use lru::LruCache;
use sha2::{Digest as _, Sha256};

use super::cache::RevocationCache;
use super::nonces::{Nonces, Seen};
use clawdentity_core::admission::nonces::within_skew;
use clawdentity_protocol::ait::{Ait, AitError, UnverifiedAit};
use clawdentity_protocol::code::{self, Code};
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::issuer::Issuer;
use clawdentity_protocol::keyset::KeySet;
use clawdentity_protocol::proof::{AuthorizationError, ProofError, ProofHeaders, parse_authorization};

/// How long keys are good after the registry gave them (docs/design.md §4).
const KEYS_MAX_AGE_MS: u64 = 24 * 3_600_000;

/// What a guard does when its cache has not been confirmed for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenStale {
    /// Refuses every request with 503.
    FailClosed,
    /// Keeps allowing requests, under the revocations that it knows.
    FailOpen,
}

/// How a guard decides.
#[derive(Clone, Debug)]
pub struct GuardConfig {
    /// What an AIT's `iss` must be.
    pub issuer: Issuer,
    /// How long ago the cache may have been confirmed.
    pub max_age_ms: u64,
    /// What to do when that is exceeded.
    pub when_stale: WhenStale,
    /// How many requests of the last 10 minutes are remembered, at about 30 bytes each. When it is full: 503.
    pub max_nonces: usize,
    /// How many verified AITs are remembered, at about 1 KiB each.
    pub max_aits: NonZeroUsize,
}

impl GuardConfig {
    /// 300 s, then it fails closed; a million requests; 4,096 AITs.
    pub fn new(issuer: Issuer) -> Self {
        Self {
            issuer,
            max_age_ms: 300_000,
            when_stale: WhenStale::FailClosed,
            max_nonces: 1_000_000,
            max_aits: NonZeroUsize::MIN.saturating_add(4095),
        }
    }
}

/// A request as it was received, with the texts of its headers.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a str,
    /// The path with its query, as the caller sent and signed it.
    pub path_and_query: &'a str,
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
}

/// The caller of a request that passed. Only [`Guard::check`] makes one.
#[derive(Clone, Debug)]
pub struct Admitted {
    ait: Arc<Ait>,
    session_ended_ms: Option<u64>,
    stale: bool,
}

impl Admitted {
    /// The agent.
    pub fn agent(&self) -> &AgentDid {
        &self.ait.sub
    }

    /// Its owner.
    pub fn owner(&self) -> &HumanDid {
        &self.ait.owner
    }

    /// Its token.
    pub fn jti(&self) -> Ulid {
        self.ait.jti
    }

    /// When its token expires, Unix milliseconds.
    pub fn expires_at_ms(&self) -> u64 {
        self.ait.exp_s.saturating_mul(1000)
    }

    /// When the agent's session last ended, Unix milliseconds. What was validated before that no longer counts.
    pub fn session_ended_ms(&self) -> Option<u64> {
        self.session_ended_ms
    }

    /// Whether the cache was past its limit, and the guard is configured to go on.
    pub fn is_stale(&self) -> bool {
        self.stale
    }
}

/// Why a request is refused. The texts repeat nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", code.name)]
pub struct Refusal {
    /// The code that the proxy would answer with (docs/wire.md §8).
    pub code: &'static Code,
    /// For people.
    pub reason: &'static str,
}

/// The guard. All threads of a program share it.
pub struct Guard {
    config: GuardConfig,
    cache: Arc<dyn RevocationCache>,
    keys: RwLock<Keys>,
    wants_keys: AtomicBool,
    nonces: Mutex<Nonces>,
    aits: Mutex<LruCache<[u8; 32], Arc<Ait>>>,
}

#[derive(Default)]
struct Keys {
    set: Arc<KeySet>,
    fetched_at_ms: Option<u64>,
}

impl Guard {
    /// A guard without keys. It answers 503 until it has some.
    pub fn new(config: GuardConfig, cache: Arc<dyn RevocationCache>) -> Self {
        Self {
            nonces: Mutex::new(Nonces::new(config.max_nonces)),
            aits: Mutex::new(LruCache::new(config.max_aits)),
            keys: RwLock::default(),
            wants_keys: AtomicBool::new(true),
            cache,
            config,
        }
    }

    /// Sets the registry's keys. With the time at which the registry gave them, Unix milliseconds, they are good for
    /// 24 h; without it, until others are set.
    pub fn set_keys(&self, keys: KeySet, fetched_at_ms: Option<u64>) {
        let mut place = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        *place = Keys {
            set: Arc::new(keys),
            fetched_at_ms,
        };
        self.wants_keys.store(false, Ordering::Relaxed);
    }

    /// Whether there are no keys, or an AIT has named an unknown one since keys were last set.
    pub fn wants_keys(&self) -> bool {
        self.wants_keys.load(Ordering::Relaxed)
    }

    /// Checks a request. `now_ms` is Unix milliseconds. A request that passes has used up its nonce.
    ///
    /// # Errors
    /// As the module lists them.
    pub fn check(&self, now_ms: u64, head: &RequestHead<'_>, body: &[u8]) -> Result<Admitted, Refusal> {
        let ait = self.ait(now_ms, head.authorization)?;
        let proof = self.proof(now_ms, head, &ait, body)?;
        let standing = self.cache.standing(&ait.sub, ait.jti);
        if standing.agent_revoked || standing.token_revoked {
            return refuse(&code::PROXY_AUTH_REVOKED, "revoked");
        }
        let age_ms = self.cache.freshness().age_ms(now_ms);
        let stale = age_ms.is_none_or(|age_ms| age_ms > self.config.max_age_ms);
        if stale && self.config.when_stale == WhenStale::FailClosed {
            return refuse(
                &code::PROXY_AUTH_DEPENDENCY_UNAVAILABLE,
                "revocations were not confirmed for too long",
            );
        }
        self.admit(now_ms, &ait, &proof)?;
        Ok(Admitted {
            ait,
            session_ended_ms: standing.session_ended_ms,
            stale,
        })
    }

    fn ait(&self, now_ms: u64, authorization: Option<&str>) -> Result<Arc<Ait>, Refusal> {
        let token = parse_authorization(authorization).map_err(|error| match error {
            AuthorizationError::Missing => {
                refusal(&code::PROXY_AUTH_MISSING_TOKEN, "Authorization is missing")
            }
            AuthorizationError::InvalidScheme => refusal(
                &code::PROXY_AUTH_INVALID_SCHEME,
                "Authorization is not 'Claw <AIT>'",
            ),
        })?;
        let keys = self.keys(now_ms)?;
        let invalid = |error: AitError| refusal(&code::PROXY_AUTH_INVALID_AIT, error.reason());
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let known = {
            let mut aits = self.aits.lock().unwrap_or_else(PoisonError::into_inner);
            aits.get(&hash).cloned()
        };
        if let Some(ait) = known.filter(|ait| keys.active(&ait.kid) == Some(&ait.signed_by)) {
            ait.check_time(now_ms / 1000).map_err(invalid)?;
            return Ok(ait);
        }
        let unverified = UnverifiedAit::parse(token).map_err(invalid)?;
        let verified = unverified.verify(&keys, &self.config.issuer, now_ms / 1000);
        let ait = Arc::new(verified.map_err(|error| {
            if error == AitError::UnknownKid {
                self.wants_keys.store(true, Ordering::Relaxed);
            }
            invalid(error)
        })?);
        let mut aits = self.aits.lock().unwrap_or_else(PoisonError::into_inner);
        aits.put(hash, Arc::clone(&ait));
        Ok(ait)
    }

    fn keys(&self, now_ms: u64) -> Result<Arc<KeySet>, Refusal> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let dead = keys
            .fetched_at_ms
            .is_some_and(|at| now_ms.abs_diff(at) > KEYS_MAX_AGE_MS);
        if dead || keys.set.is_empty() {
            return refuse(&code::PROXY_AUTH_DEPENDENCY_UNAVAILABLE, "no signing keys");
        }
        Ok(Arc::clone(&keys.set))
    }

    fn proof(
        &self,
        now_ms: u64,
        head: &RequestHead<'_>,
        ait: &Ait,
        body: &[u8],
    ) -> Result<ProofHeaders, Refusal> {
        let refused = |error: ProofError| match error {
            ProofError::InvalidTimestamp(reason) => refusal(&code::PROXY_AUTH_INVALID_TIMESTAMP, reason),
            ProofError::InvalidNonce(reason) => refusal(&code::PROXY_AUTH_INVALID_NONCE, reason),
            ProofError::InvalidProof(reason) => refusal(&code::PROXY_AUTH_INVALID_PROOF, reason),
        };
        let proof =
            ProofHeaders::parse(head.timestamp, head.nonce, head.body_sha256, head.proof).map_err(refused)?;
        if !within_skew(now_ms, proof.timestamp.seconds()) {
            return refuse(
                &code::PROXY_AUTH_TIMESTAMP_SKEW,
                "X-Claw-Timestamp is too far from now",
            );
        }
        proof
            .verify(&ait.cnf, head.method, head.path_and_query)
            .and_then(|()| proof.check_body(body))
            .map_err(refused)?;
        Ok(proof)
    }

    fn admit(&self, now_ms: u64, ait: &Ait, proof: &ProofHeaders) -> Result<(), Refusal> {
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        match nonces.admit(now_ms, &ait.sub, proof) {
            Seen::First => Ok(()),
            Seen::Replayed => refuse(&code::PROXY_AUTH_REPLAY, "this request was seen before"),
            Seen::Skewed => refuse(
                &code::PROXY_AUTH_TIMESTAMP_SKEW,
                "X-Claw-Timestamp is too far from now",
            ),
            Seen::Full => refuse(
                &code::PROXY_AUTH_DEPENDENCY_UNAVAILABLE,
                "no room to remember another request",
            ),
        }
    }
}

const fn refusal(code: &'static Code, reason: &'static str) -> Refusal {
    Refusal { code, reason }
}

const fn refuse<T>(code: &'static Code, reason: &'static str) -> Result<T, Refusal> {
    Err(refusal(code, reason))
}

#[cfg(test)]
mod tests;

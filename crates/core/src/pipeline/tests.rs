//! The pipeline against a world of numbers: the refusals of each step, their order, and what each request costs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use ed25519_dalek::{Signer as _, SigningKey};
use futures_util::FutureExt as _;

use super::*;
use clawdentity_protocol::b64;
use clawdentity_protocol::testing::{self, Registry, key};

const NOW_S: u64 = 1_500;

/// The outside: it answers what a test sets, and writes down what it was asked.
struct World {
    registry: Registry,
    now_ms: Cell<u64>,
    issuer: Issuer,
    keys: RefCell<KeySet>,
    after_refresh: RefCell<Option<KeySet>>,
    aits: RefCell<HashMap<[u8; 32], VerifiedAit>>,
    admission: RefCell<Result<Generation, Refusal>>,
    listed: Cell<bool>,
    lifted: Cell<bool>,
    known: Cell<Known>,
    access: RefCell<Result<(), Refusal>>,
    asked: RefCell<Vec<&'static str>>,
}

impl World {
    fn new() -> Self {
        let registry = Registry::default();
        Self {
            now_ms: Cell::new(NOW_S * 1000),
            issuer: registry.issuer.clone(),
            keys: RefCell::new(registry.keys()),
            after_refresh: RefCell::new(None),
            aits: RefCell::default(),
            admission: RefCell::new(Ok(Generation::from_random([7; 8]))),
            listed: Cell::new(false),
            lifted: Cell::new(false),
            known: Cell::new(Known::Yes),
            access: RefCell::new(Ok(())),
            asked: RefCell::default(),
            registry,
        }
    }

    fn note(&self, what: &'static str) {
        self.asked.borrow_mut().push(what);
    }

    fn run(&self, request: &Request, policy: Policy) -> Result<Verified, Refusal> {
        self.asked.borrow_mut().clear();
        let presented = request.presented();
        let walk = async {
            let proven = prove(self, &presented).await?;
            self.note("body");
            verify(self, proven, &request.body, policy).await
        };
        walk.now_or_never().expect("the world answers at once")
    }

    fn asked(&self) -> String {
        self.asked.borrow().join(" ")
    }
}

impl Ports for World {
    type Validations = ();

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn expected_issuer(&self) -> &Issuer {
        &self.issuer
    }

    fn recall(&self, token_hash: &[u8; 32]) -> Option<VerifiedAit> {
        self.aits.borrow().get(token_hash).cloned()
    }

    fn remember(&self, token_hash: [u8; 32], verified: VerifiedAit) {
        self.note("remember");
        self.aits.borrow_mut().insert(token_hash, verified);
    }

    async fn keys(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        self.note("keys");
        Ok((Rc::new(self.keys.borrow().clone()), Provenance::NETWORK))
    }

    async fn keys_refreshed(&self) -> Result<(Rc<KeySet>, Provenance), Refusal> {
        self.note("refresh");
        if let Some(keys) = self.after_refresh.borrow_mut().take() {
            *self.keys.borrow_mut() = keys;
        }
        Ok((Rc::new(self.keys.borrow().clone()), Provenance::NETWORK))
    }

    async fn admit(&self, _ait: &Ait, _proof: &ProofHeaders) -> Result<Admission<()>, Refusal> {
        self.note("admit");
        self.admission.borrow().clone().map(|generation| Admission {
            generation,
            peers: PeersReply {
                known: self.known.get(),
                paired: None,
            },
            validations: (),
            token_lifted: self.lifted.get(),
        })
    }

    async fn crl_lists(&self, _jti: &Ulid) -> Result<(bool, Option<Provenance>), Refusal> {
        self.note("crl");
        Ok((self.listed.get(), None))
    }

    async fn validate_access(
        &self,
        _ait: &Ait,
        _token: &AccessToken,
        _admission: &Admission<()>,
    ) -> Result<Provenance, Refusal> {
        self.note("access");
        self.access.borrow().clone().map(|()| Provenance::NETWORK)
    }
}

/// A request's headers, which a test spoils one at a time.
#[derive(Clone)]
struct Request {
    authorization: Option<String>,
    timestamp: Option<String>,
    nonce: Option<String>,
    body_sha256: Option<String>,
    proof: Option<String>,
    access_token: Option<String>,
    method: &'static str,
    path: &'static str,
    body: Vec<u8>,
}

impl Request {
    fn presented(&self) -> Presented<'_> {
        Presented {
            authorization: self.authorization.as_deref(),
            timestamp: self.timestamp.as_deref(),
            nonce: self.nonce.as_deref(),
            body_sha256: self.body_sha256.as_deref(),
            proof: self.proof.as_deref(),
            access_token: self.access_token.as_deref(),
            method: self.method,
            path_and_query: self.path,
        }
    }

    fn at(mut self, timestamp_s: u64) -> Self {
        self.timestamp = Some(timestamp_s.to_string());
        self.signed(&key(2))
    }

    fn signed(mut self, by: &SigningKey) -> Self {
        let hash = b64::encode(&Sha256::digest(&self.body));
        let timestamp = self.timestamp.clone().unwrap_or_default();
        let nonce = self.nonce.clone().unwrap_or_default();
        let text = format!(
            "CLAW-PROOF-V1\n{}\n{}\n{timestamp}\n{nonce}\n{hash}",
            self.method, self.path
        );
        self.proof = Some(b64::encode(&by.sign(text.as_bytes()).to_bytes()));
        self.body_sha256 = Some(hash);
        self
    }
}

fn good(world: &World) -> Request {
    Request {
        authorization: Some(format!("Claw {}", world.registry.ait(7, &key(2)))),
        timestamp: Some(NOW_S.to_string()),
        nonce: Some("nonce-1".into()),
        body_sha256: None,
        proof: None,
        access_token: Some("token".into()),
        method: "POST",
        path: "/hooks/message?a=1",
        body: b"{}".to_vec(),
    }
    .signed(&key(2))
}

const ALL: Policy = Policy {
    known_agent: true,
    access_token: true,
};
const IDENTITY: Policy = Policy {
    known_agent: false,
    access_token: false,
};

#[test]
fn a_good_request_passes_every_step_in_order_and_the_next_pays_for_one_signature() {
    let world = World::new();
    let verified = world.run(&good(&world), ALL).unwrap();
    assert_eq!(world.asked(), "keys remember body admit crl access");
    let caller = &verified.caller;
    assert_eq!(caller.agent(), &testing::agent(7));
    assert_eq!(caller.jti(), testing::ulid(1007));
    assert_eq!(caller.ait_expires_at_ms(), 2_000_000);
    assert_eq!(caller.generation(), Generation::from_random([7; 8]));

    world.run(&good(&world), ALL).unwrap();
    assert_eq!(
        world.asked(),
        "keys body admit crl access",
        "the AIT was remembered"
    );
    world.run(&good(&world), IDENTITY).unwrap();
    assert_eq!(
        world.asked(),
        "keys body admit crl",
        "only what the route asks for"
    );
}

/// Each fault alone: its code, and what was asked before it was found. The body is read once the headers are proven.
#[test]
fn each_step_refuses_with_its_code() {
    let check = |spoil: &dyn Fn(&World, &mut Request), code: &str, asked: &str| {
        let world = World::new();
        let mut request = good(&world);
        spoil(&world, &mut request);
        let refusal = world.run(&request, ALL).unwrap_err();
        assert_eq!((refusal.code().name, world.asked().as_str()), (code, asked));
    };
    let identified = "keys remember";
    check(&|_, r| r.authorization = None, "PROXY_AUTH_MISSING_TOKEN", "");
    check(
        &|_, r| r.authorization = Some("claw x".into()),
        "PROXY_AUTH_INVALID_SCHEME",
        "",
    );
    check(
        &|_, r| r.authorization = Some("Claw x.y.z".into()),
        "PROXY_AUTH_INVALID_AIT",
        "",
    );
    check(
        &|w, r| {
            let forged = Registry {
                key: key(3),
                issuer: w.issuer.clone(),
            };
            r.authorization = Some(format!("Claw {}", forged.ait(7, &key(2))));
        },
        "PROXY_AUTH_INVALID_AIT",
        "keys",
    );
    check(&|w, _| w.now_ms.set(2_000_000), "PROXY_AUTH_INVALID_AIT", "keys");
    check(
        &|w, _| *w.keys.borrow_mut() = key_set("k2", &key(1)),
        "PROXY_AUTH_INVALID_AIT",
        "keys refresh",
    );
    check(
        &|_, r| r.timestamp = None,
        "PROXY_AUTH_INVALID_TIMESTAMP",
        identified,
    );
    check(
        &|_, r| r.timestamp = Some("1e3".into()),
        "PROXY_AUTH_INVALID_TIMESTAMP",
        identified,
    );
    check(
        &|_, r| *r = r.clone().at(NOW_S + 301),
        "PROXY_AUTH_TIMESTAMP_SKEW",
        identified,
    );
    check(
        &|_, r| *r = r.clone().at(NOW_S - 301),
        "PROXY_AUTH_TIMESTAMP_SKEW",
        identified,
    );
    check(
        &|_, r| r.nonce = Some(" ".into()),
        "PROXY_AUTH_INVALID_NONCE",
        identified,
    );
    check(
        &|_, r| r.nonce = Some("nonce-2".into()),
        "PROXY_AUTH_INVALID_PROOF",
        identified,
    );
    check(
        &|_, r| r.body = b"{ }".to_vec(),
        "PROXY_AUTH_INVALID_PROOF",
        "keys remember body",
    );
    check(
        &|_, r| r.path = "/hooks/message",
        "PROXY_AUTH_INVALID_PROOF",
        identified,
    );
    check(&|_, r| r.method = "PUT", "PROXY_AUTH_INVALID_PROOF", identified);
    check(
        &|_, r| *r = r.clone().signed(&key(9)),
        "PROXY_AUTH_INVALID_PROOF",
        identified,
    );
    let refuse = |w: &World, refusal| *w.admission.borrow_mut() = Err(refusal);
    check(
        &|w, _| refuse(w, Refusal::Replay),
        "PROXY_AUTH_REPLAY",
        "keys remember body admit",
    );
    check(
        &|w, _| refuse(w, Refusal::Revoked(RevokedBy::OverlayAgent)),
        "PROXY_AUTH_REVOKED",
        "keys remember body admit",
    );
    check(
        &|w, _| w.listed.set(true),
        "PROXY_AUTH_REVOKED",
        "keys remember body admit crl",
    );
    check(
        &|w, _| w.known.set(Known::No),
        "PROXY_AUTH_FORBIDDEN",
        "keys remember body admit crl",
    );
    check(
        &|_, r| r.access_token = None,
        "PROXY_AGENT_ACCESS_REQUIRED",
        "keys remember body admit crl",
    );
    check(
        &|_, r| r.access_token = Some("x".repeat(1025)),
        "PROXY_AGENT_ACCESS_INVALID",
        "keys remember body admit crl",
    );
    check(
        &|w, _| *w.access.borrow_mut() = Err(Refusal::AccessInvalid),
        "PROXY_AGENT_ACCESS_INVALID",
        "keys remember body admit crl access",
    );
}

#[test]
fn skew_is_accepted_up_to_300_s_both_ways_and_reported() {
    let world = World::new();
    for (timestamp_s, skew_s) in [(NOW_S + 300, -300), (NOW_S - 300, 300), (NOW_S, 0)] {
        let verified = world.run(&good(&world).at(timestamp_s), ALL).unwrap();
        assert_eq!(verified.skew_s, skew_s);
    }
}

/// A remembered AIT is worth nothing once its key is gone, another key took its `kid`, or it expired.
#[test]
fn a_remembered_ait_depends_on_its_key_and_its_time() {
    let check = |change: &dyn Fn(&World), code: &str, asked: &str| {
        let world = World::new();
        world.run(&good(&world), IDENTITY).unwrap();
        change(&world);
        let now_s = world.now_ms.get() / 1000;
        let refusal = world.run(&good(&world).at(now_s), IDENTITY).unwrap_err();
        assert_eq!((refusal.code().name, world.asked().as_str()), (code, asked));
    };
    check(
        &|w| *w.keys.borrow_mut() = key_set("k2", &key(1)),
        "PROXY_AUTH_INVALID_AIT",
        "keys keys refresh",
    );
    check(
        &|w| *w.keys.borrow_mut() = key_set("k1", &key(4)),
        "PROXY_AUTH_INVALID_AIT",
        "keys keys",
    );
    check(&|w| w.now_ms.set(2_000_000), "PROXY_AUTH_INVALID_AIT", "keys");
}

#[test]
fn a_rotated_key_is_found_by_one_refresh() {
    let world = World::new();
    *world.keys.borrow_mut() = key_set("k0", &key(8));
    *world.after_refresh.borrow_mut() = Some(world.registry.keys());
    world.run(&good(&world), IDENTITY).unwrap();
    assert_eq!(world.asked(), "keys refresh remember body admit crl");
}

fn key_set(kid: &str, signing: &SigningKey) -> KeySet {
    KeySet::parse(testing::keyset_json(&[(kid, signing, "active")]).as_bytes()).unwrap()
}

#[test]
fn a_lifted_token_is_admitted_though_the_crl_lists_it() {
    let world = World::new();
    world.listed.set(true);
    let listed = world.run(&good(&world), IDENTITY).map(|_| ());
    assert_eq!(listed, Err(Refusal::Revoked(RevokedBy::Crl)));
    world.lifted.set(true);
    assert!(world.run(&good(&world), IDENTITY).is_ok());
}

//! The world of the simulation: a clock with tasks, a registry, D1, agents with their objects, and two isolates.
//!
//! A task is a future that waits only by `World::sleep`. `pass` lets time go by and wakes each task that is due, in
//! the order of the times to which they sleep.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::super::*;
use super::fixtures::{AGENTS, Fixtures, Proven};
use super::gate::Gate;
use super::isolate::Isolate;
use crate::admission::memory::Memory;
use crate::admission::unconfirmed::TokenLimits;
use crate::admission::{Admission as Object, LedgerAnswer, Limits, PairId, RecordedPair};

mod calls;
mod events;

pub const MINUTE_MS: u64 = 60_000;
pub const BUDGET_MS: u64 = 5_000;
pub const ACCESS_STALE_MS: u64 = 15 * MINUTE_MS;
pub const START_MS: u64 = 1_000_000_000;
const LIMITS: Limits = Limits {
    rate_limit: 1_000_000,
    rate_window_ms: MINUTE_MS,
    warn_skew_s: 200,
    tokens: TokenLimits {
        most: 5,
        first_pause_ms: 5_000,
        longest_pause_ms: 30_000,
    },
};

/// With whom every agent is paired, whatever else changes.
fn peer() -> AgentDid {
    clawdentity_protocol::testing::agent(99)
}

pub fn recorded_pair(n: u8) -> RecordedPair {
    RecordedPair {
        id: PairId::parse(&format!("pair-{n}")).unwrap(),
        made_at_ms: 0,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Well,
    Failing,
    Slow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dependency {
    Keys,
    Crl,
    Access,
}

impl Dependency {
    pub const ALL: [Self; 3] = [Self::Keys, Self::Crl, Self::Access];
}

/// One agent: at the registry, and here.
struct Agent {
    did: AgentDid,
    jti: Ulid,
    storage: Memory,
    object: Object<Memory>,
    kid: usize,
    token: u32,
    token_valid: bool,
    listed: bool,
    revoked_at: Option<u64>,
    /// Tokens whose session's end was applied here, and when.
    ended_at: HashMap<u32, u64>,
    session: u32,
    pairs: u8,
    /// The validation that its object keeps of its present token.
    kept_at_ms: Option<u64>,
}

/// One dependency in one outage, of one isolate.
#[derive(Default)]
pub struct Outage {
    pub calls: u64,
    pub failures: u64,
    pub in_flight_at_fifth: u64,
    in_flight: u64,
}

/// How requests ended.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub accepted: u64,
    pub refused: u64,
    pub unavailable: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unavailable += other.unavailable;
    }
}

/// What is known of a request's agent and isolate, before it and after it.
#[derive(Debug)]
pub struct View {
    pub now_ms: u64,
    pub kept_at_ms: Option<u64>,
    pub session: u32,
    pub revoked_at: Option<u64>,
    pub key_in_d1: bool,
    pub d1_well: bool,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// A clone is the same world.
#[derive(Clone)]
pub struct World(Rc<Inner>);

struct Inner {
    seed: u64,
    dice: Cell<u64>,
    fixtures: Fixtures,
    now_ms: Cell<u64>,
    next_ms: Cell<u64>,
    /// Counts what happens, so that of two events in one millisecond one is first.
    events: Cell<u64>,
    tasks: RefCell<Vec<Task>>,
    spawned: RefCell<Vec<Task>>,
    registry: Cell<Mode>,
    registry_since_ms: Cell<u64>,
    d1: Cell<Mode>,
    d1_since_ms: Cell<u64>,
    key_version: Cell<usize>,
    /// The copy in D1: which, fetched when, and since when it is there.
    d1_keys: Cell<Option<(usize, u64, u64)>>,
    agents: RefCell<Vec<Agent>>,
    isolates: RefCell<Vec<Rc<Isolate>>>,
    requests: RefCell<Vec<Rc<Proven>>>,
    accepted: RefCell<HashSet<u64>>,
    outages: RefCell<HashMap<(u32, Dependency), Outage>>,
    ended: RefCell<Tally>,
}

impl World {
    pub fn new(seed: u64, fixtures: Fixtures) -> Self {
        let agent = |n: usize| {
            let ait = &fixtures.0.aits[n][0].2.ait;
            let storage = Memory::default();
            let fresh = Generation::from_random([n as u8; 8]);
            let mut object = Object::wake(storage.clone(), LIMITS, START_MS, fresh).unwrap();
            let peers = [(peer(), recorded_pair(0))];
            object
                .learn(0, &ait.sub, None, LedgerAnswer::default(), Some(&peers), fresh)
                .unwrap();
            Agent {
                did: ait.sub.clone(),
                jti: ait.jti,
                object,
                storage,
                kid: 0,
                token: n as u32 * 1_000,
                token_valid: true,
                listed: false,
                revoked_at: None,
                ended_at: HashMap::new(),
                session: 0,
                pairs: 0,
                kept_at_ms: None,
            }
        };
        Self(Rc::new(Inner {
            seed,
            dice: Cell::new(seed),
            now_ms: Cell::new(START_MS),
            next_ms: Cell::new(u64::MAX),
            events: Cell::new(0),
            tasks: RefCell::default(),
            spawned: RefCell::default(),
            registry: Cell::new(Mode::Well),
            registry_since_ms: Cell::new(START_MS),
            d1: Cell::new(Mode::Well),
            d1_since_ms: Cell::new(START_MS),
            key_version: Cell::new(0),
            d1_keys: Cell::new(None),
            agents: RefCell::new((0..AGENTS).map(agent).collect()),
            isolates: RefCell::new(vec![Rc::new(Isolate::new(0)), Rc::new(Isolate::new(1))]),
            requests: RefCell::default(),
            accepted: RefCell::default(),
            outages: RefCell::default(),
            ended: RefCell::default(),
            fixtures,
        }))
    }

    /// SplitMix64.
    pub fn roll(&self, sides: u64) -> u64 {
        let state = self.0.dice.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.dice.set(state);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    pub fn now_ms(&self) -> u64 {
        self.0.now_ms.get()
    }

    pub fn event(&self) -> u64 {
        self.0.events.set(self.0.events.get() + 1);
        self.0.events.get()
    }

    #[track_caller]
    pub fn claim(&self, holds: bool, what: &str) {
        let (registry, d1) = (self.0.registry.get(), self.0.d1.get());
        assert!(
            holds,
            "seed {}, at {} ms, registry {registry:?}, D1 {d1:?}: {what}",
            self.0.seed,
            self.now_ms() - START_MS
        );
    }

    // Time and tasks.

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.spawned.borrow_mut().push(Box::pin(task));
    }

    pub async fn sleep(&self, ms: u64) {
        let until_ms = self.now_ms() + ms;
        poll_fn(|_| {
            if self.now_ms() >= until_ms {
                return Poll::Ready(());
            }
            self.0.next_ms.set(self.0.next_ms.get().min(until_ms));
            Poll::Pending
        })
        .await;
    }

    pub fn pass(&self, ms: u64) {
        let until_ms = self.now_ms() + ms;
        loop {
            self.poll_all();
            let next_ms = self.0.next_ms.get();
            if next_ms > until_ms {
                break;
            }
            self.0.now_ms.set(next_ms.max(self.now_ms()));
        }
        self.0.now_ms.set(until_ms);
    }

    fn poll_all(&self) {
        self.0.next_ms.set(u64::MAX);
        let mut tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        loop {
            tasks.retain_mut(|task| {
                task.as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            });
            let mut spawned = std::mem::take(&mut *self.0.spawned.borrow_mut());
            if spawned.is_empty() {
                break;
            }
            spawned.retain_mut(|task| {
                task.as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            });
            tasks.append(&mut spawned);
        }
        *self.0.tasks.borrow_mut() = tasks;
    }

    // What there is.

    pub fn issuer(&self) -> &Issuer {
        &self.0.fixtures.0.issuer
    }

    pub fn registry(&self) -> Mode {
        self.0.registry.get()
    }

    pub fn key_set(&self, version: usize) -> Rc<KeySet> {
        self.0.fixtures.0.keys[version].clone()
    }

    pub fn remembered(&self, agent: usize, kid: usize, hash: &[u8; 32]) -> Option<VerifiedAit> {
        let (_, known, verified) = &self.0.fixtures.0.aits[agent][kid];
        (known == hash).then(|| verified.clone())
    }

    pub fn object<R>(&self, agent: usize, step: impl FnOnce(&mut Object<Memory>) -> R) -> R {
        step(&mut self.agent(agent).object)
    }

    pub fn key_version(&self) -> usize {
        self.0.key_version.get()
    }

    /// What is listed, if anything.
    pub fn crl(&self) -> Vec<Ulid> {
        let agents = self.0.agents.borrow();
        agents
            .iter()
            .filter(|agent| agent.listed)
            .map(|agent| agent.jti)
            .collect()
    }

    pub fn token_holds(&self, agent: usize, token: u32) -> bool {
        let agent = self.agent(agent);
        agent.token_valid && agent.token == token
    }

    /// The agent's object keeps a validation.
    pub fn kept(&self, agent: usize, token: u32, at_ms: u64) {
        let mut agent = self.agent(agent);
        if agent.token == token {
            agent.kept_at_ms = agent.kept_at_ms.max(Some(at_ms));
        }
    }

    pub fn dropped(&self, agent: usize, token: u32) {
        let mut agent = self.agent(agent);
        if agent.token == token {
            agent.kept_at_ms = None;
        }
    }

    /// Whom the agent writes to.
    pub fn peer_of(&self, _agent: usize) -> AgentDid {
        peer()
    }

    pub fn session_ended_at(&self, request: &Proven) -> Option<u64> {
        self.agent(request.agent).ended_at.get(&request.token).copied()
    }

    pub fn view(&self, gate: &Gate) -> View {
        let now_ms = self.now_ms();
        let agent = self.agent(gate.agent);
        // One that was written just now may be found a second later (`keys::DURABLE_AGAIN_MS`).
        let key_in_d1 =
            |(version, _, since_ms): (usize, u64, u64)| version >= gate.kid && now_ms - since_ms > 2_000;
        View {
            now_ms,
            kept_at_ms: agent.kept_at_ms.filter(|_| agent.token == gate.token),
            session: agent.session,
            revoked_at: agent.revoked_at,
            key_in_d1: self.0.d1_keys.get().is_some_and(key_in_d1),
            d1_well: self.0.d1.get() == Mode::Well && now_ms - self.0.d1_since_ms.get() > 10_000,
        }
    }

    /// Whether it is the first time.
    pub fn accept(&self, request: &Proven) -> bool {
        self.0.accepted.borrow_mut().insert(request.number)
    }

    pub fn end(&self, answer: &Result<Verified, Refusal>) {
        let mut ended = self.0.ended.borrow_mut();
        match answer {
            Ok(_) => ended.accepted += 1,
            Err(Refusal::DependencyUnavailable { .. } | Refusal::TrustUnavailable { .. }) => {
                ended.unavailable += 1
            }
            Err(_) => ended.refused += 1,
        }
    }

    pub fn ended(&self) -> Tally {
        self.0.ended.borrow().clone()
    }

    pub fn outages(&self, dependency: Dependency, look: impl Fn(&Outage, u64)) {
        let lasted_ms = self.now_ms() - self.0.registry_since_ms.get();
        for ((_, of), outage) in self.0.outages.borrow().iter() {
            if *of == dependency {
                look(outage, lasted_ms);
            }
        }
    }

    fn agent(&self, at: usize) -> RefMut<'_, Agent> {
        RefMut::map(self.0.agents.borrow_mut(), |agents| &mut agents[at])
    }

    fn any_agent(&self) -> usize {
        self.roll(AGENTS as u64) as usize
    }

    fn fresh(&self) -> Generation {
        Generation::from_random(self.roll(u64::MAX).to_be_bytes())
    }
}

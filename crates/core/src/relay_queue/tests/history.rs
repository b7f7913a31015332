//! Thousands of messages through a session that dies at random steps, and a check of its history: nothing accepted is
//! lost, nothing is out of order for its sender, nothing goes out twice on a live connection unless it was refused there,
//! each dead letter has its receipt and a reason that its message gave, and no alarm fires in a loop.
//!
//! The session (`session`) does what `src/relay` does, with its writes in the same order, and runs the Worker's own SQL
//! (`statements`). Connectors of both deployed families, their webhooks, links and laptops are in `connector`. Time is
//! virtual, and everything comes from one seed.
//!
//! 2,000 messages by default. `MESSAGES=30000` makes the course long, and `SEED` repeats one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet, VecDeque};

use super::*;

mod connector;
mod session;

use connector::Connector;
use session::{Frame, Out, Session};

/// A message: its sender, and its number with that sender.
type Id = (u8, u32);

const SENDERS: u8 = 6;
/// Refused each time that it comes.
const CURSED_EVERY: u32 = 151;
/// What the Rust connector cannot parse: it drops its socket on sight of it.
const POISONED_EVERY: u32 = 307;
/// What the TypeScript connector drops without acknowledging it.
const MUTE_EVERY: u32 = 331;

fn is_one_of(every: u32, id: Id) -> bool {
    id.1 % every == every - 1
}

fn is_cursed(id: Id) -> bool {
    is_one_of(CURSED_EVERY, id)
}

fn is_poisoned(id: Id) -> bool {
    is_one_of(POISONED_EVERY, id)
}

fn is_mute(id: Id) -> bool {
    is_one_of(MUTE_EVERY, id)
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// What happens at a moment of virtual time.
enum Event {
    /// A sender calls the hook, for the first time or again.
    Send(u8),
    /// A hook that waited is answered with what is stored.
    Answer(Id),
    /// A frame of the session arrives at the connector, or its close.
    ToConnector(u64, Frame),
    /// A frame of the connector arrives at the session.
    ToSession(u64, Word),
    /// The line has ended, and the session hears of it.
    LineEnds(u64),
    /// The link of a connection ends by itself.
    LinkDies(u64),
    Connect,
    Beat(u64),
    /// The webhook has answered.
    Webhook {
        conn: u64,
        id: Id,
        process: u64,
    },
    /// The laptop wakes.
    Wakes,
    Learn(Question),
    Alarm(u64),
    /// Receipts have been told to the senders' sessions, or not.
    EmptyOutbox,
    /// A sender's connector comes for its receipts.
    FetchReceipts,
    /// The connector is another one from now on, or behaves otherwise.
    Change,
}

/// What the connector says.
#[derive(Clone, Copy)]
enum Word {
    Heartbeat,
    Ack { id: Id, accepted: bool },
}

struct Planned(u64, u64, Event);

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Planned {}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

struct World {
    random: Random,
    now: u64,
    plan: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    session: Session,
    connector: Connector,
    /// How many each sender sends, the next number of each, and what of it is accepted and has no end.
    quota: u32,
    next: Vec<u32>,
    accepted: HashSet<Id>,
    /// What the connector has said yes to.
    taken: HashSet<Id>,
    first_seen: Vec<Option<u32>>,
    seen: HashSet<Id>,
    /// Receipts that came to the sender's connector.
    receipts: HashMap<Id, String>,
    last_idle_alarm: Option<u64>,
    idle_alarms: u32,
    alarms: u64,
    /// Nothing dies and nobody refuses any more.
    is_settling: bool,
}

impl World {
    fn new(seed: u64, messages: u32) -> Self {
        Self {
            random: Random(seed),
            now: 1_000_000,
            plan: BinaryHeap::new(),
            planned: 0,
            session: Session::new(),
            connector: Connector::new(),
            quota: messages.div_ceil(SENDERS.into()),
            next: vec![0; SENDERS.into()],
            accepted: HashSet::new(),
            taken: HashSet::new(),
            first_seen: vec![None; SENDERS.into()],
            seen: HashSet::new(),
            receipts: HashMap::new(),
            last_idle_alarm: None,
            idle_alarms: 0,
            alarms: 0,
            is_settling: false,
        }
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.planned += 1;
        self.plan
            .push(Reverse(Planned(self.now + ms, self.planned, event)));
    }

    fn run(&mut self) {
        for from in 0..SENDERS {
            self.after(u64::from(from), Event::Send(from));
        }
        self.after(0, Event::Connect);
        self.after(60_000, Event::Change);
        self.after(60_000, Event::FetchReceipts);
        let mut steps = 0_u64;
        while !self.is_over() {
            steps += 1;
            let Some(Reverse(Planned(at, _, event))) = self.plan.pop() else {
                panic!("nothing happens any more");
            };
            assert!(
                steps < 1_000 * u64::from(self.quota) + 1_000_000,
                "{} messages are left at {at}",
                self.session.live()
            );
            self.now = self.now.max(at);
            if !self.is_settling {
                if self.next.iter().all(|next| *next >= self.quota) {
                    self.settle();
                }
                if self.random.one_in(200) {
                    self.session.forgets();
                }
                let points = self.random.below(120) as u32;
                self.session.dies_after.get_or_insert(points);
            }
            self.happens(event);
        }
    }

    fn is_over(&self) -> bool {
        self.is_settling && self.session.live() == 0 && self.session.outbox_is_empty()
    }

    /// Nothing dies any more, and the connector is a kind one.
    fn settle(&mut self) {
        self.is_settling = true;
        self.session.dies_after = None;
        self.connector.is_kind();
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Send(from) => self.send(from),
            Event::Answer(id) => self.answer_hook(id),
            Event::ToConnector(conn, frame) => self.comes(conn, frame),
            Event::ToSession(conn, word) => {
                let random = self.random.below(1_000) as f64 / 1_000.0;
                self.session.hears(conn, word, self.now, random);
                self.effects();
            }
            Event::LineEnds(conn) => {
                self.session.ended(conn, self.now);
                self.effects();
            }
            Event::LinkDies(conn) => self.link_dies(conn),
            Event::Connect => self.connect(),
            Event::Beat(conn) => {
                if self.connector.is_open(conn) {
                    if !self.connector.sleeps(self.now) {
                        self.say(conn, Word::Heartbeat);
                    }
                    let ms = self.random.between(20_000, 30_000);
                    self.after(ms, Event::Beat(conn));
                }
            }
            Event::Webhook { conn, id, process } => self.webhook_answered(conn, id, process),
            Event::Wakes => {
                for (conn, frame) in self.connector.wakes() {
                    self.comes(conn, frame);
                }
            }
            Event::Learn(question) => {
                let answer = match !self.is_settling && self.random.one_in(12) {
                    true => Answer::Nothing,
                    false => good(),
                };
                self.session.learns(&question, &answer, self.now);
                self.effects();
            }
            Event::Alarm(at) => self.alarm(at),
            Event::EmptyOutbox => {
                let (lost_before, lost_after) = match self.is_settling {
                    true => (false, false),
                    false => (self.random.one_in(8), self.random.one_in(8)),
                };
                self.session.empty_outbox(self.now, lost_before, lost_after);
                self.effects();
            }
            Event::FetchReceipts => {
                let is_confirmed = self.random.one_in(2);
                for (id, status) in self.session.fetch_receipts(is_confirmed) {
                    self.receipts.insert(id, status);
                }
                let ms = self.random.between(1_000, 300_000);
                self.after(ms, Event::FetchReceipts);
            }
            Event::Change => {
                if !self.is_settling {
                    self.change();
                }
            }
        }
    }

    /// A sender calls again, under the same id, until it has an answer; it sends no more while much of it waits.
    fn send(&mut self, from: u8) {
        let n = self.next[usize::from(from)];
        if n >= self.quota {
            return;
        }
        if self.session.live_of(from) > 25 {
            return self.after(2_000, Event::Send(from));
        }
        let id = (from, n);
        let placed = self.session.deliver(id, self.now);
        let answered = match placed {
            // In flight: its hook waits for the outcome.
            Some(true) => {
                let waits = self.random.between(1, 15_000);
                self.after(waits, Event::Answer(id));
                None
            }
            Some(false) => Some(true),
            None => Some(false),
        };
        if let Some(ok) = answered {
            self.answered(id, ok);
        }
        self.effects();
    }

    fn answer_hook(&mut self, id: Id) {
        let found = self.session.knows(id, self.now);
        if found == Some(false) {
            panic!("a stored message is missing: {id:?}");
        }
        self.answered(id, found.is_some());
        self.effects();
    }

    fn answered(&mut self, id: Id, ok: bool) {
        let is_lost = !self.is_settling && self.random.one_in(50);
        if ok && !is_lost {
            self.accepted.insert(id);
            self.next[usize::from(id.0)] += 1;
            let ms = self.random.between(1, 3_000);
            self.after(ms, Event::Send(id.0));
        } else {
            let ms = self.random.between(1, 500);
            self.after(ms, Event::Send(id.0));
        }
    }

    /// What the session's last step let out.
    fn effects(&mut self) {
        for out in std::mem::take(&mut self.session.out) {
            match out {
                Out::Frame(conn, frame) => {
                    let ms = self.connector.latency(conn);
                    self.after(ms, Event::ToConnector(conn, frame));
                }
                Out::Ask(question) => {
                    let ms = self.random.between(1, 400);
                    self.after(ms, Event::Learn(question));
                }
                Out::Alarm(at) => {
                    let ms = at.saturating_sub(self.now);
                    self.after(ms, Event::Alarm(at));
                }
                Out::Outbox => self.after(20, Event::EmptyOutbox),
                Out::Died => {
                    for conn in self.connector.all_end() {
                        let ms = self.connector.latency(conn);
                        self.after(ms, Event::ToConnector(conn, Frame::Close));
                    }
                }
            }
        }
    }

    /// No alarm fires in a loop. One may find nothing to do, because what it was set for was done or its place was taken
    /// meanwhile; but not one after the other, each within a second.
    fn alarm(&mut self, at: u64) {
        let Some(found_nothing) = self.session.alarm(at, self.now) else {
            return self.effects();
        };
        self.alarms += 1;
        if found_nothing {
            let is_soon = self.last_idle_alarm.is_some_and(|last| self.now < last + SECOND);
            self.idle_alarms = if is_soon { self.idle_alarms + 1 } else { 0 };
            assert!(self.idle_alarms < 40, "alarms for nothing at {}", self.now);
            self.last_idle_alarm = Some(self.now);
        }
        self.effects();
    }

    /// Whether a message may have waited for its whole life: it or one of its sender's before it is never taken, or was
    /// not until lately.
    fn may_expire(&self, id: Id) -> bool {
        let is_bad = |id: Id| is_cursed(id) || is_poisoned(id) || is_mute(id);
        let ended_ms = self.session.ends[&id];
        let before = (0..id.1).rev().map(|n| (id.0, n));
        is_bad(id)
            || before
                .filter(|other| is_bad(*other))
                .any(|other| self.session.ends[&other] + HOUR / 4 > ended_ms)
    }

    fn check(&self) {
        let mut dead = 0;
        for id in &self.accepted {
            let (state, reason) = self
                .session
                .outcome(*id)
                .unwrap_or_else(|| panic!("{id:?} is lost"));
            match state.as_str() {
                "delivered" => assert!(self.taken.contains(id), "{id:?} was never taken"),
                "dead_lettered" => {
                    dead += 1;
                    let status = self.receipts.get(id).map(String::as_str);
                    assert_eq!(status, Some("dead_lettered"), "{id:?} has no receipt");
                    match reason.as_deref() {
                        Some("attempts_exhausted") => assert!(is_cursed(*id), "{id:?} was given up"),
                        Some("connector_broke") => assert!(is_poisoned(*id), "{id:?} was given up"),
                        Some("expired") => assert!(self.may_expire(*id), "{id:?} expired"),
                        other => panic!("{id:?}: {other:?}"),
                    }
                }
                other => panic!("{id:?} is {other}"),
            }
        }
        assert_eq!(self.accepted.len() as u32, self.quota * u32::from(SENDERS));
        assert_eq!(self.receipts.len(), dead, "receipts of dead letters alone");
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_history_of_messages_and_a_session_that_dies_at_random_steps() {
    let messages = env("MESSAGES").unwrap_or(2_000) as u32;
    let seed = env("SEED").unwrap_or_else(|| {
        let random = std::hash::RandomState::new();
        std::hash::BuildHasher::hash_one(&random, 0) % 1_000_000_000
    });
    println!("SEED={seed} MESSAGES={messages}");
    let mut world = World::new(seed, messages);
    world.run();
    world.happens(Event::FetchReceipts);
    world.check();
    println!(
        "{} accepted, {} taken, {} dead letters, {} deaths, {} connections, {} alarms, {} s",
        world.accepted.len(),
        world.taken.len(),
        world.receipts.len(),
        world.session.deaths,
        world.connector.connections,
        world.alarms,
        world.now / SECOND
    );
    assert!(world.session.deaths > messages / 50);
}

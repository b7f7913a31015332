//! Two agents, their objects and the record: pairs that are confirmed, ended and confirmed again, with every call between
//! them in any order, lost or made again, objects that are evicted or lose their storage, and a record that fails.
//!
//! The calls are those that the Worker makes (`trust::pairs`, `trust::object`), cut wherever another one may come between.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::memory::Memory;
use super::unconfirmed::TokenLimits;
use super::{Admission, EndedPair, Generation, LedgerAnswer, Limits, PairId, Paired, RecordedPair};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::testing::agent;

const LIMITS: Limits = Limits {
    rate_limit: 100,
    rate_window_ms: 60_000,
    warn_skew_s: 200,
    tokens: TokenLimits {
        most: 5,
        first_pause_ms: 5_000,
        longest_pause_ms: 30_000,
    },
};
/// Far enough for every alarm to be due.
const LATER_MS: u64 = 3_600_000;

#[derive(Clone, Debug)]
enum Step {
    Confirm,
    /// One of the two ends the pair.
    Remove(usize),
    /// One of the two writes to the other.
    Message(usize),
    Alarm(usize),
    /// The minute run tells what is untold.
    Minute,
    Evict(usize),
    LoseStorage(usize),
    /// The record answers, or does not.
    Record(bool),
    /// One of the calls under way goes on by a step; its next call may be lost before or after it is done.
    GoOn(usize, Loss),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    None,
    Before,
    After,
}

fn step() -> impl Strategy<Value = Step> {
    let loss = prop_oneof![6 => Just(Loss::None), 1 => Just(Loss::Before), 1 => Just(Loss::After)];
    let side = 0..2_usize;
    prop_oneof![
        3 => Just(Step::Confirm),
        3 => side.clone().prop_map(Step::Remove),
        6 => side.clone().prop_map(Step::Message),
        2 => side.clone().prop_map(Step::Alarm),
        1 => Just(Step::Minute),
        1 => side.clone().prop_map(Step::Evict),
        1 => side.prop_map(Step::LoseStorage),
        1 => prop::bool::weighted(0.7).prop_map(Step::Record),
        24 => (0..64_usize, loss).prop_map(|(which, loss)| Step::GoOn(which, loss)),
    ]
}

/// What is under way, with what it has learned so far.
#[derive(Clone, Debug)]
enum Task {
    /// A ticket is confirmed: the pair is written, then both objects are told.
    Confirm(RecordedPair),
    /// An agent ends the pair.
    Remove { side: usize, begun_at: u64, life: u64 },
    /// An object is told to read a pair; then the record is told that it was.
    Tell { side: usize, id: PairId, at: Tell },
    /// The end of a pair on its way to the record, to the other object, to the record again, and back.
    Settle {
        side: usize,
        id: PairId,
        until_ms: u64,
        recorded: Option<bool>,
        told: Told,
    },
    /// The minute run tells an object of an end that the record holds.
    TellEnd { side: usize, id: PairId, told: bool },
    /// An object that has no pairs reads them.
    Load {
        side: usize,
        life: u64,
        read: Option<(u64, Option<RecordedPair>)>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nobody,
    Peer,
    Record,
}

#[derive(Clone, Debug)]
enum Tell {
    Call,
    Read {
        life: u64,
        changes: u64,
    },
    Apply {
        life: u64,
        changes: u64,
        read: Option<RecordedPair>,
    },
    Told,
}

struct Object {
    storage: Memory,
    machine: Admission<Memory>,
    /// How often it was woken; what it waited for before is gone.
    life: u64,
    changes: u64,
}

struct World {
    /// The pair, as each agent's row has it, and whether that agent's object is still to be told.
    record: [Option<(RecordedPair, bool)>; 2],
    /// Ends of which that agent's object is not known to have been told.
    untold_ends: [HashSet<PairId>; 2],
    record_answers: bool,
    objects: [Object; 2],
    tasks: Vec<Task>,
    /// Every step takes some time.
    now_ms: u64,
    /// All pairs that were ever in the record, each with when it came there.
    confirmed: Vec<(PairId, u64)>,
    /// Pairs whose removal was answered, with who knows of it.
    removed: HashMap<PairId, KnownBy>,
    random: u64,
}

/// Who knows of the end of a pair.
#[derive(Debug, Default)]
struct KnownBy {
    objects: HashSet<usize>,
    record: bool,
}

fn wake(storage: &Memory, random: u64) -> Admission<Memory> {
    let fresh = Generation::from_random(random.to_be_bytes());
    Admission::wake(storage.clone(), LIMITS, 0, fresh).unwrap()
}

impl World {
    fn new() -> Self {
        let object = || {
            let storage = Memory::default();
            Object {
                machine: wake(&storage, 0),
                storage,
                life: 0,
                changes: 0,
            }
        };
        Self {
            record: [None, None],
            untold_ends: [HashSet::new(), HashSet::new()],
            record_answers: true,
            objects: [object(), object()],
            tasks: Vec::new(),
            now_ms: 1,
            confirmed: Vec::new(),
            removed: HashMap::new(),
            random: 0,
        }
    }

    fn did(side: usize) -> AgentDid {
        agent(side as u128 + 1)
    }

    fn fresh(&mut self) -> Generation {
        self.random += 1;
        Generation::from_random(self.random.to_be_bytes())
    }

    fn peer(side: usize) -> AgentDid {
        Self::did(1 - side)
    }

    fn held(&self, side: usize) -> Paired {
        let reply = self.objects[side]
            .machine
            .check(0, None, Some(&Self::peer(side)), None);
        reply.unwrap().peers.paired.unwrap()
    }

    fn live(&mut self, step: &Step) {
        self.now_ms += 1;
        match step {
            Step::Confirm => {
                self.random += 1;
                let id = PairId::parse(&format!("p{}", self.random)).unwrap();
                self.tasks.push(Task::Confirm(RecordedPair {
                    id,
                    made_at_ms: self.now_ms,
                }));
            }
            Step::Remove(side) => self.tasks.push(Task::Remove {
                side: *side,
                begun_at: self.now_ms,
                life: self.objects[*side].life,
            }),
            Step::Message(side) => match self.held(*side) {
                Paired::Unavailable => self.load(*side),
                Paired::Yes(id) => {
                    let knows = |by: &KnownBy| by.objects.contains(side);
                    assert!(
                        !self.removed.get(&id).is_some_and(knows),
                        "a message is admitted by {id}, which was removed"
                    );
                }
                Paired::No => {}
            },
            Step::Alarm(side) => self.alarm(*side),
            Step::Minute => self.minute(),
            Step::Evict(side) => self.evict(*side),
            Step::LoseStorage(side) => {
                self.objects[*side].storage = Memory::default();
                self.evict(*side);
                for by in self.removed.values_mut() {
                    by.objects.remove(side);
                }
                // What nobody knows any longer never happened.
                self.removed.retain(|_, by| by.record || !by.objects.is_empty());
            }
            Step::Record(answers) => self.record_answers = *answers,
            Step::GoOn(which, loss) if !self.tasks.is_empty() => {
                let at = which % self.tasks.len();
                let task = self.tasks.remove(at);
                if let Some(task) = self.go_on(task, *loss) {
                    self.tasks.push(task);
                }
            }
            Step::GoOn(..) => {}
        }
    }

    fn load(&mut self, side: usize) {
        let life = self.objects[side].life;
        self.tasks.push(Task::Load {
            side,
            life,
            read: None,
        });
    }

    fn evict(&mut self, side: usize) {
        self.random += 1;
        let object = &mut self.objects[side];
        object.machine = wake(&object.storage, self.random);
        object.life += 1;
        object.changes = 0;
    }

    fn confirm(&mut self, pair: RecordedPair) -> Option<Task> {
        if self.record_answers {
            self.confirmed.push((pair.id.clone(), self.now_ms));
            self.tasks.extend((0..2).map(|side| Task::Tell {
                side,
                id: pair.id.clone(),
                at: Tell::Call,
            }));
            self.record = [Some((pair.clone(), true)), Some((pair, true))];
        }
        None
    }

    /// What the client asks of an object; `told` is false where its answer is lost.
    fn remove(&mut self, side: usize, begun_at: u64, life: u64) -> Option<Task> {
        if self.objects[side].life != life {
            return None;
        }
        if !self.objects[side].machine.peers_loaded() {
            self.load(side);
            return None;
        }
        self.objects[side].changes += 1;
        let (fresh, now_ms) = (self.fresh(), self.now_ms);
        let ended = self.objects[side]
            .machine
            .end_pair(now_ms, &Self::did(side), &Self::peer(side), fresh)
            .unwrap();
        let id = ended.ended.filter(|_| !ended.unavailable)?;
        let before = self.confirmed.iter().filter(|(_, at_ms)| *at_ms < begun_at);
        let before: Vec<PairId> = before.map(|(id, _)| id.clone()).collect();
        for removed in before.iter().chain([&id]) {
            self.knows(removed, side);
        }
        self.tasks.push(Task::Settle {
            side,
            id,
            until_ms: ended.until_ms,
            recorded: None,
            told: Told::Nobody,
        });
        None
    }

    fn recorded(&self, side: usize) -> Option<RecordedPair> {
        self.record[side].as_ref().map(|(pair, _)| pair.clone())
    }

    fn pair_read(&mut self, side: usize, read: Option<&RecordedPair>) {
        let (fresh, now_ms) = (self.fresh(), self.now_ms);
        let (did, peer) = (Self::did(side), Self::peer(side));
        let machine = &mut self.objects[side].machine;
        machine.pair_read(now_ms, &did, &peer, read, fresh).unwrap();
    }

    fn knows(&mut self, id: &PairId, side: usize) {
        self.removed.entry(id.clone()).or_default().objects.insert(side);
    }

    fn alarm(&mut self, side: usize) {
        for due in self.objects[side].machine.to_settle(LATER_MS).unwrap() {
            assert_eq!((due.agent, due.ended.peer), (Self::did(side), Self::peer(side)));
            self.tasks.push(Task::Settle {
                side,
                id: due.ended.pair_id,
                until_ms: due.until_ms,
                recorded: None,
                told: Told::Nobody,
            });
        }
    }

    fn minute(&mut self) {
        for side in 0..2 {
            if let Some((pair, true)) = self.record[side].clone() {
                self.tasks.push(Task::Tell {
                    side,
                    id: pair.id,
                    at: Tell::Call,
                });
            }
            let ends: Vec<PairId> = self.untold_ends[side].iter().cloned().collect();
            self.tasks.extend(ends.into_iter().map(|id| Task::TellEnd {
                side,
                id,
                told: false,
            }));
        }
    }

    /// The next step of a piece of work; none where it is over, or lost.
    fn go_on(&mut self, task: Task, loss: Loss) -> Option<Task> {
        self.now_ms += 1;
        if loss == Loss::Before {
            return None;
        }
        let next = match task {
            Task::Confirm(pair) => {
                let told = self.tasks.len();
                self.confirm(pair);
                // Its Worker is gone, and the objects are told by somebody else.
                if loss == Loss::After {
                    self.tasks.truncate(told);
                }
                None
            }
            Task::Remove { side, begun_at, life } => self.remove(side, begun_at, life),
            Task::Tell { side, id, at } => self.tell(side, id, at),
            Task::Settle {
                side,
                id,
                until_ms,
                recorded,
                told,
            } => self.settle(side, id, until_ms, recorded, told),
            Task::TellEnd { side, id, told } => self.tell_end(side, id, told),
            Task::Load { side, life, read } => self.read_all(side, life, read),
        };
        next.filter(|_| loss == Loss::None)
    }

    fn tell(&mut self, side: usize, id: PairId, at: Tell) -> Option<Task> {
        let at = match at {
            Tell::Call => {
                let object = &mut self.objects[side];
                object.changes += 1;
                Tell::Read {
                    life: object.life,
                    changes: object.changes,
                }
            }
            Tell::Read { life, changes } => {
                if !self.record_answers {
                    return None;
                }
                let read = self.recorded(side);
                Tell::Apply { life, changes, read }
            }
            Tell::Apply { life, changes, read } => {
                let object = &self.objects[side];
                if object.life != life {
                    return None;
                }
                if object.changes != changes {
                    Tell::Read {
                        life,
                        changes: object.changes,
                    }
                } else {
                    self.pair_read(side, read.as_ref());
                    Tell::Told
                }
            }
            Tell::Told => {
                match &mut self.record[side] {
                    Some((recorded, untold)) if self.record_answers && recorded.id == id => *untold = false,
                    _ => {}
                }
                return None;
            }
        };
        Some(Task::Tell { side, id, at })
    }

    fn settle(
        &mut self,
        side: usize,
        id: PairId,
        until_ms: u64,
        recorded: Option<bool>,
        told: Told,
    ) -> Option<Task> {
        let Some(recorded) = recorded else {
            if self.record_answers {
                let is_over = |pair: &RecordedPair| pair.id == id || pair.made_at_ms <= until_ms;
                for row in &mut self.record {
                    let Some((pair, _)) = row.take_if(|(pair, _)| is_over(pair)) else {
                        continue;
                    };
                    self.removed.entry(pair.id.clone()).or_default().record = true;
                    // The remover too, should its object have read the row just before. The minute run tells it.
                    self.untold_ends[side].insert(pair.id.clone());
                    // Each that ended is told of by itself.
                    if self.untold_ends[1 - side].insert(pair.id.clone()) && pair.id != id {
                        self.tasks.push(Task::TellEnd {
                            side: 1 - side,
                            id: pair.id,
                            told: false,
                        });
                    }
                }
                self.removed.entry(id.clone()).or_default().record = true;
            }
            let recorded = Some(self.record_answers);
            return Some(Task::Settle {
                side,
                id,
                until_ms,
                recorded,
                told,
            });
        };
        let told = match told {
            Told::Nobody if self.end(1 - side, &id, until_ms, !recorded) => Told::Peer,
            Told::Nobody => return None,
            Told::Peer if !recorded || !self.record_answers => return None,
            Told::Peer => {
                self.untold_ends[1 - side].remove(&id);
                Told::Record
            }
            Told::Record => {
                let ended = EndedPair {
                    peer: Self::peer(side),
                    pair_id: id,
                };
                if self.reads_another(side, &ended) {
                    let (fresh, now_ms) = (self.fresh(), self.now_ms);
                    let object = &mut self.objects[side];
                    object.changes += 1;
                    object.machine.pair_settled(now_ms, &ended, fresh).unwrap();
                }
                return None;
            }
        };
        Some(Task::Settle {
            side,
            id,
            until_ms,
            recorded: Some(recorded),
            told,
        })
    }

    fn tell_end(&mut self, side: usize, id: PairId, told: bool) -> Option<Task> {
        if told {
            if self.record_answers {
                self.untold_ends[side].remove(&id);
            }
            return None;
        }
        self.end(side, &id, 0, false)
            .then_some(Task::TellEnd { side, id, told: true })
    }

    /// An object is told that the other side has ended a pair. False where it could not do all of it.
    fn end(&mut self, side: usize, id: &PairId, until_ms: u64, unrecorded: bool) -> bool {
        let (fresh, now_ms) = (self.fresh(), self.now_ms);
        let ended = EndedPair {
            peer: Self::peer(side),
            pair_id: id.clone(),
        };
        let object = &mut self.objects[side];
        object.changes += 1;
        let untold_by = unrecorded.then(|| Self::did(side));
        object
            .machine
            .pair_ended(now_ms, &ended, until_ms, untold_by.as_ref(), fresh)
            .unwrap();
        self.knows(id, side);
        self.reads_another(side, &ended)
    }

    /// An object that holds another pair than the one that ended reads the record.
    fn reads_another(&mut self, side: usize, ended: &EndedPair) -> bool {
        if !self.objects[side].machine.holds_another(ended).unwrap() {
            return true;
        }
        if !self.record_answers {
            return false;
        }
        let read = self.recorded(side);
        self.objects[side].changes += 1;
        self.pair_read(side, read.as_ref());
        true
    }

    fn read_all(
        &mut self,
        side: usize,
        life: u64,
        read: Option<(u64, Option<RecordedPair>)>,
    ) -> Option<Task> {
        if self.objects[side].life != life {
            return None;
        }
        let read = match read {
            None if !self.record_answers => return None,
            None => Some((self.objects[side].changes, self.recorded(side))),
            Some((changes, _)) if self.objects[side].changes != changes => None,
            Some((_, pair)) => {
                let peers: Vec<_> = pair.map(|pair| (Self::peer(side), pair)).into_iter().collect();
                let (fresh, now_ms, did) = (self.fresh(), self.now_ms, Self::did(side));
                let machine = &mut self.objects[side].machine;
                machine
                    .learn(now_ms, &did, None, LedgerAnswer::default(), Some(&peers), fresh)
                    .unwrap();
                return None;
            }
        };
        Some(Task::Load { side, life, read })
    }

    /// Everything answers again, and all that is due is done.
    fn come_to_rest(&mut self) {
        self.record_answers = true;
        for _ in 0..8 {
            for side in 0..2 {
                if !self.objects[side].machine.peers_loaded() {
                    self.load(side);
                }
                self.alarm(side);
            }
            self.minute();
            while !self.tasks.is_empty() {
                let task = self.tasks.remove(0);
                if let Some(task) = self.go_on(task, Loss::None) {
                    self.tasks.push(task);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_the_end_both_objects_and_the_record_agree(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.live(step);
        }
        world.come_to_rest();
        for side in 0..2 {
            world.live(&Step::Message(side));
            let recorded = world.record[side].clone();
            prop_assert_eq!(recorded.as_ref().map(|(_, untold)| *untold).unwrap_or(false), false, "a row stays untold");
            let expected = recorded.map_or(Paired::No, |(pair, _)| Paired::Yes(pair.id));
            if let Paired::Yes(id) = &expected {
                prop_assert!(!world.removed.contains_key(id), "a pair that was removed is in the record");
            }
            prop_assert_eq!(world.held(side), expected);
            prop_assert!(world.objects[side].machine.to_settle(LATER_MS).unwrap().is_empty(), "an end stays unsettled");
        }
        prop_assert_eq!(&world.record[0], &world.record[1]);
        prop_assert!(world.untold_ends.iter().all(HashSet::is_empty), "an end stays untold");
    }
}

//! Random events, in any order, against a model that knows only the promises: nothing lost, order per sender, nothing
//! twice on one connection unless refused there, at most so many in flight and one at a time after a break, no sender in
//! another's places, nothing sent whose authority was not asked about within half a second or had ended then, nothing
//! given up but for a reason, restarts at any moment; and with a connector that takes everything an empty queue in the end.

use super::*;
use clawdentity_protocol::ids::GroupId;

/// What can happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Event {
    Offer {
        from: u8,
        admitted: bool,
        under: Under,
    },
    Connect,
    Disconnect {
        by: EndedBy,
    },
    Acknowledge {
        which: u8,
        accepted: bool,
        on_this_socket: bool,
    },
    Settle {
        which: u8,
    },
    Wait {
        ms: u64,
    },
    Answer {
        how: How,
    },
    /// Something that mail rests on ends.
    End {
        from: u8,
        what: What,
    },
    Restart {
        hibernated: bool,
    },
}

/// What a message rests on.
#[derive(Debug, Clone, Copy)]
enum Under {
    Notice,
    Own { token: u8 },
    Pair { token: u8, pair: u8 },
    Group { token: u8, group: u8 },
}

/// How the world answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Truly,
    NotAtAll,
    /// The registry does not answer.
    WithoutGroups,
    /// The ledger has not confirmed what was revoked.
    Unconfirmed,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Agent,
    Token(u8),
    Session,
    Pair(u8),
    Group(u8),
}

fn unders() -> impl Strategy<Value = Under> {
    prop_oneof![
        1 => Just(Under::Notice),
        2 => (0_u8..2).prop_map(|token| Under::Own { token }),
        6 => (0_u8..2, 0_u8..2).prop_map(|(token, pair)| Under::Pair { token, pair }),
        3 => (0_u8..2, 0_u8..2).prop_map(|(token, group)| Under::Group { token, group }),
    ]
}

fn jti(n: u8) -> Ulid {
    Ulid::from_parts(1, [n; 10])
}

fn pair(n: u8) -> PairId {
    PairId::parse(&format!("pair-{n}")).unwrap()
}

fn group(n: u8) -> GroupId {
    GroupId::parse(&format!("grp_{}", jti(n))).unwrap()
}

fn authority(under: Under) -> Authority {
    let (token, basis) = match under {
        Under::Notice => return Authority::NOTICE,
        Under::Own { token } => (token, Basis::Own),
        Under::Pair { token, pair: n } => (token, Basis::Pair(Some(pair(n)))),
        Under::Group { token, group: n } => (token, Basis::Group(group(n))),
    };
    Authority {
        jti: Some(jti(token)),
        generation: None,
        basis,
    }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let how = prop_oneof![
        6 => Just(How::Truly), 2 => Just(How::NotAtAll), 1 => Just(How::WithoutGroups), 1 => Just(How::Unconfirmed)
    ];
    let what = prop_oneof![
        1 => Just(What::Agent),
        2 => (0_u8..2).prop_map(What::Token),
        1 => Just(What::Session),
        2 => (0_u8..2).prop_map(What::Pair),
        2 => (0_u8..2).prop_map(What::Group),
    ];
    let by = prop_oneof![3 => Just(EndedBy::Connector), 1 => Just(EndedBy::Us)];
    let ms = prop_oneof![
        Just(0),
        1_u64..2_000,
        10_000_u64..40_000,
        Just(16 * 60 * SECOND),
        Just(HOUR)
    ];
    let event = prop_oneof![
        12 => (0_u8..4, prop::bool::weighted(0.8), unders())
            .prop_map(|(from, admitted, under)| Event::Offer { from, admitted, under }),
        1 => (0_u8..4, what).prop_map(|(from, what)| Event::End { from, what }),
        3 => Just(Event::Connect),
        3 => by.prop_map(|by| Event::Disconnect { by }),
        12 => (any::<u8>(), prop::bool::weighted(0.6), prop::bool::weighted(0.9))
            .prop_map(|(which, accepted, on_this_socket)| Event::Acknowledge { which, accepted, on_this_socket }),
        1 => any::<u8>().prop_map(|which| Event::Settle { which }),
        8 => ms.prop_map(|ms| Event::Wait { ms }),
        6 => how.prop_map(|how| Event::Answer { how }),
        2 => any::<bool>().prop_map(|hibernated| Event::Restart { hibernated }),
    ];
    prop::collection::vec(event, 1..200)
}

/// A message as the model follows it: what is stored, and what became of it.
#[derive(Debug, Clone)]
struct Message {
    stored: StoredRow,
    /// When it was sent on the connection that is open, where it is in flight there.
    sent_at: Option<u64>,
    refusals: u32,
    /// Connections older than 30 s that the connector ended within 2 s of it, with nothing else in flight.
    breaks: u32,
    /// When it was admitted, or last found in an answer to be good.
    good_at: Option<u64>,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Delivered,
    Settled,
    Dead(DeadReason),
}

struct World {
    queue: RelayQueue,
    now: u64,
    /// When the connection that is open was.
    opened: Option<u64>,
    progress: u64,
    messages: BTreeMap<u64, Message>,
    asked: Vec<Question>,
    /// Whom nobody could tell about when they were last asked about.
    unknown: BTreeSet<AgentDid>,
    truth: HashMap<AgentDid, Truth>,
    /// What the last answers said had ended.
    told: BTreeMap<u64, DeadReason>,
}

/// How a sender stands.
#[derive(Debug, Clone, Default)]
struct Truth {
    revoked: bool,
    ended_tokens: BTreeSet<Ulid>,
    session_ended_at: Option<u64>,
    ended_pairs: BTreeSet<PairId>,
    left: BTreeSet<GroupId>,
    /// When it was last said to be in which group.
    member_at: HashMap<GroupId, u64>,
}

impl Truth {
    /// Why a message has no authority any more; what is not in the question about groups is believed.
    fn of(&self, row: &StoredRow, question: &Question) -> Option<DeadReason> {
        let Authority { jti, basis, .. } = &row.authority;
        let is_notice = *basis == Basis::Notice;
        if self.revoked {
            return Some(DeadReason::SenderRevoked);
        }
        if jti.is_some_and(|jti| self.ended_tokens.contains(&jti)) {
            return Some(DeadReason::SenderTokenRevoked);
        }
        if !is_notice && self.session_ended_at.is_some_and(|at| at >= row.created_at_ms) {
            return Some(DeadReason::SenderSessionEnded);
        }
        match basis {
            Basis::Pair(Some(pair)) if self.ended_pairs.contains(pair) => Some(DeadReason::PairEnded),
            Basis::Group(group) if question.groups.contains(group) && self.left.contains(group) => {
                Some(DeadReason::SenderLeftGroup)
            }
            _ => None,
        }
    }

    fn answer(&self, question: &Question, how: How) -> Answer {
        if how == How::NotAtAll {
            return Answer::Nothing;
        }
        let groups = question.groups.iter().map(|group| {
            let is_member = (how != How::WithoutGroups).then_some(!self.left.contains(group));
            (*group, is_member)
        });
        known(Known {
            revoked: self.revoked,
            unconfirmed: how == How::Unconfirmed,
            session_ended_at_ms: self.session_ended_at,
            session_unconfirmed: false,
            tokens: question
                .tokens
                .iter()
                .map(|jti| (*jti, self.ended_tokens.contains(jti)))
                .collect(),
            pairs: question
                .pairs
                .iter()
                .map(|pair| (pair.clone(), self.ended_pairs.contains(pair)))
                .collect(),
            groups: groups.collect(),
            ..Known::good()
        })
    }
}

fn small() -> QueueSettings {
    QueueSettings {
        max_messages: 24,
        max_messages_per_sender: 12,
        max_in_flight: 4,
        max_attempts: 4,
        ..settings()
    }
}

impl World {
    fn new() -> Self {
        Self {
            queue: RelayQueue::restore(small(), [], 1, None),
            now: 1,
            opened: None,
            progress: 0,
            messages: BTreeMap::new(),
            asked: Vec::new(),
            unknown: BTreeSet::new(),
            truth: HashMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn live(&self) -> impl Iterator<Item = &Message> {
        self.messages.values().filter(|message| message.end.is_none())
    }

    fn in_flight(&self) -> Vec<u64> {
        let sent = self.live().filter(|message| message.sent_at.is_some());
        sent.map(|message| message.stored.seq).collect()
    }

    fn pick(&self, which: u8) -> Option<u64> {
        let live: Vec<u64> = self.live().map(|message| message.stored.seq).collect();
        (!live.is_empty()).then(|| live[usize::from(which) % live.len()])
    }

    fn apply(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Offer {
                from,
                admitted,
                under,
            } => self.offer(*from, *admitted, authority(*under)),
            Event::End { from, what } => {
                let truth = self.truth.entry(sender(*from)).or_default();
                match what {
                    What::Agent => truth.revoked = true,
                    What::Token(n) => drop(truth.ended_tokens.insert(jti(*n))),
                    What::Session => truth.session_ended_at = Some(now),
                    What::Pair(n) => drop(truth.ended_pairs.insert(pair(*n))),
                    What::Group(n) => drop(truth.left.insert(group(*n))),
                }
            }
            Event::Connect => {
                self.ended(EndedBy::Us);
                let changes = self.queue.connected(now);
                self.write(changes);
                self.opened = Some(now);
                self.progress = now;
                self.unknown.clear();
                for message in self.messages.values_mut() {
                    message.good_at = None;
                }
            }
            Event::Disconnect { by } => {
                self.ended(*by);
                let changes = self.queue.disconnected(*by, now);
                self.write(changes);
                self.opened = None;
            }
            Event::Acknowledge {
                which,
                accepted,
                on_this_socket,
            } => {
                let Some(seq) = self.pick(*which) else { return };
                let on_this_socket = *on_this_socket && self.opened.is_some();
                if on_this_socket && self.messages[&seq].sent_at.is_some() {
                    self.progress = now;
                }
                let change = self.queue.acknowledged(seq, *accepted, on_this_socket, now, 0.3);
                assert!(
                    !accepted || change == Some(Change::Delivered { seq }),
                    "an acceptance always counts"
                );
                let message = self.messages.get_mut(&seq).unwrap();
                if !accepted && on_this_socket && message.sent_at.is_some() {
                    message.refusals += 1;
                    message.breaks = 0;
                    assert!(change.is_some(), "a refusal on the open connection counts");
                }
                self.write(change.into_iter().collect());
            }
            Event::Settle { which } => {
                let Some(seq) = self.pick(*which) else { return };
                if self.messages[&seq].sent_at.is_some() {
                    self.progress = now;
                }
                assert!(self.queue.settle(seq, now));
                self.end(seq, End::Settled);
            }
            Event::Wait { ms } => {
                self.now += ms;
                let changes = self.queue.tick(self.now);
                self.write(changes);
            }
            Event::Answer { how } => {
                for question in std::mem::take(&mut self.asked) {
                    self.answer(&question, *how);
                }
            }
            Event::Restart { hibernated } => self.restart(*hibernated),
        }
        self.pump();
        self.check();
    }

    fn answer(&mut self, question: &Question, how: How) {
        let (now, sender) = (self.now, &question.sender);
        let truth = self.truth.entry(sender.clone()).or_default();
        let answer = truth.answer(question, how);
        self.told.clear();
        if matches!(how, How::Truly | How::Unconfirmed) {
            let found = question.groups.iter().filter(|group| !truth.left.contains(group));
            truth.member_at.extend(found.map(|group| (*group, now)));
        }
        let mut held = how == How::NotAtAll;
        let mut is_first = true;
        let waiting = |message: &&mut Message| {
            message.end.is_none() && message.sent_at.is_none() && message.stored.sender == *sender
        };
        for message in self
            .messages
            .values_mut()
            .filter(waiting)
            .filter(|_| how != How::NotAtAll)
        {
            let row = &message.stored;
            let is_named = row.authority.jti.is_none_or(|jti| question.tokens.contains(&jti));
            let revocation = [DeadReason::SenderRevoked, DeadReason::SenderTokenRevoked];
            match (truth.of(row, question), &row.authority.basis) {
                (Some(DeadReason::SenderTokenRevoked), _) if !is_named => continue,
                (Some(reason), _) if how == How::Unconfirmed && revocation.contains(&reason) => {
                    held |= is_first
                }
                (Some(DeadReason::SenderLeftGroup), _) if how == How::WithoutGroups => held |= is_first,
                (Some(reason), _) => {
                    self.told.insert(row.seq, reason);
                    continue;
                }
                (None, Basis::Group(group)) if question.groups.contains(group) => match how {
                    How::WithoutGroups => held |= is_first,
                    _ => message.good_at = Some(now),
                },
                (None, Basis::Group(group)) => {
                    let said_at = truth
                        .member_at
                        .get(group)
                        .copied()
                        .unwrap_or(0)
                        .max(row.created_at_ms);
                    if said_at + MEMBER_BELIEVED_MS > now {
                        message.good_at = Some(now);
                    }
                }
                (None, _) => message.good_at = Some(now),
            }
            is_first = false;
        }
        match held {
            true => self.unknown.insert(sender.clone()),
            false => self.unknown.remove(sender),
        };
        let changes = self.queue.learn(sender, &answer, now);
        self.write(changes);
        let left: Vec<u64> = self
            .told
            .keys()
            .copied()
            .filter(|seq| {
                let rests_on = &self.messages[seq].stored.authority;
                let mut named = Question::about(sender.clone());
                named.name(rests_on, true);
                let has = |all: &[Ulid], one: &[Ulid]| one.iter().all(|jti| all.contains(jti));
                self.messages[seq].end.is_none()
                    && has(&question.tokens, &named.tokens)
                    && named.pairs.iter().all(|pair| question.pairs.contains(pair))
            })
            .collect();
        assert_eq!(left, NONE, "what has ended is given up");
    }

    /// What the end of the open connection says about messages, as docs/design.md has it.
    fn ended(&mut self, by: EndedBy) {
        let Some(opened) = self.opened else { return };
        if let ([seq], EndedBy::Connector) = (&self.in_flight()[..], by) {
            let message = self.messages.get_mut(seq).unwrap();
            let sent_at = message.sent_at.unwrap();
            message.breaks += u32::from(self.now - sent_at <= 2_000 && sent_at - opened >= 30_000);
        }
    }

    fn offer(&mut self, from: u8, admitted: bool, authority: Authority) {
        let notice = authority.is_notice();
        let expires_at_ms = self.now + HOUR;
        let offer = Offer {
            sender: sender(from),
            authority: authority.clone(),
            bytes: 7,
            expires_at_ms,
            admitted,
        };
        let count = |of: &dyn Fn(&StoredRow) -> bool| self.live().filter(|live| of(&live.stored)).count();
        let own = count(&|row| !row.authority.is_notice() && row.sender == sender(from));
        let all = count(&|row| !row.authority.is_notice());
        let full = match notice {
            true => count(&|row| row.authority.is_notice()) >= 12,
            false => own >= 12 || (own >= 10 && all >= 24),
        };
        let taken = self.queue.offer(offer, self.now);
        assert_eq!(taken == Taken::Full, full);
        let (seq, launch) = match taken {
            Taken::Full => return,
            Taken::Queued { seq } => (seq, None),
            Taken::Launched(launch) => (launch.seq, Some(launch)),
        };
        let stored = StoredRow {
            seq,
            sender: sender(from),
            authority,
            bytes: 7,
            attempts: 0,
            trouble: Trouble::default(),
            due_at_ms: self.now,
            created_at_ms: self.now,
            expires_at_ms,
        };
        let message = Message {
            stored,
            sent_at: None,
            refusals: 0,
            breaks: 0,
            good_at: admitted.then_some(self.now),
            end: None,
        };
        assert!(self.messages.insert(seq, message).is_none(), "numbers are new");
        if let Some(launch) = launch {
            assert!(admitted, "who was not admitted is asked about first");
            self.launched(launch);
        }
    }

    fn launched(&mut self, launch: Launch) {
        let opened = self.opened.expect("sent without a socket");
        let in_flight = self.in_flight();
        let message = &self.messages[&launch.seq];
        let row = &message.stored;
        assert_eq!(
            (message.end, message.sent_at),
            (None, None),
            "sent again, or after its end"
        );
        assert!(row.due_at_ms <= self.now && row.expires_at_ms > self.now);
        let asked = message.good_at.is_some_and(|at| at + 500 > self.now);
        assert!(asked, "{message:?} was sent on an old word at {}", self.now);
        assert_eq!(launch.attempts, message.refusals);
        if row.trouble.mark == Mark::Suspect {
            assert!(
                opened + 30_000 <= self.now,
                "a suspect, on a connection that has proven nothing"
            );
        }
        let waits = |other: &&Message| other.sent_at.is_none() && other.stored.seq != launch.seq;
        let behind = self
            .live()
            .filter(waits)
            .find(|other| other.stored.seq < launch.seq && other.stored.sender == row.sender);
        assert!(behind.is_none(), "{} went out before {behind:?}", launch.seq);
        if self.live().any(|live| live.stored.trouble.mark != Mark::None) {
            assert!(in_flight.is_empty(), "side by side before all is settled");
        }
        assert!(in_flight.len() < small().max_in_flight);
        let held = in_flight
            .iter()
            .filter(|seq| self.messages[seq].stored.sender == row.sender);
        if held.count() >= small().max_in_flight / 2 {
            let mut heads: BTreeMap<&AgentDid, &StoredRow> = BTreeMap::new();
            for other in self.live().filter(waits) {
                heads.entry(&other.stored.sender).or_insert(&other.stored);
            }
            heads.remove(&row.sender);
            let kept_waiting = heads
                .values()
                .find(|head| head.due_at_ms <= self.now && !self.unknown.contains(&head.sender));
            assert!(
                kept_waiting.is_none(),
                "{} took the place of {kept_waiting:?}",
                launch.seq
            );
        }
        self.messages.get_mut(&launch.seq).unwrap().sent_at = Some(self.now);
    }

    /// Writes down what the shell would.
    fn write(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Delivered { seq } => self.end(seq, End::Delivered),
                Change::DeadLetter { seq, reason } => {
                    let message = &self.messages[&seq];
                    match reason {
                        DeadReason::Expired => assert!(message.stored.expires_at_ms <= self.now),
                        DeadReason::AttemptsExhausted => assert_eq!(message.refusals, small().max_attempts),
                        DeadReason::ConnectorBroke => assert_eq!(message.breaks, 3),
                        DeadReason::RecipientRevoked => panic!("nobody revoked the recipient"),
                        DeadReason::SenderRevoked
                        | DeadReason::SenderTokenRevoked
                        | DeadReason::SenderSessionEnded
                        | DeadReason::PairEnded
                        | DeadReason::SenderLeftGroup => {
                            assert_eq!(self.told.remove(&seq), Some(reason), "nobody has said so");
                        }
                    }
                    self.end(seq, End::Dead(reason));
                }
                Change::Requeued {
                    seq,
                    attempts,
                    due_at_ms,
                } => {
                    let message = self.messages.get_mut(&seq).unwrap();
                    assert_eq!(attempts, message.refusals);
                    assert!(due_at_ms > self.now);
                    message.sent_at = None;
                    message.stored.attempts = attempts;
                    message.stored.trouble = Trouble::default();
                    message.stored.due_at_ms = due_at_ms;
                }
                Change::Cut {
                    seq,
                    trouble,
                    due_at_ms,
                } => {
                    let message = self.messages.get_mut(&seq).unwrap();
                    assert!(message.sent_at.take().is_some(), "cut without having been sent");
                    assert_eq!(trouble.breaks, message.breaks);
                    message.stored.trouble = trouble;
                    message.stored.due_at_ms = due_at_ms;
                    assert_eq!(due_at_ms, self.now);
                }
            }
        }
    }

    fn end(&mut self, seq: u64, end: End) {
        let message = self.messages.get_mut(&seq).unwrap();
        message.sent_at = None;
        assert_eq!(message.end.replace(end), None, "{seq} ended twice");
    }

    fn pump(&mut self) {
        let pumped = self.queue.pump(self.now);
        self.asked.extend(pumped.ask);
        for launch in pumped.launches {
            self.launched(launch);
        }
    }

    /// The object's memory is gone. Hibernated, its socket is still there and knows what is in flight; killed, it is not.
    fn restart(&mut self, hibernated: bool) {
        if !hibernated {
            self.opened = None;
            for message in self.messages.values_mut() {
                message.sent_at = None;
            }
        }
        let connection = self.opened.map(|opened_at_ms| Connection {
            opened_at_ms,
            progress_at_ms: self.progress,
            in_flight: self
                .live()
                .filter_map(|message| Some((message.stored.seq, message.sent_at?)))
                .collect(),
        });
        let rows: Vec<StoredRow> = self.live().map(|message| message.stored.clone()).collect();
        let next_seq = self.messages.keys().last().map_or(1, |seq| seq + 1);
        self.queue = RelayQueue::restore(small(), rows, next_seq, connection);
        self.asked.clear();
        self.unknown.clear();
        // What it believed is gone with its memory.
        for message in self.messages.values_mut() {
            message.good_at = None;
        }
        for truth in self.truth.values_mut() {
            truth.member_at.clear();
        }
        let changes = self.queue.tick(self.now);
        self.write(changes);
    }

    fn check(&self) {
        let live = self.live().count();
        let in_flight = self.in_flight();
        let held: Vec<u64> = self.queue.in_flight().map(|(seq, _)| seq).collect();
        assert_eq!(
            (self.queue.depth(), held),
            (live, in_flight),
            "nothing lost, nothing made up"
        );
        assert_eq!(self.queue.bytes(), 7 * live as u64);
        if let Some(opened) = self.opened {
            let first = self.live().filter_map(|message| message.sent_at).min();
            let stalled = first.is_some_and(|first| first.max(self.progress) + 300_000 <= self.now);
            assert_eq!(self.queue.is_stalled(self.now), stalled, "opened at {opened}");
        }
        if let Some(due) = self.queue.next_due_ms(self.now) {
            assert!(due > self.now, "due at {due}, and it is {}", self.now);
        }
        assert!(
            live == 0 || self.queue.next_due_ms(self.now).is_some() || !self.asked.is_empty(),
            "forgotten"
        );
    }

    /// A connector that takes everything, senders in good standing: the queue empties, by its own due times alone.
    fn drain(&mut self) {
        for truth in self.truth.values_mut() {
            let member_at = std::mem::take(&mut truth.member_at);
            *truth = Truth {
                member_at,
                ..Truth::default()
            };
        }
        self.apply(&Event::Connect);
        for _ in 0..1_000 {
            if self.live().count() == 0 {
                return;
            }
            self.apply(&Event::Answer { how: How::Truly });
            for seq in self.in_flight() {
                let change = self.queue.acknowledged(seq, true, true, self.now, 0.5);
                self.progress = self.now;
                self.write(change.into_iter().collect());
                self.pump();
                self.check();
            }
            if self.asked.is_empty() && self.queue.in_flight().len() == 0 {
                let Some(due) = self.queue.next_due_ms(self.now) else {
                    break;
                };
                let ms = due - self.now;
                self.apply(&Event::Wait { ms });
            }
        }
        assert_eq!(self.live().count(), 0, "starved");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_whatever_happens(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
        world.drain();
    }
}

//! Random events, in any order, against a model that knows only the promises: nothing lost, order per sender, nothing
//! twice on one connection unless refused there, at most so many in flight and one at a time after a break, no sender in
//! another's places, nothing of a revoked sender sent, nothing given up but for a reason, restarts at any moment; and
//! with a connector that takes everything an empty queue in the end.

use super::*;

/// What can happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Event {
    Offer {
        from: u8,
        admitted: bool,
        notice: bool,
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
        standing: Standing,
    },
    Restart {
        hibernated: bool,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let standing =
        prop_oneof![6 => Just(Standing::Good), 1 => Just(Standing::Revoked), 2 => Just(Standing::Unknown)];
    let by = prop_oneof![3 => Just(EndedBy::Connector), 1 => Just(EndedBy::Us)];
    let ms = prop_oneof![Just(0), 1_u64..2_000, 10_000_u64..40_000, Just(HOUR)];
    let event = prop_oneof![
        12 => (0_u8..4, prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(from, admitted, notice)| Event::Offer { from, admitted, notice }),
        3 => Just(Event::Connect),
        3 => by.prop_map(|by| Event::Disconnect { by }),
        12 => (any::<u8>(), prop::bool::weighted(0.6), prop::bool::weighted(0.9))
            .prop_map(|(which, accepted, on_this_socket)| Event::Acknowledge { which, accepted, on_this_socket }),
        1 => any::<u8>().prop_map(|which| Event::Settle { which }),
        8 => ms.prop_map(|ms| Event::Wait { ms }),
        6 => standing.prop_map(|standing| Event::Answer { standing }),
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
    asked: Vec<AgentDid>,
    revoked: BTreeSet<AgentDid>,
    unknown: BTreeSet<AgentDid>,
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
            revoked: BTreeSet::new(),
            unknown: BTreeSet::new(),
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
                notice,
            } => self.offer(*from, *admitted, *notice),
            Event::Connect => {
                self.ended(EndedBy::Us);
                let changes = self.queue.connected(now);
                self.write(changes);
                self.opened = Some(now);
                self.progress = now;
                self.unknown.clear();
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
            Event::Answer { standing } => {
                for sender in std::mem::take(&mut self.asked) {
                    match standing {
                        Standing::Revoked => self.revoked.insert(sender.clone()),
                        _ => self.revoked.remove(&sender),
                    };
                    match standing {
                        Standing::Unknown => self.unknown.insert(sender.clone()),
                        _ => self.unknown.remove(&sender),
                    };
                    let changes = self.queue.sender_is(&sender, *standing, now);
                    self.write(changes);
                }
            }
            Event::Restart { hibernated } => self.restart(*hibernated),
        }
        self.pump();
        self.check();
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

    fn offer(&mut self, from: u8, admitted: bool, notice: bool) {
        let expires_at_ms = self.now + HOUR;
        let offer = Offer {
            sender: sender(from),
            notice,
            bytes: 7,
            expires_at_ms,
            admitted,
        };
        let count = |of: &dyn Fn(&StoredRow) -> bool| self.live().filter(|live| of(&live.stored)).count();
        let own = count(&|row| !row.notice && row.sender == sender(from));
        let all = count(&|row| !row.notice);
        let full = match notice {
            true => count(&|row| row.notice) >= 12,
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
            notice,
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
            end: None,
        };
        assert!(self.messages.insert(seq, message).is_none(), "numbers are new");
        if let Some(launch) = launch {
            assert!(admitted, "who was not admitted is asked about first");
            self.launched(launch, true);
        }
    }

    fn launched(&mut self, launch: Launch, direct: bool) {
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
        assert!(
            direct || !self.revoked.contains(&row.sender),
            "sent for a revoked sender"
        );
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
                        DeadReason::SenderRevoked => assert!(self.revoked.contains(&message.stored.sender)),
                        DeadReason::RecipientRevoked => panic!("nobody revoked the recipient"),
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
                Change::Cut { seq, trouble } => {
                    let message = self.messages.get_mut(&seq).unwrap();
                    assert!(message.sent_at.take().is_some(), "cut without having been sent");
                    assert_eq!(trouble.breaks, message.breaks);
                    message.stored.trouble = trouble;
                    message.stored.due_at_ms = self.now;
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
            self.launched(launch, false);
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
        self.apply(&Event::Connect);
        for _ in 0..1_000 {
            if self.live().count() == 0 {
                return;
            }
            self.apply(&Event::Answer {
                standing: Standing::Good,
            });
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

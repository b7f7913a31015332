//! Random events, in any order, against a model that knows only the promises: nothing lost, order per sender, at most
//! so many in flight, nothing of a revoked sender sent, attempts as many as sends, restarts at any moment, and with a
//! connector that takes everything an empty queue in the end.

use super::*;

/// What can happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Event {
    Offer {
        from: u8,
        admitted: bool,
    },
    Connect,
    Disconnect,
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
    let event = prop_oneof![
        12 => (0_u8..4, prop::bool::weighted(0.8)).prop_map(|(from, admitted)| Event::Offer { from, admitted }),
        3 => Just(Event::Connect),
        2 => Just(Event::Disconnect),
        12 => (any::<u8>(), prop::bool::weighted(0.6), prop::bool::weighted(0.9))
            .prop_map(|(which, accepted, on_this_socket)| Event::Acknowledge { which, accepted, on_this_socket }),
        1 => any::<u8>().prop_map(|which| Event::Settle { which }),
        8 => prop_oneof![Just(0), 1_u64..2_000, 10_000_u64..40_000, Just(HOUR)].prop_map(|ms| Event::Wait { ms }),
        6 => standing.prop_map(|standing| Event::Answer { standing }),
        2 => any::<bool>().prop_map(|hibernated| Event::Restart { hibernated }),
    ];
    prop::collection::vec(event, 1..200)
}

/// A message as the model follows it: what is stored, and what became of it.
#[derive(Debug, Clone)]
struct Message {
    stored: StoredRow,
    sends: u32,
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
    connected: bool,
    /// The number of the socket that is open, and the one each stored send names.
    socket: u64,
    sent_on: BTreeMap<u64, u64>,
    messages: BTreeMap<u64, Message>,
    asked: Vec<AgentDid>,
    revoked: BTreeSet<AgentDid>,
}

fn small() -> QueueSettings {
    QueueSettings {
        max_messages: 20,
        max_in_flight: 3,
        max_attempts: 4,
        ..settings()
    }
}

impl World {
    fn new() -> Self {
        let queue = RelayQueue::restore(small(), [], 1, false);
        Self {
            queue,
            now: 1,
            connected: false,
            socket: 0,
            sent_on: BTreeMap::new(),
            messages: BTreeMap::new(),
            asked: Vec::new(),
            revoked: BTreeSet::new(),
        }
    }

    fn live(&self) -> impl Iterator<Item = &Message> {
        self.messages.values().filter(|message| message.end.is_none())
    }

    fn pick(&self, which: u8) -> Option<u64> {
        let live: Vec<u64> = self.live().map(|message| message.stored.seq).collect();
        (!live.is_empty()).then(|| live[usize::from(which) % live.len()])
    }

    fn apply(&mut self, event: &Event) {
        let now = self.now;
        match event {
            Event::Offer { from, admitted } => self.offer(*from, *admitted),
            Event::Connect => {
                let changes = self.queue.connected(now);
                self.write(changes);
                self.connected = true;
                self.socket += 1;
                // Stored nowhere: the shell sees that a pause began before this socket opened.
                for message in self.messages.values_mut() {
                    if let Place::Waiting { due_at_ms } = &mut message.stored.place {
                        *due_at_ms = now;
                    }
                }
            }
            Event::Disconnect => {
                let changes = self.queue.disconnected(now);
                self.write(changes);
                self.connected = false;
            }
            Event::Acknowledge {
                which,
                accepted,
                on_this_socket,
            } => {
                let Some(seq) = self.pick(*which) else { return };
                let on_this_socket = *on_this_socket && self.connected;
                let change = self.queue.acknowledged(seq, *accepted, on_this_socket, now, 0.3);
                assert!(
                    !accepted || change == Some(Change::Delivered { seq }),
                    "an acceptance always counts"
                );
                self.write(change.into_iter().collect());
            }
            Event::Settle { which } => {
                let Some(seq) = self.pick(*which) else { return };
                assert!(self.queue.settle(seq));
                self.end(seq, End::Settled);
            }
            Event::Wait { ms } => {
                self.now += ms;
                let changes = self.queue.tick(self.now, || 0.7);
                self.write(changes);
            }
            Event::Answer { standing } => {
                for sender in std::mem::take(&mut self.asked) {
                    match standing {
                        Standing::Revoked => self.revoked.insert(sender.clone()),
                        _ => self.revoked.remove(&sender),
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

    fn offer(&mut self, from: u8, admitted: bool) {
        let expires_at_ms = self.now + HOUR;
        let offer = Offer {
            sender: sender(from),
            bytes: 7,
            expires_at_ms,
            admitted,
        };
        let full = self.live().count() >= small().max_messages;
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
            bytes: 7,
            attempts: 0,
            place: Place::Waiting { due_at_ms: self.now },
            created_at_ms: self.now,
            expires_at_ms,
        };
        assert!(
            self.messages
                .insert(
                    seq,
                    Message {
                        stored,
                        sends: 0,
                        end: None
                    }
                )
                .is_none(),
            "numbers are new"
        );
        if let Some(launch) = launch {
            assert!(admitted, "who was not admitted is asked about first");
            self.launched(launch, true);
        }
    }

    fn launched(&mut self, launch: Launch, direct: bool) {
        assert!(self.connected, "sent without a socket");
        let message = &self.messages[&launch.seq];
        assert_eq!(message.end, None, "sent after its end");
        assert!(
            matches!(message.stored.place, Place::Waiting { due_at_ms } if due_at_ms <= self.now || direct)
        );
        assert!(
            direct || !self.revoked.contains(&message.stored.sender),
            "sent for a revoked sender"
        );
        assert!(message.stored.expires_at_ms > self.now || self.queue.is_in_flight(launch.seq));
        let behind = self.live().find(|other| {
            other.stored.seq < launch.seq
                && other.stored.sender == message.stored.sender
                && matches!(other.stored.place, Place::Waiting { .. })
        });
        assert!(behind.is_none(), "{} went out before {behind:?}", launch.seq);
        let message = self.messages.get_mut(&launch.seq).unwrap();
        message.sends += 1;
        assert_eq!(
            (launch.attempts, launch.deadline_ms),
            (message.sends, self.now + 15 * SECOND)
        );
        message.stored.attempts = launch.attempts;
        message.stored.place = Place::InFlight {
            deadline_ms: launch.deadline_ms,
        };
        self.sent_on.insert(launch.seq, self.socket);
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
                        DeadReason::AttemptsExhausted => assert_eq!(message.sends, small().max_attempts),
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
                    assert_eq!(attempts, message.sends);
                    assert!(due_at_ms > self.now);
                    message.stored.place = Place::Waiting { due_at_ms };
                }
                // Not stored: the row still says in flight, on a socket that is gone.
                Change::CutOff { seq } => {
                    let message = self.messages.get_mut(&seq).unwrap();
                    message.stored.place = Place::Waiting { due_at_ms: self.now };
                }
            }
        }
    }

    fn end(&mut self, seq: u64, end: End) {
        let message = self.messages.get_mut(&seq).unwrap();
        assert_eq!(message.end.replace(end), None, "{seq} ended twice");
    }

    fn pump(&mut self) {
        let pumped = self.queue.pump(self.now);
        for launch in pumped.launches {
            self.launched(launch, false);
        }
        self.asked.extend(pumped.ask);
    }

    /// The object's memory is gone. Hibernated, its socket is still there; killed, it is not.
    fn restart(&mut self, hibernated: bool) {
        self.connected &= hibernated;
        let connected = self.connected;
        let rows: Vec<StoredRow> = self.live().map(|message| message.stored.clone()).collect();
        for row in &rows {
            let cut = !connected || self.sent_on.get(&row.seq) != Some(&self.socket);
            if cut && matches!(row.place, Place::InFlight { .. }) {
                self.messages.get_mut(&row.seq).unwrap().stored.place = Place::Waiting { due_at_ms: 0 };
            }
        }
        let next_seq = self.messages.keys().last().map_or(1, |seq| seq + 1);
        self.queue = RelayQueue::restore(small(), rows, next_seq, connected);
        self.asked.clear();
        let changes = self.queue.tick(self.now, || 0.5);
        self.write(changes);
    }

    fn check(&self) {
        let live = self.live().count();
        let in_flight = self
            .live()
            .filter(|message| matches!(message.stored.place, Place::InFlight { .. }))
            .count();
        assert_eq!(
            (self.queue.depth(), self.queue.in_flight()),
            (live, in_flight),
            "nothing lost, nothing made up"
        );
        assert_eq!(self.queue.bytes(), 7 * live as u64);
        assert!(in_flight <= small().max_in_flight);
        assert!(self.connected || in_flight == 0);
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
            let sent: Vec<u64> = self
                .live()
                .map(|m| m.stored.seq)
                .filter(|seq| self.queue.is_in_flight(*seq))
                .collect();
            for seq in sent {
                let change = self.queue.acknowledged(seq, true, true, self.now, 0.5);
                self.write(change.into_iter().collect());
                self.pump();
                self.check();
            }
            if self.asked.is_empty() && self.queue.in_flight() == 0 {
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

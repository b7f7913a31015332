use clawdentity_protocol::revocation::Source;
use clawdentity_protocol::testing::{agent, ulid};
use proptest::prelude::*;

use super::*;

fn row(seq: u64, n: u128) -> Item {
    Item {
        seq,
        subject: Subject::Agent { agent: agent(n) },
        reason: Some("why".into()),
        revoked_at_ms: 5,
        source: Source::Queue,
    }
}

fn bearer(since: u64) -> Listener {
    Listener {
        place: Place { since, epoch: None },
        caller: None,
    }
}

fn of_agent(n: u128) -> Listener {
    Listener {
        place: Place::default(),
        caller: Some(ListeningAgent {
            agent: agent(n),
            jti: ulid(n),
            expires_at_ms: u64::MAX,
        }),
    }
}

/// A ledger and the hub in front of it.
#[derive(Default)]
struct World {
    epoch: u32,
    rows: Vec<Item>,
    hub: Hub,
    now_ms: u64,
}

impl World {
    fn page(&self, place: Option<&Place>, limit: u64) -> Page {
        let epoch = format!("e{}", self.epoch);
        let latest = self.rows.last().map_or(0, |item| item.seq);
        let reset = place.is_some_and(|place| place.is_reset(&epoch, latest));
        let since = place.map_or(latest, |place| if reset { 0 } else { place.since });
        let items: Vec<Item> = self
            .rows
            .iter()
            .filter(|item| item.seq > since)
            .take(limit as usize)
            .cloned()
            .collect();
        let last = items.last().map(|item| item.seq);
        let (next, more) = super::super::page_end(since, latest, limit, items.len() as u64, last);
        Page {
            epoch,
            latest,
            next,
            more,
            reset,
            items,
        }
    }

    fn look(&mut self) {
        let page = self.page(self.hub.look_from().as_ref(), 3);
        let more = page.more && !page.reset;
        self.hub.looked(self.now_ms, page, &[]);
        if more {
            self.look();
        }
    }

    /// Everything that a listener gets until it waits or ends; whether it ended.
    fn read(&mut self, id: Id) -> (String, bool) {
        let mut all = String::new();
        for _ in 0..10_000 {
            match self.hub.next(self.now_ms, id) {
                Next::Send(text) => all.push_str(&text),
                Next::Read(place) => {
                    let page = self.page(Some(&place), 2);
                    all.push_str(&self.hub.caught_up(id, &page));
                    if self.hub.look_is_due(self.now_ms) {
                        self.look();
                    }
                }
                Next::Wait => return (all, false),
                Next::End => return (all, true),
            }
        }
        panic!("it never rests");
    }
}

fn ids(text: &str) -> Vec<u64> {
    let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    ids.map(|id| id.parse().unwrap()).collect()
}

#[test]
fn an_event_is_pinned() {
    let expect = "event: revocation\nid: 7\ndata: {\"seq\":7,\"kind\":\"agent\",\"agentDid\":\"did:cdi:registry.example.com:agent:00000000000000000000000001\",\"reason\":\"why\",\"revokedAt\":5,\"source\":\"queue\"}\n\n";
    assert_eq!(event(&row(7, 1)), expect);
}

#[test]
fn a_stream_of_a_revoked_agent_gets_its_item_without_the_reason_and_ends() {
    let mut world = World::default();
    let own = world.hub.open(0, of_agent(1)).unwrap();
    let other = world.hub.open(0, bearer(0)).unwrap();
    world.look();
    assert_eq!(world.read(own), (ALIVE.to_owned(), false));
    world.rows = vec![row(1, 2), row(2, 1), row(3, 3)];
    world.look();
    let (text, ended) = world.read(own);
    assert_eq!(
        (ids(&text), ended, text.contains("reason")),
        (vec![1, 2], true, false)
    );
    let (text, ended) = world.read(other);
    assert_eq!(
        (ids(&text), ended, text.contains("reason")),
        (vec![1, 2, 3], false, true)
    );
    // One that the ledger's check names, for a lost pair.
    world.hub.end(&[other]);
    assert_eq!(world.read(other), (String::new(), true));
}

#[test]
fn a_position_above_the_latest_or_of_another_epoch_starts_over() {
    let mut world = World {
        rows: vec![row(1, 1), row(2, 2)],
        ..World::default()
    };
    let ahead = world.hub.open(0, bearer(9)).unwrap();
    world.look();
    let (text, _) = world.read(ahead);
    assert!(
        text.starts_with("event: reset\nid: 0\ndata: {\"epoch\":\"e0\",\"latest\":2}\n\n"),
        "{text}"
    );
    assert_eq!(ids(&text), [0, 1, 2]);
    // The ledger is restored to 1, grows again, and is of another epoch.
    world.rows = vec![row(1, 1), row(2, 7), row(3, 8)];
    world.epoch = 1;
    world.look();
    let (text, _) = world.read(ahead);
    assert_eq!(ids(&text), [0, 1, 2, 3]);
    let stranger = Listener {
        place: Place {
            since: 2,
            epoch: Some("e0".into()),
        },
        caller: None,
    };
    let stranger = world.hub.open(0, stranger).unwrap();
    assert_eq!(ids(&world.read(stranger).0), [0, 1, 2, 3]);
    // Newer than the last look is not above the latest.
    world.rows.push(row(4, 9));
    let newer = world.hub.open(0, bearer(4)).unwrap();
    assert!(ids(&world.read(newer).0).is_empty());
}

#[test]
fn degraded_is_said_at_once_and_every_15_s_and_ends_after_100_failed_looks() {
    let mut world = World::default();
    let id = world.hub.open(0, bearer(0)).unwrap();
    world.look();
    world.read(id);
    assert!(world.hub.look_failed(0).is_empty());
    assert_eq!(world.read(id).0, DEGRADED);
    world.now_ms = 14_999;
    world.hub.tick(world.now_ms);
    assert_eq!(world.read(id).0, "");
    world.now_ms = 15_000;
    world.hub.tick(world.now_ms);
    assert!(world.hub.look_is_due(world.now_ms));
    assert_eq!(world.read(id).0, DEGRADED);
    for n in 2..=100 {
        assert_eq!(
            world.hub.look_failed(world.now_ms).len(),
            usize::from(n == 100),
            "{n}"
        );
    }
    assert_eq!(world.read(id), (String::new(), true));
}

#[test]
fn limits_and_the_hour() {
    let mut hub = Hub::default();
    assert!(hub.open(0, of_agent(1)).is_ok() && hub.open(0, of_agent(1)).is_ok());
    assert_eq!(hub.open(0, of_agent(1)), Err(Full::Agent));
    while hub.len() < MAX_STREAMS {
        hub.open(0, bearer(0)).unwrap();
    }
    assert_eq!(hub.open(0, bearer(0)), Err(Full::All));
    hub.close(1);
    assert_eq!(hub.open(0, of_agent(1)), Ok(1_001));
    assert_eq!(hub.next(MAX_AGE_MS, 2), Next::End);
    // Whoever is over, and never comes for its end, takes no seat.
    assert_eq!((hub.tick(MAX_AGE_MS), hub.len()), (Vec::new(), 0));
    assert!(hub.open(MAX_AGE_MS, of_agent(1)).is_ok());
}

#[test]
fn who_does_not_read_is_dropped_at_the_bound() {
    let mut world = World::default();
    let deaf = world.hub.open(0, bearer(0)).unwrap();
    let quick = world.hub.open(0, bearer(0)).unwrap();
    world.look();
    assert!(matches!(world.hub.next(0, deaf), Next::Send(_)));
    let per_item = event(&row(100, 9)).len();
    for seq in 1..=500 {
        world.read(quick);
        world.rows.push(row(seq, 9));
        world.look();
        assert_eq!(world.hub.tick(4_999), []);
        let owed = seq as usize * per_item > MAX_WAITING_BYTES + per_item;
        assert!(!owed || world.hub.next_ms() == Some(5_000), "{seq}");
    }
    assert_eq!(world.hub.tick(5_000), [(deaf, Ended::DoesNotRead)]);
    assert_eq!(world.hub.len(), 1);
    assert!(!world.read(quick).1 && world.read(deaf).1);
}

proptest! {
    /// Whatever happens in whatever order, a listener that has read has everything, in order, each once.
    #[test]
    fn everyone_gets_everything_once(steps in proptest::collection::vec(0..7_u8, 1..80)) {
        let mut world = World::default();
        let mut got: BTreeMap<Id, Vec<u64>> = BTreeMap::new();
        let mut seq = 0;
        for step in steps {
            world.now_ms += 500;
            match step {
                0 => { let id = world.hub.open(world.now_ms, bearer(0)).unwrap(); got.insert(id, Vec::new()); }
                1 | 2 => { seq += 1 + u64::from(step); world.rows.push(row(seq, 5)); }
                3 => { world.look(); }
                4 => { world.hub.look_failed(world.now_ms); }
                5 => if let Some(id) = got.keys().next_back().copied() {
                    let text = world.read(id).0;
                    got.entry(id).or_default().extend(ids(&text));
                },
                _ => { world.hub.tick(world.now_ms); }
            }
        }
        world.look();
        let all: Vec<u64> = world.rows.iter().map(|item| item.seq).collect();
        for (id, seqs) in &mut got {
            seqs.extend(ids(&world.read(*id).0));
            prop_assert_eq!(&*seqs, &all);
        }
    }
}

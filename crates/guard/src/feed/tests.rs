use proptest::prelude::*;

use super::*;
use crate::cache::tests::row;
use clawdentity_protocol::testing::ulid;

const NO_JITTER: FeedSettings = FeedSettings {
    confirm_every_ms: 60_000,
    poll_every_ms: 5_000,
    complete_every_ms: 24 * 3_600_000,
    retry_first_ms: 1_000,
    retry_most_ms: 30_000,
    seed: 0,
};

/// A ledger, a feed, and the cache that follows.
struct World {
    ledger: Vec<Item>,
    latest: u64,
    page_size: usize,
    feed: Feed,
    cache: RevocationSet,
}

impl World {
    fn new(rows: &[(u64, &str, u64)]) -> Self {
        let mut world = Self {
            ledger: Vec::new(),
            latest: 0,
            page_size: 1000,
            feed: Feed::new(NO_JITTER),
            cache: RevocationSet::default(),
        };
        rows.iter().for_each(|row| world.write(*row));
        world
    }

    fn write(&mut self, (seq, kind, number): (u64, &str, u64)) {
        self.ledger.push(row(seq, kind, number));
        self.latest = seq;
    }

    fn answer(&self, since: u64, unless: Option<String>) -> Got {
        if unless == Some(tag("", self.latest)) {
            return Got::Unchanged;
        }
        let mut items: Vec<Item> = self
            .ledger
            .iter()
            .filter(|item| item.seq > since)
            .cloned()
            .collect();
        let more = items.len() > self.page_size;
        items.truncate(self.page_size);
        let last = items.last().map_or(self.latest, |item| item.seq);
        let next = if more { last } else { self.latest };
        Got::Page(Page {
            latest: self.latest,
            next,
            more,
            items,
            ..Page::default()
        })
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Apply(item) => self.cache.apply(&item),
                Effect::Replace(set) => self.cache = set,
            }
        }
    }

    /// Reads until the reader rests; until when.
    fn read(&mut self, now_ms: u64) -> u64 {
        for _ in 0..10_000 {
            match self.feed.next_read(now_ms) {
                Read::Wait(at_ms) => return at_ms,
                Read::Page { since, unless } => {
                    let got = self.answer(since, unless);
                    let effects = self.feed.got(now_ms, got);
                    self.take(effects);
                }
            }
        }
        panic!("the reader never rests");
    }

    fn push(&mut self, now_ms: u64, item: (u64, &str, u64)) {
        let effect = self.feed.pushed(now_ms, row(item.0, item.1, item.2));
        self.take(effect.into_iter().collect());
    }

    fn revoked(&self, number: u128) -> bool {
        self.cache.standing(ulid(number), ulid(0)).agent_revoked
    }

    fn truth(&self) -> RevocationSet {
        let mut set = RevocationSet::default();
        self.ledger.iter().for_each(|item| set.apply(item));
        set
    }
}

#[test]
fn first_everything_then_the_stream() {
    let mut world = World::new(&[(1, "agent", 1), (2, "agent", 2), (3, "lift", 1), (5, "agent", 3)]);
    world.page_size = 2;
    assert_eq!(world.feed.next_listen(100), Listen::Wait(1_100));
    // Nothing reaches the cache before it is complete.
    assert_eq!(
        world.feed.next_read(100),
        Read::Page {
            since: 0,
            unless: None
        }
    );
    let got = world.answer(0, None);
    assert_eq!(world.feed.got(100, got), []);
    assert_eq!(world.read(200), 200 + 5_000);
    assert!(!world.revoked(1) && world.revoked(2) && world.revoked(3));
    let freshness = world.feed.freshness();
    assert_eq!(
        (freshness.position, freshness.confirmed_ms, freshness.complete_ms),
        (5, Some(200), Some(200))
    );
    assert_eq!(freshness.pushed_ms, None);
    assert_eq!(world.feed.next_listen(200), Listen::Open(5));
    world.feed.opened(300);
    // Opening earns one look, then a minute's rest.
    assert_eq!(
        world.feed.next_read(300),
        Read::Page {
            since: 5,
            unless: Some("\"5\"".into())
        }
    );
    assert_eq!(world.read(300), 60_300);
}

#[test]
fn a_push_is_in_force_at_once_and_confirms_nothing() {
    let mut world = World::new(&[(1, "agent", 1)]);
    world.read(0);
    world.feed.opened(10);
    world.read(10);
    world.push(500, (2, "agent", 2));
    assert!(world.revoked(2));
    let freshness = world.feed.freshness();
    assert_eq!(
        (freshness.position, freshness.confirmed_ms, freshness.pushed_ms),
        (2, Some(10), Some(500))
    );
    // Again, and an old one: nothing.
    assert_eq!(world.feed.pushed(600, row(2, "agent", 2)), None);
    assert_eq!(world.feed.pushed(600, row(1, "agent", 1)), None);
    // No gap: the reader goes on resting.
    assert_eq!(world.feed.next_read(600), Read::Wait(60_010));
}

#[test]
fn a_gap_is_read_and_a_lift_waits_for_it() {
    let mut world = World::new(&[(1, "agent", 1)]);
    world.read(0);
    world.feed.opened(0);
    world.read(0);
    for row in [(2, "agent", 2), (3, "agent", 3), (4, "lift", 2)] {
        world.write(row);
    }
    // 2 was lost on the way: 3 is in force at once, 4 waits.
    world.push(100, (3, "agent", 3));
    world.push(100, (4, "lift", 2));
    assert!(world.revoked(3) && !world.revoked(2));
    assert_eq!(
        world.feed.next_read(100),
        Read::Page {
            since: 1,
            unless: None
        }
    );
    world.read(100);
    assert_eq!(world.cache, world.truth());
    assert_eq!(world.feed.freshness().position, 4);
    // A gap of the ledger's own ends there too.
    world.write((9, "agent", 9));
    world.push(200, (9, "agent", 9));
    assert_eq!(world.read(200), 60_200);
    assert_eq!(world.feed.freshness().position, 9);
}

#[test]
fn a_page_that_was_under_way_while_more_was_pushed() {
    let mut world = World::new(&[(1, "agent", 1)]);
    world.read(0);
    assert!(matches!(world.feed.next_read(5_000), Read::Page { since: 1, .. }));
    let old = world.answer(1, None);
    world.write((2, "agent", 2));
    world.push(5_001, (2, "agent", 2));
    // The page says that 1 is the last: that was so when it was asked, and is not a cut.
    let effects = world.feed.got(5_002, old);
    assert_eq!(effects, []);
    let freshness = world.feed.freshness();
    assert_eq!((freshness.position, freshness.confirmed_ms), (2, Some(5_000)));
    assert!(world.revoked(2));
}

#[test]
fn pushed_during_a_complete_read_survives_it() {
    let mut world = World::new(&[(1, "agent", 1), (2, "agent", 2)]);
    world.read(0);
    let day = NO_JITTER.complete_every_ms;
    assert_eq!(
        world.feed.next_read(day),
        Read::Page {
            since: 0,
            unless: None
        }
    );
    let old = world.answer(0, None);
    world.write((3, "agent", 3));
    world.push(day, (3, "agent", 3));
    assert!(world.revoked(3));
    let effects = world.feed.got(day + 1, old);
    world.take(effects);
    assert!(world.revoked(3) && world.revoked(1));
    world.read(day + 1_001);
    assert_eq!(world.feed.freshness().position, 3);
    assert_eq!(world.cache, world.truth());
}

#[test]
fn a_complete_read_drops_what_was_swept() {
    let mut world = World::new(&[(1, "token", 1), (2, "agent", 2)]);
    world.read(0);
    world.ledger.remove(0);
    world.read(5_000);
    assert_eq!(world.cache.len(), 2);
    world.read(NO_JITTER.complete_every_ms);
    assert_eq!(world.cache, world.truth());
    assert_eq!(world.cache.len(), 1);
}

#[test]
fn a_ledger_that_was_cut_is_read_anew_and_listened_to_anew() {
    let mut world = World::new(&[(1, "agent", 1), (2, "agent", 2), (7, "agent", 7)]);
    world.read(0);
    world.feed.opened(0);
    world.read(0);
    let epoch = world.feed.epoch();
    world.ledger.truncate(1);
    world.latest = 1;
    assert_eq!(world.read(60_000), 61_000);
    assert_ne!(world.feed.epoch(), epoch);
    // Until it is read, what was revoked stays so.
    assert!(world.revoked(7));
    assert_eq!(world.feed.freshness().confirmed_ms, Some(0));
    world.read(61_000);
    assert_eq!(world.cache, world.truth());
    assert_eq!(world.feed.freshness().position, 1);
    world.feed.ended(61_000, None);
    assert_eq!(world.feed.next_listen(62_000), Listen::Open(1));
}

#[test]
fn failures_wait_longer_and_longer_and_age_the_cache() {
    let mut world = World::new(&[(1, "agent", 1)]);
    world.read(0);
    let mut now_ms = 5_000;
    for expect in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        assert!(matches!(world.feed.next_read(now_ms), Read::Page { .. }));
        assert_eq!(world.feed.got(now_ms, Got::Failed(None)), []);
        assert_eq!(world.feed.next_read(now_ms), Read::Wait(now_ms + expect));
        // What is pushed meanwhile does not make it ask sooner.
        world.push(now_ms, (9, "agent", 9));
        assert_eq!(world.feed.next_read(now_ms), Read::Wait(now_ms + expect));
        now_ms += expect;
    }
    assert!(world.revoked(9));
    assert_eq!(world.feed.freshness().age_ms(now_ms), Some(now_ms));
    world.feed.got(now_ms, Got::Failed(Some(120_000)));
    assert_eq!(world.feed.next_read(now_ms), Read::Wait(now_ms + 120_000));
    world.feed.got(now_ms, Got::Failed(Some(u64::MAX)));
    assert_eq!(world.feed.next_read(now_ms), Read::Wait(now_ms + MAX_PAUSE_MS));
    // A clock that was set back does not stop the reader for as long.
    let mut feed = world.feed;
    assert!(matches!(feed.next_read(now_ms - 1), Read::Page { .. }));
}

#[test]
fn without_a_stream_it_polls() {
    let mut world = World::new(&[(1, "agent", 1)]);
    world.read(0);
    world.feed.opened(0);
    assert_eq!(world.read(0), 60_000);
    world.write((2, "agent", 2));
    world.feed.ended(10_000, None);
    assert_eq!(world.read(10_000), 15_000);
    assert!(world.revoked(2));
    // A stream that opens and breaks at once is left alone for longer and longer.
    let mut now_ms = 11_000;
    for expect in [2_000, 4_000, 8_000, 16_000, 30_000] {
        assert_eq!(world.feed.next_listen(now_ms), Listen::Open(2));
        world.feed.opened(now_ms);
        world.feed.ended(now_ms, None);
        assert_eq!(world.feed.next_listen(now_ms), Listen::Wait(now_ms + expect));
        now_ms += expect;
    }
    world.feed.opened(now_ms);
    world.feed.alive();
    world.feed.ended(now_ms, None);
    assert_eq!(world.feed.next_listen(now_ms), Listen::Wait(now_ms + 1_000));
}

#[test]
fn jitter_shortens_by_up_to_half() {
    let pauses: Vec<u64> = (1..200)
        .map(|seed| {
            let mut feed = Feed::new(FeedSettings { seed, ..NO_JITTER });
            feed.pause_ms(3)
        })
        .collect();
    assert!(pauses.iter().all(|pause| (2_000..=4_000).contains(pause)));
    assert!(pauses.iter().any(|pause| *pause < 2_300) && pauses.iter().any(|pause| *pause > 3_700));
}

/// A thousand guards that lose their streams at once come back at different times, without anybody having set anything.
#[test]
fn guards_differ_by_default() {
    let seeds: std::collections::BTreeSet<u64> = (0..100).map(|_| FeedSettings::default().seed).collect();
    assert_eq!(seeds.len(), 100);
    let pauses: std::collections::BTreeSet<u64> = (0..100)
        .map(|_| {
            let mut feed = Feed::new(FeedSettings::default());
            feed.ended(0, None);
            feed.listen_at_ms
        })
        .collect();
    assert!(pauses.len() > 50, "{pauses:?}");
    assert!(pauses.iter().all(|pause| (500..=1_000).contains(pause)));
}

/// The stream says that its numbers start over. What is held stays in force until the new set is complete.
#[test]
fn a_reset_of_the_stream_reads_everything_anew() {
    let mut world = World::new(&[(1, "agent", 1), (2, "agent", 2), (4, "agent", 4)]);
    world.read(0);
    world.feed.opened(0);
    world.read(0);
    let epoch = world.feed.epoch();
    // The database is restored to number 2, and two others are revoked.
    world.ledger.truncate(2);
    world.write((3, "agent", 5));
    world.write((4, "agent", 6));
    world.page_size = 2;
    world.feed.reset(1_000);
    assert_ne!(world.feed.epoch(), epoch, "this stream is over");
    assert!(matches!(
        world.feed.next_read(1_000),
        Read::Page {
            since: 0,
            unless: None
        }
    ));
    let first = world.answer(0, None);
    let effects = world.feed.got(1_000, first);
    assert_eq!(effects, [], "half of the new set is in force nowhere");
    assert!(world.revoked(1) && world.revoked(2) && world.revoked(4) && !world.revoked(5));
    world.read(1_000);
    assert_eq!(world.cache, world.truth());
    assert!(world.revoked(6) && !world.revoked(4));
    // What a listener was pushed before the reset is no gap afterwards.
    assert_eq!(world.feed.freshness().position, 4);
    world.feed.ended(1_000, None);
    assert_eq!(world.feed.next_listen(2_000), Listen::Open(4));
}

proptest! {
    /// Whatever is written, lost, repeated, cut off or failed: once the reader rests with the server well, the cache
    /// is the ledger's; and at no time is somebody let in again whom a push had revoked and nobody lifted.
    #[test]
    fn the_cache_becomes_the_ledger(steps in proptest::collection::vec((0_u8..8, 1_u64..6, any::<bool>()), 1..60)) {
        let mut world = World::new(&[]);
        world.page_size = 3;
        let (mut now_ms, mut seq) = (0, 0);
        for (step, number, flag) in steps {
            now_ms += 700;
            match step {
                0 | 1 => {
                    seq += if flag { 2 } else { 1 };
                    let active = world.truth().standing(ulid(u128::from(number)), ulid(0)).agent_revoked;
                    let of = world.ledger.iter().rev().find(|item| {
                        item.subject.kind() == "agent" && item.subject.agent().is_some_and(|a| a.ulid() == ulid(u128::from(number)))
                    });
                    match of {
                        Some(item) if active => {
                            let lifted = item.seq;
                            world.write((seq, "lift", lifted));
                        }
                        _ => world.write((seq, "agent", number)),
                    }
                    if flag {
                        let item = world.ledger[world.ledger.len() - 1].clone();
                        let effect = world.feed.pushed(now_ms, item);
                        world.take(effect.into_iter().collect());
                    }
                }
                2 => {
                    if let Read::Page { since, unless } = world.feed.next_read(now_ms) {
                        let got = if flag { world.answer(since, unless) } else { Got::Failed(None) };
                        let effects = world.feed.got(now_ms, got);
                        world.take(effects);
                    }
                }
                3 => world.feed.opened(now_ms),
                4 => world.feed.ended(now_ms, None),
                5 => now_ms += 40_000,
                6 => {
                    // A page is under way while one more item is written and pushed.
                    if let Read::Page { since, unless } = world.feed.next_read(now_ms) {
                        let got = world.answer(since, unless);
                        seq += 1;
                        world.write((seq, "agent", number + 100));
                        let effect = world.feed.pushed(now_ms, row(seq, "agent", number + 100));
                        world.take(effect.into_iter().collect());
                        prop_assert!(world.revoked(u128::from(number + 100)));
                        let effects = world.feed.got(now_ms, got);
                        world.take(effects);
                        prop_assert!(world.revoked(u128::from(number + 100)));
                    }
                }
                _ => now_ms += 24 * 3_600_000,
            }
        }
        for _ in 0..3 {
            now_ms = world.read(now_ms + MAX_PAUSE_MS);
        }
        prop_assert_eq!(&world.cache, &world.truth());
        prop_assert_eq!(world.feed.freshness().position, world.latest);
    }
}

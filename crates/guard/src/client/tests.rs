//! Both threads against a server in this process. The tests wait for conditions, with a generous time limit.

use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use super::*;
use crate::cache::MemoryCache;
use crate::cache::tests::row;
use crate::http::Secret;
use crate::testing::{Reply, Request, serve};
use clawdentity_protocol::revocation::tag;
use clawdentity_protocol::testing::{agent, ulid};

/// A proxy's feed.
#[derive(Default)]
struct Proxy {
    items: Vec<Item>,
    epoch: String,
    streams: Vec<Sender<Vec<u8>>>,
    opened_after: Vec<u64>,
    opened_at: Vec<String>,
    reads: Vec<String>,
    no_stream: bool,
    broken: bool,
}

impl Proxy {
    fn answer(&mut self, request: &Request) -> Reply {
        assert_eq!(request.header("authorization"), Some("Bearer feed-token"));
        if self.broken {
            return Reply::Whole(200, "", r#"{"latest":1"#.into());
        }
        if request.path.starts_with(STREAM_PATH) {
            if self.no_stream {
                return Reply::Whole(503, "Retry-After: 1\r\n", String::new());
            }
            let after: u64 = request.header("last-event-id").unwrap().parse().unwrap();
            let (sender, parts) = mpsc::channel();
            for item in self.items.iter().filter(|item| item.seq > after) {
                sender.send(event(item)).unwrap();
            }
            self.opened_after.push(after);
            self.opened_at.push(request.path.clone());
            self.streams.push(sender);
            return Reply::Stream(parts);
        }
        self.reads.push(request.path.clone());
        let since: u64 = request.path.split(['=', '&']).nth(1).unwrap().parse().unwrap();
        let latest = self.items.last().map_or(0, |item| item.seq);
        if request.header("if-none-match") == Some(&tag(&self.epoch, latest)) {
            return Reply::Whole(304, "", String::new());
        }
        let items = self
            .items
            .iter()
            .filter(|item| item.seq > since)
            .cloned()
            .collect();
        let page = Page {
            epoch: self.epoch.clone(),
            latest,
            next: latest,
            more: false,
            items,
            ..Page::default()
        };
        Reply::Whole(200, "", page.to_json())
    }

    fn send(&mut self, bytes: &[u8]) {
        self.streams.retain(|stream| stream.send(bytes.to_vec()).is_ok());
    }
}

fn event(item: &Item) -> Vec<u8> {
    format!(
        "event: revocation\nid: {}\ndata: {}\n\n",
        item.seq,
        item.to_json()
    )
    .into_bytes()
}

struct World {
    proxy: Arc<Mutex<Proxy>>,
    cache: Arc<MemoryCache>,
    feed: FeedClient,
}

impl World {
    fn start(proxy: Proxy) -> Self {
        let proxy = Arc::new(Mutex::new(proxy));
        let served = Arc::clone(&proxy);
        let url = serve(move |request| served.lock().unwrap().answer(&request));
        let cache = Arc::new(MemoryCache::default());
        let config = FeedConfig {
            url,
            auth: Auth::Bearer(Secret::parse("feed-token").unwrap()),
            allow_http: false,
            settings: FeedSettings {
                poll_every_ms: 50,
                retry_first_ms: 20,
                retry_most_ms: 50,
                ..FeedSettings::default()
            },
        };
        let feed = FeedClient::start(config, Arc::clone(&cache) as Arc<dyn RevocationCache>).unwrap();
        Self { proxy, cache, feed }
    }

    fn proxy(&self) -> MutexGuard<'_, Proxy> {
        self.proxy.lock().unwrap()
    }

    fn revoked(&self, number: u128) -> bool {
        self.cache.standing(&agent(number), ulid(0)).agent_revoked
    }

    #[track_caller]
    fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..2_000 {
            if condition(self) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("never: {what}");
    }
}

#[test]
fn full_sync_then_the_stream_then_a_gap_then_a_cut_ledger() {
    let world = World::start(Proxy {
        items: vec![row(1, "agent", 1)],
        ..Proxy::default()
    });
    world.until("the full sync", |world| world.revoked(1));
    world.until("a stream after it", |world| world.proxy().opened_after == [1]);
    world.until("the look that opening earns", |world| {
        world.proxy().reads.len() == 2
    });

    let pushed = row(2, "agent", 2);
    {
        let mut proxy = world.proxy();
        proxy.items.push(pushed.clone());
        proxy.send(b": still here\n\n");
        proxy.send(&event(&pushed));
    }
    world.until("the push", |world| world.revoked(2));
    let freshness = world.feed.freshness();
    assert!(freshness.pushed_ms >= freshness.confirmed_ms && freshness.position == 2);
    assert_eq!(world.proxy().reads.len(), 2, "a push in order needs no read");

    // 3 is lost on the way, 4 arrives.
    let (lost, arrives) = (row(3, "lift", 1), row(4, "agent", 4));
    {
        let mut proxy = world.proxy();
        proxy.items.extend([lost, arrives.clone()]);
        proxy.send(&event(&arrives));
    }
    world.until("what was lost", |world| !world.revoked(1) && world.revoked(4));
    assert_eq!(world.feed.freshness().position, 4);

    // The ledger is replaced by one that ends earlier; the stream breaks.
    {
        let mut proxy = world.proxy();
        proxy.items = vec![row(1, "agent", 5)];
        proxy.streams.clear();
    }
    world.until("the new ledger", |world| {
        world.revoked(5) && !world.revoked(4) && !world.revoked(2)
    });
    // A listener of the old ledger finds out at the stream's next sign of life.
    world.until("a stream after it", |world| {
        let mut proxy = world.proxy();
        proxy.send(b": still here\n\n");
        proxy.opened_after.last() == Some(&1)
    });
    assert_eq!(world.feed.fault(), None);
}

/// The database was restored to an earlier point, and the numbers since then were given again to others.
#[test]
fn a_reset_on_the_stream_brings_the_new_ledger() {
    let world = World::start(Proxy {
        items: vec![row(1, "agent", 1), row(2, "agent", 2), row(4, "agent", 4)],
        epoch: "e1".into(),
        ..Proxy::default()
    });
    world.until("a stream", |world| {
        world.proxy().opened_at == [format!("{STREAM_PATH}?epoch=e1")]
    });
    world.until("the look that opening earns", |world| {
        world.proxy().reads.len() == 2
    });
    {
        let mut proxy = world.proxy();
        proxy.items = vec![row(1, "agent", 1), row(3, "agent", 5), row(4, "agent", 6)];
        proxy.epoch = "e2".into();
        proxy.send(b"event: reset\nid: 0\ndata: {\"epoch\":\"e2\",\"latest\":4}\n\n");
        proxy.streams.clear();
    }
    world.until("the new ledger", |world| {
        world.revoked(1) && world.revoked(5) && world.revoked(6) && !world.revoked(2) && !world.revoked(4)
    });
    world.until("a stream of the new epoch", |world| {
        world.proxy().opened_at.last() == Some(&format!("{STREAM_PATH}?epoch=e2"))
    });
    assert_eq!(world.proxy().opened_after.last(), Some(&4));
    assert_eq!(world.feed.fault(), None);
}

#[test]
fn a_stream_cut_at_any_byte_loses_nothing() {
    let world = World::start(Proxy::default());
    world.until("a stream", |world| world.proxy().streams.len() == 1);
    let length = event(&row(1, "agent", 1)).len();
    for (seq, cut) in (1..).zip((0..=length).step_by(7)) {
        let item = row(seq, "agent", seq);
        {
            let mut proxy = world.proxy();
            let bytes = event(&item);
            proxy.send(&bytes[..cut.min(bytes.len())]);
            proxy.streams.clear();
            proxy.items.push(item);
        }
        world.until("the item", |world| world.revoked(u128::from(seq)));
        world.until("the next stream", |world| world.proxy().streams.len() == 1);
    }
}

#[test]
fn polling_where_there_is_no_stream() {
    let world = World::start(Proxy {
        no_stream: true,
        ..Proxy::default()
    });
    world.until("the full sync", |world| {
        world.feed.freshness().complete_ms.is_some()
    });
    world.proxy().items.push(row(1, "agent", 1));
    world.until("the poll", |world| world.revoked(1));
    assert_eq!(world.feed.freshness().pushed_ms, None);
}

#[test]
fn a_proxy_that_answers_nonsense_confirms_nothing_and_says_so() {
    let world = World::start(Proxy {
        items: vec![row(1, "agent", 1)],
        ..Proxy::default()
    });
    world.until("the full sync", |world| world.revoked(1));
    world.until("the look that opening earns", |world| {
        world.proxy().reads.len() == 2
    });
    {
        let mut proxy = world.proxy();
        proxy.broken = true;
        proxy.streams.clear();
    }
    world.until("a fault", |world| world.feed.fault().is_some());
    let confirmed_ms = world.feed.freshness().confirmed_ms;
    thread::sleep(Duration::from_millis(100));
    assert_eq!(world.feed.freshness().confirmed_ms, confirmed_ms);
    assert!(world.revoked(1));
    assert_eq!(world.feed.fault().as_deref(), Some("not a page of revocations"));
    world.proxy().broken = false;
    world.until("recovery", |world| world.feed.fault().is_none());
}

#[test]
fn an_event_that_cannot_be_read_is_read_from_the_ledger() {
    let world = World::start(Proxy::default());
    world.until("a stream", |world| world.proxy().streams.len() == 1);
    {
        let mut proxy = world.proxy();
        proxy.items.push(row(1, "agent", 1));
        proxy.send(b"event: revocation\nid: 1\ndata: {\"seq\":1,\"kind\":\"agent\"}\n\n");
    }
    world.until("the item", |world| world.revoked(1));
}

#[test]
fn dropping_it_stops_both_threads() {
    let world = World::start(Proxy::default());
    world.until("a stream", |world| world.proxy().streams.len() == 1);
    let World { proxy, cache, feed } = world;
    drop(feed);
    let end = || {
        proxy.lock().unwrap().send(b": hello\n\n");
        // The cache is held by the threads' shared state alone besides this one.
        Arc::strong_count(&cache) == 1
    };
    for _ in 0..2_000 {
        if end() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("the threads go on");
}

//! What a guard's first sync of 100,000 revocations takes: from the start of the client until its cache is complete, read
//! in pages from a server in this process.
//!
//! ```text
//! cargo run --release -p clawdentity-guard --features testing --example first_sync
//! ```
//!
//! Prints the time and by how much the memory of the process grew at most (Linux), the server's included. Exits with 1 over
//! 2 s or 32 MiB.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)] // measures

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clawdentity_guard::testing::{Reply, serve};
use clawdentity_guard::{Auth, FeedClient, FeedConfig, FeedSettings, MemoryCache, RevocationCache, Secret};
use clawdentity_protocol::ids::Ulid;

const ROWS: u64 = 100_000;
const PAGE: u64 = 1_000;
const MAX: Duration = Duration::from_secs(2);
const MAX_MIB: f64 = 32.0;

fn main() {
    let url = serve(|request| {
        if !request.path.starts_with("/v1/revocations?") {
            return Reply::Whole(503, "Retry-After: 60\r\n", String::new());
        }
        let since: u64 = request.path.split(['=', '&']).nth(1).unwrap().parse().unwrap();
        Reply::Whole(200, "", page(since))
    });
    let before = kib("VmRSS");
    let cache = Arc::new(MemoryCache::default());
    let started = Instant::now();
    let config = FeedConfig {
        url,
        auth: Auth::Bearer(Secret::parse("feed-token").unwrap()),
        allow_http: false,
        settings: FeedSettings::default(),
    };
    let feed = FeedClient::start(config, Arc::clone(&cache) as Arc<dyn RevocationCache>).unwrap();
    while feed.freshness().complete_ms.is_none() && started.elapsed() < 10 * MAX {
        thread::sleep(Duration::from_millis(1));
    }
    let took = started.elapsed();
    let grew_mib = (kib("VmHWM") - before) as f64 / 1024.0;
    assert_eq!(feed.freshness().position, ROWS, "{:?}", feed.fault());
    println!("{ROWS} revocations: {} ms, {grew_mib:.1} MiB", took.as_millis());
    std::process::exit(i32::from(took > MAX || grew_mib > MAX_MIB));
}

/// The rows after this number.
fn page(since: u64) -> String {
    let last = (since + PAGE).min(ROWS);
    let items: Vec<String> = (since + 1..=last)
        .map(|seq| {
            let (jti, agent) = (Ulid::from_u128(u128::from(seq)), Ulid::from_u128(u128::from(seq) << 40));
            format!(
                r#"{{"seq":{seq},"kind":"token","agentDid":"did:cdi:registry.example.com:agent:{agent}","jti":"{jti}","reason":"reissued","revokedAt":1767323045678,"expiresAt":1775099045678,"source":"crl"}}"#
            )
        })
        .collect();
    format!(
        r#"{{"epoch":"e1","latest":{ROWS},"next":{last},"more":{},"items":[{}]}}"#,
        last < ROWS,
        items.join(",")
    )
}

fn kib(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! A sidecar: it asks a guard about the headers of each request, so that the program behind it need not.
//!
//! ```text
//! CLAWDENTITY_PROXY_URL=https://proxy.example.com FEED_TOKEN=… REGISTRY_URL=https://registry.example.com \
//!   cargo run --release -p clawdentity-guard --example sidecar -- 127.0.0.1:9000
//! ```
//!
//! It answers as nginx's `auth_request` and Envoy's `ext_authz` expect. 204 lets the request pass and names the agent
//! in `x-claw-agent-did`. 401 and 503 stop it, with a code of docs/wire.md §8 in the body. The request to the sidecar
//! must be the one to be checked: the same method, path, headers and body. `GET /sidecar/health` says how current the
//! cache is.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for a terminal

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use std::{env, thread};

use clawdentity_guard::{
    Auth, FeedClient, FeedConfig, FeedSettings, Guard, GuardConfig, KeyClient, KeyConfig, MemoryCache,
    RequestHead, RevocationCache, Secret, now_ms,
};
use clawdentity_protocol::issuer::Issuer;

/// The largest head and the largest body that are looked at.
const MAX_HEAD_BYTES: u64 = 64 * 1024;
const MAX_BODY_BYTES: usize = 1024 * 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());
    let registry_url = env::var("REGISTRY_URL")?;
    let issuer = env::var("REGISTRY_ISSUER").unwrap_or_else(|_| registry_url.clone());
    let token = Secret::parse(&env::var("FEED_TOKEN")?).ok_or("FEED_TOKEN is blank or has odd characters")?;

    let cache: Arc<dyn RevocationCache> = Arc::new(MemoryCache::default());
    let config = FeedConfig {
        url: env::var("CLAWDENTITY_PROXY_URL")?,
        auth: Auth::Bearer(token),
        allow_http: false,
        settings: FeedSettings {
            seed: now_ms() ^ u64::from(std::process::id()),
            ..FeedSettings::default()
        },
    };
    let feed = Arc::new(FeedClient::start(config, Arc::clone(&cache))?);
    let guard = Arc::new(Guard::new(GuardConfig::new(Issuer::parse(&issuer)?), cache));
    let _keys = KeyClient::start(KeyConfig::new(registry_url), Arc::clone(&guard))?;

    let listener = TcpListener::bind(&address)?;
    println!("sidecar on http://{}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        let (guard, feed) = (Arc::clone(&guard), Arc::clone(&feed));
        thread::spawn(move || {
            if let Err(error) = answer(stream, &guard, &feed) {
                eprintln!("a connection broke off: {error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, guard: &Guard, feed: &FeedClient) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(MAX_HEAD_BYTES + MAX_BODY_BYTES as u64));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers: Vec<(String, String)> = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    // A header that is there twice is not a header: which of the two was signed?
    let header = |name: &str| {
        let mut all = headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str());
        all.next().filter(|_| all.next().is_none())
    };
    let length: usize = header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if length > MAX_BODY_BYTES || header("transfer-encoding").is_some() {
        return stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;

    let text = if path == "/sidecar/health" {
        let freshness = feed.freshness();
        let body = format!(
            "{{\"confirmedAgeMs\":{},\"position\":{}}}",
            freshness
                .age_ms(now_ms())
                .map_or("null".to_owned(), |age| age.to_string()),
            freshness.position
        );
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    } else {
        let head = RequestHead {
            method,
            path_and_query: path,
            authorization: header("authorization"),
            timestamp: header("x-claw-timestamp"),
            nonce: header("x-claw-nonce"),
            body_sha256: header("x-claw-body-sha256"),
            proof: header("x-claw-proof"),
        };
        match guard.check(now_ms(), &head, &body) {
            Ok(admitted) => format!(
                "HTTP/1.1 204 No Content\r\nx-claw-agent-did: {}\r\nconnection: close\r\n\r\n",
                admitted.agent()
            ),
            Err(refusal) => {
                let body = format!(
                    "{{\"error\":{{\"code\":\"{}\",\"message\":\"{}\"}}}}",
                    refusal.code.name, refusal.reason
                );
                format!(
                    "HTTP/1.1 {} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    refusal.code.status,
                    body.len()
                )
            }
        }
    };
    stream.write_all(text.as_bytes())
}

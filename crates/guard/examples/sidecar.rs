//! A sidecar: it asks a guard about the headers of each request, so that the program behind it need not.
//!
//! ```text
//! CLAWDENTITY_PROXY_URL=https://proxy.example.com FEED_TOKEN=… REGISTRY_URL=https://registry.example.com \
//!   cargo run --release -p clawdentity-guard --example sidecar -- 127.0.0.1:9000 127.0.0.1:9001
//! ```
//!
//! It answers as nginx's `auth_request` and Envoy's `ext_authz` expect. 204 lets the request pass and names the agent
//! in `x-claw-agent-did`. 401 and 503 stop it, with a code of docs/wire.md §8 in the body. The request to the sidecar
//! must be the one to be checked: the same method, path, headers and body. Every path is decided on that port, whatever
//! it is called. `GET /sidecar/health` on the second port says how current the cache is; by default that is the next
//! port of the same address.

#![allow(clippy::print_stdout, clippy::print_stderr)] // a program for a terminal

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
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
    let health_address = env::args().nth(2);
    let registry_url = env::var("REGISTRY_URL")?;
    let issuer = env::var("REGISTRY_ISSUER").unwrap_or_else(|_| registry_url.clone());
    let token = Secret::parse(&env::var("FEED_TOKEN")?).ok_or("FEED_TOKEN is blank or has odd characters")?;

    let cache: Arc<dyn RevocationCache> = Arc::new(MemoryCache::default());
    let config = FeedConfig {
        url: env::var("CLAWDENTITY_PROXY_URL")?,
        auth: Auth::Bearer(token),
        allow_http: false,
        settings: FeedSettings::default(),
    };
    let feed = Arc::new(FeedClient::start(config, Arc::clone(&cache))?);
    let guard = Arc::new(Guard::new(GuardConfig::new(Issuer::parse(&issuer)?), cache));
    let _keys = KeyClient::start(KeyConfig::new(registry_url), Arc::clone(&guard))?;

    let listener = TcpListener::bind(&address)?;
    let health = match health_address {
        Some(address) => TcpListener::bind(address)?,
        None => TcpListener::bind(beside(listener.local_addr()?, &address))?,
    };
    println!("sidecar on http://{}", listener.local_addr()?);
    println!("its health: http://{}/sidecar/health", health.local_addr()?);
    thread::spawn(move || {
        serve(
            &health,
            &Arc::new(move |request: &Request| report(request, &feed)),
        )
    });
    serve(
        &listener,
        &Arc::new(move |request: &Request| decide(request, &guard)),
    );
    Ok(())
}

/// The next port; any that is free where the first was to be any that is free.
fn beside(bound: SocketAddr, asked: &str) -> SocketAddr {
    let port = match asked.ends_with(":0") {
        true => 0,
        false => bound.port().wrapping_add(1),
    };
    SocketAddr::new(bound.ip(), port)
}

fn serve(listener: &TcpListener, answer: &Arc<impl Fn(&Request) -> String + Send + Sync + 'static>) {
    for stream in listener.incoming().flatten() {
        let answer = Arc::clone(answer);
        thread::spawn(move || {
            if let Err(error) = converse(stream, &*answer) {
                eprintln!("a connection broke off: {error}");
            }
        });
    }
}

struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A header that is there twice is not a header: which of the two was signed?
    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str());
        all.next().filter(|_| all.next().is_none())
    }
}

fn converse(mut stream: TcpStream, answer: &dyn Fn(&Request) -> String) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?.take(MAX_HEAD_BYTES + MAX_BODY_BYTES as u64));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_ascii_whitespace();
    let mut word = || words.next().unwrap_or_default().to_owned();
    let mut request = Request {
        method: word(),
        path: word(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => request
                .headers
                .push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let length: usize = request
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    if length > MAX_BODY_BYTES || request.header("transfer-encoding").is_some() {
        return stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    stream.write_all(answer(&request).as_bytes())
}

fn report(request: &Request, feed: &FeedClient) -> String {
    if request.method != "GET" || request.path != "/sidecar/health" {
        return "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
    }
    let freshness = feed.freshness();
    let age = freshness.age_ms(now_ms());
    let age = age.map_or("null".to_owned(), |age| age.to_string());
    let body = format!("{{\"confirmedAgeMs\":{age},\"position\":{}}}", freshness.position);
    json("200 OK", &body)
}

fn decide(request: &Request, guard: &Guard) -> String {
    let head = RequestHead {
        method: &request.method,
        path_and_query: &request.path,
        authorization: request.header("authorization"),
        timestamp: request.header("x-claw-timestamp"),
        nonce: request.header("x-claw-nonce"),
        body_sha256: request.header("x-claw-body-sha256"),
        proof: request.header("x-claw-proof"),
    };
    match guard.check(now_ms(), &head, &request.body) {
        Ok(admitted) => format!(
            "HTTP/1.1 204 No Content\r\nx-claw-agent-did: {}\r\nconnection: close\r\n\r\n",
            admitted.agent()
        ),
        Err(refusal) => {
            let body = format!(
                "{{\"error\":{{\"code\":\"{}\",\"message\":\"{}\"}}}}",
                refusal.code.name, refusal.reason
            );
            json(&format!("{} Refused", refusal.code.status), &body)
        }
    }
}

fn json(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

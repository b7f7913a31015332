//! `watch`: shows each revocation as it comes, until it is stopped or nobody reads any more.
//!
//! With the feed's token it follows the stream: it comes back after a break with the last number that it showed, after a
//! pause of 1 s doubling to 30 s, or what the proxy asks for. With the admin token alone, which does not open the feed, it
//! reads the operator's list every 2 s. A refusal that will not change, and a proxy that was never reached, end it.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use super::api::{Api, Failure, refused};
use super::{Outcome, Terminal, failed, say, shown};
use clawdentity_guard::{Client, EventParser, HttpError, Signal};
use clawdentity_protocol::revocation::{Item, MAX_PAGE_BYTES, Page};

const FEED: &str = "/v1/revocations";
const STREAM: &str = "/v1/events/revocations";
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MOST: Duration = Duration::from_secs(30);
const LIST_EVERY: Duration = Duration::from_secs(2);

/// Why it goes on no longer, or for now.
enum Stop {
    /// Nobody reads what it shows.
    NobodyReads,
    /// The stream is over; it is opened again.
    StreamEnded,
    Failed(Failure),
}

/// By the stream.
pub(super) fn by_stream(
    since: Option<u64>,
    json: bool,
    client: &Client,
    terminal: &mut Terminal<'_>,
) -> Result<Outcome, Failure> {
    let head = head(client)?;
    let mut after = since.unwrap_or(head.latest);
    let path = match head.epoch.as_str() {
        "" => STREAM.to_owned(),
        epoch => format!("{STREAM}?epoch={epoch}"),
    };
    let mut path = path.as_str();
    let mut pause = PAUSE_FIRST;
    loop {
        let mut wait = pause;
        match client.stream(path, after) {
            Ok(Ok(stream)) => {
                let shown_up_to = after;
                match follow(stream, &mut after, json, terminal) {
                    Stop::NobodyReads => return Ok(Outcome::Done),
                    Stop::Failed(failure) => return Err(failure),
                    Stop::StreamEnded => {}
                }
                if after != shown_up_to {
                    (pause, wait) = (PAUSE_FIRST, PAUSE_FIRST);
                }
                if after < shown_up_to {
                    // It started over: what it shows from now on is of an epoch that has another name.
                    path = STREAM;
                }
                say(terminal.err, "proxyctl: the stream has ended: opening it again");
            }
            Ok(Err(answer)) if matches!(answer.status, 429 | 500..=599) => {
                let asked = Duration::from_millis(answer.retry_after_ms.unwrap_or(0));
                wait = pause.max(asked.min(PAUSE_MOST));
                say(
                    terminal.err,
                    &format!("proxyctl: no stream at the moment ({})", answer.status),
                );
            }
            Ok(Err(answer)) => return Err(refused(&answer)),
            Err(HttpError::Unreachable(reason)) => say(
                terminal.err,
                &format!(
                    "proxyctl: the proxy could not be reached: {}",
                    super::api::plain(&reason)
                ),
            ),
            Err(error) => return Err(error.into()),
        }
        (terminal.wait)(wait);
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// Where the ledger stands: it is shown from here on. It also finds out a wrong token and a wrong URL.
fn head(client: &Client) -> Result<Page, Failure> {
    let answer = client.get(&format!("{FEED}?limit=1"), None, MAX_PAGE_BYTES)?;
    match answer.status {
        200 => Page::parse(&answer.body).map_err(|error| failed(error.reason().to_owned())),
        _ => Err(refused(&answer)),
    }
}

fn follow(
    mut stream: Box<dyn Read + Send>,
    after: &mut u64,
    json: bool,
    terminal: &mut Terminal<'_>,
) -> Stop {
    let mut parser = EventParser::default();
    let mut buffer = [0_u8; 4096];
    let mut degraded = false;
    loop {
        let bytes = match stream.read(&mut buffer) {
            Ok(length) if length > 0 => buffer.get(..length).unwrap_or_default(),
            _ => return Stop::StreamEnded,
        };
        let mut signals = Vec::new();
        if parser.push(bytes, |signal| signals.push(signal)).is_err() {
            return Stop::StreamEnded;
        }
        for signal in signals {
            let was = std::mem::replace(&mut degraded, matches!(signal, Signal::Degraded));
            match signal {
                Signal::Degraded if !was => say(
                    terminal.err,
                    "proxyctl: the proxy cannot read its ledger at the moment: what is revoked now is shown later",
                ),
                Signal::Comment if was => say(terminal.err, "proxyctl: the proxy reads its ledger again"),
                Signal::Degraded | Signal::Comment => {}
                Signal::Event { name, .. } if name == b"reset" => {
                    *after = 0;
                    say(
                        terminal.err,
                        "proxyctl: the ledger's numbers start over: everything in it follows once more",
                    );
                }
                Signal::Event { name, data } if name == b"revocation" => match Item::parse_known(&data) {
                    Ok(Some(item)) => match show(&item, json, terminal) {
                        Ok(()) => *after = item.seq,
                        Err(stop) => return stop,
                    },
                    Ok(None) => {}
                    Err(error) => return Stop::Failed(failed(error.reason().to_owned())),
                },
                Signal::Event { .. } => {}
            }
        }
    }
}

/// By the operator's list.
pub(super) fn by_list(
    since: Option<u64>,
    json: bool,
    api: &Api<'_>,
    terminal: &mut Terminal<'_>,
) -> Result<Outcome, Failure> {
    let mut place = match since {
        Some(since) => since,
        None => api.latest()?,
    };
    loop {
        let page = match api.revocations(place) {
            Ok(page) => page,
            Err(failure @ Failure::Unreachable(_)) => {
                say(terminal.err, &format!("proxyctl: {failure}"));
                (terminal.wait)(PAUSE_MOST);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if page.reset {
            say(
                terminal.err,
                "proxyctl: the ledger's numbers start over: everything in it follows once more",
            );
        }
        for item in &page.items {
            match show(item, json, terminal) {
                Ok(()) => {}
                Err(Stop::Failed(failure)) => return Err(failure),
                Err(_) => return Ok(Outcome::Done),
            }
        }
        place = page.next;
        if !page.more {
            (terminal.wait)(LIST_EVERY);
        }
    }
}

fn show(item: &Item, json: bool, terminal: &mut Terminal<'_>) -> Result<(), Stop> {
    let written = writeln!(terminal.out, "{}", shown(item, json)).and_then(|()| terminal.out.flush());
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Stop::NobodyReads),
        Err(error) => Err(Stop::Failed(failed(format!("standard output: {error}")))),
    }
}

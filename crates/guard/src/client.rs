//! The two threads of the feed: the reader and the listener. Each asks `feed` what to do, does it, and reports the
//! result.
//!
//! Effects reach the cache under the feed's lock and in the feed's order. A guard's check takes only the cache's lock
//! and never waits for a request. Dropping the client stops both threads at their next step: the reader within the 10
//! s of its request, the listener when its stream next says something, which takes at most 45 s.

use std::io::Read as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::cache::{Freshness, RevocationCache};
use super::clock::now_ms;
use super::feed::{Effect, Feed, FeedSettings, Got, Listen, Read};
use super::http::{Auth, Client, HttpError};
use super::sse::{Parser, Signal};
use clawdentity_protocol::revocation::{Item, MAX_PAGE_BYTES, MAX_PAGE_ITEMS, Page, is_epoch};

const FEED_PATH: &str = "/v1/revocations";
const STREAM_PATH: &str = "/v1/events/revocations";

/// Which proxy to follow, and how.
#[derive(Clone)]
pub struct FeedConfig {
    /// The proxy's URL.
    pub url: String,
    /// The `FEED_TOKEN` as a bearer, or the headers of a known agent.
    pub auth: Auth,
    /// Allows a credential to be sent over plain HTTP to another machine.
    pub allow_http: bool,
    /// How often the ledger is read, and how long the pauses after failures are.
    pub settings: FeedSettings,
}

/// Keeps a cache equal to a proxy's ledger, until it is dropped.
pub struct FeedClient {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    cache: Arc<dyn RevocationCache>,
    client: Client,
}

struct State {
    feed: Feed,
    stop: bool,
    fault: Option<String>,
}

impl FeedClient {
    /// Starts to follow the proxy's ledger.
    ///
    /// # Errors
    /// `Address`: the URL cannot be used. `Unreachable`: no thread could be started. A proxy that does not answer is
    /// not an error: it is asked again.
    pub fn start(config: FeedConfig, cache: Arc<dyn RevocationCache>) -> Result<Self, HttpError> {
        let client = Client::new(&config.url, config.auth, config.allow_http)?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                feed: Feed::new(config.settings),
                stop: false,
                fault: None,
            }),
            changed: Condvar::new(),
            cache,
            client,
        });
        let feed = Self {
            shared: Arc::clone(&shared),
        };
        let for_listener = Arc::clone(&shared);
        spawn("revocations-read", move || shared.read_on())?;
        spawn("revocations-listen", move || for_listener.listen_on())?;
        Ok(feed)
    }

    /// How current the cache is: when it was last confirmed, read completely, and pushed to.
    pub fn freshness(&self) -> Freshness {
        self.shared.cache.freshness()
    }

    /// The last failure, if nothing has succeeded since; for people to read.
    pub fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }
}

impl Drop for FeedClient {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), HttpError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started
        .map(|_| ())
        .map_err(|error| HttpError::Unreachable(error.to_string()))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_on(&self) {
        let mut state = self.lock();
        while !state.stop {
            state = match state.feed.next_read(now_ms()) {
                Read::Wait(at_ms) => self.wait(state, at_ms),
                Read::Page { since, unless } => {
                    drop(state);
                    let (got, fault) = self.ask(since, unless.as_deref());
                    let mut state = self.lock();
                    state.fault = fault;
                    let effects = state.feed.got(now_ms(), got);
                    self.take(&mut state, effects);
                    self.changed.notify_all();
                    state
                }
            };
        }
    }

    fn ask(&self, since: u64, unless: Option<&str>) -> (Got, Option<String>) {
        let path = format!("{FEED_PATH}?since={since}&limit={MAX_PAGE_ITEMS}");
        let failed = |retry_after_ms, fault: String| (Got::Failed(retry_after_ms), Some(fault));
        match self.client.get(&path, unless, MAX_PAGE_BYTES) {
            Err(error) => failed(None, error.to_string()),
            Ok(answer) if answer.status == 304 => (Got::Unchanged, None),
            Ok(answer) if answer.status == 200 => match Page::parse(&answer.body) {
                Ok(page) => (Got::Page(page), None),
                Err(error) => failed(None, error.to_string()),
            },
            Ok(answer) => failed(
                answer.retry_after_ms,
                format!("the feed answered {}", answer.status),
            ),
        }
    }

    fn listen_on(&self) {
        let mut state = self.lock();
        while !state.stop {
            state = match state.feed.next_listen(now_ms()) {
                Listen::Wait(at_ms) => self.wait(state, at_ms),
                Listen::Open(after) => {
                    let epoch = state.feed.epoch();
                    let path = stream_path(state.feed.ledger());
                    drop(state);
                    let retry_after_ms = self.listen(&path, after, epoch);
                    let mut state = self.lock();
                    state.feed.ended(now_ms(), retry_after_ms);
                    self.changed.notify_all();
                    state
                }
            };
        }
    }

    /// Listens to one stream to its end; when the server wants to be asked again, milliseconds, if it says so.
    fn listen(&self, path: &str, after: u64, epoch: u64) -> Option<u64> {
        let mut stream = match self.client.stream(path, after) {
            Ok(Ok(stream)) => stream,
            Ok(Err(answer)) => return answer.retry_after_ms,
            Err(_) => return None,
        };
        self.lock().feed.opened(now_ms());
        self.changed.notify_all();
        let mut parser = Parser::default();
        let mut buffer = [0_u8; 4096];
        loop {
            let read = stream.read(&mut buffer);
            let bytes = match read {
                Ok(length) if length > 0 && !self.is_over(epoch) => buffer.get(..length).unwrap_or_default(),
                _ => return None,
            };
            let mut readable = true;
            let parsed = parser.push(bytes, |signal| readable &= self.signal(signal));
            if parsed.is_err() || !readable {
                return None;
            }
        }
    }

    fn is_over(&self, epoch: u64) -> bool {
        let state = self.lock();
        state.stop || state.feed.epoch() != epoch
    }

    /// Whether it could be read: what cannot is a revocation that nobody may skip, and the reader is to find it.
    fn signal(&self, signal: Signal) -> bool {
        let mut state = self.lock();
        match signal {
            Signal::Degraded => state.feed.degraded(now_ms()),
            Signal::Comment => state.feed.alive(),
            Signal::Event { name, .. } if name == b"reset" => {
                state.feed.reset(now_ms());
                drop(state);
                self.changed.notify_all();
                return false;
            }
            Signal::Event { name, data } if name == b"revocation" => {
                let item = match Item::parse_known(&data) {
                    Ok(Some(item)) => item,
                    Ok(None) => return true,
                    Err(_) => return false,
                };
                let effect = state.feed.pushed(now_ms(), item);
                self.take(&mut state, effect);
                drop(state);
                self.changed.notify_all();
            }
            Signal::Event { .. } => {}
        }
        true
    }

    /// Brings effects into the cache, and then says how true it is.
    fn take(&self, state: &mut State, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            match effect {
                Effect::Apply(item) => self.cache.apply(&item),
                Effect::Replace(set) => self.cache.replace(set),
            }
        }
        self.cache.set_freshness(state.feed.freshness());
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, at_ms: u64) -> MutexGuard<'a, State> {
        let pause = Duration::from_millis(at_ms.saturating_sub(now_ms()));
        match self.changed.wait_timeout(state, pause) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }
}

/// With the epoch of the position, so that a proxy whose numbers mean something else by now says so.
fn stream_path(ledger: &str) -> String {
    match is_epoch(ledger) {
        true => format!("{STREAM_PATH}?epoch={ledger}"),
        false => STREAM_PATH.to_owned(),
    }
}

#[cfg(test)]
mod tests;

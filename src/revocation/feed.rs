//! `RevocationFeed`: the Durable Object that tells everyone who listens to the stream (docs/wire.md §10.2).
//!
//! There is one, and it keeps nothing. Each listener has the number up to which it has everything, and is sent what
//! comes after it in the ledger, now and whenever the object is poked. An eviction, a deployment or a restart
//! therefore costs a listener a reconnection with `Last-Event-ID` and nothing else. A poke that is lost costs 15 s,
//! because that is how often each listener's stream looks by itself.
//!
//! A stream that an agent opened ends when that agent or its token is revoked, or when the token expires.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use futures_channel::mpsc::{self, Receiver, Sender};
use futures_util::future::{self, Either};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use worker::{
    DurableObject, Env, Headers, Method, Request, RequestInit, Response, ResponseBuilder, State,
    durable_object,
};

use crate::app::{App, binding};
use crate::clock;
use crate::core::feed::{ALIVE, Listener, event};
use crate::log::Log;
use crate::trust::ledger::feed;

const NAME: &str = "revocations";
const POKE_URL: &str = "https://feed/poke";
const STREAM_URL: &str = "https://feed/stream";
/// Carries a `Listener` as JSON. The worker builds that request itself.
const LISTENER_HEADER: &str = "x-clawdentity-feed-listener";
const LOOK_EVERY_MS: u64 = 15_000;
/// The pause after the ledger did not answer.
const LOOK_AGAIN_MS: u64 = 1_000;
const ITEMS_AT_ONCE: u64 = 500;
const POKE_TIMEOUT_MS: u64 = 2_000;

/// The object.
#[durable_object]
pub struct RevocationFeed {
    env: Env,
    wakers: Rc<RefCell<Vec<Sender<()>>>>,
}

impl DurableObject for RevocationFeed {
    fn new(_state: State, env: Env) -> Self {
        Self {
            env,
            wakers: Rc::default(),
        }
    }

    async fn fetch(&self, request: Request) -> worker::Result<Response> {
        if request.inner().url() == POKE_URL {
            // One that was woken already and has not looked yet is woken enough; one that is gone is forgotten.
            self.wakers
                .borrow_mut()
                .retain_mut(|waker| waker.try_send(()).map_or_else(|error| error.is_full(), |()| true));
            return Ok(Response::empty()?.with_status(204));
        }
        let listener = request.headers().get(LISTENER_HEADER)?;
        let listener = listener.and_then(|text| serde_json::from_str(&text).ok());
        let (Some(listener), Ok(app)) = (listener, App::new(self.env.clone(), None)) else {
            return Response::error("not a listener", 400);
        };
        // Room for one: with the one that every sender has.
        let (waker, woken) = mpsc::channel(0);
        self.wakers.borrow_mut().push(waker);
        let told = Told {
            app,
            listener,
            woken,
            greeted: false,
            ended: false,
        };
        ResponseBuilder::new().from_stream(stream::unfold(told, Told::next))
    }
}

/// One listener's stream.
struct Told {
    app: App,
    listener: Listener,
    woken: Receiver<()>,
    greeted: bool,
    ended: bool,
}

impl Told {
    /// The next piece of its stream; none if the stream is over.
    async fn next(mut self) -> Option<(worker::Result<Vec<u8>>, Self)> {
        // Since the last piece was sent: pokes that bring nothing do not put the comment off.
        let mut quiet = pin!(clock::sleep_ms(LOOK_EVERY_MS));
        let mut is_quiet = !self.greeted;
        loop {
            if self.ended || self.listener.is_over(self.app.now_ms()) {
                return None;
            }
            let (text, failed) = match feed::page(&self.app, self.listener.since, ITEMS_AT_ONCE).await {
                Ok(page) => {
                    self.ended = page.items.iter().any(|item| self.listener.is_ended_by(item));
                    self.listener.since = page.next;
                    (page.items.iter().map(event).collect::<String>(), false)
                }
                Err(error) => {
                    Log.warn(
                        "proxy.feed.ledger_unavailable",
                        json!({ "error": error.to_string() }),
                    );
                    (String::new(), true)
                }
            };
            self.greeted = true;
            if !text.is_empty() {
                return Some((Ok(text.into_bytes()), self));
            }
            if is_quiet {
                return Some((Ok(ALIVE.into()), self));
            }
            let again = pin!(async {
                match failed {
                    true => clock::sleep_ms(LOOK_AGAIN_MS).await,
                    false => future::pending().await,
                }
            });
            let asked = future::select(self.woken.next(), again);
            is_quiet = matches!(future::select(&mut quiet, asked).await, Either::Left(_));
        }
    }
}

/// Why there is no stream.
pub enum NoStream {
    /// The deployment has no feed object.
    NoBinding,
    /// It does not answer.
    Failed(String),
}

/// Opens a stream.
///
/// # Errors
/// See `NoStream`.
pub async fn open(app: &App, listener: &Listener) -> Result<Response, NoStream> {
    let namespace = app.env.durable_object(binding::REVOCATION_FEED);
    let namespace = namespace.map_err(|_| NoStream::NoBinding)?;
    let work = async {
        let headers = Headers::new();
        headers.set(LISTENER_HEADER, &serde_json::to_string(listener)?)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Get).with_headers(headers);
        let request = Request::new_with_init(STREAM_URL, &init)?;
        namespace.get_by_name(NAME)?.fetch_with_request(request).await
    };
    let answer: worker::Result<Response> = work.await;
    match answer {
        Ok(response) if response.status_code() == 200 => Ok(response),
        Ok(response) => Err(NoStream::Failed(format!("status {}", response.status_code()))),
        Err(error) => Err(NoStream::Failed(error.to_string())),
    }
}

/// Tells the listeners that the ledger has grown, after the answer.
pub(super) fn poke_later(app: &App) {
    let background = app.clone();
    app.wait_until(async move { poke(&background).await });
}

/// Tells them now. A deployment without the object has no listeners. A poke that fails costs them 15 s.
pub(super) async fn poke(app: &App) {
    let Ok(namespace) = app.env.durable_object(binding::REVOCATION_FEED) else {
        return;
    };
    let poke = async { namespace.get_by_name(NAME)?.fetch_with_str(POKE_URL).await };
    if let Some(Err(error)) = clock::within_ms(POKE_TIMEOUT_MS, poke).await {
        app.log
            .warn("proxy.feed.poke_lost", json!({ "error": error.to_string() }));
    }
}

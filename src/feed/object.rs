//! `RevocationFeed`: the one Durable Object behind all streams and bundles.
//!
//! It stores nothing and sets no alarm: what it knows lives as long as its streams do, and a timer that runs while
//! somebody listens does the rest. An eviction, a deployment or a restart costs a listener a reconnection with
//! `Last-Event-ID` and nothing else. `core::feed::hub` decides; this file reads the ledger, wakes the listeners and
//! lets time pass. The settings are read at each call and never needed for the timer to go on.
//!
//! Where a look was lost on its way, the next one takes over after `LOOK_LOST_MS`; so does the timer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;

use futures_channel::mpsc::{self, Receiver, Sender};
use futures_util::future::Either;
use futures_util::lock::Mutex;
use futures_util::{StreamExt as _, future, stream};
use serde_json::json;
use worker::{DurableObject, Env, Request, Response, ResponseBuilder, State, durable_object};

use super::bundle::{Built, build};
use super::{CALL_HEADER, Call, EPOCH_HEADER, NOT_A_CALL, tag};
use crate::app::App;
use crate::clock;
use crate::core::admin::matches_tag;
use crate::core::admission::Known;
use crate::core::canary::is_canary;
use crate::core::feed::Listener;
use crate::core::feed::hub::{Ended, Hub, Id, Next};
use crate::log::Log;
use crate::protocol::did::AgentDid;
use crate::trust;
use crate::trust::ledger::feed;

/// Items read by one look.
const LOOK_ITEMS: u64 = 1_000;
/// Items that one listener reads for itself at once.
const CATCH_UP_ITEMS: u64 = 200;
/// A look, or a round of the timer, that has not come back by then never will.
const LOOK_LOST_MS: u64 = 30_000;
/// The longest sleep of the timer: what becomes due earlier meanwhile waits no longer than this.
const LONGEST_SLEEP_MS: u64 = 1_000;
/// A stream that must end waits so long for what comes before.
const END_WAITS_MS: u64 = 500;
/// A bundle that another request builds is waited for as long as this.
const BUNDLE_WAIT_MS: u64 = 30_000;

/// The object.
#[durable_object]
pub struct RevocationFeed {
    env: Env,
    shared: Rc<Shared>,
}

#[derive(Default)]
struct Shared {
    hub: RefCell<Hub>,
    wakers: RefCell<HashMap<Id, Sender<()>>>,
    /// When the look that is on its way began.
    looking_since_ms: Cell<Option<u64>>,
    /// Somebody asked for another one meanwhile.
    look_again: Cell<bool>,
    /// How far time has come. A timer's word counts as much as the clock's.
    now_ms: Cell<u64>,
    /// When the timer last went round, by the clock; none where it does not run.
    round_at_ms: Cell<Option<u64>>,
    rounds: Cell<u64>,
    /// With and without reasons.
    bundles: Mutex<[Option<Rc<Built>>; 2]>,
    /// When the object was last told of each canary: there are two.
    canaries: RefCell<HashMap<AgentDid, u64>>,
}

impl DurableObject for RevocationFeed {
    fn new(_state: State, env: Env) -> Self {
        Self {
            env,
            shared: Rc::default(),
        }
    }

    async fn fetch(&self, request: Request) -> worker::Result<Response> {
        let call = request.headers().get(CALL_HEADER)?;
        let call = call.and_then(|text| serde_json::from_str(&text).ok());
        let (Some(call), Ok(app)) = (call, App::new(self.env.clone(), None)) else {
            return Response::error("not a call", NOT_A_CALL);
        };
        match call {
            Call::Stream(listener) => open(&app, &self.shared, listener).await,
            Call::Bundle { reasons, unless } => bundle(&app, &self.shared, reasons, unless.as_deref()).await,
            Call::Told { canary } => {
                let told = self.shared.canaries.borrow();
                Response::ok(told.get(&canary).map_or_else(String::new, ToString::to_string))
            }
            Call::Poke { agents } => {
                for canary in agents.iter().filter(|agent| is_canary(agent)) {
                    let told_at_ms = app.now_ms();
                    let mut told = self.shared.canaries.borrow_mut();
                    told.insert(canary.clone(), told_at_ms);
                }
                // Whoever pokes does not wait for the look.
                if !self.shared.hub.borrow().is_empty() {
                    let shared = Rc::clone(&self.shared);
                    wasm_bindgen_futures::spawn_local(async move { poked(&app, &shared, &agents).await });
                }
                Ok(Response::empty()?.with_status(204))
            }
        }
    }
}

async fn open(app: &App, shared: &Rc<Shared>, listener: Listener) -> worker::Result<Response> {
    let opened = shared.hub.borrow_mut().open(shared.time(), listener);
    let Ok(id) = opened else {
        return Ok(Response::empty()?.with_status(429));
    };
    // Room for one: with the one that every sender has.
    let (waker, woken) = mpsc::channel(0);
    shared.wakers.borrow_mut().insert(id, waker);
    let told = Told {
        app: app.clone(),
        shared: Rc::clone(shared),
        id,
        woken,
    };
    if shared.hub.borrow().look_is_due(shared.time()) {
        look(app, shared).await;
    }
    keep_time(app, shared);
    let place = shared.hub.borrow().look_from();
    let mut response = ResponseBuilder::new().from_stream(stream::unfold(told, Told::next))?;
    if let Some(epoch) = place.and_then(|place| place.epoch) {
        response.headers_mut().set(EPOCH_HEADER, &epoch)?;
    }
    Ok(response)
}

/// One listener's stream. Dropped with it, it gives its seat free.
struct Told {
    app: App,
    shared: Rc<Shared>,
    id: Id,
    woken: Receiver<()>,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.shared.hub.borrow_mut().close(self.id);
        self.shared.wakers.borrow_mut().remove(&self.id);
    }
}

impl Told {
    /// The next piece of its stream; none where it is over.
    async fn next(mut self) -> Option<(worker::Result<Vec<u8>>, Self)> {
        loop {
            let next = self.shared.hub.borrow_mut().next(self.shared.time(), self.id);
            match next {
                Next::End => return None,
                Next::Send(text) => return Some((Ok(text.into_bytes()), self)),
                Next::Wait => {
                    self.woken.next().await;
                }
                Next::Read(place) => match feed::page(&self.app, &place, CATCH_UP_ITEMS).await {
                    Ok(page) => {
                        let text = self.shared.hub.borrow_mut().caught_up(self.id, &page);
                        if self.shared.hub.borrow().look_is_due(self.shared.time()) {
                            look(&self.app, &self.shared).await;
                        }
                        if !text.is_empty() {
                            return Some((Ok(text.into_bytes()), self));
                        }
                    }
                    Err(error) => self.shared.look_failed(&error.to_string()),
                },
            }
        }
    }
}

async fn poked(app: &App, shared: &Rc<Shared>, agents: &[AgentDid]) {
    let callers = shared.hub.borrow().callers();
    let named = callers.iter().filter(|(_, agent, _)| agents.contains(agent));
    // The agent's own object knows before the ledger does, and where the ledger fails.
    let checks = named.map(async |(id, agent, jti)| {
        let standing = trust::client::check(app, agent, Some(*jti)).await.ok()?;
        let must_end = standing.revoked.is_some() || standing.peers.known == Known::No;
        must_end.then_some(*id)
    });
    // What the look brings comes before the end, unless the ledger is slow.
    let mut looked = pin!(look(app, shared));
    let first = async {
        match future::select(looked.as_mut(), pin!(clock::sleep_ms(END_WAITS_MS))).await {
            Either::Left(_) => true,
            Either::Right(_) => false,
        }
    };
    let (done, checked) = future::join(first, future::join_all(checks)).await;
    let ended: Vec<Id> = checked.into_iter().flatten().collect();
    shared.hub.borrow_mut().end(&ended);
    shared.wake();
    if !done {
        looked.await;
    }
    keep_time(app, shared);
}

/// One look at the ledger for everybody. Where one is on its way already, it is followed by another.
async fn look(app: &App, shared: &Rc<Shared>) {
    let clock_ms = app.now_ms();
    let underway = shared
        .looking_since_ms
        .get()
        .is_some_and(|since| clock_ms.abs_diff(since) < LOOK_LOST_MS);
    if underway {
        shared.look_again.set(true);
        return;
    }
    loop {
        shared.looking_since_ms.set(Some(app.now_ms()));
        shared.look_again.set(false);
        let (place, callers) = {
            let hub = shared.hub.borrow();
            (hub.look_from(), hub.callers())
        };
        let streams = match callers.is_empty() {
            true => String::new(),
            false => {
                let streams = callers
                    .iter()
                    .map(|(id, agent, jti)| json!({ "id": id, "agent": agent, "jti": jti }));
                serde_json::Value::from_iter(streams).to_string()
            }
        };
        let more = match feed::look(app, place.as_ref(), LOOK_ITEMS, &streams).await {
            Ok((page, ended)) => {
                let more = page.more && !page.reset;
                shared.hub.borrow_mut().looked(shared.time(), page, &ended);
                more
            }
            Err(error) => {
                shared.look_failed(&error.to_string());
                false
            }
        };
        shared.wake();
        if !more && !shared.look_again.get() {
            break;
        }
    }
    shared.looking_since_ms.set(None);
}

/// Lets time pass while somebody listens.
fn keep_time(app: &App, shared: &Rc<Shared>) {
    let clock_ms = app.now_ms();
    let runs = shared
        .round_at_ms
        .get()
        .is_some_and(|at_ms| clock_ms.abs_diff(at_ms) < LOOK_LOST_MS);
    if runs {
        return;
    }
    shared.round_at_ms.set(Some(clock_ms));
    shared.rounds.set(shared.rounds.get().wrapping_add(1));
    let (app, shared, own) = (app.clone(), Rc::clone(shared), shared.rounds.get());
    wasm_bindgen_futures::spawn_local(async move {
        while shared.rounds.get() == own {
            let next_ms = shared.hub.borrow().next_ms();
            let Some(at_ms) = next_ms else { break };
            let pause_ms = at_ms.saturating_sub(shared.time()).min(LONGEST_SLEEP_MS);
            let then_ms = shared.time().saturating_add(pause_ms);
            clock::sleep_ms(pause_ms.max(1)).await;
            shared.now_ms.set(shared.now_ms.get().max(then_ms));
            shared.round_at_ms.set(Some(app.now_ms()));
            // Nobody is woken for nothing.
            let due_ms = shared.hub.borrow().next_ms();
            if due_ms.is_some_and(|at_ms| at_ms <= shared.time()) {
                let dropped = shared.hub.borrow_mut().tick(shared.time());
                log_dropped(&dropped);
                shared.wake();
            }
            if shared.hub.borrow().look_is_due(shared.time()) {
                look(&app, &shared).await;
            }
        }
        if shared.rounds.get() == own {
            shared.round_at_ms.set(None);
        }
    });
}

impl Shared {
    fn time(&self) -> u64 {
        let now_ms = clock::now_ms().max(self.now_ms.get());
        self.now_ms.set(now_ms);
        now_ms
    }

    fn look_failed(&self, error: &str) {
        Log.warn("proxy.feed.ledger_unavailable", json!({ "error": error }));
        let dropped = self.hub.borrow_mut().look_failed(self.time());
        log_dropped(&dropped);
        self.wake();
    }

    /// One that was woken already and has not asked yet is woken enough.
    fn wake(&self) {
        for waker in self.wakers.borrow_mut().values_mut() {
            let _ = waker.try_send(());
        }
    }
}

fn log_dropped(dropped: &[(Id, Ended)]) {
    for (id, why) in dropped {
        let why = match why {
            Ended::DoesNotRead => "it does not read",
            Ended::LedgerLost => "the ledger could not be read for too long",
        };
        Log.warn(
            "proxy.feed.listener_dropped",
            json!({ "stream": id, "reason": why }),
        );
    }
}

/// Builds the bundle, or gives out the one that is there. One request builds, and the others wait for it.
async fn bundle(
    app: &App,
    shared: &Rc<Shared>,
    reasons: bool,
    unless: Option<&str>,
) -> worker::Result<Response> {
    let at = usize::from(reasons);
    let kept = clock::within_ms(BUNDLE_WAIT_MS, shared.bundles.lock()).await;
    let answer = async {
        let head = feed::head(app).await?;
        if matches_tag(unless, &tag(&head.epoch, head.latest)) {
            return Ok((head, None));
        }
        let Some(mut kept) = kept else {
            let built = Rc::new(build(app, head, reasons).await?);
            return Ok((built.head.clone(), Some(built)));
        };
        let same = kept
            .get(at)
            .and_then(Option::as_ref)
            .filter(|built| built.head == head);
        let built = match same {
            Some(built) => Rc::clone(built),
            None => {
                // The old one is given up first: two would be in memory else.
                if let Some(slot) = kept.get_mut(at) {
                    *slot = None;
                }
                let built = Rc::new(build(app, head, reasons).await?);
                if let Some(slot) = kept.get_mut(at) {
                    *slot = Some(Rc::clone(&built));
                }
                built
            }
        };
        Ok::<_, trust::DbError>((built.head.clone(), Some(built)))
    };
    let (head, built) = match answer.await {
        Ok(answer) => answer,
        Err(error) => {
            Log.error("proxy.feed.failed", json!({ "error": error.to_string() }));
            return Response::error("the ledger does not answer", 503);
        }
    };
    let mut response = match built {
        Some(built) => built.response()?,
        None => Response::empty()?.with_status(304),
    };
    response
        .headers_mut()
        .set("etag", &tag(&head.epoch, head.latest))?;
    Ok(response)
}

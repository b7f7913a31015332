//! The kill switch measures itself: the runs of `core::canary` on Workers.
//!
//! A run makes a token for an agent that nobody has, opens a socket with it as a connector would have it after its
//! admission, revokes the token, and watches. Everything from the queue on is what a real revocation goes through; nothing
//! on the way knows of canaries, but for the feed, which leaves their rows out and remembers when it was last told of one.
//! What was measured is a log line and a row in D1.

use std::cell::Cell;
use std::pin::pin;

use futures_util::future::{self, Either, join, join_all, select};
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use worker::WebsocketEvent;

use crate::app::{App, binding};
use crate::clock;
use crate::core::admission::TokenRevocation;
use crate::core::canary::{self, OfWay, Run, Stage, Times, Watch, Way};
use crate::feed::{self, Told};
use crate::protocol::did::{AgentDid, Authority, HumanDid};
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;
use crate::protocol::time::iso_ms;
use crate::relay::client::connect;
use crate::relay::protocol::ConnectCall;
use crate::revocation::{NotDone, Order, apply};
use crate::trust;
use crate::trust::d1::{DbError, Sql, batch, number, optional_number, query, text};

/// RFC 6455 §7.4.1.
const NORMAL: u16 = 1000;
const REASON: &str = "canary";
/// Before a canary's event's own id: its memory is swept by it.
const EVENT_PREFIX: &str = "canary:";
/// An order's steps may take as long as a first try of the queue's.
const PATIENCE_MS: u64 = 500;
const DB_TIMEOUT_MS: u64 = 5_000;

/// Of several runs at a time, one gets rows.
const CLAIM: &str = "
INSERT INTO canary_runs (way, started_at_ms) SELECT value, ?1 FROM json_each('[\"event\",\"operator\"]')
WHERE NOT EXISTS (SELECT 1 FROM canary_runs WHERE started_at_ms > ?2 AND started_at_ms <= ?1)";

const FINISH: &str = "
UPDATE canary_runs SET finished_at_ms = ?3, overlay_ms = ?4, socket_ms = ?5, feed_ms = ?6
WHERE way = ?1 AND started_at_ms = ?2";

/// One that is dated ahead is of a clock that was wrong.
const FORGET: &str = "DELETE FROM canary_runs WHERE started_at_ms < ?1 OR started_at_ms > ?2";

/// A canary's row has nobody to tell after its token has ended. The highest number stays, so that none is given out twice.
const FORGET_ROWS: &str = "
DELETE FROM revocations WHERE kind = 'token' AND lifted_by IS NULL AND agent_did IN (?1, ?2)
  AND expires_at_ms < ?3 AND seq < (SELECT MAX(seq) FROM revocations)";

/// A canary's event is not delivered again after its token has ended.
const FORGET_EVENTS: &str = "
DELETE FROM applied_events WHERE event_id >= 'canary:' AND event_id < 'canary;' AND applied_at_ms < ?1";

const RUNS: &str = "
SELECT way, started_at_ms, finished_at_ms, overlay_ms, socket_ms, feed_ms FROM canary_runs
WHERE started_at_ms >= ?1 ORDER BY started_at_ms";

/// Measures every way in, if that is due.
pub async fn run_if_due(app: &App) {
    let interval_ms = app.config.canary_interval_ms;
    let Ok(authority) = app.config.registry.expected_issuer.authority() else {
        return;
    };
    if interval_ms == 0 {
        return;
    }
    let started_ms = app.now_ms();
    match claim(app, started_ms, interval_ms).await {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => return failed(app, &NotDone::from(error)),
    }
    let runs = Way::ALL.map(|way| measure(app, way, &authority));
    let watched = join_all(runs).await;
    for (way, (watch, error)) in Way::ALL.into_iter().zip(&watched) {
        report(app, way, watch, error.as_ref());
    }
    if let Err(error) = keep(app, &authority, started_ms, &watched).await {
        failed(app, &NotDone::from(error));
    }
}

/// What the runs of the last day say, by way.
///
/// # Errors
/// D1 gave no answer.
pub async fn summary(app: &App) -> Result<[OfWay; 2], DbError> {
    let runs = runs(app, canary::KEPT_MS).await?;
    Ok(Way::ALL.map(|way| OfWay::of(&runs, way, app.now_ms())))
}

/// The runs of the last `within_ms`, oldest first.
///
/// # Errors
/// D1 gave no answer.
pub async fn runs(app: &App, within_ms: u64) -> Result<Vec<Run>, DbError> {
    #[derive(Deserialize)]
    struct Row {
        way: String,
        started_at_ms: f64,
        finished_at_ms: Option<f64>,
        overlay_ms: Option<f64>,
        socket_ms: Option<f64>,
        feed_ms: Option<f64>,
    }

    let since = number(app.now_ms().saturating_sub(within_ms));
    let rows: Vec<Row> = query(app, DB_TIMEOUT_MS, Sql::new(RUNS, [since])).await?;
    let ms = |value: Option<f64>| value.map(|value| value as u64);
    let run = |row: Row| {
        Some(Run {
            way: Way::ALL.into_iter().find(|way| way.as_str() == row.way)?,
            started_ms: row.started_at_ms as u64,
            finished_ms: ms(row.finished_at_ms),
            times: Times {
                overlay_ms: ms(row.overlay_ms),
                socket_ms: ms(row.socket_ms),
                feed_ms: ms(row.feed_ms),
            },
        })
    };
    Ok(rows.into_iter().filter_map(run).collect())
}

async fn claim(app: &App, now_ms: u64, interval_ms: u64) -> Result<bool, DbError> {
    let since_ms = canary::due_if_none_since_ms(now_ms, interval_ms);
    let sql = Sql::new(CLAIM, [number(now_ms), number(since_ms)]);
    let results = batch(app, DB_TIMEOUT_MS, vec![sql]).await?;
    let meta = results.first().and_then(|result| result.meta().ok().flatten());
    Ok(meta.and_then(|meta| meta.changes).unwrap_or(0) > 0)
}

async fn keep(
    app: &App,
    authority: &Authority,
    started_ms: u64,
    watched: &[(Watch, Option<NotDone>)],
) -> Result<(), DbError> {
    let now_ms = app.now_ms();
    let mut statements: Vec<Sql<'_>> = Way::ALL
        .into_iter()
        .zip(watched)
        .map(|(way, (watch, _))| {
            let times = watch.times();
            let values = [
                text(way.as_str()),
                number(started_ms),
                number(now_ms),
                optional_number(times.overlay_ms),
                optional_number(times.socket_ms),
                optional_number(times.feed_ms),
            ];
            Sql::new(FINISH, values)
        })
        .collect();
    let before = now_ms.saturating_sub(canary::KEPT_MS);
    statements.push(Sql::new(FORGET, [number(before), number(now_ms)]));
    let before = now_ms.saturating_sub(canary::LIFE_MS);
    statements.push(Sql::new(FORGET_EVENTS, [number(before)]));
    let [event, operator] = Way::ALL.map(|way| text(way.agent(authority).as_str()));
    statements.push(Sql::new(FORGET_ROWS, [event, operator, number(now_ms)]));
    batch(app, DB_TIMEOUT_MS, statements).await.map(|_| ())
}

/// One way: what was seen, and what kept it from being watched.
async fn measure(app: &App, way: Way, authority: &Authority) -> (Watch, Option<NotDone>) {
    let mut watch = Watch::new(app.now_ms(), has_feed(app));
    let canary = match Canary::new(app, way, authority).await {
        Ok(canary) => canary,
        Err(error) => return (watch, Some(error)),
    };
    let result = canary.strike_and_watch(&mut watch).await;
    (watch, result.err())
}

struct Canary<'a> {
    app: &'a App,
    way: Way,
    agent: AgentDid,
    jti: Ulid,
    expires_at_ms: u64,
    socket: worker::WebSocket,
}

impl<'a> Canary<'a> {
    /// A canary with an open socket, as its admission would have left it.
    async fn new(app: &'a App, way: Way, authority: &Authority) -> Result<Self, NotDone> {
        let agent = way.agent(authority);
        let jti = canary::token(app.random().map_err(|error| NotDone(error.to_string()))?);
        let expires_at_ms = app.now_ms().saturating_add(canary::LIFE_MS);
        // Shown here, so that its life is known and no row of it outlives it.
        trust::ledger::first_sight(app, &agent, Some((jti, expires_at_ms)), false).await?;
        let standing = trust::client::check(app, &agent, Some(jti)).await?;
        let call = ConnectCall {
            owner: HumanDid::from_parts(authority, agent.ulid()),
            agent: agent.clone(),
            jti,
            issuer: None,
            kid: None,
            ait_expires_at_ms: expires_at_ms,
            generation: standing.generation,
        };
        let response = connect(app, &call).await?;
        let status = response.status_code();
        let socket = response
            .websocket()
            .ok_or_else(|| NotDone(format!("no socket: status {status}")))?;
        socket.accept()?;
        Ok(Self {
            app,
            way,
            agent,
            jti,
            expires_at_ms,
            socket,
        })
    }

    async fn strike_and_watch(&self, watch: &mut Watch) -> Result<(), NotDone> {
        let events = self.socket.events()?;
        let closed_at_ms = Cell::new(None);
        let started_ms = self.app.now_ms();
        *watch = Watch::new(started_ms, has_feed(self.app));
        let closes = async {
            until_closed(events).await;
            closed_at_ms.set(Some(self.app.now_ms()));
            future::pending::<()>().await;
        };
        let strikes_and_looks = join(self.strike(), self.look(watch, started_ms, &closed_at_ms));
        let result = match select(pin!(strikes_and_looks), pin!(closes)).await {
            Either::Left(((struck, ()), _)) => struck,
            Either::Right(_) => Ok(()),
        };
        // One that is closed already takes no other close, and needs none.
        let _ = self.socket.close(Some(NORMAL), Some(REASON));
        result
    }

    async fn strike(&self) -> Result<(), NotDone> {
        match self.way {
            Way::Event => {
                let event = self.event()?;
                self.app.queue(binding::EVENTS_QUEUE)?.send(event).await?;
                Ok(())
            }
            Way::Operator => apply(self.app, &self.order()).await.map(|_| ()),
        }
    }

    /// As the registry would publish it.
    fn event(&self) -> Result<String, NotDone> {
        let id = self.app.new_ulid().map_err(|error| NotDone(error.to_string()))?;
        let event = json!({
            "id": format!("{EVENT_PREFIX}{id}"),
            "type": "agent.auth.revoked",
            "version": "v1",
            "timestampUtc": iso_ms(self.app.now_ms()),
            "initiatedByAccountId": REASON,
            "data": {
                "agentId": self.agent.ulid(),
                "jti": self.jti,
                "reason": REASON,
                "metadata": { "agentDid": self.agent, "expiresAt": self.expires_at_ms },
            },
        });
        Ok(event.to_string())
    }

    fn order(&self) -> Order {
        Order {
            agent: Some(self.agent.clone()),
            revoke_agent: false,
            session_ended: false,
            tokens: vec![TokenRevocation {
                jti: self.jti,
                expires_at_ms: self.expires_at_ms,
            }],
            reason: Some(REASON.into()),
            source: Source::Operator,
            event_id: None,
            revoked_at_ms: self.app.now_ms(),
            told_at_ms: None,
            told_expiry_ms: Some(self.expires_at_ms),
            patience_ms: PATIENCE_MS,
        }
    }

    async fn look(&self, watch: &mut Watch, started_ms: u64, closed_at_ms: &Cell<Option<u64>>) {
        while let Some(pause_ms) = watch.next_look_ms(self.app.now_ms()) {
            clock::sleep_ms(pause_ms).await;
            if let Some(at_ms) = closed_at_ms.get() {
                watch.saw(Stage::Socket, at_ms);
            }
            if watch.awaits(Stage::Overlay) {
                // One that does not answer is asked again.
                let standing = trust::client::check(self.app, &self.agent, Some(self.jti)).await;
                if standing.is_ok_and(|standing| standing.revoked.is_some()) {
                    watch.saw(Stage::Overlay, self.app.now_ms());
                }
            }
            if watch.awaits(Stage::Feed) {
                match feed::told_of_canary(self.app, &self.agent).await {
                    Told::At(at_ms) if canary::is_of_this_run(at_ms, started_ms) => {
                        watch.saw(Stage::Feed, self.app.now_ms());
                    }
                    Told::At(_) | Told::No => {}
                    Told::Unknown => watch.leave_out_feed(),
                }
            }
        }
    }
}

fn has_feed(app: &App) -> bool {
    app.env.durable_object(binding::REVOCATION_FEED).is_ok()
}

async fn until_closed(mut events: impl Stream<Item = worker::Result<WebsocketEvent>> + Unpin) {
    while let Some(event) = events.next().await {
        if matches!(event, Ok(WebsocketEvent::Close(_))) {
            return;
        }
    }
}

fn report(app: &App, way: Way, watch: &Watch, error: Option<&NotDone>) {
    let times = watch.times();
    let mut fields = json!({
        "way": way.as_str(),
        "overlay_ms": times.overlay_ms,
        "socket_ms": times.socket_ms,
        "feed_ms": times.feed_ms,
    });
    app.log.info("proxy.canary", fields.clone());
    let (silent, slow) = watch.late();
    if silent.is_empty() && slow.is_empty() {
        return;
    }
    if let Some(fields) = fields.as_object_mut() {
        fields.insert("silent".into(), json!(silent));
        fields.insert("slow".into(), json!(slow));
        fields.insert("error".into(), json!(error.map(ToString::to_string)));
    }
    app.log.error("proxy.canary.alarm", fields);
}

fn failed(app: &App, error: &NotDone) {
    let fields = json!({ "error": error.to_string() });
    app.log.warn("proxy.canary.failed", fields);
}

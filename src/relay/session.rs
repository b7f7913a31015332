//! One agent's session awake: its queue, its socket, who waits for what; and the one way to touch it, `step`.
//!
//! A step is synchronous: what it reads, decides, writes and sends, no other event comes between. Its writes are
//! durable before the platform lets out what it sent (the object's output gate), so a row is always written before its
//! frame goes. Every step begins with what time has brought and ends by sending what may go, setting the alarm and
//! starting what has to be asked elsewhere; so nobody can forget to. A step that fails drops what is in memory: the
//! next one reads what is stored, and whoever waits looks there too.
//!
//! Not its job: which message may go (`core::relay_queue`).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use futures_channel::oneshot;
use serde_json::json;
use worker::{Env, ScheduledTime, State, WebSocket};

use super::enqueue::Turns;
use super::sockets::{OpenSocket, Underway};
use super::tables::Tables;
use crate::app::App;
use crate::core::relay_queue::outcome::DeliveryState;
use crate::core::relay_queue::rate::RateWindow;
use crate::core::relay_queue::socket::{Attachment, SocketTimes};
use crate::core::relay_queue::{Change, DeadReason, Place, QueueSettings, RelayQueue};
use crate::log::Log;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;

/// Bytes of payloads that may wait for one agent, whatever their number.
const MAX_QUEUED_BYTES: u64 = 128 * 1024 * 1024;
/// For how long a queue believes that a sender is not revoked: well under the second a revocation may take.
const SENDER_CHECK_MS: u64 = 500;
/// The pause before a sender is asked about again of whom nobody could tell anything.
const SENDER_RETRY_MS: u64 = 1_000;
/// An alarm that is this late is lost and set again.
const ALARM_LOST_AFTER_MS: u64 = 60_000;
/// Receipts that were being sent for so long are looked for again.
const OUTBOX_LOST_AFTER_MS: u64 = 10_000;
/// Outcomes are swept this long after they expired, so that one sweep takes many.
const SWEEP_SLACK_MS: u64 = 60_000;
/// `meta`: the agent whose session this is.
pub(super) const META_AGENT: &str = "agent";
/// `meta`: since when the agent is revoked, Unix milliseconds.
pub(super) const META_REVOKED: &str = "revoked";

/// Something of ours or of the platform's broke. For the log; callers get 500.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// One that is not the platform's.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<getrandom::Error> for Failure {
    fn from(error: getrandom::Error) -> Self {
        Self(error.to_string())
    }
}

/// The object, apart from its platform's methods.
pub struct Session {
    pub(super) state: State,
    env: Env,
    awake: RefCell<Option<Awake>>,
    alarm: Cell<Alarm>,
    /// What a revocation must find though it is no open socket.
    pub(super) underway: RefCell<Vec<Weak<Underway>>>,
    /// The order of `enqueue` frames.
    pub(super) turns: RefCell<Turns>,
    /// Receipts are being sent.
    pub(super) emptying_outbox: Cell<bool>,
    /// What came while nothing was stored here yet, and is not worth storing for itself.
    pub(super) unstored: Unstored,
}

/// See `Session::unstored`. Lost in an eviction: the first delivery asks the agent's trust object.
#[derive(Default)]
pub(super) struct Unstored {
    /// The agent was revoked.
    pub(super) revoked: Cell<bool>,
    /// How often its revocation was lifted.
    pub(super) lifts: Cell<u64>,
}

/// What is known of the object's one alarm.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alarm {
    /// Nothing: the object just woke.
    Unknown,
    /// None is set.
    Unset,
    /// It is set, Unix milliseconds.
    At(u64),
}

/// What is lost in an eviction and found again in SQL and the sockets' attachments.
pub struct Awake {
    pub(super) tables: Tables,
    pub(super) queue: RelayQueue,
    /// Whose session this is; nobody has told a new object.
    pub(super) agent: Option<AgentDid>,
    /// Whether that is in `meta`.
    agent_is_stored: bool,
    pub(super) revoked: bool,
    pub(super) socket: Option<OpenSocket>,
    /// Live messages by the id of their frame, and back.
    pub(super) frames: HashMap<Ulid, u64>,
    pub(super) frame_of: HashMap<u64, Ulid>,
    /// Who waits for a message to be no longer in flight.
    pub(super) waiting: HashMap<u64, Vec<oneshot::Sender<()>>>,
    /// `enqueue` frames, whatever socket they came on.
    pub(super) enqueued: RateWindow,
    /// Senders to ask about.
    pub(super) ask: Vec<AgentDid>,
    pub(super) outbox_due_ms: Option<u64>,
    sweep_due_ms: Option<u64>,
}

/// The surroundings of a step.
pub struct Moment {
    pub(super) app: App,
    /// Unix milliseconds: one time for the whole step.
    pub(super) now_ms: u64,
}

impl Moment {
    /// When an outcome made now is forgotten.
    pub(super) fn outcome_expires_at_ms(&self) -> u64 {
        self.now_ms.saturating_add(self.app.config.relay.ttl_ms)
    }

    pub(super) fn socket_times(&self) -> SocketTimes {
        let relay = &self.app.config.relay;
        SocketTimes {
            heartbeat_ms: relay.heartbeat_ms,
            silent_close_ms: relay.silent_close_ms,
        }
    }

    /// In [0, 1).
    pub(super) fn chance(&self) -> f64 {
        // Jitter: without randomness there is none, and nothing else is wrong.
        let bytes = self.app.random::<4>().unwrap_or([0x80, 0, 0, 0]);
        f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}

impl Session {
    /// Nothing is read before it is needed.
    pub fn new(state: State, env: Env) -> Self {
        Self {
            state,
            env,
            awake: RefCell::new(None),
            alarm: Cell::new(Alarm::Unknown),
            underway: RefCell::new(Vec::new()),
            turns: RefCell::new(Turns::default()),
            emptying_outbox: Cell::new(false),
            unstored: Unstored::default(),
        }
    }

    /// One synchronous step.
    pub fn step<R>(
        self: &Rc<Self>,
        act: impl FnOnce(&mut Awake, &Moment) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let app = self.app()?;
        let moment = Moment {
            now_ms: app.now_ms(),
            app,
        };
        let (result, ask, outbox) = {
            let mut slot = self
                .awake
                .try_borrow_mut()
                .map_err(|_| Failure::new("a step began while another was running"))?;
            // Taken out: where the step fails it is not put back.
            let mut awake = match slot.take() {
                Some(awake) => awake,
                None => self.wake(&moment)?,
            };
            awake.let_time_pass(&moment)?;
            let result = act(&mut awake, &moment)?;
            awake.drain(&moment)?;
            let ask = std::mem::take(&mut awake.ask);
            let outbox = awake.outbox_due_ms.is_some_and(|due_ms| due_ms <= moment.now_ms);
            self.arm(awake.due_ms(&moment), moment.now_ms);
            *slot = Some(awake);
            (result, ask, outbox)
        };
        if !ask.is_empty() {
            self.beside(self.clone().ask_about(ask));
        }
        if outbox && !self.emptying_outbox.get() {
            self.beside(self.clone().empty_outbox());
        }
        Ok(result)
    }

    /// Nothing was ever stored here: who only asks must not make it so, for anyone may ask about anyone.
    pub fn is_unused(&self) -> Result<bool, Failure> {
        let is_awake = self.awake.try_borrow().is_ok_and(|awake| awake.is_some());
        Ok(!is_awake && !Tables::exist(&self.state.storage().sql())?)
    }

    /// The platform fired the alarm: it is no longer set.
    pub fn alarm_fired(&self) {
        self.alarm.set(Alarm::Unset);
    }

    /// Runs beside whatever else happens to the object.
    pub fn beside(self: &Rc<Self>, work: impl Future<Output = Result<(), Failure>> + 'static) {
        self.state.wait_until(async move {
            if let Err(error) = work.await {
                log_failure(&error);
            }
        });
    }

    /// The settings and the log.
    pub fn app(&self) -> Result<App, Failure> {
        App::new(self.env.clone(), None).map_err(|_| Failure::new("the settings are not valid"))
    }

    fn wake(&self, moment: &Moment) -> Result<Awake, Failure> {
        let tables = Tables::open(self.state.storage().sql())?;
        let agent = tables
            .meta(META_AGENT)?
            .and_then(|text| AgentDid::parse(&text).ok());
        let socket = self.find_socket();
        let mut frames = HashMap::new();
        let mut frame_of = HashMap::new();
        let mut rows = Vec::new();
        for live in tables.live()? {
            frames.insert(live.deliver_id, live.row.seq);
            frame_of.insert(live.row.seq, live.deliver_id);
            let mut row = live.row;
            let on_this_socket = live.sent_on.is_some()
                && live.sent_on.as_deref() == socket.as_ref().map(|socket| socket.it.socket_id.as_str());
            let before_this_socket = socket
                .as_ref()
                .is_some_and(|socket| live.status_updated_at_ms <= socket.it.opened_at_ms);
            row.place = match row.place {
                // Sent on a socket that is gone.
                Place::InFlight { .. } if !on_this_socket => Place::Waiting { due_at_ms: 0 },
                // A new socket ends every pause that began before it.
                Place::Waiting { .. } if before_this_socket => Place::Waiting { due_at_ms: 0 },
                place => place,
            };
            rows.push(row);
        }
        let queue = RelayQueue::restore(
            queue_settings(&moment.app),
            rows,
            tables.next_seq()?,
            socket.is_some(),
        );
        Ok(Awake {
            agent_is_stored: agent.is_some(),
            agent: agent.or_else(|| socket.as_ref().map(|socket| socket.it.agent.clone())),
            revoked: tables.meta(META_REVOKED)?.is_some(),
            outbox_due_ms: tables.outbox_due_ms()?,
            sweep_due_ms: tables
                .first_expiry_ms()?
                .map(|first_ms| first_ms.saturating_add(SWEEP_SLACK_MS)),
            enqueued: RateWindow::default(),
            ask: Vec::new(),
            waiting: HashMap::new(),
            tables,
            queue,
            socket,
            frames,
            frame_of,
        })
    }

    /// The agent's open socket, by what its attachment says. At most one is not closed.
    fn find_socket(&self) -> Option<OpenSocket> {
        let open = self
            .state
            .get_websockets()
            .into_iter()
            .filter_map(|ws: WebSocket| {
                let it = super::sockets::attachment(&ws)?;
                (!it.closed).then_some(OpenSocket { ws, it })
            });
        open.max_by_key(|socket| socket.it.opened_at_ms)
    }

    /// Sets the one alarm, where it is not set for then or earlier.
    fn arm(self: &Rc<Self>, due_ms: Option<u64>, now_ms: u64) {
        let Some(due_ms) = due_ms else { return };
        match self.alarm.get() {
            Alarm::At(at_ms) if at_ms <= due_ms && now_ms < at_ms.saturating_add(ALARM_LOST_AFTER_MS) => {
                return;
            }
            Alarm::Unknown => {
                self.alarm.set(Alarm::At(due_ms));
                let session = self.clone();
                self.beside(async move {
                    let set = session.state.storage().get_alarm().await?;
                    let set_ms = set.and_then(|ms| u64::try_from(ms).ok());
                    match (set_ms, session.alarm.get()) {
                        // A step in between may have found something earlier still.
                        (Some(set_ms), Alarm::At(due_ms)) if set_ms <= due_ms => {
                            session.alarm.set(Alarm::At(set_ms));
                            Ok(())
                        }
                        (_, Alarm::At(due_ms)) => session.set_alarm(due_ms).await,
                        // It fired meanwhile, and the step it made set it.
                        (_, Alarm::Unknown | Alarm::Unset) => Ok(()),
                    }
                });
                return;
            }
            Alarm::At(_) | Alarm::Unset => {}
        }
        self.alarm.set(Alarm::At(due_ms));
        let session = self.clone();
        self.beside(async move { session.set_alarm(due_ms).await });
    }

    async fn set_alarm(&self, due_ms: u64) -> Result<(), Failure> {
        let at = js_sys::Date::new(&wasm_bindgen::JsValue::from_f64(due_ms as f64));
        let result = self.state.storage().set_alarm(ScheduledTime::new(at)).await;
        if result.is_err() {
            self.alarm.set(Alarm::Unknown);
        }
        Ok(result?)
    }
}

impl Awake {
    /// Remembers whose session this is.
    pub(super) fn belongs_to(&mut self, agent: &AgentDid) {
        if self.agent.is_none() {
            self.agent = Some(agent.clone());
        }
    }

    /// The same, past every eviction: an alarm has nobody to ask.
    pub(super) fn store_agent(&mut self) -> Result<(), Failure> {
        if let (false, Some(agent)) = (self.agent_is_stored, &self.agent) {
            self.tables.set_meta(META_AGENT, Some(agent.as_str()))?;
            self.agent_is_stored = true;
        }
        Ok(())
    }

    /// Writes what happened to messages, and tells who waits for them.
    pub(super) fn apply(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        moment: &Moment,
    ) -> Result<(), Failure> {
        for change in changes {
            let seq = match change {
                Change::Delivered { seq } => {
                    let expires_at_ms = moment.outcome_expires_at_ms();
                    self.tables
                        .finish(seq, DeliveryState::Delivered, None, moment.now_ms, expires_at_ms)?;
                    self.forget(seq, moment);
                    seq
                }
                Change::Requeued { seq, due_at_ms, .. } => {
                    self.tables.requeue(seq, due_at_ms, moment.now_ms)?;
                    seq
                }
                Change::CutOff { seq } => seq,
                Change::DeadLetter { seq, reason } => {
                    self.dead_letter(seq, reason, moment)?;
                    seq
                }
            };
            self.waiting.remove(&seq);
        }
        Ok(())
    }

    /// A message is no longer live: its frame's id names nothing any more, and its outcome is to be swept one day.
    pub(super) fn forget(&mut self, seq: u64, moment: &Moment) {
        if let Some(id) = self.frame_of.remove(&seq) {
            self.frames.remove(&id);
        }
        self.will_sweep(moment.outcome_expires_at_ms());
    }

    /// Something stored expires then.
    pub(super) fn will_sweep(&mut self, expires_at_ms: u64) {
        self.sweep_due_ms
            .get_or_insert(expires_at_ms.saturating_add(SWEEP_SLACK_MS));
    }

    fn dead_letter(&mut self, seq: u64, reason: DeadReason, moment: &Moment) -> Result<(), Failure> {
        let expires_at_ms = moment.outcome_expires_at_ms();
        let state = DeliveryState::DeadLettered;
        let kept = self
            .tables
            .finish(seq, state, Some(reason.as_str()), moment.now_ms, expires_at_ms)?;
        self.forget(seq, moment);
        if let Some(kept) = kept {
            self.tell_dead_letter(&kept, moment)?;
        }
        Ok(())
    }

    fn let_time_pass(&mut self, moment: &Moment) -> Result<(), Failure> {
        let changes = self.queue.tick(moment.now_ms, || moment.chance());
        self.apply(changes, moment)?;
        self.look_after_socket(moment)?;
        if self.sweep_due_ms.is_some_and(|due_ms| due_ms <= moment.now_ms) {
            let deliveries = self.tables.sweep(moment.now_ms)?;
            let receipts = self
                .tables
                .sweep_receipts(moment.now_ms, super::receipts::MAX_KEPT_RECEIPTS)?;
            let next = [deliveries, receipts].into_iter().flatten().min();
            // A batch that went whole is followed by the next at once; else many are left to expire together.
            let slack_ms = if next == Some(moment.now_ms) {
                0
            } else {
                SWEEP_SLACK_MS
            };
            self.sweep_due_ms = next.map(|next_ms| next_ms.saturating_add(slack_ms));
        }
        Ok(())
    }

    /// When the object has something to do next, Unix milliseconds.
    fn due_ms(&self, moment: &Moment) -> Option<u64> {
        let socket = self
            .socket
            .as_ref()
            .map(|socket| socket.it.next_due_ms(moment.socket_times()));
        let queue = self.queue.next_due_ms(moment.now_ms);
        // What is due in the outbox is started by this step; the alarm only finds out should that get lost.
        let outbox = self.outbox_due_ms.map(|due_ms| match due_ms > moment.now_ms {
            true => due_ms,
            false => moment.now_ms.saturating_add(OUTBOX_LOST_AFTER_MS),
        });
        [queue, socket, outbox, self.sweep_due_ms]
            .into_iter()
            .flatten()
            .min()
    }
}

fn queue_settings(app: &App) -> QueueSettings {
    let relay = &app.config.relay;
    QueueSettings {
        max_messages: relay.max_messages as usize,
        max_bytes: MAX_QUEUED_BYTES,
        max_in_flight: relay.max_in_flight as usize,
        max_attempts: relay.retry_max_attempts,
        retry_initial_ms: relay.retry_initial_ms,
        retry_max_ms: relay.retry_max_ms,
        retry_jitter_ratio: relay.retry_jitter_ratio,
        ack_timeout_ms: relay.ack_timeout_ms,
        sender_check_ms: SENDER_CHECK_MS,
        sender_retry_ms: SENDER_RETRY_MS,
    }
}

/// One line, and nothing of the message's.
pub fn log_failure(error: &Failure) {
    Log.error("proxy.relay.failed", json!({ "error": error.to_string() }));
}

/// What an attachment is to the platform: one string.
pub(super) fn attachment_text(it: &Attachment) -> String {
    serde_json::to_string(it).unwrap_or_default()
}

//! One agent's session, and the only way to touch it: `step`.
//!
//! A step is synchronous: no other event comes between what it reads, decides, writes and sends. Its writes are
//! durable before the platform lets out what it sent (the object's output gate), so a row is always written before
//! its frame goes.
//!
//! Every step begins with whatever time has made due. It ends by sending what may go, setting the alarm, and starting
//! what has to be asked elsewhere, so nobody can forget to. A step that fails drops what is in memory and closes the
//! socket, because nobody knows any longer what went out on it. The next step reads what is stored, and whoever waits
//! looks there too.
//!
//! Which message may go is decided by `core::relay_queue`.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use futures_channel::oneshot;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use worker::{Env, State};

use super::alarm::Alarm;
use super::awake::{Awake, Moment};
use super::failure::{Failure, log_failure};
use super::open_socket::{self, BROKEN, OpenSocket, Underway};
use super::tables::Tables;
use super::takeover::Earlier;
use super::turns::Turns;
use crate::app::App;
use crate::clock;
use crate::core::relay_queue::verdicts::Verdicts;
use crate::sql::Sql;

/// The object, apart from the platform's methods.
pub struct Session {
    pub(super) state: State,
    env: Env,
    /// What an earlier proxy kept for the agent.
    earlier: Earlier,
    awake: RefCell<Option<Awake>>,
    alarm: Rc<Alarm>,
    /// Settles when the alarm is set, or could not be.
    armed: RefCell<Shared<oneshot::Receiver<()>>>,
    /// What a revocation must find although it is not an open socket.
    pub(super) underway: RefCell<Vec<Weak<Underway>>>,
    /// The order of `enqueue` frames.
    pub(super) turns: RefCell<Turns>,
    /// To whom its frames may go.
    pub(super) verdicts: RefCell<Verdicts>,
    /// Whether receipts are being sent.
    pub(super) emptying_outbox: Cell<bool>,
    /// What arrived while nothing was stored here yet, and is not worth storing by itself.
    pub(super) unstored: Unstored,
}

/// See `Session::unstored`. An eviction loses it; the first delivery then asks the agent's trust object.
#[derive(Default)]
pub(super) struct Unstored {
    /// Whether the agent was revoked.
    pub(super) revoked: Cell<bool>,
    /// How often its revocation was lifted.
    pub(super) lifts: Cell<u64>,
}

impl Session {
    /// Reads nothing before it is needed.
    pub fn new(state: State, env: Env) -> Self {
        let (earlier, state) = Earlier::of(state);
        Self {
            earlier,
            alarm: Rc::new(Alarm::new(state.storage())),
            armed: RefCell::new(oneshot::channel().1.shared()),
            state,
            env,
            awake: RefCell::new(None),
            underway: RefCell::new(Vec::new()),
            turns: RefCell::new(Turns::default()),
            verdicts: RefCell::new(Verdicts::default()),
            emptying_outbox: Cell::new(false),
            unstored: Unstored::default(),
        }
    }

    /// Runs one synchronous step.
    pub fn step<R>(
        self: &Rc<Self>,
        act: impl FnOnce(&mut Awake, &Moment) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let app = self.app()?;
        let moment = Moment {
            now_ms: app.now_ms(),
            app,
        };
        let mut slot = self
            .awake
            .try_borrow_mut()
            .map_err(|_| Failure::new("a step began while another was running"))?;
        // Taken out: where the step fails it is not put back.
        let stepped = self.step_of(slot.take(), &moment, act);
        let (mut awake, result) = match stepped {
            Ok(stepped) => stepped,
            Err(error) => {
                self.close_all("failed");
                return Err(error);
            }
        };
        let ask = std::mem::take(&mut awake.ask);
        let outbox = awake.outbox_due_ms.is_some_and(|due_ms| due_ms <= moment.now_ms);
        let due_ms = awake.due_ms(moment.now_ms);
        *slot = Some(awake);
        drop(slot);
        if let Some(setting) = self.alarm.arm(due_ms, moment.now_ms) {
            let (done, armed) = oneshot::channel();
            *self.armed.borrow_mut() = armed.shared();
            self.beside(async move {
                let set = setting.await;
                drop(done);
                set
            });
        }
        for question in ask {
            self.beside(self.clone().ask_about(question));
        }
        if outbox && !self.emptying_outbox.get() {
            self.beside(self.clone().empty_outbox());
        }
        Ok(result)
    }

    fn step_of<R>(
        &self,
        awake: Option<Awake>,
        moment: &Moment,
        act: impl FnOnce(&mut Awake, &Moment) -> Result<R, Failure>,
    ) -> Result<(Awake, R), Failure> {
        let mut awake = match awake {
            Some(awake) => awake,
            None => self.wake(moment)?,
        };
        awake.let_time_pass(moment)?;
        let result = act(&mut awake, moment)?;
        awake.drain(moment)?;
        Ok((awake, result))
    }

    /// The alarm fired. A step does whatever is due and sets the next alarm.
    ///
    /// # Errors
    /// Not even the next alarm could be set, so the platform must call again.
    pub async fn alarm(self: &Rc<Self>) -> Result<(), Failure> {
        self.alarm.fired();
        if let Err(error) = self.step(|_, _| Ok(())) {
            log_failure(&error);
            return self.alarm.failed(clock::now_ms()).await;
        }
        Ok(())
    }

    /// Waits until the alarm is set that the steps so far need. A call is answered after that: otherwise the object could
    /// die in between, and what it has just stored would not be looked at in its time.
    pub async fn armed(&self) {
        let armed = self.armed.borrow().clone();
        let _ = armed.await;
    }

    /// Whether nothing was ever stored here. Read-only calls must not create storage: any caller can query any agent.
    pub fn is_unused(&self) -> Result<bool, Failure> {
        Ok(self.is_new()? && self.earlier.is_empty()?)
    }

    /// Whether nothing was ever stored here by this proxy, whatever an earlier one left.
    pub fn is_new(&self) -> Result<bool, Failure> {
        let is_awake = self.awake.try_borrow().is_ok_and(|awake| awake.is_some());
        Ok(!is_awake && !Tables::exist(&Sql::new(self.state.storage().sql()))?)
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

    /// Every socket that is open. There is at most one, except after a step that failed.
    pub(super) fn open_sockets(&self) -> impl Iterator<Item = OpenSocket> {
        self.state.get_websockets().into_iter().filter_map(|ws| {
            let it = open_socket::attachment(&ws)?;
            (!it.closed).then_some(OpenSocket { ws, it })
        })
    }

    fn wake(&self, moment: &Moment) -> Result<Awake, Failure> {
        let sql = Sql::new(self.state.storage().sql());
        let mut tables = Tables::open(sql, moment.app.config.relay.ttl_ms, moment.now_ms)?;
        self.earlier.take_over(&mut tables, moment)?;
        let socket = self.open_sockets().max_by_key(|socket| socket.it.opened_at_ms);
        Awake::restore(tables, socket, moment)
    }

    fn close_all(&self, reason: &str) {
        for socket in self.open_sockets() {
            socket.close(BROKEN, reason);
        }
    }
}

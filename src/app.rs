//! What every entry point needs: the bindings, the settings, the log and randomness.
//!
//! There is one [`App`] for each request, batch, alarm or scheduled run, and a clone is cheap. The settings are
//! parsed once for each isolate, because an isolate's variables never change. No decision is made here.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use serde_json::Value;
use worker::{Context, D1Database, Env, Queue, Stub};

use crate::clock;
use crate::config::{Config, Fault};
use crate::core::metrics::Noted;
use crate::log::{self, Log};
use crate::metrics;
use crate::objects::{self, Address, NoAnswer};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::random;

thread_local! {
    static CONFIG: OnceCell<Result<Rc<Config>, Rc<Vec<Fault>>>> = const { OnceCell::new() };
}

/// Names of the bindings (docs/wire.md §9).
pub mod binding {
    pub const DB: &str = "DB";
    /// `AgentRelaySession` objects.
    pub const AGENT_RELAY_SESSION: &str = "AGENT_RELAY_SESSION";
    /// `ProxyTrustState` objects.
    pub const PROXY_TRUST_STATE: &str = "PROXY_TRUST_STATE";
    /// The one `RevocationFeed` object; a deployment may lack it, and then has no stream.
    pub const REVOCATION_FEED: &str = "REVOCATION_FEED";
    /// Producer of the events queue.
    pub const EVENTS_QUEUE: &str = "EVENTS_QUEUE";
    /// Producer of the receipts queue.
    pub const RECEIPT_QUEUE: &str = "RECEIPT_QUEUE";
}

/// The surroundings of one request, batch, alarm or scheduled run.
#[derive(Clone)]
pub struct App {
    /// Bindings and variables.
    pub env: Env,
    /// The settings, checked.
    pub config: Rc<Config>,
    pub log: Log,
    /// Whether this one's successes are logged (`LOG_SUCCESS_SAMPLE_RATE`). Refusals and failures always are.
    logs_success: bool,
    /// For the data point of this request.
    noted: Rc<Cell<Noted>>,
    ctx: Option<Rc<Context>>,
}

impl App {
    /// Made at the start of every entry point. Durable Objects have no `ctx`.
    ///
    /// # Errors
    /// All faults of the settings.
    pub fn new(env: Env, ctx: Option<Context>) -> Result<Self, Rc<Vec<Fault>>> {
        metrics::find(&env);
        let config = CONFIG.with(|cell| cell.get_or_init(|| load(&env)).clone())?;
        let logs_success = is_sampled(config.log_success_sample_rate);
        Ok(Self {
            env,
            config,
            log: Log,
            logs_success,
            noted: Rc::default(),
            ctx: ctx.map(Rc::new),
        })
    }

    /// Unix time, milliseconds.
    pub fn now_ms(&self) -> u64 {
        clock::now_ms()
    }

    /// Random bytes from the platform's generator.
    ///
    /// # Errors
    /// The generator failed: the caller must refuse, never go on with zeros.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], getrandom::Error> {
        random::bytes()
    }

    /// A new ULID of this moment.
    ///
    /// # Errors
    /// As `random`.
    pub fn new_ulid(&self) -> Result<Ulid, getrandom::Error> {
        Ok(Ulid::from_parts(self.now_ms(), self.random()?))
    }

    /// Runs `future` after the answer; in a Durable Object beside it.
    pub fn wait_until(&self, future: impl Future<Output = ()> + 'static) {
        match &self.ctx {
            Some(ctx) => ctx.wait_until(future),
            None => wasm_bindgen_futures::spawn_local(future),
        }
    }

    /// Asks the trust object of this name.
    ///
    /// # Errors
    /// No answer.
    pub async fn call_trust(&self, limit_ms: u64, name: String, text: &str) -> Result<String, NoAnswer> {
        let address = Address {
            binding: binding::PROXY_TRUST_STATE,
            name,
        };
        objects::call(&self.env, limit_ms, &address, text).await
    }

    /// Asks the relay session of this agent.
    ///
    /// # Errors
    /// No answer.
    pub async fn call_relay(&self, limit_ms: u64, agent: &AgentDid, text: &str) -> Result<String, NoAnswer> {
        let address = Address {
            binding: binding::AGENT_RELAY_SESSION,
            name: agent.as_str().to_owned(),
        };
        objects::call(&self.env, limit_ms, &address, text).await
    }

    /// The relay session of this agent.
    ///
    /// # Errors
    /// The binding is missing.
    pub fn relay_object(&self, agent: &AgentDid) -> worker::Result<Stub> {
        self.object(binding::AGENT_RELAY_SESSION, agent.as_str())
    }

    /// The object of this name, for a request to it.
    ///
    /// # Errors
    /// The binding is missing.
    pub fn object(&self, binding: &'static str, name: &str) -> worker::Result<Stub> {
        self.env.durable_object(binding)?.get_by_name(name)
    }

    /// D1.
    ///
    /// # Errors
    /// The binding is missing.
    pub fn db(&self) -> worker::Result<D1Database> {
        self.env.d1(binding::DB)
    }

    /// A queue's producer.
    ///
    /// # Errors
    /// The binding is missing.
    pub fn queue(&self, name: &str) -> worker::Result<Queue> {
        self.env.queue(name)
    }

    /// What this request has shown of itself, for its data point.
    pub fn noted(&self) -> Noted {
        self.noted.get()
    }

    /// Notes more of it.
    pub fn note(&self, note: impl FnOnce(&mut Noted)) {
        let mut noted = self.noted.get();
        note(&mut noted);
        self.noted.set(noted);
    }

    /// Writes an `info` line about a request that went well, if this request is one of the sample.
    pub fn log_success(&self, message: &str, fields: impl FnOnce() -> Value) {
        if self.logs_success {
            self.log.info(message, fields());
        }
    }
}

fn load(env: &Env) -> Result<Rc<Config>, Rc<Vec<Fault>>> {
    let config = Config::parse(|name| variable(env, name)).map_err(Rc::new)?;
    log::set_least(config.log_level);
    Ok(Rc::new(config))
}

/// A variable's text. `X = 5` and `X = true` in a deployment's file come as JSON, not as text, and count all the same;
/// any other JSON is text that no setting takes, so that it is a fault and not overlooked.
fn variable(env: &Env, name: &str) -> Option<String> {
    let value = js_sys::Reflect::get(env, &name.into()).ok()?;
    if value.is_undefined() || value.is_null() {
        return None;
    }
    let text = value.as_string().or_else(|| {
        js_sys::JSON::stringify(&value)
            .ok()
            .and_then(|text| text.as_string())
    });
    Some(text.unwrap_or_else(|| "{}".to_owned()))
}

/// Whether one in so many is this one. Without randomness every one is.
fn is_sampled(rate: f64) -> bool {
    rate >= 1.0
        || random::bytes().map_or(true, |bytes| {
            f64::from(u32::from_le_bytes(bytes)) < rate * 4_294_967_296.0
        })
}

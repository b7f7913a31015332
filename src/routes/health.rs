//! `GET /health`: whether this deployment is able to do its work (docs/wire.md §5.2).
//!
//! The answer is always 200. `ready` is false in every state in which some route can only refuse, and
//! `readiness.problems` says which state that is and since when. Nothing secret is said.
//!
//! To know it, the isolate looks, once a second at most: one question to D1, one call to an object of each kind that
//! touches nothing there, and the keys and the CRL by the same way as a request, so that a registry that fails is left
//! alone. What is decided about that is in `core::health`.
//!
//! `?detail`, for the bearer of `ADMIN_TOKEN`, adds what the kill switch measured of itself in the last day. Without an
//! `ADMIN_TOKEN` there is no detail, and the query is ignored.

use std::cell::{OnceCell, RefCell};

use futures_util::future::join4;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::{Method, Request, RequestInit, Stub};

use crate::app::{App, binding};
use crate::canary;
use crate::clock;
use crate::config::CrlStaleBehavior;
use crate::core::budget::Budget;
use crate::core::canary::Way;
use crate::core::health::{Problem, TABLES, Watch};
use crate::error::ApiError;
use crate::http::{Head, Response, json_response};
use crate::protocol::ids::Ulid;
use crate::protocol::time::iso_ms;
use crate::registry;
use crate::routes::{admin, sign_in};
use crate::trust::d1::{self, Sql};

/// The name of the object of each kind that is looked at. No agent has it.
const LOOKED_AT: &str = "health";
/// Neither kind of object has such a path or such a body, and so answers without doing anything.
const LOOK_URL: &str = "https://object/health";

thread_local! {
    static WATCH: RefCell<Watch> = RefCell::default();
    static BINDINGS: OnceCell<Bindings> = const { OnceCell::new() };
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    ready: bool,
    version: &'a str,
    environment: &'static str,
    readiness: Readiness,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Value>,
}

/// Which bindings there are.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
struct Bindings {
    relay_session_namespace_configured: bool,
    trust_state_binding_configured: bool,
    database_binding_configured: bool,
    events_queue_binding_configured: bool,
    receipt_queue_binding_configured: bool,
}

impl Bindings {
    fn of(app: &App) -> Self {
        Self {
            relay_session_namespace_configured: app.env.durable_object(binding::AGENT_RELAY_SESSION).is_ok(),
            trust_state_binding_configured: app.env.durable_object(binding::PROXY_TRUST_STATE).is_ok(),
            database_binding_configured: app.db().is_ok(),
            events_queue_binding_configured: app.queue(binding::EVENTS_QUEUE).is_ok(),
            receipt_queue_binding_configured: app.queue(binding::RECEIPT_QUEUE).is_ok(),
        }
    }

    fn lack_one(self) -> bool {
        !(self.relay_session_namespace_configured
            && self.trust_state_binding_configured
            && self.database_binding_configured
            && self.events_queue_binding_configured
            && self.receipt_queue_binding_configured)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Readiness {
    registry_url_configured: bool,
    internal_service_credentials_configured: bool,
    #[serde(flatten)]
    bindings: Bindings,
    version_source: &'static str,
    /// `never`, `fresh`, `stale` or `dead`, in this isolate: a CRL that was never loaded is said, not hidden.
    crl: &'static str,
    problems: Vec<Said>,
}

#[derive(Serialize)]
struct Said {
    what: &'static str,
    since: String,
    effect: &'static str,
}

/// Answers 200; with `?detail` also 401 and 429 (`routes::sign_in`), or 503 if D1 does not answer.
pub async fn handle(app: &App, head: &Head) -> Result<Response, ApiError> {
    let detail = match &app.config.admin_token {
        Some(expected) if head.target.query_pairs().any(|(name, _)| name == "detail") => {
            sign_in::check(app, head, expected)?;
            Some(detail(app).await?)
        }
        _ => None,
    };
    let problems = problems(app).await;
    let readiness = readiness(app, &problems);
    let health = Health {
        status: "ok",
        ready: problems.is_empty(),
        version: &app.config.version,
        environment: app.config.environment.as_str(),
        readiness,
        detail,
    };
    json_response(200, &health)
}

/// What keeps this deployment from doing its work, and since when, Unix milliseconds. Looks, if that is due.
pub async fn problems(app: &App) -> Vec<(Problem, u64)> {
    let now_ms = app.now_ms();
    if WATCH.with_borrow(|watch| watch.is_due(now_ms)) {
        let found = look(app, bindings(app)).await;
        WATCH.with_borrow_mut(|watch| watch.looked(found, now_ms));
    }
    WATCH.with_borrow(|watch| watch.problems().to_vec())
}

/// A deployment's bindings do not change while an isolate lives.
fn bindings(app: &App) -> Bindings {
    BINDINGS.with(|found| *found.get_or_init(|| Bindings::of(app)))
}

fn readiness(app: &App, problems: &[(Problem, u64)]) -> Readiness {
    let said = |(problem, since_ms): &(Problem, u64)| Said {
        what: problem.as_str(),
        since: iso_ms(*since_ms),
        effect: problem.effect(),
    };
    Readiness {
        // The settings parsed, or this handler would not have been reached.
        registry_url_configured: true,
        internal_service_credentials_configured: true,
        bindings: bindings(app),
        version_source: app.config.version_source,
        crl: registry::crl::state(app),
        problems: problems.iter().map(said).collect(),
    }
}

async fn look(app: &App, bindings: Bindings) -> Vec<Problem> {
    let trust = async {
        let there = bindings.trust_state_binding_configured;
        !there || answers(app, app.object(binding::PROXY_TRUST_STATE, LOOKED_AT)).await
    };
    let relay = async {
        let there = bindings.relay_session_namespace_configured;
        !there || answers(app, app.object(binding::AGENT_RELAY_SESSION, LOOKED_AT)).await
    };
    let database = async {
        match bindings.database_binding_configured {
            true => look_at_database(app).await,
            false => None,
        }
    };
    let (trust_answers, relay_answers, database, registry) =
        join4(trust, relay, database, look_at_registry(app)).await;
    let found = [
        bindings.lack_one().then_some(Problem::BindingMissing),
        (!trust_answers).then_some(Problem::TrustStateUnreachable),
        (!relay_answers).then_some(Problem::RelaySessionUnreachable),
        database,
        registry,
    ];
    found.into_iter().flatten().collect()
}

/// Whether an object answers at all, whatever it says.
async fn answers(app: &App, stub: worker::Result<Stub>) -> bool {
    let answer = async {
        let mut init = RequestInit::new();
        init.with_method(Method::Post);
        let request = Request::new_with_init(LOOK_URL, &init)?;
        stub?.fetch_with_request(request).await
    };
    let answer = clock::within_ms(app.config.trust.state_timeout_ms, answer).await;
    answer.is_some_and(|answer| answer.is_ok())
}

async fn look_at_database(app: &App) -> Option<Problem> {
    #[derive(Deserialize)]
    struct Table {
        name: String,
    }
    let sql = Sql::new("SELECT name FROM sqlite_master WHERE type = 'table'", []);
    match d1::query::<Table>(app, app.config.trust.timeout_ms, sql).await {
        Err(_) => Some(Problem::DatabaseUnreachable),
        Ok(there) => {
            let is_there = |name: &&str| there.iter().any(|table| table.name == **name);
            let all = TABLES.iter().all(is_there);
            (!all).then_some(Problem::MigrationsMissing)
        }
    }
}

/// As a request would find them: keys first, and the CRL where a request cannot go on without one.
async fn look_at_registry(app: &App) -> Option<Problem> {
    let budget = Budget::new(app.now_ms(), app.config.registry.budget_ms);
    if registry::keys::active(app, &budget).await.is_err() {
        return Some(Problem::SigningKeysUnavailable);
    }
    if app.config.crl.stale_behavior == CrlStaleBehavior::FailOpen {
        return None;
    }
    let nobodys = Ulid::from_parts(0, [0; 10]);
    let listed = registry::crl::lists(app, &budget, &nobodys).await;
    listed.is_err().then_some(Problem::CrlUnavailable)
}

async fn detail(app: &App) -> Result<Value, ApiError> {
    let [event, operator] = canary::summary(app)
        .await
        .map_err(|error| admin::unavailable(app, &error))?;
    Ok(json!({
        "canary": {
            "intervalSeconds": app.config.canary_interval_ms / 1000,
            Way::Event.as_str(): event,
            Way::Operator.as_str(): operator,
        },
    }))
}

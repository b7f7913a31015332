//! From a request to its answer (docs/design.md §2).
//!
//! `serve` takes the whole way: request id, route, declared size of the body and per-address limit; then the gate
//! (`gate.rs`, steps 2 to 7) where the route's row asks for it, which also reads the body; then the handler. Every
//! answer leaves through it, with its `x-request-id`, one `request.completed` line and one data point. Every refusal is written by
//! `error_response`. There is one file for each route.

mod admin;
mod connect;
mod gate;
mod health;
mod message;
mod pair;
mod receipts;
mod recent;
mod sign_in;
mod time;

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;

use serde_json::json;
use wasm_bindgen::JsValue;
use web_sys::Request;
use worker::{Context, Env};

use crate::app::App;
use crate::clock;
use crate::config::Fault;
use crate::core::address::AddressLimit;
use crate::core::admission::Rate;
use crate::core::budget::Budget;
use crate::core::metrics::request as request_point;
use crate::core::router::{
    self, Access, AdminRoute, BodyLimit, ClawRoute, FeedRoute, Found, KnownAgent, OpenRoute, RouteSpec,
    SMALL_BODY_BYTES,
};
use crate::core::sign_in::bearer;
use crate::error::ApiError;
use crate::feed;
use crate::http::{self, Head, Headers, Response, Target, Unread};
use crate::log::Log;
use crate::metrics;
use crate::protocol::code;
use crate::protocol::ids::{RequestId, Ulid};
use crate::random;

/// Paths are cut to this length in log lines.
const MAX_LOGGED_PATH_CHARS: usize = 200;

thread_local! {
    static ADDRESS_LIMIT: RefCell<Option<AddressLimit>> = const { RefCell::new(None) };
}

/// Answers a request; never fails. `lines`: see [`Headers`].
pub async fn serve(lines: String, request: Request, env: Env, ctx: Context) -> JsValue {
    let started_ms = clock::now_ms();
    let (target, headers) = Headers::parse(lines);
    let method = headers.method().to_owned();
    let path: String = headers
        .logged_path()
        .chars()
        .take(MAX_LOGGED_PATH_CHARS)
        .collect();
    let mut served_by = None;
    let (request_id, outcome) = match request_id(&headers) {
        Ok(id) => {
            let outcome = match App::new(env, Some(ctx)) {
                Ok(app) => answer(served_by.insert(app), target, headers, request, &id).await,
                Err(faults) => Err(settings_fault(&faults)),
            };
            (id, outcome)
        }
        Err(_) => (
            Ulid::from_parts(started_ms, [0; 10]).into(),
            Err(http::internal()),
        ),
    };
    let (response, code) = match outcome {
        Ok(response) => (response, None),
        Err(error) => (
            http::error_response(&error, request_id.as_str()),
            Some(error.code.name),
        ),
    };
    let status = response.status_code();
    let response = match method.as_str() {
        "HEAD" => response.without_body(),
        _ => response,
    };
    let took_ms = clock::now_ms().saturating_sub(started_ms);
    let noted = served_by.as_ref().map(App::noted).unwrap_or_default();
    if let Some(app) = &served_by {
        recent::with(app, |recent, now_ms| recent.answered(status, now_ms));
    }
    metrics::write(|| Some(request_point(&noted, status, code, took_ms)));
    let response = response.with_header("x-request-id", request_id.as_str());
    let fields = || {
        let mut fields = json!({
            "requestId": request_id.as_str(),
            "method": method,
            "path": path,
            "status": status,
            "durationMs": took_ms,
        });
        if let (Some(code), Some(object)) = (code, fields.as_object_mut()) {
            object.insert("code".into(), code.into());
        }
        fields
    };
    match served_by {
        Some(app) if status < 400 => app.log_success("request.completed", fields),
        _ => Log.warn("request.completed", fields()),
    }
    response.into_runtime()
}

async fn answer(
    app: &App,
    target: Option<Target>,
    headers: Headers,
    request: Request,
    request_id: &RequestId,
) -> Result<Response, ApiError> {
    let target = target.ok_or_else(|| {
        let message = "The request's URL cannot be read: its Host is not a host, or its port is not a port.";
        ApiError::new(&code::PROXY_REQUEST_INVALID, message)
    })?;
    let spec = match router::find(&target.method, target.path(), app.config.admin_token.is_some()) {
        Found::Row(spec) => spec,
        Found::WrongMethod(allow) => {
            let error = ApiError::new(
                &code::PROXY_METHOD_NOT_ALLOWED,
                "This path does not accept this method.",
            );
            return Err(error.with_allow(allow));
        }
        Found::Nothing => return Err(ApiError::new(&code::PROXY_NOT_FOUND, "There is no such path.")),
    };
    app.note(|noted| noted.route = Some(spec.path));
    let limit = match spec.body {
        BodyLimit::Small => SMALL_BODY_BYTES,
        BodyLimit::Frame => app.config.relay.max_frame_bytes,
    };
    let unread = Unread::new(request, &headers, limit, spec.broken_body)?;
    if spec.public_limit {
        check_address(app, spec, headers.get("cf-connecting-ip"))?;
    }
    let head = Head {
        target,
        headers,
        request_id: request_id.clone(),
        budget: Budget::new(app.now_ms(), app.config.registry.budget_ms),
    };
    dispatch(app, spec, head, unread).await
}

/// The route's row says who may call its handler, and each kind of access has its own handlers: the operator's are reached
/// with the operator's token only, and whoever acts for a caller got one from the gate. The body is read once its sender is
/// known, and not at all where nobody needs it.
async fn dispatch(app: &App, spec: &RouteSpec, head: Head, unread: Unread) -> Result<Response, ApiError> {
    let (route, policy) = match spec.access {
        Access::Open(OpenRoute::Health) => return health::handle(app, &head).await,
        Access::Open(OpenRoute::Time) => return time::handle(app),
        Access::Admin(route) => return serve_admin(app, route, head, unread).await,
        Access::Page(route) => {
            let incoming = head.with_body(unread.read().await?);
            return admin::page::handle(app, route, incoming).await;
        }
        Access::Feed(route) => return serve_feed(app, route, head, unread).await,
        Access::Claw {
            route,
            known,
            access_token,
        } => (route, gate::policy(known, access_token, &head)),
    };
    let (admitted, incoming) = gate::admit(app, head, unread, policy, route.rate()).await?;
    let skew_s = admitted.skew_s;
    let caller = admitted.caller;
    let response = match route {
        ClawRoute::Message => message::handle(app, caller, incoming).await,
        ClawRoute::Connect => connect::handle(app, caller, incoming).await,
        ClawRoute::ReceiptsPost => receipts::post(app, caller, incoming).await,
        ClawRoute::ReceiptsGet => receipts::get(app, caller, incoming).await,
        ClawRoute::PairStart => pair::start(app, caller, incoming).await,
        ClawRoute::PairConfirm => pair::confirm(app, caller, incoming).await,
        ClawRoute::PairStatus => pair::status(app, caller, incoming).await,
        ClawRoute::PairRemove => pair::remove(app, caller, incoming).await,
    };
    gate::tell_skew(app, response, skew_s)
}

async fn serve_admin(app: &App, route: AdminRoute, head: Head, unread: Unread) -> Result<Response, ApiError> {
    let expected = app.config.admin_token.as_ref().ok_or_else(http::internal)?;
    sign_in::check(app, &head, expected)?;
    let incoming = head.with_body(unread.read().await?);
    match route {
        AdminRoute::Revoke => admin::revoke::handle(app, incoming).await,
        AdminRoute::List => admin::list::handle(app, incoming).await,
        AdminRoute::Lift => admin::lift::handle(app, incoming).await,
        AdminRoute::Reconcile => admin::reconcile::handle(app).await,
        AdminRoute::RefreshKeys => admin::keys::handle(app).await,
        AdminRoute::Import => admin::import::handle(app).await,
        AdminRoute::NewEpoch => admin::new_epoch::handle(app, incoming).await,
        AdminRoute::Status => admin::status::handle(app, incoming).await,
        AdminRoute::DeadLetters => admin::dead_letters::list(app, incoming).await,
        AdminRoute::DeadLetter => admin::dead_letters::show(app, incoming).await,
        AdminRoute::DeadLetterRetry => admin::dead_letters::retry(app, incoming).await,
        AdminRoute::DeadLetterDrop => admin::dead_letters::drop_letter(app, incoming).await,
    }
}

/// The feed is for the bearer of its token, where there is one, and for known agents.
async fn serve_feed(app: &App, route: FeedRoute, head: Head, unread: Unread) -> Result<Response, ApiError> {
    let presents_bearer = bearer(head.header("authorization")).is_some();
    let (admitted, incoming) = match &app.config.feed_token {
        Some(expected) if presents_bearer => {
            sign_in::check(app, &head, expected)?;
            (None, head.with_body(unread.read().await?))
        }
        _ => {
            let policy = gate::policy(KnownAgent::Needed, false, &head);
            let (admitted, incoming) = gate::admit(app, head, unread, policy, Rate::Requests).await?;
            (Some(admitted), incoming)
        }
    };
    let skew_s = admitted.as_ref().map_or(0, |admitted| admitted.skew_s);
    let caller = admitted.as_ref().map(|admitted| &admitted.caller);
    let response = match route {
        FeedRoute::Page => feed::page::handle(app, caller, incoming).await,
        FeedRoute::Bundle => feed::bundle::handle(app, caller, incoming).await,
        FeedRoute::Stream => feed::stream::handle(app, caller, incoming).await,
    };
    gate::tell_skew(app, response, skew_s)
}

fn check_address(app: &App, spec: &RouteSpec, address: Option<&str>) -> Result<(), ApiError> {
    let verdict = ADDRESS_LIMIT.with_borrow_mut(|limit| {
        let limit = limit.get_or_insert_with(|| {
            let capacity = NonZeroUsize::new(app.config.cache_max_entries).unwrap_or(NonZeroUsize::MIN);
            AddressLimit::new(app.config.rate.public_per_minute, capacity)
        });
        limit.check(spec.path, address, app.now_ms())
    });
    verdict.map_err(|retry_after_s| {
        app.log.warn(
            "proxy.rate_limit.exceeded",
            json!({ "limit": "address", "path": spec.path, "address": address }),
        );
        ApiError::new(
            &code::PROXY_PUBLIC_RATE_LIMIT_EXCEEDED,
            "Too many requests from this address.",
        )
        .with_retry_after(retry_after_s)
    })
}

fn settings_fault(faults: &Rc<Vec<Fault>>) -> ApiError {
    let mut fields = serde_json::Map::new();
    for fault in faults.iter() {
        let messages = fields.entry(fault.variable).or_insert_with(|| json!([]));
        if let Some(messages) = messages.as_array_mut() {
            messages.push(fault.message.clone().into());
        }
    }
    let details = json!({ "fieldErrors": fields });
    Log.error("proxy.config.invalid", details.clone());
    ApiError::new(
        &code::CONFIG_VALIDATION_FAILED,
        "The proxy's settings are not valid.",
    )
    .with_details(details)
}

/// The caller's request id where it is well-formed, else a new ULID (docs/wire.md §5, §6).
fn request_id(headers: &Headers) -> Result<RequestId, getrandom::Error> {
    let presented = headers.get("x-request-id");
    if let Some(id) = presented.and_then(|text| RequestId::parse(text).ok()) {
        return Ok(id);
    }
    Ok(Ulid::from_parts(clock::now_ms(), random::bytes()?).into())
}

//! `GET /admin`: the operator's page, for a browser (docs/operations.md).
//!
//! - It exists only if `ADMIN_TOKEN` is set. Signing in with it makes a session; every page but the sign-in asks for one.
//! - A form is taken only with its session's CSRF token, and the cookie is `SameSite=Strict`.
//! - Its policy allows no script at all, no inline style, no foreign origin and no frame.
//! - What a form asks for is done by the same code as the route of the API beside it. Then the browser is sent back to the
//!   overview (303), so that reloading repeats nothing.

use serde_json::{Value, json};
use worker::{Headers, Response, ResponseBuilder};

use super::{dead_letters, revoke};
use crate::app::{App, binding};
use crate::canary;
use crate::consumers::dead_letters::{self as letters, DeadLetter};
use crate::core::admin::{agent_query, number};
use crate::core::canary::{OfWay, Percentiles, Way};
use crate::core::feed::Place;
use crate::core::operator_page::html::{self, document, escape, form, hidden, table};
use crate::core::operator_page::problems::{Facts, Measured, problems};
use crate::core::operator_page::{Session, set_cookie};
use crate::core::router::PageRoute;
use crate::error::ApiError;
use crate::http::{self, Incoming};
use crate::protocol::did::AgentDid;
use crate::protocol::revocation::{Item, Source, Subject};
use crate::protocol::time::iso_ms;
use crate::registry;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply};
use crate::revocation::reconcile::reconcile;
use crate::revocation::{Lifted, lift};
use crate::routes::sign_in;
use crate::trust;
use crate::trust::ledger::{feed, reconciliation};

/// No script, no inline style, nothing from elsewhere, no frame around it.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
const SHOWN_ROWS: u64 = 20;
/// They are looked for among so many numbers: a day of the kill switch's measurements of itself takes fewer.
const SEARCHED_ROWS: u64 = 700;

/// What the overview says after a form was taken.
const DONE: [(&str, &str); 7] = [
    ("revoked", "Revoked, everywhere, within a second."),
    ("lifted", "Lifted. Every isolate follows within 30 seconds."),
    ("reconciled", "Reconciled with the registry's list."),
    (
        "partial",
        "Reconciled in part: there is more than one run does. Press Reconcile now again.",
    ),
    ("applied", "The dead letter was applied and is gone."),
    (
        "failed",
        "The dead letter failed again and is kept; its reason is in the list.",
    ),
    ("dropped", "The dead letter was dropped."),
];

/// Answers every route of the page.
pub async fn handle(app: &App, route: PageRoute, incoming: Incoming) -> Result<Response, ApiError> {
    let expected = app.config.admin_token.as_ref().ok_or_else(http::internal)?;
    if route == PageRoute::Style {
        return Ok(answer(
            200,
            "text/css; charset=utf-8",
            html::STYLE.to_owned(),
            None,
        ));
    }
    if route == PageRoute::SignIn {
        return sign_in_with(app, &incoming);
    }
    let header = incoming.header("cookie");
    let Some(session) = Session::of_header(header.as_deref(), expected.expose(), app.now_ms()) else {
        let reads = incoming.target.method == "GET" || incoming.target.is_head();
        let status = if reads { 200 } else { 401 };
        return Ok(sign_in_form(app, status, ""));
    };
    let done = match route {
        PageRoute::Overview => overview(app, &session, &incoming).await,
        PageRoute::Agent => agent_page(app, &session, &incoming).await,
        PageRoute::Letter => letter_page(app, &session, &incoming).await,
        PageRoute::AskLift => ask_lift(app, &session, &incoming).await,
        PageRoute::SignOut
        | PageRoute::Revoke
        | PageRoute::Lift
        | PageRoute::Reconcile
        | PageRoute::LetterAction => {
            if session.sent(field(&incoming, "csrf").as_deref()) {
                act(app, route, incoming).await
            } else {
                let message =
                    "This form is from another session. Open the page again and repeat what you did.";
                return Ok(page(app, 403, "Not done", &session, &paragraph(message)));
            }
        }
        PageRoute::Style | PageRoute::SignIn => Err(http::internal()),
    };
    Ok(done.unwrap_or_else(|error| {
        let main = paragraph(&error.message) + r#"<p><a href="/admin">Back to the overview</a></p>"#;
        page(app, error.code.status, "Not done", &session, &main)
    }))
}

fn sign_in_with(app: &App, incoming: &Incoming) -> Result<Response, ApiError> {
    let expected = app.config.admin_token.as_ref().ok_or_else(http::internal)?;
    let presented = field(incoming, "token").unwrap_or_default();
    let authorization = format!("Bearer {}", presented.trim());
    if let Err(error) = sign_in::check_presented(app, incoming, Some(&authorization), expected) {
        return Ok(sign_in_form(app, error.code.status, &error.message));
    }
    let random = app.random().map_err(|_| http::internal())?;
    let session = Session::new(expected.expose(), app.now_ms(), random);
    let secure = incoming.target.url.scheme() == "https";
    Ok(back("/admin", Some(set_cookie(Some(&session), secure))))
}

fn sign_in_form(app: &App, status: u16, fault: &str) -> Response {
    let fault = match fault {
        "" => String::new(),
        fault => format!(
            r#"<div class="problem" role="alert"><p>{}</p></div>"#,
            escape(fault)
        ),
    };
    let token = html::field(
        "token",
        "token",
        "Admin token",
        r#"type="password" autocomplete="current-password" required"#,
    );
    let main = format!(
        r#"{fault}<form class="full" method="post" action="/admin/sign-in">{token}<button>Sign in</button></form>"#
    );
    let body = document("Sign in", app.config.environment.as_str(), None, &main);
    answer(status, "text/html; charset=utf-8", body, None)
}

/// The first screen: what is wrong and what to do, then how everything stands, then what can be done.
async fn overview(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let unavailable = |error: trust::DbError| super::unavailable(app, &error);
    let latest = feed::head(app).await.map_err(unavailable)?.latest;
    let recent = feed::page(
        app,
        &Place {
            since: latest.saturating_sub(SEARCHED_ROWS),
            epoch: None,
        },
        SEARCHED_ROWS,
    )
    .await
    .map_err(unavailable)?;
    let reconciled = reconciliation::load(app).await.map_err(unavailable)?;
    let lags_ms = feed::lags_of_the_last_hour(app).await.map_err(unavailable)?;
    let count = letters::count(app).await.map_err(unavailable)?;
    let kept = letters::page(app, 0, SHOWN_ROWS).await.map_err(unavailable)?;
    let measured = canary::summary(app).await.map_err(unavailable)?;
    let bound = |there: bool, name| (!there).then_some(name);
    let missing = [
        bound(app.queue(binding::EVENTS_QUEUE).is_ok(), binding::EVENTS_QUEUE),
        bound(app.queue(binding::RECEIPT_QUEUE).is_ok(), binding::RECEIPT_QUEUE),
        bound(
            app.env.durable_object(binding::REVOCATION_FEED).is_ok(),
            binding::REVOCATION_FEED,
        ),
    ];
    let facts = Facts {
        crl: registry::crl::state(app),
        reconciled_at_ms: reconciled.finished_at_ms,
        dead_letters: count.total,
        dead_revocations: count.revocations,
        lags_ms,
        measured: Way::ALL
            .into_iter()
            .zip(&measured)
            .filter_map(last_measured)
            .collect(),
        missing: missing.into_iter().flatten().collect(),
        now_ms: app.now_ms(),
    };
    let csrf = &session.csrf;
    let mut main = said(incoming) + &verdict(&facts);
    main += "<h2>State</h2>";
    main += &html::facts(&[
        ("Version", app.config.version.clone()),
        ("Time", iso_ms(facts.now_ms)),
        ("Registry's list, in this isolate", facts.crl.to_owned()),
        (
            "Last whole reconciliation",
            facts.reconciled_at_ms.map_or_else(|| "never".to_owned(), iso_ms),
        ),
        ("Entries of that list", reconciled.listed.to_string()),
        ("Ledger's latest number", latest.to_string()),
        ("Dead letters", count.total.to_string()),
    ]);
    main += &form("/admin/reconcile", csrf, "", "Reconcile now");
    main += &html::plot("Kill switch, event to record", &facts.lags_ms, 1000);
    main += "<h2>The kill switch, measured by itself</h2>";
    let rows: Vec<Vec<String>> = Way::ALL
        .into_iter()
        .zip(&measured)
        .filter_map(canary_row)
        .collect();
    let heads = ["Way in", "Last", "Took", "Overlay", "Socket", "Runs, and silent"];
    main += &table(
        "The last day: half of the runs, and 99 of 100, took no longer",
        &heads,
        &rows,
        "It was not measured in the last day.",
    );
    main += "<h2>Revoke</h2>";
    main += &revoke_form(csrf, "");
    main += "<h2>Look at an agent</h2>";
    main += &format!(
        r#"<form class="full" method="get" action="/admin/agents">{}<button>Show</button></form>"#,
        html::field("shown-agent", "agentDid", "Agent's DID", "required")
    );
    main += "<h2>Latest revocations</h2>";
    let rows: Vec<Vec<String>> = recent
        .items
        .iter()
        .rev()
        .take(SHOWN_ROWS as usize)
        .map(ledger_row)
        .collect();
    let heads = ["Number", "Kind", "Whom", "When", "Source", "Reason", "Action"];
    main += &table(
        "The latest rows of the ledger",
        &heads,
        &rows,
        "Nothing was ever revoked here.",
    );
    main += "<h2>Dead letters</h2>";
    let rows: Vec<Vec<String>> = kept.iter().map(letter_row).collect();
    let heads = ["Number", "Since", "Type", "Whom", "Reason"];
    main += &table(
        "Messages that could not be applied",
        &heads,
        &rows,
        "There are none.",
    );
    Ok(page(app, 200, "Overview", session, &main))
}

fn last_measured((way, of): (Way, &OfWay)) -> Option<Measured> {
    of.last_at_ms.map(|_| Measured {
        way: way.as_str(),
        took_ms: of.last_ms.filter(|_| !of.last_was_silent),
    })
}

fn canary_row((way, of): (Way, &OfWay)) -> Option<Vec<String>> {
    let both = |times: Option<Percentiles>| {
        times.map_or_else(
            || "not seen".to_owned(),
            |times| format!("{} ms, {} ms", times.p50_ms, times.p99_ms),
        )
    };
    let last = last_measured((way, of))?;
    Some(vec![
        match way {
            Way::Event => "an event on the queue",
            Way::Operator => "an operator's order",
        }
        .to_owned(),
        iso_ms(of.last_at_ms?),
        last.took_ms
            .map_or_else(|| "not seen".to_owned(), |took_ms| format!("{took_ms} ms")),
        both(of.overlay),
        both(of.socket),
        format!("{}, {}", of.runs, of.silent),
    ])
}

fn verdict(facts: &Facts) -> String {
    let found = problems(facts);
    if found.is_empty() {
        return r#"<p class="well">All is well.</p>"#.to_owned();
    }
    let each = found.iter().map(|problem| {
        format!(
            r#"<div class="problem"><p><strong>{}</strong></p><p>{}</p></div>"#,
            escape(&problem.what),
            escape(problem.to_do)
        )
    });
    each.collect()
}

/// What was just done, by a word of ours in the query.
fn said(incoming: &Incoming) -> String {
    let word = query(incoming, "done");
    let text = DONE.iter().find(|(each, _)| word.as_deref() == Some(each));
    text.map_or_else(String::new, |(_, text)| {
        format!(r#"<p role="status" class="well">{}</p>"#, escape(text))
    })
}

fn revoke_form(csrf: &str, agent: &str) -> String {
    let fields = html::field(
        "revoked-agent",
        "agentDid",
        "Agent's DID",
        &format!("required value=\"{}\"", escape(agent)),
    ) + &html::field(
        "reason",
        "reason",
        "Reason, for those who read the ledger",
        "maxlength=\"280\"",
    );
    form("/admin/revoke", csrf, &fields, "Revoke this agent").replace("<form ", r#"<form class="full" "#)
}

fn ledger_row(item: &Item) -> Vec<String> {
    let whom = match (item.subject.agent(), item.subject.jti()) {
        (Some(agent), Some(jti)) => agent_link(agent) + "<br>" + &escape(&jti.to_string()),
        (Some(agent), None) => agent_link(agent),
        (None, Some(jti)) => escape(&jti.to_string()),
        (None, None) => String::new(),
    };
    let action = match item.subject {
        Subject::Lift { lifts, .. } => format!("lifts {lifts}"),
        Subject::Session { .. } => String::new(),
        _ => format!(r#"<a href="/admin/lift?seq={0}">Lift {0}</a>"#, item.seq),
    };
    vec![
        item.seq.to_string(),
        escape(item.subject.kind()),
        whom,
        iso_ms(item.revoked_at_ms),
        escape(item.source.as_str()),
        escape(item.reason.as_deref().unwrap_or("")),
        action,
    ]
}

/// A DID needs no escaping in a query (RFC 3986 §3.4).
fn agent_link(agent: &AgentDid) -> String {
    let agent = escape(agent.as_str());
    format!(r#"<a href="/admin/agents?agentDid={agent}">{agent}</a>"#)
}

fn letter_row(letter: &DeadLetter) -> Vec<String> {
    vec![
        format!(r#"<a href="/admin/dead-letters?id={0}">{0}</a>"#, letter.id),
        escape(&letter.dead_lettered_at),
        escape(letter.kind.as_deref().unwrap_or("unknown")),
        escape(letter.subject.as_deref().unwrap_or("")),
        escape(&letter.reason),
    ]
}

/// An agent: its standing, its queue, its sockets, its clock.
async fn agent_page(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let issuer = &app.config.registry.expected_issuer;
    let authority = issuer.authority().map_err(|_| http::internal())?;
    let agent =
        agent_query(incoming.target.url.query_pairs(), authority.as_str()).map_err(super::bad_input)?;
    let agent = agent.ok_or_else(|| super::bad_input("agentDid is missing"))?;
    let standing = trust::client::check(app, &agent, None).await;
    let standing = standing.map_err(|error| super::unavailable(app, &error))?;
    let relay = relay::client::call(app, &agent, RelayCall::Inspect).await;
    let relay = match relay.map_err(|error| super::unavailable(app, &error))? {
        RelayReply::Status(status) => status,
        _ => return Err(http::internal()),
    };
    let row = feed::of_agent(app, &agent).await;
    let row = row.map_err(|error| super::unavailable(app, &error))?;
    let clock = standing.worst_skew.map_or_else(
        || "on time".to_owned(),
        |worst| format!("{} s off at {}", worst.skew_s, iso_ms(worst.at_ms)),
    );
    let oldest = relay.oldest_age_ms;
    let mut main = html::facts(&[
        (
            "Standing",
            if standing.revoked.is_some() {
                "revoked"
            } else {
                "not revoked"
            }
            .to_owned(),
        ),
        ("Open sockets", relay.connected_sockets.to_string()),
        ("Messages waiting", relay.queue_depth.to_string()),
        ("Of those, in flight", relay.in_flight.to_string()),
        (
            "Oldest message",
            oldest.map_or_else(|| "none".to_owned(), |age_ms| format!("{} s", age_ms / 1000)),
        ),
        ("Clock, last hour", clock),
    ]);
    main += &match row {
        Some(item) => format!(
            r#"<p>Revoked by number {0}: {1}. <a href="/admin/lift?seq={0}">Lift {0}</a></p>"#,
            item.seq,
            escape(item.reason.as_deref().unwrap_or("no reason given"))
        ),
        None => revoke_form(&session.csrf, agent.as_str()),
    };
    Ok(page(app, 200, agent.as_str(), session, &main))
}

async fn letter_page(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let id = id_of(query(incoming, "id"))?;
    let letter = letters::one(app, id).await;
    let letter = letter.map_err(|error| super::unavailable(app, &error))?;
    let letter = letter.ok_or_else(dead_letters::not_found)?;
    let action = |name: &str, button: &str| {
        let fields = hidden("id", &id.to_string()) + &hidden("action", name);
        form("/admin/dead-letters", &session.csrf, &fields, button)
    };
    let main = html::facts(&[
        ("Queue", letter.queue.clone()),
        ("Message", letter.message_id.clone()),
        (
            "Type",
            letter.kind.clone().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("Whom", letter.subject.clone().unwrap_or_default()),
        ("Since", letter.dead_lettered_at.clone()),
        ("Reason", letter.reason.clone()),
    ]) + "<h2>Body</h2><pre>"
        + &escape(letter.body.as_deref().unwrap_or(""))
        + "</pre>"
        + &action("retry", "Retry: apply it now")
        + &action("drop", "Drop it for good");
    Ok(page(app, 200, &format!("Dead letter {id}"), session, &main))
}

/// Says what a lift will do before it is done.
async fn ask_lift(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let seq = id_of(query(incoming, "seq"))?;
    let found = feed::page(
        app,
        &Place {
            since: seq.saturating_sub(1),
            epoch: None,
        },
        1,
    )
    .await;
    let found = found.map_err(|error| super::unavailable(app, &error))?;
    let item = found.items.into_iter().find(|item| item.seq == seq);
    let item = item.ok_or_else(|| super::bad_input("the ledger has no such number"))?;
    let whom = match (item.subject.agent(), item.subject.jti()) {
        (Some(agent), None) => format!(
            "The agent {agent} will be admitted again, with the tokens that were revoked by the same event"
        ),
        (_, Some(jti)) => format!("The token {jti} will be admitted again"),
        (None, None) => return Err(super::bad_input("this number cannot be lifted")),
    };
    let registry = item.source != Source::Operator;
    let mut main = paragraph(&format!(
        "{whom}. Every isolate follows within 30 seconds. Mail that was dead-lettered does not come back."
    ));
    let mut fields = hidden("seq", &seq.to_string());
    if registry {
        main += r#"<div class="problem"><p>The registry said this. A lift here stays until the registry says it again in a new event.</p></div>"#;
        fields += r#"<p class="line"><input id="force" name="force" type="checkbox" value="true" required> <label for="force">Lift it against the registry's word</label></p>"#;
    }
    main += &form("/admin/lift", &session.csrf, &fields, &format!("Lift {seq}"));
    main += r#"<p><a href="/admin">Back, without lifting</a></p>"#;
    Ok(page(app, 200, &format!("Lift {seq}?"), session, &main))
}

/// Does what a form asks for.
async fn act(app: &App, route: PageRoute, incoming: Incoming) -> Result<Response, ApiError> {
    let done = match route {
        PageRoute::Revoke => {
            let text = |name| {
                field(&incoming, name)
                    .map(|value| value.trim().to_owned())
                    .filter(|value| !value.is_empty())
            };
            let mut order = json!({ "kind": "agent", "agentDid": text("agentDid").unwrap_or_default() });
            if let (Some(reason), Some(order)) = (text("reason"), order.as_object_mut()) {
                order.insert("reason".into(), Value::String(reason));
            }
            let body = order.to_string().into_bytes();
            revoke::handle(app, Incoming { body, ..incoming }).await?;
            "revoked"
        }
        PageRoute::Lift => {
            let seq = id_of(field(&incoming, "seq"))?;
            let force = field(&incoming, "force").is_some();
            let lifted = lift(app, seq, force, None).await;
            match lifted.map_err(|error| super::unavailable(app, &error))? {
                Lifted::Now(_) | Lifted::Before(_) => "lifted",
                Lifted::NeedsForce(_) => {
                    return Err(super::bad_input(
                        "the registry revoked this: confirm that you lift it nevertheless",
                    ));
                }
                Lifted::IsALift | Lifted::NoSuchRow => {
                    return Err(super::bad_input("this number cannot be lifted"));
                }
            }
        }
        PageRoute::Reconcile => {
            let report = reconcile(app)
                .await
                .map_err(|error| super::unavailable(app, &error))?;
            let report = serde_json::to_value(report).unwrap_or_default();
            if report.get("outcome").and_then(Value::as_str) == Some("partial") {
                "partial"
            } else {
                "reconciled"
            }
        }
        PageRoute::LetterAction => {
            let id = id_of(field(&incoming, "id"))?;
            let unavailable = |error: trust::DbError| super::unavailable(app, &error);
            if field(&incoming, "action").as_deref() == Some("drop") {
                letters::drop_letter(app, id).await.map_err(unavailable)?;
                app.log.warn(
                    "proxy.dead_letter.dropped",
                    json!({ "requestId": incoming.request_id.as_str(), "id": id }),
                );
                "dropped"
            } else {
                match letters::retry(app, id)
                    .await
                    .map_err(unavailable)?
                    .ok_or_else(dead_letters::not_found)?
                {
                    letters::Retried::Failed { .. } => "failed",
                    _ => "applied",
                }
            }
        }
        _ => {
            let secure = incoming.target.url.scheme() == "https";
            return Ok(back("/admin", Some(set_cookie(None, secure))));
        }
    };
    Ok(back(&format!("/admin?done={done}"), None))
}

fn id_of(text: Option<String>) -> Result<u64, ApiError> {
    text.as_deref()
        .and_then(number)
        .ok_or_else(|| super::bad_input("a number is missing"))
}

fn query(incoming: &Incoming, name: &str) -> Option<String> {
    let mut pairs = incoming.target.url.query_pairs();
    pairs
        .find(|(each, _)| each == name)
        .map(|(_, value)| value.into_owned())
}

/// A field of the form in the body.
fn field(incoming: &Incoming, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(&incoming.body);
    pairs
        .find(|(each, _)| each == name)
        .map(|(_, value)| value.into_owned())
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", escape(text))
}

fn page(app: &App, status: u16, title: &str, session: &Session, main: &str) -> Response {
    let environment = app.config.environment.as_str();
    let body = document(title, environment, Some(&session.csrf), main);
    answer(status, "text/html; charset=utf-8", body, None)
}

fn back(to: &str, cookie: Option<String>) -> Response {
    let mut headers = vec![("location", to.to_owned())];
    headers.extend(cookie.map(|cookie| ("set-cookie", cookie)));
    answer(303, "text/html; charset=utf-8", String::new(), Some(headers))
}

fn answer(status: u16, kind: &str, body: String, more: Option<Vec<(&str, String)>>) -> Response {
    let headers = Headers::new();
    let fixed = [
        ("content-type", kind),
        ("content-security-policy", POLICY),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ];
    // Names and values are ours and well-formed: there is nothing to do about a failure.
    for (name, value) in fixed {
        let _ = headers.set(name, value);
    }
    for (name, value) in more.into_iter().flatten() {
        let _ = headers.set(name, &value);
    }
    ResponseBuilder::new()
        .with_status(status)
        .with_headers(headers)
        .fixed(body.into_bytes())
}

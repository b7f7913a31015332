//! `GET /admin`: the operator's page, for a browser (docs/operations.md).
//!
//! - It exists only if `ADMIN_TOKEN` is set. Signing in with it makes a session; every page but the sign-in asks for one.
//! - A form is taken only with its session's CSRF token, and the cookie is `SameSite=Strict`.
//! - Its policy allows no script at all, no inline style, no foreign origin and no frame.
//! - What a form asks for is done by the same code as the route of the API beside it (`actions`). Then the browser is sent
//!   back to the overview (303), so that reloading repeats nothing.
//!
//! `overview` is the first screen; `agent`, `letter` and `lift` are a page each.

mod actions;
mod agent;
mod letter;
mod lift;
mod overview;

use crate::app::App;
use crate::core::admin::number;
use crate::core::operator_page::html::{self, document, escape, form};
use crate::core::operator_page::{Session, set_cookie};
use crate::core::router::PageRoute;
use crate::error::ApiError;
use crate::http::{self, Incoming, Response};
use crate::protocol::did::AgentDid;
use crate::routes::sign_in;

/// No script, no inline style, nothing from elsewhere, no frame around it.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

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
    let Some(session) = Session::of_header(header, expected.expose(), app.now_ms()) else {
        let reads = incoming.target.method == "GET" || incoming.target.is_head();
        let status = if reads { 200 } else { 401 };
        return Ok(sign_in_form(app, status, ""));
    };
    let done = match route {
        PageRoute::Overview => overview::show(app, &session, &incoming).await,
        PageRoute::Agent => agent::show(app, &session, &incoming).await,
        PageRoute::Letter => letter::show(app, &session, &incoming).await,
        PageRoute::AskLift => lift::ask(app, &session, &incoming).await,
        PageRoute::SignOut
        | PageRoute::Revoke
        | PageRoute::Lift
        | PageRoute::Reconcile
        | PageRoute::RefreshKeys
        | PageRoute::LetterAction => {
            if session.sent(field(&incoming, "csrf").as_deref()) {
                actions::act(app, route, incoming).await
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
    let secure = incoming.target.is_https();
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

/// A DID needs no escaping in a query (RFC 3986 §3.4).
fn agent_link(agent: &AgentDid) -> String {
    let agent = escape(agent.as_str());
    format!(r#"<a href="/admin/agents?agentDid={agent}">{agent}</a>"#)
}

/// A time that has passed, for people.
fn age(age_ms: u64) -> String {
    match age_ms / 1000 {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

fn id_of(text: Option<String>) -> Result<u64, ApiError> {
    text.as_deref()
        .and_then(number)
        .ok_or_else(|| super::bad_input("a number is missing"))
}

fn query(incoming: &Incoming, name: &str) -> Option<String> {
    let mut pairs = incoming.target.query_pairs();
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

fn answer(status: u16, kind: &str, body: String, more: Option<Vec<(&'static str, String)>>) -> Response {
    let fixed = [
        ("content-type", kind),
        ("content-security-policy", POLICY),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ];
    let mut response = Response::new(status, body.into_bytes());
    for (name, value) in fixed {
        response = response.with_header(name, value);
    }
    for (name, value) in more.into_iter().flatten() {
        response = response.with_header(name, value);
    }
    if status == 401 {
        // RFC 9110 §11.6.1 asks for a challenge. Browsers do nothing on this one.
        response = response.with_header("www-authenticate", "Bearer");
    }
    response
}

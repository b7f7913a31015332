//! The route table: docs/wire.md §5 and docs/wire.md §10 as data.
//!
//! A row says everything that happens to a request before its handler: who may call (`Access`), how large its body
//! may be, whether the per-address limit applies, and which code a body gets that cannot be read. The dispatcher
//! obeys the row, so nothing reaches a handler around it. Because the table is data, tests can go through all of it.

use crate::admission::Rate;
use clawdentity_protocol::code::{self, Code};

/// The handlers that anyone may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenRoute {
    Health,
    Time,
}

/// The handlers that act for a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClawRoute {
    Message,
    Connect,
    ReceiptsPost,
    ReceiptsGet,
    PairStart,
    PairConfirm,
    PairStatus,
    PairRemove,
}

impl ClawRoute {
    /// What a request counts against. Receipts have a rate of their own, so that they never keep an agent from
    /// connecting (docs/wire.md §8).
    pub fn rate(self) -> Rate {
        match self {
            Self::ReceiptsPost | Self::ReceiptsGet => Rate::Receipts,
            _ => Rate::Requests,
        }
    }
}

/// The handlers of the revocation feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedRoute {
    Page,
    Bundle,
    Stream,
}

/// The handlers for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminRoute {
    Revoke,
    List,
    Lift,
    Reconcile,
    RefreshKeys,
    Import,
    NewEpoch,
    Status,
    DeadLetters,
    DeadLetter,
    DeadLetterRetry,
    DeadLetterDrop,
}

/// The operator's page, for a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageRoute {
    Overview,
    Agent,
    Letter,
    AskLift,
    Style,
    SignIn,
    SignOut,
    Revoke,
    Lift,
    Reconcile,
    RefreshKeys,
    LetterAction,
}

/// Whether the caller must be a known agent (step 6 of docs/design.md §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownAgent {
    /// Anyone whose identity holds.
    NotNeeded,
    /// An agent with a pair here.
    Needed,
    /// An agent with a pair here; membership of the group named by `x-claw-group-id` stands in for it.
    NeededUnlessGroup,
}

/// Who may call which handler: no handler can be reached by anyone else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open(OpenRoute),
    /// A caller that passed steps 2 to 7 of docs/design.md §2.
    Claw {
        route: ClawRoute,
        /// Step 6.
        known: KnownAgent,
        /// Step 7: a session access token is needed.
        access_token: bool,
    },
    /// The bearer of `FEED_TOKEN`, or a known agent.
    Feed(FeedRoute),
    /// The bearer of `ADMIN_TOKEN`. Without that setting the route does not exist.
    Admin(AdminRoute),
    /// A browser with the session of a bearer of `ADMIN_TOKEN`, or on its way to one. Without that setting the route does
    /// not exist.
    Page(PageRoute),
}

/// How large a body may be (docs/wire.md §8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLimit {
    /// `SMALL_BODY_BYTES`.
    Small,
    /// `RELAY_MAX_FRAME_BYTES`.
    Frame,
}

/// Limit of every body but a hook's.
pub const SMALL_BODY_BYTES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug)]
pub struct RouteSpec {
    /// Upper case.
    pub method: &'static str,
    /// The whole path; compared exactly, but that `{…}` stands for any one segment.
    pub path: &'static str,
    /// Who may call.
    pub access: Access,
    /// How large its body may be.
    pub body: BodyLimit,
    /// The per-address limit stands before it.
    pub public_limit: bool,
    /// The code of a body that breaks off.
    pub broken_body: &'static Code,
}

const fn claw(route: ClawRoute) -> Access {
    Access::Claw {
        route,
        known: KnownAgent::NotNeeded,
        access_token: false,
    }
}

const fn claw_with_token(route: ClawRoute) -> Access {
    Access::Claw {
        route,
        known: KnownAgent::NotNeeded,
        access_token: true,
    }
}

const fn row(
    access: Access,
    method: &'static str,
    path: &'static str,
    broken_body: &'static Code,
) -> RouteSpec {
    RouteSpec {
        method,
        path,
        access,
        body: BodyLimit::Small,
        public_limit: false,
        broken_body,
    }
}

const fn message(path: &'static str) -> RouteSpec {
    let access = Access::Claw {
        route: ClawRoute::Message,
        known: KnownAgent::NeededUnlessGroup,
        access_token: true,
    };
    RouteSpec {
        body: BodyLimit::Frame,
        public_limit: true,
        ..row(access, "POST", path, &code::PROXY_HOOK_INVALID_JSON)
    }
}

const fn connect(path: &'static str) -> RouteSpec {
    RouteSpec {
        public_limit: true,
        ..row(
            claw_with_token(ClawRoute::Connect),
            "GET",
            path,
            &code::PROXY_RELAY_UPGRADE_REQUIRED,
        )
    }
}

/// Every route there is, older paths included.
#[rustfmt::skip]
pub const ROUTES: &[RouteSpec] = &[
    row(Access::Open(OpenRoute::Health), "GET", "/health", &code::PROXY_NOT_FOUND),
    row(Access::Open(OpenRoute::Time), "GET", "/v1/time", &code::PROXY_NOT_FOUND),
    message("/hooks/message"),
    message("/hooks/agent"),
    connect("/v1/relay/connect"),
    connect("/relay/connect"),
    row(claw_with_token(ClawRoute::ReceiptsPost), "POST", "/v1/relay/delivery-receipts", &code::PROXY_RELAY_RECEIPT_INVALID_INPUT),
    row(claw_with_token(ClawRoute::ReceiptsGet), "GET", "/v1/relay/delivery-receipts", &code::PROXY_RELAY_RECEIPT_INVALID_QUERY),
    row(claw(ClawRoute::PairStart), "POST", "/pair/start", &code::PROXY_PAIR_INVALID_BODY),
    row(claw(ClawRoute::PairConfirm), "POST", "/pair/confirm", &code::PROXY_PAIR_INVALID_BODY),
    row(claw(ClawRoute::PairStatus), "POST", "/pair/status", &code::PROXY_PAIR_INVALID_BODY),
    row(claw(ClawRoute::PairRemove), "POST", "/pair/remove", &code::PROXY_PAIR_INVALID_BODY),
    row(Access::Feed(FeedRoute::Page), "GET", "/v1/revocations", &code::PROXY_FEED_INVALID_QUERY),
    row(Access::Feed(FeedRoute::Bundle), "GET", "/v1/bundles/revocations.tar.gz", &code::PROXY_FEED_INVALID_QUERY),
    row(Access::Feed(FeedRoute::Stream), "GET", "/v1/events/revocations", &code::PROXY_FEED_INVALID_QUERY),
    row(Access::Admin(AdminRoute::Revoke), "POST", "/admin/v1/revocations", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::List), "GET", "/admin/v1/revocations", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::Lift), "POST", "/admin/v1/revocations/{seq}/lift", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::Reconcile), "POST", "/admin/v1/reconcile", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::RefreshKeys), "POST", "/admin/v1/keys/refresh", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::Import), "GET", "/admin/v1/import", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::NewEpoch), "POST", "/admin/v1/feed/epoch", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::Status), "GET", "/admin/v1/status", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::DeadLetters), "GET", "/admin/v1/dead-letters", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::DeadLetter), "GET", "/admin/v1/dead-letters/{id}", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::DeadLetterRetry), "POST", "/admin/v1/dead-letters/{id}/retry", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Admin(AdminRoute::DeadLetterDrop), "POST", "/admin/v1/dead-letters/{id}/drop", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Overview), "GET", "/admin", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Agent), "GET", "/admin/agents", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Letter), "GET", "/admin/dead-letters", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::AskLift), "GET", "/admin/lift", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Style), "GET", "/admin/style.css", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::SignIn), "POST", "/admin/sign-in", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::SignOut), "POST", "/admin/sign-out", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Revoke), "POST", "/admin/revoke", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Lift), "POST", "/admin/lift", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::Reconcile), "POST", "/admin/reconcile", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::RefreshKeys), "POST", "/admin/keys", &code::PROXY_ADMIN_INVALID_INPUT),
    row(Access::Page(PageRoute::LetterAction), "POST", "/admin/dead-letters", &code::PROXY_ADMIN_INVALID_INPUT),
];

/// What a method and a path come to.
#[derive(Clone, Debug)]
pub enum Found {
    Row(&'static RouteSpec),
    /// 405, with the methods of `Allow`.
    WrongMethod(String),
    Nothing,
}

/// Looks a request up. What answers `GET` answers `HEAD`. `admin`: there is an `ADMIN_TOKEN`; without one its routes are
/// not there, whatever the method.
pub fn find(method: &str, path: &str, admin: bool) -> Found {
    let exists = move |spec: &&RouteSpec| admin || !matches!(spec.access, Access::Admin(_) | Access::Page(_));
    let at_path = || ROUTES.iter().filter(exists).filter(|spec| is_at(spec.path, path));
    let row_of = if method == "HEAD" { "GET" } else { method };
    if let Some(spec) = at_path().find(|spec| spec.method == row_of) {
        return Found::Row(spec);
    }
    let mut methods: Vec<&str> = at_path().map(|spec| spec.method).collect();
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    if methods.is_empty() {
        Found::Nothing
    } else {
        Found::WrongMethod(methods.join(", "))
    }
}

fn is_at(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let same = pattern.split('/').all(|expected| {
        let segment = segments.next();
        match expected.starts_with('{') {
            true => segment.is_some_and(|segment| !segment.is_empty()),
            false => segment == Some(expected),
        }
    });
    same && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row's handler and who may call it, in words.
    fn named(spec: &RouteSpec) -> (String, &'static str) {
        match spec.access {
            Access::Open(route) => (format!("{route:?}"), "open"),
            Access::Claw { route, .. } => (format!("{route:?}"), "claw"),
            Access::Feed(route) => (format!("Feed{route:?}"), "feed"),
            Access::Admin(route) => (format!("Admin{route:?}"), "admin"),
            Access::Page(route) => (format!("Page{route:?}"), "page"),
        }
    }

    #[test]
    fn finds_by_exact_path_and_method() {
        let check = |method: &str, path: &str, expect: &str| {
            let found = match find(method, path, true) {
                Found::Row(spec) => named(spec).0,
                Found::WrongMethod(allow) => format!("405 {allow}"),
                Found::Nothing => "404".to_owned(),
            };
            assert_eq!(found, expect, "{method} {path}");
        };
        check("GET", "/health", "Health");
        check("HEAD", "/health", "Health");
        check("HEAD", "/relay/connect", "Connect");
        check("HEAD", "/hooks/message", "405 POST");
        check("HEAD", "/none", "404");
        check("POST", "/health", "405 GET, HEAD");
        check("DELETE", "/v1/relay/delivery-receipts", "405 POST, GET, HEAD");
        check("GET", "/v1/relay/delivery-receipts", "ReceiptsGet");
        check("POST", "/hooks/agent", "Message");
        check("GET", "/relay/connect", "Connect");
        check("GET", "/health/", "404");
        check("GET", "/Health", "404");
        check("get", "/health", "405 GET, HEAD");
        check("GET", "", "404");
        check("POST", "/admin/v1/revocations/12/lift", "AdminLift");
        check("GET", "/admin/v1/revocations/12/lift", "405 POST");
        check("POST", "/admin/v1/revocations//lift", "404");
        check("POST", "/admin/v1/revocations/1/2/lift", "404");
        check("POST", "/admin/v1/revocations/12", "404");
    }

    #[test]
    fn without_an_admin_token_its_routes_are_not_there() {
        for spec in ROUTES
            .iter()
            .filter(|spec| matches!(spec.access, Access::Admin(_) | Access::Page(_)))
        {
            for method in [spec.method, "DELETE"] {
                let found = find(
                    method,
                    &spec.path.replace("{seq}", "1").replace("{id}", "1"),
                    false,
                );
                assert!(matches!(found, Found::Nothing), "{method} {}", spec.path);
            }
        }
    }

    /// The tests on the real runtime walk this file (`tests/runtime/revoked-callers.test.mjs`), so that a route that is added
    /// without its row there is found. UPDATE_EXPECT=1 writes it.
    #[test]
    fn the_runtime_tests_know_every_route() {
        let row = |spec: &RouteSpec| {
            let (route, access) = named(spec);
            format!(
                r#"  {{"route":"{route}","method":"{}","path":"{}","access":"{access}"}}"#,
                spec.method, spec.path
            )
        };
        let rows: Vec<String> = ROUTES.iter().map(row).collect();
        let json = format!("[\n{}\n]\n", rows.join(",\n"));
        expect_test::expect_file!["../../../tests/support/routes.json"].assert_eq(&json);
    }

    /// docs/wire.md §5's table, column for column.
    #[test]
    fn policies_are_those_of_the_wire() {
        let mut rows: Vec<String> = Vec::new();
        for spec in ROUTES {
            let known_and_token = match spec.access {
                Access::Claw {
                    known, access_token, ..
                } => (known != KnownAgent::NotNeeded, access_token),
                _ => (false, false),
            };
            let needed = match known_and_token {
                (true, true) => " known token",
                (true, false) => " known",
                (false, true) => " token",
                (false, false) => "",
            };
            let access = named(spec).1;
            let limit = if spec.public_limit { " per-address" } else { "" };
            let size = if spec.body == BodyLimit::Frame {
                " frame"
            } else {
                ""
            };
            rows.push(format!(
                "{} {}: {access}{needed}{limit}{size}",
                spec.method, spec.path
            ));
        }
        expect_test::expect![[r#"
            GET /health: open
            GET /v1/time: open
            POST /hooks/message: claw known token per-address frame
            POST /hooks/agent: claw known token per-address frame
            GET /v1/relay/connect: claw token per-address
            GET /relay/connect: claw token per-address
            POST /v1/relay/delivery-receipts: claw token
            GET /v1/relay/delivery-receipts: claw token
            POST /pair/start: claw
            POST /pair/confirm: claw
            POST /pair/status: claw
            POST /pair/remove: claw
            GET /v1/revocations: feed
            GET /v1/bundles/revocations.tar.gz: feed
            GET /v1/events/revocations: feed
            POST /admin/v1/revocations: admin
            GET /admin/v1/revocations: admin
            POST /admin/v1/revocations/{seq}/lift: admin
            POST /admin/v1/reconcile: admin
            POST /admin/v1/keys/refresh: admin
            GET /admin/v1/import: admin
            POST /admin/v1/feed/epoch: admin
            GET /admin/v1/status: admin
            GET /admin/v1/dead-letters: admin
            GET /admin/v1/dead-letters/{id}: admin
            POST /admin/v1/dead-letters/{id}/retry: admin
            POST /admin/v1/dead-letters/{id}/drop: admin
            GET /admin: page
            GET /admin/agents: page
            GET /admin/dead-letters: page
            GET /admin/lift: page
            GET /admin/style.css: page
            POST /admin/sign-in: page
            POST /admin/sign-out: page
            POST /admin/revoke: page
            POST /admin/lift: page
            POST /admin/reconcile: page
            POST /admin/keys: page
            POST /admin/dead-letters: page"#]]
        .assert_eq(&rows.join("\n"));
    }
}

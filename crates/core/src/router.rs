//! The route table: docs/wire.md §5 and docs/wire.md §10 as data.
//!
//! A row says everything that happens to a request before its handler: who may call (`Access`), how large its body
//! may be, whether the per-address limit applies, and which code a body gets that cannot be read. The dispatcher
//! obeys the row, so nothing reaches a handler around it. Because the table is data, tests can go through all of it.

use clawdentity_protocol::code::{self, Code};

/// The handlers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET /health`
    Health,
    /// `GET /v1/time`
    Time,
    /// `POST /hooks/message`
    Message,
    /// `GET /v1/relay/connect`
    Connect,
    /// `POST /v1/relay/delivery-receipts`
    ReceiptsPost,
    /// `GET /v1/relay/delivery-receipts`
    ReceiptsGet,
    /// `POST /pair/start`
    PairStart,
    /// `POST /pair/confirm`
    PairConfirm,
    /// `POST /pair/status`
    PairStatus,
    /// `POST /pair/remove`
    PairRemove,
    /// `GET /v1/revocations`
    FeedPage,
    /// `GET /v1/bundles/revocations.tar.gz`
    FeedBundle,
    /// `GET /v1/events/revocations`
    FeedStream,
    /// `POST /admin/v1/revocations`
    AdminRevoke,
    /// `GET /admin/v1/revocations`
    AdminList,
    /// `POST /admin/v1/revocations/{seq}/lift`
    AdminLift,
    /// `POST /admin/v1/reconcile`
    AdminReconcile,
    /// `GET /admin/v1/status`
    AdminStatus,
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

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Steps 2-7 of docs/design.md §2.
    Claw {
        /// Step 6.
        known: KnownAgent,
        /// Step 7: a session access token is needed.
        access_token: bool,
    },
    /// The bearer of `FEED_TOKEN`, or a known agent.
    Feed,
    /// The bearer of `ADMIN_TOKEN`. Without that setting the route does not exist.
    Admin,
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
    pub route: Route,
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

const CLAW: Access = Access::Claw {
    known: KnownAgent::NotNeeded,
    access_token: false,
};
const CLAW_WITH_TOKEN: Access = Access::Claw {
    known: KnownAgent::NotNeeded,
    access_token: true,
};
const CLAW_KNOWN_WITH_TOKEN: Access = Access::Claw {
    known: KnownAgent::NeededUnlessGroup,
    access_token: true,
};

const fn row(
    route: Route,
    method: &'static str,
    path: &'static str,
    access: Access,
    broken_body: &'static Code,
) -> RouteSpec {
    RouteSpec {
        route,
        method,
        path,
        access,
        body: BodyLimit::Small,
        public_limit: false,
        broken_body,
    }
}

const fn message(path: &'static str) -> RouteSpec {
    let spec = row(
        Route::Message,
        "POST",
        path,
        CLAW_KNOWN_WITH_TOKEN,
        &code::PROXY_HOOK_INVALID_JSON,
    );
    RouteSpec {
        body: BodyLimit::Frame,
        public_limit: true,
        ..spec
    }
}

const fn connect(path: &'static str) -> RouteSpec {
    let spec = row(
        Route::Connect,
        "GET",
        path,
        CLAW_WITH_TOKEN,
        &code::PROXY_RELAY_UPGRADE_REQUIRED,
    );
    RouteSpec {
        public_limit: true,
        ..spec
    }
}

/// Every route there is, older paths included.
#[rustfmt::skip]
pub const ROUTES: &[RouteSpec] = &[
    row(Route::Health, "GET", "/health", Access::Open, &code::PROXY_NOT_FOUND),
    row(Route::Time, "GET", "/v1/time", Access::Open, &code::PROXY_NOT_FOUND),
    message("/hooks/message"),
    message("/hooks/agent"),
    connect("/v1/relay/connect"),
    connect("/relay/connect"),
    row(Route::ReceiptsPost, "POST", "/v1/relay/delivery-receipts", CLAW_WITH_TOKEN, &code::PROXY_RELAY_RECEIPT_INVALID_INPUT),
    row(Route::ReceiptsGet, "GET", "/v1/relay/delivery-receipts", CLAW_WITH_TOKEN, &code::PROXY_RELAY_RECEIPT_INVALID_QUERY),
    row(Route::PairStart, "POST", "/pair/start", CLAW, &code::PROXY_PAIR_INVALID_BODY),
    row(Route::PairConfirm, "POST", "/pair/confirm", CLAW, &code::PROXY_PAIR_INVALID_BODY),
    row(Route::PairStatus, "POST", "/pair/status", CLAW, &code::PROXY_PAIR_INVALID_BODY),
    row(Route::PairRemove, "POST", "/pair/remove", CLAW, &code::PROXY_PAIR_INVALID_BODY),
    row(Route::FeedPage, "GET", "/v1/revocations", Access::Feed, &code::PROXY_FEED_INVALID_QUERY),
    row(Route::FeedBundle, "GET", "/v1/bundles/revocations.tar.gz", Access::Feed, &code::PROXY_FEED_INVALID_QUERY),
    row(Route::FeedStream, "GET", "/v1/events/revocations", Access::Feed, &code::PROXY_FEED_INVALID_QUERY),
    row(Route::AdminRevoke, "POST", "/admin/v1/revocations", Access::Admin, &code::PROXY_ADMIN_INVALID_INPUT),
    row(Route::AdminList, "GET", "/admin/v1/revocations", Access::Admin, &code::PROXY_ADMIN_INVALID_INPUT),
    row(Route::AdminLift, "POST", "/admin/v1/revocations/{seq}/lift", Access::Admin, &code::PROXY_ADMIN_INVALID_INPUT),
    row(Route::AdminReconcile, "POST", "/admin/v1/reconcile", Access::Admin, &code::PROXY_ADMIN_INVALID_INPUT),
    row(Route::AdminStatus, "GET", "/admin/v1/status", Access::Admin, &code::PROXY_ADMIN_INVALID_INPUT),
];

/// What a method and a path come to.
#[derive(Clone, Debug)]
pub enum Found {
    Row(&'static RouteSpec),
    /// 405, with the methods of `Allow`.
    WrongMethod(String),
    Nothing,
}

/// Looks a request up. `admin`: there is an `ADMIN_TOKEN`; without one its routes are not there, whatever the method.
pub fn find(method: &str, path: &str, admin: bool) -> Found {
    let exists = move |spec: &&RouteSpec| admin || spec.access != Access::Admin;
    let at_path = || ROUTES.iter().filter(exists).filter(|spec| is_at(spec.path, path));
    if let Some(spec) = at_path().find(|spec| spec.method == method) {
        return Found::Row(spec);
    }
    let methods: Vec<&str> = at_path().map(|spec| spec.method).collect();
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

    #[test]
    fn finds_by_exact_path_and_method() {
        let check = |method: &str, path: &str, expect: &str| {
            let found = match find(method, path, true) {
                Found::Row(spec) => format!("{:?}", spec.route),
                Found::WrongMethod(allow) => format!("405 {allow}"),
                Found::Nothing => "404".to_owned(),
            };
            assert_eq!(found, expect, "{method} {path}");
        };
        check("GET", "/health", "Health");
        check("POST", "/health", "405 GET");
        check("DELETE", "/v1/relay/delivery-receipts", "405 POST, GET");
        check("GET", "/v1/relay/delivery-receipts", "ReceiptsGet");
        check("POST", "/hooks/agent", "Message");
        check("GET", "/relay/connect", "Connect");
        check("GET", "/health/", "404");
        check("GET", "/Health", "404");
        check("get", "/health", "405 GET");
        check("GET", "", "404");
        check("POST", "/admin/v1/revocations/12/lift", "AdminLift");
        check("GET", "/admin/v1/revocations/12/lift", "405 POST");
        check("POST", "/admin/v1/revocations//lift", "404");
        check("POST", "/admin/v1/revocations/1/2/lift", "404");
        check("POST", "/admin/v1/revocations/12", "404");
    }

    #[test]
    fn without_an_admin_token_its_routes_are_not_there() {
        for spec in ROUTES.iter().filter(|spec| spec.access == Access::Admin) {
            for method in [spec.method, "DELETE"] {
                let found = find(method, &spec.path.replace("{seq}", "1"), false);
                assert!(matches!(found, Found::Nothing), "{method} {}", spec.path);
            }
        }
    }

    /// The tests on the real runtime walk this file (`tests/runtime/revoked-callers.test.mjs`), so that a route that is added
    /// without its row there is found. UPDATE_EXPECT=1 writes it.
    #[test]
    fn the_runtime_tests_know_every_route() {
        let row = |spec: &RouteSpec| {
            let access = match spec.access {
                Access::Open => "open",
                Access::Claw { .. } => "claw",
                Access::Feed => "feed",
                Access::Admin => "admin",
            };
            format!(
                r#"  {{"route":"{:?}","method":"{}","path":"{}","access":"{access}"}}"#,
                spec.route, spec.method, spec.path
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
            let access = match spec.access {
                Access::Open => "open",
                access if access == CLAW => "claw",
                access if access == CLAW_WITH_TOKEN => "claw token",
                Access::Feed => "feed",
                Access::Admin => "admin",
                _ => "claw known token",
            };
            let limit = if spec.public_limit { " per-address" } else { "" };
            let size = if spec.body == BodyLimit::Frame {
                " frame"
            } else {
                ""
            };
            rows.push(format!("{} {}: {access}{limit}{size}", spec.method, spec.path));
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
            GET /admin/v1/status: admin"#]]
        .assert_eq(&rows.join("\n"));
    }
}

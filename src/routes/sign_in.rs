//! The bearers of `ADMIN_TOKEN` and `FEED_TOKEN` (docs/wire.md §9 and docs/wire.md §10), decided by `core::sign_in`.
//!
//! Each failed sign-in is logged with its source address. The token is in no log line.

use std::cell::RefCell;

use serde_json::json;

use crate::app::App;
use crate::config::Secret;
use crate::core::sign_in::{SignInError, SignIns};
use crate::error::ApiError;
use crate::http::{Head, Incoming};
use crate::protocol::code;

thread_local! {
    static SIGN_INS: RefCell<SignIns> = RefCell::new(SignIns::new());
}

/// Lets in the bearer of this token.
///
/// # Errors
/// 401, 429.
pub fn check(app: &App, head: &Head, expected: &Secret) -> Result<(), ApiError> {
    let who = Who {
        address: head.header("cf-connecting-ip"),
        request_id: head.request_id.as_str(),
        path: head.target.path(),
    };
    check_of(app, who, head.header("authorization"), expected)
}

/// The same for a token that came in a form, given as an `Authorization` header would have it.
///
/// # Errors
/// 401, 429.
pub fn check_presented(
    app: &App,
    incoming: &Incoming,
    authorization: Option<&str>,
    expected: &Secret,
) -> Result<(), ApiError> {
    let who = Who {
        address: incoming.header("cf-connecting-ip"),
        request_id: incoming.request_id.as_str(),
        path: incoming.target.path(),
    };
    check_of(app, who, authorization, expected)
}

/// Who signs in, for the limit and the log.
struct Who<'a> {
    address: Option<&'a str>,
    request_id: &'a str,
    path: &'a str,
}

fn check_of(app: &App, who: Who<'_>, authorization: Option<&str>, expected: &Secret) -> Result<(), ApiError> {
    let address = who.address;
    let verdict = SIGN_INS
        .with_borrow_mut(|sign_ins| sign_ins.check(authorization, expected.expose(), address, app.now_ms()));
    let Err(error) = verdict else { return Ok(()) };
    let fields = json!({
        "requestId": who.request_id,
        "path": who.path,
        "address": address.unwrap_or("unknown"),
        "cause": format!("{error:?}"),
    });
    app.log.warn("proxy.admin.sign_in_failed", fields);
    Err(match error {
        SignInError::NoBearer => ApiError::new(
            &code::PROXY_BEARER_REQUIRED,
            "Authorization must be `Bearer <token>`.",
        ),
        SignInError::Wrong => ApiError::new(&code::PROXY_BEARER_INVALID, "This token is not valid here."),
        SignInError::TooMany { retry_after_s } => ApiError::new(
            &code::PROXY_SIGN_IN_LIMIT_EXCEEDED,
            "Too many failed sign-ins from this address.",
        )
        .with_retry_after(retry_after_s),
    })
}

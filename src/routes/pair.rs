//! Pairing: `/pair/start`, `/pair/confirm`, `/pair/status` (docs/wire.md §5.5) and `/pair/remove` (docs/wire.md
//! §10.1).
//!
//! There is one file for each route. What they share is here: reading a body, finding a ticket, and telling both
//! agents' objects what has changed.

mod confirm;
mod remove;
mod start;
mod status;

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

pub use self::confirm::handle as confirm;
pub use self::remove::handle as remove;
pub use self::start::handle as start;
pub use self::status::handle as status;

use crate::app::App;
use crate::error::ApiError;
use crate::http::{self, Incoming};
use crate::protocol::code;
use crate::protocol::issuer::Origin;
use crate::protocol::text::{Object, present};
use crate::protocol::ticket::{Ticket, TicketError};
use crate::trust::DbError;
use crate::trust::tickets::{self, StoredTicket};

/// `Retry-After` of `PROXY_PAIR_STATE_UNAVAILABLE`, seconds.
const RETRY_AFTER_S: u64 = 2;

/// A field that no request may have any more, whatever is in it (docs/wire.md §5).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Retired {
    #[serde(default, deserialize_with = "present")]
    callback_url: Option<IgnoredAny>,
}

/// The body as a `T`; `expected` says in words what it must be.
fn parse_body<T: DeserializeOwned>(incoming: &Incoming, expected: &'static str) -> Result<T, ApiError> {
    let invalid = |message| ApiError::new(&code::PROXY_PAIR_INVALID_BODY, message);
    let Object(retired): Object<Retired> =
        serde_json::from_slice(&incoming.body).map_err(|_| invalid(expected))?;
    if retired.callback_url.is_some() {
        return Err(invalid("callbackUrl is no longer supported: leave it out."));
    }
    serde_json::from_slice(&incoming.body).map_err(|_| invalid(expected))
}

/// The ticket as it is kept, proven to be the one presented: 404 where it is not known, 400 where it is not its own.
///
/// Its key was made for it alone, so the signature vouches for every field. The issuer is looked at first, so that who
/// comes to the wrong proxy is told so.
async fn find_ticket(app: &App, incoming: &Incoming, ticket: &Ticket) -> Result<StoredTicket, ApiError> {
    let found = tickets::find(app, ticket.kid)
        .await
        .map_err(|error| unavailable(app, &error))?;
    let Some(stored) = found else {
        ticket.check_issuer(&own_origin(incoming)?).map_err(refused)?;
        return Err(not_found());
    };
    ticket.check_issuer(&stored.issuer).map_err(refused)?;
    if !stored.is(ticket) {
        return Err(refused(TicketError::InvalidSignature));
    }
    Ok(stored)
}

/// The origin under which this request reached the proxy.
fn own_origin(incoming: &Incoming) -> Result<Origin, ApiError> {
    Origin::of_url(&incoming.target.url()?).map_err(|_| http::internal())
}

fn refused(error: TicketError) -> ApiError {
    let message = match error {
        TicketError::InvalidFormat => "The ticket is not a pairing ticket.",
        TicketError::UnsupportedVersion => "The ticket has a version that this proxy does not know.",
        TicketError::InvalidIssuer => "The ticket was not made by this proxy.",
        TicketError::InvalidSignature => "The ticket's signature is not valid.",
    };
    ApiError::new(error.code(), message)
}

fn not_found() -> ApiError {
    ApiError::new(
        &code::PROXY_PAIR_TICKET_NOT_FOUND,
        "This proxy does not know this ticket.",
    )
}

fn expired() -> ApiError {
    ApiError::new(
        &code::PROXY_PAIR_TICKET_EXPIRED,
        "The ticket has expired: ask for a new one.",
    )
}

fn already_confirmed() -> ApiError {
    ApiError::new(
        &code::PROXY_PAIR_TICKET_ALREADY_CONFIRMED,
        "The ticket was already confirmed.",
    )
}

fn unavailable(app: &App, error: &DbError) -> ApiError {
    app.log.error(
        "proxy.pair.state_unavailable",
        json!({ "error": error.to_string() }),
    );
    state_unavailable()
}

fn state_unavailable() -> ApiError {
    ApiError::new(
        &code::PROXY_PAIR_STATE_UNAVAILABLE,
        "The pairing state cannot be read at the moment.",
    )
    .with_retry_after(RETRY_AFTER_S)
}

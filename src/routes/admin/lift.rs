//! `POST /admin/v1/revocations/<seq>/lift`: the operator lifts a revocation (docs/wire.md §10.3).
//!
//! - 400 `PROXY_ADMIN_INVALID_INPUT`, also for the number of a lift
//! - 404 `PROXY_REVOCATION_NOT_FOUND`
//! - 409 `PROXY_REVOCATION_NEEDS_FORCE` if the registry revoked it
//! - 503 `PROXY_REVOCATION_UNAVAILABLE`
//! - 201 with the lift's item, or 200 if it was lifted already

use serde_json::json;

use super::{bad_input, unavailable};
use crate::app::App;
use crate::core::admin::{LiftBody, number};
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::code;
use crate::revocation::{Lifted, lift};

pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let path = incoming.target.path();
    let seq = path.rsplit('/').nth(1).and_then(number);
    let seq = seq.ok_or_else(|| bad_input("the path does not hold a number"))?;
    let body = LiftBody::parse(&incoming.body).map_err(bad_input)?;
    let lifted = lift(app, seq, body.force, body.reason.as_deref()).await;
    match lifted.map_err(|error| unavailable(app, &error))? {
        Lifted::Now(item) => json_response(201, &item),
        Lifted::Before(item) => json_response(200, &item),
        Lifted::IsALift => Err(bad_input("this number belongs to a lift")),
        Lifted::NoSuchRow => {
            let message = "The ledger has no such number.";
            Err(ApiError::new(&code::PROXY_REVOCATION_NOT_FOUND, message))
        }
        Lifted::NeedsForce(source) => {
            let message = "The registry revoked this. To lift it here nevertheless, set force.";
            let error = ApiError::new(&code::PROXY_REVOCATION_NEEDS_FORCE, message);
            Err(error.with_details(json!({ "source": source.as_str() })))
        }
    }
}

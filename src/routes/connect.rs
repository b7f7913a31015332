//! `GET /v1/relay/connect`: a connector's WebSocket (docs/wire.md §5 and docs/wire.md §6.4).
//!
//! After the gate, the request must be a `GET` that asks for an upgrade, otherwise it is answered 426 `PROXY_RELAY_UPGRADE_REQUIRED`.
//! Then the agent's own session answers:
//!
//! - 101
//! - 401 `PROXY_AUTH_REVOKED` if the agent or its token was revoked after the gate
//! - 503 `PROXY_AUTH_DEPENDENCY_UNAVAILABLE` if nobody can tell, or if the agent's generation was replaced after the
//!   gate
//! - 503 `PROXY_RELAY_UNAVAILABLE`
//!
//! The session is told only that this is an upgrade. The proxy itself says who opens the socket.

use serde_json::json;

use crate::app::App;
use crate::core::pipeline::{Caller, Refusal, RevokedBy};
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::protocol::code;
use crate::relay::client;
use crate::relay::protocol::{ConnectCall, ConnectRefusal};

/// `Retry-After` of the 503s, seconds.
const RETRY_AFTER_S: u64 = 1;

pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let upgrade = incoming
        .header("upgrade")
        .is_some_and(|value| value.trim().eq_ignore_ascii_case("websocket"));
    if !upgrade || incoming.target.is_head() {
        let message = "This path accepts WebSocket upgrades only.";
        return Err(ApiError::new(&code::PROXY_RELAY_UPGRADE_REQUIRED, message));
    }
    let call = ConnectCall {
        agent: caller.agent().clone(),
        owner: caller.owner().clone(),
        jti: caller.jti(),
        issuer: Some(caller.issuer().to_string()),
        kid: Some(caller.kid().to_owned()),
        ait_expires_at_ms: caller.ait_expires_at_ms(),
        generation: caller.generation(),
    };
    let response = client::connect(app, &call).await.map_err(|_| unavailable())?;
    let status = response.status_code();
    app.log_success("proxy.relay.connect", || {
        json!({
            "requestId": incoming.request_id.as_str(),
            "agentDid": caller.agent().as_str(),
            "jti": caller.jti(),
            "status": status,
        })
    });
    if status != 101 {
        return Err(refused(response).await);
    }
    // A response of ours, not the session's: its headers can be written to.
    let socket = response.websocket().ok_or_else(unavailable)?;
    let upgraded = worker::Response::from_websocket(socket).map_err(|_| unavailable())?;
    Ok(upgraded.into())
}

async fn refused(mut response: worker::Response) -> ApiError {
    match response.json::<ConnectRefusal>().await {
        Ok(ConnectRefusal::Revoked) => Refusal::Revoked(RevokedBy::OverlayToken).into(),
        Ok(ConnectRefusal::TrustUnavailable) => Refusal::DependencyUnavailable {
            what: "trust_state",
            retry_after_s: RETRY_AFTER_S,
        }
        .into(),
        Ok(ConnectRefusal::NotAnUpgrade) | Err(_) => unavailable(),
    }
}

fn unavailable() -> ApiError {
    ApiError::new(
        &code::PROXY_RELAY_UNAVAILABLE,
        "The relay session does not answer at the moment.",
    )
    .with_retry_after(RETRY_AFTER_S)
}

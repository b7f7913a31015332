//! Calls an agent's `AgentRelaySession`.
//!
//! A call takes `CALL_TIMEOUT_MS` at most, and longer by the wait if it waits for a connector.

use serde_json::json;
use worker::{Headers, Method, Request, RequestInit, Response};

use super::protocol::{
    ACK_WAIT_MS, CONNECT_HEADER, CONNECT_URL, ConnectCall, RelayCall, RelayReply, RelayRequest,
};
use crate::app::App;
use crate::clock;
use crate::objects::NoAnswer;
use crate::protocol::did::AgentDid;

/// One call, with its retries.
const CALL_TIMEOUT_MS: u64 = 5_000;

/// The session gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// The binding is missing: 503 `PROXY_RELAY_UNAVAILABLE`.
    #[error("the relay binding is missing")]
    NoBinding,
    /// It may or may not have been done.
    #[error("the relay session gave no answer")]
    Failed,
}

/// Asks the session of `agent`.
///
/// # Errors
/// No answer; the log has the cause.
pub async fn call(app: &App, agent: &AgentDid, call: RelayCall<'_>) -> Result<RelayReply, RelayError> {
    let waits_ms = match &call {
        RelayCall::Deliver(deliver) if deliver.wait => ACK_WAIT_MS,
        _ => 0,
    };
    let body = serde_json::to_string(&RelayRequest {
        agent: agent.clone(),
        call,
    })
    .map_err(|_| RelayError::Failed)?;
    let limit_ms = CALL_TIMEOUT_MS + waits_ms;
    let answer = app.call_relay(limit_ms, agent, &body).await;
    let text = answer.map_err(|error| {
        let fields = json!({ "agentDid": agent.as_str(), "error": error.to_string() });
        app.log.warn("proxy.relay.unavailable", fields);
        match error {
            NoAnswer::NoBinding(_) => RelayError::NoBinding,
            NoAnswer::Failed(_) => RelayError::Failed,
        }
    })?;
    serde_json::from_str(&text).map_err(|_| RelayError::Failed)
}

/// Passes a WebSocket upgrade on to the session, with what the pipeline proved and nothing else of the request's.
///
/// # Errors
/// No answer.
pub async fn connect(app: &App, call: &ConnectCall) -> Result<Response, RelayError> {
    let failed = |error: worker::Error| {
        let fields = json!({ "agentDid": call.agent.as_str(), "error": error.to_string() });
        app.log.warn("proxy.relay.unavailable", fields);
        RelayError::Failed
    };
    let stub = app.relay_object(&call.agent).map_err(|_| RelayError::NoBinding)?;
    let header = serde_json::to_string(call).map_err(|_| RelayError::Failed)?;
    let response = async {
        let headers = Headers::new();
        headers.set("upgrade", "websocket")?;
        headers.set(CONNECT_HEADER, &header)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Get).with_headers(headers);
        stub.fetch_with_request(Request::new_with_init(CONNECT_URL, &init)?)
            .await
    };
    // The trust object is asked on the way, which has its own limit.
    match clock::within_ms(2 * CALL_TIMEOUT_MS, response).await {
        Some(response) => response.map_err(failed),
        None => Err(failed(worker::Error::RustError("no answer in time".into()))),
    }
}

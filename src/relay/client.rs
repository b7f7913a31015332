//! Calls an agent's `AgentRelaySession`.
//!
//! Every call is idempotent, so what the platform calls retryable is tried again, with a fresh stub and the same body;
//! nothing is tried again on an overloaded object. A call takes `CALL_TIMEOUT_MS` at most, retries included, and one
//! that waits for a connector that much longer.

use serde_json::json;
use wasm_bindgen::JsValue;
use worker::{Headers, Method, Request, RequestInit, Response, Stub};

use super::protocol::{
    CALL_URL, CONNECT_HEADER, CONNECT_URL, ConnectCall, RelayCall, RelayReply, RelayRequest,
};
use crate::app::App;
use crate::clock;
use crate::core::admission::refusals::{CallFailure, retry_pause_ms};
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
        RelayCall::Deliver(deliver) if deliver.wait => app.config.relay.ack_timeout_ms,
        _ => 0,
    };
    let body = serde_json::to_string(&RelayRequest {
        agent: agent.clone(),
        call,
    })
    .map_err(|_| RelayError::Failed)?;
    let answer = clock::within_ms(CALL_TIMEOUT_MS + waits_ms, answer_of(app, agent, &body)).await;
    let text = answer
        .unwrap_or_else(|| Err((RelayError::Failed, "no answer in time".into())))
        .map_err(|(error, text)| {
            let fields = json!({ "agentDid": agent.as_str(), "error": text });
            app.log.warn("proxy.relay.unavailable", fields);
            error
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

async fn answer_of(app: &App, agent: &AgentDid, body: &str) -> Result<String, (RelayError, String)> {
    let mut failures = 0;
    loop {
        // A stub whose object failed stays broken: each try takes a fresh one.
        let stub = app
            .relay_object(agent)
            .map_err(|error| (RelayError::NoBinding, error.to_string()))?;
        let error = match try_once(&stub, body).await {
            Ok(mut response) if response.status_code() == 200 => {
                return response
                    .text()
                    .await
                    .map_err(|error| (RelayError::Failed, error.to_string()));
            }
            Ok(response) => return Err((RelayError::Failed, format!("status {}", response.status_code()))),
            Err(error) => error,
        };
        failures += 1;
        let Some(pause_ms) = retry_pause_ms(failures, failure(&error)) else {
            return Err((RelayError::Failed, error.to_string()));
        };
        clock::sleep_ms(pause_ms).await;
    }
}

async fn try_once(stub: &Stub, body: &str) -> worker::Result<Response> {
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_body(Some(JsValue::from_str(body)));
    stub.fetch_with_request(Request::new_with_init(CALL_URL, &init)?)
        .await
}

/// The flags are properties of the JavaScript error; what does not have them is not retryable.
fn failure(error: &worker::Error) -> CallFailure {
    let original = error.to_js_value();
    let flag = |name: &str| {
        js_sys::Reflect::get(&original, &JsValue::from_str(name)).is_ok_and(|value| value.is_truthy())
    };
    CallFailure {
        retryable: flag("retryable"),
        overloaded: flag("overloaded"),
    }
}

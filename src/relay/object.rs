//! `AgentRelaySession`: the Durable Object of one agent, named by the agent's DID.
//!
//! These are the platform's methods, each of them handed to the session. None of them fails. What breaks is logged,
//! the memory that it was in is dropped, and the next event reads what is stored.

use std::rc::Rc;

use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;
use worker::{
    DurableObject, Env, Request, Response, ResponseBuilder, State, WebSocket, WebSocketIncomingMessage,
    durable_object,
};

use super::failure::{Failure, log_failure};
use super::protocol::{CONNECT_URL, RelayCall, RelayReply, RelayRequest};
use super::session::Session;

/// The object.
#[durable_object]
pub struct AgentRelaySession {
    session: Rc<Session>,
}

impl DurableObject for AgentRelaySession {
    fn new(state: State, env: Env) -> Self {
        Self {
            session: Rc::new(Session::new(state, env)),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let answer = if request.inner().url() == CONNECT_URL {
            self.session.connect(&request).await
        } else {
            // A call by an earlier version, while a deployment is under way.
            return match self.answer_text(&request.text().await?).await {
                Ok(reply) => Ok(ResponseBuilder::new().fixed(reply.into_bytes())),
                Err(text) => Response::error(text, 500),
            };
        };
        answer.or_else(|error| {
            log_failure(&error);
            Response::error("the call failed", 500)
        })
    }

    async fn alarm(&self) -> worker::Result<Response> {
        if let Err(error) = self.session.alarm().await {
            log_failure(&error);
            // The platform calls the alarm again, later each time.
            return Err(worker::Error::RustError("the alarm failed".into()));
        }
        Response::empty()
    }

    async fn websocket_message(
        &self,
        ws: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        self.logged(self.session.message(ws, message))
    }

    async fn websocket_close(
        &self,
        ws: WebSocket,
        code: usize,
        _reason: String,
        _clean: bool,
    ) -> worker::Result<()> {
        self.logged(self.session.closed(&ws, u16::try_from(code).unwrap_or(1000)))
    }

    async fn websocket_error(&self, ws: WebSocket, _error: worker::Error) -> worker::Result<()> {
        self.logged(self.session.closed(&ws, 1006))
    }
}

#[wasm_bindgen]
impl AgentRelaySession {
    /// A `RelayRequest` as JSON, answered by a `RelayReply` as JSON (`objects`).
    pub async fn call(&self, text: String) -> Result<String, JsError> {
        self.answer_text(&text).await.map_err(JsError::new)
    }
}

impl AgentRelaySession {
    /// The error is what the caller may know.
    async fn answer_text(&self, text: &str) -> Result<String, &'static str> {
        let RelayRequest { agent, call } = serde_json::from_str(text).map_err(|_| "not a call")?;
        let answered = self.answer(&agent, call).await;
        self.session.armed().await;
        answered
            .and_then(|reply| serde_json::to_string(&reply).map_err(|error| Failure::new(error.to_string())))
            .map_err(|error| {
                log_failure(&error);
                "the call failed"
            })
    }

    async fn answer(
        &self,
        agent: &crate::protocol::did::AgentDid,
        call: RelayCall<'_>,
    ) -> Result<RelayReply, Failure> {
        let session = &self.session;
        match call {
            RelayCall::Deliver(call) => session.deliver(agent, call).await,
            RelayCall::RecordReceipt(call) => session.record_receipt(agent, &call),
            RelayCall::PushReceipts(call) => session.keep_receipts(agent, &call),
            RelayCall::FindDelivery { sender, request_id } => session.find_delivery(&sender, &request_id),
            RelayCall::GenerationChanged { generation } => session.change_generation(generation),
            RelayCall::RevokeSockets { which } => Ok(RelayReply::Closed {
                sockets: session.revoke(agent, &which)?,
            }),
            RelayCall::LiftRevocation => session.lift(),
            RelayCall::Inspect => session.inspect(),
        }
    }

    fn logged(&self, result: Result<(), Failure>) -> worker::Result<()> {
        if let Err(error) = result {
            log_failure(&error);
        }
        Ok(())
    }
}

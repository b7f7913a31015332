//! The agent's socket: opening and superseding it, what comes in on it, its silence, and its end.
//!
//! An agent has one socket. It hibernates, and everything that must be known of it after a wake is in its attachment
//! (`core::relay_queue::socket`), also what is in flight on it. From a socket that we closed, only an acceptance
//! counts, and that counts whenever it comes. Who ended a socket decides what that says about a message in flight.
//!
//! A revocation may fall between the admission of a connection and its socket. So a connection is `underway` before
//! the trust object is asked once more, and from that answer on there is no `await` until the socket exists. The
//! revocation is therefore seen in the answer, or marks what is under way, or finds the socket. Frames that wait for
//! their turn are under way as well (`enqueue`).

use std::cell::Cell;
use std::rc::{Rc, Weak};

use serde_json::json;
use worker::{Request, Response, ResponseBuilder, WebSocket, WebSocketIncomingMessage, WebSocketPair};

use super::awake::{Awake, Moment};
use super::failure::Failure;
use super::open_socket::{BROKEN, NORMAL, OpenSocket, POLICY, TOO_BIG, Underway, attachment};
use super::protocol::{CONNECT_HEADER, ConnectCall, ConnectRefusal, RelayReply, RevokedSockets};
use super::session::Session;
use crate::core::admission::Generation;
use crate::core::relay_queue::socket::{Attachment, SocketStep};
use crate::core::relay_queue::{DeadReason, EndedBy};
use crate::protocol::did::AgentDid;
use crate::protocol::frame::{self, FrameError, InboundFrame};
use crate::protocol::ids::Ulid;
use crate::trust;

/// Heartbeats, and what is not a frame, of one agent a minute (docs/wire.md §8); more are ignored.
const IDLE_PER_MINUTE: u32 = 240;

impl Session {
    /// Opens a socket for the agent: 101, or JSON of a `ConnectRefusal`.
    ///
    /// 1. an upgrade, with the header that only the proxy sets;
    /// 2. neither agent nor token revoked, and the generation still the one of the admission;
    /// 3. the socket before it is superseded, what was in flight on it has failed;
    /// 4. receipts and mail go out.
    pub async fn connect(self: &Rc<Self>, request: &Request) -> Result<Response, Failure> {
        let Some(call) = connect_call(request) else {
            return refuse(400, ConnectRefusal::NotAnUpgrade);
        };
        let underway = self.begin(call.jti);
        let standing = trust::client::check(&self.app()?, &call.agent, Some(call.jti)).await;
        match standing {
            _ if underway.is_revoked() => refuse(401, ConnectRefusal::Revoked),
            Err(_) => refuse(503, ConnectRefusal::TrustUnavailable),
            Ok(standing) if standing.revoked.is_some() => refuse(401, ConnectRefusal::Revoked),
            // Its session may have ended since: the connector comes again, and all is asked anew.
            Ok(standing) if standing.generation != call.generation => {
                refuse(503, ConnectRefusal::TrustUnavailable)
            }
            Ok(_) => {
                let client = self.step(|awake, moment| self.accept(awake, call, moment))?;
                Ok(Response::from_websocket(client)?)
            }
        }
    }

    /// Registers something that a revocation must find, for as long as the returned value is held.
    pub(super) fn begin(&self, jti: Ulid) -> Rc<Underway> {
        let one = Rc::new(Underway {
            jti,
            revoked: Cell::new(false),
        });
        let mut underway = self.underway.borrow_mut();
        underway.retain(|other| other.strong_count() > 0);
        underway.push(Rc::downgrade(&one));
        one
    }

    fn accept(&self, awake: &mut Awake, call: ConnectCall, moment: &Moment) -> Result<WebSocket, Failure> {
        awake.belongs_to(&call.agent);
        awake.store_agent()?;
        let socket_id = u64::from_be_bytes(moment.app.random()?);
        let pair = WebSocketPair::new()?;
        for socket in self.open_sockets() {
            socket.close(NORMAL, "superseded_by_new_connection");
        }
        awake.let_socket_go(moment)?;
        self.state.accept_web_socket(&pair.server);
        let socket = OpenSocket {
            ws: pair.server,
            it: Attachment {
                socket_id: format!("{socket_id:016x}"),
                agent: call.agent,
                owner: call.owner,
                jti: call.jti,
                issuer: call.issuer,
                kid: call.kid,
                ait_expires_at_ms: call.ait_expires_at_ms,
                generation: call.generation,
                opened_at_ms: moment.now_ms,
                last_seen_ms: moment.now_ms,
                looked_at_ms: moment.now_ms,
                asked_at_ms: moment.now_ms,
                progress_at_ms: moment.now_ms,
                in_flight: Vec::new(),
                pushed_through: 0,
                confirmed_through: 0,
                probe: None,
                enqueued: awake.enqueued,
                idle: awake.idle,
                closed: false,
            },
        };
        socket.store()?;
        awake.socket = Some(socket);
        // The trust object has just said that it is not.
        self.unstored.revoked.set(false);
        if awake.revoked {
            awake.set_revoked(None)?;
        }
        let changes = awake.queue.connected(moment.now_ms);
        awake.apply(changes, moment)?;
        awake.push_receipts(moment)?;
        Ok(pair.client)
    }

    /// Handles a frame that came in.
    pub fn message(self: &Rc<Self>, ws: WebSocket, message: WebSocketIncomingMessage) -> Result<(), Failure> {
        let job = self.step(|awake, moment| {
            let Some(it) = attachment(&ws) else {
                return Ok(None);
            };
            awake.belongs_to(&it.agent);
            let is_current = !it.closed && awake.socket.as_ref().is_some_and(|open| open.is(&it.socket_id));
            let max_bytes = moment.app.config.relay.max_frame_bytes;
            let (bytes, text) = match message {
                WebSocketIncomingMessage::String(text) => (text.len(), text),
                WebSocketIncomingMessage::Binary(bytes) => (bytes.len(), frame::text_of(bytes)),
            };
            let text = (bytes <= max_bytes).then_some(text);
            if !is_current {
                awake.late_message(text.as_deref(), moment)?;
                return Ok(None);
            }
            if bytes > max_bytes {
                awake.close_socket(TOO_BIG, "frame_too_large", moment)?;
            }
            let frame = match text.as_deref().map(frame::parse_inbound) {
                Some(frame) => frame,
                None => Err(FrameError::Unreadable),
            };
            let costs_us_time_alone = matches!(
                frame,
                Ok(InboundFrame::Heartbeat { .. }) | Err(FrameError::Unreadable | FrameError::Malformed)
            );
            let mut is_over_rate = false;
            awake.change_socket(moment, |it| {
                it.last_seen_ms = moment.now_ms;
                if it.look_is_due(moment.now_ms) {
                    it.asked_at_ms = moment.now_ms;
                    self.beside(self.clone().look_again(it.clone()));
                }
                is_over_rate = costs_us_time_alone && !it.idle.admit(IDLE_PER_MINUTE, moment.now_ms);
            })?;
            match frame {
                _ if is_over_rate => awake.log_over_rate("heartbeat", moment),
                Ok(InboundFrame::Heartbeat { id }) => {
                    let answer = frame::heartbeat_ack(moment.app.new_ulid()?, moment.now_ms, id);
                    awake.send(&answer, moment)?;
                }
                Ok(InboundFrame::HeartbeatAck { ack_id }) => awake.probe_answered(ack_id, moment)?,
                Ok(InboundFrame::DeliverAck { ack_id, accepted, .. }) => {
                    awake.acknowledged(ack_id, accepted, true, moment)?;
                }
                Ok(InboundFrame::Enqueue(enqueue)) => return self.take_enqueue(awake, enqueue, ws, moment),
                Err(FrameError::BadEnqueue { id, reason }) => {
                    awake.refuse_bad_enqueue(&ws, id, reason, moment)?;
                }
                Err(FrameError::Unreadable | FrameError::Malformed) => {}
            }
            Ok(None)
        })?;
        if let Some(job) = job {
            self.beside(self.clone().pass_on(job));
        }
        Ok(())
    }

    /// Handles the end of a socket, clean or not.
    pub fn closed(self: &Rc<Self>, ws: &WebSocket, code: u16) -> Result<(), Failure> {
        let ended = attachment(ws);
        self.step(|awake, moment| {
            let is_ended = |open: &OpenSocket| ended.as_ref().is_some_and(|it| open.is(&it.socket_id));
            if awake.socket.as_ref().is_some_and(is_ended) {
                awake.socket_ended(EndedBy::Connector, code, "closed_by_connector", moment)?;
            }
            Ok(())
        })?;
        // Answers the close; codes that only a runtime may use are answered by a plain one.
        let answer = if matches!(code, 1005 | 1006 | 1015) {
            NORMAL
        } else {
            code
        };
        let _ = ws.close(Some(answer), Some(""));
        Ok(())
    }

    /// Closes the sockets that a revocation names, and returns how many.
    pub fn revoke(self: &Rc<Self>, agent: &AgentDid, which: &RevokedSockets) -> Result<u32, Failure> {
        let names = |jti: &Ulid| match which {
            RevokedSockets::Agent | RevokedSockets::Session => true,
            RevokedSockets::Tokens(jtis) => jtis.contains(jti),
        };
        let underway: Vec<Rc<Underway>> = self.underway.borrow().iter().filter_map(Weak::upgrade).collect();
        for one in underway.iter().filter(|one| names(&one.jti)) {
            one.revoked.set(true);
        }
        if self.is_unused()? {
            // None is made for that: the first delivery asks (`deliver`).
            self.unstored
                .revoked
                .set(*which == RevokedSockets::Agent || self.unstored.revoked.get());
            return Ok(0);
        }
        self.step(|awake, moment| {
            awake.belongs_to(agent);
            let mut closed = 0;
            for socket in self.open_sockets().filter(|socket| names(&socket.it.jti)) {
                closed += 1;
                socket.close(POLICY, "revoked");
            }
            if awake.socket.as_ref().is_some_and(|open| names(&open.it.jti)) {
                awake.socket_ended(EndedBy::Us, POLICY, "revoked", moment)?;
            }
            if *which == RevokedSockets::Agent && !awake.revoked {
                awake.store_agent()?;
                awake.set_revoked(Some(moment.now_ms))?;
                let changes = awake.queue.give_up_all(DeadReason::RecipientRevoked);
                awake.apply(changes, moment)?;
            }
            Ok(closed)
        })
    }
}

impl Session {
    /// `RelayCall::LiftRevocation`.
    pub fn lift(self: &Rc<Self>) -> Result<RelayReply, Failure> {
        self.unstored.revoked.set(false);
        self.unstored.lifts.set(self.unstored.lifts.get().wrapping_add(1));
        if self.is_unused()? {
            return Ok(RelayReply::Done);
        }
        self.step(|awake, _| {
            awake.set_revoked(None)?;
            Ok(RelayReply::Done)
        })
    }

    /// `RelayCall::GenerationChanged`.
    pub fn change_generation(self: &Rc<Self>, generation: Generation) -> Result<RelayReply, Failure> {
        if self.is_unused()? {
            return Ok(RelayReply::Done);
        }
        self.step(|awake, moment| {
            awake.change_socket(moment, |it| it.generation = generation)?;
            Ok(RelayReply::Done)
        })
    }
}

impl Awake {
    /// Sends a frame on the open socket. If that fails, the socket is gone.
    pub(super) fn send(&mut self, text: &str, moment: &Moment) -> Result<bool, Failure> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        if socket.ws.send_with_str(text).is_ok() {
            return Ok(true);
        }
        self.close_socket(BROKEN, "send_failed", moment)?;
        Ok(false)
    }

    /// Closes a socket that is silent, that answers no frames, or whose token has expired (docs/wire.md §6.4).
    pub(super) fn look_after_socket(&mut self, moment: &Moment) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match socket.it.step(moment.now_ms) {
            SocketStep::CloseSilent => self.close_socket(BROKEN, "silent", moment),
            SocketStep::CloseExpired => self.close_socket(POLICY, "token_expired", moment),
            SocketStep::Nothing if self.queue.is_stalled(moment.now_ms) => {
                self.close_socket(BROKEN, "delivery_unacknowledged", moment)
            }
            SocketStep::Nothing => Ok(()),
        }
    }

    pub(super) fn close_socket(&mut self, code: u16, reason: &str, moment: &Moment) -> Result<(), Failure> {
        if let Some(socket) = self.let_socket_go(moment)? {
            socket.close(code, reason);
            self.socket_ended(EndedBy::Us, code, reason, moment)?;
        }
        Ok(())
    }

    /// The socket is gone. What was in flight on it waits for the next one.
    fn socket_ended(&mut self, by: EndedBy, code: u16, reason: &str, moment: &Moment) -> Result<(), Failure> {
        self.let_socket_go(moment)?;
        let fields = json!({
            "agentDid": self.agent.as_ref().map(|agent| agent.as_str()),
            "code": code,
            "reason": reason,
            "queueDepth": self.queue.depth(),
            "inFlight": self.queue.in_flight().len(),
        });
        moment.app.log.info("proxy.relay.disconnect", fields);
        let changes = self.queue.disconnected(by, moment.now_ms);
        self.apply(changes, moment)
    }

    fn let_socket_go(&mut self, moment: &Moment) -> Result<Option<OpenSocket>, Failure> {
        let socket = self.socket.take();
        if let Some(socket) = &socket {
            self.idle = self.idle.max(socket.it.idle);
            self.enqueued = self.enqueued.max(socket.it.enqueued);
            self.store_enqueued(moment.now_ms)?;
        }
        Ok(socket)
    }

    /// A frame from a socket that was closed: an acceptance counts whenever it comes.
    fn late_message(&mut self, text: Option<&str>, moment: &Moment) -> Result<(), Failure> {
        match text.map(frame::parse_inbound) {
            Some(Ok(InboundFrame::DeliverAck { ack_id, accepted, .. })) => {
                self.acknowledged(ack_id, accepted, false, moment)
            }
            _ => Ok(()),
        }
    }

    fn acknowledged(
        &mut self,
        frame_id: Ulid,
        accepted: bool,
        on_this_socket: bool,
        moment: &Moment,
    ) -> Result<(), Failure> {
        let Some(seq) = self.of_frame(frame_id) else {
            return Ok(());
        };
        let change = self
            .queue
            .acknowledged(seq, accepted, on_this_socket, moment.now_ms, moment.chance());
        self.apply(change, moment)
    }

    /// Changes what the open socket remembers, and writes it. A socket that cannot be written to is gone.
    pub(super) fn change_socket(
        &mut self,
        moment: &Moment,
        change: impl FnOnce(&mut Attachment),
    ) -> Result<(), Failure> {
        let Some(socket) = &mut self.socket else {
            return Ok(());
        };
        change(&mut socket.it);
        if socket.store().is_ok() {
            return Ok(());
        }
        self.close_socket(BROKEN, "gone", moment)
    }
}

fn connect_call(request: &Request) -> Option<ConnectCall> {
    let header = |name: &str| request.headers().get(name).ok().flatten();
    header("upgrade").filter(|value| value.eq_ignore_ascii_case("websocket"))?;
    serde_json::from_str(&header(CONNECT_HEADER)?).ok()
}

fn refuse(status: u16, refusal: ConnectRefusal) -> Result<Response, Failure> {
    Ok(ResponseBuilder::new().with_status(status).from_json(&refusal)?)
}

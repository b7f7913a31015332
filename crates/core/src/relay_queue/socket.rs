//! What a connector's socket must be told or asked, and when (docs/wire.md §6); and what is remembered of it.
//!
//! All of it is in the socket's attachment, which survives hibernation: nothing that must be known after a wake lives
//! only in memory. The attachment is JSON, its bytes are pinned by a test, and it stays far below the platform's 16 KB.

use serde::{Deserialize, Serialize};

use super::rate::RateWindow;
use crate::admission::Generation;
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::ids::Ulid;

/// What a socket remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// This socket, apart from every other: a stored send names it.
    pub socket_id: String,
    /// Whose it is.
    pub agent: AgentDid,
    /// That agent's owner.
    pub owner: HumanDid,
    /// The token that opened it.
    pub jti: Ulid,
    /// Unix milliseconds: when that token ends.
    pub ait_expires_at_ms: u64,
    /// What cached decisions about the agent are bound to.
    pub generation: Generation,
    /// Unix milliseconds.
    pub opened_at_ms: u64,
    /// Unix milliseconds: the last frame of the connector.
    pub last_seen_ms: u64,
    /// Unix milliseconds: the last heartbeat sent to it.
    pub heartbeat_at_ms: u64,
    /// Its `enqueue` frames.
    pub enqueued: RateWindow,
    /// We closed it; the platform may still list it until the other side answers.
    pub closed: bool,
}

/// How long a socket may be silent.
#[derive(Debug, Clone, Copy)]
pub struct SocketTimes {
    /// Silent so long: it gets a heartbeat.
    pub heartbeat_ms: u64,
    /// Silent so long: it is closed.
    pub silent_close_ms: u64,
}

/// What a socket needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketStep {
    /// Nothing.
    Nothing,
    /// A heartbeat.
    Heartbeat,
    /// To be closed with 1011: nobody is there.
    CloseSilent,
    /// To be closed with 1008: the token that opened it has ended.
    CloseExpired,
}

impl Attachment {
    /// What is to be done at this moment.
    pub fn step(&self, times: SocketTimes, now_ms: u64) -> SocketStep {
        let silent_ms = now_ms.saturating_sub(self.last_seen_ms);
        if self.ait_expires_at_ms <= now_ms {
            SocketStep::CloseExpired
        } else if silent_ms >= times.silent_close_ms {
            SocketStep::CloseSilent
        } else if silent_ms >= times.heartbeat_ms && !self.was_asked() {
            SocketStep::Heartbeat
        } else {
            SocketStep::Nothing
        }
    }

    /// When `step` will next say something, Unix milliseconds.
    pub fn next_due_ms(&self, times: SocketTimes) -> u64 {
        let silence_ms = if self.was_asked() {
            times.silent_close_ms
        } else {
            times.heartbeat_ms
        };
        self.last_seen_ms
            .saturating_add(silence_ms)
            .min(self.ait_expires_at_ms)
    }

    /// Whether a heartbeat was sent since the connector last spoke.
    fn was_asked(&self) -> bool {
        self.heartbeat_at_ms > self.last_seen_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: SocketTimes = SocketTimes {
        heartbeat_ms: 30_000,
        silent_close_ms: 60_000,
    };

    fn attachment(last_seen_ms: u64, heartbeat_at_ms: u64) -> Attachment {
        Attachment {
            socket_id: "00ff00ff00ff00ff".into(),
            agent: AgentDid::parse("did:cdi:registry.test:agent:01JZ0000000000000000000001").unwrap(),
            owner: HumanDid::parse("did:cdi:registry.test:human:01JZ0000000000000000000002").unwrap(),
            jti: Ulid::parse("01JZ0000000000000000000003").unwrap(),
            ait_expires_at_ms: 1_000_000,
            generation: serde_json::from_str("\"00000000000000ab\"").unwrap(),
            opened_at_ms: 1,
            last_seen_ms,
            heartbeat_at_ms,
            enqueued: RateWindow {
                since_ms: 7,
                count: 8,
            },
            closed: false,
        }
    }

    #[test]
    fn a_silent_socket_is_asked_once_and_then_closed() {
        let check = |last_seen, heartbeat_at, now, expect| {
            let socket = attachment(last_seen, heartbeat_at);
            assert_eq!(
                socket.step(TIMES, now),
                expect,
                "{last_seen} {heartbeat_at} {now}"
            );
            if expect == SocketStep::Nothing {
                let due = socket.next_due_ms(TIMES);
                assert!(due > now, "due {due} is not after {now}");
                assert_ne!(
                    socket.step(TIMES, due),
                    SocketStep::Nothing,
                    "nothing to do when due"
                );
            }
        };
        check(100_000, 0, 129_999, SocketStep::Nothing);
        check(100_000, 0, 130_000, SocketStep::Heartbeat);
        check(100_000, 130_000, 130_001, SocketStep::Nothing);
        check(100_000, 130_000, 159_999, SocketStep::Nothing);
        check(100_000, 130_000, 160_000, SocketStep::CloseSilent);
        check(140_000, 130_000, 160_000, SocketStep::Nothing);
        check(140_000, 130_000, 170_000, SocketStep::Heartbeat);
        // A heartbeat that was missed (the object slept through it) does not put off the close.
        check(100_000, 0, 160_000, SocketStep::CloseSilent);
        check(999_999, 0, 1_000_000, SocketStep::CloseExpired);
        check(990_000, 0, 999_999, SocketStep::Nothing);
    }

    /// Stored with every open socket: changing it is a migration (read the old form as well).
    #[test]
    fn attachment_is_pinned() {
        let text = serde_json::to_string(&attachment(5, 6)).unwrap();
        assert_eq!(
            text,
            "{\"socketId\":\"00ff00ff00ff00ff\",\
             \"agent\":\"did:cdi:registry.test:agent:01JZ0000000000000000000001\",\
             \"owner\":\"did:cdi:registry.test:human:01JZ0000000000000000000002\",\
             \"jti\":\"01JZ0000000000000000000003\",\"aitExpiresAtMs\":1000000,\"generation\":\"00000000000000ab\",\
             \"openedAtMs\":1,\"lastSeenMs\":5,\"heartbeatAtMs\":6,\"enqueued\":{\"sinceMs\":7,\"count\":8},\
             \"closed\":false}"
        );
        assert_eq!(
            serde_json::from_str::<Attachment>(&text).unwrap(),
            attachment(5, 6)
        );
    }
}

//! What a connector's socket remembers, and when it is to be closed or asked about (docs/wire.md §6.4 and
//! docs/design.md §5.5).
//!
//! All of it is in the socket's attachment, which survives hibernation and costs no row. Nothing that must be known
//! after a wake lives only in memory. The attachment is JSON, a test pins its bytes, and it stays below the
//! platform's 16 KB with a hundred frames in flight. It ends with its socket, so no version reads another version's.

use serde::{Deserialize, Serialize};

use super::Connection;
use super::rate::Bucket;
use crate::admission::Generation;
use clawdentity_protocol::did::{AgentDid, HumanDid};
use clawdentity_protocol::ids::Ulid;

/// Silent for longer, a socket is closed where mail arrives for it: connectors speak every 20-30 s.
const DOUBTED_AFTER_MS: u64 = 60_000;
/// Silent for so long, it is closed in any case.
const SILENT_CLOSE_MS: u64 = 600_000;
/// So long after its agent was last asked about, a socket's next frame asks again.
const LOOK_AFTER_MS: u64 = 300_000;
/// Without an answer it is asked again, but no sooner than this.
const LOOK_RETRY_MS: u64 = 30_000;

/// What a socket remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// This socket, apart from every other.
    pub socket_id: String,
    /// Whose it is.
    pub agent: AgentDid,
    /// That agent's owner.
    pub owner: HumanDid,
    /// The token that opened it.
    pub jti: Ulid,
    /// Who issued that token.
    #[serde(default)]
    pub issuer: Option<String>,
    /// The key that signed that token.
    #[serde(default)]
    pub kid: Option<String>,
    /// Unix milliseconds: when that token ends.
    pub ait_expires_at_ms: u64,
    /// What cached decisions about the agent are bound to.
    pub generation: Generation,
    /// Unix milliseconds.
    pub opened_at_ms: u64,
    /// Unix milliseconds: the last frame of the connector.
    pub last_seen_ms: u64,
    /// Unix milliseconds: the last answer about its agent.
    pub looked_at_ms: u64,
    /// Unix milliseconds: the last question.
    pub asked_at_ms: u64,
    /// Unix milliseconds: the last answer to a frame sent on it.
    pub progress_at_ms: u64,
    /// What was sent on it and is not answered: the number of the message, and when.
    pub in_flight: Vec<(u64, u64)>,
    /// Receipts up to this number were pushed on it.
    pub pushed_through: u64,
    /// Those up to this number have arrived.
    pub confirmed_through: u64,
    /// The heartbeat whose answer says that receipts have arrived.
    pub probe: Option<Probe>,
    /// Its `enqueue` frames.
    pub enqueued: Bucket,
    /// Its heartbeats, and what is not a frame.
    pub idle: Bucket,
    /// We closed it; the platform may still list it until the other side answers.
    pub closed: bool,
}

/// A heartbeat of ours, sent after receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// The frame's id.
    pub id: Ulid,
    /// The last receipt that was pushed before it.
    pub through: u64,
}

/// What a socket needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketStep {
    /// Nothing.
    Nothing,
    /// To be closed with 1011: nobody is there.
    CloseSilent,
    /// To be closed with 1008: the token that opened it has ended.
    CloseExpired,
}

impl Attachment {
    /// What is to be done at this moment.
    pub fn step(&self, now_ms: u64) -> SocketStep {
        if self.ait_expires_at_ms <= now_ms {
            SocketStep::CloseExpired
        } else if self.silent_ms(now_ms) >= SILENT_CLOSE_MS {
            SocketStep::CloseSilent
        } else {
            SocketStep::Nothing
        }
    }

    /// When `step` will next say something, Unix milliseconds.
    pub fn next_due_ms(&self) -> u64 {
        self.last_seen_ms
            .saturating_add(SILENT_CLOSE_MS)
            .min(self.ait_expires_at_ms)
    }

    /// Whether nobody may be there, so that new mail had better wait for another socket.
    pub fn is_doubtful(&self, now_ms: u64) -> bool {
        self.silent_ms(now_ms) > DOUBTED_AFTER_MS
    }

    /// Whether the agent is to be asked about, as a frame came.
    pub fn look_is_due(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.looked_at_ms) >= LOOK_AFTER_MS
            && now_ms.saturating_sub(self.asked_at_ms) >= LOOK_RETRY_MS
    }

    /// For the queue, after a wake.
    pub fn connection(&self) -> Connection {
        Connection {
            opened_at_ms: self.opened_at_ms,
            progress_at_ms: self.progress_at_ms,
            in_flight: self.in_flight.clone(),
        }
    }

    fn silent_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.last_seen_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            socket_id: "00ff00ff00ff00ff".into(),
            agent: AgentDid::parse("did:cdi:registry.test:agent:01JZ0000000000000000000001").unwrap(),
            owner: HumanDid::parse("did:cdi:registry.test:human:01JZ0000000000000000000002").unwrap(),
            jti: Ulid::parse("01JZ0000000000000000000003").unwrap(),
            issuer: Some("https://i".into()),
            kid: Some("k1".into()),
            ait_expires_at_ms: 10_000_000,
            generation: serde_json::from_str("\"00000000000000ab\"").unwrap(),
            opened_at_ms: 1,
            last_seen_ms: 100_000,
            looked_at_ms: 2,
            asked_at_ms: 3,
            progress_at_ms: 4,
            in_flight: vec![(5, 6)],
            pushed_through: 7,
            confirmed_through: 6,
            probe: Some(Probe {
                id: Ulid::parse("01JZ0000000000000000000004").unwrap(),
                through: 8,
            }),
            enqueued: Bucket::default(),
            idle: Bucket::default(),
            closed: false,
        }
    }

    #[test]
    fn a_silent_socket_is_doubted_and_then_closed() {
        let socket = attachment();
        let check = |now, doubtful, expect| {
            assert_eq!(
                (socket.is_doubtful(now), socket.step(now)),
                (doubtful, expect),
                "{now}"
            );
        };
        check(160_000, false, SocketStep::Nothing);
        check(160_001, true, SocketStep::Nothing);
        check(699_999, true, SocketStep::Nothing);
        check(700_000, true, SocketStep::CloseSilent);
        check(10_000_000, true, SocketStep::CloseExpired);
        assert_eq!(socket.next_due_ms(), 700_000);
        let old = Attachment {
            last_seen_ms: 9_900_000,
            ..socket
        };
        assert_eq!(old.next_due_ms(), 10_000_000);
        assert_eq!(old.step(9_999_999), SocketStep::Nothing);
    }

    #[test]
    fn an_agent_is_asked_about_after_five_minutes_and_twice_a_minute_at_most() {
        let check = |looked_at_ms, asked_at_ms, expect| {
            let socket = Attachment {
                looked_at_ms,
                asked_at_ms,
                ..attachment()
            };
            assert_eq!(
                socket.look_is_due(1_000_000),
                expect,
                "{looked_at_ms} {asked_at_ms}"
            );
        };
        check(700_000, 0, true);
        check(700_001, 0, false);
        check(700_000, 970_001, false);
        check(100_000, 970_000, true);
    }

    /// Kept with every open socket.
    #[test]
    fn attachment_is_pinned_and_small() {
        let text = serde_json::to_string(&attachment()).unwrap();
        assert_eq!(
            text,
            "{\"socketId\":\"00ff00ff00ff00ff\",\
             \"agent\":\"did:cdi:registry.test:agent:01JZ0000000000000000000001\",\
             \"owner\":\"did:cdi:registry.test:human:01JZ0000000000000000000002\",\
             \"jti\":\"01JZ0000000000000000000003\",\"issuer\":\"https://i\",\"kid\":\"k1\",\"aitExpiresAtMs\":10000000,\
             \"generation\":\"00000000000000ab\",\"openedAtMs\":1,\"lastSeenMs\":100000,\"lookedAtMs\":2,\
             \"askedAtMs\":3,\"progressAtMs\":4,\"inFlight\":[[5,6]],\"pushedThrough\":7,\"confirmedThrough\":6,\
             \"probe\":{\"id\":\"01JZ0000000000000000000004\",\"through\":8},\"enqueued\":0,\"idle\":0,\
             \"closed\":false}"
        );
        assert_eq!(serde_json::from_str::<Attachment>(&text).unwrap(), attachment());
        let full = Attachment {
            in_flight: vec![(1_000_000_000, 1_900_000_000_000); 100],
            kid: Some("k".repeat(1_024)),
            ..attachment()
        };
        assert!(serde_json::to_string(&full).unwrap().len() < 8_000);
    }
}

//! The forms of the feed: the events of the stream, and the bundle that policy engines load (docs/wire.md §10.2).
//!
//! Both are written here byte for byte, so that readers can be tested against them natively. Their content comes from
//! the ledger.

use serde::Serialize;
use serde_json::json;

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::{Item, Subject};

const TAR_BLOCK: usize = 512;

/// Whom a stream is for. One that an agent opened ends when that agent, or the token it showed, is revoked or expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Listener {
    /// The number up to which it has everything.
    pub since: u64,
    /// Who opened it; none for the bearer of the feed's token.
    pub caller: Option<ListeningAgent>,
}

/// An agent that opened a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ListeningAgent {
    /// The agent.
    pub agent: AgentDid,
    /// The token it showed.
    pub jti: Ulid,
    /// When that ends, Unix milliseconds.
    pub expires_at_ms: u64,
}

impl Listener {
    /// Whether this item ends the stream, after it was sent.
    pub fn is_ended_by(&self, item: &Item) -> bool {
        let Some(caller) = &self.caller else { return false };
        match &item.subject {
            Subject::Agent { agent } => *agent == caller.agent,
            Subject::Token { jti, .. } => *jti == caller.jti,
            Subject::Session { .. } | Subject::Lift { .. } => false,
        }
    }

    /// Whether it is over by the clock.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.caller
            .as_ref()
            .is_some_and(|caller| now_ms >= caller.expires_at_ms)
    }
}

/// One item as a server-sent event. JSON on one line needs no more than one `data:`.
pub fn event(item: &Item) -> String {
    format!(
        "event: revocation\nid: {}\ndata: {}\n\n",
        item.seq,
        item.to_json()
    )
}

/// A comment: the stream lives.
pub const ALIVE: &str = ": alive\n\n";

/// What stands, as an OPA bundle's files; `latest` is its revision.
#[derive(Debug, Default)]
pub struct Bundle {
    agents: serde_json::Map<String, serde_json::Value>,
    tokens: serde_json::Map<String, serde_json::Value>,
}

impl Bundle {
    /// Takes in a row that stands. A token that is over is left out.
    pub fn push(&mut self, item: Item, now_ms: u64) {
        let mut fields = json!({ "seq": item.seq, "revokedAt": item.revoked_at_ms, "source": item.source });
        let mut set = |name: &str, value: serde_json::Value| {
            if let Some(object) = fields.as_object_mut() {
                object.insert(name.to_owned(), value);
            }
        };
        if let Some(reason) = item.reason {
            set("reason", reason.into());
        }
        match item.subject {
            Subject::Agent { agent } => {
                self.agents.insert(agent.as_str().to_owned(), fields);
            }
            Subject::Token {
                jti,
                agent,
                expires_at_ms,
            } => {
                if expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
                    return;
                }
                if let Some(agent) = agent {
                    set("agentDid", agent.as_str().into());
                }
                if let Some(at_ms) = expires_at_ms {
                    set("expiresAt", at_ms.into());
                }
                self.tokens.insert(jti.to_string(), fields);
            }
            Subject::Session { .. } | Subject::Lift { .. } => {}
        }
    }

    /// The bundle as a tar archive, not yet compressed.
    pub fn tar(self, latest: u64) -> Vec<u8> {
        let manifest = json!({ "revision": latest.to_string(), "roots": ["revocations"] }).to_string();
        let data = json!({
            "revocations": { "latest": latest, "agents": self.agents, "tokens": self.tokens },
        });
        tar(&[
            (".manifest", manifest.as_bytes()),
            ("data.json", data.to_string().as_bytes()),
        ])
    }
}

/// A tar archive of plain files (POSIX ustar), whose bytes depend on nothing but names and contents.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        let mut header = Vec::with_capacity(TAR_BLOCK);
        header.extend_from_slice(&padded(name, 100));
        header.extend_from_slice(b"0000644\0"); // mode
        header.extend_from_slice(b"0000000\0"); // owner
        header.extend_from_slice(b"0000000\0"); // group
        header.extend_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header.extend_from_slice(b"00000000000\0"); // time
        let before = header.clone();
        header.extend_from_slice(b"        "); // the checksum, counted as blanks
        header.push(b'0'); // a plain file
        header.extend_from_slice(&padded("", 100));
        header.extend_from_slice(b"ustar\x0000");
        header.resize(TAR_BLOCK, 0);
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        let after = header.split_off(before.len() + 8);
        header.truncate(before.len());
        header.extend_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend_from_slice(&after);
        archive.extend_from_slice(&header);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(TAR_BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * TAR_BLOCK, 0);
    archive
}

fn padded(text: &str, width: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(width, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::revocation::Source;
    use clawdentity_protocol::testing::{agent, ulid};

    fn item(seq: u64, subject: Subject) -> Item {
        Item {
            seq,
            subject,
            reason: Some("why".into()),
            revoked_at_ms: 5,
            source: Source::Queue,
        }
    }

    fn token(n: u128, expires_at_ms: u64) -> Subject {
        Subject::Token {
            jti: ulid(n),
            agent: Some(agent(1)),
            expires_at_ms: Some(expires_at_ms),
        }
    }

    #[test]
    fn an_event_is_pinned() {
        let expect = "event: revocation\nid: 7\ndata: {\"seq\":7,\"kind\":\"agent\",\"agentDid\":\"did:cdi:registry.example.com:agent:00000000000000000000000001\",\"reason\":\"why\",\"revokedAt\":5,\"source\":\"queue\"}\n\n";
        assert_eq!(event(&item(7, Subject::Agent { agent: agent(1) })), expect);
    }

    #[test]
    fn a_stream_ends_with_the_agent_or_the_token_that_opened_it() {
        let caller = ListeningAgent {
            agent: agent(1),
            jti: ulid(7),
            expires_at_ms: 100,
        };
        let mine = Listener {
            since: 0,
            caller: Some(caller),
        };
        let bearer = Listener {
            since: 0,
            caller: None,
        };
        for (subject, expect) in [
            (Subject::Agent { agent: agent(1) }, true),
            (Subject::Agent { agent: agent(2) }, false),
            (token(7, 50), true),
            (token(8, 50), false),
            (Subject::Session { agent: agent(1) }, false),
        ] {
            let item = item(1, subject);
            assert_eq!(mine.is_ended_by(&item), expect, "{item:?}");
            assert!(!bearer.is_ended_by(&item));
        }
        assert!(!mine.is_over(99) && mine.is_over(100) && !bearer.is_over(100));
    }

    #[test]
    fn a_bundle_is_pinned() {
        let mut bundle = Bundle::default();
        bundle.push(item(3, Subject::Agent { agent: agent(1) }), 10);
        bundle.push(item(4, token(7, 11)), 10);
        bundle.push(item(5, token(8, 10)), 10);
        let tar = bundle.tar(5);
        assert_eq!(tar.len() % TAR_BLOCK, 0);
        assert_eq!(&tar[..10], b".manifest\0");
        let text = String::from_utf8(tar[TAR_BLOCK..2 * TAR_BLOCK].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches('\0'),
            r#"{"revision":"5","roots":["revocations"]}"#
        );
        assert_eq!(&tar[2 * TAR_BLOCK..2 * TAR_BLOCK + 10], b"data.json\0");
        let text = String::from_utf8(tar[3 * TAR_BLOCK..].to_vec()).unwrap();
        assert_eq!(
            text.trim_end_matches('\0'),
            r#"{"revocations":{"latest":5,"agents":{"did:cdi:registry.example.com:agent:00000000000000000000000001":{"seq":3,"revokedAt":5,"source":"queue","reason":"why"}},"tokens":{"00000000000000000000000007":{"seq":4,"revokedAt":5,"source":"queue","reason":"why","agentDid":"did:cdi:registry.example.com:agent:00000000000000000000000001","expiresAt":11}}}}"#
        );
    }
}

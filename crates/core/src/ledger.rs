//! What is recorded in the ledger of revocations, and the SQL that does it (docs/design.md §3.2).
//!
//! D1 runs the statements; what they make of a row that stands and an entry that comes is decided here and tested here, on
//! SQLite with the migrations that are deployed.

use serde::Serialize;

use crate::admission::TokenRevocation;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::Source;

pub mod statements;
#[cfg(test)]
mod tests;

/// What to record: one or more rows about one agent.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The agent; none if only tokens are known.
    pub agent: Option<&'a AgentDid>,
    /// Whether to write a row of kind `agent`.
    pub revoke_agent: bool,
    /// Whether to write a row of kind `session`.
    pub session_ended: bool,
    /// The tokens, which get a row of kind `token` each.
    pub tokens: &'a [TokenRevocation],
    /// When these tokens end, as the source tells it; Unix milliseconds. It can only lengthen what is known.
    pub told_expiry_ms: Option<u64>,
    /// Why, as the source says it.
    pub reason: Option<&'a str>,
    /// Who revoked it.
    pub source: Source,
    /// The event. The same event is recorded once.
    pub event_id: Option<&'a str>,
    /// When the source says that it happened, Unix milliseconds.
    pub revoked_at_ms: u64,
}

/// One thing that an entry names, as `statements` reads it.
#[derive(Serialize)]
struct Named<'a> {
    event: Option<&'a str>,
    kind: &'static str,
    subject: String,
    agent: Option<&'a str>,
    jti: Option<Ulid>,
    reason: Option<&'a str>,
    source: &'static str,
    at: u64,
    expires: Option<u64>,
}

impl<'a> Named<'a> {
    fn of(entry: &'a Entry<'a>) -> Vec<Self> {
        let agent = entry.agent.map(AgentDid::as_str);
        let named = |kind, subject, token: Option<&TokenRevocation>| Self {
            event: entry.event_id,
            kind,
            subject,
            agent,
            jti: token.map(|token| token.jti),
            reason: entry.reason,
            source: entry.source.as_str(),
            at: entry.revoked_at_ms,
            expires: entry.told_expiry_ms,
        };
        let mut all = Vec::new();
        for (kind, wanted) in [("agent", entry.revoke_agent), ("session", entry.session_ended)] {
            if let (true, Some(agent)) = (wanted, agent) {
                all.push(named(kind, agent.to_owned(), None));
            }
        }
        let tokens = entry.tokens.iter();
        all.extend(tokens.map(|token| named("token", token.jti.to_string(), Some(token))));
        all
    }
}

/// Everything that these entries name, as the statements read it; none where they name nothing.
pub fn named(entries: &[Entry<'_>]) -> Option<String> {
    let named: Vec<Named<'_>> = entries.iter().flat_map(Named::of).collect();
    if named.is_empty() {
        return None;
    }
    serde_json::to_string(&named).ok()
}

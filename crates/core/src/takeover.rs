//! What the TypeScript proxy kept in its object `global-trust`, read into the rows that this proxy keeps.
//!
//! An entry that cannot be read is skipped and counted, and stops nothing else. The order is the same whenever the same
//! storage is read, so that an import that was interrupted goes on where it was.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::issuer::Origin;
use clawdentity_protocol::key::PublicKey;
use clawdentity_protocol::profile::{Profile, ResponderProfile};
use clawdentity_protocol::ticket::Ticket;

/// The name of the object that kept them.
pub const OBJECT_NAME: &str = "global-trust";

/// The id of every pair that is taken over: it is enough that ids differ between the same two agents.
pub const PAIR_ID: &str = "imported";

const PAIRS: &str = "trust:pairs";
const REVOKED: &str = "trust:revoked-agents";
const OPEN: &str = "trust:pairing-tickets";
const CONFIRMED: &str = "trust:pairing-tickets-confirmed";

/// The keys that are read. A fifth, `trust:agent-peers`, repeats what the pairs say.
pub const KEYS: [&str; 4] = [PAIRS, OPEN, CONFIRMED, REVOKED];

/// What is to be written, stage by stage, and how many entries of it could not be read.
#[derive(Debug, Default)]
pub struct Kept {
    stages: [(Vec<Value>, u64); 3],
}

impl Kept {
    /// Reads what is stored; `value` gives what is under a key.
    pub fn parse(value: impl Fn(&str) -> Option<Value>) -> Self {
        Self {
            stages: [
                pairs(value(PAIRS)),
                tickets(value(OPEN), value(CONFIRMED)),
                revoked(value(REVOKED)),
            ],
        }
    }

    /// The rows of a stage: both directions of each pair; tickets; revoked agents.
    pub fn stage(&self, stage: usize) -> (&[Value], u64) {
        self.stages
            .get(stage)
            .map_or((&[], 0), |(rows, skipped)| (rows, *skipped))
    }
}

fn pairs(stored: Option<Value>) -> (Vec<Value>, u64) {
    let Some(Value::Array(entries)) = stored else {
        return (Vec::new(), 0);
    };
    let mut found = BTreeMap::new();
    let mut skipped = 0;
    for entry in &entries {
        match entry.as_str().and_then(pair) {
            Some((one, other)) => {
                found.insert((one.to_string(), other.to_string()), ());
                found.insert((other.to_string(), one.to_string()), ());
            }
            None => skipped += 1,
        }
    }
    let rows = found.into_keys().map(|(agent, peer)| json!([agent, peer]));
    (rows.collect(), skipped)
}

fn pair(text: &str) -> Option<(AgentDid, AgentDid)> {
    let (one, other) = text.split_once('|')?;
    let (one, other) = (AgentDid::parse(one).ok()?, AgentDid::parse(other).ok()?);
    (one != other).then_some((one, other))
}

/// An agent that was revoked is so for good, whenever the marker was to be forgotten.
fn revoked(stored: Option<Value>) -> (Vec<Value>, u64) {
    let named: Vec<String> = match stored {
        Some(Value::Array(agents)) => agents
            .iter()
            .map(|agent| agent.as_str().unwrap_or_default().to_owned())
            .collect(),
        Some(Value::Object(agents)) => agents.into_iter().map(|(agent, _)| agent).collect(),
        _ => Vec::new(),
    };
    let mut agents: Vec<&String> = named
        .iter()
        .filter(|agent| AgentDid::parse(agent).is_ok())
        .collect();
    let skipped = (named.len() - agents.len()) as u64;
    agents.sort();
    agents.dedup();
    (agents.into_iter().map(|agent| json!(agent)).collect(), skipped)
}

fn tickets(open: Option<Value>, confirmed: Option<Value>) -> (Vec<Value>, u64) {
    let mut rows = BTreeMap::new();
    let mut skipped = 0;
    // A ticket that is in both is confirmed.
    for (stored, read) in [
        (open, open_ticket as fn(&Entry<'_>) -> Option<Value>),
        (confirmed, confirmed_ticket),
    ] {
        let Some(Value::Object(entries)) = stored else {
            continue;
        };
        for (name, fields) in &entries {
            let entry = Entry::parse(name, fields);
            match entry.and_then(|entry| Some((entry.ticket.kid, read(&entry)?))) {
                Some((kid, row)) => {
                    rows.insert(kid.to_string(), row);
                }
                None => skipped += 1,
            }
        }
    }
    (rows.into_values().collect(), skipped)
}

/// A stored ticket with what both kinds have.
struct Entry<'a> {
    fields: &'a Map<String, Value>,
    text: &'a str,
    ticket: Ticket,
}

impl<'a> Entry<'a> {
    /// Older ones have the ticket itself for their key.
    fn parse(name: &'a str, fields: &'a Value) -> Option<Self> {
        let fields = fields.as_object()?;
        let text = fields.get("ticket").and_then(Value::as_str).unwrap_or(name);
        Some(Self {
            ticket: Ticket::parse(text).ok()?,
            fields,
            text,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.as_str().map(str::trim)
    }

    fn agent(&self, name: &str) -> Option<AgentDid> {
        AgentDid::parse(self.text(name)?).ok()
    }

    fn time(&self, name: &str) -> Option<u64> {
        self.fields.get(name)?.as_u64()
    }

    fn row(&self, more: Value) -> Option<Value> {
        let profile: Profile = serde_json::from_value(self.fields.get("initiatorProfile")?.clone()).ok()?;
        let issuer = Origin::parse(self.text("issuerProxyUrl")?).ok()?;
        let mut row = json!({
            "kid": self.ticket.kid,
            "issuer": issuer.as_str(),
            "publicKeyX": "",
            "expiresAtMs": self.time("expiresAtMs")?,
            "initiator": self.agent("initiatorAgentDid")?.as_str(),
            "initiatorProfile": serde_json::to_string(&profile).ok()?,
        });
        if let (Some(row), Value::Object(more)) = (row.as_object_mut(), more) {
            row.extend(more);
        }
        Some(row)
    }
}

fn open_ticket(entry: &Entry<'_>) -> Option<Value> {
    let key = PublicKey::from_x(entry.text("publicKeyX")?).ok()?;
    let allow = match entry.fields.get("allowResponderAgentDid") {
        None | Some(Value::Null) => None,
        Some(_) => Some(entry.agent("allowResponderAgentDid")?),
    };
    entry.row(json!({
        "publicKeyX": key.x(),
        "allowResponder": allow.as_ref().map(AgentDid::as_str),
    }))
}

/// Its key may not be kept any more: then its text is held against the one that is presented.
fn confirmed_ticket(entry: &Entry<'_>) -> Option<Value> {
    let mut profile = entry.fields.get("responderProfile")?.clone();
    if let Some(fields) = profile
        .as_object_mut()
        .filter(|fields| !fields.contains_key("proxyOrigin"))
    {
        fields.insert("proxyOrigin".into(), entry.text("issuerProxyUrl")?.into());
    }
    let profile: ResponderProfile = serde_json::from_value(profile).ok()?;
    let key = entry.text("publicKeyX").and_then(|x| PublicKey::from_x(x).ok());
    entry.row(json!({
        "publicKeyX": key.map(|key| key.x()).unwrap_or_default(),
        "responder": entry.agent("responderAgentDid")?.as_str(),
        "responderProfile": serde_json::to_string(&profile).ok()?,
        "confirmationId": "imported",
        "confirmedAtMs": entry.time("confirmedAtMs")?,
        "ticket": entry.text,
    }))
}

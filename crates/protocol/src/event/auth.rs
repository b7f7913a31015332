//! `agent.auth.revoked` and `agent.auth.refreshed` (docs/wire.md §7.1).
//!
//! What an event revokes follows from its reason and from whether it names a token:
//!
//! | reason | tokens named | revoked |
//! |---|---|---|
//! | `agent_revoked` | none | the agent |
//! | `agent_revoked` | some | the agent and those tokens |
//! | missing | none | the agent |
//! | missing or another | some | those tokens, never the agent |
//! | another | none | nothing: the agent's session ended |
//!
//! - A field may stand in `data`, in its `metadata`, or in both. Every agent that is named anywhere must be the same.
//! - An agent that is named badly makes the event unreadable.
//! - A token that is named badly does not. The agent is revoked if it is named well, whatever the reason, because
//!   nobody can tell which of its tokens was meant. The tokens that can be read are revoked too, and `bad_tokens`
//!   asks for an error in the log.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::did::{AgentDid, Authority};
use crate::ids::Ulid;
use crate::text;
use crate::time::{parse_iso, parse_loose};

/// The longest event id that is kept.
pub const MAX_EVENT_ID_CHARS: usize = 128;
const AGENT_REVOKED: &str = "agent_revoked";

/// A revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRevoked {
    /// The envelope's id, where it has one.
    pub event_id: Option<String>,
    /// Whose. `None` where only tokens are named: whose they are, the `jti` → agent table knows.
    pub agent: Option<AgentDid>,
    /// What is revoked.
    pub effect: Effect,
    /// When the named tokens expire, Unix milliseconds, where the event says so.
    pub token_expires_at_ms: Option<u64>,
    /// Why: one line of at most 280 characters.
    pub reason: Option<String>,
    /// When it was revoked, Unix milliseconds, where the event says so.
    pub event_at_ms: Option<u64>,
    /// Something it says of its tokens could not be read: worth an error line.
    pub bad_tokens: bool,
}

/// What is revoked. At least one of the three.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The agent. With no agent named: the one whose tokens these are.
    pub revoke_agent: bool,
    /// These tokens, each once.
    pub tokens: Vec<Ulid>,
    /// The agent's session: every cached validation of its access is void. An agent is named then.
    pub session_ended: bool,
}

/// An agent has a new access token, and its old one is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthRefreshed {
    /// The envelope's id, where it has one.
    pub event_id: Option<String>,
    /// Whose.
    pub agent: AgentDid,
    /// When, Unix milliseconds, where the event says so.
    pub event_at_ms: Option<u64>,
}

impl AuthRevoked {
    pub(super) fn parse(body: &str, issuer: &Authority) -> Result<Self, &'static str> {
        let event = AuthEvent::parse(body)?;
        let agent = event.agent(issuer)?;
        let (tokens, bad_token) = event.tokens();
        let reason = event.reason()?;
        let (token_expires_at_ms, bad_expiry) = event.token_expiry();

        let revoke_agent = match reason.as_deref() {
            _ if bad_token && agent.is_some() => true,
            Some(AGENT_REVOKED) => true,
            None => tokens.is_empty(),
            Some(_) => false,
        };
        let session_ended = !revoke_agent && tokens.is_empty();
        if agent.is_none() && tokens.is_empty() {
            return Err(if bad_token {
                "names no agent, and no token that can be read"
            } else {
                "names neither an agent nor a token"
            });
        }
        Ok(Self {
            event_id: event.id(),
            agent,
            effect: Effect {
                revoke_agent,
                tokens,
                session_ended,
            },
            token_expires_at_ms,
            reason,
            event_at_ms: event.at_ms(),
            bad_tokens: bad_token || bad_expiry,
        })
    }
}

impl AuthRefreshed {
    pub(super) fn parse(body: &str, issuer: &Authority) -> Result<Self, &'static str> {
        let event = AuthEvent::parse(body)?;
        let agent = event.agent(issuer)?.ok_or("names no agent")?;
        Ok(Self {
            event_id: event.id(),
            agent,
            event_at_ms: event.at_ms(),
        })
    }
}

/// The envelope, its `data` and the `metadata` in there.
struct AuthEvent<'a> {
    envelope: Fields<'a>,
    data: Fields<'a>,
    metadata: Option<Fields<'a>>,
}

impl<'a> AuthEvent<'a> {
    fn parse(body: &'a str) -> Result<Self, &'static str> {
        let envelope: Fields<'a> = serde_json::from_str(body).map_err(|_| "envelope is not an object")?;
        let [data] = envelope.all("data")[..] else {
            return Err("envelope does not have exactly one data");
        };
        let data: Fields<'a> = serde_json::from_str(data.get()).map_err(|_| "data is not an object")?;
        let metadata = match data.all("metadata")[..] {
            [] => None,
            [metadata] if metadata.get() == "null" => None,
            [metadata] => {
                Some(serde_json::from_str(metadata.get()).map_err(|_| "metadata is not an object")?)
            }
            _ => return Err("data has more than one metadata"),
        };
        Ok(Self {
            envelope,
            data,
            metadata,
        })
    }

    /// Every value of this field in `data` and in `metadata`; `null` counts as absent.
    fn values(&self, name: &str) -> Vec<Value> {
        let metadata = self.metadata.iter().flat_map(|metadata| metadata.all(name));
        self.data
            .all(name)
            .into_iter()
            .chain(metadata)
            .filter(|raw| raw.get() != "null")
            .map(value)
            .collect()
    }

    /// The one agent that all its names are.
    fn agent(&self, issuer: &Authority) -> Result<Option<AgentDid>, &'static str> {
        let mut agent: Option<AgentDid> = None;
        let bare = self
            .data
            .all("agentId")
            .into_iter()
            .filter(|raw| raw.get() != "null")
            .map(|raw| {
                let ulid = value(raw)
                    .as_str()
                    .and_then(|text| Ulid::parse(text).ok())
                    .ok_or("agentId is not a ULID")?;
                Ok(AgentDid::from_parts(issuer, ulid))
            });
        let full = self.values("agentDid").into_iter().map(|value| {
            let did = value
                .as_str()
                .and_then(|text| AgentDid::parse(text).ok())
                .ok_or("agentDid is not an agent DID")?;
            if did.authority() == issuer.as_str() {
                Ok(did)
            } else {
                Err("agentDid belongs to another authority")
            }
        });
        for name in bare.chain(full) {
            let name = name?;
            if agent.as_ref().is_some_and(|agent| *agent != name) {
                return Err("names two agents");
            }
            agent = Some(name);
        }
        Ok(agent)
    }

    /// The tokens that can be read, each once; whether any is named that cannot be.
    fn tokens(&self) -> (Vec<Ulid>, bool) {
        let (mut tokens, mut seen, mut bad) = (Vec::new(), BTreeSet::new(), false);
        let mut take = |value: &Value| match value.as_str().and_then(|text| Ulid::parse(text).ok()) {
            Some(jti) if seen.insert(jti) => tokens.push(jti),
            Some(_) => {}
            None => bad = true,
        };
        for value in self.values("jti") {
            take(&value);
        }
        for value in self.values("jtis") {
            match value {
                Value::Array(list) => list.iter().for_each(&mut take),
                other => take(&other),
            }
        }
        (tokens, bad)
    }

    /// The reason; blank is missing.
    fn reason(&self) -> Result<Option<String>, &'static str> {
        match self.data.all("reason")[..] {
            [] => Ok(None),
            [raw] => match value(raw) {
                Value::Null => Ok(None),
                Value::String(reason) => Ok(text::reason(&reason)),
                _ => Err("reason is not a string"),
            },
            _ => Err("data has more than one reason"),
        }
    }

    /// When the tokens expire, and whether it says so unreadably. Of several, the latest: a token must stay revoked
    /// as long as it could be used.
    fn token_expiry(&self) -> (Option<u64>, bool) {
        let times: Vec<_> = self.values("expiresAt").iter().map(parse_loose).collect();
        if times.contains(&None) {
            (None, true)
        } else {
            (times.into_iter().flatten().max(), false)
        }
    }

    fn id(&self) -> Option<String> {
        let [id] = self.envelope.all("id")[..] else {
            return None;
        };
        let id = text::reason(value(id).as_str()?)?;
        id.chars().nth(MAX_EVENT_ID_CHARS).is_none().then_some(id)
    }

    fn at_ms(&self) -> Option<u64> {
        let [time] = self.envelope.all("timestampUtc")[..] else {
            return None;
        };
        parse_iso(value(time).as_str()?).ok()
    }
}

fn value(raw: &RawValue) -> Value {
    // A value that is nested too deep to be read is a bad value like any other, but not an absent one.
    serde_json::from_str(raw.get()).unwrap_or(Value::Bool(false))
}

/// An object's fields as they stand, repeated ones included: a map would keep the last and say nothing.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Fields<'a> {
    fn all(&self, name: &str) -> Vec<&'a RawValue> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| *value)
            .collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor<'a>(std::marker::PhantomData<&'a ()>);

        impl<'de: 'a, 'a> Visitor<'de> for FieldsVisitor<'a> {
            type Value = Fields<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'a>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push((field.0, field.1 as &'a RawValue));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor(std::marker::PhantomData))
    }
}

#[cfg(test)]
pub(super) mod tests;

//! Revocations on the wire: the items of the feed, its pages, and an operator's order (docs/wire.md §10).
//!
//! An [`Item`] is one row of the ledger. It holds a number and exactly what its kind of row is about, so an item of
//! kind `agent` cannot lack its agent.
//!
//! - A field that a reader does not know is skipped, because readers of the feed are deployed apart from the proxy.
//! - An item of a *kind* that a reader does not know is skipped, because readers and proxies are deployed apart; a source
//!   that it does not know is `other`. An item of a known kind that cannot be read makes its page unreadable, because
//!   nobody can safely skip a revocation.
//! - An operator's order is a closed set of fields: a typing error must not turn the revocation of a token into that
//!   of an agent.
//!
//! Numbering, merging and lifting is the ledger's work, and keeping a set is the guard's.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::did::AgentDid;
use super::ids::Ulid;
use super::text::{Object, json, object, present, reason};
use super::time::parse_loose;

/// The largest `seq`: exact in JavaScript and in D1.
pub const MAX_SEQ: u64 = (1 << 53) - 1;
/// The most items of a page.
pub const MAX_PAGE_ITEMS: usize = 1000;
/// The largest item: two identifiers, a reason of 280 characters and some numbers stay far below it.
pub const MAX_ITEM_BYTES: usize = 4 * 1024;
/// The largest page.
pub const MAX_PAGE_BYTES: usize = MAX_PAGE_ITEMS * MAX_ITEM_BYTES + 1024;
/// The largest order of an operator.
pub const MAX_ORDER_BYTES: usize = MAX_ITEM_BYTES;

/// The input is not what docs/wire.md §10 says. The text repeats nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RevocationError(&'static str);

impl RevocationError {
    /// What to tell the caller.
    pub const fn reason(self) -> &'static str {
        self.0
    }
}

/// Who revoked something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// An event of the registry.
    Queue,
    /// The registry's signed list.
    Crl,
    /// An operator.
    Operator,
    /// A source that only a newer version knows. It is never written.
    Other,
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::parse(&text).unwrap_or(Self::Other))
    }
}

impl Source {
    /// As in the ledger, the feed and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Crl => "crl",
            Self::Operator => "operator",
            Self::Other => "other",
        }
    }

    /// The source of this name, if this version knows it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "queue" => Some(Self::Queue),
            "crl" => Some(Self::Crl),
            "operator" => Some(Self::Operator),
            _ => None,
        }
    }
}

/// What an item is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The agent, with every token it has or will have.
    Agent {
        /// The agent.
        agent: AgentDid,
    },
    /// One token.
    Token {
        /// The token.
        jti: Ulid,
        /// The agent that it belongs to, if that is known.
        agent: Option<AgentDid>,
        /// When the token expires, Unix milliseconds, if that is known.
        expires_at_ms: Option<u64>,
    },
    /// The agent's session: its access tokens, not its AIT.
    Session {
        /// The agent.
        agent: AgentDid,
    },
    /// An earlier item no longer counts.
    Lift {
        /// That item's number.
        lifts: u64,
        /// The agent that it was about, where the ledger says so.
        agent: Option<AgentDid>,
        /// The token that it was about, where the ledger says so.
        jti: Option<Ulid>,
    },
}

impl Subject {
    /// `kind` on the wire and in the ledger.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Agent { .. } => "agent",
            Self::Token { .. } => "token",
            Self::Session { .. } => "session",
            Self::Lift { .. } => "lift",
        }
    }

    /// The agent, where one is named.
    pub const fn agent(&self) -> Option<&AgentDid> {
        match self {
            Self::Agent { agent } | Self::Session { agent } => Some(agent),
            Self::Token { agent, .. } | Self::Lift { agent, .. } => agent.as_ref(),
        }
    }

    /// The token, where one is named.
    pub const fn jti(&self) -> Option<Ulid> {
        match self {
            Self::Token { jti, .. } => Some(*jti),
            Self::Lift { jti, .. } => *jti,
            Self::Agent { .. } | Self::Session { .. } => None,
        }
    }
}

/// One row of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number, from 1 on. Later rows have higher numbers, and numbers may be left out.
    pub seq: u64,
    /// What it is about.
    pub subject: Subject,
    /// The reason, for people.
    pub reason: Option<String>,
    /// When the source says that it happened, Unix milliseconds.
    pub revoked_at_ms: u64,
    /// Who revoked it.
    pub source: Source,
}

impl Item {
    /// Parses one item, as in the `data:` of the event stream.
    ///
    /// # Errors
    /// Over `MAX_ITEM_BYTES`, or not an item.
    pub fn parse(body: &[u8]) -> Result<Self, RevocationError> {
        if body.len() > MAX_ITEM_BYTES {
            return Err(RevocationError("a revocation is too large"));
        }
        object(body).ok_or(RevocationError("not a revocation"))
    }

    /// The same, and nothing where its kind is not known here.
    ///
    /// # Errors
    /// As `parse`.
    pub fn parse_known(body: &[u8]) -> Result<Option<Self>, RevocationError> {
        if body.len() > MAX_ITEM_BYTES {
            return Err(RevocationError("a revocation is too large"));
        }
        let known: Known = serde_json::from_slice(body).map_err(|_| RevocationError("not a revocation"))?;
        Ok(known.item)
    }

    /// The JSON text that `parse` accepts, on one line.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

/// The longest epoch.
const MAX_EPOCH_CHARS: usize = 64;

/// Whether a text can be an epoch: short, and of characters that need no escaping in a query or a tag.
pub fn is_epoch(text: &str) -> bool {
    (1..=MAX_EPOCH_CHARS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The `ETag` of the ledger at this number of this epoch. A proxy from before epochs has numbers alone.
pub fn tag(epoch: &str, latest: u64) -> String {
    match epoch {
        "" => format!("\"{latest}\""),
        _ => format!("\"{epoch}-{latest}\""),
    }
}

/// A page of the feed: the answer of `GET /v1/revocations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Page {
    /// What the numbers belong to; numbers of another epoch mean other rows. Empty where the proxy knows no epochs.
    pub epoch: String,
    /// The ledger's last number; 0 where it is empty.
    pub latest: u64,
    /// What to ask for next: all items up to this number were given.
    pub next: u64,
    /// Whether there are rows after this page.
    pub more: bool,
    /// The position asked for was of another epoch or above the latest number, so this page begins at the beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reset: bool,
    /// In order of their numbers.
    pub items: Vec<Item>,
}

#[derive(Deserialize)]
struct RawPage {
    #[serde(default)]
    epoch: String,
    latest: u64,
    next: u64,
    more: bool,
    #[serde(default)]
    reset: bool,
    items: Vec<Known>,
}

/// An item, or nothing where its kind is not known here.
struct Known {
    seq: u64,
    item: Option<Item>,
}

impl<'de> Deserialize<'de> for Known {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            seq: u64,
            kind: String,
        }

        let text = Box::<RawValue>::deserialize(deserializer)?;
        match serde_json::from_str::<Item>(text.get()) {
            Ok(item) => Ok(Self {
                seq: item.seq,
                item: Some(item),
            }),
            Err(error) => match serde_json::from_str::<Object<Head>>(text.get()) {
                Ok(Object(head)) if !KINDS.contains(&head.kind.as_str()) && is_seq(head.seq) => Ok(Self {
                    seq: head.seq,
                    item: None,
                }),
                _ => Err(serde::de::Error::custom(error)),
            },
        }
    }
}

impl Page {
    /// Parses a page. Numbers must rise from item to item, and `next` and `latest` must not lie before the last one.
    /// Items of unknown kinds are left out.
    ///
    /// # Errors
    /// Over `MAX_PAGE_BYTES`, or not a page.
    pub fn parse(body: &[u8]) -> Result<Self, RevocationError> {
        const MALFORMED: RevocationError = RevocationError("not a page of revocations");
        if body.len() > MAX_PAGE_BYTES {
            return Err(RevocationError("a page of revocations is too large"));
        }
        let raw: RawPage = object(body).ok_or(MALFORMED)?;
        let mut last = 0;
        for item in &raw.items {
            if item.seq <= last {
                return Err(MALFORMED);
            }
            last = item.seq;
        }
        let in_order = last <= raw.next && last <= raw.latest;
        let epoch_is_good = raw.epoch.is_empty() || is_epoch(&raw.epoch);
        let too_high = raw.latest.max(raw.next) > MAX_SEQ;
        if raw.items.len() > MAX_PAGE_ITEMS || too_high || !in_order || !epoch_is_good {
            return Err(MALFORMED);
        }
        Ok(Self {
            epoch: raw.epoch,
            latest: raw.latest,
            next: raw.next,
            more: raw.more,
            reset: raw.reset,
            items: raw.items.into_iter().filter_map(|known| known.item).collect(),
        })
    }

    /// The JSON text that `parse` accepts.
    pub fn to_json(&self) -> String {
        json(self)
    }
}

/// What an operator may revoke: the body of `POST /admin/v1/revocations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What to revoke; never a lift, which has a route of its own.
    pub subject: Subject,
    /// The reason, for people.
    pub reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawOrder {
    kind: Kind,
    #[serde(default, deserialize_with = "present")]
    agent_did: Option<AgentDid>,
    #[serde(default, deserialize_with = "present")]
    jti: Option<Ulid>,
    #[serde(default, deserialize_with = "present")]
    expires_at: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    reason: Option<String>,
}

impl Order {
    /// Parses an order. `expiresAt` may be ISO-8601, seconds or milliseconds. A field that the kind has no use for is
    /// refused, because whoever names a token and says `agent` may mean either.
    ///
    /// # Errors
    /// What is wrong with it, for the operator to read.
    pub fn parse(body: &[u8]) -> Result<Self, RevocationError> {
        if body.len() > MAX_ORDER_BYTES {
            return Err(RevocationError("the body is too large"));
        }
        let raw: RawOrder = object(body).ok_or(RevocationError(
            "the body is not {kind, agentDid?, jti?, expiresAt?, reason?} with valid identifiers",
        ))?;
        let expires_at_ms = match &raw.expires_at {
            Some(value) => Some(parse_loose(value).ok_or(RevocationError("expiresAt is not a time"))?),
            None => None,
        };
        let of_token = raw.jti.is_some() || expires_at_ms.is_some();
        let subject = match (raw.kind, raw.agent_did, raw.jti) {
            (Kind::Token, agent, Some(jti)) => Subject::Token {
                jti,
                agent,
                expires_at_ms,
            },
            (Kind::Token, _, None) => return Err(RevocationError("kind token needs jti")),
            (Kind::Lift, ..) => {
                return Err(RevocationError(
                    "a lift is requested with POST …/revocations/<seq>/lift",
                ));
            }
            (Kind::Agent | Kind::Session, _, _) if of_token => {
                return Err(RevocationError("jti and expiresAt belong to kind token"));
            }
            (Kind::Agent, Some(agent), _) => Subject::Agent { agent },
            (Kind::Session, Some(agent), _) => Subject::Session { agent },
            (Kind::Agent | Kind::Session, None, _) => {
                return Err(RevocationError("kinds agent and session need agentDid"));
            }
        };
        Ok(Self {
            subject,
            reason: raw.reason.as_deref().and_then(reason),
        })
    }

    /// The JSON text that `parse` accepts.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            agent_did: Option<&'a AgentDid>,
            #[serde(skip_serializing_if = "Option::is_none")]
            jti: Option<Ulid>,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }

        json(&Written {
            kind: self.subject.kind(),
            agent_did: self.subject.agent(),
            jti: self.subject.jti(),
            expires_at: expiry(&self.subject),
            reason: self.reason.as_deref(),
        })
    }
}

const KINDS: [&str; 4] = ["agent", "token", "session", "lift"];

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Agent,
    Token,
    Session,
    Lift,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawItem {
    seq: u64,
    kind: Kind,
    agent_did: Option<AgentDid>,
    jti: Option<Ulid>,
    lifts: Option<u64>,
    reason: Option<String>,
    revoked_at: u64,
    expires_at: Option<u64>,
    source: Source,
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Object(raw) = Object::<RawItem>::deserialize(deserializer)?;
        raw.item()
            .ok_or_else(|| serde::de::Error::custom("not a revocation"))
    }
}

impl RawItem {
    fn item(self) -> Option<Item> {
        if !is_seq(self.seq) {
            return None;
        }
        let subject = match self.kind {
            Kind::Agent => Subject::Agent {
                agent: self.agent_did?,
            },
            Kind::Session => Subject::Session {
                agent: self.agent_did?,
            },
            Kind::Token => Subject::Token {
                jti: self.jti?,
                agent: self.agent_did,
                expires_at_ms: self.expires_at,
            },
            Kind::Lift => Subject::Lift {
                lifts: self.lifts.filter(|lifts| is_seq(*lifts) && *lifts < self.seq)?,
                agent: self.agent_did,
                jti: self.jti,
            },
        };
        Some(Item {
            seq: self.seq,
            subject,
            reason: self.reason.as_deref().and_then(reason),
            revoked_at_ms: self.revoked_at,
            source: self.source,
        })
    }
}

fn is_seq(number: u64) -> bool {
    (1..=MAX_SEQ).contains(&number)
}

const fn expiry(subject: &Subject) -> Option<u64> {
    match subject {
        Subject::Token { expires_at_ms, .. } => *expires_at_ms,
        _ => None,
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            seq: u64,
            kind: &'static str,
            #[serde(skip_serializing_if = "Option::is_none")]
            agent_did: Option<&'a AgentDid>,
            #[serde(skip_serializing_if = "Option::is_none")]
            jti: Option<Ulid>,
            #[serde(skip_serializing_if = "Option::is_none")]
            lifts: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
            revoked_at: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<u64>,
            source: Source,
        }

        let lifts = match &self.subject {
            Subject::Lift { lifts, .. } => Some(*lifts),
            _ => None,
        };
        Written {
            seq: self.seq,
            kind: self.subject.kind(),
            agent_did: self.subject.agent(),
            jti: self.subject.jti(),
            lifts,
            reason: self.reason.as_deref(),
            revoked_at: self.revoked_at_ms,
            expires_at: expiry(&self.subject),
            source: self.source,
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests;

//! `group.member.joined`: the registry announces it, and the recipient's connector is told (docs/wire.md §7).

use serde::{Deserialize, Serialize};

use crate::did::AgentDid;
use crate::ids::{GroupId, MessageId};
use crate::text::{Object, json, object};
use crate::time::parse_iso;

/// Its `type`.
pub const GROUP_MEMBER_JOINED: &str = "group.member.joined";
/// `deliverySource` of its delivery.
pub const GROUP_MEMBER_JOINED_SOURCE: &str = "proxy.events.queue.group_member_joined";
/// The longest name of a group or of an agent in it: the registry's own limits are below this.
pub const MAX_GROUP_NAME_CHARS: usize = 256;

/// What an agent may do in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupRole {
    /// Take part.
    Member,
    /// Run it.
    Admin,
}

/// An agent joined a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMemberJoined {
    /// Who is told.
    pub recipient: AgentDid,
    /// Who joined: the sender of the delivery.
    pub joined: AgentDid,
    /// The joined agent's name: trimmed, not blank, at most 256 characters.
    pub joined_name: String,
    /// The group.
    pub group_id: GroupId,
    /// The group's name: trimmed, not blank, at most 256 characters.
    pub group_name: String,
    /// As what.
    pub role: GroupRole,
    /// When: an ISO-8601 time, in the registry's own spelling, which is part of the delivery's id.
    pub joined_at: String,
    /// What the recipient is told: the registry's words, else `<name> joined <group>.`.
    pub message: String,
}

#[derive(Deserialize)]
struct Envelope {
    data: Object<Incoming>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    recipient_agent_did: AgentDid,
    joined_agent_did: AgentDid,
    joined_agent_name: String,
    group_id: GroupId,
    group_name: String,
    role: GroupRole,
    joined_at: String,
    #[serde(default)]
    message: Option<String>,
}

impl GroupMemberJoined {
    pub(super) fn parse(body: &str) -> Result<Self, &'static str> {
        let Envelope { data: Object(data) } =
            object(body.as_bytes()).ok_or("group.member.joined is malformed")?;
        let joined_name =
            name(&data.joined_agent_name).ok_or("joinedAgentName is blank or over 256 characters")?;
        let group_name = name(&data.group_name).ok_or("groupName is blank or over 256 characters")?;
        let joined_at = data.joined_at.trim();
        parse_iso(joined_at).map_err(|_| "joinedAt is not an ISO-8601 time")?;
        let message = match data.message.as_deref().map(str::trim) {
            Some(message) if !message.is_empty() => message.to_owned(),
            _ => format!("{joined_name} joined {group_name}."),
        };
        Ok(Self {
            recipient: data.recipient_agent_did,
            joined: data.joined_agent_did,
            joined_name,
            group_id: data.group_id,
            group_name,
            role: data.role,
            joined_at: joined_at.to_owned(),
            message,
        })
    }

    /// The delivery's id: the same for every copy of the event.
    pub fn request_id(&self) -> MessageId {
        MessageId::of_parts(format!(
            "{GROUP_MEMBER_JOINED}:{}:{}:{}:{}",
            self.group_id, self.joined, self.recipient, self.joined_at
        ))
    }

    /// What the recipient's connector is sent.
    pub fn payload_json(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Payload<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            event: &'static str,
            message: &'a str,
            group_id: GroupId,
            group_name: &'a str,
            joined_agent_did: &'a AgentDid,
            joined_agent_name: &'a str,
            role: GroupRole,
            joined_at: &'a str,
        }

        json(&Payload {
            kind: "clawdentity:group-member-joined",
            event: GROUP_MEMBER_JOINED,
            message: &self.message,
            group_id: self.group_id,
            group_name: &self.group_name,
            joined_agent_did: &self.joined,
            joined_agent_name: &self.joined_name,
            role: self.role,
            joined_at: &self.joined_at,
        })
    }
}

fn name(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.chars().nth(MAX_GROUP_NAME_CHARS).is_none()).then(|| text.to_owned())
}

//! Parses the frames that a connector sends.
//!
//! The first pass reads `type` and `id`, whatever the rest of the frame is, so that a broken `enqueue` can be
//! answered; they count even if the text behind them is not JSON at all (`NaN` is what some connectors write). The
//! second pass reads the whole frame and accepts nothing but its own fields. A `type` or `id` that is given twice counts
//! as missing.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    Enqueue, FrameError, InboundFrame, MAX_INBOUND_FRAME_BYTES, parse_conversation_id, parse_reply_to,
};
use crate::did::AgentDid;
use crate::ids::{GroupId, Ulid};
use crate::payload;
use crate::text::{self, object, present};
use crate::time::parse_iso;

/// Parses a frame.
///
/// # Errors
/// As `FrameError` lists them. Everything but `BadEnqueue` is to be ignored.
pub fn parse_inbound(frame: &str) -> Result<InboundFrame, FrameError> {
    if frame.len() > MAX_INBOUND_FRAME_BYTES {
        return Err(FrameError::Unreadable);
    }
    let (head, fault) = Head::read(frame);
    if let Some(reason) = fault {
        return Err(match (head.kind.as_deref(), head.id) {
            (Some("enqueue"), Some(id)) => FrameError::BadEnqueue { id, reason },
            _ => FrameError::Unreadable,
        });
    }
    match head.kind.as_deref() {
        Some("heartbeat") => {
            let Heartbeat { id, .. } = closed(frame)?;
            Ok(InboundFrame::Heartbeat { id })
        }
        Some("heartbeat_ack") => {
            let HeartbeatAck { ack_id, .. } = closed(frame)?;
            Ok(InboundFrame::HeartbeatAck { ack_id })
        }
        Some("deliver_ack") => {
            let DeliverAck {
                id,
                ack_id,
                accepted,
                reason,
                ..
            } = closed(frame)?;
            Ok(InboundFrame::DeliverAck {
                id,
                ack_id,
                accepted,
                reason: reason.as_deref().and_then(text::reason),
            })
        }
        Some("enqueue") => {
            let id = head.id.ok_or(FrameError::Malformed)?;
            parse_enqueue(id, frame)
                .map(InboundFrame::Enqueue)
                .map_err(|reason| FrameError::BadEnqueue { id, reason })
        }
        _ => Err(FrameError::Malformed),
    }
}

/// The text of a binary message. Where it is not Unicode, what stands before the fault, made sure to be no JSON: as much
/// of it as there is may name a frame that is to be answered.
pub fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let valid = error.utf8_error().valid_up_to();
        let mut text =
            String::from_utf8(error.into_bytes().into_iter().take(valid).collect()).unwrap_or_default();
        text.push('\0');
        text
    })
}

fn closed<'a, T: Deserialize<'a>>(frame: &'a str) -> Result<T, FrameError> {
    object(frame.as_bytes()).ok_or(FrameError::Malformed)
}

/// Field by field, so that the sender learns which one it is.
fn parse_enqueue(id: Ulid, frame: &str) -> Result<Enqueue, &'static str> {
    let raw: RawEnqueue<'_> = object(frame.as_bytes())
        .ok_or("enqueue must have v, type, id, ts, toAgentDid, payload and no unknown or repeated fields")?;
    field::<Version>(raw.v).ok_or("v must be 1")?;
    field::<Time>(raw.ts).ok_or("ts must be ISO-8601 with a zone")?;
    let to = field::<AgentDid>(raw.to_agent_did).ok_or("toAgentDid must be an agent DID")?;
    let group_id = optional::<GroupId>(raw.group_id, "groupId must be grp_<ULID>")?;
    let conversation_id = optional::<String>(raw.conversation_id, "conversationId must be a string")?;
    let reply_to = optional::<String>(raw.reply_to, "replyTo must be a string")?;
    payload::check(raw.payload).map_err(|error| error.reason())?;
    Ok(Enqueue {
        id,
        to,
        payload: raw.payload.to_owned(),
        group_id,
        conversation_id: conversation_id
            .as_deref()
            .map(parse_conversation_id)
            .transpose()?,
        reply_to: reply_to.as_deref().map(parse_reply_to).transpose()?,
    })
}

fn field<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

fn optional<'a, T: Deserialize<'a>>(
    raw: Option<&'a RawValue>,
    fault: &'static str,
) -> Result<Option<T>, &'static str> {
    raw.map(|raw| field(raw).ok_or(fault)).transpose()
}

/// `type` and `id`, as far as they can be read.
struct Head {
    kind: Option<String>,
    id: Option<Ulid>,
}

impl Head {
    /// What could be read, and what is wrong with the text if it is not JSON.
    fn read(frame: &str) -> (Self, Option<&'static str>) {
        let text = frame.strip_prefix('\u{feff}').unwrap_or(frame);
        let mut seen = Seen::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let read = (&mut seen)
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end());
        let fault = match read {
            Err(_) => Some("the frame is not JSON"),
            Ok(()) if text.len() < frame.len() => Some("a byte order mark stands before the frame"),
            Ok(()) => None,
        };
        let head = Self {
            kind: single(&seen.kinds),
            id: single(&seen.ids),
        };
        (head, fault)
    }
}

#[derive(Default)]
struct Seen<'de> {
    kinds: Vec<&'de RawValue>,
    ids: Vec<&'de RawValue>,
}

impl<'de> DeserializeSeed<'de> for &mut Seen<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &mut Seen<'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // Raw, because a key that is not valid Unicode must not keep the sender from its answer.
        while let Some(key) = map.next_key::<&RawValue>()? {
            match field::<String>(key).unwrap_or_default().as_str() {
                "type" => self.kinds.push(map.next_value::<&RawValue>()?),
                "id" => self.ids.push(map.next_value::<&RawValue>()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

fn single<'a, T: Deserialize<'a>>(values: &[&'a RawValue]) -> Option<T> {
    match values {
        [value] => field(value),
        _ => None,
    }
}

/// `v`: 1.
struct Version;

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(Self),
            _ => Err(D::Error::custom("expected 1")),
        }
    }
}

/// `ts`: checked, and not used for anything: a connector's clock decides nothing.
struct Time;

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_iso(&text).map(|_| Self).map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heartbeat {
    #[serde(rename = "v")]
    _version: Version,
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    id: Ulid,
    #[serde(rename = "ts")]
    _time: Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatAck {
    #[serde(rename = "v")]
    _version: Version,
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "id")]
    _id: Ulid,
    #[serde(rename = "ts")]
    _time: Time,
    #[serde(rename = "ackId")]
    ack_id: Ulid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliverAck {
    #[serde(rename = "v")]
    _version: Version,
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    id: Ulid,
    #[serde(rename = "ts")]
    _time: Time,
    #[serde(rename = "ackId")]
    ack_id: Ulid,
    accepted: bool,
    /// `null` is what some connectors send for none.
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEnqueue<'a> {
    #[serde(borrow)]
    v: &'a RawValue,
    #[serde(rename = "type")]
    _kind: IgnoredAny,
    #[serde(rename = "id")]
    _id: IgnoredAny,
    #[serde(borrow)]
    ts: &'a RawValue,
    #[serde(borrow)]
    to_agent_did: &'a RawValue,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow, default, deserialize_with = "present")]
    group_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    conversation_id: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    reply_to: Option<&'a RawValue>,
}

//! What two agents learn of each other when they pair (docs/wire.md §5.5).
//!
//! Names are trimmed and have 1 to 64 characters, none of them a control character. `proxyOrigin` is an http(s) URL
//! and is kept as its origin. A responder's profile always has one, because the initiator could not reach it
//! otherwise.

use std::ops::Deref;

use serde::{Deserialize, Serialize};

use super::issuer::Origin;
use super::text::{Object, has_control, string_form};

/// The longest name.
pub const MAX_NAME_CHARS: usize = 64;

/// Not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a name of 1-64 characters without control characters")]
pub struct NameError;

/// A name that people read.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Parses and trims.
    ///
    /// # Errors
    /// What is blank, too long or has control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let text = text.trim();
        if text.is_empty() || text.chars().nth(MAX_NAME_CHARS).is_some() || has_control(text) {
            return Err(NameError);
        }
        Ok(Self(text.to_owned()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

string_form!(Name, "a name of 1-64 characters without control characters");

/// A profile. As JSON `{"agentName","humanName","proxyOrigin"?}`; deserialising checks it, and fields it does not know
/// are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Object<Fields>")]
pub struct Profile {
    /// The agent's name.
    pub agent_name: Name,
    /// Its human's name.
    pub human_name: Name,
    /// Where its proxy is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_origin: Option<Origin>,
}

/// A profile that has its `proxyOrigin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Profile")]
pub struct ResponderProfile {
    /// The agent's name.
    pub agent_name: Name,
    /// Its human's name.
    pub human_name: Name,
    /// Where its proxy is.
    pub proxy_origin: Origin,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    agent_name: Name,
    human_name: Name,
    #[serde(default)]
    proxy_origin: Option<Origin>,
}

impl From<Object<Fields>> for Profile {
    fn from(Object(fields): Object<Fields>) -> Self {
        Self {
            agent_name: fields.agent_name,
            human_name: fields.human_name,
            proxy_origin: fields.proxy_origin,
        }
    }
}

/// A responder's profile without its `proxyOrigin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("proxyOrigin is required")]
pub struct NoOrigin;

impl TryFrom<Profile> for ResponderProfile {
    type Error = NoOrigin;

    fn try_from(profile: Profile) -> Result<Self, NoOrigin> {
        let proxy_origin = profile.proxy_origin.ok_or(NoOrigin)?;
        Ok(Self {
            agent_name: profile.agent_name,
            human_name: profile.human_name,
            proxy_origin,
        })
    }
}

impl From<ResponderProfile> for Profile {
    fn from(profile: ResponderProfile) -> Self {
        Self {
            agent_name: profile.agent_name,
            human_name: profile.human_name,
            proxy_origin: Some(profile.proxy_origin),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn profile_format_unchanged() {
        let profile: Profile = serde_json::from_str(
            r#"{"proxyOrigin":"https://Proxy.example.com:443/x","humanName":" Ada ","agentName":"Agent 7","more":1}"#,
        )
        .unwrap();
        assert_eq!(
            serde_json::to_string(&profile).unwrap(),
            r#"{"agentName":"Agent 7","humanName":"Ada","proxyOrigin":"https://proxy.example.com"}"#
        );
        let without: Profile = serde_json::from_str(r#"{"humanName":"Ada","agentName":"Agent 7"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&without).unwrap(),
            r#"{"agentName":"Agent 7","humanName":"Ada"}"#
        );
    }

    #[test]
    fn profiles() {
        let (longest, too_long) = ("é".repeat(64), "é".repeat(65));
        let named = |name: &str| {
            format!(
                r#"{{"agentName":{},"humanName":"Ada"}}"#,
                serde_json::to_string(name).unwrap()
            )
        };
        let at = |origin: &str| format!(r#"{{"agentName":"a","humanName":"b","proxyOrigin":{origin}}}"#);
        let table = [
            // text, a profile, a responder's profile
            (named("a"), true, false),
            (named(&longest), true, false),
            (named(&too_long), false, false),
            (named(&format!(" {longest}\n")), true, false),
            (named("  "), false, false),
            (named(""), false, false),
            (named("a\u{7}b"), false, false),
            (named("a\nb"), false, false),
            (at(r#""https://p.example""#), true, true),
            (at(r#""http://127.0.0.1:8787/""#), true, true),
            (at("null"), true, false),
            (at(r#""""#), false, false),
            (at(r#""ftp://p.example""#), false, false),
            (at("7"), false, false),
            (r#"{"agentName":"a"}"#.into(), false, false),
            (r#"{"agentName":"a","humanName":null}"#.into(), false, false),
            (
                r#"{"agentName":"a","agentName":"b","humanName":"c"}"#.into(),
                false,
                false,
            ),
            (r#"["a","b"]"#.into(), false, false),
            (r#"["a","b","https://p.example"]"#.into(), false, false),
            ("null".into(), false, false),
        ];
        for (text, profile, responder) in table {
            assert_eq!(serde_json::from_str::<Profile>(&text).is_ok(), profile, "{text}");
            assert_eq!(
                serde_json::from_str::<ResponderProfile>(&text).is_ok(),
                responder,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn names_round_trip(text in "\\PC{0,70}") {
            if let Ok(name) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()), Ok(name));
            }
        }
    }
}

//! What an operator asks for, parsed: the bodies and queries of the operator's routes and of the feed (docs/wire.md
//! §10).
//!
//! A request with anything wrong in it is refused as a whole, with an explanation, because an operator in a hurry
//! must not be left with half a revocation. The order itself is parsed by `protocol::revocation`.

use serde::Deserialize;

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::revocation::{MAX_PAGE_ITEMS, Order, Subject};
use clawdentity_protocol::text::object;

const MAX_REASON_CHARS: usize = 280;
const FOREIGN_AGENT: &str = "agentDid belongs to an authority other than the expected issuer's";

/// What the operator's order comes to, and why it cannot be carried out here. `authority`: of the agents that this proxy
/// knows.
///
/// # Errors
/// What is wrong, for the operator.
pub fn check_order(order: &Order, authority: &str, now_ms: u64) -> Result<(), &'static str> {
    if order
        .subject
        .agent()
        .is_some_and(|agent| agent.authority() != authority)
    {
        return Err(FOREIGN_AGENT);
    }
    match order.subject {
        Subject::Token {
            expires_at_ms: Some(at_ms),
            ..
        } if at_ms <= now_ms => Err("expiresAt has passed"),
        _ => Ok(()),
    }
}

/// `POST /admin/v1/revocations/<seq>/lift`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiftBody {
    /// Also one that came from the registry.
    #[serde(default)]
    pub force: bool,
    #[serde(default)]
    pub reason: Option<String>,
}

impl LiftBody {
    /// No body is an empty one.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let raw: Self = object(body).ok_or("the body must be {\"force\"?: boolean}")?;
        Ok(Self {
            reason: reason(raw.reason)?,
            ..raw
        })
    }
}

/// `since` and `limit`, each at most once; parameters of other names are for others.
///
/// # Errors
/// What is wrong, for the caller.
pub fn page_query<'a>(
    pairs: impl Iterator<Item = (impl AsRef<str> + 'a, impl AsRef<str> + 'a)>,
) -> Result<(u64, u64), &'static str> {
    let (mut since, mut limit) = (None, None);
    for (name, value) in pairs {
        let slot = match name.as_ref() {
            "since" => &mut since,
            "limit" => &mut limit,
            _ => continue,
        };
        let value = number(value.as_ref()).ok_or("since and limit must be whole numbers")?;
        if slot.replace(value).is_some() {
            return Err("since and limit may each be given once only");
        }
    }
    let limit = limit.unwrap_or(MAX_PAGE_ITEMS as u64);
    match (1..=MAX_PAGE_ITEMS as u64).contains(&limit) {
        true => Ok((since.unwrap_or(0), limit)),
        false => Err("limit must be from 1 to 1000"),
    }
}

/// The agent that `agentDid` names, if it is given. `authority`: of the agents that this proxy knows. One of another has
/// no object here, and its identifier may be that of an agent that has.
///
/// # Errors
/// What is wrong, for the operator.
pub fn agent_query<'a>(
    mut pairs: impl Iterator<Item = (impl AsRef<str> + 'a, impl AsRef<str> + 'a)>,
    authority: &str,
) -> Result<Option<AgentDid>, &'static str> {
    let Some((_, text)) = pairs.find(|(name, _)| name.as_ref() == "agentDid") else {
        return Ok(None);
    };
    let agent = AgentDid::parse(text.as_ref()).map_err(|_| "agentDid is not an agent's DID")?;
    match agent.authority() == authority {
        true => Ok(Some(agent)),
        false => Err(FOREIGN_AGENT),
    }
}

/// A row's number.
pub fn number(text: &str) -> Option<u64> {
    let digits = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// Whether `If-None-Match` names this tag.
pub fn matches_tag(if_none_match: Option<&str>, tag: &str) -> bool {
    let Some(header) = if_none_match else { return false };
    header
        .split(',')
        .map(|each| each.trim())
        .any(|each| each == "*" || each.strip_prefix("W/").unwrap_or(each) == tag)
}

fn reason(text: Option<String>) -> Result<Option<String>, &'static str> {
    let Some(text) = text else { return Ok(None) };
    let trimmed = text.trim();
    if trimmed.chars().count() > MAX_REASON_CHARS || trimmed.chars().any(char::is_control) {
        return Err("reason must be one line of at most 280 characters");
    }
    Ok((!trimmed.is_empty()).then(|| trimmed.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::testing::{agent, ulid};

    #[test]
    fn an_order_is_for_our_agents_and_for_what_still_counts() {
        const NOW_MS: u64 = 1_700_000_000_000;
        let order = |subject| Order {
            subject,
            reason: None,
        };
        let token = |expires_at_ms| Subject::Token {
            jti: ulid(7),
            agent: None,
            expires_at_ms,
        };
        for (subject, expect) in [
            (Subject::Agent { agent: agent(1) }, true),
            (token(None), true),
            (token(Some(NOW_MS + 1)), true),
            (token(Some(NOW_MS)), false),
        ] {
            let verdict = check_order(&order(subject.clone()), "registry.example.com", NOW_MS);
            assert_eq!(verdict.is_ok(), expect, "{subject:?}");
        }
        let foreign = order(Subject::Agent { agent: agent(1) });
        assert!(check_order(&foreign, "other.example.com", NOW_MS).is_err());
    }

    #[test]
    fn a_page_is_asked_for_in_bounds() {
        let ask = |text: &str| page_query(url::form_urlencoded::parse(text.as_bytes()));
        assert_eq!(ask(""), Ok((0, 1000)));
        assert_eq!(ask("since=7&limit=1&other=x"), Ok((7, 1)));
        for bad in [
            "since=-1",
            "since=",
            "since=x",
            "since=1&since=2",
            "limit=0",
            "limit=1001",
            "since=1e3",
        ] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_status_is_of_one_agent_or_of_none() {
        let ask = |text: &str| {
            agent_query(
                url::form_urlencoded::parse(text.as_bytes()),
                "registry.example.com",
            )
        };
        assert_eq!(ask("since=1"), Ok(None));
        assert_eq!(ask(&format!("agentDid={}", agent(1))), Ok(Some(agent(1))));
        assert!(ask("agentDid=").is_err());
        let foreign = agent(1).to_string().replace("registry.", "other.");
        assert_eq!(ask(&format!("agentDid={foreign}")), Err(FOREIGN_AGENT));
    }

    #[test]
    fn a_lift_needs_no_body() {
        let body = |force| Ok(LiftBody { force, reason: None });
        assert_eq!(LiftBody::parse(b" "), body(false));
        assert_eq!(LiftBody::parse(b"{}"), body(false));
        assert_eq!(LiftBody::parse(br#"{"force":true}"#), body(true));
        for bad in [&br#"{"force":"yes"}"#[..], b"[true]", b"[]", b"null"] {
            assert!(LiftBody::parse(bad).is_err());
        }
    }

    #[test]
    fn a_tag_is_compared_weakly() {
        for (header, expect) in [
            (Some("\"7\""), true),
            (Some("W/\"7\""), true),
            (Some("\"6\", \"7\""), true),
            (Some("*"), true),
            (Some("\"70\""), false),
            (Some("7"), false),
            (None, false),
        ] {
            assert_eq!(matches_tag(header, "\"7\""), expect, "{header:?}");
        }
    }
}

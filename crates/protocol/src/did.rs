//! DIDs: `did:cdi:<authority>:<entity>:<ulid>`, where the entity is `agent` or `human` (docs/wire.md §1).
//!
//! An [`AgentDid`] names an agent and a [`HumanDid`] names a human, so the two cannot be mixed up. Each DID has
//! exactly one text, which can be compared, hashed and used as a name.

use super::ids::Ulid;
use super::text::string_form;

/// The longest authority, as DNS has it.
pub const MAX_AUTHORITY_CHARS: usize = 253;
const MAX_LABEL_CHARS: usize = 63;
const PREFIX: &str = "did:cdi:";

/// Not a DID, or not of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct DidError(&'static str);

/// Who gave out a DID: a lower-case host name of two or more DNS labels, without a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority(String);

impl Authority {
    /// Parses a host name. `127.0.0.1` passes, `localhost` does not.
    ///
    /// # Errors
    /// Upper case, a single label, an empty label, a port, a trailing dot, or over 253 characters.
    pub fn parse(text: &str) -> Result<Self, DidError> {
        let labels = text.split('.').count();
        let fits = text.len() <= MAX_AUTHORITY_CHARS && labels >= 2 && text.split('.').all(is_label);
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(DidError("an authority"))
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

string_form!(Authority, "an authority");

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_CHARS).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

macro_rules! did {
    ($(#[$doc:meta])* $type:ident, $entity:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type {
            text: String,
            ulid: Ulid,
        }

        impl $type {
            /// Parses the five parts.
            ///
            /// # Errors
            /// Any other text, another method or another entity.
            pub fn parse(text: &str) -> Result<Self, DidError> {
                let mut parts = text.strip_prefix(PREFIX).ok_or(DidError($what))?.split(':');
                match (parts.next(), parts.next(), parts.next(), parts.next()) {
                    (Some(authority), Some($entity), Some(ulid), None) => {
                        Authority::parse(authority).map_err(|_| DidError($what))?;
                        let ulid = Ulid::parse(ulid).map_err(|_| DidError($what))?;
                        Ok(Self { text: text.to_owned(), ulid })
                    }
                    _ => Err(DidError($what)),
                }
            }

            /// The DID of these parts.
            pub fn from_parts(authority: &Authority, ulid: Ulid) -> Self {
                Self { text: format!("{PREFIX}{authority}:{}:{ulid}", $entity), ulid }
            }

            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.text
            }

            /// The host name in it.
            pub fn authority(&self) -> &str {
                self.text.strip_prefix(PREFIX).and_then(|rest| rest.split(':').next()).unwrap_or_default()
            }

            /// The ULID in it: what the registry calls the id.
            pub fn ulid(&self) -> Ulid {
                self.ulid
            }
        }

        string_form!($type, $what);
    };
}

did!(
    /// An agent.
    AgentDid,
    "agent",
    "an agent DID"
);
did!(
    /// A human: who owns agents.
    HumanDid,
    "human",
    "a human DID"
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ULID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    #[test]
    fn authorities() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        let too_long = format!("{label}.{label}.{label}.{}", "a".repeat(62));
        let table = [
            ("registry.example.com", true),
            ("a.b", true),
            ("127.0.0.1", true),
            ("xn--bcher-kva.example", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            (&format!("{}a.b", label), false),
            ("localhost", false),
            ("Registry.example.com", false),
            ("registry.example.com.", false),
            (".example.com", false),
            ("a..b", false),
            ("-a.b", false),
            ("a-.b", false),
            ("a_b.c", false),
            ("a.b:8080", false),
            ("bücher.example", false),
            ("a.b ", false),
            ("", false),
        ];
        for (text, good) in table {
            assert_eq!(Authority::parse(text).is_ok(), good, "{text}");
        }
    }

    #[test]
    fn dids() {
        let good = format!("did:cdi:registry.example.com:agent:{ULID}");
        let did = AgentDid::parse(&good).unwrap();
        assert_eq!(did.as_str(), good);
        assert_eq!(did.authority(), "registry.example.com");
        assert_eq!(did.ulid().to_string(), ULID);
        assert_eq!(
            AgentDid::from_parts(&Authority::parse("registry.example.com").unwrap(), did.ulid()),
            did
        );
        assert!(HumanDid::parse(&good).is_err());
        assert!(HumanDid::parse(&good.replace("agent", "human")).is_ok());
        for bad in [
            good.replace("agent", "human"),
            good.replace("agent", "Agent"),
            good.replace("agent", "group"),
            good.replace("cdi", "web"),
            good.replace("did", "DID"),
            good.replace("registry.example.com", "localhost"),
            good.replace("registry.example.com", "registry.example.com:443"),
            good.replace("registry", "Registry"),
            good.to_lowercase(),
            format!("{good}:x"),
            format!("{good}#key"),
            format!(" {good}"),
            format!("{good}\n"),
            good.replace(&format!(":{ULID}"), ""),
            String::new(),
            "did:cdi:".into(),
            "did:cdi::::".into(),
        ] {
            assert!(AgentDid::parse(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(did:cdi:)?\\PC{0,60}") {
            let _ = (AgentDid::parse(&text), HumanDid::parse(&text), Authority::parse(&text));
        }

        #[test]
        fn round_trip(authority in "[a-z0-9]{1,9}(\\.[a-z0-9-]{0,8}[a-z0-9]){1,3}", ulid: u128) {
            if let Ok(authority) = Authority::parse(&authority) {
                let did = AgentDid::from_parts(&authority, Ulid::from_u128(ulid));
                prop_assert_eq!(AgentDid::parse(did.as_str()), Ok(did.clone()));
                prop_assert_eq!(did.authority(), authority.as_str());
                let human = HumanDid::from_parts(&authority, Ulid::from_u128(ulid));
                prop_assert_eq!(HumanDid::parse(human.as_str()), Ok(human));
            }
        }
    }
}

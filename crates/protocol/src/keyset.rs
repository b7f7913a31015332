//! The registry's signing keys: `claw-keys.json` (docs/wire.md §4.1).
//!
//! A [`KeySet`] is a document that was valid as a whole: every key in it, active or not, is an Ed25519 key for EdDSA,
//! canonical and of large order, and no `kid` occurs twice. It hands out active keys only.
//!
//! How old a document may be is decided elsewhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde::{Deserialize, Serialize};

use super::jws::MAX_KID_CHARS;
use super::key::PublicKey;
use super::text::{Object, json, object};

/// The largest document: some thousand keys.
pub const MAX_KEYSET_BYTES: usize = 256 * 1024;

/// Why a document is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over `MAX_KEYSET_BYTES`.
    #[error("the key document is too large")]
    TooLarge,
    /// Not `{"keys":[…]}` with the fields a key must have.
    #[error("the key document is malformed")]
    Malformed,
    /// An empty or oversized `kid`.
    #[error("kid is empty or too long")]
    Kid,
    /// The same `kid` twice.
    #[error("a kid occurs twice")]
    DuplicateKid,
    /// Another algorithm or curve.
    #[error("key is not EdDSA on Ed25519")]
    Algorithm,
    /// Not a canonical point of large order.
    #[error("key is not a canonical point of large order")]
    Point,
}

/// The keys of one document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: BTreeMap<String, Key>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    public: PublicKey,
    active: bool,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Object<DocumentKey>>,
}

/// A key may have more fields than these; they mean nothing here.
#[derive(Deserialize, Serialize)]
struct DocumentKey {
    kid: String,
    alg: String,
    crv: String,
    x: String,
    status: String,
}

const ACTIVE: &str = "active";
const REVOKED: &str = "revoked";

impl KeySet {
    /// Parses `claw-keys.json`. A key with a status other than `active` verifies nothing.
    ///
    /// # Errors
    /// As `KeySetError` lists them: one bad key makes the document invalid.
    pub fn parse(body: &[u8]) -> Result<Self, KeySetError> {
        if body.len() > MAX_KEYSET_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document: Document = object(body).ok_or(KeySetError::Malformed)?;
        let mut keys = BTreeMap::new();
        for Object(key) in document.keys {
            if key.kid.is_empty() || key.kid.chars().nth(MAX_KID_CHARS).is_some() {
                return Err(KeySetError::Kid);
            }
            if key.alg != "EdDSA" || key.crv != "Ed25519" {
                return Err(KeySetError::Algorithm);
            }
            let public = PublicKey::from_x(&key.x).map_err(|_| KeySetError::Point)?;
            match keys.entry(key.kid) {
                Entry::Vacant(place) => place.insert(Key {
                    public,
                    active: key.status == ACTIVE,
                }),
                Entry::Occupied(_) => return Err(KeySetError::DuplicateKid),
            };
        }
        Ok(Self { keys })
    }

    /// The active key of this name.
    pub fn active(&self, kid: &str) -> Option<&PublicKey> {
        self.keys.get(kid).filter(|key| key.active).map(|key| &key.public)
    }

    /// The names of the keys that verify.
    pub fn active_kids(&self) -> impl Iterator<Item = &str> {
        let active = self.keys.iter().filter(|(_, key)| key.active);
        active.map(|(kid, _)| kid.as_str())
    }

    /// Whether it holds no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The document that `parse` accepts again, for the copy in D1.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Written {
            keys: Vec<DocumentKey>,
        }

        let key = |(kid, key): (&String, &Key)| DocumentKey {
            kid: kid.clone(),
            alg: "EdDSA".into(),
            crv: "Ed25519".into(),
            x: key.public.x(),
            status: if key.active { ACTIVE } else { REVOKED }.into(),
        };
        json(&Written {
            keys: self.keys.iter().map(key).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{key, keyset_json};

    fn check(body: &str, expect: Result<(), KeySetError>) {
        assert_eq!(KeySet::parse(body.as_bytes()).map(|_| ()), expect, "{body}");
    }

    #[test]
    fn only_active_keys_verify() {
        let body = keyset_json(&[
            ("k1", &key(1), "active"),
            ("k2", &key(2), "revoked"),
            ("k3", &key(3), "retired"),
        ]);
        let set = KeySet::parse(body.as_bytes()).unwrap();
        assert_eq!(set.active("k1"), Some(&PublicKey::from(&key(1))));
        assert_eq!(set.active("k2"), None);
        assert_eq!(set.active("k3"), None);
        assert_eq!(set.active("k4"), None);
        assert_eq!(set.active(""), None);
        assert!(!set.is_empty());
        assert!(KeySet::parse(br#"{"keys":[]}"#).unwrap().is_empty());
    }

    #[test]
    fn one_bad_key_makes_the_document_invalid() {
        let x = PublicKey::from(&key(1)).x();
        let weak = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let one = |fields: String| format!(r#"{{"keys":[{{{fields}}}]}}"#);
        let full = format!(r#""kid":"k1","alg":"EdDSA","crv":"Ed25519","x":"{x}","status":"active""#);
        check(&one(full.clone()), Ok(()));
        check(&one(format!(r#"{full},"createdAt":"x","use":{{"a":1}}"#)), Ok(()));
        check(&one(full.replace("EdDSA", "ES256")), Err(KeySetError::Algorithm));
        check(
            &one(full.replace("Ed25519", "X25519")),
            Err(KeySetError::Algorithm),
        );
        check(
            &one(full.replace(r#""alg":"EdDSA","#, "")),
            Err(KeySetError::Malformed),
        );
        check(
            &one(full.replace(r#""crv":"Ed25519","#, "")),
            Err(KeySetError::Malformed),
        );
        check(
            &one(full.replace(r#","status":"active""#, "")),
            Err(KeySetError::Malformed),
        );
        check(&one(full.replace("k1", "")), Err(KeySetError::Kid));
        check(
            &one(full.replace("k1", &"k".repeat(MAX_KID_CHARS + 1))),
            Err(KeySetError::Kid),
        );
        check(&one(full.replace(&x, weak)), Err(KeySetError::Point));
        check(&one(full.replace(&x, &format!("{x}="))), Err(KeySetError::Point));
        check(
            &one(full.replace("active", "revoked").replace(&x, weak)),
            Err(KeySetError::Point),
        );
        check(
            &one(format!(r#"{full},"status":"revoked""#)),
            Err(KeySetError::Malformed),
        );
        check(
            &format!(r#"{{"keys":[{{{full}}},{{{full}}}]}}"#),
            Err(KeySetError::DuplicateKid),
        );
        let revoked = full.replace("active", "revoked");
        check(
            &format!(r#"{{"keys":[{{{full}}},{{{revoked}}}]}}"#),
            Err(KeySetError::DuplicateKid),
        );
        check(
            &format!(r#"{{"keys":[],"keys":[{{{full}}}]}}"#),
            Err(KeySetError::Malformed),
        );
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"keys":{}}"#,
            r#"{"keys":[null]}"#,
            "<html>",
        ] {
            check(body, Err(KeySetError::Malformed));
        }
        check(&" ".repeat(MAX_KEYSET_BYTES + 1), Err(KeySetError::TooLarge));
    }

    /// The copy in D1: changing it is a migration.
    #[test]
    fn stored_format_unchanged() {
        let set =
            KeySet::parse(keyset_json(&[("b", &key(2), "revoked"), ("a", &key(1), "active")]).as_bytes())
                .unwrap();
        assert_eq!(
            set.to_json(),
            concat!(
                r#"{"keys":[{"kid":"a","alg":"EdDSA","crv":"Ed25519","x":"iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w","status":"active"},"#,
                r#"{"kid":"b","alg":"EdDSA","crv":"Ed25519","x":"gTl3Dqh9F19Wo1Rmw0x-zMuNipG07jeiXfYPW4_Js5Q","status":"revoked"}]}"#
            )
        );
        assert_eq!(KeySet::parse(set.to_json().as_bytes()), Ok(set));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = KeySet::parse(&body);
        }
    }
}

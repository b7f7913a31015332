//! Compact JWS, as AITs and CRLs use it (docs/wire.md §2 and docs/wire.md §4.2).
//!
//! A token has three segments and no fourth, and its size is capped before anything is decoded. Its header has `alg`
//! = `EdDSA`, the `typ` that is asked for, and a `kid`. A `crit` member is refused, and other members are ignored
//! (RFC 7515 §4) and never used, so no token can bring its own key or talk the verifier into another algorithm. The signature is checked over the
//! text as it was received, never over a re-encoding of it.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::b64;
use super::key::PublicKey;
use super::text::{object, present};

/// The largest encoded header: ours have some 80 characters, others bring certificates along.
pub const MAX_HEADER_CHARS: usize = 4096;
/// The longest `kid`.
pub const MAX_KID_CHARS: usize = 256;

/// Why a text is no JWS of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.reason())]
pub enum JwsError {
    /// Over the cap of its kind.
    TooLarge,
    /// Not three segments.
    Segments,
    /// A segment is not canonical base64url, or the signature has not 64 bytes.
    Encoding,
    /// The header is no JSON object with `alg`, `typ` and `kid`.
    Header,
    /// Another algorithm than EdDSA.
    Algorithm,
    /// Another kind of token.
    Type,
    /// An empty or oversized `kid`.
    Kid,
    /// The header has a `crit`: we understand no extension (RFC 7515 §4.1.11).
    Critical,
}

impl JwsError {
    /// What to tell whoever sent it. It repeats nothing of the token.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "the token is too large",
            Self::Segments => "not a compact JWS of three segments",
            Self::Encoding => "a segment is not base64url",
            Self::Header => "the header must have alg, typ and kid, each once",
            Self::Algorithm => "alg must be EdDSA",
            Self::Type => "typ is not the expected one",
            Self::Kid => "kid is empty or too long",
            Self::Critical => "crit is not understood",
        }
    }
}

/// A token whose header is right and whose signature nobody has checked yet.
#[derive(Clone)]
pub struct Jws<'a> {
    kid: String,
    payload: &'a str,
    signed: &'a str,
    signature: [u8; 64],
}

impl<'a> Jws<'a> {
    /// Splits a token and checks its header.
    ///
    /// # Errors
    /// As `JwsError` lists them.
    pub fn parse(token: &'a str, typ: &str, max_bytes: usize) -> Result<Self, JwsError> {
        if token.len() > max_bytes {
            return Err(JwsError::TooLarge);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(JwsError::Segments)?;
        let (header, payload) = signed.split_once('.').ok_or(JwsError::Segments)?;
        if payload.contains('.') || header.is_empty() || payload.is_empty() || signature.is_empty() {
            return Err(JwsError::Segments);
        }
        let kid = parse_header(header, typ)?;
        let signature = b64::decode_array(signature).map_err(|_| JwsError::Encoding)?;
        Ok(Self {
            kid,
            payload,
            signed,
            signature,
        })
    }

    /// The name of the key that is said to have signed.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Whether this key signed the token.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(self.signed.as_bytes(), &self.signature)
    }

    /// The payload, decoded.
    ///
    /// # Errors
    /// `Encoding`.
    pub fn decode_payload(&self) -> Result<Vec<u8>, JwsError> {
        b64::decode(self.payload).map_err(|_| JwsError::Encoding)
    }

    /// What the signature covers, and the signature, for whoever must let go of the text.
    pub(super) fn into_parts(self) -> (String, &'a str, [u8; 64]) {
        (self.kid, self.signed, self.signature)
    }
}

fn parse_header(segment: &str, typ: &str) -> Result<String, JwsError> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        typ: String,
        kid: String,
        #[serde(default, deserialize_with = "present")]
        crit: Option<IgnoredAny>,
    }

    if segment.len() > MAX_HEADER_CHARS {
        return Err(JwsError::TooLarge);
    }
    let json = b64::decode(segment).map_err(|_| JwsError::Encoding)?;
    let header: Header = object(&json).ok_or(JwsError::Header)?;
    if header.crit.is_some() {
        return Err(JwsError::Critical);
    }
    if header.alg != "EdDSA" {
        return Err(JwsError::Algorithm);
    }
    if header.typ != typ {
        return Err(JwsError::Type);
    }
    if header.kid.is_empty() || header.kid.chars().nth(MAX_KID_CHARS).is_some() {
        return Err(JwsError::Kid);
    }
    Ok(header.kid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{key, sign_jws};

    fn token(header: &str) -> String {
        sign_jws(&key(1), header, "{}")
    }

    #[test]
    fn headers() {
        let table = [
            (r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#, Ok(())),
            (r#"{"kid":"k1","typ":"AIT","alg":"EdDSA"}"#, Ok(())),
            (
                r#"{"alg":"none","typ":"AIT","kid":"k1"}"#,
                Err(JwsError::Algorithm),
            ),
            (
                r#"{"alg":"HS256","typ":"AIT","kid":"k1"}"#,
                Err(JwsError::Algorithm),
            ),
            (
                r#"{"alg":"eddsa","typ":"AIT","kid":"k1"}"#,
                Err(JwsError::Algorithm),
            ),
            (
                r#"{"alg":"Ed25519","typ":"AIT","kid":"k1"}"#,
                Err(JwsError::Algorithm),
            ),
            (r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#, Err(JwsError::Type)),
            (r#"{"alg":"EdDSA","typ":"CRL","kid":"k1"}"#, Err(JwsError::Type)),
            (r#"{"alg":"EdDSA","typ":"ait","kid":"k1"}"#, Err(JwsError::Type)),
            (r#"{"alg":"EdDSA","typ":"AIT","kid":""}"#, Err(JwsError::Kid)),
            (r#"{"alg":"EdDSA","typ":"AIT"}"#, Err(JwsError::Header)),
            (r#"{"alg":"EdDSA","typ":"AIT","kid":null}"#, Err(JwsError::Header)),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","crit":["exp"]}"#,
                Err(JwsError::Critical),
            ),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","crit":[]}"#,
                Err(JwsError::Critical),
            ),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","crit":null}"#,
                Err(JwsError::Critical),
            ),
            (r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","b64":false}"#, Ok(())),
            (r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","jwk":{}}"#, Ok(())),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","jku":"https://evil.example","x5c":["MIIB"],"x":null,"x":1}"#,
                Ok(()),
            ),
            (
                r#"{"alg":"none","alg":"EdDSA","typ":"AIT","kid":"k1"}"#,
                Err(JwsError::Header),
            ),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1","kid":"k2"}"#,
                Err(JwsError::Header),
            ),
            (r#"["EdDSA","AIT","k1"]"#, Err(JwsError::Header)),
            (
                r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}x"#,
                Err(JwsError::Header),
            ),
            ("null", Err(JwsError::Header)),
            ("", Err(JwsError::Segments)),
        ];
        for (header, expect) in table {
            let token = token(header);
            assert_eq!(Jws::parse(&token, "AIT", 8192).map(|_| ()), expect, "{header}");
        }
        let long = format!(
            r#"{{"alg":"EdDSA","typ":"AIT","kid":"{}"}}"#,
            "k".repeat(MAX_KID_CHARS + 1)
        );
        assert_eq!(
            Jws::parse(&token(&long), "AIT", 8192).map(|_| ()),
            Err(JwsError::Kid)
        );
        let longer = format!(
            r#"{{"alg":"EdDSA","typ":"AIT","kid":"{}"}}"#,
            "k".repeat(MAX_HEADER_CHARS)
        );
        assert_eq!(
            Jws::parse(&token(&longer), "AIT", 8192).map(|_| ()),
            Err(JwsError::TooLarge)
        );
    }

    #[test]
    fn segments() {
        let good = token(r#"{"alg":"EdDSA","typ":"AIT","kid":"k1"}"#);
        let (head, signature) = good.rsplit_once('.').unwrap();
        let (header, payload) = head.split_once('.').unwrap();
        let table = [
            (good.clone(), Ok(())),
            (format!("{good}.x"), Err(JwsError::Segments)),
            (format!("{good}."), Err(JwsError::Segments)),
            (format!(".{good}"), Err(JwsError::Segments)),
            (head.to_owned(), Err(JwsError::Segments)),
            (format!("{head}."), Err(JwsError::Segments)),
            (format!("{header}..{signature}"), Err(JwsError::Segments)),
            (format!("{good}="), Err(JwsError::Encoding)),
            (format!("{good}A"), Err(JwsError::Encoding)),
            (format!("{head}.{}", &signature[..84]), Err(JwsError::Encoding)),
            (
                format!("{header}=.{payload}.{signature}"),
                Err(JwsError::Encoding),
            ),
            (
                format!("{header}\n.{payload}.{signature}"),
                Err(JwsError::Encoding),
            ),
            ("..".into(), Err(JwsError::Segments)),
            (String::new(), Err(JwsError::Segments)),
            ("A".repeat(8193), Err(JwsError::TooLarge)),
        ];
        for (token, expect) in table {
            assert_eq!(Jws::parse(&token, "AIT", 8192).map(|_| ()), expect, "{token}");
        }
        assert!(
            Jws::parse(&format!("{header}.{payload}=.{signature}"), "AIT", 8192)
                .unwrap()
                .decode_payload()
                .is_err()
        );
    }

    #[test]
    fn the_signature_covers_the_text_as_received() {
        let text = token(r#"{ "alg":"EdDSA" , "typ":"AIT","kid":"k1"}"#);
        let jws = Jws::parse(&text, "AIT", 8192).unwrap();
        assert!(jws.is_signed_by(&PublicKey::from(&key(1))));
        assert!(!jws.is_signed_by(&PublicKey::from(&key(2))));
        let other = text.replacen('.', "A.", 1);
        assert!(
            !Jws::parse(&other, "AIT", 8192).is_ok_and(|jws| jws.is_signed_by(&PublicKey::from(&key(1))))
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", dotted in "[A-Za-z0-9_.=-]{0,80}") {
            let _ = (Jws::parse(&text, "AIT", 8192), Jws::parse(&dotted, "AIT", 8192));
        }
    }
}

//! Pairing tickets: `clwpair1_` followed by the base64url of a signed JSON object (docs/wire.md §5.5).
//!
//! A ticket is signed by a key pair that is made for it alone, over the compact JSON of its fields in a fixed order.
//! [`Ticket`] holds the fields, so the signed bytes are always built from them and never cut out of what a caller
//! sent.
//!
//! Whether a ticket is known, used or expired is decided by the trust store.

use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ait::MAX_SECONDS;
use super::b64;
use super::code::{self, Code};
use super::ids::Ulid;
use super::issuer::Origin;
use super::key::PublicKey;
use super::text::{json, object};

/// The largest ticket, line breaks included: real ones have some 400 characters.
pub const MAX_TICKET_BYTES: usize = 4096;
/// Random bytes in a ticket's nonce.
pub const NONCE_BYTES: usize = 18;
const PREFIX: &str = "clwpair1_";
const VERSION: u64 = 2;

/// Why a ticket is refused: one variant per 400 code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Not `clwpair1_` and base64url of an object with just these fields.
    #[error("the ticket is malformed")]
    InvalidFormat,
    /// Another version than 2.
    #[error("the ticket has an unsupported version")]
    UnsupportedVersion,
    /// `iss` is no origin, or not this proxy's.
    #[error("the ticket is from another proxy")]
    InvalidIssuer,
    /// `sig` is no signature of the ticket's key.
    #[error("the ticket's signature is invalid")]
    InvalidSignature,
}

impl TicketError {
    /// What the caller is told.
    pub fn code(&self) -> &'static Code {
        match self {
            Self::InvalidFormat => &code::PROXY_PAIR_TICKET_INVALID_FORMAT,
            Self::UnsupportedVersion => &code::PROXY_PAIR_TICKET_UNSUPPORTED_VERSION,
            Self::InvalidIssuer => &code::PROXY_PAIR_TICKET_INVALID_ISSUER,
            Self::InvalidSignature => &code::PROXY_PAIR_TICKET_INVALID_SIGNATURE,
        }
    }
}

/// What goes into a new ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsignedTicket {
    /// The proxy that makes it.
    pub iss: Origin,
    /// The ticket's id.
    pub kid: Ulid,
    /// What makes it unguessable.
    pub nonce: [u8; NONCE_BYTES],
    /// When it ends, Unix seconds.
    pub exp_s: u64,
    /// The id of its key pair.
    pub pkid: Ulid,
}

/// A ticket of the right form. Whether its key signed it, `verify` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The proxy that made it.
    pub iss: Origin,
    /// The ticket's id.
    pub kid: Ulid,
    /// What makes it unguessable.
    pub nonce: [u8; NONCE_BYTES],
    /// When it ends, Unix seconds.
    pub exp_s: u64,
    /// The id of its key pair.
    pub pkid: Ulid,
    /// The signature over all the others.
    pub sig: [u8; 64],
}

/// What a chat or a mail client puts into a text, and nobody sees, and the quotes that it may break over lines: none of it
/// is of a ticket's alphabet.
fn is_wrapping(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(
            c,
            '`' | '"' | '\'' | '´'
                | '\u{2018}'..='\u{201f}' // curly quotes
                | '«' | '»' | '‹' | '›'
                | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{180e}' // soft hyphen, and others without a width
                | '\u{200b}'..='\u{200f}' // zero-width characters and marks of direction
                | '\u{202a}'..='\u{202e}'
                | '\u{2060}'..='\u{2064}'
                | '\u{2066}'..='\u{2069}'
                | '\u{fe00}'..='\u{fe0f}' // variation selectors
                | '\u{feff}'
        )
}

/// What may stand around a ticket: quotes of any script, brackets, marks of a list or of emphasis, what ends a sentence. A
/// ticket begins with a letter, and the base64url of an object ends with a letter or a digit. What other alphabets of base64
/// have stays, and is refused.
fn is_around(c: char) -> bool {
    !c.is_ascii_alphanumeric() && !matches!(c, '=' | '+' | '/')
}

/// The field order is that of the signed bytes: docs/wire.md §5.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u64,
    iss: String,
    kid: String,
    nonce: String,
    exp: u64,
    pkid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl Ticket {
    /// Parses a ticket as a caller passes it on: in back-ticks or quotes, broken over lines, with a full stop behind it.
    ///
    /// # Errors
    /// As `TicketError` lists them. A later version than ours is `UnsupportedVersion` whatever else it holds.
    pub fn parse(text: &str) -> Result<Self, TicketError> {
        const FORMAT: TicketError = TicketError::InvalidFormat;
        if text.len() > MAX_TICKET_BYTES {
            return Err(FORMAT);
        }
        let text: String = text.chars().filter(|c| !is_wrapping(*c)).collect();
        let text = text.trim_matches(is_around);
        let json = b64::decode(text.strip_prefix(PREFIX).ok_or(FORMAT)?).map_err(|_| FORMAT)?;
        let wire: Wire = object(&json).ok_or_else(|| version_of(&json).err().unwrap_or(FORMAT))?;
        if wire.v != VERSION {
            return Err(TicketError::UnsupportedVersion);
        }
        if wire.exp > MAX_SECONDS {
            return Err(FORMAT);
        }
        let kid = Ulid::parse(&wire.kid).map_err(|_| FORMAT)?;
        let nonce = b64::decode_array(&wire.nonce).map_err(|_| FORMAT)?;
        let pkid = Ulid::parse(&wire.pkid).map_err(|_| FORMAT)?;
        let sig = wire.sig.ok_or(FORMAT)?;
        let iss = Origin::parse_exact(&wire.iss).map_err(|_| TicketError::InvalidIssuer)?;
        let sig = b64::decode_array(&sig).map_err(|_| TicketError::InvalidSignature)?;
        Ok(Self {
            iss,
            kid,
            nonce,
            exp_s: wire.exp,
            pkid,
            sig,
        })
    }

    /// Signs a new ticket with its own key and writes it as it is handed out.
    pub fn sign(unsigned: UnsignedTicket, key: &SigningKey) -> String {
        let UnsignedTicket {
            iss,
            kid,
            nonce,
            exp_s,
            pkid,
        } = unsigned;
        let mut ticket = Self {
            iss,
            kid,
            nonce,
            exp_s,
            pkid,
            sig: [0; 64],
        };
        ticket.sig = key.sign(ticket.signed_bytes().as_bytes()).to_bytes();
        ticket.to_text()
    }

    /// The ticket as it is handed out.
    pub fn to_text(&self) -> String {
        let wire = self.wire(Some(b64::encode(&self.sig)));
        format!("{PREFIX}{}", b64::encode(json(&wire).as_bytes()))
    }

    /// Whether this key signed it.
    pub fn verify(&self, key: &PublicKey) -> bool {
        key.verify(self.signed_bytes().as_bytes(), &self.sig)
    }

    /// Whether this proxy made it, by the origin of the request's URL.
    ///
    /// # Errors
    /// `InvalidIssuer`.
    pub fn check_issuer(&self, origin: &Origin) -> Result<(), TicketError> {
        if self.iss == *origin {
            Ok(())
        } else {
            Err(TicketError::InvalidIssuer)
        }
    }

    fn signed_bytes(&self) -> String {
        json(&self.wire(None))
    }

    fn wire(&self, sig: Option<String>) -> Wire {
        Wire {
            v: VERSION,
            iss: self.iss.to_string(),
            kid: self.kid.to_string(),
            nonce: b64::encode(&self.nonce),
            exp: self.exp_s,
            pkid: self.pkid.to_string(),
            sig,
        }
    }
}

/// For an object that is no ticket of version 2: whether that is because it is of another version.
fn version_of(json: &[u8]) -> Result<(), TicketError> {
    #[derive(Deserialize)]
    struct Version {
        v: Value,
    }

    let version: Version = object(json).ok_or(TicketError::InvalidFormat)?;
    match version.v.as_u64() {
        Some(VERSION) => Ok(()),
        Some(_) => Err(TicketError::UnsupportedVersion),
        None => Err(TicketError::InvalidFormat),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{key, ulid};

    const TEXT: &str = "clwpair1_eyJ2IjoyLCJpc3MiOiJodHRwczovL3Byb3h5LmV4YW1wbGUuY29tIiwia2lkIjoiMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDEiLCJub25jZSI6IkJ3Y0hCd2NIQndjSEJ3Y0hCd2NIQndjSCIsImV4cCI6MTc2NzMyMzk0NSwicGtpZCI6IjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAyIiwic2lnIjoiRUVZdWdlSUFVZFZPdGhieGs4YnV5NWZXTGtXY0J4WG9NRFIxdGJCY2FrT3M4amlVZzdOOTNzMG0zT1hmbUY4NmZ4bzdZdmtCWnIwbzBaRFd5T1ZfRFEifQ";

    fn ticket() -> Ticket {
        let unsigned = UnsignedTicket {
            iss: Origin::parse("https://proxy.example.com").unwrap(),
            kid: ulid(1),
            nonce: [7; 18],
            exp_s: 1_767_323_945,
            pkid: ulid(2),
        };
        Ticket::parse(&Ticket::sign(unsigned, &key(5))).unwrap()
    }

    /// Tickets that are on their way must stay good: changing a byte here breaks them.
    #[test]
    fn ticket_format_unchanged() {
        assert_eq!(
            ticket().signed_bytes(),
            concat!(
                r#"{"v":2,"iss":"https://proxy.example.com","kid":"00000000000000000000000001","#,
                r#""nonce":"BwcHBwcHBwcHBwcHBwcHBwcH","exp":1767323945,"pkid":"00000000000000000000000002"}"#
            )
        );
        let text = ticket().to_text();
        assert_eq!(text, TEXT);
        let decoded = String::from_utf8(b64::decode(text.strip_prefix(PREFIX).unwrap()).unwrap()).unwrap();
        let body = ticket().signed_bytes();
        let sig = b64::encode(&ticket().sig);
        assert_eq!(
            decoded,
            format!("{},\"sig\":\"{sig}\"}}", &body[..body.len() - 1])
        );
    }

    #[test]
    fn what_callers_do_to_tickets() {
        let text = ticket().to_text();
        let (a, b) = text.split_at(100);
        for dressed in [
            text.clone(),
            format!("`{text}`"),
            format!("```\n{text}\n```"),
            format!("  {a}\r\n  {b}\n"),
            format!("{a}`\u{a0}`{b}"),
            format!("\"{text}\""),
            format!("'{text}'."),
            format!("“{text}”,"),
            format!("«{a}\u{ad}{b}»"),
            format!("\u{feff}{text}\u{200b}"),
            format!("{a}\u{200b}{b}\u{2060}"),
            format!("({text})."),
            format!("<{text}>"),
            format!("**{text}**!"),
            format!("_{text}_"),
            format!("~~{text}~~ |"),
            format!("- {text}"),
            format!("• {text}。"),
            format!("> {a}\u{200b}\n{b}"),
            format!("「{text}」、"),
            format!("＂{text}＂"),
            format!("❝{text}❞ — "),
            format!("″{a}\u{fe0f}{b}\u{180e}″\\"),
            format!("\\\"{text}\\\""),
        ] {
            assert_eq!(Ticket::parse(&dressed), Ok(ticket()), "{dressed}");
        }
    }

    #[test]
    fn tickets() {
        let full = {
            let text = ticket().to_text();
            String::from_utf8(b64::decode(text.strip_prefix(PREFIX).unwrap()).unwrap()).unwrap()
        };
        let sig = b64::encode(&ticket().sig);
        let format = Err(TicketError::InvalidFormat);
        let table = [
            (full.clone(), Ok(())),
            (
                full.replace(r#""v":2"#, r#""v":3"#),
                Err(TicketError::UnsupportedVersion),
            ),
            (
                full.replace(r#""v":2"#, r#""v":1"#),
                Err(TicketError::UnsupportedVersion),
            ),
            (
                r#"{"v":3,"anything":[]}"#.into(),
                Err(TicketError::UnsupportedVersion),
            ),
            (full.replace(r#""v":2"#, r#""v":"2""#), format),
            (full.replace(r#""v":2,"#, ""), format),
            (full.replace(r#""v":2"#, r#""v":2,"v":2"#), format),
            (
                full.replace("https://proxy", "ftp://proxy"),
                Err(TicketError::InvalidIssuer),
            ),
            (full.replace(".com", ".com/"), Err(TicketError::InvalidIssuer)),
            (
                full.replace(r#""https://proxy.example.com""#, r#""""#),
                Err(TicketError::InvalidIssuer),
            ),
            (full.replace(r#""https://proxy.example.com""#, "7"), format),
            (full.replace("00000000000000000000000001", "x"), format),
            (
                full.replace("00000000000000000000000002", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
                format,
            ),
            (
                full.replace("BwcHBwcHBwcHBwcHBwcHBwcH", "BwcHBwcHBwcHBwcHBwcHBwc"),
                format,
            ),
            (
                full.replace("BwcHBwcHBwcHBwcHBwcHBwcH", "BwcHBwcHBwcHBwcHBwcHBwc="),
                format,
            ),
            (full.replace("1767323945", "-1"), format),
            (full.replace("1767323945", "1.5"), format),
            (full.replace("1767323945", "18446744073709551615"), format),
            (full.replace(r#""exp""#, r#""more":1,"exp""#), format),
            (full.replace(&sig, "AAAA"), Err(TicketError::InvalidSignature)),
            (full.replace(&sig, ""), Err(TicketError::InvalidSignature)),
            (full.replace(&format!(",\"sig\":\"{sig}\""), ""), format),
            (full.replace(&format!("\"{sig}\""), "null"), format),
            (format!("{full}x"), format),
            ("null".into(), format),
            ("[]".into(), format),
            (String::new(), format),
        ];
        for (object, expect) in table {
            let text = format!("{PREFIX}{}", b64::encode(object.as_bytes()));
            assert_eq!(Ticket::parse(&text).map(|_| ()), expect, "{object}");
        }
        let text = ticket().to_text();
        let (a, b) = text.split_at(100);
        for bad in [
            text.replace("clwpair1_", "clwpair2_"),
            text.replace("clwpair1_", ""),
            text.to_uppercase(),
            format!("{text}="),
            format!("{text}+"),
            format!("{a}.{b}"),
            format!("x{text}"),
            format!("{text}x"),
            format!("{text}{}", " ".repeat(MAX_TICKET_BYTES)),
            String::new(),
            "``".into(),
        ] {
            assert_eq!(Ticket::parse(&bad).map(|_| ()), format, "{bad}");
        }
    }

    #[test]
    fn only_its_own_key_and_its_own_bytes() {
        let good = ticket();
        assert!(good.verify(&PublicKey::from(&key(5))));
        assert!(!good.verify(&PublicKey::from(&key(6))));
        let changes: [fn(&mut Ticket); 6] = [
            |t| t.iss = Origin::parse("https://evil.example").unwrap(),
            |t| t.kid = ulid(3),
            |t| t.nonce[0] ^= 1,
            |t| t.exp_s += 1,
            |t| t.pkid = ulid(3),
            |t| t.sig[0] ^= 1,
        ];
        for change in changes {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(!bad.verify(&PublicKey::from(&key(5))), "{bad:?}");
        }
        assert_eq!(
            good.check_issuer(&Origin::parse("https://proxy.example.com").unwrap()),
            Ok(())
        );
        let other = Origin::parse("https://proxy.example.com:8443").unwrap();
        assert_eq!(good.check_issuer(&other), Err(TicketError::InvalidIssuer));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", object in "\\{\\PC{0,80}\\}") {
            let _ = Ticket::parse(&text);
            let _ = Ticket::parse(&format!("{PREFIX}{}", b64::encode(object.as_bytes())));
        }

        #[test]
        fn round_trip(kid: u128, nonce: [u8; 18], exp_s in 0..=MAX_SECONDS, seed: u8) {
            let iss = Origin::parse("http://127.0.0.1:8787").unwrap();
            let unsigned = UnsignedTicket { iss, kid: ulid(kid), nonce, exp_s, pkid: ulid(!kid) };
            let text = Ticket::sign(unsigned, &key(seed));
            let ticket = Ticket::parse(&text).unwrap();
            prop_assert_eq!(ticket.to_text(), text);
            prop_assert!(ticket.verify(&PublicKey::from(&key(seed))));
        }
    }
}

//! The operator's page, as far as it can be decided without a network: its sessions, what it calls a problem, what an isolate
//! remembers for it, its plots and its HTML.
//!
//! - A session is a cookie that only the holder of `ADMIN_TOKEN` can make: its expiry, a random part, and an HMAC of both
//!   under a key made of the token. Nothing is stored, and a new `ADMIN_TOKEN` ends every session.
//! - A form is taken only with the session's own CSRF token, which is an HMAC too and is not the cookie.
//! - Everything that is shown goes through `html::escape`.

pub mod html;
pub mod plot;
pub mod problems;
pub mod recent;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use clawdentity_protocol::b64;

/// A session ends after this time, whatever is done in it.
pub const SESSION_MS: u64 = 8 * 60 * 60 * 1000;
/// The name of the cookie.
pub const COOKIE: &str = "clawdentity_operator";
const BLOCK_BYTES: usize = 64;
const MAX_COOKIE_CHARS: usize = 256;

/// A session of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The cookie's value.
    pub cookie: String,
    /// What its forms carry.
    pub csrf: String,
}

impl Session {
    /// A new one.
    pub fn new(admin_token: &str, now_ms: u64, random: [u8; 16]) -> Self {
        let claims = format!("{}.{}", now_ms.saturating_add(SESSION_MS), b64::encode(&random));
        let cookie = format!("{claims}.{}", mac(admin_token, "session", &claims));
        let csrf = mac(admin_token, "csrf", &claims);
        Self { cookie, csrf }
    }

    /// The session of a `Cookie` header, if it has one that still counts.
    pub fn of_header(header: Option<&str>, admin_token: &str, now_ms: u64) -> Option<Self> {
        let cookie = header?
            .split(';')
            .find_map(|each| each.trim().strip_prefix(COOKIE)?.strip_prefix('='))?;
        if cookie.len() > MAX_COOKIE_CHARS {
            return None;
        }
        let (claims, tag) = cookie.rsplit_once('.')?;
        if !same(tag, &mac(admin_token, "session", claims)) {
            return None;
        }
        let expires_at_ms: u64 = claims.split('.').next()?.parse().ok()?;
        // One that ends later than a session can is of a clock that was wrong.
        let lives = now_ms < expires_at_ms && expires_at_ms <= now_ms.saturating_add(SESSION_MS);
        lives.then(|| Self {
            cookie: cookie.to_owned(),
            csrf: mac(admin_token, "csrf", claims),
        })
    }

    /// Whether a form with this token is this session's.
    pub fn sent(&self, csrf: Option<&str>) -> bool {
        csrf.is_some_and(|presented| same(presented, &self.csrf))
    }
}

/// `Set-Cookie` of a session, or of its end. `secure`: the request came over https.
pub fn set_cookie(session: Option<&Session>, secure: bool) -> String {
    let (value, max_age_s) = session.map_or(("", 0), |session| (session.cookie.as_str(), SESSION_MS / 1000));
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}={value}; Path=/admin; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
}

fn same(presented: &str, expected: &str) -> bool {
    presented.as_bytes().ct_eq(expected.as_bytes()).into()
}

/// HMAC-SHA-256 (RFC 2104) of a text for one purpose.
fn mac(key: &str, purpose: &str, text: &str) -> String {
    let key = Sha256::digest(key.as_bytes());
    let padded = |with: u8| {
        let mut block = [with; BLOCK_BYTES];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new()
        .chain_update(padded(0x36))
        .chain_update(format!("{purpose}\n{text}"))
        .finalize();
    let outer = Sha256::new()
        .chain_update(padded(0x5c))
        .chain_update(inner)
        .finalize();
    b64::encode(&outer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "an-operators-token-of-32-characters";
    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn a_session_is_made_by_the_token_alone_and_ends() {
        let session = Session::new(TOKEN, NOW_MS, [7; 16]);
        let header = format!("other=1; {COOKIE}={}", session.cookie);
        let at = |header: &str, token: &str, now_ms| Session::of_header(Some(header), token, now_ms);
        assert_eq!(at(&header, TOKEN, NOW_MS), Some(session.clone()));
        assert_eq!(at(&header, TOKEN, NOW_MS + SESSION_MS - 1), Some(session.clone()));
        assert_eq!(at(&header, TOKEN, NOW_MS + SESSION_MS), None, "it has ended");
        assert_eq!(at(&header, TOKEN, NOW_MS - 1), None, "it cannot live so long");
        assert_eq!(at(&header, "another-token-of-32-characters-00", NOW_MS), None);
        let longer = header.replace(
            &(NOW_MS + SESSION_MS).to_string(),
            &(NOW_MS + SESSION_MS - 1).to_string(),
        );
        assert_eq!(at(&longer, TOKEN, NOW_MS), None, "its expiry is signed");
        for wrong in [
            "",
            "a.b",
            COOKIE,
            &format!("{COOKIE}="),
            &format!("{COOKIE}=1.2.3"),
        ] {
            assert_eq!(at(wrong, TOKEN, NOW_MS), None, "{wrong}");
        }
        assert_eq!(Session::of_header(None, TOKEN, NOW_MS), None);
    }

    #[test]
    fn a_form_is_taken_with_its_own_sessions_token_only() {
        let session = Session::new(TOKEN, NOW_MS, [7; 16]);
        let other = Session::new(TOKEN, NOW_MS, [8; 16]);
        assert!(session.sent(Some(&session.csrf)));
        for wrong in [
            None,
            Some(""),
            Some(other.csrf.as_str()),
            Some(session.cookie.as_str()),
        ] {
            assert!(!session.sent(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn the_cookie_is_for_this_page_alone() {
        let session = Session::new(TOKEN, NOW_MS, [7; 16]);
        let set = set_cookie(Some(&session), true);
        assert!(
            set.ends_with("; Path=/admin; Max-Age=28800; HttpOnly; SameSite=Strict; Secure"),
            "{set}"
        );
        assert_eq!(
            set_cookie(None, false),
            format!("{COOKIE}=; Path=/admin; Max-Age=0; HttpOnly; SameSite=Strict")
        );
    }
}

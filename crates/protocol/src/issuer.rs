//! Where tokens, tickets and messages come from: the registry as an issuer, and the origin of a proxy.
//!
//! Each has exactly one text, the one that the URL standard writes, so comparing texts is comparing places. An
//! [`Issuer`] has a host name that can stand in a DID (no IPv6 literal, no user information). An [`Origin`] has no
//! path.
//!
//! Which issuer is expected is a setting. Only the local case of docs/wire.md §2.1 is worked out here.

use url::{Host, Url};

use super::did::{Authority, DidError};
use super::text::{has_control, string_form};

/// The longest URL that is parsed at all.
pub const MAX_URL_CHARS: usize = 2048;

/// Not an issuer or an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct IssuerError(&'static str);

/// An `iss`: an http(s) URL with a host name or an IPv4 address, without user info, query, fragment or trailing slash,
/// spelt as the URL standard spells it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Issuer {
    text: String,
    host: String,
}

impl Issuer {
    /// Parses an `iss`.
    ///
    /// # Errors
    /// Any other URL, or another spelling of one.
    pub fn parse(text: &str) -> Result<Self, IssuerError> {
        const ERROR: IssuerError = IssuerError("an http(s) issuer with a host name and no trailing slash");
        let url = parse_http(text).ok_or(ERROR)?;
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(_)) | None => return Err(ERROR),
        };
        let plain = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && !text.ends_with('/');
        // The standard writes the root path as a slash that an issuer does not have.
        let standard = if url.path() == "/" {
            url.as_str().trim_end_matches('/')
        } else {
            url.as_str()
        };
        if plain && standard == text {
            Ok(Self {
                text: text.to_owned(),
                host,
            })
        } else {
            Err(ERROR)
        }
    }

    /// The issuer that a local deployment expects of a request that came to a non-loopback host, where the registry's
    /// URL is a loopback one (docs/wire.md §2): the request's scheme and host, with the registry's port where the request
    /// has one. `None` wherever nothing may be taken from the request. The caller sees to it that no `REGISTRY_ISSUER`
    /// is set.
    pub fn for_request(registry_url: &Url, env_is_local: bool, request_url: &Url) -> Option<Self> {
        if !env_is_local || !is_loopback(registry_url) || is_loopback(request_url) {
            return None;
        }
        let host = request_url.host_str()?;
        let scheme = request_url.scheme();
        let text = match (request_url.port(), registry_url.port()) {
            (Some(_), Some(port)) => format!("{scheme}://{host}:{port}"),
            _ => format!("{scheme}://{host}"),
        };
        Self::parse(&text).ok()
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The host name, without a port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The authority of the DIDs that it gives out.
    ///
    /// # Errors
    /// A host of a single label, `localhost` above all, cannot stand in a DID.
    pub fn authority(&self) -> Result<Authority, DidError> {
        Authority::parse(&self.host)
    }
}

string_form!(Issuer, "an issuer");

/// The origin of an http(s) URL: scheme, host and, where it is not the scheme's own, port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(String);

impl Origin {
    /// The origin of an http(s) URL; path, query, fragment and user info are dropped.
    ///
    /// # Errors
    /// What is no http(s) URL.
    pub fn parse(text: &str) -> Result<Self, IssuerError> {
        parse_http(text.trim())
            .as_ref()
            .map(Self::of)
            .ok_or(IssuerError("an http(s) URL"))
    }

    /// The same, of a text that is an origin already.
    ///
    /// # Errors
    /// What is no origin, or another spelling of one.
    pub fn parse_exact(text: &str) -> Result<Self, IssuerError> {
        Self::parse(text)
            .ok()
            .filter(|origin| origin.0 == text)
            .ok_or(IssuerError("an http(s) origin"))
    }

    /// The origin of a request's URL.
    ///
    /// # Errors
    /// What is no http(s) URL.
    pub fn of_url(url: &Url) -> Result<Self, IssuerError> {
        if is_http(url) {
            Ok(Self::of(url))
        } else {
            Err(IssuerError("an http(s) URL"))
        }
    }

    fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization())
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Origin {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

string_form!(Origin, "an http(s) URL");

/// Whether a text is a URL that receipts may be sent to, by whoever sends them (docs/wire.md §5): absolute, of one of these
/// schemes, without user info, and as it stands: nothing that the URL standard would silently remove.
pub fn is_reply_url(text: &str) -> bool {
    let Some(url) = parse_as_it_stands(text) else {
        return false;
    };
    let has_place = match url.scheme() {
        "https" | "http" | "wss" => has_plain_authority(&url, text),
        // Whatever such a URL names, it names something.
        "mailto" | "did" | "urn" => !url.path().is_empty(),
        _ => false,
    };
    has_place && url.username().is_empty() && url.password().is_none() && !has_empty_user_info(&url, text)
}

fn parse_http(text: &str) -> Option<Url> {
    if text.len() > MAX_URL_CHARS {
        return None;
    }
    let url = parse_as_it_stands(text)?;
    (is_http(&url) && has_plain_authority(&url, text)).then_some(url)
}

/// The standard drops line ends inside and spaces around, and takes `\` for `/`: none of that is meant well here.
fn parse_as_it_stands(text: &str) -> Option<Url> {
    if has_control(text) || text.trim() != text || text.contains('\\') {
        return None;
    }
    Url::parse(text).ok()
}

/// It also takes `http:example.com` and `http:///example.com` for `http://example.com`.
fn has_plain_authority(url: &Url, text: &str) -> bool {
    authority_of(url, text).is_some_and(|authority| !authority.starts_with('/'))
}

/// And it drops an empty user info: `https://@example.com`.
fn has_empty_user_info(url: &Url, text: &str) -> bool {
    let authority = authority_of(url, text).unwrap_or_default();
    let end = authority.find(['/', '?', '#']).unwrap_or(authority.len());
    authority
        .get(..end)
        .is_some_and(|authority| authority.contains('@'))
}

/// What stands behind `scheme://`.
fn authority_of<'a>(url: &Url, text: &'a str) -> Option<&'a str> {
    text.get(url.scheme().len()..)?.strip_prefix("://")
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn issuers() {
        let table = [
            ("https://registry.example.com", Some("registry.example.com")),
            ("http://127.0.0.1:8788", Some("127.0.0.1")),
            ("http://localhost:8788", Some("localhost")),
            ("https://registry.example.com:8443", Some("registry.example.com")),
            (
                "https://registry.example.com/tenant/a",
                Some("registry.example.com"),
            ),
            ("https://registry.example.com/", None),
            ("https://registry.example.com/tenant/", None),
            ("https://registry.example.com//", None),
            ("https://Registry.example.com", None),
            ("HTTPS://registry.example.com", None),
            ("https://registry.example.com:443", None),
            ("http://registry.example.com:80", None),
            ("https://user@registry.example.com", None),
            ("https://user:pass@registry.example.com", None),
            ("https://@registry.example.com", None),
            ("https://:@registry.example.com", None),
            ("https://registry.example.com?", None),
            ("https://registry.example.com?a=b", None),
            ("https://registry.example.com#", None),
            ("https://registry.example.com/a/../b", None),
            ("https://registry.example.com\\a", None),
            ("https:registry.example.com", None),
            ("https:///registry.example.com", None),
            ("https://bücher.example", None),
            ("https://xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("http://[::1]:8788", None),
            ("http://127.1", None),
            ("http://2130706433", None),
            ("https://registry.example.com ", None),
            ("https://registry.exam\nple.com", None),
            ("ftp://registry.example.com", None),
            ("wss://registry.example.com", None),
            ("registry.example.com", None),
            ("https://", None),
            ("", None),
        ];
        for (text, host) in table {
            let issuer = Issuer::parse(text).ok();
            assert_eq!(issuer.as_ref().map(Issuer::host), host, "{text}");
            assert!(issuer.is_none_or(|issuer| issuer.as_str() == text));
        }
        assert!(Issuer::parse(&format!("https://a.b/{}", "c".repeat(MAX_URL_CHARS))).is_err());
    }

    #[test]
    fn where_receipts_may_go() {
        for (text, expect) in [
            ("https://a.example/r?x=1#f", true),
            ("http://127.0.0.1:9/r", true),
            ("wss://a.example", true),
            ("mailto:a@b.example", true),
            (
                "did:cdi:registry.example.com:agent:01ARZ3NDEKTSV4RRFFQ69G5FAV",
                true,
            ),
            ("urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6", true),
            ("HTTPS://a.example", true),
            ("https://a.example/@b", true),
            ("https://user@a.example", false),
            ("https://user:pw@a.example", false),
            ("https://:pw@a.example", false),
            ("https://@a.example", false),
            ("wss://u:p@a.example", false),
            ("did://u:p@a.example/x", false),
            ("urn://u@a/x", false),
            ("not a url", false),
            ("/relative", false),
            ("//a.example", false),
            ("https://", false),
            ("https:a.example", false),
            ("https:///a.example", false),
            ("mailto:", false),
            ("ftp://a.example", false),
            ("ws://a.example", false),
            ("javascript:alert(1)", false),
            ("data:,x", false),
            ("file:///etc/passwd", false),
            (" https://a.example", false),
            ("https://a.exa\nmple", false),
            ("https:\\\\a.example", false),
            ("", false),
        ] {
            assert_eq!(is_reply_url(text), expect, "{text}");
        }
    }

    #[test]
    fn only_a_host_of_two_labels_gives_out_dids() {
        assert!(
            Issuer::parse("http://localhost:8788")
                .unwrap()
                .authority()
                .is_err()
        );
        assert_eq!(
            Issuer::parse("http://127.0.0.1:8788")
                .unwrap()
                .authority()
                .unwrap()
                .as_str(),
            "127.0.0.1"
        );
    }

    #[test]
    fn a_local_request_may_move_the_expectation() {
        let table = [
            // registry, local, request, expected
            (
                "http://127.0.0.1:8788",
                true,
                "http://box.lan:8787/x",
                Some("http://box.lan:8788"),
            ),
            (
                "http://127.0.0.1:8788",
                true,
                "https://box.lan/x",
                Some("https://box.lan"),
            ),
            (
                "http://localhost",
                true,
                "http://box.lan:8787/x",
                Some("http://box.lan"),
            ),
            (
                "http://[::1]:8788",
                true,
                "http://192.168.1.9:8787/x",
                Some("http://192.168.1.9:8788"),
            ),
            ("http://127.0.0.1:8788", true, "http://127.0.0.1:8787/x", None),
            ("http://127.0.0.1:8788", true, "http://localhost:8787/x", None),
            ("http://127.0.0.1:8788", true, "http://app.localhost:8787/x", None),
            ("http://127.0.0.1:8788", true, "http://[::1]:8787/x", None),
            ("http://127.0.0.1:8788", true, "http://[fe80::1]:8787/x", None),
            ("http://127.0.0.1:8788", false, "http://box.lan:8787/x", None),
            (
                "https://registry.example.com",
                true,
                "http://evil.example:8787/x",
                None,
            ),
            (
                "http://127.0.0.1.evil.example:8788",
                true,
                "http://evil.example:8787/x",
                None,
            ),
        ];
        for (registry, local, request, expect) in table {
            let (registry, request) = (Url::parse(registry).unwrap(), Url::parse(request).unwrap());
            let moved = Issuer::for_request(&registry, local, &request);
            assert_eq!(
                moved.as_ref().map(Issuer::as_str),
                expect,
                "{registry} {local} {request}"
            );
        }
    }

    #[test]
    fn origins() {
        let table = [
            ("https://proxy.example.com", Some("https://proxy.example.com")),
            (
                " https://Proxy.example.com:443/a?b#c ",
                Some("https://proxy.example.com"),
            ),
            (
                "http://user:pass@proxy.example.com:8787/",
                Some("http://proxy.example.com:8787"),
            ),
            ("http://[::1]:8787", Some("http://[::1]:8787")),
            ("ftp://proxy.example.com", None),
            ("data:text/plain,x", None),
            ("https:\\\\proxy.example.com", None),
            ("https://proxy.example.com\\@evil.example", None),
            ("https:///proxy.example.com", None),
            ("https:/proxy.example.com", None),
            ("https:proxy.example.com", None),
            ("proxy.example.com", None),
            ("https://pro\txy.example.com", None),
            ("", None),
        ];
        for (text, expect) in table {
            let origin = Origin::parse(text).ok();
            assert_eq!(origin.as_deref(), expect, "{text}");
            assert_eq!(Origin::parse_exact(text).is_ok(), expect == Some(text), "{text}");
        }
        assert_eq!(
            &*Origin::of_url(&Url::parse("http://a.b:80/c").unwrap()).unwrap(),
            "http://a.b"
        );
        assert!(Origin::of_url(&Url::parse("file:///etc").unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(https?:/{0,3})?\\PC{0,60}") {
            if let Ok(issuer) = Issuer::parse(&text) {
                prop_assert_eq!(Issuer::parse(issuer.as_str()), Ok(issuer));
            }
            if let Ok(origin) = Origin::parse(&text) {
                prop_assert_eq!(Origin::parse_exact(origin.as_str()), Ok(origin));
            }
        }
    }
}

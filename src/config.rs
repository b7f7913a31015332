//! Configuration becomes types once, at the edge.
//!
//! `Config::parse` reads every setting of `table::SETTINGS`, reports all faults
//! together, each with the variable's name, what is wrong and what is allowed,
//! and never a value that is secret. What it returns needs no further checks.
//! Blank counts as unset (WIRE.md §9).

mod table;

use std::fmt;

use url::Url;

pub use self::table::{Kind, SETTINGS, Setting};
use crate::protocol::issuer::Issuer;

/// The crate's version, the default of `APP_VERSION`.
const CRATE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Default registries of WIRE.md §9.
const PRODUCTION_REGISTRY: &str = "https://registry.clawdentity.com";
const DEVELOPMENT_REGISTRY: &str = "https://dev.registry.clawdentity.com";
/// A bearer token shorter than this can be guessed (WIRE.md §9).
const MIN_BEARER_CHARS: usize = 32;

/// Which deployment this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine; the only one in which the request's host may move the expected issuer.
    Local,
    /// The shared development deployment.
    Development,
    /// The last step before production.
    Staging,
    /// Production.
    Production,
}

impl Environment {
    /// The word used in `ENVIRONMENT` and in `/health`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Development => "development",
            Self::Staging => "staging",
            Self::Production => "production",
        }
    }
}

/// A value that must not be shown: it prints as nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself, for the one place that sends or compares it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The registry: where it is and how long it may take.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Base URL.
    pub url: Url,
    /// `REGISTRY_ISSUER`, or `None` where the origin of `url` is expected.
    pub issuer: Option<Issuer>,
    /// What tokens are expected to carry as `iss` (WIRE.md §2), before the local exception.
    pub expected_issuer: Issuer,
    /// Path of access validation.
    pub validate_path: String,
    /// `x-claw-service-id`.
    pub service_id: Secret,
    /// `x-claw-service-secret`.
    pub service_secret: Secret,
    /// A request's whole registry budget.
    pub budget_ms: u64,
    /// The circuits' figures.
    pub circuit: CircuitFigures,
    /// A refresh that was not answered is claimed anew after.
    pub refresh_claim_ms: u64,
    /// Signing keys: fresh for, stale until, cool-down of an unknown `kid`.
    pub keys_fresh_ms: u64,
    /// See `keys_fresh_ms`.
    pub keys_stale_ms: u64,
    /// See `keys_fresh_ms`.
    pub keys_cooldown_ms: u64,
    /// Access validation: fresh for.
    pub access_fresh_ms: u64,
    /// Access validation: stale until.
    pub access_stale_ms: u64,
    /// Access validation: a 401 is remembered for.
    pub access_refused_ms: u64,
    /// Access validation: longest pause after a row of 401s.
    pub access_refused_max_ms: u64,
    /// Different unvalidated tokens of one agent asked about in a minute.
    pub access_unknown_tokens_per_minute: u32,
    /// Group membership: fresh for.
    pub membership_fresh_ms: u64,
    /// Group membership: stale until.
    pub membership_stale_ms: u64,
    /// Group membership: that an agent is no member is remembered for.
    pub membership_refused_ms: u64,
}

/// Figures of a circuit breaker (DESIGN.md §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitFigures {
    /// Failures within the window that open it.
    pub failures: u32,
    /// The window.
    pub window_ms: u64,
    /// Pause before the probe.
    pub open_ms: u64,
    /// Longest pause a `Retry-After` can ask for.
    pub open_max_ms: u64,
}

/// What a dead CRL means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrlStaleBehavior {
    /// Go on under the overlay, with a warning.
    FailOpen,
    /// 503.
    FailClosed,
}

/// The polled CRL.
#[derive(Clone, Copy, Debug)]
pub struct CrlSettings {
    /// Fresh for.
    pub refresh_interval_ms: u64,
    /// Dead at.
    pub max_age_ms: u64,
    /// What dead means.
    pub stale_behavior: CrlStaleBehavior,
}

/// The trust store (D1) and the trust objects.
#[derive(Clone, Copy, Debug)]
pub struct TrustSettings {
    /// Fresh for.
    pub fresh_ms: u64,
    /// Stale until, only while D1 does not answer.
    pub stale_ms: u64,
    /// D1 counts as not answering after.
    pub timeout_ms: u64,
    /// A trust object counts as not answering after.
    pub state_timeout_ms: u64,
}

/// Rate limits.
#[derive(Clone, Copy, Debug)]
pub struct RateSettings {
    /// Admissions of one agent within the window.
    pub agent_requests: u32,
    /// The window.
    pub agent_window_ms: u64,
    /// Requests per minute, path and client address.
    pub public_per_minute: u32,
    /// `enqueue` frames per minute and agent.
    pub enqueue_per_minute: u32,
}

/// The relay (WIRE.md §6).
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Messages that may wait for one recipient.
    pub max_messages: u32,
    /// How long one may wait.
    pub ttl_ms: u64,
    /// First pause of a retry.
    pub retry_initial_ms: u64,
    /// Longest pause of a retry.
    pub retry_max_ms: u64,
    /// Sendings after which a message is dead-lettered.
    pub retry_max_attempts: u32,
    /// Part by which a pause varies.
    pub retry_jitter_ratio: f64,
    /// Deliveries in flight per recipient.
    pub max_in_flight: u32,
    /// Largest frame and hook body, bytes.
    pub max_frame_bytes: usize,
    /// A delivery not acknowledged for this long has failed.
    pub ack_timeout_ms: u64,
    /// A socket silent for this long gets a heartbeat.
    pub heartbeat_ms: u64,
    /// A socket silent for this long is closed.
    pub silent_close_ms: u64,
}

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which deployment this is.
    pub environment: Environment,
    /// What `/health` names.
    pub version: String,
    /// Where the version came from: the variable's name, or `crate`.
    pub version_source: &'static str,
    /// The registry.
    pub registry: RegistrySettings,
    /// The CRL.
    pub crl: CrlSettings,
    /// The trust store.
    pub trust: TrustSettings,
    /// Rate limits.
    pub rate: RateSettings,
    /// The relay.
    pub relay: RelaySettings,
    /// A caller is warned of a skew over this, seconds.
    pub clock_skew_warn_s: u64,
    /// Entries of each cache of an isolate.
    pub cache_max_entries: usize,
    /// Prefix messages with the sender's identity.
    pub inject_identity: bool,
    /// Opens the admin routes.
    pub admin_token: Option<Secret>,
    /// Opens the feed to bearers.
    pub feed_token: Option<Secret>,
}

/// One fault of one variable. Says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl Config {
    /// Reads all settings through `lookup` (a variable's name to its value).
    ///
    /// # Errors
    /// Every fault there is, in the order of `SETTINGS`.
    pub fn parse(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<Fault>> {
        let mut reader = Reader {
            lookup,
            faults: Vec::new(),
        };
        let config = reader.config();
        reader.refuse_retired();
        match config {
            Some(config) if reader.faults.is_empty() => Ok(config),
            _ => {
                let place = |fault: &Fault| SETTINGS.iter().position(|s| s.name == fault.variable);
                reader.faults.sort_by_key(place);
                Err(reader.faults)
            }
        }
    }
}

struct Reader<F> {
    lookup: F,
    faults: Vec<Fault>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn config(&mut self) -> Option<Config> {
        let environment = self.environment();
        let registry = self.registry(environment);
        let (version, version_source) = self.version();
        let crl = CrlSettings {
            refresh_interval_ms: self.int("CRL_REFRESH_INTERVAL_MS"),
            max_age_ms: self.int("CRL_MAX_AGE_MS"),
            stale_behavior: match self.word("CRL_STALE_BEHAVIOR") {
                Some("fail-closed") => CrlStaleBehavior::FailClosed,
                _ => CrlStaleBehavior::FailOpen,
            },
        };
        let trust = TrustSettings {
            fresh_ms: self.int("TRUST_FRESH_MS"),
            stale_ms: self.int("TRUST_STALE_MS"),
            timeout_ms: self.int("TRUST_TIMEOUT_MS"),
            state_timeout_ms: self.int("TRUST_STATE_TIMEOUT_MS"),
        };
        let rate = RateSettings {
            agent_requests: self.int("AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE") as u32,
            agent_window_ms: self.int("AGENT_RATE_LIMIT_WINDOW_MS"),
            public_per_minute: self.int("PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE") as u32,
            enqueue_per_minute: self.int("ENQUEUE_RATE_LIMIT_PER_MINUTE") as u32,
        };
        let relay = self.relay();
        let clock_skew_warn_s = self.int("CLOCK_SKEW_WARN_SECONDS");
        let cache_max_entries = self.int("CACHE_MAX_ENTRIES") as usize;
        let inject_identity = self.flag("INJECT_IDENTITY_INTO_MESSAGE");
        let admin_token = self.secret("ADMIN_TOKEN", MIN_BEARER_CHARS, 1024);
        let feed_token = self.secret("FEED_TOKEN", MIN_BEARER_CHARS, 1024);
        Some(Config {
            environment: environment?,
            version,
            version_source,
            registry: registry?,
            crl,
            trust,
            rate,
            relay,
            clock_skew_warn_s,
            cache_max_entries,
            inject_identity,
            admin_token,
            feed_token,
        })
    }

    fn environment(&mut self) -> Option<Environment> {
        if self.value("ENVIRONMENT").is_none() {
            self.fault(
                "ENVIRONMENT",
                "is required: local, development, staging or production".into(),
            );
            return None;
        }
        match self.word("ENVIRONMENT")? {
            "local" => Some(Environment::Local),
            "development" => Some(Environment::Development),
            "staging" => Some(Environment::Staging),
            _ => Some(Environment::Production),
        }
    }

    fn registry(&mut self, environment: Option<Environment>) -> Option<RegistrySettings> {
        let default = match environment {
            Some(Environment::Production) => PRODUCTION_REGISTRY,
            _ => DEVELOPMENT_REGISTRY,
        };
        let raw = self.value("REGISTRY_URL").unwrap_or_else(|| default.to_owned());
        let url = parse_http_url(&raw);
        if url.is_none() {
            self.fault(
                "REGISTRY_URL",
                "must be an http(s) URL with a host and no user info".into(),
            );
        }
        let issuer = match self.value("REGISTRY_ISSUER") {
            None => None,
            Some(raw) => match Issuer::parse(&raw) {
                Ok(issuer) => Some(issuer),
                Err(_) => {
                    let message = "must be an http(s) origin with a host name and no trailing slash";
                    self.fault("REGISTRY_ISSUER", message.into());
                    None
                }
            },
        };
        let expected_issuer = match (&issuer, &url) {
            (Some(issuer), _) => Some(issuer.clone()),
            (None, Some(url)) => {
                let origin = Issuer::parse(&url.origin().ascii_serialization()).ok();
                if origin.is_none() {
                    self.fault(
                        "REGISTRY_URL",
                        "has an origin that cannot be an issuer: set REGISTRY_ISSUER".into(),
                    );
                }
                origin
            }
            (None, None) => None,
        };
        let validate_path = self.value("REGISTRY_VALIDATE_PATH").unwrap_or_default();
        if !validate_path.starts_with('/')
            || validate_path.starts_with("//")
            || validate_path.contains(['?', '#', '\\', ' '])
        {
            self.fault(
                "REGISTRY_VALIDATE_PATH",
                "must be an absolute path without query".into(),
            );
        }
        let service_id = self.required_secret("REGISTRY_INTERNAL_SERVICE_ID", 256);
        let service_secret = self.required_secret("REGISTRY_INTERNAL_SERVICE_SECRET", 1024);
        let budget_ms = self.int("REGISTRY_BUDGET_MS");
        let circuit = CircuitFigures {
            failures: self.int("REGISTRY_CIRCUIT_FAILURES") as u32,
            window_ms: self.int("REGISTRY_CIRCUIT_WINDOW_MS"),
            open_ms: self.int("REGISTRY_CIRCUIT_OPEN_MS"),
            open_max_ms: self.int("REGISTRY_CIRCUIT_OPEN_MAX_MS"),
        };
        let refresh_claim_ms = self.int("REGISTRY_REFRESH_CLAIM_MS");
        if refresh_claim_ms < budget_ms {
            self.fault(
                "REGISTRY_REFRESH_CLAIM_MS",
                "must not be below REGISTRY_BUDGET_MS".into(),
            );
        }
        let keys_fresh_ms = self.int("REGISTRY_KEYS_FRESH_MS");
        let keys_stale_ms = self.int("REGISTRY_KEYS_STALE_MS");
        let keys_cooldown_ms = self.int("REGISTRY_KEYS_COOLDOWN_MS");
        let access_fresh_ms = self.int("AGENT_ACCESS_FRESH_MS");
        let access_stale_ms = self.int("AGENT_ACCESS_STALE_MS");
        let access_refused_ms = self.int("AGENT_ACCESS_REFUSED_MS");
        let access_refused_max_ms = self.int("AGENT_ACCESS_REFUSED_MAX_MS");
        let access_unknown_tokens_per_minute = self.int("AGENT_ACCESS_UNKNOWN_TOKENS_PER_MINUTE") as u32;
        let membership_fresh_ms = self.int("GROUP_MEMBERSHIP_FRESH_MS");
        let membership_stale_ms = self.int("GROUP_MEMBERSHIP_STALE_MS");
        let membership_refused_ms = self.int("GROUP_MEMBERSHIP_REFUSED_MS");
        Some(RegistrySettings {
            url: url?,
            issuer,
            expected_issuer: expected_issuer?,
            validate_path,
            service_id: service_id?,
            service_secret: service_secret?,
            budget_ms,
            circuit,
            refresh_claim_ms,
            keys_fresh_ms,
            keys_stale_ms,
            keys_cooldown_ms,
            access_fresh_ms,
            access_stale_ms,
            access_refused_ms,
            access_refused_max_ms,
            access_unknown_tokens_per_minute,
            membership_fresh_ms,
            membership_stale_ms,
            membership_refused_ms,
        })
    }

    fn relay(&mut self) -> RelaySettings {
        let settings = RelaySettings {
            max_messages: self.int("RELAY_QUEUE_MAX_MESSAGES_PER_AGENT") as u32,
            ttl_ms: self.int("RELAY_QUEUE_TTL_SECONDS").saturating_mul(1000),
            retry_initial_ms: self.int("RELAY_RETRY_INITIAL_MS"),
            retry_max_ms: self.int("RELAY_RETRY_MAX_MS"),
            retry_max_attempts: self.int("RELAY_RETRY_MAX_ATTEMPTS") as u32,
            retry_jitter_ratio: self.ratio("RELAY_RETRY_JITTER_RATIO"),
            max_in_flight: self.int("RELAY_MAX_IN_FLIGHT_DELIVERIES") as u32,
            max_frame_bytes: self.int("RELAY_MAX_FRAME_BYTES") as usize,
            ack_timeout_ms: self.int("RELAY_ACK_TIMEOUT_MS"),
            heartbeat_ms: self.int("RELAY_HEARTBEAT_MS"),
            silent_close_ms: self.int("RELAY_SILENT_CLOSE_MS"),
        };
        if settings.retry_max_ms < settings.retry_initial_ms {
            self.fault(
                "RELAY_RETRY_MAX_MS",
                "must not be below RELAY_RETRY_INITIAL_MS".into(),
            );
        }
        if settings.silent_close_ms <= settings.heartbeat_ms {
            self.fault("RELAY_SILENT_CLOSE_MS", "must be above RELAY_HEARTBEAT_MS".into());
        }
        settings
    }

    fn version(&mut self) -> (String, &'static str) {
        for name in ["APP_VERSION", "PROXY_VERSION"] {
            if let Some(version) = self.own_value(name) {
                if version.len() > 64 || !version.bytes().all(|b| b.is_ascii_graphic()) {
                    self.fault("APP_VERSION", "must be 1-64 visible characters".into());
                }
                return (version, name);
            }
        }
        (CRATE_VERSION.to_owned(), "crate")
    }

    /// Settings that existing deployments may still carry and that would now mislead (WIRE.md §9).
    fn refuse_retired(&mut self) {
        if self.own_value("ALLOW_ALL_VERIFIED").is_some() {
            self.fault("ALLOW_ALL_VERIFIED", "is no longer supported: remove it".into());
        }
    }

    fn int(&mut self, name: &'static str) -> u64 {
        let Some(Setting {
            kind: Kind::Int { min, max },
            default,
            ..
        }) = table::setting(name)
        else {
            self.fault(name, "is not a number in the table of settings".into());
            return 0;
        };
        let raw = self.value(name).unwrap_or_else(|| (*default).to_owned());
        let digits_only = raw.bytes().all(|b| b.is_ascii_digit());
        match raw.parse::<u64>() {
            Ok(value) if digits_only && (*min..=*max).contains(&value) => value,
            _ => {
                self.fault(name, format!("must be a whole number from {min} to {max}"));
                *min
            }
        }
    }

    fn ratio(&mut self, name: &'static str) -> f64 {
        let Some(Setting {
            kind: Kind::Ratio { min, max },
            default,
            ..
        }) = table::setting(name)
        else {
            self.fault(name, "is not a ratio in the table of settings".into());
            return 0.0;
        };
        let raw = self.value(name).unwrap_or_else(|| (*default).to_owned());
        match raw.parse::<f64>() {
            Ok(value) if (*min..=*max).contains(&value) => value,
            _ => {
                self.fault(name, format!("must be a number from {min} to {max}"));
                *min
            }
        }
    }

    fn flag(&mut self, name: &'static str) -> bool {
        let raw = self.value(name).map(|raw| raw.to_ascii_lowercase());
        match raw.as_deref() {
            Some("true" | "1" | "yes" | "on") => true,
            None | Some("false" | "0" | "no" | "off") => false,
            Some(_) => {
                self.fault(name, "must be true, 1, yes, on or false, 0, no, off".into());
                false
            }
        }
    }

    fn word(&mut self, name: &'static str) -> Option<&'static str> {
        let Some(Setting {
            kind: Kind::OneOf(words),
            default,
            ..
        }) = table::setting(name)
        else {
            self.fault(name, "is not a choice in the table of settings".into());
            return None;
        };
        let raw = self.value(name).unwrap_or_else(|| (*default).to_owned());
        let found = words.iter().find(|word| **word == raw).copied();
        if found.is_none() {
            self.fault(name, format!("must be one of {}", words.join(", ")));
        }
        found
    }

    fn required_secret(&mut self, name: &'static str, max: usize) -> Option<Secret> {
        let before = self.faults.len();
        let secret = self.secret(name, 1, max);
        if secret.is_none() && self.faults.len() == before {
            self.fault(name, "is required".into());
        }
        secret
    }

    fn secret(&mut self, name: &'static str, min: usize, max: usize) -> Option<Secret> {
        let value = self.value(name)?;
        if !(min..=max).contains(&value.len()) || !value.bytes().all(|b| b.is_ascii_graphic()) {
            self.fault(name, format!("must be {min}-{max} visible characters"));
            return None;
        }
        Some(Secret(value))
    }

    /// The value under the setting's name or, failing that, under its older names, else its default.
    fn value(&self, name: &str) -> Option<String> {
        let setting = table::setting(name)?;
        let names = std::iter::once(&setting.name).chain(setting.aliases);
        names
            .filter_map(|name| self.own_value(name))
            .next()
            .or_else(|| (!setting.default.is_empty()).then(|| setting.default.to_owned()))
    }

    fn own_value(&self, name: &str) -> Option<String> {
        let value = (self.lookup)(name)?;
        let trimmed = value.trim();
        (!trimmed.is_empty()).then(|| trimmed.to_owned())
    }

    fn fault(&mut self, variable: &'static str, message: String) {
        self.faults.push(Fault { variable, message });
    }
}

fn parse_http_url(raw: &str) -> Option<Url> {
    let url = Url::parse(raw).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

#[cfg(test)]
mod tests;

//! Reads the variables, each according to its kind in `table`, and collects what is wrong with them.
//!
//! A value with a fault is replaced by one within its bounds, so that reading goes on and all faults are found; the
//! result is then thrown away. No fault repeats a value.

use url::Url;

use super::table::{self, Kind, Setting};
use super::{
    CircuitFigures, Config, CrlSettings, CrlStaleBehavior, Environment, Fault, RateSettings,
    RegistrySettings, RelaySettings, Secret, TrustSettings,
};
use crate::core::relay_queue::identity::IdentityBlock;
use crate::log::Level;
use crate::protocol::issuer::Issuer;

/// The crate's version, the default of `APP_VERSION`.
const CRATE_VERSION: &str = env!("CARGO_PKG_VERSION");
/// Default registries of docs/wire.md §9.
const PRODUCTION_REGISTRY: &str = "https://registry.clawdentity.com";
const DEVELOPMENT_REGISTRY: &str = "https://dev.registry.clawdentity.com";
/// The local environment's secrets, each in quotes.
const EXAMPLE_SECRETS: &str = include_str!("../../.dev.vars.example");
/// A bearer token shorter than this can be guessed (docs/wire.md §9).
const MIN_BEARER_CHARS: usize = 32;

/// The variables by name, and the faults found so far.
pub(super) struct Reader<F> {
    pub(super) lookup: F,
    pub(super) faults: Vec<Fault>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// All settings; worth something only if no fault was found.
    pub(super) fn config(&mut self) -> Option<Config> {
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
            timeout_ms: self.int("TRUST_TIMEOUT_MS"),
            write_timeout_ms: self.int("TRUST_WRITE_TIMEOUT_MS"),
            revoked_memory_ms: self.int("REVOKED_MEMORY_MS"),
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
        let log_success_sample_rate = self.ratio("LOG_SUCCESS_SAMPLE_RATE");
        let log_level = match self.word("LOG_LEVEL") {
            Some("error") => Level::Error,
            Some("warn") => Level::Warn,
            _ => Level::Info,
        };
        let canary_interval_ms = self.int("CANARY_INTERVAL_SECONDS") * 1000;
        let subrequests = self.int("SUBREQUESTS_PER_INVOCATION");
        let identity_block = match self.flag_or_word("INJECT_IDENTITY_INTO_MESSAGE") {
            Some("true") => IdentityBlock::Hooks,
            Some(_) => IdentityBlock::All,
            None => IdentityBlock::Off,
        };
        let admin_token = self.secret("ADMIN_TOKEN", MIN_BEARER_CHARS, 1024);
        let feed_token = self.secret("FEED_TOKEN", MIN_BEARER_CHARS, 1024);
        self.refuse_published(environment, "ADMIN_TOKEN", admin_token.as_ref());
        self.refuse_published(environment, "FEED_TOKEN", feed_token.as_ref());
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
            log_success_sample_rate,
            log_level,
            canary_interval_ms,
            subrequests,
            identity_block,
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
        match &url {
            None => {
                let message = "must be an http(s) URL with a host and no user info";
                self.fault("REGISTRY_URL", message.into());
            }
            // The service secret and every access token go there.
            Some(url) if url.scheme() != "https" && environment != Some(Environment::Local) => {
                let message = "must be an https URL: http is for ENVIRONMENT=local alone";
                self.fault("REGISTRY_URL", message.into());
            }
            Some(_) => {}
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
        self.refuse_published(
            environment,
            "REGISTRY_INTERNAL_SERVICE_SECRET",
            service_secret.as_ref(),
        );
        let budget_ms = self.int("REGISTRY_BUDGET_MS");
        let stale_wait_ms = self.int("REGISTRY_STALE_WAIT_MS");
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
            stale_wait_ms,
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
            max_messages: self.int("RELAY_QUEUE_MAX_MESSAGES") as u32,
            max_messages_per_sender: self.int("RELAY_QUEUE_MAX_MESSAGES_PER_AGENT") as u32,
            ttl_ms: self.int("RELAY_QUEUE_TTL_SECONDS").saturating_mul(1000),
            retry_initial_ms: self.int("RELAY_RETRY_INITIAL_MS"),
            retry_max_ms: self.int("RELAY_RETRY_MAX_MS"),
            retry_max_attempts: self.int("RELAY_RETRY_MAX_ATTEMPTS") as u32,
            retry_jitter_ratio: self.ratio("RELAY_RETRY_JITTER_RATIO"),
            max_in_flight: self.int("RELAY_MAX_IN_FLIGHT_DELIVERIES") as u32,
            max_frame_bytes: self.int("RELAY_MAX_FRAME_BYTES") as usize,
        };
        if settings.retry_max_ms < settings.retry_initial_ms {
            self.fault(
                "RELAY_RETRY_MAX_MS",
                "must not be below RELAY_RETRY_INITIAL_MS".into(),
            );
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

    /// Settings that existing deployments may still carry and that would now mislead (docs/wire.md §9).
    pub(super) fn refuse_retired(&mut self) {
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

    /// `true`, or the setting's own word; none where it is off.
    fn flag_or_word(&mut self, name: &'static str) -> Option<&'static str> {
        let Some(Setting {
            kind: Kind::FlagOr(word),
            ..
        }) = table::setting(name)
        else {
            self.fault(name, "is not a flag in the table of settings".into());
            return None;
        };
        let raw = self.value(name).map(|raw| raw.to_ascii_lowercase());
        match raw.as_deref() {
            Some("true" | "1" | "yes" | "on") => Some("true"),
            None | Some("false" | "0" | "no" | "off") => None,
            Some(raw) if raw == *word => Some(word),
            Some(_) => {
                let message = format!("must be true, 1, yes, on or false, 0, no, off, or {word}");
                self.fault(name, message);
                None
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

    /// Everyone knows the secrets of the example.
    fn refuse_published(
        &mut self,
        environment: Option<Environment>,
        name: &'static str,
        secret: Option<&Secret>,
    ) {
        let published = secret.is_some_and(|secret| EXAMPLE_SECRETS.contains(&format!("\"{}\"", secret.0)));
        if published && environment != Some(Environment::Local) {
            let message = "is a value of .dev.vars.example, which everyone knows: make one of your own";
            self.fault(name, message.into());
        }
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

//! Every setting once: its name, its older names, its default and its bounds.
//!
//! `Config::parse` reads settings only through this table, and a test compares it with docs/settings.md, so a setting
//! that is not documented cannot exist.

/// What values a setting may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text that its own parser accepts; the words say which.
    Text(&'static str),
    /// Like `Text`, but never shown, not even in part.
    Secret(&'static str),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// true, 1, yes, on or false, 0, no, off.
    Flag,
    /// A whole number within these bounds, both included.
    Int {
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// A decimal number within these bounds, both included.
    Ratio {
        /// Smallest allowed value.
        min: f64,
        /// Largest allowed value.
        max: f64,
    },
}

/// One setting of the Worker's environment.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The variable's name.
    pub name: &'static str,
    /// Older names, looked at in this order when `name` is not set.
    pub aliases: &'static [&'static str],
    /// The value when nothing is set; empty where there is none.
    pub default: &'static str,
    /// What values it may have.
    pub kind: Kind,
    /// One line for operators.
    pub about: &'static str,
}

const fn int(name: &'static str, default: &'static str, min: u64, max: u64, about: &'static str) -> Setting {
    Setting {
        name,
        aliases: &[],
        default,
        kind: Kind::Int { min, max },
        about,
    }
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// All settings, in the order of the table in docs/settings.md.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    Setting { name: "ENVIRONMENT", aliases: &[], default: "", kind: Kind::OneOf(&["local", "development", "staging", "production"]), about: "Required. Which deployment this is." },
    Setting { name: "REGISTRY_URL", aliases: &["CLAWDENTITY_REGISTRY_URL"], default: "", kind: Kind::Text("http(s) URL"), about: "The registry. Default: the public one of the environment." },
    Setting { name: "REGISTRY_ISSUER", aliases: &[], default: "", kind: Kind::Text("http(s) origin, no trailing slash"), about: "The `iss` tokens must carry. Default: the origin of `REGISTRY_URL`." },
    Setting { name: "REGISTRY_VALIDATE_PATH", aliases: &[], default: "/v1/agents/auth/validate", kind: Kind::Text("absolute path"), about: "Where the registry validates access tokens." },
    Setting { name: "REGISTRY_INTERNAL_SERVICE_ID", aliases: &["BOOTSTRAP_INTERNAL_SERVICE_ID"], default: "", kind: Kind::Secret("1-256 visible characters"), about: "Required, secret. Who the proxy is to the registry's internal routes." },
    Setting { name: "REGISTRY_INTERNAL_SERVICE_SECRET", aliases: &["BOOTSTRAP_INTERNAL_SERVICE_SECRET"], default: "", kind: Kind::Secret("1-1024 visible characters"), about: "Required, secret. Proves it." },
    int("REGISTRY_BUDGET_MS", "5000", 50, 30_000, "All registry calls of one request together may take this long."),
    int("REGISTRY_STALE_WAIT_MS", "250", 0, 5_000, "A stale access or membership answer is served after this long, if the registry has not said otherwise."),
    int("REGISTRY_CIRCUIT_FAILURES", "5", 1, 1_000, "Failures within the window that open a dependency's circuit, D1's too."),
    int("REGISTRY_CIRCUIT_WINDOW_MS", "60000", 100, HOUR_MS, "The window in which failures are counted."),
    int("REGISTRY_CIRCUIT_OPEN_MS", "30000", 10, HOUR_MS, "Pause of an open circuit before its one probe."),
    int("REGISTRY_CIRCUIT_OPEN_MAX_MS", "300000", 10, HOUR_MS, "The longest pause that a `Retry-After` can ask for."),
    int("REGISTRY_REFRESH_CLAIM_MS", "10000", 50, HOUR_MS, "One refresh of a stale answer in this time, unless it is answered; not below `REGISTRY_BUDGET_MS`."),
    int("REGISTRY_KEYS_FRESH_MS", "3600000", 1, DAY_MS, "Signing keys are served without asking for this long."),
    int("REGISTRY_KEYS_STALE_MS", "86400000", 1, 30 * DAY_MS, "Signing keys are served while refreshing up to this age."),
    int("REGISTRY_KEYS_COOLDOWN_MS", "30000", 1, HOUR_MS, "An unknown `kid` refreshes the keys at most once in this time."),
    int("CRL_REFRESH_INTERVAL_MS", "900000", 1, DAY_MS, "The CRL is fresh for this long. 15-30 min is right, as the queue pushes revocations."),
    int("CRL_MAX_AGE_MS", "3600000", 1, 7 * DAY_MS, "The CRL is dead at this age."),
    Setting { name: "CRL_STALE_BEHAVIOR", aliases: &[], default: "fail-open", kind: Kind::OneOf(&["fail-open", "fail-closed"]), about: "What a dead CRL means: go on under the overlay with a warning, or 503." },
    int("AGENT_ACCESS_FRESH_MS", "45000", 1, HOUR_MS, "A validated access token is not asked about again for this long."),
    int("AGENT_ACCESS_STALE_MS", "900000", 1, DAY_MS, "It is still served up to this age while the registry does not answer."),
    int("AGENT_ACCESS_REFUSED_MS", "5000", 1, HOUR_MS, "A registry's 401 is remembered for this long."),
    int("AGENT_ACCESS_REFUSED_MAX_MS", "30000", 1, 60_000, "A row of 401s of one agent lengthens that, up to this."),
    int("AGENT_ACCESS_UNKNOWN_TOKENS_PER_MINUTE", "5", 1, 1_000, "Different unvalidated tokens of one agent that are asked about in a minute."),
    int("GROUP_MEMBERSHIP_FRESH_MS", "60000", 1, HOUR_MS, "A membership answer is not asked again for this long."),
    int("GROUP_MEMBERSHIP_STALE_MS", "900000", 1, DAY_MS, "It is still served up to this age while the registry does not answer."),
    int("GROUP_MEMBERSHIP_REFUSED_MS", "5000", 1, HOUR_MS, "The answer that an agent is not a member is remembered for this long."),
    int("TRUST_FRESH_MS", "90000", 1, HOUR_MS, "A trust decision from D1 is fresh for this long."),
    int("TRUST_STALE_MS", "900000", 1, DAY_MS, "It is still served up to this age while D1 does not answer."),
    int("TRUST_TIMEOUT_MS", "2000", 10, 30_000, "D1 counts as not answering after this time."),
    int("TRUST_WRITE_TIMEOUT_MS", "5000", 100, 30_000, "The same where something is written: pairs, tickets, revocations."),
    int("TRUST_STATE_TIMEOUT_MS", "5000", 100, 30_000, "An agent's trust object counts as not answering after this time, retries included."),
    int("REVOKED_MEMORY_MS", "30000", 0, 60_000, "An isolate refuses a revoked agent or token for this long without asking its trust object."),
    int("CLOCK_SKEW_WARN_SECONDS", "200", 1, 300, "A caller whose clock is off by more is warned."),
    int("CACHE_MAX_ENTRIES", "10000", 16, 200_000, "Entries of each cache of an isolate; the least recently used goes first."),
    int("AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE", "60", 1, 1_000_000, "Requests of one agent that are admitted within the window."),
    int("AGENT_RATE_LIMIT_WINDOW_MS", "60000", 100, 600_000, "The window of the agent's rate limit."),
    int("PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE", "120", 1, 1_000_000, "Requests per path and client address on the hook and connect routes."),
    int("ENQUEUE_RATE_LIMIT_PER_MINUTE", "6000", 1, 1_000_000, "`enqueue` frames of one agent per minute, as a bucket."),
    Setting { name: "INJECT_IDENTITY_INTO_MESSAGE", aliases: &[], default: "false", kind: Kind::Flag, about: "Prefix a string `message` of a hook's payload with the sender's identity." },
    int("RELAY_QUEUE_MAX_MESSAGES_PER_AGENT", "500", 1, 10_000, "Messages of one sender that may wait for one recipient; then 507."),
    int("RELAY_QUEUE_MAX_MESSAGES", "2500", 1, 100_000, "Messages of all senders that may wait for one recipient; a sender with fewer than 10 is not refused for it."),
    int("RELAY_QUEUE_TTL_SECONDS", "3600", 1, 604_800, "A message that waited this long is dead-lettered."),
    int("RELAY_RETRY_INITIAL_MS", "1000", 1, HOUR_MS, "First pause before a refused delivery is sent again; doubles."),
    int("RELAY_RETRY_MAX_MS", "30000", 1, HOUR_MS, "Longest pause; not below `RELAY_RETRY_INITIAL_MS`."),
    int("RELAY_RETRY_MAX_ATTEMPTS", "25", 1, 1_000, "Refusals after which a message is dead-lettered."),
    Setting { name: "RELAY_RETRY_JITTER_RATIO", aliases: &[], default: "0.2", kind: Kind::Ratio { min: 0.0, max: 1.0 }, about: "The pause varies by this part up and down." },
    int("RELAY_MAX_IN_FLIGHT_DELIVERIES", "5", 1, 100, "Deliveries sent and not yet acknowledged, per recipient."),
    int("RELAY_MAX_FRAME_BYTES", "1048576", 256, 1_500_000, "Largest frame and largest hook body."),
    Setting { name: "APP_VERSION", aliases: &["PROXY_VERSION"], default: "", kind: Kind::Text("1-64 visible characters"), about: "The version `/health` names. Default: the crate's." },
    Setting { name: "ADMIN_TOKEN", aliases: &[], default: "", kind: Kind::Secret("32-1024 visible characters"), about: "Secret. Opens the admin routes; without it they do not exist." },
    Setting { name: "FEED_TOKEN", aliases: &[], default: "", kind: Kind::Secret("32-1024 visible characters"), about: "Secret. Opens the revocation feed to bearers; without it the feed is for Claw authentication alone." },
];

/// The setting of this name. Names are literals of this crate; a wrong one is found by the tests of `Config`.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_defaults_within_bounds() {
        let mut names: Vec<_> = SETTINGS
            .iter()
            .flat_map(|s| std::iter::once(&s.name).chain(s.aliases))
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a name stands twice");
        for setting in SETTINGS {
            match setting.kind {
                Kind::Int { min, max } => {
                    let default: u64 = setting.default.parse().unwrap();
                    assert!((min..=max).contains(&default), "{}", setting.name);
                }
                Kind::Ratio { min, max } => {
                    let default: f64 = setting.default.parse().unwrap();
                    assert!((min..=max).contains(&default), "{}", setting.name);
                }
                Kind::OneOf(words) => {
                    assert!(
                        setting.default.is_empty() || words.contains(&setting.default),
                        "{}",
                        setting.name
                    );
                }
                Kind::Flag => assert!(["true", "false"].contains(&setting.default)),
                Kind::Secret(_) => assert!(setting.default.is_empty(), "{}", setting.name),
                Kind::Text(_) => {}
            }
        }
    }
}

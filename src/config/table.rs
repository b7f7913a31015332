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
    /// true, 1, yes, on or false, 0, no, off, or this word.
    FlagOr(&'static str),
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
    Setting { name: "REGISTRY_URL", aliases: &["CLAWDENTITY_REGISTRY_URL"], default: "", kind: Kind::Text("https URL; with `ENVIRONMENT` = `local` also http"), about: "The registry. Default: the public one of the environment." },
    Setting { name: "REGISTRY_ISSUER", aliases: &[], default: "", kind: Kind::Text("http(s) origin, no trailing slash"), about: "The `iss` that tokens must have. Default: the origin of `REGISTRY_URL`." },
    Setting { name: "REGISTRY_VALIDATE_PATH", aliases: &[], default: "/v1/agents/auth/validate", kind: Kind::Text("absolute path"), about: "Where the registry validates access tokens." },
    Setting { name: "REGISTRY_INTERNAL_SERVICE_ID", aliases: &["BOOTSTRAP_INTERNAL_SERVICE_ID"], default: "", kind: Kind::Secret("1-256 visible characters"), about: "Required, secret. The proxy's name at the registry's internal routes." },
    Setting { name: "REGISTRY_INTERNAL_SERVICE_SECRET", aliases: &["BOOTSTRAP_INTERNAL_SERVICE_SECRET"], default: "", kind: Kind::Secret("1-1024 visible characters"), about: "Required, secret. The secret that goes with that name." },
    int("REGISTRY_BUDGET_MS", "5000", 50, 30_000, "How long all registry calls of one request together may take."),
    int("REGISTRY_STALE_WAIT_MS", "250", 0, 5_000, "How long a request waits for the registry before it serves a stale access or membership answer."),
    int("REGISTRY_CIRCUIT_FAILURES", "5", 1, 1_000, "How many failures within the window open a dependency's circuit."),
    int("REGISTRY_CIRCUIT_WINDOW_MS", "60000", 100, HOUR_MS, "The window within which failures are counted."),
    int("REGISTRY_CIRCUIT_OPEN_MS", "30000", 10, HOUR_MS, "How long an open circuit waits before its one probe."),
    int("REGISTRY_CIRCUIT_OPEN_MAX_MS", "300000", 10, HOUR_MS, "The longest pause that a `Retry-After` of the registry can ask for."),
    int("REGISTRY_REFRESH_CLAIM_MS", "10000", 50, HOUR_MS, "How long a refresh of a stale answer is left to one request, if no answer comes; not below `REGISTRY_BUDGET_MS`."),
    int("REGISTRY_KEYS_FRESH_MS", "3600000", 1, DAY_MS, "How long signing keys are fresh: served without asking the registry."),
    int("REGISTRY_KEYS_STALE_MS", "86400000", 1, 30 * DAY_MS, "Up to which age signing keys are served while they are refreshed."),
    int("REGISTRY_KEYS_COOLDOWN_MS", "30000", 1, HOUR_MS, "How often unknown `kid`s may refresh the keys: once in this time."),
    int("CRL_REFRESH_INTERVAL_MS", "900000", 1, DAY_MS, "How long the CRL is fresh. 15 to 30 minutes is right, because the queue pushes revocations."),
    int("CRL_MAX_AGE_MS", "3600000", 1, 7 * DAY_MS, "The age at which the CRL is dead."),
    Setting { name: "CRL_STALE_BEHAVIOR", aliases: &[], default: "fail-open", kind: Kind::OneOf(&["fail-open", "fail-closed"]), about: "What to do while the CRL is dead: go on under the overlay with a warning, or answer 503." },
    int("AGENT_ACCESS_FRESH_MS", "45000", 1, HOUR_MS, "How long a validated access token is fresh: accepted without asking the registry."),
    int("AGENT_ACCESS_STALE_MS", "900000", 1, DAY_MS, "It is still served up to this age while the registry does not answer."),
    int("AGENT_ACCESS_REFUSED_MS", "5000", 1, HOUR_MS, "How long a 401 of the registry is remembered."),
    int("AGENT_ACCESS_REFUSED_MAX_MS", "30000", 1, 60_000, "Repeated 401s for one agent lengthen that time, up to this."),
    int("AGENT_ACCESS_UNKNOWN_TOKENS_PER_MINUTE", "5", 1, 1_000, "How many different unvalidated tokens of one agent the registry is asked about in a minute."),
    int("GROUP_MEMBERSHIP_FRESH_MS", "60000", 1, HOUR_MS, "How long a membership answer is fresh: used without asking the registry."),
    int("GROUP_MEMBERSHIP_STALE_MS", "900000", 1, DAY_MS, "It is still served up to this age while the registry does not answer."),
    int("GROUP_MEMBERSHIP_REFUSED_MS", "5000", 1, HOUR_MS, "How long the answer that an agent is not a member is remembered."),
    int("TRUST_TIMEOUT_MS", "2000", 10, 30_000, "D1 counts as not answering after this time."),
    int("TRUST_WRITE_TIMEOUT_MS", "5000", 100, 30_000, "The same where something is written: pairs, tickets, revocations."),
    int("TRUST_STATE_TIMEOUT_MS", "5000", 100, 30_000, "An agent's trust object counts as not answering after this time, retries included."),
    int("REVOKED_MEMORY_MS", "30000", 0, 60_000, "How long an isolate refuses a revoked agent or token without asking its trust object."),
    int("CLOCK_SKEW_WARN_SECONDS", "200", 1, 300, "A caller whose clock is off by more than this is warned."),
    Setting { name: "LOG_LEVEL", aliases: &[], default: "info", kind: Kind::OneOf(&["info", "warn", "error"]), about: "The least level of the lines that are written. Metrics are counted at every level." },
    Setting { name: "LOG_SUCCESS_SAMPLE_RATE", aliases: &[], default: "1", kind: Kind::Ratio { min: 0.0, max: 1.0 }, about: "Which part of the requests that went well is logged. Refusals and failures always are." },
    int("CANARY_INTERVAL_SECONDS", "300", 0, 86_400, "How often the kill switch measures itself, on agents that nobody has; 0: never."),
    int("SUBREQUESTS_PER_INVOCATION", "10000", 100, 10_000_000, "Calls that the platform allows one invocation: 10,000 on a paid plan unless `limits.subrequests` says more."),
    int("CACHE_MAX_ENTRIES", "10000", 16, 200_000, "How many entries each cache of an isolate has; the one used least recently goes first."),
    int("AGENT_RATE_LIMIT_REQUESTS_PER_MINUTE", "60", 1, 1_000_000, "How many requests of one agent are admitted within the window."),
    int("AGENT_RATE_LIMIT_WINDOW_MS", "60000", 100, 600_000, "The window of the agent's rate limit."),
    int("PUBLIC_RATE_LIMIT_REQUESTS_PER_MINUTE", "120", 1, 1_000_000, "How many requests a minute are allowed for each path and address, on the hook and connect routes."),
    int("ENQUEUE_RATE_LIMIT_PER_MINUTE", "6000", 1, 1_000_000, "How many `enqueue` frames of one agent are allowed a minute, as a bucket."),
    Setting { name: "INJECT_IDENTITY_INTO_MESSAGE", aliases: &[], default: "false", kind: Kind::FlagOr("all"), about: "Prefix a string `message` of a hook's payload with the sender's identity; with `all`, of an `enqueue` frame's too. Where it is on, no sender can imitate the prefix." },
    int("RELAY_QUEUE_MAX_MESSAGES_PER_AGENT", "500", 1, 10_000, "How many messages of one sender may wait for one recipient; more are 507."),
    int("RELAY_QUEUE_MAX_MESSAGES", "2500", 1, 100_000, "How many messages of all senders may wait for one recipient. A sender with fewer than 10 waiting is not refused because of it."),
    int("RELAY_QUEUE_TTL_SECONDS", "3600", 1, 604_800, "How long a message may wait before it is dead-lettered."),
    int("RELAY_RETRY_INITIAL_MS", "1000", 1, HOUR_MS, "The pause before a refused delivery is sent again the first time. It doubles."),
    int("RELAY_RETRY_MAX_MS", "30000", 1, HOUR_MS, "The longest such pause; not below `RELAY_RETRY_INITIAL_MS`."),
    int("RELAY_RETRY_MAX_ATTEMPTS", "25", 1, 1_000, "How many refusals a message may have before it is dead-lettered."),
    Setting { name: "RELAY_RETRY_JITTER_RATIO", aliases: &[], default: "0.2", kind: Kind::Ratio { min: 0.0, max: 1.0 }, about: "By which part the pause varies at random, up and down." },
    int("RELAY_MAX_IN_FLIGHT_DELIVERIES", "5", 1, 100, "How many deliveries to one recipient may be sent and not yet acknowledged."),
    int("RELAY_MAX_FRAME_BYTES", "1048576", 256, 1_500_000, "The largest frame and the largest body of a hook."),
    Setting { name: "APP_VERSION", aliases: &["PROXY_VERSION"], default: "", kind: Kind::Text("1-64 visible characters"), about: "The version that `/health` shows. Default: the crate's." },
    Setting { name: "ADMIN_TOKEN", aliases: &[], default: "", kind: Kind::Secret("32-1024 visible characters"), about: "Secret. Opens the operator's routes; without it they do not exist." },
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
                Kind::FlagOr(word) => assert!(["true", "false", word].contains(&setting.default)),
                Kind::Secret(_) => assert!(setting.default.is_empty(), "{}", setting.name),
                Kind::Text(_) => {}
            }
        }
    }
}

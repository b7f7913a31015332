//! Turns the settings into types, once and at the edge.
//!
//! `Config::parse` reads every setting of `table::SETTINGS` and reports all faults together. Each fault names the
//! variable, what is wrong with it and what is allowed, and never contains a secret value. The result needs no
//! further checks. A variable that is blank counts as unset (docs/wire.md §9).

mod reader;
mod table;

use std::fmt;

use url::Url;

use self::reader::Reader;
pub use self::table::{Kind, SETTINGS, Setting};
use crate::core::relay_queue::identity::IdentityBlock;
use crate::log::Level;
use crate::protocol::issuer::Issuer;

/// Which deployment this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// A developer's machine; the only one in which the request's host may move the expected issuer.
    Local,
    /// The shared development deployment.
    Development,
    /// The last step before production.
    Staging,
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
    /// What tokens are expected to carry as `iss` (docs/wire.md §2), before the local exception.
    pub expected_issuer: Issuer,
    /// Path of access validation.
    pub validate_path: String,
    /// `x-claw-service-id`.
    pub service_id: Secret,
    /// `x-claw-service-secret`.
    pub service_secret: Secret,
    /// A request's whole registry budget.
    pub budget_ms: u64,
    /// How long a request that rests on a stale answer waits for the registry's word on it.
    pub stale_wait_ms: u64,
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
    /// Group membership: that an agent is not a member is remembered for.
    pub membership_refused_ms: u64,
}

/// Figures of a circuit breaker (docs/design.md §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitFigures {
    /// Failures within the window that open it.
    pub failures: u32,
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
    FailClosed,
}

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
    /// D1 counts as not answering after.
    pub timeout_ms: u64,
    /// D1 counts as not answering a write after.
    pub write_timeout_ms: u64,
    /// A revocation that a trust object spoke of is remembered for.
    pub revoked_memory_ms: u64,
    /// A trust object counts as not answering after.
    pub state_timeout_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct RateSettings {
    /// Admissions of one agent within the window.
    pub agent_requests: u32,
    pub agent_window_ms: u64,
    /// Requests per minute, path and client address.
    pub public_per_minute: u32,
    /// `enqueue` frames per minute and agent.
    pub enqueue_per_minute: u32,
}

/// The relay (docs/wire.md §6).
#[derive(Clone, Copy, Debug)]
pub struct RelaySettings {
    /// Messages of all senders that may wait for one recipient.
    pub max_messages: u32,
    /// Of those, messages of one sender.
    pub max_messages_per_sender: u32,
    /// How long one may wait.
    pub ttl_ms: u64,
    /// First pause of a retry.
    pub retry_initial_ms: u64,
    /// Longest pause of a retry.
    pub retry_max_ms: u64,
    /// Refusals after which a message is dead-lettered.
    pub retry_max_attempts: u32,
    /// Part by which a pause varies.
    pub retry_jitter_ratio: f64,
    /// Deliveries in flight per recipient.
    pub max_in_flight: u32,
    /// Largest frame and hook body, bytes.
    pub max_frame_bytes: usize,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// Which deployment this is.
    pub environment: Environment,
    /// What `/health` names.
    pub version: String,
    /// Where the version came from: the variable's name, or `crate`.
    pub version_source: &'static str,
    pub registry: RegistrySettings,
    pub crl: CrlSettings,
    /// The trust store.
    pub trust: TrustSettings,
    pub rate: RateSettings,
    pub relay: RelaySettings,
    /// A caller is warned of a skew over this, seconds.
    pub clock_skew_warn_s: u64,
    /// Entries of each cache of an isolate.
    pub cache_max_entries: usize,
    /// Which part of the requests that went well is logged.
    pub log_success_sample_rate: f64,
    /// The least level of the lines that are written.
    pub log_level: Level,
    /// The kill switch measures itself this often; 0: never.
    pub canary_interval_ms: u64,
    /// Calls that the platform allows one invocation.
    pub subrequests: u64,
    /// Which messages are prefixed with their sender's identity.
    pub identity_block: IdentityBlock,
    /// Opens the admin routes.
    pub admin_token: Option<Secret>,
    /// Opens the feed to bearers.
    pub feed_token: Option<Secret>,
}

/// One fault of one variable. Says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
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

#[cfg(test)]
mod tests;

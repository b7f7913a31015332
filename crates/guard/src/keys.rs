//! The registry's signing keys, fetched beside the guard: every hour, and once when a `kid` is unknown. A cool-down
//! follows, so that `kid`s which strangers make up do not each become a request to the registry (docs/wire.md §4.1).
//!
//! Keys are good for 24 h after the registry gave them (docs/design.md §4); after that the guard has none. A program
//! that gets its keys elsewhere calls `Guard::set_keys` and does not need this module.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::clock::now_ms;
use super::http::{Auth, Client, HttpError};
use super::verify::Guard;
use clawdentity_protocol::keyset::{KeySet, MAX_KEYSET_BYTES};

const KEYS_PATH: &str = "/.well-known/claw-keys.json";

/// Where keys come from, and how often.
#[derive(Clone, Debug)]
pub struct KeyConfig {
    /// The registry's URL.
    pub registry_url: String,
    /// For how long keys are not fetched again.
    pub refresh_every_ms: u64,
    /// The pause after a failure, and before another unknown `kid` leads to a fetch.
    pub cool_down_ms: u64,
}

impl KeyConfig {
    /// The default times: an hour and a minute.
    pub fn new(registry_url: impl Into<String>) -> Self {
        Self {
            registry_url: registry_url.into(),
            refresh_every_ms: 3_600_000,
            cool_down_ms: 60_000,
        }
    }
}

/// Keeps a guard's keys current until it is dropped.
pub struct KeyClient {
    shared: Arc<Shared>,
}

struct Shared {
    stop: Mutex<bool>,
    changed: Condvar,
}

impl KeyClient {
    /// Starts to fetch keys.
    ///
    /// # Errors
    /// `Address`: the URL cannot be used. `Unreachable`: no thread could be started.
    pub fn start(config: KeyConfig, guard: Arc<Guard>) -> Result<Self, HttpError> {
        let client = Client::new(&config.registry_url, Auth::None, false)?;
        let shared = Arc::new(Shared {
            stop: Mutex::new(false),
            changed: Condvar::new(),
        });
        let keeper = Self {
            shared: Arc::clone(&shared),
        };
        thread::Builder::new()
            .name("signing-keys".to_owned())
            .spawn(move || shared.fetch_on(&client, &config, &guard))
            .map_err(|error| HttpError::Unreachable(error.to_string()))?;
        Ok(keeper)
    }
}

impl Drop for KeyClient {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn fetch_on(&self, client: &Client, config: &KeyConfig, guard: &Guard) {
        let mut schedule = Schedule::default();
        loop {
            if schedule.is_due(now_ms(), config, guard.wants_keys()) {
                let asked_at_ms = now_ms();
                let keys = fetch(client);
                schedule.asked(asked_at_ms, keys.is_some());
                if let Some(keys) = keys {
                    guard.set_keys(keys, Some(asked_at_ms));
                }
            }
            let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
            if *stop {
                return;
            }
            // A guard that meets an unknown `kid` says so in a flag: a check wakes nobody.
            let waited = self.changed.wait_timeout(stop, Duration::from_secs(1));
            if *waited.unwrap_or_else(PoisonError::into_inner).0 {
                return;
            }
        }
    }
}

fn fetch(client: &Client) -> Option<KeySet> {
    let answer = client.get(KEYS_PATH, None, MAX_KEYSET_BYTES).ok()?;
    let keys = (answer.status == 200).then(|| KeySet::parse(&answer.body).ok())??;
    // A registry without a key signs nothing: that document is not meant.
    (!keys.is_empty()).then_some(keys)
}

/// When keys are asked for.
#[derive(Debug, Default)]
struct Schedule {
    asked_ms: Option<u64>,
    got_ms: Option<u64>,
}

impl Schedule {
    fn is_due(&self, now_ms: u64, config: &KeyConfig, wanted: bool) -> bool {
        // `abs_diff`: a clock that was set back must not stop the asking.
        let cooled = self
            .asked_ms
            .is_none_or(|at| now_ms.abs_diff(at) >= config.cool_down_ms);
        let old = self
            .got_ms
            .is_none_or(|at| now_ms.abs_diff(at) >= config.refresh_every_ms);
        cooled && (old || wanted)
    }

    fn asked(&mut self, at_ms: u64, got: bool) {
        self.asked_ms = Some(at_ms);
        if got {
            self.got_ms = Some(at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_asked_for_hourly_and_for_strangers_once_a_minute() {
        let config = KeyConfig::new("https://registry.example.com");
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(5_000, &config, false));
        schedule.asked(5_000, false);
        assert!(!schedule.is_due(64_999, &config, true));
        assert!(schedule.is_due(65_000, &config, false));
        schedule.asked(65_000, true);
        assert!(!schedule.is_due(125_000, &config, false));
        assert!(!schedule.is_due(124_999, &config, true));
        assert!(schedule.is_due(125_000, &config, true));
        assert!(schedule.is_due(65_000 + 3_600_000, &config, false));
    }
}

//! What the calls of the simulated world return, and how long they take.

use super::{Dependency, Mode, World};
use crate::circuit::{FailureKind, Outcome};

impl World {
    /// A call to the registry, answered as of now, or not.
    pub async fn call<T>(
        &self,
        isolate: u32,
        of: Dependency,
        timeout_ms: u32,
        answer: T,
    ) -> Result<T, Outcome> {
        let failed = |kind| {
            Err(Outcome::Failure {
                kind,
                retry_after_ms: None,
            })
        };
        let (mode, since_ms) = (self.0.registry.get(), self.0.registry_since_ms.get());
        let takes_ms = if mode == Mode::Slow {
            u64::MAX
        } else {
            self.roll(200)
        };
        if mode != Mode::Well {
            let mut outages = self.0.outages.borrow_mut();
            let outage = outages.entry((isolate, of)).or_default();
            outage.calls += 1;
            outage.in_flight += 1;
        }
        self.sleep(takes_ms.min(timeout_ms.into())).await;
        if mode != Mode::Well && since_ms == self.0.registry_since_ms.get() {
            let mut outages = self.0.outages.borrow_mut();
            let outage = outages.entry((isolate, of)).or_default();
            outage.failures += 1;
            if outage.failures == 5 {
                outage.in_flight_at_fifth = outage.in_flight;
            }
            outage.in_flight = outage.in_flight.saturating_sub(1);
        }
        match mode {
            Mode::Well if takes_ms < timeout_ms.into() => Ok(answer),
            Mode::Failing => failed(FailureKind::ServerError),
            Mode::Well | Mode::Slow => failed(FailureKind::Timeout),
        }
    }

    /// A question to D1, `None` where it does not answer within `timeout_ms`.
    pub async fn ask_d1(&self, timeout_ms: u64) -> bool {
        let mode = self.0.d1.get();
        let takes_ms = if mode == Mode::Slow {
            u64::MAX
        } else {
            self.roll(40)
        };
        self.sleep(takes_ms.min(timeout_ms)).await;
        mode == Mode::Well && takes_ms < timeout_ms
    }

    pub fn d1_keys(&self) -> Option<(usize, u64)> {
        self.0.d1_keys.get().map(|(version, at_ms, _)| (version, at_ms))
    }

    /// The later answer stays.
    pub fn keep_keys(&self, version: usize, at_ms: u64) {
        let held = self.0.d1_keys.get();
        if held.is_none_or(|(_, held_ms, _)| held_ms < at_ms) {
            let since_ms = held
                .filter(|held| held.0 == version)
                .map_or(self.now_ms(), |held| held.2);
            self.0.d1_keys.set(Some((version, at_ms, since_ms)));
        }
    }
}

//! One dependency of the registry that answers yes or no about an agent: its access token, or its membership of a group.
//!
//! First what is remembered, then who may ask. A fresh answer is served; a stale yes is served and refreshed on the lane
//! for what was confirmed. Where nothing may be served and the question was never confirmed here, the agent's own object
//! says whether it may be asked (`Standing`), because only the object counts over all isolates. Then the lane decides.

use super::answers::Answers;
use super::lanes::{Caller, Lane, Lanes, NotAsked, NotNow, Pass, Said};
use crate::admission::unconfirmed::MayAsk;
use crate::cache::{Ages, Look, Refresh};
use crate::circuit::CircuitSettings;
use crate::provenance::{Provenance, Source};

/// The figures that these decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfirmSettings {
    /// Of a yes.
    pub ages: Ages,
    /// How long a no is remembered.
    pub refused_ms: u64,
    /// Entries of the memory, of each kind of answer.
    pub max_entries: usize,
    /// See `Cache::new`.
    pub claim_ms: u64,
    /// Of each lane's circuit.
    pub circuit: CircuitSettings,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// The answer.
    Serve {
        is_yes: bool,
        /// `Fresh` or `Stale`, and its age.
        provenance: Provenance,
        /// Ask again in the background under this pass.
        refresh: Option<Pass>,
    },
    /// Ask the agent's object whether this may be asked, and decide again with what it says.
    AskObject,
    /// Ask the registry and wait.
    Ask(Pass),
    /// Nobody knows, and the registry may not be asked now.
    Unavailable(NotNow),
}

/// See the module.
#[derive(Debug)]
pub struct Desk {
    settings: ConfirmSettings,
    answers: Answers<[u8; 32]>,
    lanes: Lanes,
}

impl Desk {
    /// The state that knows nothing yet.
    pub fn new(settings: ConfirmSettings) -> Self {
        Self {
            answers: Answers::new(settings.max_entries, settings.claim_ms),
            lanes: Lanes::new(settings.circuit),
            settings,
        }
    }

    /// What to do now about the question of this key. `standing` is what the agent's object said, where it was asked.
    pub fn decide(
        &mut self,
        key: &[u8; 32],
        caller: Caller,
        standing: Option<&MayAsk>,
        now_ms: u64,
    ) -> Decision {
        let served = |is_yes, source, age_ms, refresh| Decision::Serve {
            is_yes,
            provenance: Provenance { source, age_ms },
            refresh,
        };
        match self.answers.look(key, now_ms) {
            Look::Fresh { value, age_ms } => return served(value, Source::Fresh, age_ms, None),
            Look::Stale {
                value,
                age_ms,
                refresh,
            } => {
                let refresh = match refresh {
                    Refresh::Yours => self.lanes.ask(Lane::Confirmed, caller, now_ms).ok(),
                    Refresh::Claimed => None,
                };
                return served(value, Source::Stale, age_ms, refresh);
            }
            Look::Fetch => {}
        }
        let lane = match standing {
            _ if self.answers.was_yes(key) => Lane::Confirmed,
            None => return Decision::AskObject,
            Some(MayAsk::Confirmed) => Lane::Confirmed,
            Some(MayAsk::Ask { known: true }) => Lane::Known,
            Some(MayAsk::Ask { known: false }) => Lane::Stranger,
            Some(MayAsk::Refused) => return served(false, Source::Fresh, 0, None),
            Some(MayAsk::Wait { retry_after_ms }) => {
                return Decision::Unavailable(NotNow {
                    retry_after_ms: *retry_after_ms,
                    cause: NotAsked::TooMany,
                });
            }
        };
        match self.lanes.ask(lane, caller, now_ms) {
            Ok(pass) => Decision::Ask(pass),
            Err(not_now) => Decision::Unavailable(not_now),
        }
    }

    /// Takes what came of the question asked at `asked_at_ms`. True where that is the latest answer now.
    pub fn answered(
        &mut self,
        key: &[u8; 32],
        pass: Pass,
        asked_at_ms: u64,
        said: Said,
        now_ms: u64,
    ) -> bool {
        self.lanes.report(pass, said, now_ms);
        match said {
            Said::Yes => self.answers.put(key, true, asked_at_ms, self.settings.ages),
            Said::No => {
                let ages = Ages::fresh_only(self.settings.refused_ms);
                self.answers.put(key, false, asked_at_ms, ages)
            }
            Said::Nothing(_) => false,
        }
    }

    /// The registry said yes at `at_ms`, as the agent's object remembers it. It counts where nothing later is known, and
    /// the question is confirmed even where that is too old to be served. True where it was taken.
    pub fn remembered(&mut self, key: &[u8; 32], at_ms: u64) -> bool {
        self.answers.put(key, true, at_ms, self.settings.ages)
    }

    /// Whether something may be served. Takes no claim.
    pub fn serves(&mut self, key: &[u8; 32], now_ms: u64) -> bool {
        self.answers.serves(key, now_ms)
    }

    /// The lanes, for their transitions and the status page.
    pub fn lanes(&mut self) -> &mut Lanes {
        &mut self.lanes
    }
}

//! What keeps a deployment from doing its work, and since when: what `/health` says beyond its settings (docs/wire.md §5.2).
//!
//! An isolate looks at most once a second, however often it is asked, so that a health check never becomes load. A problem
//! is dated from the first look that found it, for as long as every look since has found it too.

/// How old a look may be.
pub const LOOK_EVERY_MS: u64 = 1_000;

/// A state in which some route can only refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A binding of the deployment is missing.
    BindingMissing,
    /// D1 does not answer.
    DatabaseUnreachable,
    /// D1 lacks a table.
    MigrationsMissing,
    /// The agents' trust objects do not answer.
    TrustStateUnreachable,
    /// The agents' relay sessions do not answer.
    RelaySessionUnreachable,
    /// There are no signing keys, and none can be had.
    SigningKeysUnavailable,
    /// There is no CRL, none can be had, and `CRL_STALE_BEHAVIOR` is `fail-closed`.
    CrlUnavailable,
}

impl Problem {
    /// Its name in the answer.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BindingMissing => "binding_missing",
            Self::DatabaseUnreachable => "database_unreachable",
            Self::MigrationsMissing => "migrations_missing",
            Self::TrustStateUnreachable => "trust_state_unreachable",
            Self::RelaySessionUnreachable => "relay_session_unreachable",
            Self::SigningKeysUnavailable => "signing_keys_unavailable",
            Self::CrlUnavailable => "crl_unavailable",
        }
    }

    /// What an operator does about it.
    pub fn to_do(self) -> &'static str {
        match self {
            Self::BindingMissing => "Compare the deployment with wrangler.toml, and deploy again.",
            Self::DatabaseUnreachable => {
                "Look at the status of D1, and at the database's id in wrangler.toml. You can revoke meanwhile: the agents' \
                 objects need no D1 for it; give the order again once D1 answers."
            }
            Self::MigrationsMissing => "Apply them: npm run deploy -- --env ENVIRONMENT does.",
            Self::TrustStateUnreachable | Self::RelaySessionUnreachable => {
                "Look at the status of Durable Objects, and at the errors in the log."
            }
            Self::SigningKeysUnavailable => {
                "Press Refresh the signing keys. If it fails, ask the registry's operator."
            }
            Self::CrlUnavailable => {
                "Ask the registry's operator. CRL_STALE_BEHAVIOR = \"fail-open\" admits agents meanwhile."
            }
        }
    }

    /// What follows from it.
    pub fn effect(self) -> &'static str {
        match self {
            Self::BindingMissing => "what needs the binding is refused",
            Self::DatabaseUnreachable => {
                "pairing and revocations are refused, and agents that are new to an object"
            }
            Self::MigrationsMissing => "pairing and revocations are refused: apply the migrations",
            Self::TrustStateUnreachable => "every request of an agent is refused",
            Self::RelaySessionUnreachable => "messages and connections are refused",
            Self::SigningKeysUnavailable => "every request of an agent is refused",
            Self::CrlUnavailable => "every request of an agent is refused, because of CRL_STALE_BEHAVIOR",
        }
    }
}

/// What an isolate has found.
#[derive(Debug, Default)]
pub struct Watch {
    looked_at_ms: Option<u64>,
    found: Vec<(Problem, u64)>,
}

impl Watch {
    /// Whether it is time for another look.
    pub fn is_due(&self, now_ms: u64) -> bool {
        // A look from the future is of a clock that was set back.
        let age_ms = self.looked_at_ms.and_then(|at_ms| now_ms.checked_sub(at_ms));
        age_ms.is_none_or(|age_ms| age_ms >= LOOK_EVERY_MS)
    }

    /// Takes what a look found that began at `now_ms`.
    pub fn looked(&mut self, problems: impl IntoIterator<Item = Problem>, now_ms: u64) {
        let since = |problem| {
            let before = self.found.iter().find(|(found, _)| *found == problem);
            (problem, before.map_or(now_ms, |(_, since_ms)| *since_ms))
        };
        let found = problems.into_iter().map(since).collect();
        self.found = found;
        self.looked_at_ms = Some(now_ms);
    }

    /// The problems of the last look, and since when each stands, Unix milliseconds.
    pub fn problems(&self) -> &[(Problem, u64)] {
        &self.found
    }
}

/// The tables without which some route can only refuse: those of the migrations.
pub const TABLES: [&str; 12] = [
    "agent_tokens",
    "applied_events",
    "canary_runs",
    "dead_letters",
    "ended_pairs",
    "feed_epoch",
    "pair_tickets",
    "pairs",
    "reconciliation",
    "revocations",
    "signing_keys",
    "takeover",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::Problem::{CrlUnavailable, DatabaseUnreachable};
    use super::*;

    #[test]
    fn a_problem_is_dated_from_the_first_look_of_those_that_found_it() {
        let mut watch = Watch::default();
        assert!(watch.is_due(5_000));
        for (now_ms, found, expect) in [
            (5_000, vec![], vec![]),
            (6_000, vec![CrlUnavailable], vec![(CrlUnavailable, 6_000)]),
            (
                7_000,
                vec![DatabaseUnreachable, CrlUnavailable],
                vec![(DatabaseUnreachable, 7_000), (CrlUnavailable, 6_000)],
            ),
            (
                8_000,
                vec![DatabaseUnreachable],
                vec![(DatabaseUnreachable, 7_000)],
            ),
            (9_000, vec![CrlUnavailable], vec![(CrlUnavailable, 9_000)]),
        ] {
            watch.looked(found, now_ms);
            assert_eq!(watch.problems(), expect, "at {now_ms}");
        }
        assert!(!watch.is_due(9_999));
        assert!(watch.is_due(10_000));
        assert!(watch.is_due(8_999), "a clock that was set back");
    }

    /// A migration that makes a table must name it here.
    #[test]
    fn the_tables_are_those_of_the_migrations() {
        let mut made = BTreeSet::new();
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
        for file in fs::read_dir(directory).unwrap() {
            let sql = fs::read_to_string(file.unwrap().path()).unwrap();
            for line in sql.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let name = match words.as_slice() {
                    ["CREATE", "TABLE", "IF", "NOT", "EXISTS", name, ..] | ["CREATE", "TABLE", name, ..] => {
                        name
                    }
                    _ => continue,
                };
                made.insert(name.trim_end_matches('(').to_owned());
            }
        }
        let made: Vec<&str> = made.iter().map(String::as_str).collect();
        assert_eq!(made, TABLES);
    }
}

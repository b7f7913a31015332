//! What the first screen answers: is all well, and if it is not, what is to be done.

use clawdentity_protocol::time::iso_ms;

use crate::health;

/// From here on a reconciliation is late: two of its runs are missing.
const LATE_RECONCILIATION_MS: u64 = 45 * 60 * 1000;
/// docs/design.md §1: a revocation is in effect in under a second.
const PROMISED_LAG_MS: u64 = 1000;

/// The kill switch's measurement of one way in, the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// `event` or `operator`.
    pub way: &'static str,
    /// How long the kill took; none if it was not seen.
    pub took_ms: Option<u64>,
}

/// What is known when the page is asked for.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What `/health` says, and since when, Unix milliseconds.
    pub unready: Vec<(health::Problem, u64)>,
    /// `never`, `fresh`, `stale` or `dead`.
    pub crl: &'static str,
    /// Circuits that are not closed in the isolate that answers, in words.
    pub open_circuits: Vec<String>,
    /// When the last reconciliation went through the whole list, Unix milliseconds.
    pub reconciled_at_ms: Option<u64>,
    /// Dead letters, and those of them that are revocations.
    pub dead_letters: u64,
    pub dead_revocations: u64,
    /// Of the last hour's revocations by the queue: from the event's own time to its record, milliseconds.
    pub lags_ms: Vec<u64>,
    /// The kill switch's last measurements of itself.
    pub measured: Vec<Measured>,
    /// Bindings that are missing.
    pub missing: Vec<&'static str>,
    /// D1 did not say what the other figures are.
    pub record_is_unread: bool,
    pub now_ms: u64,
}

/// One thing that is not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub to_do: &'static str,
}

/// What is not well, the most urgent first.
pub fn problems(facts: &Facts) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |is: bool, what: String, to_do| {
        if is {
            found.push(Problem { what, to_do });
        }
    };
    for (problem, since_ms) in &facts.unready {
        add(
            true,
            format!(
                "{} since {}: {}.",
                problem.as_str(),
                iso_ms(*since_ms),
                problem.effect()
            ),
            problem.to_do(),
        );
    }
    let unreachable =
        |(problem, _): &(health::Problem, u64)| *problem == health::Problem::DatabaseUnreachable;
    add(
        facts.record_is_unread && !facts.unready.iter().any(unreachable),
        "D1 did not answer this page, so it shows little.".into(),
        "Load it again. If it lasts, look at the status of D1. You can revoke meanwhile: the agents' objects need no D1.",
    );
    add(
        facts.dead_revocations > 0,
        format!(
            "Revocations that could not be applied: {}.",
            facts.dead_revocations
        ),
        "Read each under Dead letters. Revoke the agent by hand if it is still admitted, then retry or drop the letter.",
    );
    for measured in &facts.measured {
        add(
            measured.took_ms.is_none_or(|took_ms| took_ms > PROMISED_LAG_MS),
            match measured.took_ms {
                Some(took_ms) => format!("The kill switch took {took_ms} ms by the way: {}.", measured.way),
                None => format!("The kill switch did not work by the way: {}.", measured.way),
            },
            "Look for proxy.canary.alarm and for the errors before it in the log. Revoke by the other way meanwhile.",
        );
    }
    add(
        !facts.missing.is_empty(),
        format!("Bindings are missing: {}.", facts.missing.join(", ")),
        "Compare the deployment with wrangler.toml and deploy again.",
    );
    add(
        facts.crl == "dead",
        "The registry's revocation list is too old to count.".into(),
        "Ask the registry's operator. Until it answers, revocations come by the queue and from this page alone.",
    );
    add(
        !facts.open_circuits.is_empty(),
        format!(
            "The registry fails in this isolate: {}.",
            facts.open_circuits.join(", ")
        ),
        "Known agents go on meanwhile, within the limits of the settings. If it lasts, ask the registry's operator.",
    );
    let age_ms = facts
        .reconciled_at_ms
        .map(|at_ms| facts.now_ms.saturating_sub(at_ms));
    add(
        age_ms.is_none_or(|age_ms| age_ms > LATE_RECONCILIATION_MS),
        match age_ms {
            Some(age_ms) => format!("The last reconciliation ended {} min ago.", age_ms / 60_000),
            None => "There has been no reconciliation with the registry's list yet.".into(),
        },
        "Press Reconcile now. If it fails, the registry does not answer: look at its health.",
    );
    let slowest_ms = facts.lags_ms.iter().copied().max().unwrap_or(0);
    add(
        slowest_ms > PROMISED_LAG_MS,
        format!("A revocation of the last hour took {slowest_ms} ms from its event to its record."),
        "Look for proxy.queue.message_failed in the log: the queue or D1 was slow, or the registry's clock is behind.",
    );
    add(
        facts.dead_letters > facts.dead_revocations,
        format!(
            "Other messages that could not be applied: {}.",
            facts.dead_letters.saturating_sub(facts.dead_revocations)
        ),
        "Read each under Dead letters, then retry or drop it.",
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn each_fault_is_said_once_and_none_where_all_is_well() {
        let well = Facts {
            crl: "fresh",
            reconciled_at_ms: Some(NOW_MS - 1000),
            lags_ms: vec![10, PROMISED_LAG_MS],
            now_ms: NOW_MS,
            ..Facts::default()
        };
        assert_eq!(problems(&well), []);
        let never = Facts {
            crl: "never",
            ..well.clone()
        };
        assert_eq!(
            problems(&never),
            [],
            "an isolate that has not asked for the list yet is well"
        );
        for (facts, expect) in [
            (
                Facts {
                    crl: "dead",
                    ..well.clone()
                },
                "too old",
            ),
            (
                Facts {
                    reconciled_at_ms: None,
                    ..well.clone()
                },
                "no reconciliation",
            ),
            (
                Facts {
                    reconciled_at_ms: Some(NOW_MS - 46 * 60_000),
                    ..well.clone()
                },
                "46 min ago",
            ),
            (
                Facts {
                    dead_letters: 2,
                    dead_revocations: 2,
                    ..well.clone()
                },
                "applied: 2",
            ),
            (
                Facts {
                    dead_letters: 3,
                    ..well.clone()
                },
                "applied: 3",
            ),
            (
                Facts {
                    lags_ms: vec![1001],
                    ..well.clone()
                },
                "1001 ms",
            ),
            (
                Facts {
                    measured: vec![
                        Measured {
                            way: "event",
                            took_ms: Some(PROMISED_LAG_MS),
                        },
                        Measured {
                            way: "operator",
                            took_ms: None,
                        },
                    ],
                    ..well.clone()
                },
                "did not work by the way: operator",
            ),
            (
                Facts {
                    measured: vec![Measured {
                        way: "event",
                        took_ms: Some(PROMISED_LAG_MS + 1),
                    }],
                    ..well.clone()
                },
                "1001 ms by the way: event",
            ),
            (
                Facts {
                    unready: vec![(health::Problem::TrustStateUnreachable, NOW_MS)],
                    ..well.clone()
                },
                "trust_state_unreachable since 2023-11-14T22:13:20.000Z: every request of an agent is refused.",
            ),
            (
                Facts {
                    unready: vec![(health::Problem::DatabaseUnreachable, NOW_MS)],
                    record_is_unread: true,
                    ..well.clone()
                },
                "database_unreachable since",
            ),
            (
                Facts {
                    record_is_unread: true,
                    ..well.clone()
                },
                "D1 did not answer",
            ),
            (
                Facts {
                    open_circuits: vec!["registry_access (known) is open".into()],
                    ..well.clone()
                },
                "registry_access (known) is open",
            ),
            (
                Facts {
                    missing: vec!["DB"],
                    ..well.clone()
                },
                "DB",
            ),
        ] {
            let found = problems(&facts);
            assert_eq!(found.len(), 1, "{expect}");
            assert!(found.iter().all(|each| each.what.contains(expect)), "{found:?}");
        }
    }
}

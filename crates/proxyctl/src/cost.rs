//! `proxyctl cost`: what a month costs, item by item, from the counts of docs/costs.md and the platform's published prices.
//!
//! The counts of rows are those that the runtime tests hold as budgets; what is not counted there is said to be assumed. A
//! price holds beyond what the plan includes, so the estimate adds up each meter before it is priced.

use serde_json::{Value, json};

/// Of an agent that is connected all month.
const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
/// Heartbeats come this often (docs/wire.md §6.4).
const HEARTBEAT_SECONDS: f64 = 25.0;
/// An access token lives as long; a new one is an event.
const ACCESS_TOKEN_SECONDS: f64 = 900.0;
/// Incoming WebSocket messages that are billed as one request.
const SOCKET_MESSAGES: f64 = 20.0;
/// What an object is billed for while it is active.
const OBJECT_GB: f64 = 0.128;
/// The plan's own price, dollars.
const PLAN: f64 = 5.0;

/// Something that the platform counts: its name, what a plan includes a month, the price of a million more, dollars.
struct Meter {
    name: &'static str,
    included: f64,
    per_million: f64,
}

const METERS: [Meter; 8] = [
    meter("Worker requests", 10e6, 0.30),
    meter("Worker CPU, ms", 30e6, 0.02),
    meter("object requests", 1e6, 0.15),
    meter("object duration, GB-s", 400e3, 12.50),
    meter("object rows written", 50e6, 1.00),
    meter("D1 rows written", 50e6, 1.00),
    meter("D1 rows read", 25e9, 0.001),
    meter("queue operations", 1e6, 0.40),
];

const fn meter(name: &'static str, included: f64, per_million: f64) -> Meter {
    Meter {
        name,
        included,
        per_million,
    }
}

/// How often each meter counts for one of something, in the order of `METERS`.
struct Item {
    counts: [f64; 8],
}

/// A hook to a connected recipient that acknowledges. Rows: relay-costs.test.mjs. CPU and duration: measured.
const MESSAGE: Item = Item {
    counts: [
        1.0,
        2.5,
        2.0 + 1.0 / SOCKET_MESSAGES,
        0.1 * OBJECT_GB,
        4.5,
        0.0,
        0.0,
        0.0,
    ],
};

/// Heartbeats, a connection a day, and an event for each new access token: a queue's three operations, one invocation, two
/// calls to objects and a row.
const AGENT: Item = {
    let beats = MONTH_SECONDS / HEARTBEAT_SECONDS;
    let tokens = MONTH_SECONDS / ACCESS_TOKEN_SECONDS;
    Item {
        counts: [
            30.0 + tokens,
            (30.0 + tokens) * 2.5,
            60.0 + beats / SOCKET_MESSAGES + 2.0 * tokens,
            (beats * 0.005 + tokens * 0.02) * OBJECT_GB,
            tokens,
            0.0,
            0.0,
            3.0 * tokens,
        ],
    }
};

/// An event, both steps at the trust object, both at the session, the poke, and the ledger with its indexes.
const REVOCATION: Item = Item {
    counts: [1.0, 5.0, 5.0, 0.2 * OBJECT_GB, 3.0, 10.0, 20.0, 3.0],
};

/// A stream that is opened every hour.
const SIDECAR: Item = Item {
    counts: [720.0, 1800.0, 720.0, 0.0, 0.0, 0.0, 0.0, 0.0],
};

/// Once, however much goes on: the run of each minute, the canary, and the feed's object, which streams keep active.
const BASE: Item = {
    let minutes = MONTH_SECONDS / 60.0;
    let canaries = 2.0 * minutes / 5.0;
    Item {
        counts: [
            minutes + canaries / 2.0,
            minutes * 10.0,
            canaries * 15.0,
            canaries * 0.5 * OBJECT_GB,
            canaries * 4.0,
            canaries * 12.0,
            minutes * 100.0,
            canaries * 1.5,
        ],
    }
};

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) agents: u64,
    pub(super) messages: u64,
    pub(super) revocations: u64,
    pub(super) sidecars: u64,
}

/// The lines of the estimate: a JSON object each, or a table.
pub(super) fn estimate(load: &Load, as_json: bool) -> Vec<String> {
    let parts = [
        (&BASE, 1),
        (&AGENT, load.agents),
        (&MESSAGE, load.messages),
        (&REVOCATION, load.revocations),
        (&SIDECAR, load.sidecars),
    ];
    // While one sidecar listens, the feed's object is active.
    let feed_gb_s = if load.sidecars > 0 {
        MONTH_SECONDS * OBJECT_GB
    } else {
        0.0
    };
    let mut lines = Vec::new();
    let mut total = PLAN;
    for (n, meter) in METERS.iter().enumerate() {
        let of = |(item, times): &(&Item, u64)| {
            let each = item.counts.get(n).copied().unwrap_or(0.0);
            each * *times as f64
        };
        let feed = if meter.name == "object duration, GB-s" {
            feed_gb_s
        } else {
            0.0
        };
        let used = parts.iter().map(of).sum::<f64>() + feed;
        let dollars = (used - meter.included).max(0.0) / 1e6 * meter.per_million;
        total += dollars;
        lines.push(if as_json {
            json!({
                "meter": meter.name,
                "used": used.round() as u64,
                "included": meter.included as u64,
                "dollarsPerMillion": meter.per_million,
                "dollars": cents(dollars),
            })
            .to_string()
        } else {
            format!(
                "{:22} {:>16.0} used {:>12.0} included {:>7.3} $/million {:>12.2} $",
                meter.name, used, meter.included, meter.per_million, dollars
            )
        });
    }
    lines.push(if as_json {
        json!({ "plan": PLAN, "total": cents(total) }).to_string()
    } else {
        format!(
            "{:22} {total:>73.2} $ a month, with the plan's {PLAN:.2} $",
            "total"
        )
    });
    lines
}

/// What one of each costs beyond what is included, dollars: for docs/costs.md.
#[cfg(test)]
fn each(item: &Item) -> f64 {
    let priced = METERS.iter().zip(item.counts);
    priced.map(|(meter, count)| count / 1e6 * meter.per_million).sum()
}

fn cents(dollars: f64) -> Value {
    json!((dollars * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../docs/costs.md");
    const BUDGETS: &str = include_str!("../../../tests/runtime/relay-costs.test.mjs");

    /// Every count and price of the page is the one that is reckoned with.
    #[test]
    fn the_page_says_what_is_reckoned_with() {
        for meter in &METERS {
            let row = format!(
                "| {} | {} | {:.3} |",
                meter.name,
                thousands(meter.included),
                meter.per_million
            );
            assert!(PAGE.contains(&row), "{row}");
        }
        for (name, item) in [
            ("message", &MESSAGE),
            ("connected agent", &AGENT),
            ("revocation", &REVOCATION),
            ("sidecar", &SIDECAR),
            ("deployment", &BASE),
        ] {
            let counts: Vec<String> = item.counts.iter().map(|count| short(*count)).collect();
            let row = format!("| {name} | {} |", counts.join(" | "));
            assert!(PAGE.contains(&row), "{row}");
        }
        for (name, dollars) in [
            ("a million messages", each(&MESSAGE) * 1e6),
            ("a thousand agents, connected for a month", each(&AGENT) * 1e3),
            ("a thousand revocations", each(&REVOCATION) * 1e3),
            ("a sidecar for a month", each(&SIDECAR)),
        ] {
            let row = format!("| {name} | {dollars:.3} |");
            assert!(PAGE.contains(&row), "{row}");
        }
        let load = Load {
            agents: 10_000,
            messages: 100_000_000,
            revocations: 0,
            sidecars: 0,
        };
        for line in estimate(&load, false) {
            assert!(PAGE.contains(&line), "{line}");
        }
    }

    /// The rows of a message are those that a runtime test holds.
    #[test]
    fn a_messages_rows_are_the_budget_of_the_runtime_test() {
        assert!(
            BUDGETS.contains("(COUNT + 5) <= 4.5"),
            "the budget changed: change MESSAGE and docs/costs.md"
        );
        assert!(MESSAGE.counts.contains(&4.5));
    }

    #[test]
    fn what_the_plan_includes_costs_nothing_more_and_every_meter_is_priced_once() {
        let none = Load {
            agents: 0,
            messages: 0,
            revocations: 0,
            sidecars: 0,
        };
        let total = |load: &Load| {
            let lines = estimate(load, true);
            let last: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
            last.get("total").and_then(Value::as_f64).unwrap()
        };
        assert!((total(&none) - PLAN).abs() < 0.001);
        let million = Load {
            messages: 1_000_000,
            ..none
        };
        assert!(total(&million) < PLAN + 0.3);
        let more = |times: u64| Load {
            messages: times * 100_000_000,
            ..none
        };
        let step = total(&more(3)) - total(&more(2));
        assert!((step - each(&MESSAGE) * 1e8).abs() < 0.02, "{step}");
        let endless = Load {
            sidecars: u64::MAX,
            ..none
        };
        assert!(total(&endless).is_finite());
    }

    fn short(count: f64) -> String {
        let text = format!("{count:.4}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    fn thousands(number: f64) -> String {
        let digits = format!("{number:.0}");
        let mut text = String::new();
        for (n, digit) in digits.chars().enumerate() {
            if n > 0 && (digits.len() - n) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        text
    }
}

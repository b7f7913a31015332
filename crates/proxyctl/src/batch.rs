//! Many revocations, one after the other and in order.
//!
//! If the proxy refuses one, it is listed and the rest goes on. If the rest would fail for the same reason (the proxy
//! does not answer, the token is wrong), the run stops. Every revocation is idempotent, so an interrupted batch, also
//! one that was stopped with Ctrl-C, can be run again with the full list. What was done is on standard output by
//! then, and each failure was shown as it happened.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::api::Api;
use super::{Outcome, Terminal, say, show};
use clawdentity_protocol::revocation::Order;

/// Revokes them all. One line a revocation goes to standard output, the failures and the sum to standard error.
pub(super) fn revoke(orders: &[Order], json: bool, api: &Api<'_>, terminal: &mut Terminal<'_>) -> Outcome {
    let bar = bar(orders.len(), terminal.progress);
    let (mut done, mut failed) = (0_usize, Vec::new());
    let mut outcome = Outcome::Done;
    for order in orders {
        match api.revoke(order) {
            Ok(revoked) => {
                done += 1;
                // Above the bar, not through it.
                bar.suspend(|| super::say_revoked(&revoked, json, terminal));
            }
            Err(failure) => {
                let line = format!("proxyctl: {}: {failure}", show::order(order));
                if terminal.progress {
                    bar.suspend(|| say(terminal.err, &line));
                }
                failed.push(line);
                outcome = failure.outcome();
                if failure.is_for_all() {
                    break;
                }
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    for line in &failed {
        say(terminal.err, line);
    }
    let untried = orders.len() - done - failed.len();
    let sum = match untried {
        0 => String::new(),
        _ => format!(", {untried} not tried; what stands stands, so the same list may be given again"),
    };
    let sum = format!(
        "proxyctl: {done} of {} revoked, {} failed{sum}",
        orders.len(),
        failed.len()
    );
    say(terminal.err, &sum);
    outcome
}

fn bar(length: usize, shown: bool) -> ProgressBar {
    let target = if shown {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(length as u64), target);
    if let Ok(style) = ProgressStyle::with_template("revoking {bar:40} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}

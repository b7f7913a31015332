//! What is printed for people. With `--json`, the proxy's answer is printed instead, one object on each line.

use serde_json::Value;

use super::api::{Report, plain};
use clawdentity_protocol::revocation::{Item, Order, Subject};
use clawdentity_protocol::time::iso_ms;

/// An item, for `cut` too: number, kind, subject, time, source, reason, with one tab between them.
pub(super) fn item(item: &Item) -> String {
    let mut about = Vec::new();
    about.extend(item.subject.agent().map(ToString::to_string));
    about.extend(item.subject.jti().map(|jti| jti.to_string()));
    if let Subject::Lift { lifts, .. } = &item.subject {
        about.push(format!("lifts {lifts}"));
    }
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}",
        item.seq,
        item.subject.kind(),
        about.join(" "),
        iso_ms(item.revoked_at_ms),
        item.source.as_str(),
        item.reason.as_deref().unwrap_or("-"),
    )
}

/// An order, in a message about it.
pub(super) fn order(order: &Order) -> String {
    let subject = &order.subject;
    let name = match (subject.jti(), subject.agent()) {
        (Some(jti), _) => jti.to_string(),
        (None, Some(agent)) => agent.to_string(),
        (None, None) => String::new(),
    };
    format!("{} {name}", subject.kind())
}

/// A run of the reconciliation.
pub(super) fn report(report: &Report) -> String {
    format!(
        "{}: {} listed by the registry, {} added to the ledger, {} agents told",
        plain(&report.outcome),
        report.listed,
        report.added,
        report.told
    )
}

/// The active signing keys, one a line.
pub(super) fn keys(answer: &Value) -> Vec<String> {
    let kids = answer.get("kids").and_then(Value::as_array);
    let kids: Vec<String> = kids.into_iter().flatten().map(inline).collect();
    if kids.is_empty() {
        return vec!["no signing key is active".to_owned()];
    }
    kids
}

/// How far the import is.
pub(super) fn import(answer: &Value) -> Vec<String> {
    let mut lines = status(answer);
    if answer.get("state").and_then(Value::as_str) == Some("notBegun") {
        lines.push("the first request of an agent begins it".to_owned());
    }
    lines
}

/// A new epoch of the feed.
pub(super) fn new_epoch(said: &Value) -> String {
    let field = |name| inline(said.get(name).unwrap_or(&Value::Null));
    format!(
        "epoch {}: every reader of the feed starts over, up to number {}",
        field("epoch"),
        field("latest")
    )
}

/// A dead letter: number, time, what, about whom, queue, reason, with one tab between them.
pub(super) fn dead_letter(letter: &Value) -> String {
    let names = ["id", "deadLetteredAt", "type", "subject", "queue", "reason"];
    let field = |name| inline(letter.get(name).unwrap_or(&Value::Null));
    names.map(field).join("\t")
}

/// How a retry ended.
pub(super) fn retried(retried: &Value) -> String {
    let field = |name: &str| retried.get(name).map(inline);
    match (field("outcome"), field("reason")) {
        (Some(outcome), Some(reason)) => format!("{outcome}: {reason}"),
        (Some(outcome), None) => outcome,
        _ => inline(retried),
    }
}

/// The status, a field a line. Its fields are the proxy's to choose, so that an older `proxyctl` shows all of a newer one.
pub(super) fn status(status: &Value) -> Vec<String> {
    let mut fields = Vec::new();
    flatten("", status, &mut fields);
    let width = fields.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or_default();
    fields
        .into_iter()
        .map(|(name, value)| format!("{name:width$}  {value}"))
        .collect()
}

fn flatten(path: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let key = plain(key);
                let path = match path {
                    "" => key,
                    _ => format!("{path}.{key}"),
                };
                flatten(&path, value, fields);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                fields.push((path.to_owned(), inline(element)));
            }
        }
        Value::Number(number) if path.ends_with("AtMs") => {
            let time = match number.as_u64() {
                Some(ms) if ms > 0 => iso_ms(ms),
                _ => "never".to_owned(),
            };
            fields.push((path.trim_end_matches("Ms").to_owned(), time));
        }
        Value::Null if path.ends_with("AtMs") => {
            fields.push((path.trim_end_matches("Ms").to_owned(), "never".to_owned()));
        }
        other => fields.push((path.to_owned(), inline(other))),
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| format!("{}={}", plain(key), inline(value)));
            members.collect::<Vec<_>>().join(" ")
        }
        Value::String(text) => plain(text),
        Value::Null => "-".to_owned(),
        other => plain(&other.to_string()),
    }
}

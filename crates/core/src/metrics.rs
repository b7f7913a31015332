//! Metrics: what becomes a data point, and the row that it is (docs/metrics.md).
//!
//! A row is a kind and what is measured. Its kind is the index as well, by which the platform samples, so that what is rare
//! is not lost among requests. Columns are only ever added at the end: a query that was written for an older version
//! still reads what it meant. Text that is absent is `-`, a number that is absent is -1.
//!
//! A request is one point. Everything else that is counted is a log line already, and its point is made of that line's
//! fields, so that no line and its point can differ.

use std::borrow::Cow;

use serde_json::Value;

use crate::pipeline::Evidence;
use crate::provenance::{Provenance, Source};

const NO_TEXT: &str = "-";
const NO_NUMBER: f64 = -1.0;
/// What comes from outside may be long; the platform takes 16 KiB of text in a point.
const MAX_TEXT_CHARS: usize = 100;

/// One data point.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    kind: &'static str,
    texts: Vec<Cow<'static, str>>,
    numbers: Vec<f64>,
}

impl Point {
    /// As the platform takes it: `{"indexes":[kind],"blobs":[kind, texts…],"doubles":[numbers…]}`.
    pub fn to_json(&self) -> String {
        let texts = self.texts.iter().map(AsRef::as_ref);
        let blobs: Vec<&str> = std::iter::once(self.kind).chain(texts).collect();
        serde_json::json!({ "indexes": [self.kind], "blobs": blobs, "doubles": self.numbers }).to_string()
    }
}

/// What a request has shown of itself on its way, for its point.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noted {
    /// The path of its route's row.
    pub route: Option<&'static str>,
    /// What its admission rested on.
    pub evidence: Option<Evidence>,
    /// Seconds by which the proxy's clock is ahead of the caller's.
    pub skew_s: Option<i64>,
    /// What became of its message: `delivered`, `queued` or `other`.
    pub delivery: Option<&'static str>,
    /// The messages that wait for its recipient.
    pub queue_depth: Option<u32>,
}

/// A request that was answered. `code`: that of a refusal.
pub fn request(noted: &Noted, status: u16, code: Option<&'static str>, took_ms: u64) -> Point {
    let text = |text: Option<&'static str>| Cow::Borrowed(text.unwrap_or(NO_TEXT));
    let rested = |of: Option<Provenance>| text(of.map(|provenance| source(provenance.source)));
    let evidence = noted.evidence;
    Point {
        kind: "request",
        texts: vec![
            text(noted.route),
            text(code),
            rested(evidence.map(|evidence| evidence.keys)),
            rested(evidence.and_then(|evidence| evidence.crl)),
            rested(evidence.and_then(|evidence| evidence.access)),
            text(noted.delivery),
        ],
        numbers: vec![
            f64::from(status),
            took_ms as f64,
            noted.skew_s.map_or(0.0, |skew_s| skew_s as f64),
            noted.queue_depth.map_or(NO_NUMBER, f64::from),
        ],
    }
}

/// A message that its connector took.
pub fn delivered(queue_depth: usize) -> Point {
    Point {
        kind: "delivery",
        texts: vec!["delivered".into(), NO_TEXT.into()],
        numbers: vec![queue_depth as f64],
    }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Network => "network",
        Source::Fresh => "fresh",
        Source::Stale => "stale",
        Source::Durable => "durable",
    }
}

/// The point of a log line, if it is one that is counted.
pub fn of_line(message: &str, fields: &Value) -> Option<Point> {
    let text = |name: &str| -> Cow<'static, str> {
        match fields.get(name).and_then(Value::as_str) {
            Some(text) => Cow::Owned(text.chars().take(MAX_TEXT_CHARS).collect()),
            None => Cow::Borrowed(NO_TEXT),
        }
    };
    let number = |name: &str| fields.get(name).and_then(Value::as_f64).unwrap_or(NO_NUMBER);
    let is = |name: &str| fields.get(name) == Some(&Value::Bool(true));
    let (kind, texts, numbers) = match message {
        "proxy.registry.circuit" => (
            "circuit",
            vec![
                text("dependency"),
                text("lane"),
                text("to"),
                text("reason"),
                text("lastFailure"),
            ],
            vec![number("failures"), number("refused"), number("pauseMs")],
        ),
        "proxy.trust_store.circuit" => (
            "circuit",
            vec![
                "trust_store".into(),
                NO_TEXT.into(),
                text("to"),
                text("reason"),
                text("lastFailure"),
            ],
            vec![number("failures"), number("refused"), number("pauseMs")],
        ),
        "proxy.revocation.applied" => (
            "revocation",
            vec![
                text("source"),
                match (is("agent"), is("session")) {
                    (true, _) => "agent".into(),
                    (false, true) => "session".into(),
                    (false, false) => "token".into(),
                },
            ],
            vec![number("lag_ms"), number("tokens")],
        ),
        "proxy.relay.dead_lettered" => (
            "delivery",
            vec!["dead-lettered".into(), text("reason")],
            vec![number("queueDepth")],
        ),
        "proxy.relay.enqueue_refused" => (
            "delivery",
            vec!["refused".into(), text("reason")],
            vec![NO_NUMBER],
        ),
        "proxy.queue.message_failed" => (
            "queue",
            vec![text("then"), text("queue")],
            vec![number("attempts")],
        ),
        "proxy.dead_letter.kept" => (
            "dead_letter",
            vec![text("queue"), text("type"), text("reason")],
            vec![if is("revocation") { 1.0 } else { 0.0 }],
        ),
        "proxy.canary" => (
            "canary",
            vec![text("way")],
            vec![number("overlay_ms"), number("socket_ms"), number("feed_ms")],
        ),
        _ => return None,
    };
    Some(Point { kind, texts, numbers })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    /// The rows are read by queries that operators keep: what is here stays, and more comes after it.
    #[test]
    fn each_row_is_pinned() {
        let noted = Noted {
            route: Some("/hooks/message"),
            evidence: Some(Evidence {
                keys: Provenance {
                    source: Source::Fresh,
                    age_ms: 1,
                },
                crl: Some(Provenance {
                    source: Source::Stale,
                    age_ms: 2,
                }),
                access: Some(Provenance {
                    source: Source::Durable,
                    age_ms: 3,
                }),
            }),
            skew_s: Some(-3),
            delivery: Some("queued"),
            queue_depth: Some(7),
        };
        let circuit = json!({ "dependency": "registry_keys", "lane": null, "to": "open", "reason": "failures",
            "failures": 5, "refused": 0, "pauseMs": 30000, "lastFailure": "5xx" });
        let lines = [
            ("proxy.registry.circuit", circuit.clone()),
            ("proxy.trust_store.circuit", circuit),
            (
                "proxy.revocation.applied",
                json!({ "source": "queue", "agent": true, "session": true, "tokens": 2, "lag_ms": 40 }),
            ),
            (
                "proxy.revocation.applied",
                json!({ "source": "crl", "agent": false, "session": false, "tokens": 1, "lag_ms": null }),
            ),
            (
                "proxy.relay.dead_lettered",
                json!({ "reason": "expired", "queueDepth": 3, "agentDid": "x" }),
            ),
            ("proxy.relay.enqueue_refused", json!({ "reason": "queue_full" })),
            (
                "proxy.queue.message_failed",
                json!({ "then": "retried", "queue": "q", "attempts": 2 }),
            ),
            (
                "proxy.dead_letter.kept",
                json!({ "queue": "q-dlq", "type": null, "reason": "unreadable", "revocation": true }),
            ),
            (
                "proxy.canary",
                json!({ "way": "event", "overlay_ms": 20, "socket_ms": 25, "feed_ms": null }),
            ),
        ];
        let points = [
            Some(request(&noted, 202, None, 12)),
            Some(request(&Noted::default(), 404, Some("PROXY_NOT_FOUND"), 1)),
            Some(delivered(4)),
        ];
        let of_lines = lines.iter().map(|(message, fields)| of_line(message, fields));
        let rows: Vec<String> = points
            .into_iter()
            .chain(of_lines)
            .map(|point| point.unwrap().to_json())
            .collect();
        expect![[r#"
            {"indexes":["request"],"blobs":["request","/hooks/message","-","fresh","stale","durable","queued"],"doubles":[202.0,12.0,-3.0,7.0]}
            {"indexes":["request"],"blobs":["request","-","PROXY_NOT_FOUND","-","-","-","-"],"doubles":[404.0,1.0,0.0,-1.0]}
            {"indexes":["delivery"],"blobs":["delivery","delivered","-"],"doubles":[4.0]}
            {"indexes":["circuit"],"blobs":["circuit","registry_keys","-","open","failures","5xx"],"doubles":[5.0,0.0,30000.0]}
            {"indexes":["circuit"],"blobs":["circuit","trust_store","-","open","failures","5xx"],"doubles":[5.0,0.0,30000.0]}
            {"indexes":["revocation"],"blobs":["revocation","queue","agent"],"doubles":[40.0,2.0]}
            {"indexes":["revocation"],"blobs":["revocation","crl","token"],"doubles":[-1.0,1.0]}
            {"indexes":["delivery"],"blobs":["delivery","dead-lettered","expired"],"doubles":[3.0]}
            {"indexes":["delivery"],"blobs":["delivery","refused","queue_full"],"doubles":[-1.0]}
            {"indexes":["queue"],"blobs":["queue","retried","q"],"doubles":[2.0]}
            {"indexes":["dead_letter"],"blobs":["dead_letter","q-dlq","-","unreadable"],"doubles":[1.0]}
            {"indexes":["canary"],"blobs":["canary","event"],"doubles":[20.0,25.0,-1.0]}
        "#]].assert_eq(&(rows.join("\n") + "\n"));
        assert_eq!(of_line("request.completed", &json!({})), None, "it has its own");
    }
}

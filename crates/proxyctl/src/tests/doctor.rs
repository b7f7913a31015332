//! `proxyctl doctor` against a proxy that is well in everything but one thing at a time.

use std::net::TcpListener;

use clap::Parser as _;
use serde_json::{Value, json};

use super::super::{Args, Environment, Outcome, Terminal, run};
use super::support::{TOKEN, execute};
use clawdentity_guard::now_ms;
use clawdentity_guard::testing::{Reply, Request, serve};

/// What a proxy answers that is well.
#[derive(Clone)]
struct Answers {
    health: (u16, Value),
    date: &'static str,
    time_s: Option<u64>,
    status: (u16, Value),
    detail: (u16, Value),
}

fn well() -> Answers {
    let now_ms = now_ms();
    let way = json!({ "runs": 12, "silent": 0, "lastAtMs": now_ms - 60_000, "lastWasSilent": false, "lastMs": 40,
        "overlay": { "p50Ms": 30, "p99Ms": 90 }, "socket": { "p50Ms": 31, "p99Ms": 95 } });
    let health = json!({ "status": "ok", "ready": true, "version": "1.2.3", "environment": "production",
        "readiness": { "problems": [] } });
    let mut detail = health.clone();
    detail["detail"] = json!({ "canary": { "intervalSeconds": 300, "event": way, "operator": way } });
    let status = json!({
        "signingKeys": { "active": 2, "fetchedAtMs": now_ms - 60_000 },
        "isolate": { "keys": 2, "keysAgeMs": 1, "crl": "fresh", "crlAgeMs": 61_000, "circuits": [] },
        "reconciliation": { "finishedAtMs": now_ms - 120_000 },
        "lastEventAtMs": now_ms - 3 * 3_600_000,
        "deadLetters": { "total": 0, "revocations": 0 },
    });
    Answers {
        health: (200, health),
        date: "",
        time_s: Some(now_ms / 1000),
        status: (200, status),
        detail: (200, detail),
    }
}

fn served(answers: Answers) -> String {
    serve(move |request: Request| {
        let signed_in = request.header("authorization").is_some();
        let whole = |(status, body): &(u16, Value), lines| Reply::Whole(*status, lines, body.to_string());
        match request.path.as_str() {
            "/health" => {
                assert!(!signed_in, "what anybody may ask is asked without the token");
                whole(&answers.health, answers.date)
            }
            "/v1/time" => match answers.time_s {
                Some(time_s) => Reply::Whole(200, "", json!({ "unixSeconds": time_s }).to_string()),
                None => Reply::Whole(404, "", "{}".into()),
            },
            "/admin/v1/status" if signed_in => whole(&answers.status, ""),
            "/health?detail" if signed_in => whole(&answers.detail, ""),
            _ => Reply::Nothing,
        }
    })
}

/// The findings, as `--json` prints them.
fn examined(answers: Answers) -> (Outcome, Vec<Value>) {
    let mut out = Vec::new();
    let (outcome, err, _) = execute(&served(answers), "doctor --json", &mut &b""[..], &mut out);
    assert_eq!(err, "");
    let lines = String::from_utf8(out).unwrap();
    (
        outcome,
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect(),
    )
}

fn states(findings: &[Value]) -> Vec<(String, String)> {
    let text = |finding: &Value, name| finding[name].as_str().unwrap().to_owned();
    findings
        .iter()
        .map(|each| (text(each, "check"), text(each, "state")))
        .collect()
}

#[test]
fn a_proxy_that_is_well() {
    let (outcome, findings) = examined(well());
    assert_eq!(outcome, Outcome::Done, "{findings:?}");
    let checks: Vec<String> = states(&findings).into_iter().map(|(check, _)| check).collect();
    let all = [
        "dns",
        "tls",
        "clock",
        "health",
        "migrations",
        "keys",
        "crl",
        "reconciliation",
        "events",
        "dead letters",
        "circuits",
        "kill switch",
        "kill switch",
    ];
    assert_eq!(checks, all);
    for finding in &findings {
        // The test's proxy speaks plain HTTP.
        let expect = if finding["check"] == "tls" { "note" } else { "well" };
        assert_eq!(finding["state"], expect, "{finding}");
        assert!(finding["finding"].as_str().unwrap().ends_with('.'), "{finding}");
    }
}

/// Each thing that can be wrong: the check that says so, how, in which words, and the exit code.
#[test]
fn each_thing_that_is_wrong_is_one_sentence_with_what_to_do() {
    fn change(at: &'static str, to: Value) -> Box<dyn Fn(&mut Answers)> {
        Box::new(move |answers| {
            let (document, pointer) = match at.split_at(at.find('/').unwrap()) {
                ("health", pointer) => (&mut answers.health.1, pointer),
                ("status", pointer) => (&mut answers.status.1, pointer),
                (_, pointer) => (&mut answers.detail.1, pointer),
            };
            *document.pointer_mut(pointer).unwrap() = to.clone();
        })
    }
    let problem = |what: &str| {
        let problems =
            json!([{ "what": what, "since": "2026-01-02T03:04:05.678Z", "effect": "something is refused" }]);
        change("health/readiness/problems", problems)
    };
    let ago = |minutes: u64| json!(now_ms() - minutes * 60_000);
    let time = |off_s: i64| -> Box<dyn Fn(&mut Answers)> {
        Box::new(move |answers| answers.time_s = (now_ms() / 1000).checked_add_signed(off_s))
    };
    let circuit = json!([{ "dependency": "registry_access", "lane": "stranger", "phase": "open" }]);
    type Case = (
        Box<dyn Fn(&mut Answers)>,
        &'static str,
        &'static str,
        &'static str,
    );
    let table: Vec<Case> = vec![
        (time(60), "clock", "note", "behind"),
        (time(-60), "clock", "note", "ahead of"),
        (time(250), "clock", "bad", "behind"),
        (
            Box::new(|answers| answers.date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"),
            "clock",
            "bad",
            "ahead of",
        ),
        (
            Box::new(|answers| answers.time_s = None),
            "clock",
            "unknown",
            "what time",
        ),
        (
            change("health/ready", json!(false)),
            "health",
            "bad",
            "is not ready",
        ),
        (
            problem("binding_missing"),
            "bindings",
            "bad",
            "binding_missing since 2026",
        ),
        (
            problem("database_unreachable"),
            "database",
            "bad",
            "database_unreachable",
        ),
        (
            problem("database_unreachable"),
            "migrations",
            "unknown",
            "nobody knows",
        ),
        (
            problem("migrations_missing"),
            "migrations",
            "bad",
            "something is refused",
        ),
        (
            problem("trust_state_unreachable"),
            "objects",
            "bad",
            "trust_state",
        ),
        (problem("signing_keys_unavailable"), "keys", "bad", "signing_keys"),
        (problem("crl_unavailable"), "crl", "bad", "crl_unavailable"),
        (
            problem("what_a_later_version_knows"),
            "health",
            "bad",
            "a_later_version",
        ),
        (
            change("status/signingKeys", Value::Null),
            "keys",
            "bad",
            "fresh isolate has none",
        ),
        (
            change("status/signingKeys/active", json!(0)),
            "keys",
            "bad",
            "0 signing keys",
        ),
        (
            change("status/signingKeys/fetchedAtMs", ago(46)),
            "keys",
            "bad",
            "46 min ago",
        ),
        (
            change("status/isolate/crl", json!("stale")),
            "crl",
            "note",
            "61 s old",
        ),
        (
            change("status/isolate/crl", json!("dead")),
            "crl",
            "bad",
            "too old to count",
        ),
        (
            change("status/isolate/circuits", circuit),
            "circuits",
            "note",
            "registry_access (stranger) is open",
        ),
        (
            change("status/reconciliation/finishedAtMs", Value::Null),
            "reconciliation",
            "bad",
            "never",
        ),
        (
            change("status/reconciliation/finishedAtMs", ago(46)),
            "reconciliation",
            "bad",
            "46 min ago",
        ),
        (
            change("status/lastEventAtMs", Value::Null),
            "events",
            "note",
            "90 days",
        ),
        (
            change("status/deadLetters", json!({ "total": 3, "revocations": 0 })),
            "dead letters",
            "bad",
            "applied: 3",
        ),
        (
            change("status/deadLetters", json!({ "total": 3, "revocations": 1 })),
            "dead letters",
            "bad",
            "Revocations that were not applied: 1",
        ),
        (
            change("status/deadLetters", json!("?")),
            "dead letters",
            "unknown",
            "older version",
        ),
        (
            change("detail/detail/canary/intervalSeconds", json!(0)),
            "kill switch",
            "note",
            "does not measure itself",
        ),
        (
            change("detail/detail/canary/event/lastAtMs", Value::Null),
            "kill switch",
            "bad",
            "queue was not measured",
        ),
        (
            change("detail/detail/canary/event/lastAtMs", ago(16)),
            "kill switch",
            "bad",
            "last measured 16 min ago",
        ),
        (
            change("detail/detail/canary/event/lastWasSilent", json!(true)),
            "kill switch",
            "bad",
            "queue was not seen",
        ),
        (
            change("detail/detail/canary/operator/lastMs", json!(1001)),
            "kill switch",
            "bad",
            "operator took 1001 ms",
        ),
        (
            change("detail/detail", json!({})),
            "kill switch",
            "unknown",
            "older version",
        ),
        (
            Box::new(|answers| answers.detail.0 = 500),
            "kill switch",
            "bad",
            "500",
        ),
        (
            Box::new(|answers| answers.status.0 = 401),
            "operator",
            "bad",
            "is this the token of that proxy?",
        ),
        (
            Box::new(|answers| answers.status.0 = 404),
            "operator",
            "bad",
            "is ADMIN_TOKEN set there?",
        ),
        (
            Box::new(|answers| {
                let details = json!({ "fieldErrors": { "REGISTRY_URL": ["bad"], "ENVIRONMENT": ["bad"] } });
                answers.health = (
                    500,
                    json!({ "error": { "code": "CONFIG_VALIDATION_FAILED", "details": details } }),
                );
            }),
            "settings",
            "bad",
            "REGISTRY_URL, ENVIRONMENT",
        ),
        (
            Box::new(|answers| answers.health = (404, json!("nothing here"))),
            "proxy",
            "bad",
            "404",
        ),
    ];
    for (worsen, check, state, words) in table {
        let mut answers = well();
        worsen(&mut answers);
        let (outcome, findings) = examined(answers);
        let said = findings.iter().find(|each| {
            each["check"] == check
                && each["state"] == state
                && each["finding"].as_str().unwrap().contains(words)
        });
        let said = said.unwrap_or_else(|| panic!("{check} {state} {words}: {findings:?}"));
        if state == "bad" {
            assert!(
                said["toDo"]
                    .as_str()
                    .is_some_and(|to_do| to_do.ends_with(['.', '?'])),
                "{said}"
            );
        }
        let bad = findings.iter().any(|each| each["state"] == "bad");
        assert_eq!(
            outcome,
            if bad { Outcome::Failed } else { Outcome::Done },
            "{check} {words}"
        );
    }
}

#[test]
fn without_the_token_it_says_what_it_could_not_look_at() {
    let url = served(well());
    let args = Args::try_parse_from(["proxyctl", "doctor"]).unwrap();
    let environment = Environment {
        url: Some(url),
        ..Environment::default()
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        input: &mut &b""[..],
        progress: false,
        wait: &|_| {},
    };
    assert_eq!(run(&args, &environment, &mut terminal), Outcome::Done);
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("unknown  operator"), "{out}");
    assert!(
        out.contains("To do: Set CLAWDENTITY_ADMIN_TOKEN or use --token-file."),
        "{out}"
    );
    assert!(out.ends_with("Nothing is bad.\n"), "{out}");
}

#[test]
fn nobody_there_is_exit_code_3_and_says_how_far_it_got() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = serve(|_| Reply::Nothing);
    let secured = silent.replace("http:", "https:");
    for (url, words) in [
        (format!("http://{free}"), "Nothing takes connections on 127.0.0.1"),
        (silent, "127.0.0.1 takes connections, and then: "),
        (
            secured,
            "bad      tls             127.0.0.1 takes connections, and then: ",
        ),
        ("http://nobody.localhost:1".to_owned(), "To do: "),
    ] {
        let mut out = Vec::new();
        let (outcome, err, _) = execute(&url, "doctor", &mut &b""[..], &mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(
            (outcome, err.as_str()),
            (Outcome::Unreachable, ""),
            "{url}: {out}"
        );
        assert!(out.contains(words) && !out.contains(TOKEN), "{url}: {out}");
        assert!(out.ends_with("One thing is bad.\n"), "{out}");
    }
}

#[test]
fn wrong_usage_asks_nobody() {
    for (url, words) in [("ftp://x", "doctor"), ("http://proxy.example.com", "doctor")] {
        let mut out = Vec::new();
        let (outcome, err, _) = execute(url, words, &mut &b""[..], &mut out);
        assert_eq!((outcome, out.len()), (Outcome::Usage, 0), "{err}");
    }
}

//! Exit codes 1, 2 and 3, and what the operator reads with each of them.

use std::io;

use clap::Parser as _;

use super::super::{Args, Environment, Outcome, Terminal, run};
use super::support::{File, TOKEN, execute, item, json, page, proxy, refusal};
use clawdentity_guard::testing::Reply;
use clawdentity_protocol::testing::agent;

/// Exit codes 1 and 3: what the proxy answered, what the operator reads, how often it was asked.
#[test]
fn what_is_refused_and_who_is_not_there() {
    const WORDS: &str = "revocations lift 7";
    let failed = |words: &str, reply: fn() -> Reply, calls: usize, says: &str| {
        let ran = proxy(move |_, _| reply()).ctl(words);
        let want = if says.contains("reached") {
            Outcome::Unreachable
        } else {
            Outcome::Failed
        };
        assert_eq!(
            (ran.outcome, ran.asked.len()),
            (want, calls),
            "{says}: {}",
            ran.err
        );
        assert!(
            ran.err.starts_with("proxyctl: ") && ran.err.contains(says),
            "{says}: {}",
            ran.err
        );
        assert_eq!((ran.out.as_str(), ran.err.lines().count()), ("", 1), "{says}");
        ran
    };
    failed(
        WORDS,
        || refusal(401, "", "PROXY_BEARER_INVALID"),
        1,
        "401 PROXY_BEARER_INVALID Told so.; is this the token of that proxy",
    );
    failed(
        WORDS,
        || refusal(404, "", "PROXY_NOT_FOUND"),
        1,
        "is ADMIN_TOKEN set there?",
    );
    failed(
        WORDS,
        || refusal(404, "", "PROXY_REVOCATION_NOT_FOUND"),
        1,
        "Told so.\n",
    );
    failed(
        WORDS,
        || refusal(409, "", "PROXY_REVOCATION_NEEDS_FORCE"),
        1,
        "(here: --force)",
    );
    failed(
        "revoke token 01JZ0000000000000000000001 --agent did:cdi:registry.test:agent:01JZ0000000000000000000002",
        || {
            let details = r#"{"ownerAgentDid":"did:cdi:registry.test:agent:01JZ0000000000000000000003"}"#;
            let code = "PROXY_REVOCATION_AGENT_MISMATCH";
            let body = format!(r#"{{"error":{{"code":"{code}","message":"Told so.","details":{details}}}}}"#);
            Reply::Whole(409, "", body)
        },
        1,
        "Told so.; it belongs to did:cdi:registry.test:agent:01JZ0000000000000000000003: name that agent, or leave --agent out",
    );
    failed(
        "revocations lift 7 --force",
        || refusal(409, "", "X"),
        1,
        "409 X Told so.\n",
    );
    failed(
        "reconcile",
        || refusal(400, "", "X\\u001b[2J\\n"),
        1,
        "400 X[2J Told so.",
    );
    failed("status", || json(500, "<html>"), 1, "500 without a reason");
    failed(
        "status",
        || Reply::Whole(302, "Location: http://127.0.0.1:9/\r\n", String::new()),
        1,
        "the proxy's own",
    );
    failed("status", || json(200, "<html>"), 1, "no JSON");
    failed("status", || json(200, " ".repeat(100_000)), 1, "too large");
    failed(WORDS, || json(201, "{}"), 1, "not a revocation");
    failed(
        "reconcile",
        || json(200, "{}"),
        1,
        "it is not the report of a reconciliation",
    );
    failed(
        "revocations list",
        || json(200, "[]"),
        1,
        "not a page of revocations",
    );
    failed(
        "revocations list --since 9",
        || json(200, page(&[7], 9, true)),
        1,
        "its pages do not advance",
    );
    // Whoever repeats a credential is not quoted.
    failed(
        "status",
        || json(200, format!(r#"{{"a":"Bearer {TOKEN}"}}"#)),
        1,
        "repeats the admin token",
    );
    failed("status", || refusal(403, "", TOKEN), 1, "repeats the admin token");
    failed(WORDS, || Reply::Nothing, 1, "the proxy could not be reached");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (outcome, err, _) = execute(&url, WORDS, &mut io::empty(), &mut Vec::new());
    assert_eq!(outcome, Outcome::Unreachable, "{err}");
}

#[test]
fn it_comes_again_when_it_is_told_to() {
    // First replies, then 200: the outcome and the waits.
    let check = |replies: &[(u16, &'static str)], outcome: Outcome, waited_s: &[u64]| {
        let planned = replies.to_vec();
        let ran = proxy(move |number, _| match planned.get(number) {
            Some((status, lines)) => refusal(*status, lines, "LATER"),
            None => json(200, "{}"),
        })
        .ctl("status");
        assert_eq!(
            (ran.outcome, ran.waited_s.as_slice()),
            (outcome, waited_s),
            "{replies:?}"
        );
        assert_eq!(ran.asked.len(), waited_s.len() + 1, "{replies:?}");
        ran.err
    };
    check(
        &[(503, "Retry-After: 1\r\n"), (429, "Retry-After: 30\r\n")],
        Outcome::Done,
        &[1, 30],
    );
    check(&[(503, "Retry-After: 2\r\n"); 4], Outcome::Failed, &[2, 2, 2]);
    let err = check(&[(429, "Retry-After: 31\r\n")], Outcome::Failed, &[]);
    assert!(err.contains("try again in 31 s"), "{err}");
    check(&[(503, "")], Outcome::Failed, &[]);
    check(&[(500, "Retry-After: 1\r\n")], Outcome::Failed, &[]);
}

/// Exit code 2: nothing is asked of anybody.
#[test]
fn what_is_wrong_before_anything_is_asked() {
    let nobody = || proxy(|_, _| json(201, item(1)));
    let bad = |words: &str, input: &str, says: &str| {
        let ran = nobody().ctl_reading(words, input);
        assert_eq!(
            (ran.outcome, ran.asked.len()),
            (Outcome::Usage, 0),
            "{words}: {}",
            ran.err
        );
        assert!(
            ran.err.contains(says) && ran.out.is_empty(),
            "{words}: {}",
            ran.err
        );
    };
    let good = agent(1);
    bad(
        "revoke agent --file -",
        &format!("{good}\nnonsense\n{good}x\n"),
        "line 2: not an agent DID\n  line 3: ",
    );
    bad("revoke token --file -", &"0\n1\n2\n".repeat(9), "line 3: ");
    let many: String = (0..25).map(|n| format!("bad{n}\n")).collect();
    bad("revoke agent --file -", &many, "and 5 more");
    bad("revoke agent --file -", "# none\n\n", "the list is empty");
    bad("revoke agent --file /nowhere/at/all", "", "/nowhere/at/all: ");
    let binary = File::of([0xff, 0xfe, b'\n']);
    bad(
        &format!("revoke agent --file|\"{}", binary.0.display()),
        "",
        "UTF-8",
    );
    bad(
        "status --url http://proxy.example.com",
        "",
        "plain http:// would show the credential",
    );
    bad(
        "status --url https://user:pw@proxy.example.com",
        "",
        "must not hold credentials",
    );
    bad("status --url proxy.example.com", "", "not a URL");
    bad("status --token-file /nowhere/at/all", "", "/nowhere/at/all: ");
    for token in ["", "short", &"x".repeat(1025), &"two words ".repeat(5)] {
        let file = File::of(token);
        bad(
            &format!("status --token-file|\"{}", file.0.display()),
            "",
            "admin token",
        );
    }

    for words in [
        "",
        "revoke",
        "revoke agent",
        "revoke agent nonsense",
        "revoke token x",
        "revoke token 0000000000000000000000000G --expires-at tomorrow",
        "revocations lift",
        "revocations lift 0",
        "revocations list --since -1",
        "status --token an-operators-token-for-tests-000000",
    ] {
        let refused = Args::try_parse_from(["proxyctl"].into_iter().chain(words.split_whitespace()));
        assert_eq!(refused.err().map(|error| error.exit_code()), Some(2), "{words}");
    }
    let both = format!("revoke agent {good} --file -");
    assert!(Args::try_parse_from(["proxyctl"].into_iter().chain(both.split_whitespace())).is_err());
}

#[test]
fn the_token_and_the_url_as_given() {
    let proxy = proxy(|_, _| json(200, "{}"));
    let file = File::of(format!("\n{TOKEN}\r\n"));
    let path = file.0.to_str().unwrap();
    let attempt = |words: &[&str], url: Option<&str>, token: Option<&str>| {
        let args = Args::try_parse_from(["proxyctl", "status"].iter().chain(words)).unwrap();
        let environment = Environment {
            url: url.map(Into::into),
            token: token.map(Into::into),
            feed_token: None,
        };
        let mut err = Vec::new();
        let mut terminal = Terminal {
            out: &mut io::sink(),
            err: &mut err,
            input: &mut io::empty(),
            progress: false,
            wait: &|_| {},
        };
        let outcome = run(&args, &environment, &mut terminal);
        let asked = std::mem::take(&mut *proxy.asked.lock().unwrap());
        let tokens: Vec<_> = asked
            .iter()
            .map(|r| r.header("authorization").unwrap().to_owned())
            .collect();
        (outcome, tokens, String::from_utf8(err).unwrap())
    };
    let sent = vec![format!("Bearer {TOKEN}")];
    let other = "x".repeat(40);
    // The command line goes before the environment.
    let (outcome, tokens, _) = attempt(&["--token-file", path], Some(&proxy.url), Some(&other));
    assert_eq!((outcome, tokens), (Outcome::Done, sent.clone()));
    let (outcome, tokens, _) = attempt(&["--url", &proxy.url], Some("http://127.0.0.1:9"), Some(TOKEN));
    assert_eq!((outcome, tokens), (Outcome::Done, sent));
    for (url, token, says) in [
        (None, Some(TOKEN), "CLAWDENTITY_PROXY_URL"),
        (Some(proxy.url.as_str()), None, "CLAWDENTITY_ADMIN_TOKEN"),
    ] {
        let (outcome, tokens, err) = attempt(&[], url, token);
        assert_eq!((outcome, tokens.len()), (Outcome::Usage, 0));
        assert!(err.contains(says), "{err}");
    }
    // To another machine by plain http, where told so: it is tried (an address that is nobody's).
    let (outcome, _, err) = attempt(&["--allow-http", "--url", "http://0.0.0.0:1"], None, Some(TOKEN));
    assert_eq!(outcome, Outcome::Unreachable, "{err}");
}

//! The command against a server in this process: what it sends, and what it prints.

mod doctor;
mod failures;
mod support;
mod watch;

use std::io;

use clap::Parser as _;
use expect_test::expect;

use self::support::{File, TOKEN, item, json, page, proxy, refusal};
use super::*;
use clawdentity_guard::testing::{Reply, Request};
use clawdentity_protocol::testing::{agent, ulid};

#[test]
fn each_subcommand_as_sent_and_as_shown() {
    let (did, jti) = (agent(7), ulid(16));
    let shown = format!("7\tagent\t{did}\t2026-01-02T03:04:05.678Z\toperator\tkey stolen\n");
    let lift = format!(
        r#"{{"seq":8,"kind":"lift","agentDid":"{did}","lifts":7,"revokedAt":1767323045678,"source":"operator"}}"#
    );
    let report = r#"{"outcome":"complete","listed":10,"added":2,"told":1}"#.to_owned();
    let orders = "POST /admin/v1/revocations";
    let table: Vec<(String, (u16, String), String, String)> = vec![
        (
            format!("revoke agent {did} --reason|\"key stolen"),
            (201, item(7)),
            format!(r#"{orders} {{"kind":"agent","agentDid":"{did}","reason":"key stolen"}}"#),
            shown.clone(),
        ),
        (
            format!("revoke agent {did}"),
            (200, item(7)),
            format!(r#"{orders} {{"kind":"agent","agentDid":"{did}"}}"#),
            format!("{}\tstood already\n", shown.trim_end()),
        ),
        (
            format!("--json revoke session {did}"),
            (200, item(7)),
            format!(r#"{orders} {{"kind":"session","agentDid":"{did}"}}"#),
            format!("{}\n", item(7)),
        ),
        (
            format!("revoke token {jti} --agent {did} --expires-at 2026-01-02T03:04:05Z"),
            (201, item(7)),
            format!(
                r#"{orders} {{"kind":"token","agentDid":"{did}","jti":"{jti}","expiresAt":1767323045000}}"#
            ),
            shown.clone(),
        ),
        (
            "revocations list".into(),
            (200, page(&[7], 7, false)),
            "GET /admin/v1/revocations?since=0&limit=1000".into(),
            shown,
        ),
        (
            "revocations list --since 6 --json".into(),
            (200, page(&[7], 7, false)),
            "GET /admin/v1/revocations?since=6&limit=1000".into(),
            format!("{}\n", item(7)),
        ),
        (
            "revocations lift 7".into(),
            (201, lift.clone()),
            "POST /admin/v1/revocations/7/lift {}".into(),
            format!("8\tlift\t{did} lifts 7\t2026-01-02T03:04:05.678Z\toperator\t-\n"),
        ),
        (
            "revocations lift 7 --force --json".into(),
            (200, lift.clone()),
            r#"POST /admin/v1/revocations/7/lift {"force":true}"#.into(),
            format!("{lift}\n"),
        ),
        (
            "dead-letters list".into(),
            (200, r#"{"items":[{"id":3,"deadLetteredAt":"2026-01-02T03:04:05.678Z","type":"agent.auth.revoked","subject":null,"queue":"q-dlq","reason":"unreadable"}],"next":3,"more":false}"#.to_owned()),
            "GET /admin/v1/dead-letters?since=0&limit=1000".into(),
            "3\t2026-01-02T03:04:05.678Z\tagent.auth.revoked\t-\tq-dlq\tunreadable\n".into(),
        ),
        (
            "dead-letters show 3".into(),
            (200, r#"{"id":3,"body":"{}"}"#.to_owned()),
            "GET /admin/v1/dead-letters/3".into(),
            "id    3\nbody  {}\n".into(),
        ),
        (
            "dead-letters retry 3".into(),
            (200, r#"{"outcome":"applied"}"#.to_owned()),
            "POST /admin/v1/dead-letters/3/retry {}".into(),
            "3\tapplied\n".into(),
        ),
        (
            "dead-letters drop 3".into(),
            (200, r#"{"dropped":true}"#.to_owned()),
            "POST /admin/v1/dead-letters/3/drop {}".into(),
            "3\tdropped\n".into(),
        ),
        (
            "keys refresh".into(),
            (200, r#"{"kids":["one","two"]}"#.to_owned()),
            "POST /admin/v1/keys/refresh {}".into(),
            "one\ntwo\n".into(),
        ),
        (
            "keys refresh --json".into(),
            (200, r#"{"kids":[]}"#.to_owned()),
            "POST /admin/v1/keys/refresh {}".into(),
            "{\"kids\":[]}\n".into(),
        ),
        (
            "import status".into(),
            (200, r#"{"state":"notBegun"}"#.to_owned()),
            "GET /admin/v1/import".into(),
            "state  notBegun\nthe first request of an agent begins it\n".into(),
        ),
        (
            "import status".into(),
            (200, r#"{"state":"running","pairs":100,"startedAtMs":1767323045678,"finishedAtMs":null}"#.to_owned()),
            "GET /admin/v1/import".into(),
            "state       running\npairs       100\nstartedAt   2026-01-02T03:04:05.678Z\nfinishedAt  never\n".into(),
        ),
        (
            "feed new-epoch".into(),
            (200, r#"{"epoch":"a1","latest":7}"#.to_owned()),
            "POST /admin/v1/feed/epoch {}".into(),
            "epoch a1: every reader of the feed starts over, up to number 7\n".into(),
        ),
        (
            "reconcile".into(),
            (200, report.clone()),
            "POST /admin/v1/reconcile {}".into(),
            "complete: 10 listed by the registry, 2 added to the ledger, 1 agents told\n".into(),
        ),
        (
            "reconcile --json".into(),
            (200, report.clone()),
            "POST /admin/v1/reconcile {}".into(),
            format!("{report}\n"),
        ),
        (
            "status --json".into(),
            (200, "{ \"latest\": 7,\n \"new\": {} }".into()),
            "GET /admin/v1/status".into(),
            "{\"latest\":7,\"new\":{}}\n".into(),
        ),
        (
            format!("status --json --agent {did}"),
            (200, "{}".into()),
            format!("GET /admin/v1/status?agentDid={did}"),
            "{}\n".into(),
        ),
    ];
    for (words, (status, body), asked, out) in table {
        let ran = proxy(move |_, _| json(status, body.clone())).ctl(&words);
        assert_eq!(ran.outcome, Outcome::Done, "{words}: {}", ran.err);
        assert_eq!(
            (ran.asked, ran.out, ran.err),
            (vec![asked], out, String::new()),
            "{words}"
        );
    }
}

#[test]
fn what_a_revoked_session_does_not_mean_is_said() {
    let (did, ledger) = (agent(7), || proxy(|_, _| json(201, item(7))));
    let ran = ledger().ctl(&format!("revoke session {did}"));
    assert_eq!((ran.outcome, ran.out.lines().count()), (Outcome::Done, 1));
    assert!(ran.err.contains("may let the agent in again"), "{}", ran.err);
    for words in ["--json revoke session", "revoke agent"] {
        assert_eq!(ledger().ctl(&format!("{words} {did}")).err, "", "{words}");
    }
}

#[test]
fn a_status_for_people() {
    let body = r#"{"version":"0.1.0\u001b[2J","latest":7,"counts":[{"kind":"agent","source":"queue","standing":true,"rows":3},{"kind":"token","source":"crl","standing":false,"rows":4}],
        "reconciliation":{"cursor":null,"startedAtMs":1767323045678,"finishedAtMs":null,"listed":0},"feedTokenConfigured":false}"#;
    let ran = proxy(move |_, _| json(200, body)).ctl("status");
    assert_eq!(ran.outcome, Outcome::Done);
    expect![[r#"
            version                    0.1.0[2J
            latest                     7
            counts                     kind=agent source=queue standing=true rows=3
            counts                     kind=token source=crl standing=false rows=4
            reconciliation.cursor      -
            reconciliation.startedAt   2026-01-02T03:04:05.678Z
            reconciliation.finishedAt  never
            reconciliation.listed      0
            feedTokenConfigured        false
        "#]]
    .assert_eq(&ran.out);
}

#[test]
fn a_list_is_followed_to_its_end_or_to_its_readers() {
    let ledger = || {
        proxy(|_, request| match request.path.as_str() {
            "/admin/v1/revocations?since=0&limit=1000" => json(200, page(&[1, 2], 2, true)),
            "/admin/v1/revocations?since=2&limit=1000" => json(200, page(&[5], 7, true)),
            "/admin/v1/revocations?since=7&limit=1000" => json(200, page(&[9], 9, false)),
            _ => refusal(400, "", "X"),
        })
    };
    let ran = ledger().ctl("revocations list");
    let numbers: Vec<&str> = ran
        .out
        .lines()
        .filter_map(|line| line.split('\t').next())
        .collect();
    assert_eq!(
        (ran.outcome, numbers),
        (Outcome::Done, vec!["1", "2", "5", "9"]),
        "{}",
        ran.err
    );

    for (kind, outcome) in [
        (ErrorKind::BrokenPipe, Outcome::Done),
        (ErrorKind::StorageFull, Outcome::Failed),
    ] {
        let proxy = ledger();
        let args = Args::try_parse_from(["proxyctl", "revocations", "list", "--json"]).unwrap();
        let environment = Environment {
            url: Some(proxy.url.clone()),
            token: Some(TOKEN.into()),
            feed_token: None,
        };
        let mut terminal = Terminal {
            out: &mut Shut(kind),
            err: &mut io::sink(),
            input: &mut io::empty(),
            progress: false,
            wait: &|_| {},
        };
        assert_eq!(run(&args, &environment, &mut terminal), outcome);
        assert_eq!(proxy.asked.lock().unwrap().len(), 1);
    }
}

/// What can no longer be written to.
struct Shut(ErrorKind);

impl Write for Shut {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reconciliation_is_gone_on_with() {
    let run = |outcome: &str| {
        json(
            200,
            format!(r#"{{"outcome":"{outcome}","listed":9,"added":4,"told":0}}"#),
        )
    };
    let ran = proxy(move |number, _| run(if number < 2 { "partial" } else { "complete" })).ctl("reconcile");
    assert_eq!((ran.outcome, ran.asked.len()), (Outcome::Done, 3), "{}", ran.err);
    expect![[r#"
            partial: 9 listed by the registry, 4 added to the ledger, 0 agents told
            partial: 9 listed by the registry, 4 added to the ledger, 0 agents told
            complete: 9 listed by the registry, 4 added to the ledger, 0 agents told
        "#]]
    .assert_eq(&ran.out);
    let ran = proxy(move |number, _| match number {
        0 => run("partial"),
        _ => refusal(503, "", "DOWN"),
    })
    .ctl("reconcile");
    assert_eq!(ran.outcome, Outcome::Failed);
    assert_eq!(ran.out.lines().count(), 1);
}

#[test]
fn many_at_once() {
    let lines = |numbers: &[u128]| -> String { numbers.iter().map(|n| format!("{}\n", agent(*n))).collect() };
    let reply = |request: &Request| {
        let number = (1..=5).find(|n| request.body.contains(agent(u128::from(*n)).as_str()));
        json(201, item(number.unwrap()))
    };
    let list = format!(
        "# the night's\r\n\n  {}  # twice\r\n{}",
        agent(1),
        lines(&[1, 2, 3, 4])
    );

    // One is refused: the rest goes on. From a file and from standard input.
    let file = File::of(&list);
    let refusing = || {
        proxy(move |_, request| match request.body.contains(agent(2).as_str()) {
            true => refusal(503, "", "DOWN"),
            false => reply(request),
        })
    };
    for ran in [
        refusing().ctl(&format!("revoke agent --file|\"{}", file.0.display())),
        refusing().ctl_reading("revoke agent --file -", &list),
    ] {
        assert_eq!(
            (ran.outcome, ran.asked.len(), ran.out.lines().count()),
            (Outcome::Failed, 4, 3)
        );
        expect![[r#"
                proxyctl: agent did:cdi:registry.example.com:agent:00000000000000000000000002: 503 DOWN Told so.; try again later
                proxyctl: 3 of 4 revoked, 1 failed
            "#]]
.assert_eq(&ran.err);
    }
    // All are done; with --json they are lines of JSON.
    let ran = proxy(move |_, request| reply(request)).ctl_reading("revoke agent --file - --json", &list);
    assert_eq!(
        (ran.outcome, ran.err.as_str()),
        (Outcome::Done, "proxyctl: 4 of 4 revoked, 0 failed\n")
    );
    assert_eq!(
        ran.out.lines().map(str::to_owned).collect::<Vec<_>>(),
        [1, 2, 3, 4].map(item)
    );

    // Where the rest would hear the same, it is left.
    for (code, outcome) in [(401, Outcome::Failed), (0, Outcome::Unreachable)] {
        let ran = proxy(move |number, request| match (number, code) {
            (0, _) => reply(request),
            (_, 0) => Reply::Nothing,
            _ => refusal(401, "", "PROXY_BEARER_INVALID"),
        })
        .ctl_reading("revoke session --file -", &list);
        assert_eq!(
            (ran.outcome, ran.asked.len(), ran.out.lines().count()),
            (outcome, 2, 1),
            "{}",
            ran.err
        );
        assert!(
            ran.err.contains("1 of 4 revoked, 1 failed, 2 not tried"),
            "{}",
            ran.err
        );
    }
}

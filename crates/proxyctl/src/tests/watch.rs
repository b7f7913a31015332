//! `watch`: the stream with its breaks, and the list where there is no feed token.

use std::cell::RefCell;
use std::io;
use std::sync::mpsc;

use clap::Parser as _;

use super::support::{TOKEN, item, json, page, proxy, refusal};
use super::*;
use clawdentity_guard::testing::Reply;

const FEED_TOKEN: &str = "a-sidecars-token-for-tests-000000000";

/// An event stream that says this and ends.
fn stream(text: &str) -> Reply {
    let (sender, parts) = mpsc::channel();
    sender.send(text.as_bytes().to_vec()).unwrap();
    Reply::Stream(parts)
}

fn event(seq: u64) -> String {
    format!("event: revocation\nid: {seq}\ndata: {}\n\n", item(seq))
}

fn numbers(out: &[u8]) -> Vec<String> {
    let text = String::from_utf8(out.to_vec()).unwrap();
    let first = |line: &str| line.split('\t').next().map(str::to_owned);
    text.lines().filter_map(first).collect()
}

/// Runs `watch`; its outcome, what it printed, what it said beside, and its pauses in seconds.
fn watch(url: &str, words: &[&str], feed_token: Option<&str>) -> (Outcome, Vec<u8>, String, Vec<u64>) {
    let args = Args::try_parse_from(["proxyctl", "watch"].iter().chain(words)).unwrap();
    let environment = Environment {
        url: Some(url.to_owned()),
        token: Some(TOKEN.into()),
        feed_token: feed_token.map(str::to_owned),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let waited = RefCell::new(Vec::new());
    let mut terminal = Terminal {
        out: &mut out,
        err: &mut err,
        input: &mut io::empty(),
        progress: false,
        wait: &|pause| waited.borrow_mut().push(pause.as_secs()),
    };
    let outcome = run(&args, &environment, &mut terminal);
    (outcome, out, String::from_utf8(err).unwrap(), waited.into_inner())
}

#[test]
fn the_stream_is_followed_through_breaks_and_resets_until_it_is_refused() {
    let proxy = proxy(|number, _| match number {
        0 => json(
            200,
            r#"{"epoch":"a1","latest":4,"next":1,"more":true,"items":[]}"#,
        ),
        1 => stream(&format!(
            ": alive\n\n{}{}: degraded\n\n: degraded\n\n: alive\n\n",
            event(5),
            event(6)
        )),
        2 => refusal(503, "Retry-After: 7\r\n", "PROXY_FEED_STREAM_UNAVAILABLE"),
        3 => stream(": alive\n\n"),
        4 => stream(&format!("event: reset\nid: 0\ndata: {{}}\n\n{}", event(2))),
        5 => stream(&format!("event: of-tomorrow\ndata: x\n\n{}", event(3))),
        _ => refusal(401, "", "PROXY_BEARER_INVALID"),
    });
    let (outcome, out, err, waited) = watch(&proxy.url, &[], Some(FEED_TOKEN));
    assert_eq!(
        (outcome, numbers(&out)),
        (Outcome::Failed, ["5", "6", "2", "3"].map(String::from).to_vec()),
        "{err}"
    );
    let asked = proxy.asked.lock().unwrap();
    let opened: Vec<(&str, &str)> = asked[1..]
        .iter()
        .map(|request| (request.path.as_str(), request.header("last-event-id").unwrap()))
        .collect();
    let (of_epoch, of_any) = ("/v1/events/revocations?epoch=a1", "/v1/events/revocations");
    assert_eq!(
        opened,
        [
            (of_epoch, "4"),
            (of_epoch, "6"),
            (of_epoch, "6"),
            (of_epoch, "6"),
            (of_any, "2"),
            (of_any, "3")
        ]
    );
    assert!(
        asked
            .iter()
            .all(|request| request.header("authorization") == Some(&format!("Bearer {FEED_TOKEN}")))
    );
    assert_eq!(waited, [1, 7, 4, 1, 1]);
    assert_eq!(err.matches("cannot read its ledger").count(), 1, "{err}");
    assert_eq!(err.matches("start over").count(), 1, "{err}");
    assert!(!err.contains(FEED_TOKEN) && err.contains("401"), "{err}");
}

#[test]
fn without_a_feed_token_the_list_is_read() {
    let ledger = || {
        proxy(|number, request| match (number, request.path.as_str()) {
            (_, "/admin/v1/revocations?limit=1") => {
                json(200, r#"{"latest":8,"next":1,"more":true,"items":[]}"#)
            }
            (_, "/admin/v1/revocations?since=8&limit=1000") => json(200, page(&[9], 9, false)),
            (4, _) => Reply::Nothing,
            (6.., _) => refusal(401, "", "PROXY_BEARER_INVALID"),
            (_, "/admin/v1/revocations?since=9&limit=1000") => json(200, page(&[], 9, false)),
            _ => refusal(400, "", "X"),
        })
    };
    let (outcome, out, err, waited) = watch(&ledger().url, &[], None);
    assert_eq!(
        (outcome, numbers(&out)),
        (Outcome::Failed, vec!["9".to_owned()]),
        "{err}"
    );
    assert_eq!(waited, [2, 2, 2, 30, 2]);
    let (_, out, _, _) = watch(&ledger().url, &["--since", "8", "--json"], None);
    assert_eq!(String::from_utf8(out).unwrap(), format!("{}\n", item(9)));
}

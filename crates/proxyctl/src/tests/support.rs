//! A run of the command against a server in this process. Every run checks that the token is in the one header of
//! each request and in nothing that is printed.

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use clap::Parser as _;

use super::super::{Args, Environment, Outcome, Terminal, run};
use clawdentity_guard::testing::{Reply, Request, serve};
use clawdentity_protocol::testing::agent;

pub(super) const TOKEN: &str = "an-operators-token-for-tests-000000";

pub(super) struct Proxy {
    pub(super) url: String,
    pub(super) asked: Arc<Mutex<Vec<Request>>>,
}

pub(super) struct Ran {
    pub(super) outcome: Outcome,
    pub(super) out: String,
    pub(super) err: String,
    pub(super) waited_s: Vec<u64>,
    /// Method, path and body of each request.
    pub(super) asked: Vec<String>,
}

/// A proxy that answers its n-th request, from 0, so.
pub(super) fn proxy(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Proxy {
    let asked: Arc<Mutex<Vec<Request>>> = Arc::default();
    let record = Arc::clone(&asked);
    let url = serve(move |request| {
        let number = {
            let mut record = record.lock().unwrap();
            record.push(request.clone());
            record.len() - 1
        };
        match number {
            ..100 => answer(number, &request),
            _ => Reply::Nothing, // a run that has no end is none that passes
        }
    });
    Proxy { url, asked }
}

impl Proxy {
    pub(super) fn ctl(&self, words: &str) -> Ran {
        self.ctl_reading(words, "")
    }

    pub(super) fn ctl_reading(&self, words: &str, input: &str) -> Ran {
        let mut out = Vec::new();
        let (outcome, err, waited_s) = execute(&self.url, words, &mut input.as_bytes(), &mut out);
        let asked: Vec<Request> = std::mem::take(&mut *self.asked.lock().unwrap());
        for request in &asked {
            let signed_in = request.header("authorization");
            assert_eq!(signed_in, Some(format!("Bearer {TOKEN}").as_str()));
            assert!(!request.path.contains(TOKEN) && !request.body.contains(TOKEN));
        }
        let asked = asked
            .iter()
            .map(|r| format!("{} {} {}", r.method, r.path, r.body).trim().to_owned());
        Ran {
            outcome,
            asked: asked.collect(),
            out: String::from_utf8(out).unwrap(),
            err,
            waited_s,
        }
    }
}

pub(super) fn execute(
    url: &str,
    words: &str,
    input: &mut dyn Read,
    out: &mut Vec<u8>,
) -> (Outcome, String, Vec<u64>) {
    let words = words.split('|').flat_map(|part| match part.strip_prefix('"') {
        Some(quoted) => vec![quoted],
        None => part.split_whitespace().collect(),
    });
    let args = Args::try_parse_from(["proxyctl"].into_iter().chain(words)).unwrap();
    let environment = Environment {
        url: Some(url.to_owned()),
        token: Some(TOKEN.to_owned()),
        feed_token: None,
    };
    let (mut err, waited_s) = (Vec::new(), RefCell::new(Vec::new()));
    let mut terminal = Terminal {
        out,
        err: &mut err,
        input,
        progress: false,
        wait: &|pause| waited_s.borrow_mut().push(pause.as_secs()),
    };
    let outcome = run(&args, &environment, &mut terminal);
    let err = String::from_utf8(err).unwrap();
    for text in [&err, &String::from_utf8_lossy(out).into_owned()] {
        assert!(!text.contains(TOKEN), "{text}");
    }
    (outcome, err, waited_s.into_inner())
}

pub(super) fn json(status: u16, body: impl Into<String>) -> Reply {
    Reply::Whole(status, "", body.into())
}

pub(super) fn refusal(status: u16, lines: &'static str, code: &str) -> Reply {
    let body = format!(r#"{{"error":{{"code":"{code}","message":"Told so.","requestId":"r-1"}}}}"#);
    Reply::Whole(status, lines, body)
}

pub(super) fn item(seq: u64) -> String {
    let did = agent(u128::from(seq));
    format!(
        r#"{{"seq":{seq},"kind":"agent","agentDid":"{did}","reason":"key stolen","revokedAt":1767323045678,"source":"operator"}}"#
    )
}

pub(super) fn page(seqs: &[u64], next: u64, more: bool) -> String {
    let items: Vec<String> = seqs.iter().map(|seq| item(*seq)).collect();
    format!(
        r#"{{"latest":9000,"next":{next},"more":{more},"items":[{}]}}"#,
        items.join(",")
    )
}

/// A file that is gone with the test.
pub(super) struct File(pub(super) PathBuf);

impl File {
    pub(super) fn of(content: impl AsRef<[u8]>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("proxyctl-test-{}-{number}", std::process::id()));
        fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

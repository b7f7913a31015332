//! The caps of this crate that a stranger meets, at their last and one past it.
//!
//! The figures stand here as they stand in docs/wire.md and docs/limits.md and are not taken from the code's constants, so
//! that a constant that changes, or a comparison that is off by one, fails this table. What the figures then do is tested
//! where each of them is used.

use clawdentity_protocol::revocation::{Item, Page, Source, Subject};
use clawdentity_protocol::testing::{agent, ulid};

use crate::address::{AddressLimit, ClientAddress};
use crate::admin::{LiftBody, number, page_query};
use crate::admission::PairId;
use crate::admission::rate::{RECEIPTS_LIMIT, RECEIPTS_WINDOW_MS, RateLog};
use crate::admission::{machine, tables, unconfirmed};
use crate::dead_letter::describe;
use crate::feed::hub::{Ended, Full, Hub, Next, event};
use crate::feed::{Listener, ListeningAgent, Place};
use crate::registry::{keys, lanes};
use crate::router::SMALL_BODY_BYTES;
use crate::sign_in::{SignInError, SignIns};

/// So many characters, each of two bytes: what counts characters does not count bytes.
fn wide(chars: usize) -> String {
    "é".repeat(chars)
}

#[test]
fn figures() {
    let figures: [(&str, u64, u64); 14] = [
        ("body of every route but a hook", SMALL_BODY_BYTES as u64, 16_384),
        ("receipt routes, of one agent", u64::from(RECEIPTS_LIMIT), 1_200),
        ("their window", RECEIPTS_WINDOW_MS, 60_000),
        ("groups", unconfirmed::MOST_GROUPS as u64, 10),
        ("other members", unconfirmed::MOST_MEMBERS as u64, 60),
        ("owners", unconfirmed::MOST_OWNERS as u64, 5),
        ("their window", unconfirmed::WINDOW_MS, 60_000),
        ("lane of strangers", lanes::MOST[2] as u64, 30),
        ("lane of known agents", lanes::MOST[1] as u64, 60),
        ("lane of what is confirmed", lanes::MOST[0] as u64, 600),
        ("their window", lanes::WINDOW_MS, 60_000),
        ("tokens seen", machine::MAX_SEEN_TOKENS as u64, 256),
        (
            "what is confirmed of an agent",
            tables::MAX_CONFIRMED as u64,
            1_000,
        ),
        ("a key's time ahead of ours", keys::MAX_AHEAD_MS, 60_000),
    ];
    for (name, is, expect) in figures {
        assert_eq!(is, expect, "{name}");
    }
}

#[test]
fn rates() {
    let mut receipts = RateLog::new(RECEIPTS_LIMIT, RECEIPTS_WINDOW_MS, Vec::new());
    let admitted = (0..2_000)
        .filter(|_| {
            let admitted = receipts.check(5).is_ok();
            if admitted {
                receipts.record(5);
            }
            admitted
        })
        .count();
    assert_eq!(admitted, 1_200);

    let mut addresses = AddressLimit::new(120, std::num::NonZeroUsize::MIN);
    let passed = (0..200)
        .filter(|_| addresses.check("/hooks/message", Some("192.0.2.1"), 5).is_ok())
        .count();
    assert_eq!(passed, 120);

    let mut sign_ins = SignIns::new();
    let wrong = (0..20)
        .filter(|_| {
            let tried = sign_ins.check(Some("Bearer wrong"), "right", Some("192.0.2.1"), 5);
            tried == Err(SignInError::Wrong)
        })
        .count();
    assert_eq!(wrong, 10);
}

#[test]
fn texts() {
    let other = |chars: usize, last: &str| ClientAddress::of(Some(&format!("{}{last}", wide(chars))));
    assert_ne!(other(63, "x"), other(63, "y"), "64 characters count");
    assert_eq!(other(64, "x"), other(64, "y"), "and no more");

    assert!(PairId::parse(&"a".repeat(64)).is_ok());
    assert!(PairId::parse(&"a".repeat(65)).is_err());

    let lift =
        |chars: usize| LiftBody::parse(format!(r#"{{"reason":"{}"}}"#, wide(chars)).as_bytes()).is_ok();
    assert!(lift(280) && !lift(281));

    let shown = |chars: usize| {
        let kind = wide(chars);
        describe(&format!(r#"{{"type":"{kind}"}}"#)).kind == Some(kind)
    };
    assert!(shown(200) && !shown(201));

    assert_eq!(number(&"9".repeat(15)), Some(999_999_999_999_999));
    assert_eq!(number(&"9".repeat(16)), None);
    let limit = |text: &str| page_query([("limit", text)].into_iter()).ok();
    assert_eq!(limit("1000"), Some((0, 1_000)));
    assert_eq!(limit("1"), Some((0, 1)));
    for bad in ["0", "1001"] {
        assert_eq!(limit(bad), None, "{bad}");
    }
}

fn listener(n: Option<u128>) -> Listener {
    Listener {
        place: Place::default(),
        caller: n.map(|n| ListeningAgent {
            agent: agent(n),
            jti: ulid(n),
            expires_at_ms: u64::MAX,
        }),
    }
}

#[test]
fn streams() {
    let mut hub = Hub::default();
    let of_agent = (0..5).filter(|_| hub.open(0, listener(Some(1))).is_ok()).count();
    assert_eq!((of_agent, hub.open(0, listener(Some(1)))), (2, Err(Full::Agent)));
    let all = (0..2_000).filter(|_| hub.open(0, listener(None)).is_ok()).count();
    assert_eq!((all + 2, hub.open(0, listener(None))), (1_000, Err(Full::All)));

    // An hour, to the millisecond.
    hub.tick(3_599_999);
    assert_eq!(hub.len(), 1_000);
    hub.tick(3_600_000);
    assert_eq!(hub.len(), 0);

    // A hundred looks that fail.
    let mut hub = Hub::default();
    let id = hub.open(0, listener(None)).unwrap();
    let failures = (1..200)
        .find(|_| hub.look_failed(0) == [(id, Ended::LedgerLost)])
        .unwrap();
    assert_eq!(failures, 100);
}

/// A listener may be owed 64 KiB for 5 s, and not a byte more.
#[test]
fn what_waits_for_a_listener() {
    let item = |seq: u64, reason: usize| Item {
        seq,
        subject: Subject::Agent { agent: agent(1) },
        reason: Some("x".repeat(reason)),
        revoked_at_ms: 5,
        source: Source::Queue,
    };
    let frame = event(&item(1, 0)).len();
    for (bytes, dropped) in [(64 * 1024, false), (64 * 1024 + 1, true)] {
        let mut hub = Hub::default();
        let id = hub.open(0, listener(None)).unwrap();
        let page = |latest, items| Page {
            epoch: "e".into(),
            latest,
            next: latest,
            items,
            ..Page::default()
        };
        hub.looked(0, page(0, Vec::new()), &[]);
        // It has taken its comment and asks for nothing more.
        assert!(matches!(hub.next(0, id), Next::Send(_)));
        hub.looked(0, page(1, vec![item(1, bytes - frame)]), &[]);
        hub.tick(4_999);
        assert_eq!(hub.len(), 1);
        assert_eq!(hub.tick(5_000).len(), usize::from(dropped), "{bytes}");
    }
}

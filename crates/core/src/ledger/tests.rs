//! The ledger's statements on SQLite, with the migrations that are deployed.

use std::fs;
use std::path::Path;

use expect_test::expect;
use proptest::prelude::*;
use rusqlite::{Connection, params};

use super::statements as sql;
use super::{Entry, named};
use crate::admission::TokenRevocation;
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::Source;
use clawdentity_protocol::testing::{agent, ulid};

const DAY: u64 = 24 * 3_600_000;
const LONGEST: u64 = 90 * DAY;
const START: u64 = 1_800_000_000_000;

/// The database of one proxy.
struct Ledger(Connection);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    seq: u64,
    kind: String,
    agent: Option<String>,
    jti: Option<String>,
    lifts: Option<u64>,
    reason: Option<String>,
    source: String,
    event: Option<String>,
    recorded_at_ms: u64,
    expires_at_ms: Option<u64>,
    lifted_by: Option<u64>,
}

/// An entry that owns what it names.
#[derive(Clone, Debug)]
struct Told {
    agent: Option<AgentDid>,
    revoke_agent: bool,
    session_ended: bool,
    tokens: Vec<Ulid>,
    expires_at_ms: Option<u64>,
    reason: Option<&'static str>,
    source: Source,
    event: Option<String>,
}

impl Told {
    fn of_agent(by: &AgentDid, source: Source, event: Option<&str>) -> Self {
        Self {
            agent: Some(by.clone()),
            revoke_agent: true,
            session_ended: false,
            tokens: Vec::new(),
            expires_at_ms: None,
            reason: Some("why"),
            source,
            event: event.map(str::to_owned),
        }
    }

    fn of_token(jti: Ulid, agent: Option<&AgentDid>, source: Source, event: Option<&str>) -> Self {
        Self {
            agent: agent.cloned(),
            revoke_agent: false,
            session_ended: false,
            tokens: vec![jti],
            expires_at_ms: None,
            reason: Some("why"),
            source,
            event: event.map(str::to_owned),
        }
    }
}

impl Ledger {
    fn new() -> Self {
        let db = Connection::open_in_memory().unwrap();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations");
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
            .collect();
        files.sort();
        for file in files {
            db.execute_batch(&fs::read_to_string(file).unwrap()).unwrap();
        }
        Self(db)
    }

    fn record(&self, now_ms: u64, told: &Told) {
        let tokens: Vec<TokenRevocation> = told
            .tokens
            .iter()
            .map(|jti| TokenRevocation {
                jti: *jti,
                expires_at_ms: told.expires_at_ms.unwrap_or(now_ms + LONGEST),
            })
            .collect();
        let entry = Entry {
            agent: told.agent.as_ref(),
            revoke_agent: told.revoke_agent,
            session_ended: told.session_ended,
            tokens: &tokens,
            told_expiry_ms: told.expires_at_ms,
            reason: told.reason,
            source: told.source,
            event_id: told.event.as_deref(),
            revoked_at_ms: now_ms,
        };
        let named = named(&[entry]).unwrap();
        self.0.execute_batch("BEGIN").unwrap();
        for statement in sql::RECORD {
            self.0.execute(statement, params![named, now_ms as i64]).unwrap();
        }
        self.0.execute_batch("COMMIT").unwrap();
    }

    fn first_sight(&self, now_ms: u64, jti: Ulid, agent: &AgentDid, expires_at_ms: u64) {
        let (jti, agent, expires) = (jti.to_string(), agent.as_str(), expires_at_ms as i64);
        self.0
            .execute(sql::REMEMBER_TOKEN, params![jti, agent, expires])
            .unwrap();
        self.0.execute(sql::CORRECT_OWNER, params![jti, agent]).unwrap();
        self.0
            .execute(sql::CORRECT_EXPIRY, params![jti, agent, expires, now_ms as i64])
            .unwrap();
    }

    fn lift(&self, now_ms: u64, seq: u64) {
        self.0
            .execute(sql::LIFT, params![seq as i64, "sorry", now_ms as i64])
            .unwrap();
        self.0.execute(sql::MARK_LIFTED, params![seq as i64]).unwrap();
    }

    fn rows(&self) -> Vec<Row> {
        let query = "SELECT seq, kind, agent_did, jti, lifts, reason, source, event_id, recorded_at_ms, expires_at_ms, \
                     lifted_by FROM revocations ORDER BY seq";
        let mut statement = self.0.prepare(query).unwrap();
        let number = |value: Option<i64>| value.map(|value| value as u64);
        let rows = statement.query_map([], |row| {
            Ok(Row {
                seq: row.get::<_, i64>(0)? as u64,
                kind: row.get(1)?,
                agent: row.get(2)?,
                jti: row.get(3)?,
                lifts: number(row.get(4)?),
                reason: row.get(5)?,
                source: row.get(6)?,
                event: row.get(7)?,
                recorded_at_ms: row.get::<_, i64>(8)? as u64,
                expires_at_ms: number(row.get(9)?),
                lifted_by: number(row.get(10)?),
            })
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    fn shown(&self) -> String {
        let rows = self.rows();
        rows.iter().map(|row| format!("    {}\n", row.shown())).collect()
    }

    fn standing(&self, kind: &str, subject: &str) -> Option<Row> {
        let mut rows: Vec<Row> = self
            .rows()
            .into_iter()
            .filter(|row| row.kind == kind && row.lifted_by.is_none() && row.subject() == subject)
            .collect();
        assert!(rows.len() <= 1, "two rows stand for one subject: {rows:?}");
        rows.pop()
    }

    /// What a proxy asks at a first sight, and when it settles an overlay.
    fn says(&self, agent: &AgentDid, jti: Ulid) -> (bool, bool, bool) {
        let mut statement = self.0.prepare(sql::ACTIVE).unwrap();
        let kinds: Vec<String> = statement
            .query_map(params![agent.as_str(), jti.to_string()], |row| row.get(0))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let has = |kind: &str| kinds.iter().any(|other| other == kind);
        let at_first_sight = (has("agent"), has("token"), has("lifted"));
        let mut statement = self.0.prepare(sql::STANDING).unwrap();
        let list = format!("[\"{jti}\"]");
        let rows: Vec<(Option<String>, bool)> = statement
            .query_map(params![agent.as_str(), list], |row| {
                Ok((row.get(0)?, row.get(2)?))
            })
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let stands = |of_token: bool, stands: bool| {
            rows.iter()
                .any(|(jti, row_stands)| jti.is_some() == of_token && *row_stands == stands)
        };
        assert_eq!(
            at_first_sight,
            (stands(false, true), stands(true, true), stands(true, false)),
            "two questions get two answers"
        );
        at_first_sight
    }
}

impl Row {
    fn subject(&self) -> &str {
        let jti = self.jti.as_deref().filter(|_| self.kind != "agent");
        jti.or(self.agent.as_deref()).unwrap_or_default()
    }

    fn shown(&self) -> String {
        let named = |did: &Option<String>| match did {
            Some(did) if *did == agent(1).to_string() => "a",
            Some(did) if *did == agent(2).to_string() => "b",
            Some(_) => "?",
            None => "-",
        };
        let days = self
            .expires_at_ms
            .map_or("-".to_owned(), |at| format!("{}d", (at - START) / DAY));
        let lifted = match (self.lifts, self.lifted_by) {
            (Some(seq), _) => format!(" lifts {seq}"),
            (_, Some(seq)) => format!(" lifted by {seq}"),
            _ => String::new(),
        };
        format!(
            "{} {} of {} {} {} {} until {days}{lifted}",
            self.seq,
            self.kind,
            named(&self.agent),
            self.source,
            self.event.as_deref().unwrap_or("-"),
            self.reason.as_deref().unwrap_or("-"),
        )
    }
}

/// What stands, and what comes: each as a step on the ledger.
type Step = (&'static str, fn(&Ledger));

fn token(source: Source, event: Option<&'static str>, named: Option<u128>, told: Option<u64>) -> Told {
    let named = named.map(agent);
    Told {
        expires_at_ms: told.map(|days| START + days * DAY),
        ..Told::of_token(ulid(9), named.as_ref(), source, event)
    }
}

const STANDING: [Step; 9] = [
    ("nothing", |_| {}),
    ("an operator's", |ledger| {
        ledger.record(START, &token(Source::Operator, None, Some(1), Some(10)))
    }),
    ("an event's, without an agent", |ledger| {
        ledger.record(START, &token(Source::Queue, Some("E1"), None, Some(10)))
    }),
    ("an event's", |ledger| {
        ledger.record(START, &token(Source::Queue, Some("E1"), Some(1), Some(10)))
    }),
    ("a reissue of the list's", |ledger| {
        let told = Told {
            reason: Some("reissued"),
            ..token(Source::Crl, None, Some(1), None)
        };
        ledger.record(START, &told);
    }),
    ("an event's, lifted", |ledger| {
        ledger.record(START, &token(Source::Queue, Some("E1"), Some(1), Some(10)));
        ledger.lift(START, 1);
    }),
    ("an event's that names another agent than the owner", |ledger| {
        ledger.first_sight(START, ulid(9), &agent(2), START + 20 * DAY);
        ledger.record(START, &token(Source::Queue, Some("E1"), Some(1), Some(10)));
    }),
    ("an event's, then shown by another agent", |ledger| {
        ledger.record(START, &token(Source::Queue, Some("E1"), Some(1), Some(10)));
        ledger.first_sight(START, ulid(9), &agent(2), START + 20 * DAY);
    }),
    ("one kept for the longest life", |ledger| {
        ledger.record(START, &token(Source::Queue, Some("E1"), Some(1), None))
    }),
];

const COMING: [Step; 6] = [
    ("the same event", |ledger| {
        ledger.record(START + DAY, &token(Source::Queue, Some("E1"), Some(1), Some(10)))
    }),
    ("another event, later expiry", |ledger| {
        ledger.record(START + DAY, &token(Source::Queue, Some("E2"), Some(1), Some(30)))
    }),
    ("another event, earlier expiry", |ledger| {
        ledger.record(START + DAY, &token(Source::Queue, Some("E2"), None, Some(5)))
    }),
    ("an operator", |ledger| {
        ledger.record(START + DAY, &token(Source::Operator, None, Some(1), None))
    }),
    ("the list", |ledger| {
        ledger.record(START + DAY, &token(Source::Crl, None, Some(1), None))
    }),
    ("its lift", |ledger| {
        let seq = ledger.rows().iter().map(|row| row.seq).max().unwrap_or(0);
        ledger.lift(START + DAY, seq);
    }),
];

#[test]
fn what_each_entry_makes_of_each_row_of_a_token() {
    let mut table = String::new();
    for (stands, before) in STANDING {
        for (comes, step) in COMING {
            let ledger = Ledger::new();
            before(&ledger);
            step(&ledger);
            table += &format!("{stands} + {comes}:\n{}", ledger.shown());
        }
    }
    expect![[r#"
        nothing + the same event:
            1 token of a queue E1 why until 91d
        nothing + another event, later expiry:
            1 token of a queue E2 why until 91d
        nothing + another event, earlier expiry:
            1 token of - queue E2 why until 91d
        nothing + an operator:
            1 token of a operator - why until 91d
        nothing + the list:
            1 token of a crl - why until 91d
        nothing + its lift:
        an operator's + the same event:
            1 token of a queue E1 why until 90d
        an operator's + another event, later expiry:
            1 token of a queue E2 why until 90d
        an operator's + another event, earlier expiry:
            1 token of a queue E2 why until 90d
        an operator's + an operator:
            1 token of a operator - why until 90d
        an operator's + the list:
            1 token of a crl - why until 90d
        an operator's + its lift:
            1 token of a operator - why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
        an event's, without an agent + the same event:
            1 token of - queue E1 why until 90d
        an event's, without an agent + another event, later expiry:
            1 token of a queue E1 why until 90d
        an event's, without an agent + another event, earlier expiry:
            1 token of - queue E1 why until 90d
        an event's, without an agent + an operator:
            1 token of a queue E1 why until 90d
        an event's, without an agent + the list:
            1 token of a queue E1 why until 90d
        an event's, without an agent + its lift:
            1 token of - queue E1 why until 90d lifted by 2
            2 lift of - operator - sorry until 90d lifts 1
        an event's + the same event:
            1 token of a queue E1 why until 90d
        an event's + another event, later expiry:
            1 token of a queue E1 why until 90d
        an event's + another event, earlier expiry:
            1 token of a queue E1 why until 90d
        an event's + an operator:
            1 token of a queue E1 why until 90d
        an event's + the list:
            1 token of a queue E1 why until 90d
        an event's + its lift:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
        a reissue of the list's + the same event:
            1 token of a crl - why until 90d
        a reissue of the list's + another event, later expiry:
            1 token of a crl - why until 90d
        a reissue of the list's + another event, earlier expiry:
            1 token of a crl - why until 90d
        a reissue of the list's + an operator:
            1 token of a crl - why until 90d
        a reissue of the list's + the list:
            1 token of a crl - why until 90d
        a reissue of the list's + its lift:
            1 token of a crl - reissued until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
        an event's, lifted + the same event:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
        an event's, lifted + another event, later expiry:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
            3 token of a queue E2 why until 91d
        an event's, lifted + another event, earlier expiry:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
            3 token of - queue E2 why until 91d
        an event's, lifted + an operator:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
            3 token of a operator - why until 91d
        an event's, lifted + the list:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
            3 token of a crl - why until 91d
        an event's, lifted + its lift:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
        an event's that names another agent than the owner + the same event:
            1 token of b queue E1 why until 20d
        an event's that names another agent than the owner + another event, later expiry:
            2 token of b queue E1 why until 30d
        an event's that names another agent than the owner + another event, earlier expiry:
            1 token of b queue E1 why until 20d
        an event's that names another agent than the owner + an operator:
            1 token of b queue E1 why until 20d
        an event's that names another agent than the owner + the list:
            1 token of b queue E1 why until 20d
        an event's that names another agent than the owner + its lift:
            1 token of b queue E1 why until 20d lifted by 2
            2 lift of b operator - sorry until 20d lifts 1
        an event's, then shown by another agent + the same event:
            1 token of b queue E1 why until 90d
        an event's, then shown by another agent + another event, later expiry:
            1 token of b queue E1 why until 90d
        an event's, then shown by another agent + another event, earlier expiry:
            1 token of b queue E1 why until 90d
        an event's, then shown by another agent + an operator:
            1 token of b queue E1 why until 90d
        an event's, then shown by another agent + the list:
            1 token of b queue E1 why until 90d
        an event's, then shown by another agent + its lift:
            1 token of b queue E1 why until 90d lifted by 2
            2 lift of b operator - sorry until 90d lifts 1
        one kept for the longest life + the same event:
            1 token of a queue E1 why until 90d
        one kept for the longest life + another event, later expiry:
            1 token of a queue E1 why until 90d
        one kept for the longest life + another event, earlier expiry:
            1 token of a queue E1 why until 90d
        one kept for the longest life + an operator:
            1 token of a queue E1 why until 90d
        one kept for the longest life + the list:
            1 token of a queue E1 why until 90d
        one kept for the longest life + its lift:
            1 token of a queue E1 why until 90d lifted by 2
            2 lift of a operator - sorry until 90d lifts 1
    "#]]
    .assert_eq(&table);
}

#[test]
fn what_each_entry_makes_of_each_row_of_an_agent() {
    let told = |source, event| Told::of_agent(&agent(1), source, event);
    let mut table = String::new();
    let standing = [
        None,
        Some((Source::Operator, None)),
        Some((Source::Queue, Some("E1"))),
    ];
    let coming = [
        (Source::Queue, Some("E1")),
        (Source::Queue, Some("E2")),
        (Source::Operator, None),
    ];
    for (before, lifted) in standing
        .into_iter()
        .flat_map(|before| [(before, false), (before, true)])
    {
        for (source, event) in coming {
            let ledger = Ledger::new();
            if let Some((source, event)) = before {
                ledger.record(START, &told(source, event));
            }
            if lifted {
                ledger.lift(START, 1);
            }
            ledger.record(START + DAY, &told(source, event));
            let lifted = if lifted { " lifted" } else { "" };
            table += &format!("{before:?}{lifted} + {source:?} {event:?}:\n{}", ledger.shown());
        }
    }
    expect![[r#"
        None + Queue Some("E1"):
            1 agent of a queue E1 why until -
        None + Queue Some("E2"):
            1 agent of a queue E2 why until -
        None + Operator None:
            1 agent of a operator - why until -
        None lifted + Queue Some("E1"):
            1 agent of a queue E1 why until -
        None lifted + Queue Some("E2"):
            1 agent of a queue E2 why until -
        None lifted + Operator None:
            1 agent of a operator - why until -
        Some((Operator, None)) + Queue Some("E1"):
            1 agent of a queue E1 why until -
        Some((Operator, None)) + Queue Some("E2"):
            1 agent of a queue E2 why until -
        Some((Operator, None)) + Operator None:
            1 agent of a operator - why until -
        Some((Operator, None)) lifted + Queue Some("E1"):
            1 agent of a operator - why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
            3 agent of a queue E1 why until -
        Some((Operator, None)) lifted + Queue Some("E2"):
            1 agent of a operator - why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
            3 agent of a queue E2 why until -
        Some((Operator, None)) lifted + Operator None:
            1 agent of a operator - why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
            3 agent of a operator - why until -
        Some((Queue, Some("E1"))) + Queue Some("E1"):
            1 agent of a queue E1 why until -
        Some((Queue, Some("E1"))) + Queue Some("E2"):
            1 agent of a queue E1 why until -
        Some((Queue, Some("E1"))) + Operator None:
            1 agent of a queue E1 why until -
        Some((Queue, Some("E1"))) lifted + Queue Some("E1"):
            1 agent of a queue E1 why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
        Some((Queue, Some("E1"))) lifted + Queue Some("E2"):
            1 agent of a queue E1 why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
            3 agent of a queue E2 why until -
        Some((Queue, Some("E1"))) lifted + Operator None:
            1 agent of a queue E1 why until - lifted by 2
            2 lift of a operator - sorry until - lifts 1
            3 agent of a operator - why until -
    "#]]
    .assert_eq(&table);
}

/// What may happen to a ledger, in any order.
#[derive(Clone, Debug)]
enum Happens {
    /// Something is told; an event is one of a few, so that most come again.
    Told(Told),
    /// A token is shown for the first time, or once more by an object that has lost its storage.
    Shown(u8),
    /// A row of those that stand is lifted.
    Lifted(u8),
    Passes(u64),
}

fn owner_of(token: u8) -> AgentDid {
    agent(u128::from(token % 2 + 1))
}

fn life_of(token: u8) -> u64 {
    START + u64::from(token) * 45 * DAY
}

fn happens() -> impl Strategy<Value = Happens> {
    let source = prop_oneof![Just(Source::Queue), Just(Source::Operator), Just(Source::Crl)];
    let told = (
        source,
        0..4_u8,
        0..6_u8,
        0..3_u8,
        proptest::option::of(0..120_u64),
    )
        .prop_map(|(source, subject, event, by, days)| {
            let event = (source == Source::Queue && event > 0).then(|| format!("E{event}"));
            let named = match by {
                0 => None,
                by => Some(agent(u128::from(by))),
            };
            match (subject, &named, source) {
                (0, Some(did), Source::Queue | Source::Operator) => {
                    Happens::Told(Told::of_agent(did, source, event.as_deref()))
                }
                _ => Happens::Told(Told {
                    expires_at_ms: days.map(|days| START + days * DAY),
                    ..Told::of_token(
                        ulid(u128::from(subject)),
                        named.as_ref(),
                        source,
                        event.as_deref(),
                    )
                }),
            }
        });
    prop_oneof![
        6 => told,
        2 => (0..4_u8).prop_map(Happens::Shown),
        2 => (0..8_u8).prop_map(Happens::Lifted),
        2 => (0..40 * DAY).prop_map(Happens::Passes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_ledger_keeps_its_promises(all in proptest::collection::vec(happens(), 1..40)) {
        let ledger = Ledger::new();
        let mut now_ms = START;
        let mut applied = std::collections::BTreeSet::new();
        let mut shown = std::collections::BTreeSet::new();
        for one in all {
            let before = ledger.rows();
            let top = before.iter().map(|row| row.seq).max().unwrap_or(0);
            match one {
                Happens::Passes(ms) => now_ms += ms,
                Happens::Shown(token) => {
                    ledger.first_sight(now_ms, ulid(u128::from(token)), &owner_of(token), life_of(token));
                    shown.insert(token);
                }
                Happens::Lifted(nth) => {
                    let standing: Vec<&Row> = before.iter().filter(|row| row.lifted_by.is_none() && row.kind != "lift").collect();
                    if let Some(row) = standing.get(usize::from(nth)) {
                        for _ in 0..2 {
                            ledger.lift(now_ms, row.seq);
                        }
                        prop_assert!(ledger.standing(&row.kind, row.subject()).is_none(), "a lifted row stands");
                    }
                }
                Happens::Told(told) => {
                    ledger.record(now_ms, &told);
                    let kind = if told.revoke_agent { "agent" } else { "token" };
                    let subject = match told.tokens.first() {
                        Some(jti) => jti.to_string(),
                        None => told.agent.as_ref().unwrap().to_string(),
                    };
                    let is_new = told.event.clone().is_none_or(|event| applied.insert((event, kind, subject.clone())));
                    let stands = ledger.standing(kind, &subject);
                    if is_new {
                        let row = stands.unwrap();
                        prop_assert!(told.source == Source::Operator || row.source != "operator", "the registry's is the registry's");
                        if let (Some(told), Some(until)) = (told.expires_at_ms, row.expires_at_ms) {
                            prop_assert!(until >= told || until + 60_000 >= row.recorded_at_ms + LONGEST, "kept for less than was told");
                        }
                    } else {
                        prop_assert_eq!(&ledger.rows(), &before, "a duplicate changes something");
                    }
                    ledger.record(now_ms, &Told { event: told.event.clone(), ..told.clone() });
                    let again = ledger.rows();
                    prop_assert_eq!(ledger.standing(kind, &subject).is_some(), is_new || before.iter().any(|row| row.lifted_by.is_none() && row.kind == kind && row.subject() == subject));
                    if told.event.is_some() {
                        ledger.record(now_ms, &told);
                        prop_assert_eq!(&ledger.rows(), &again);
                    }
                }
            }
            for row in ledger.rows() {
                let was = before.iter().find(|old| {
                    old.kind == row.kind && old.subject() == row.subject() && old.lifts == row.lifts && old.lifted_by.is_none()
                });
                // What a reader of the feed must read again has a number that it has not read.
                if row.lifted_by.is_none() && row.kind == "token" {
                    match was {
                        Some(old) if old.expires_at_ms != row.expires_at_ms => {
                            prop_assert!(row.expires_at_ms > old.expires_at_ms, "an expiry went back");
                            prop_assert!(row.seq > top, "a later expiry under an old number");
                        }
                        Some(old) => prop_assert_eq!(old.seq, row.seq),
                        None => prop_assert!(row.seq > top),
                    }
                    let owner = shown.iter().find(|token| ulid(u128::from(**token)).to_string() == row.subject());
                    if let Some(token) = owner {
                        prop_assert_eq!(row.agent.clone(), Some(owner_of(*token).to_string()), "the row is not the owner's");
                        prop_assert!(row.expires_at_ms >= Some(life_of(*token).min(row.recorded_at_ms + LONGEST - 60_000)), "kept for less than the token lives");
                    }
                }
            }
            for token in 0..4 {
                let (agent_revoked, token_revoked, _) = ledger.says(&owner_of(token), ulid(u128::from(token)));
                prop_assert_eq!(agent_revoked, ledger.standing("agent", owner_of(token).as_str()).is_some());
                prop_assert_eq!(token_revoked, ledger.standing("token", &ulid(u128::from(token)).to_string()).is_some());
            }
        }
    }
}

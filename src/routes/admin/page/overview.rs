//! The first screen: what is wrong and what to do, then how everything stands, then what can be done.
//!
//! Every figure is read when the page is asked for. Where D1 does not answer, the page says so and shows what there is
//! without it, because that is when an operator looks at it. What only memory holds is this isolate's, and is said to be.

use futures_util::future::{join, join_all};

use super::actions::DONE;
use super::{age, agent_link, page, paragraph, query, revoke_form};
use crate::app::{App, binding};
use crate::canary;
use crate::consumers::dead_letters::{self as letters, DeadLetter};
use crate::core::canary::{OfWay, Percentiles, Run, Way};
use crate::core::operator_page::Session;
use crate::core::operator_page::html::{self, escape, form, table};
use crate::core::operator_page::plot;
use crate::core::operator_page::problems::{Facts, Measured, problems};
use crate::error::ApiError;
use crate::http::{Incoming, Response};
use crate::protocol::did::AgentDid;
use crate::protocol::revocation::{Item, Subject};
use crate::protocol::time::iso_ms;
use crate::registry;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply, SessionStatus};
use crate::routes::{health, recent};
use crate::trust::DbError;
use crate::trust::ledger::{feed, reconciliation};

const SHOWN_ROWS: u64 = 20;
/// Sessions that are asked for their queue.
const ASKED_QUEUES: usize = 10;
const HOUR_MS: u64 = 60 * 60 * 1000;
/// docs/design.md §1.
const PROMISED_MS: u64 = 1000;

/// What D1 holds.
struct Record {
    latest: u64,
    rows: Vec<(Item, u64)>,
    reconciled: reconciliation::State,
    last_event_at_ms: Option<u64>,
    lags_ms: Vec<u64>,
    letters: letters::Count,
    kept: Vec<DeadLetter>,
    runs: Vec<Run>,
    keys_kept_at_ms: Option<u64>,
}

async fn read(app: &App) -> Result<Record, DbError> {
    Ok(Record {
        latest: feed::head(app).await?.latest,
        rows: feed::latest_rows(app, SHOWN_ROWS).await?,
        reconciled: reconciliation::load(app).await?,
        last_event_at_ms: feed::last_event_at_ms(app).await?,
        lags_ms: feed::lags_of_the_last_hour(app).await?,
        letters: letters::count(app).await?,
        kept: letters::page(app, 0, SHOWN_ROWS).await?,
        runs: canary::runs(app, crate::core::canary::KEPT_MS).await?,
        keys_kept_at_ms: registry::keys::kept(app).await.map(|(_, at_ms)| at_ms),
    })
}

pub async fn show(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let now_ms = app.now_ms();
    let (unready, record) = join(health::problems(app), read(app)).await;
    if let Err(error) = &record {
        // The page shows it; the line is for those who do not look.
        super::super::unavailable(app, error);
    }
    let record = record.ok();
    let measured = record
        .as_ref()
        .map(|record| Way::ALL.map(|way| OfWay::of(&record.runs, way, now_ms)));
    let feed_is_bound = app.env.durable_object(binding::REVOCATION_FEED).is_ok();
    let isolate = registry::view(app);
    let facts = Facts {
        unready: unready
            .iter()
            .map(|(problem, since_ms)| (*problem, *since_ms))
            .collect(),
        crl: isolate.crl,
        open_circuits: isolate.circuits.iter().map(named).collect(),
        // Unknown is not late: that D1 does not answer is said already.
        reconciled_at_ms: match &record {
            Some(record) => record.reconciled.finished_at_ms,
            None => Some(now_ms),
        },
        dead_letters: record.as_ref().map_or(0, |record| record.letters.total),
        dead_revocations: record.as_ref().map_or(0, |record| record.letters.revocations),
        lags_ms: record
            .as_ref()
            .map(|record| record.lags_ms.clone())
            .unwrap_or_default(),
        measured: measured
            .iter()
            .flatten()
            .zip(Way::ALL)
            .filter_map(|(of, way)| last_measured((way, of)))
            .collect(),
        missing: (!feed_is_bound)
            .then_some(binding::REVOCATION_FEED)
            .into_iter()
            .collect(),
        record_is_unread: record.is_none(),
        now_ms,
    };
    let csrf = &session.csrf;
    let mut main = said(incoming) + &verdict(&facts);
    main += "<h2>State</h2>";
    main += &state(app, &facts, record.as_ref(), &isolate);
    main += &form("/admin/reconcile", csrf, "", "Reconcile now");
    main += &form("/admin/keys", csrf, "", "Refresh the signing keys");
    main += "<h2>The last hour</h2>";
    main += &last_hour(app, &facts, record.as_ref());
    main += "<h2>The kill switch, measured by itself</h2>";
    main += &match &measured {
        Some(measured) => measurements(measured),
        None => unread(),
    };
    main += "<h2>Mail that waits</h2>";
    main += &queues(app).await;
    main += "<h2>Clocks that are off</h2>";
    main += &clocks(app);
    main += "<h2>Dead letters</h2>";
    main += &record.as_ref().map_or_else(unread, |record| {
        let rows: Vec<Vec<String>> = record.kept.iter().map(letter_row).collect();
        let heads = ["Number", "Since", "Type", "Whom", "Reason"];
        table(
            "Messages that could not be applied",
            &heads,
            &rows,
            "There are none.",
        )
    });
    main += "<h2>Revoke</h2>";
    main += &revoke_form(csrf, "");
    main += "<h2>Look at an agent</h2>";
    main += &format!(
        r#"<form class="full" method="get" action="/admin/agents">{}<button>Show</button></form>"#,
        html::field("shown-agent", "agentDid", "Agent's DID", "required")
    );
    main += "<h2>Latest revocations</h2>";
    main += &record.as_ref().map_or_else(unread, |record| {
        let rows: Vec<Vec<String>> = record.rows.iter().map(ledger_row).collect();
        let heads = [
            "Number", "Kind", "Whom", "When", "Source", "Lag", "Reason", "Action",
        ];
        let caption = "The latest rows of the ledger; lag is the time from what a row tells of to the row";
        table(caption, &heads, &rows, "Nothing was ever revoked here.")
    });
    Ok(page(app, 200, "Overview", session, &main))
}

fn unread() -> String {
    paragraph("D1 does not answer.")
}

fn named(circuit: &registry::CircuitView) -> String {
    let lane = circuit.lane.map(|lane| format!(" ({lane})")).unwrap_or_default();
    format!("{}{lane} is {}", circuit.dependency, circuit.phase)
}

fn state(app: &App, facts: &Facts, record: Option<&Record>, isolate: &registry::View) -> String {
    let of_record =
        |of: &dyn Fn(&Record) -> String| record.map_or_else(|| "unknown: D1 does not answer".to_owned(), of);
    let ago = |at_ms: Option<u64>| {
        at_ms.map_or_else(
            || "never".to_owned(),
            |at_ms| format!("{} ago", age(facts.now_ms.saturating_sub(at_ms))),
        )
    };
    let circuits = match facts.open_circuits.as_slice() {
        [] => "all closed".to_owned(),
        open => open.join(", "),
    };
    let held = |what: String, age_ms: Option<u64>| match age_ms {
        Some(age_ms) => format!("{what}, {} old", age(age_ms)),
        None => "not asked for yet".to_owned(),
    };
    html::facts(&[
        ("Version", app.config.version.clone()),
        ("Time", iso_ms(facts.now_ms)),
        (
            "Ready",
            if facts.unready.is_empty() { "yes" } else { "no" }.to_owned(),
        ),
        (
            "Last whole reconciliation",
            of_record(&|record| ago(record.reconciled.finished_at_ms)),
        ),
        (
            "Entries of that list",
            of_record(&|record| record.reconciled.listed.to_string()),
        ),
        (
            "Last event of the registry",
            of_record(&|record| ago(record.last_event_at_ms)),
        ),
        (
            "Signing keys in D1, asked for",
            of_record(&|record| ago(record.keys_kept_at_ms)),
        ),
        (
            "Ledger's latest number",
            of_record(&|record| record.latest.to_string()),
        ),
        (
            "Dead letters",
            of_record(&|record| record.letters.total.to_string()),
        ),
        (
            "Registry's list, in this isolate",
            held(isolate.crl.to_owned(), isolate.crl_age_ms),
        ),
        (
            "Signing keys, in this isolate",
            held(format!("{} active", isolate.keys), isolate.keys_age_ms),
        ),
        ("Circuits, in this isolate", circuits),
    ]) + &paragraph(
        "Each isolate has circuits, caches and a memory of its own. What is said to be of this isolate may be otherwise in \
         another; the log and the metrics have them all.",
    )
}

fn last_hour(app: &App, facts: &Facts, record: Option<&Record>) -> String {
    let (minutes, since_ms) =
        recent::with(app, |recent, now_ms| (recent.outcomes(now_ms), recent.since_ms()));
    let since = age(facts.now_ms.saturating_sub(since_ms).min(HOUR_MS));
    let mut html = plot::outcomes(&format!("Requests to this isolate, last {since}"), &minutes);
    let Some(record) = record else { return html };
    html += &plot::times("Kill switch, event to record", &facts.lags_ms, PROMISED_MS);
    let took = |run: &Run| run.times.overlay_ms.max(run.times.socket_ms);
    let within = |run: &&Run| facts.now_ms.saturating_sub(run.started_ms) <= HOUR_MS;
    let took_ms: Vec<u64> = record.runs.iter().filter(within).filter_map(took).collect();
    html + &plot::times("Kill switch, as it measured itself", &took_ms, PROMISED_MS)
}

fn measurements(measured: &[OfWay; 2]) -> String {
    let rows: Vec<Vec<String>> = Way::ALL
        .into_iter()
        .zip(measured)
        .filter_map(canary_row)
        .collect();
    let heads = [
        "Way in",
        "Last",
        "Took",
        "Overlay",
        "Socket",
        "Feed",
        "Runs, and silent",
    ];
    table(
        "The last day: half of the runs, and 99 of 100, took no longer",
        &heads,
        &rows,
        "It was not measured in the last day.",
    )
}

fn last_measured((way, of): (Way, &OfWay)) -> Option<Measured> {
    of.last_at_ms.map(|_| Measured {
        way: way.as_str(),
        took_ms: of.last_ms.filter(|_| !of.last_was_silent),
    })
}

fn canary_row((way, of): (Way, &OfWay)) -> Option<Vec<String>> {
    let both = |times: Option<Percentiles>| {
        times.map_or_else(
            || "not seen".to_owned(),
            |times| format!("{} ms, {} ms", times.p50_ms, times.p99_ms),
        )
    };
    let last = last_measured((way, of))?;
    Some(vec![
        match way {
            Way::Event => "an event on the queue",
            Way::Operator => "an operator's order",
        }
        .to_owned(),
        iso_ms(of.last_at_ms?),
        last.took_ms
            .map_or_else(|| "not seen".to_owned(), |took_ms| format!("{took_ms} ms")),
        both(of.overlay),
        both(of.socket),
        both(of.feed),
        format!("{}, {}", of.runs, of.silent),
    ])
}

/// The queues of agents for whom a message had to wait lately, as their sessions say now.
async fn queues(app: &App) -> String {
    let agents = recent::with(app, |recent, now_ms| recent.queues(now_ms));
    let asked = agents.into_iter().take(ASKED_QUEUES).map(async |agent| {
        let status = match relay::client::call(app, &agent, RelayCall::Inspect).await {
            Ok(RelayReply::Status(status)) => Some(status),
            _ => None,
        };
        (agent, status)
    });
    let asked = join_all(asked).await;
    let waits = |(_, status): &&(AgentDid, Option<SessionStatus>)| {
        status.as_ref().is_none_or(|status| status.queue_depth > 0)
    };
    let rows: Vec<Vec<String>> = asked.iter().filter(waits).map(queue_row).collect();
    let heads = ["Agent", "Messages", "Oldest", "Sockets"];
    table(
        "Of the agents for whom a hook of this isolate had to wait in the last hour, as they are now",
        &heads,
        &rows,
        "No message that this isolate took in the last hour is waiting. Look at an agent to see its queue.",
    )
}

fn queue_row((agent, status): &(AgentDid, Option<SessionStatus>)) -> Vec<String> {
    match status {
        Some(status) => vec![
            agent_link(agent),
            status.queue_depth.to_string(),
            status.oldest_age_ms.map_or_else(|| "none".to_owned(), age),
            status.connected_sockets.to_string(),
        ],
        None => vec![
            agent_link(agent),
            "no answer".to_owned(),
            String::new(),
            String::new(),
        ],
    }
}

fn clocks(app: &App) -> String {
    let rows = recent::with(app, |recent, now_ms| {
        let row = |(agent, skew_s, at_ms): (AgentDid, i64, u64)| {
            let way = if skew_s > 0 { "behind" } else { "ahead" };
            vec![
                agent_link(&agent),
                format!("{} s {way}", skew_s.unsigned_abs()),
                iso_ms(at_ms),
            ]
        };
        recent.clocks(now_ms).into_iter().map(row).collect::<Vec<_>>()
    });
    table(
        "Agents whose clock was near the limit of 300 s in the last hour, in this isolate",
        &["Agent", "Its clock is", "When"],
        &rows,
        "No agent's clock was near the limit in this isolate in the last hour.",
    )
}

fn verdict(facts: &Facts) -> String {
    let found = problems(facts);
    if found.is_empty() {
        return r#"<p class="well">All is well.</p>"#.to_owned();
    }
    let each = found.iter().map(|problem| {
        format!(
            r#"<div class="problem"><p><strong>{}</strong></p><p>{}</p></div>"#,
            escape(&problem.what),
            escape(problem.to_do)
        )
    });
    each.collect()
}

/// What was just done, by a word of ours in the query.
fn said(incoming: &Incoming) -> String {
    let word = query(incoming, "done");
    let text = DONE.iter().find(|(each, _)| word.as_deref() == Some(each));
    text.map_or_else(String::new, |(_, text)| {
        format!(r#"<p role="status" class="well">{}</p>"#, escape(text))
    })
}

fn ledger_row((item, lag_ms): &(Item, u64)) -> Vec<String> {
    let whom = match (item.subject.agent(), item.subject.jti()) {
        (Some(agent), Some(jti)) => agent_link(agent) + "<br>" + &escape(&jti.to_string()),
        (Some(agent), None) => agent_link(agent),
        (None, Some(jti)) => escape(&jti.to_string()),
        (None, None) => String::new(),
    };
    let action = match item.subject {
        Subject::Lift { lifts, .. } => format!("lifts {lifts}"),
        Subject::Session { .. } => String::new(),
        _ => format!(r#"<a href="/admin/lift?seq={0}">Lift {0}</a>"#, item.seq),
    };
    vec![
        item.seq.to_string(),
        escape(item.subject.kind()),
        whom,
        iso_ms(item.revoked_at_ms),
        escape(item.source.as_str()),
        match lag_ms {
            ..10_000 => format!("{lag_ms} ms"),
            _ => age(*lag_ms),
        },
        escape(item.reason.as_deref().unwrap_or("")),
        action,
    ]
}

fn letter_row(letter: &DeadLetter) -> Vec<String> {
    vec![
        format!(r#"<a href="/admin/dead-letters?id={0}">{0}</a>"#, letter.id),
        escape(&letter.dead_lettered_at),
        escape(letter.kind.as_deref().unwrap_or("unknown")),
        escape(letter.subject.as_deref().unwrap_or("")),
        escape(&letter.reason),
    ]
}

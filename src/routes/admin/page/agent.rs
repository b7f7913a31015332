//! An agent's page: its standing, its pairs, its queue and sockets, its clock, and what was decided about it lately.

use futures_util::future::join4;

use super::{age, agent_link, page, paragraph, revoke_form};
use crate::app::App;
use crate::core::admin::agent_query;
use crate::core::operator_page::Session;
use crate::core::operator_page::html::{self, escape, table};
use crate::error::ApiError;
use crate::http::{self, Incoming, Response};
use crate::protocol::time::iso_ms;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply};
use crate::routes::admin::{bad_input, unavailable};
use crate::routes::recent;
use crate::trust;
use crate::trust::ledger::feed;
use crate::trust::pairs;

const SHOWN_PAIRS: u64 = 100;
const SHOWN_DECISIONS: usize = 20;

pub async fn show(app: &App, session: &Session, incoming: &Incoming) -> Result<Response, ApiError> {
    let issuer = &app.config.registry.expected_issuer;
    let authority = issuer.authority().map_err(|_| http::internal())?;
    let agent = agent_query(incoming.target.query_pairs(), authority.as_str()).map_err(bad_input)?;
    let agent = agent.ok_or_else(|| bad_input("agentDid is missing"))?;
    let (standing, relay, row, peers) = join4(
        trust::client::check(app, &agent, None),
        relay::client::call(app, &agent, RelayCall::Inspect),
        feed::of_agent(app, &agent),
        pairs::of_agent(app, &agent, SHOWN_PAIRS),
    )
    .await;
    let standing = standing.map_err(|error| unavailable(app, &error))?;
    let relay = match relay.map_err(|error| unavailable(app, &error))? {
        RelayReply::Status(status) => status,
        _ => return Err(http::internal()),
    };
    let revoked = if standing.revoked.is_some() {
        "revoked"
    } else {
        "not revoked"
    };
    let clock = standing.worst_skew.map_or_else(
        || "on time".to_owned(),
        |worst| format!("{} s off at {}", worst.skew_s, iso_ms(worst.at_ms)),
    );
    let mut main = html::facts(&[
        ("Standing", revoked.to_owned()),
        ("Open sockets", relay.connected_sockets.to_string()),
        ("Messages waiting", relay.queue_depth.to_string()),
        ("Of those, in flight", relay.in_flight.to_string()),
        (
            "Oldest message",
            relay.oldest_age_ms.map_or_else(|| "none".to_owned(), age),
        ),
        ("Clock, last hour", clock),
    ]);
    main += &match row {
        Ok(Some(item)) => format!(
            r#"<p>Revoked by number {0}: {1}. <a href="/admin/lift?seq={0}">Lift {0}</a></p>"#,
            item.seq,
            escape(item.reason.as_deref().unwrap_or("no reason given"))
        ),
        Ok(None) => revoke_form(&session.csrf, agent.as_str()),
        // The order goes to the agent's object first, and needs no ledger for that.
        Err(_) => {
            paragraph("D1 does not answer, so nobody knows by which number.")
                + &revoke_form(&session.csrf, agent.as_str())
        }
    };
    main += "<h2>Pairs</h2>";
    main += &match peers {
        Ok(peers) => {
            let rows: Vec<Vec<String>> = peers.iter().map(|peer| vec![agent_link(peer)]).collect();
            let caption = format!("Agents that it is paired with, {SHOWN_PAIRS} at most");
            table(
                &caption,
                &["Agent"],
                &rows,
                "It has no pair here, so it is not a known agent.",
            )
        }
        Err(_) => paragraph("D1 does not answer."),
    };
    main += "<h2>Last decisions</h2>";
    let rows: Vec<Vec<String>> = recent::with(app, |recent, _| {
        let about = recent.decisions_about(&agent).take(SHOWN_DECISIONS);
        about
            .map(|decision| {
                vec![
                    iso_ms(decision.at_ms),
                    escape(&decision.path),
                    escape(decision.code.unwrap_or("admitted")),
                ]
            })
            .collect()
    });
    main += &table(
        "Of the isolate that answers this page; all are in the log, under this agentDid",
        &["When", "Path", "Decision"],
        &rows,
        "This isolate has decided nothing about it lately. All decisions are in the log, under its agentDid.",
    );
    Ok(page(app, 200, agent.as_str(), session, &main))
}

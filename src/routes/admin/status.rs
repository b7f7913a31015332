//! `GET /admin/v1/status?agentDid=`: the state of the kill switch, and of one agent if it is named (docs/wire.md
//! §10.3).
//!
//! 400 `PROXY_ADMIN_INVALID_INPUT` if the DID cannot be read or is not of our registry; 503
//! `PROXY_REVOCATION_UNAVAILABLE` if the ledger or one of the agent's objects does not answer; 200.

use futures_util::future::join;
use serde::Serialize;
use serde_json::Value;

use super::{bad_input, unavailable};
use crate::app::{App, binding};
use crate::consumers::dead_letters as letters;
use crate::core::admin::agent_query;
use crate::core::admission::RevokedWhat;
use crate::error::ApiError;
use crate::http::{self, Incoming, Response, json_response};
use crate::protocol::did::AgentDid;
use crate::protocol::time::iso_ms;
use crate::registry;
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply, SessionStatus};
use crate::trust;
use crate::trust::ledger::{feed, reconciliation};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    version: &'a str,
    environment: &'static str,
    now: String,
    /// What the ledger's numbers belong to.
    epoch: String,
    /// The ledger's highest number.
    latest: u64,
    /// Rows by kind, source and whether they stand.
    counts: Vec<feed::Count>,
    /// `never`, `fresh`, `stale` or `dead`, in the isolate that answered.
    crl: &'static str,
    /// What that isolate holds of the registry. Another one may hold something else.
    isolate: registry::View,
    /// The signing keys in D1, from which every isolate has them.
    signing_keys: Option<SigningKeys>,
    /// When an event of the registry was last applied; none in the last 90 days.
    last_event_at_ms: Option<u64>,
    dead_letters: letters::Count,
    /// The last run; `startedAtMs` is 0 where there was none.
    reconciliation: reconciliation::State,
    /// How much of what an earlier proxy kept has been brought into the record.
    import: Value,
    feed_token_configured: bool,
    feed_stream_configured: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<AgentStatus>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SigningKeys {
    active: usize,
    /// When the registry was asked for them.
    fetched_at_ms: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentStatus {
    agent_did: AgentDid,
    /// `agent` where it is revoked.
    revoked: Option<RevokedWhat>,
    /// The worst of the last hour, if its clock was off at all.
    worst_clock_skew: Option<Skew>,
    relay: SessionStatus,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Skew {
    /// Seconds by which the proxy's clock was ahead of the agent's.
    seconds: i64,
    at: String,
}

pub async fn handle(app: &App, incoming: Incoming) -> Result<Response, ApiError> {
    let issuer = &app.config.registry.expected_issuer;
    let authority = issuer.authority().map_err(|_| http::internal())?;
    let agent = agent_query(incoming.target.query_pairs(), authority.as_str()).map_err(bad_input)?;
    let agent = match agent {
        Some(agent) => Some(of_agent(app, agent).await?),
        None => None,
    };
    let d1 = |error: trust::DbError| unavailable(app, &error);
    let head = feed::head(app).await.map_err(d1)?;
    let counts = feed::counts(app).await.map_err(d1)?;
    let reconciliation = reconciliation::load(app).await;
    let status = Status {
        version: &app.config.version,
        environment: app.config.environment.as_str(),
        now: iso_ms(app.now_ms()),
        epoch: head.epoch,
        latest: head.latest,
        counts,
        crl: registry::crl::state(app),
        isolate: registry::view(app),
        signing_keys: registry::keys::kept(app)
            .await
            .map(|(active, fetched_at_ms)| SigningKeys {
                active,
                fetched_at_ms,
            }),
        last_event_at_ms: feed::last_event_at_ms(app).await.map_err(d1)?,
        dead_letters: letters::count(app).await.map_err(d1)?,
        reconciliation: reconciliation.map_err(d1)?,
        import: trust::takeover::status(app).await.map_err(d1)?,
        feed_token_configured: app.config.feed_token.is_some(),
        feed_stream_configured: app.env.durable_object(binding::REVOCATION_FEED).is_ok(),
        agent,
    };
    json_response(200, &status)
}

async fn of_agent(app: &App, agent: AgentDid) -> Result<AgentStatus, ApiError> {
    let (standing, session) = join(
        trust::client::check(app, &agent, None),
        relay::client::call(app, &agent, RelayCall::Inspect),
    )
    .await;
    let standing = standing.map_err(|error| unavailable(app, &error))?;
    let relay = match session.map_err(|error| unavailable(app, &error))? {
        RelayReply::Status(status) => status,
        _ => return Err(unavailable(app, &"the answer does not match the question")),
    };
    Ok(AgentStatus {
        agent_did: agent,
        revoked: standing.revoked,
        worst_clock_skew: standing.worst_skew.map(|worst| Skew {
            seconds: worst.skew_s,
            at: iso_ms(worst.at_ms),
        }),
        relay,
    })
}

//! Brings from the registry's CRL what the queue lost (DESIGN.md §3): every 15 min, and when an operator asks.
//!
//! What the list names and the ledger has never heard of is, in batches: taken from its agent's objects (overlay,
//! sockets), recorded, and looked for once more, as a token may have been admitted for the first time just then. Only
//! tokens that were ever admitted here have an object to tell; any other asks the ledger when it is first shown. So a
//! long list costs rows, not calls.
//!
//! A batch is written down as pending before it is begun, and the cursor moves when it is done: an interrupted run loses
//! nothing, and the next goes on where it ended. A run does at most so much (`MAX_BATCHES`, `MAX_TOLD`) as one invocation
//! may ask of D1 and of objects; what is left is the next run's.

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;

use super::NotDone;
use super::apply::{AT_ONCE, Order, strike};
use crate::app::App;
use crate::core::admission::{TokenRevocation, token_expiry_ms};
use crate::core::budget::Budget;
use crate::core::listing::{ListedToken, Listing};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;
use crate::registry::crl::{self, Whole};
use crate::trust::ledger;
use crate::trust::ledger::reconciliation::{self, State};

/// The list is up to 32 MiB.
const FETCH_TIMEOUT_MS: u64 = 20_000;
/// Tokens looked up by one query.
const LOOK_UP: usize = 5_000;
/// Tokens recorded by one statement; all of them may have agents to tell, by two calls each.
const BATCH: usize = 200;
/// Batches of one run, by four queries each, and agents told after which no further batch is begun: together fewer than
/// the 1,000 subrequests that one invocation has.
const MAX_BATCHES: usize = 60;
const MAX_TOLD: usize = 100;
/// What the registry gives as the reason of an entry that is listed because its agent was revoked.
const WITH_ITS_AGENT: &str = "agent_revoked";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole list was gone through.
    Complete,
    /// The list is the one that was gone through before.
    NotModified,
    /// The registry has revoked nothing yet.
    Nothing,
    /// There was more than one run does; the next one goes on.
    Partial,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// Entries of the list.
    pub listed: u64,
    /// Rows that were added to the ledger.
    pub added: u64,
    /// Agents' objects that were told.
    pub told: u64,
}

/// One run of the schedule: its failure is a line, and the next run goes on.
pub async fn run(app: &App) {
    if let Err(error) = reconcile(app).await {
        app.log
            .error("proxy.reconcile.failed", json!({ "error": error.to_string() }));
    }
}

/// One run.
///
/// # Errors
/// The registry or the proxy's own storage did not answer: run it again.
pub async fn reconcile(app: &App) -> Result<Report, NotDone> {
    let before = reconciliation::load(app).await?;
    let unfinished = before.cursor.is_some() || !before.pending.is_empty();
    let tag = before.etag.as_deref().filter(|_| !unfinished);
    let started_at_ms = app.now_ms();

    let mut listing = Listing::default();
    let tag = match fetch(app, tag, &mut listing).await? {
        Whole::List { tag } => tag,
        Whole::NotModified => {
            let listed = before.listed;
            return nothing_new(app, before, started_at_ms, Outcome::NotModified, listed).await;
        }
        Whole::Nothing => {
            return nothing_new(app, State::default(), started_at_ms, Outcome::Nothing, 0).await;
        }
    };

    let mut run = Run {
        app,
        state: State {
            started_at_ms,
            finished_at_ms: None,
            etag: None,
            listed: listing.len() as u64,
            added: 0,
            ..before
        },
        told: 0,
    };
    let complete = run.go_through(&mut listing).await?;
    let mut state = run.state;
    if complete {
        state = State {
            cursor: None,
            etag: tag,
            finished_at_ms: Some(app.now_ms()),
            ..state
        };
    }
    reconciliation::save(app, &state).await?;
    let report = Report {
        outcome: match complete {
            true => Outcome::Complete,
            false => Outcome::Partial,
        },
        listed: state.listed,
        added: state.added,
        told: run.told,
    };
    if state.added > 0 {
        super::feed::poke(app).await;
    }
    Ok(finished(app, report))
}

async fn nothing_new(
    app: &App,
    before: State,
    started_at_ms: u64,
    outcome: Outcome,
    listed: u64,
) -> Result<Report, NotDone> {
    let state = State {
        started_at_ms,
        finished_at_ms: Some(app.now_ms()),
        listed,
        added: 0,
        ..before
    };
    reconciliation::save(app, &state).await?;
    let report = Report {
        outcome,
        listed,
        added: 0,
        told: 0,
    };
    Ok(finished(app, report))
}

/// Records the tokens of one agent that are listed because it was revoked, for whoever lifts that; they are not taken
/// from it now.
pub(super) async fn record_of_agent(app: &App, agent: &AgentDid) -> Result<(), NotDone> {
    let mut listing = Listing::default();
    if !matches!(fetch(app, None, &mut listing).await?, Whole::List { .. }) {
        return Ok(());
    }
    let tokens = listing.tokens_after(None);
    let of_agent: Vec<ListedToken> = tokens
        .iter()
        .filter_map(|jti| listing.entry(jti))
        .filter(|entry| entry.agent_did == *agent && entry.reason.as_deref() == Some(WITH_ITS_AGENT))
        .collect();
    reconciliation::record(app, &of_agent).await?;
    Ok(())
}

async fn fetch(app: &App, tag: Option<&str>, listing: &mut Listing) -> Result<Whole, NotDone> {
    let budget = Budget::new(app.now_ms(), FETCH_TIMEOUT_MS);
    crl::each_listed(app, &budget, tag, &mut |entry| listing.push(entry))
        .await
        .map_err(|problem| NotDone(format!("the registry gave no list: {problem}")))
}

fn finished(app: &App, report: Report) -> Report {
    let fields = serde_json::to_value(report).unwrap_or_default();
    app.log.info("proxy.reconcile.completed", fields);
    report
}

struct Run<'a> {
    app: &'a App,
    state: State,
    told: u64,
}

impl Run<'_> {
    /// False where it has done as much as one run may.
    async fn go_through(&mut self, listing: &mut Listing) -> Result<bool, NotDone> {
        let tokens = listing.tokens_after(self.state.cursor);
        self.finish_pending(listing).await?;
        let mut batches = 0;
        for block in tokens.chunks(LOOK_UP) {
            let lacking = reconciliation::lacking(self.app, block).await?;
            for batch in lacking.chunks(BATCH) {
                if batches == MAX_BATCHES || self.told >= MAX_TOLD as u64 {
                    return Ok(false);
                }
                batches += 1;
                self.bring(listing, batch).await?;
            }
            self.state.cursor = block.last().copied();
        }
        Ok(true)
    }

    /// What the last run was at when it ended may be recorded and not yet taken from its agents.
    async fn finish_pending(&mut self, listing: &Listing) -> Result<(), NotDone> {
        let pending = std::mem::take(&mut self.state.pending);
        if !pending.is_empty() {
            self.tell(listing, &ledger::agents_of(self.app, &pending).await?)
                .await?;
        }
        Ok(())
    }

    /// One batch: taken from those who have shown the tokens, recorded, looked at once more.
    async fn bring(&mut self, listing: &Listing, batch: &[Ulid]) -> Result<(), NotDone> {
        self.state.pending = batch.to_vec();
        reconciliation::save(self.app, &self.state).await?;

        let known = ledger::agents_of(self.app, batch).await?;
        self.tell(listing, &known).await?;
        let entries: Vec<ListedToken> = batch.iter().filter_map(|jti| listing.entry(jti)).collect();
        self.state.added += reconciliation::record(self.app, &entries).await?;
        let known_now = ledger::agents_of(self.app, batch).await?;
        let new: Vec<_> = known_now
            .into_iter()
            .filter(|found| !known.contains(found))
            .collect();
        self.tell(listing, &new).await?;

        self.state.pending.clear();
        self.state.cursor = batch.last().copied();
        Ok(())
    }

    async fn tell(&mut self, listing: &Listing, found: &[(Ulid, AgentDid)]) -> Result<(), NotDone> {
        let app = self.app;
        let strikes = found.iter().filter_map(|(jti, agent)| {
            let order = order(app, listing.entry(jti)?);
            Some(async move { strike(app, &order, agent, false, &order.tokens).await })
        });
        let results: Vec<_> = stream::iter(strikes).buffer_unordered(AT_ONCE).collect().await;
        self.told += results.len() as u64;
        results.into_iter().collect()
    }
}

fn order(app: &App, entry: ListedToken) -> Order {
    Order {
        agent: Some(entry.agent_did),
        revoke_agent: false,
        session_ended: false,
        tokens: vec![TokenRevocation {
            jti: entry.jti,
            expires_at_ms: token_expiry_ms(None, app.now_ms()),
        }],
        reason: entry.reason,
        source: Source::Crl,
        event_id: None,
        revoked_at_ms: entry.revoked_at_ms,
        told_at_ms: Some(entry.revoked_at_ms),
    }
}

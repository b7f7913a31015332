//! Brings from the registry's CRL what the queue has lost (docs/design.md §3.6): on a schedule, and when an operator
//! asks.
//!
//! What the list names and the ledger does not have is handled in batches. Its agents' objects are told (overlay and
//! sockets), it is recorded, and it is looked for once more, because a token may have been admitted for the first
//! time just then. Only tokens that were ever admitted here have an object to tell. Any other token is looked up in
//! the ledger when it is first shown. So a long list costs rows and not calls.
//!
//! - **Interruptions.** A batch is written down as pending before it begins, and the cursor moves when it is done. So
//!   an interrupted run loses nothing, and the next one goes on where it ended.
//! - **Two runs at once.** A run that begins takes over from one that is under way. It repeats what was pending
//!   there, and the other run, which from then on keeps nothing, ends at its next batch. So two that meet leave what
//!   one would have left.
//! - **Limits.** A run does no more than one invocation may ask of D1 and of objects (`MAX_BATCHES`, `MAX_TOLD`). The
//!   next run does the rest.

use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;

use super::NotDone;
use super::settle::settle;
use crate::app::App;
use crate::core::admission::overlay::REISSUED;
use crate::core::admission::{RevokeRequest, TokenRevocation, token_expiry_ms};
use crate::core::budget::Budget;
use crate::core::listing::{ListedToken, Listing};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::revocation::Source;
use crate::registry::crl::{self, Whole};
use crate::relay;
use crate::relay::protocol::{RelayCall, RelayReply, RevokedSockets};
use crate::trust::client;
use crate::trust::ledger;
use crate::trust::ledger::reconciliation::{self, State};

/// The list is up to 32 MiB.
const FETCH_TIMEOUT_MS: u64 = 20_000;
/// How many tokens one query looks up.
const LOOK_UP: usize = 5_000;
/// How many tokens one statement records. Each may have an agent to tell, with two calls.
const BATCH: usize = 200;
/// Batches of one run, by five queries each at most: an invocation has 1,000 queries.
const MAX_BATCHES: usize = 100;
/// One agent in so many subrequests is told by one run: two calls each, their retries, and what the rest of it needs.
const SUBREQUESTS_PER_AGENT: u64 = 4;
/// Agents that are told at the same time.
const AT_ONCE: usize = 6;
/// A run is due this long after the last one that went through the whole list.
const EVERY_MS: u64 = 15 * 60_000 - 30_000;
/// What the registry gives as the reason of an entry that is listed because its agent was revoked.
const WITH_ITS_AGENT: &str = "agent_revoked";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole list was gone through.
    Complete,
    /// The list is the same as in the run before.
    NotModified,
    /// The registry has revoked nothing yet.
    Nothing,
    /// There was more to do than one run does, or another run has begun. The next run, or that one, goes on.
    Partial,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// How many entries the list has.
    pub listed: u64,
    /// How many rows were added to the ledger.
    pub added: u64,
    /// How many agents' objects were told.
    pub told: u64,
}

/// The schedule, every minute: a run where one is due, or where the last one left something. Its failure is a line, and
/// the next minute tries again.
pub async fn run_if_due(app: &App) {
    let done = async {
        let state = reconciliation::load(app).await?;
        match is_due(&state, app.now_ms()) {
            true => reconcile(app).await.map(|_| ()),
            false => Ok(()),
        }
    };
    if let Err(error) = done.await {
        app.log
            .error("proxy.reconcile.failed", json!({ "error": error.to_string() }));
    }
}

/// A time that lies ahead is no reason to wait for it.
fn is_due(state: &State, now_ms: u64) -> bool {
    let unfinished = state.cursor.is_some() || !state.pending.is_empty();
    let age_ms = state.finished_at_ms.and_then(|at_ms| now_ms.checked_sub(at_ms));
    unfinished || age_ms.is_none_or(|age_ms| age_ms >= EVERY_MS)
}

/// One run.
///
/// # Errors
/// The registry or the proxy's own storage did not answer. Run it again.
pub async fn reconcile(app: &App) -> Result<Report, NotDone> {
    let before = reconciliation::load(app).await?;
    let unfinished = before.cursor.is_some() || !before.pending.is_empty();
    let tag = before.etag.as_deref().filter(|_| !unfinished);
    let started_at_ms = app.now_ms();

    let mut listing = Listing::default();
    let (outcome, tag) = match fetch(app, tag, &mut listing).await? {
        Whole::List { tag } => (Outcome::Complete, tag),
        Whole::Nothing => (Outcome::Nothing, None),
        Whole::NotModified => return not_modified(app, before, started_at_ms).await,
    };
    let listed = listing.len() as u64;
    let mut run = Run {
        app,
        state: reconciliation::begin(app, started_at_ms, listed).await?,
        told: 0,
    };
    let result = run.go_through(&mut listing, tag).await;
    if run.state.added > 0 {
        crate::feed::poke(app, Vec::new()).await;
    }
    let report = Report {
        outcome: match result? {
            true => outcome,
            false => Outcome::Partial,
        },
        listed,
        added: run.state.added,
        told: run.told,
    };
    Ok(finished(app, report))
}

async fn not_modified(app: &App, before: State, started_at_ms: u64) -> Result<Report, NotDone> {
    let begun_at_ms = before.started_at_ms;
    let state = State {
        started_at_ms,
        finished_at_ms: Some(app.now_ms()),
        added: 0,
        ..before
    };
    // Where another run has begun meanwhile, that one says how things stand.
    reconciliation::save(app, begun_at_ms, &state).await?;
    let report = Report {
        outcome: Outcome::NotModified,
        listed: state.listed,
        added: 0,
        told: 0,
    };
    Ok(finished(app, report))
}

/// Records the tokens of one agent that are listed because it was revoked, for whoever lifts that revocation. They are
/// not revoked here now. If the registry gives no list, that is a warning: the operator's switch works without it.
///
/// # Errors
/// The ledger did not answer.
pub(super) async fn record_of_agent(app: &App, agent: &AgentDid) -> Result<(), NotDone> {
    let mut listing = Listing::default();
    match fetch(app, None, &mut listing).await {
        Ok(Whole::List { .. }) => {}
        Ok(Whole::Nothing | Whole::NotModified) => return Ok(()),
        Err(error) => {
            let fields = json!({ "agentDid": agent.as_str(), "error": error.to_string() });
            app.log.warn("proxy.revocation.lift_without_crl", fields);
            return Ok(());
        }
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
    /// False if the run has done as much as it may, or another run has begun.
    async fn go_through(&mut self, listing: &mut Listing, tag: Option<String>) -> Result<bool, NotDone> {
        let tokens = listing.tokens_after(self.state.cursor);
        if !self.finish_pending(listing).await? {
            return Ok(false);
        }
        let mut batches = 0;
        for block in tokens.chunks(LOOK_UP) {
            let lacking = reconciliation::lacking(self.app, block).await?;
            for batch in lacking.chunks(BATCH) {
                if batches == MAX_BATCHES || self.told >= self.app.config.subrequests / SUBREQUESTS_PER_AGENT
                {
                    self.keep().await?;
                    return Ok(false);
                }
                batches += 1;
                if !self.bring(listing, batch).await? {
                    return Ok(false);
                }
                self.state.cursor = batch.last().copied();
            }
            self.state.cursor = block.last().copied();
        }
        self.state.cursor = None;
        self.state.etag = tag;
        self.state.finished_at_ms = Some(self.app.now_ms());
        self.keep().await
    }

    /// Repeats what the last run was doing when it ended: some of it may be recorded, and some agents told. What was lifted
    /// since then stays lifted.
    async fn finish_pending(&mut self, listing: &Listing) -> Result<bool, NotDone> {
        if self.state.pending.is_empty() {
            return Ok(true);
        }
        let mut pending = std::mem::take(&mut self.state.pending);
        let standing = ledger::standing(self.app, None, &pending).await?;
        pending.retain(|jti| standing.tokens.get(jti).is_none_or(|(stands, _)| *stands));
        self.bring(listing, &pending).await
    }

    /// One batch: its tokens are revoked for the agents that have shown them, recorded, and looked for once more. Returns
    /// false, and does nothing, if another run has begun.
    async fn bring(&mut self, listing: &Listing, batch: &[Ulid]) -> Result<bool, NotDone> {
        self.state.pending = batch.to_vec();
        if !self.keep().await? {
            return Ok(false);
        }
        let known = ledger::agents_of(self.app, batch).await?;
        self.tell(listing, &known).await?;
        let entries: Vec<ListedToken> = batch.iter().filter_map(|jti| listing.entry(jti)).collect();
        self.state.added += reconciliation::record(self.app, &entries).await?;
        let known_now = ledger::agents_of(self.app, batch).await?;
        let new: Vec<_> = known_now
            .iter()
            .filter(|found| !known.contains(found))
            .cloned()
            .collect();
        self.tell(listing, &new).await?;
        self.settle_lifted(&known_now).await?;
        self.state.pending.clear();
        Ok(true)
    }

    /// Gives back what an operator lifted while this was revoking it.
    async fn settle_lifted(&self, found: &[(Ulid, AgentDid)]) -> Result<(), NotDone> {
        if found.is_empty() {
            return Ok(());
        }
        let jtis: Vec<Ulid> = found.iter().map(|(jti, _)| *jti).collect();
        let standing = ledger::standing(self.app, None, &jtis).await?;
        for (jti, agent) in found {
            if standing.tokens.get(jti).is_some_and(|(stands, _)| !stands) {
                settle(self.app, agent, false, &[*jti]).await?;
            }
        }
        Ok(())
    }

    /// Revokes tokens for their agents. A token that the list no longer names was named when it was recorded.
    async fn tell(&mut self, listing: &Listing, found: &[(Ulid, AgentDid)]) -> Result<(), NotDone> {
        let app = self.app;
        let strikes = found.iter().map(|(jti, agent)| {
            let entry = listing.entry(jti);
            async move { take(app, *jti, agent, entry.as_ref()).await }
        });
        let results: Vec<_> = stream::iter(strikes).buffer_unordered(AT_ONCE).collect().await;
        self.told += results.len() as u64;
        results.into_iter().collect()
    }

    /// Stores the progress; false if another run has begun.
    async fn keep(&self) -> Result<bool, NotDone> {
        Ok(reconciliation::save(self.app, self.state.started_at_ms, &self.state).await?)
    }
}

/// Takes a listed token from whoever holds it: overlay, then sockets. The ledger's row follows with its batch.
async fn take(app: &App, jti: Ulid, agent: &AgentDid, entry: Option<&ListedToken>) -> Result<(), NotDone> {
    let reason = entry.and_then(|entry| entry.reason.as_deref());
    let request = RevokeRequest {
        agent: agent.clone(),
        revoke_agent: false,
        tokens: vec![TokenRevocation {
            jti,
            expires_at_ms: token_expiry_ms(None, app.now_ms()),
        }],
        unconfirmed: false,
        reissued: Some(reason == Some(REISSUED)),
    };
    let changed = client::revoke(app, request).await?.changed;
    let which = RevokedSockets::Tokens(vec![jti]);
    let reply = relay::client::call(app, agent, RelayCall::RevokeSockets { which }).await?;
    let RelayReply::Closed { sockets } = reply else {
        return Err(NotDone("the session's answer does not match the question".into()));
    };
    let listed_at_ms = entry.map(|entry| entry.revoked_at_ms);
    let fields = json!({
        "agentDid": agent.as_str(),
        "source": Source::Crl.as_str(),
        "reason": reason,
        "tokens": 1,
        "changed": changed,
        "socketsClosed": sockets,
        "lag_ms": listed_at_ms.map(|at_ms| app.now_ms().saturating_sub(at_ms)),
    });
    app.log.info("proxy.revocation.applied", fields);
    Ok(())
}

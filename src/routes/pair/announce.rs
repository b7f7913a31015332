//! Tells both agents' objects that a pair was made or removed.
//!
//! Writers write D1, then call `announce`, and then answer (docs/design.md §3.1). So the next request of either agent
//! comes with a new generation and reads the new rows. The same is true of the next frame on an open socket, because
//! its session is told as well.
//!
//! This is done only for a pair that really changed. Otherwise anybody could void the caches of an agent that has
//! nothing to do with them.

use futures_util::future;
use serde_json::json;

use crate::app::App;
use crate::clock;
use crate::core::admission::Changed;
use crate::protocol::did::AgentDid;
use crate::relay;
use crate::relay::protocol::RelayCall;
use crate::trust::client;

/// Pauses between the tries that follow a failed announcement.
const RETRY_PAUSES_MS: [u64; 3] = [500, 2_000, 8_000];

/// An object gave no answer: what is cached about its agent lives on, at most for its fresh time.
pub struct NotTold;

/// Voids what is cached about these two agents. What fails is tried again after the answer.
///
/// # Errors
/// One of the two was not reached yet.
pub async fn announce(app: &App, one: &AgentDid, other: &AgentDid) -> Result<(), NotTold> {
    let (first, second) = future::join(tell(app, one), tell(app, other)).await;
    first.and(second)
}

async fn tell(app: &App, agent: &AgentDid) -> Result<(), NotTold> {
    let Err(error) = try_once(app, agent).await else {
        return Ok(());
    };
    app.log.warn(
        "proxy.trust.announcement_failed",
        json!({ "agentDid": agent.as_str(), "error": error }),
    );
    let (app, agent) = (app.clone(), agent.clone());
    app.clone().wait_until(async move {
        for pause_ms in RETRY_PAUSES_MS {
            clock::sleep_ms(pause_ms).await;
            if try_once(&app, &agent).await.is_ok() {
                return;
            }
        }
        app.log.error(
            "proxy.trust.announcement_failed",
            json!({ "agentDid": agent.as_str() }),
        );
    });
    Err(NotTold)
}

async fn try_once(app: &App, agent: &AgentDid) -> Result<(), String> {
    let generation = client::replace_generation(app, agent, Changed::Pairs)
        .await
        .map_err(|error| error.to_string())?;
    let changed = RelayCall::GenerationChanged { generation };
    relay::client::call(app, agent, changed)
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}

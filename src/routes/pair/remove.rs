//! `POST /pair/remove`: either side ends a pair (docs/wire.md §10.1).

use serde::{Deserialize, Serialize};
use serde_json::json;
use worker::Response;

use super::announce::announce;
use super::{parse_body, state_unavailable, unavailable};
use crate::app::App;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{Incoming, json_response};
use crate::protocol::did::AgentDid;
use crate::trust::pairs;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    peer_agent_did: AgentDid,
}

#[derive(Serialize)]
struct Answer {
    removed: bool,
}

/// 1. body: 400 `PROXY_PAIR_INVALID_BODY`
/// 2. the pair goes: 503 `PROXY_PAIR_STATE_UNAVAILABLE`
/// 3. both agents' objects are told, so that the next message and the next frame are refused: 503 where one was not
///    reached; the pair is gone, and telling goes on
/// 4. 200, also where there was no pair
pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let body: Body = parse_body(&incoming, "The body must be {peerAgentDid: an agent's DID}.")?;
    let (agent, peer) = (caller.agent(), &body.peer_agent_did);
    let removed = pairs::remove(app, agent, peer)
        .await
        .map_err(|error| unavailable(app, &error))?;
    if removed {
        announce(app, agent, peer)
            .await
            .map_err(|_| state_unavailable())?;
        let fields = json!({
            "requestId": incoming.request_id.as_str(),
            "agentDid": agent.as_str(),
            "peerAgentDid": peer.as_str(),
        });
        app.log.info("proxy.pair.removed", fields);
    }
    json_response(200, &Answer { removed })
}

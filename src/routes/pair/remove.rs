//! `POST /pair/remove`: either side ends a pair (docs/wire.md §10.1).

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{parse_body, state_unavailable};
use crate::app::App;
use crate::core::admission::EndedPair;
use crate::core::pipeline::Caller;
use crate::error::ApiError;
use crate::http::{Incoming, Response, json_response};
use crate::protocol::did::AgentDid;
use crate::trust::{client, pairs};

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
/// 2. the pair ends in the caller's object, which is the answer, and with it every pair of the two that was made until
///    then: 503 `PROXY_PAIR_STATE_UNAVAILABLE` where that object does not answer, or has not been able to read which
///    pairs the caller has
/// 3. the record, the other agent's object and both sessions are told; what fails, the caller's object repeats until
///    all of them have it
/// 4. 200, also where there was no pair
pub async fn handle(app: &App, caller: Caller, incoming: Incoming) -> Result<Response, ApiError> {
    let body: Body = parse_body(&incoming, "The body must be {peerAgentDid: an agent's DID}.")?;
    let (agent, peer) = (caller.agent(), body.peer_agent_did);
    let reply = client::end_pair(app, agent, &peer).await.map_err(|error| {
        let fields = json!({ "error": error.to_string() });
        app.log.error("proxy.pair.state_unavailable", fields);
        state_unavailable()
    })?;
    if reply.unavailable {
        return Err(state_unavailable());
    }
    let Some(pair_id) = reply.ended else {
        return json_response(200, &Answer { removed: false });
    };
    let ended = EndedPair { peer, pair_id };
    let settled = match pairs::settle(app, agent, &ended, reply.until_ms, reply.generation).await {
        Ok(()) => client::pair_settled(app, agent, ended.clone())
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error),
    };
    // A stream of an agent that has no pair left ends.
    crate::feed::poke_later(app, vec![agent.clone(), ended.peer.clone()]);
    let fields = json!({
        "requestId": incoming.request_id.as_str(),
        "agentDid": agent.as_str(),
        "peerAgentDid": ended.peer.as_str(),
        "unsettled": settled.err(),
    });
    app.log.info("proxy.pair.removed", fields);
    json_response(200, &Answer { removed: true })
}

//! Makes an agent's objects agree with the ledger, for whoever changes either.
//!
//! The overlay is not told "lifted" or "revoked"; it is made to say what the ledger says, and the ledger is read again until
//! it has not changed in between. So when a lift and a revocation meet, both leave the same state behind.

use super::NotDone;
use crate::app::App;
use crate::core::admission::{LiftRequest, RevokeRequest, TokenRevocation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::relay;
use crate::relay::protocol::{RelayCall, RevokedSockets};
use crate::trust::client;
use crate::trust::ledger::{self, Standing};

/// How often a ledger that keeps changing is read.
const MAX_LOOKS: usize = 8;

/// Makes an agent's objects agree with the ledger about the agent (if `of_agent`) and about these tokens.
///
/// # Errors
/// Something did not answer. Do it again.
pub(super) async fn settle(
    app: &App,
    agent: &AgentDid,
    of_agent: bool,
    jtis: &[Ulid],
) -> Result<(), NotDone> {
    let mut last = None;
    for _ in 0..MAX_LOOKS {
        let standing = ledger::standing(app, of_agent.then_some(agent), jtis).await?;
        if last.as_ref() == Some(&standing) {
            return Ok(());
        }
        tell(app, agent, &standing).await?;
        last = Some(standing);
    }
    Err(NotDone("the ledger kept changing".into()))
}

async fn tell(app: &App, agent: &AgentDid, standing: &Standing) -> Result<(), NotDone> {
    let of = |wanted: bool| -> Vec<TokenRevocation> {
        let found = standing
            .tokens
            .iter()
            .filter(|(_, (stands, _))| *stands == wanted);
        let token = |(jti, (_, expires_at_ms)): (&Ulid, &(bool, u64))| TokenRevocation {
            jti: *jti,
            expires_at_ms: *expires_at_ms,
        };
        found.map(token).collect()
    };
    let lift = LiftRequest {
        agent: agent.clone(),
        lift_agent: standing.agent == Some(false),
        tokens: of(false),
    };
    if lift.lift_agent || !lift.tokens.is_empty() {
        client::lift(app, lift.clone()).await?;
    }
    if lift.lift_agent {
        relay::client::call(app, agent, RelayCall::LiftRevocation).await?;
    }
    let revoke = RevokeRequest {
        agent: agent.clone(),
        revoke_agent: standing.agent == Some(true),
        tokens: of(true),
        unconfirmed: false,
        reissued: None,
    };
    if revoke.revoke_agent || !revoke.tokens.is_empty() {
        // A lift that had not seen it may have let a socket in meanwhile, and mail.
        let which = match revoke.revoke_agent {
            true => RevokedSockets::Agent,
            false => RevokedSockets::Tokens(revoke.tokens.iter().map(|token| token.jti).collect()),
        };
        client::revoke(app, revoke).await?;
        relay::client::call(app, agent, RelayCall::RevokeSockets { which }).await?;
    }
    Ok(())
}

//! Pairing tickets in D1, and the one confirmation that each can have.
//!
//! A confirmation is one transaction. A conditional update marks the ticket with a random id if nobody else has. Then
//! both directions of the pair are written, but only if that id is the ticket's. Of two confirmations at the same
//! moment, one finds its own id there afterwards and the other does not, so a ticket is used once (docs/wire.md
//! §5.5).
//!
//! Expired rows are deleted a day later, a few with every new ticket, so the table cannot outgrow its use.

use serde::Deserialize;

use super::d1::{self, DbError, Sql, batch, number, optional_text, query, text};
use crate::app::App;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::issuer::Origin;
use crate::protocol::key::PublicKey;
use crate::protocol::profile::{Profile, ResponderProfile};

/// Expired tickets deleted at every new one.
const SWEEP_ROWS: u64 = 20;
/// An expired ticket can be asked about this much longer.
const KEEP_EXPIRED_MS: u64 = 24 * 3_600_000;

const SWEEP: &str = "DELETE FROM pair_tickets WHERE kid IN
  (SELECT kid FROM pair_tickets WHERE expires_at_ms < ?1 ORDER BY expires_at_ms LIMIT ?2)";

const CREATE: &str = "
INSERT INTO pair_tickets
  (kid, issuer, public_key_x, expires_at_ms, initiator_did, initiator_profile, allow_responder_did)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

const FIND: &str = "
SELECT issuer, public_key_x, expires_at_ms, initiator_did, initiator_profile, allow_responder_did,
  responder_did, responder_profile, confirmation_id, confirmed_at_ms
FROM pair_tickets WHERE kid = ?1";

const CONFIRM: &str = "
UPDATE pair_tickets SET responder_did = ?2, responder_profile = ?3, confirmation_id = ?4, confirmed_at_ms = ?5
WHERE kid = ?1 AND confirmation_id IS NULL AND expires_at_ms > ?5";

const PAIR_INITIATOR: &str = "
INSERT INTO pairs (agent_did, peer_did, paired_at_ms)
SELECT initiator_did, responder_did, confirmed_at_ms FROM pair_tickets WHERE kid = ?1 AND confirmation_id = ?2
ON CONFLICT DO NOTHING";

const PAIR_RESPONDER: &str = "
INSERT INTO pairs (agent_did, peer_did, paired_at_ms)
SELECT responder_did, initiator_did, confirmed_at_ms FROM pair_tickets WHERE kid = ?1 AND confirmation_id = ?2
ON CONFLICT DO NOTHING";

/// A ticket as it is kept.
#[derive(Clone, Debug)]
pub struct StoredTicket {
    /// The proxy that made it.
    pub issuer: Origin,
    /// The key made for it.
    pub key: PublicKey,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Who asked for it.
    pub initiator: AgentDid,
    /// How the initiator describes itself.
    pub initiator_profile: Profile,
    /// The only agent that may confirm it.
    pub allow_responder: Option<AgentDid>,
    /// Its confirmation.
    pub confirmation: Option<Confirmation>,
}

/// Who confirmed a ticket.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// The random mark of this confirmation.
    pub id: String,
    /// The agent.
    pub responder: AgentDid,
    /// How it describes itself.
    pub responder_profile: ResponderProfile,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// How a confirmation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// The agents are paired.
    Yes,
    /// Somebody was first.
    TooLate,
    /// Its time ended meanwhile.
    Expired,
    /// It is gone.
    NotFound,
}

/// Keeps a new ticket.
///
/// # Errors
/// D1 gave no answer.
pub async fn create(app: &App, kid: Ulid, ticket: &StoredTicket) -> Result<(), DbError> {
    let profile = to_json(&ticket.initiator_profile)?;
    let create = [
        text(&kid.to_string()),
        text(ticket.issuer.as_str()),
        text(&ticket.key.x()),
        number(ticket.expires_at_ms),
        text(ticket.initiator.as_str()),
        text(&profile),
        optional_text(ticket.allow_responder.as_ref().map(AgentDid::as_str)),
    ];
    let sweep = [
        number(app.now_ms().saturating_sub(KEEP_EXPIRED_MS)),
        number(SWEEP_ROWS),
    ];
    batch(
        app,
        app.config.trust.write_timeout_ms,
        vec![Sql::new(CREATE, create), Sql::new(SWEEP, sweep)],
    )
    .await
    .map(|_| ())
}

/// Finds a ticket.
///
/// # Errors
/// D1 gave no answer.
pub async fn find(app: &App, kid: Ulid) -> Result<Option<StoredTicket>, DbError> {
    let rows: Vec<Row> = query(
        app,
        app.config.trust.write_timeout_ms,
        Sql::new(FIND, [text(&kid.to_string())]),
    )
    .await?;
    rows.into_iter().next().map(Row::into_ticket).transpose()
}

/// Confirms a ticket and writes the pair, or neither.
///
/// # Errors
/// D1 gave no answer, nor when asked again how it ended.
pub async fn confirm(app: &App, kid: Ulid, confirmation: &Confirmation) -> Result<Confirmed, DbError> {
    let profile = to_json(&confirmation.responder_profile)?;
    let kid_text = text(&kid.to_string());
    let id = text(&confirmation.id);
    let update = [
        kid_text.clone(),
        text(confirmation.responder.as_str()),
        text(&profile),
        id.clone(),
        number(confirmation.at_ms),
    ];
    let statements = vec![
        Sql::new(CONFIRM, update),
        Sql::new(PAIR_INITIATOR, [kid_text.clone(), id.clone()]),
        Sql::new(PAIR_RESPONDER, [kid_text.clone(), id]),
        Sql::new(FIND, [kid_text]),
    ];
    let stored = match batch(app, app.config.trust.write_timeout_ms, statements).await {
        Ok(results) => d1::rows::<Row>(&results, 3)?
            .into_iter()
            .next()
            .map(Row::into_ticket)
            .transpose()?,
        // The answer is lost, not necessarily the write: a caller told to try again would find its own confirmation.
        Err(_) => match find(app, kid).await? {
            Some(StoredTicket {
                confirmation: None, ..
            }) => return Err(DbError::TimedOut),
            stored => stored,
        },
    };
    Ok(match stored {
        None => Confirmed::NotFound,
        Some(StoredTicket {
            confirmation: None, ..
        }) => Confirmed::Expired,
        Some(StoredTicket {
            confirmation: Some(standing),
            ..
        }) if standing.id == confirmation.id => Confirmed::Yes,
        Some(_) => Confirmed::TooLate,
    })
}

#[derive(Deserialize)]
struct Row {
    issuer: Origin,
    public_key_x: String,
    expires_at_ms: f64,
    initiator_did: AgentDid,
    initiator_profile: String,
    allow_responder_did: Option<AgentDid>,
    responder_did: Option<AgentDid>,
    responder_profile: Option<String>,
    confirmation_id: Option<String>,
    confirmed_at_ms: Option<f64>,
}

impl Row {
    fn into_ticket(self) -> Result<StoredTicket, DbError> {
        let confirmation = match (
            self.confirmation_id,
            self.responder_did,
            self.responder_profile,
            self.confirmed_at_ms,
        ) {
            (Some(id), Some(responder), Some(profile), Some(at_ms)) => {
                let responder_profile = serde_json::from_str(&profile).map_err(|_| unexpected())?;
                Some(Confirmation {
                    id,
                    responder,
                    responder_profile,
                    at_ms: at_ms as u64,
                })
            }
            (None, ..) => None,
            _ => return Err(unexpected()),
        };
        Ok(StoredTicket {
            issuer: self.issuer,
            key: PublicKey::from_x(&self.public_key_x).map_err(|_| unexpected())?,
            expires_at_ms: self.expires_at_ms as u64,
            initiator: self.initiator_did,
            initiator_profile: serde_json::from_str(&self.initiator_profile).map_err(|_| unexpected())?,
            allow_responder: self.allow_responder_did,
            confirmation,
        })
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Failed(error.to_string()))
}

fn unexpected() -> DbError {
    DbError::Failed("a stored ticket has an unexpected shape".into())
}

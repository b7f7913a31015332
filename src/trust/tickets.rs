//! Pairing tickets in D1, and the one confirmation that each can have.
//!
//! A confirmation is one transaction. A conditional update marks the ticket with a random id if nobody else has. Then
//! both directions of the pair are written, but only if that id is the ticket's. Of two confirmations at the same
//! moment, one finds its own id there afterwards and the other does not, so a ticket is used once (docs/wire.md
//! §5.5).
//!
//! Expired rows are deleted a day later, a few with every new ticket, so the table cannot outgrow its use.

use serde::Deserialize;

use super::d1::{self, DbError, Sql, batch, number, optional_text, text};
use super::{client, takeover};
use crate::app::App;
use crate::core::admission::PairId;
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::protocol::issuer::Origin;
use crate::protocol::key::PublicKey;
use crate::protocol::profile::{Profile, ResponderProfile};
use crate::protocol::ticket::Ticket;

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
  responder_did, responder_profile, confirmation_id, confirmed_at_ms, ticket,
  EXISTS (SELECT 1 FROM pairs WHERE pair_id = confirmation_id AND untold_since_ms IS NOT NULL
    AND ((agent_did = initiator_did AND peer_did = responder_did)
      OR (agent_did = responder_did AND peer_did = initiator_did))) AS untold
FROM pair_tickets WHERE kid = ?1";

const CONFIRM: &str = "
UPDATE pair_tickets SET responder_did = ?2, responder_profile = ?3, confirmation_id = ?4, confirmed_at_ms = ?5
WHERE kid = ?1 AND confirmation_id IS NULL AND expires_at_ms > ?5";

const PAIR_INITIATOR: &str = "
INSERT INTO pairs (agent_did, peer_did, paired_at_ms, pair_id, untold_since_ms)
SELECT initiator_did, responder_did, confirmed_at_ms, confirmation_id, confirmed_at_ms
FROM pair_tickets WHERE kid = ?1 AND confirmation_id = ?2
ON CONFLICT DO UPDATE SET paired_at_ms = excluded.paired_at_ms, pair_id = excluded.pair_id,
  untold_since_ms = excluded.untold_since_ms";

const PAIR_RESPONDER: &str = "
INSERT INTO pairs (agent_did, peer_did, paired_at_ms, pair_id, untold_since_ms)
SELECT responder_did, initiator_did, confirmed_at_ms, confirmation_id, confirmed_at_ms
FROM pair_tickets WHERE kid = ?1 AND confirmation_id = ?2
ON CONFLICT DO UPDATE SET paired_at_ms = excluded.paired_at_ms, pair_id = excluded.pair_id,
  untold_since_ms = excluded.untold_since_ms";

/// A ticket as it is kept.
#[derive(Clone, Debug)]
pub struct StoredTicket {
    /// The proxy that made it.
    pub issuer: Origin,
    /// What vouches for it.
    pub proof: TicketProof,
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
    /// The pair that it made stands, and not both agents' objects are known to have been told.
    pub untold: bool,
}

/// What vouches for a ticket that is presented.
#[derive(Clone, Debug)]
pub enum TicketProof {
    /// The key made for it, which signed it.
    Key(PublicKey),
    /// Its own text: it was taken over confirmed, without its key.
    Text(String),
}

impl StoredTicket {
    fn key_x(&self) -> String {
        match &self.proof {
            TicketProof::Key(key) => key.x(),
            TicketProof::Text(_) => String::new(),
        }
    }

    /// Whether this is the ticket that is kept.
    pub fn is(&self, presented: &Ticket) -> bool {
        match &self.proof {
            TicketProof::Key(key) => presented.verify(key),
            TicketProof::Text(text) => Ticket::parse(text).is_ok_and(|kept| kept == *presented),
        }
    }
}

/// Who confirmed a ticket.
#[derive(Clone, Debug)]
pub struct Confirmation {
    /// The random mark of this confirmation, and the id of the pair that it makes.
    pub id: PairId,
    /// The agent.
    pub responder: AgentDid,
    /// How it describes itself.
    pub responder_profile: ResponderProfile,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// How a confirmation ended.
#[derive(Clone, Debug)]
pub enum Confirmed {
    /// The ticket is confirmed, by this confirmation or by one that was first.
    Yes(Box<StoredTicket>),
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
        text(&ticket.key_x()),
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

/// Finds a ticket. One that is not here is looked for again once what an earlier proxy kept is in the record.
///
/// # Errors
/// D1 gave no answer, or the record is not complete yet.
pub async fn find(app: &App, kid: Ulid) -> Result<Option<StoredTicket>, DbError> {
    loop {
        let statements = vec![
            Sql::new(FIND, [text(&kid.to_string())]),
            Sql::new(takeover::FINISHED, []),
        ];
        let results = batch(app, app.config.trust.write_timeout_ms, statements).await?;
        let rows: Vec<Row> = d1::rows(&results, 0)?;
        match rows.into_iter().next() {
            Some(row) => return row.into_ticket().map(Some),
            None if takeover::is_finished(&results, 1)? => return Ok(None),
            None => client::take_over(app)
                .await
                .map_err(|error| DbError::Failed(error.to_string()))?,
        }
    }
}

/// Confirms a ticket and writes the pair, or neither.
///
/// # Errors
/// D1 gave no answer, nor when asked again how it ended.
pub async fn confirm(app: &App, kid: Ulid, confirmation: &Confirmation) -> Result<Confirmed, DbError> {
    let profile = to_json(&confirmation.responder_profile)?;
    let kid_text = text(&kid.to_string());
    let id = text(confirmation.id.as_str());
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
        Some(stored) => Confirmed::Yes(Box::new(stored)),
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
    confirmation_id: Option<PairId>,
    confirmed_at_ms: Option<f64>,
    ticket: Option<String>,
    untold: f64,
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
        let proof = match (PublicKey::from_x(&self.public_key_x), self.ticket) {
            (Ok(key), _) => TicketProof::Key(key),
            (Err(_), Some(text)) => TicketProof::Text(text),
            (Err(_), None) => return Err(unexpected()),
        };
        Ok(StoredTicket {
            issuer: self.issuer,
            proof,
            expires_at_ms: self.expires_at_ms as u64,
            initiator: self.initiator_did,
            initiator_profile: serde_json::from_str(&self.initiator_profile).map_err(|_| unexpected())?,
            allow_responder: self.allow_responder_did,
            confirmation,
            untold: self.untold != 0.0,
        })
    }
}

fn to_json(value: &impl serde::Serialize) -> Result<String, DbError> {
    serde_json::to_string(value).map_err(|error| DbError::Failed(error.to_string()))
}

fn unexpected() -> DbError {
    DbError::Failed("a stored ticket has an unexpected shape".into())
}

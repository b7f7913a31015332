//! The SQL of one agent's object.
//!
//! The nonces have a file of their own (`nonce_tables`).
//!
//! Storage outlives versions in both directions: a `meta` row of a name that this version does not know, or a row of a
//! table that it cannot read, is left as it is and passed over. What decides is asked by key (`facts`), so a revoked
//! token stays revoked whatever else its row holds.

use std::ops::RangeInclusive;

use serde_json::Value;
use worker::{Error, Result};

use super::nonce_tables::NonceTables;
use crate::core::admission::overlay::TokenRevocation;
use crate::core::admission::pairs::{EndedPair, PairId};
use crate::core::admission::skew::SkewLog;
use crate::core::admission::tables::{
    Confirmed, Facts, Forgotten, MAX_CONFIRMED, MAX_REMOVED, NonceRow, Stored, Tables, Validation,
};
use crate::core::admission::{AdmitRequest, Changed, Generation};
use crate::protocol::did::AgentDid;
use crate::protocol::ids::Ulid;
use crate::sql::{Sql, hex, int, unhex};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS revoked_tokens (
  jti TEXT NOT NULL PRIMARY KEY, expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seen_tokens (
  jti TEXT NOT NULL PRIMARY KEY, expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lifted_tokens (
  jti TEXT NOT NULL PRIMARY KEY, expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reissued_tokens (
  jti TEXT NOT NULL PRIMARY KEY, expires_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS peers (
  peer TEXT NOT NULL PRIMARY KEY, pair_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ended_pairs (
  peer TEXT NOT NULL, pair_id TEXT NOT NULL, ended_at_ms INTEGER NOT NULL, untold_by TEXT,
  PRIMARY KEY (peer, pair_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS removed_until (peer TEXT NOT NULL PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS confirmed (
  about TEXT NOT NULL, what TEXT NOT NULL, confirmed_at_ms INTEGER NOT NULL, PRIMARY KEY (about, what)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS validations (
  token_hash BLOB NOT NULL PRIMARY KEY, jti TEXT NOT NULL, validated_at_ms INTEGER NOT NULL
) WITHOUT ROWID;
";

const GENERATION: &str = "generation";
const PEERS_LOADED: &str = "peers_loaded";
const SKEWS: &str = "skews";
const AGENT_REVOKED: &str = "agent_revoked";
const LEDGER_ASKED: &str = "ledger_asked";
const FORGOTTEN_THROUGH: &str = "forgotten_through";
/// A revocation was written that the ledger has not confirmed yet.
const UNCONFIRMED: &str = "unconfirmed";
/// Its owner is said to have ended its session, and the ledger has not said when.
const SESSION_UNCONFIRMED: &str = "session_unconfirmed";
/// When the agent's owner last ended its session.
const SESSION_ENDED_AT: &str = "session_ended_at_ms";

/// The tables of the object that opened them.
pub struct SqlTables {
    sql: Sql,
    nonces: NonceTables,
}

impl SqlTables {
    /// Makes the tables where they are not there yet.
    ///
    /// # Errors
    /// The storage's.
    pub fn open(sql: Sql) -> Result<Self> {
        sql.run(SCHEMA, &[])?;
        let nonces = NonceTables::open(&sql)?;
        Ok(Self { sql, nonces })
    }

    fn rows(&self, query: &str, values: Vec<Value>) -> Result<Vec<Vec<Value>>> {
        self.sql.rows(query, &values)
    }

    fn run(&self, query: &str, values: Vec<Value>) -> Result<()> {
        self.sql.run(query, &values)
    }

    fn put_meta(&self, name: &str, value: String) -> Result<()> {
        let query = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        self.run(query, vec![name.into(), value.into()])
    }

    fn put_mark(&self, name: &str, is_set: bool) -> Result<()> {
        match is_set {
            true => self.put_meta(name, "1".into()),
            false => self.run("DELETE FROM meta WHERE name = ?", vec![name.into()]),
        }
    }

    fn tokens(&self, query: &str) -> Result<Vec<(Ulid, u64)>> {
        let rows = self.rows(query, vec![])?;
        let token = |row: Vec<Value>| match row.as_slice() {
            [jti, expiry] => Some((ulid(jti).ok()?, number(expiry).ok()?)),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(token).collect())
    }

    fn validations(&self) -> Result<Vec<Validation>> {
        let rows = self.rows(
            "SELECT hex(token_hash), jti, validated_at_ms FROM validations",
            vec![],
        )?;
        let validation = |row: Vec<Value>| match row.as_slice() {
            [hash, jti, at] => Some(Validation {
                token_hash: bytes(hash).ok()?,
                jti: ulid(jti).ok()?,
                validated_at_ms: number(at).ok()?,
            }),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(validation).collect())
    }
}

impl Tables for SqlTables {
    type Error = Error;

    fn load(&self, seen_after_ms: u64) -> Result<Stored> {
        let mut stored = Stored {
            oldest_bucket: self.nonces.oldest_bucket(&self.sql)?,
            admissions: self.nonces.admissions(&self.sql, seen_after_ms)?,
            seen_tokens: self.tokens("SELECT jti, expires_at_ms FROM seen_tokens")?,
            lifted_tokens: self.tokens("SELECT jti, expires_at_ms FROM lifted_tokens")?,
            validations: self.validations()?,
            ..Stored::default()
        };
        for row in self.rows("SELECT name, value FROM meta", vec![])? {
            let [Value::String(name), Value::String(value)] = row.as_slice() else {
                continue;
            };
            match name.as_str() {
                // Without one that can be read, the object takes a new one, which voids what is cached.
                GENERATION => stored.generation = value.parse().ok(),
                PEERS_LOADED => stored.peers_loaded = true,
                SKEWS => stored.skews = SkewLog::from_text(value),
                FORGOTTEN_THROUGH => {
                    stored.forgotten_through = Some(value.parse().map_err(|_| unexpected())?)
                }
                AGENT_REVOKED => stored.agent_revoked = true,
                LEDGER_ASKED => stored.ledger_asked = true,
                UNCONFIRMED => stored.unconfirmed = true,
                SESSION_UNCONFIRMED => stored.session_unconfirmed = true,
                SESSION_ENDED_AT => stored.session_ended_at_ms = value.parse().ok(),
                _ => {}
            }
        }
        Ok(stored)
    }

    fn facts(&self, request: &AdmitRequest, buckets: RangeInclusive<u64>) -> Result<Facts> {
        let attempt = self.nonces.attempt_of(&buckets);
        let mut values = NonceTables::look_up(&request.nonce_hash, buckets);
        values.push(request.jti.to_string().into());
        values.push(request.peer.as_ref().map(AgentDid::as_str).into());
        // One look-up an admission.
        let query = format!(
            "SELECT {attempt}, EXISTS (SELECT 1 FROM revoked_tokens WHERE jti = ?14), \
             EXISTS (SELECT 1 FROM peers), (SELECT pair_id FROM peers WHERE peer = ?15)"
        );
        match self.rows(&query, values)?.pop().as_deref() {
            Some([attempt, revoked, known, pair]) => Ok(Facts {
                attempt: match attempt {
                    Value::Null => None,
                    attempt => Some(bytes(attempt)?),
                },
                token_revoked: number(revoked)? != 0,
                peers: (number(known)? != 0, optional_pair_id(pair)?),
            }),
            _ => Err(unexpected()),
        }
    }

    fn token_revoked(&self, jti: Ulid) -> Result<bool> {
        let rows = self.rows(
            "SELECT 1 FROM revoked_tokens WHERE jti = ?",
            vec![jti.to_string().into()],
        )?;
        Ok(!rows.is_empty())
    }

    fn insert_nonce(&self, row: &NonceRow) -> Result<()> {
        self.nonces.insert(&self.sql, row)
    }

    fn forget_nonces(&self, through: u64) -> Result<Forgotten> {
        let highest = self.nonces.highest_bucket(&self.sql, through)?;
        if let Some(highest) = highest {
            let mark = "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name)
                DO UPDATE SET value = MAX(CAST(value AS INTEGER), CAST(excluded.value AS INTEGER))";
            self.run(mark, vec![FORGOTTEN_THROUGH.into(), highest.to_string().into()])?;
        }
        self.nonces.delete(&self.sql, through)?;
        Ok(Forgotten {
            highest,
            oldest_left: self.nonces.oldest_bucket(&self.sql)?,
        })
    }

    fn put_generation(&self, generation: Generation, changed: Changed) -> Result<()> {
        if changed == Changed::Session {
            self.run("DELETE FROM validations", vec![])?;
        }
        self.put_meta(GENERATION, generation.to_string())
    }

    fn put_skews(&self, text: &str) -> Result<()> {
        self.put_meta(SKEWS, text.to_owned())
    }

    fn put_agent_revoked(&self) -> Result<()> {
        self.put_meta(AGENT_REVOKED, "1".into())
    }

    fn delete_agent_revoked(&self) -> Result<()> {
        self.run("DELETE FROM meta WHERE name = ?", vec![AGENT_REVOKED.into()])
    }

    fn put_token_lifted(&self, token: &TokenRevocation) -> Result<()> {
        let jti: Value = token.jti.to_string().into();
        self.run("DELETE FROM revoked_tokens WHERE jti = ?", vec![jti.clone()])?;
        let query = "INSERT INTO lifted_tokens (jti, expires_at_ms) VALUES (?, ?)
            ON CONFLICT (jti) DO UPDATE SET expires_at_ms = excluded.expires_at_ms";
        self.run(query, vec![jti, int(token.expires_at_ms)])
    }

    fn delete_lifted_token(&self, jti: Ulid) -> Result<()> {
        self.run(
            "DELETE FROM lifted_tokens WHERE jti = ?",
            vec![jti.to_string().into()],
        )
    }

    fn put_token_revoked(&self, token: &TokenRevocation) -> Result<bool> {
        let jti: Value = token.jti.to_string().into();
        let standing = self.rows(
            "SELECT expires_at_ms FROM revoked_tokens WHERE jti = ?",
            vec![jti.clone()],
        )?;
        if let Some(standing) = standing.first().and_then(|row| row.first())
            && number(standing).is_ok_and(|standing_ms| standing_ms >= token.expires_at_ms)
        {
            return Ok(false);
        }
        let query = "INSERT INTO revoked_tokens (jti, expires_at_ms) VALUES (?, ?)
            ON CONFLICT (jti) DO UPDATE SET expires_at_ms = excluded.expires_at_ms";
        self.run(query, vec![jti, int(token.expires_at_ms)])?;
        Ok(true)
    }

    fn put_token_reissued(&self, token: &TokenRevocation, reissued: bool) -> Result<()> {
        let jti: Value = token.jti.to_string().into();
        if !reissued {
            return self.run("DELETE FROM reissued_tokens WHERE jti = ?", vec![jti]);
        }
        let query = "INSERT INTO reissued_tokens (jti, expires_at_ms) VALUES (?, ?)
            ON CONFLICT (jti) DO UPDATE SET expires_at_ms = MAX(expires_at_ms, excluded.expires_at_ms)";
        self.run(query, vec![jti, int(token.expires_at_ms)])
    }

    fn token_reissued(&self, jti: Ulid) -> Result<bool> {
        let query = "SELECT 1 FROM reissued_tokens WHERE jti = ?";
        Ok(!self.rows(query, vec![jti.to_string().into()])?.is_empty())
    }

    fn put_unconfirmed(&self, unconfirmed: bool) -> Result<()> {
        self.put_mark(UNCONFIRMED, unconfirmed)
    }

    fn put_session_unconfirmed(&self, unconfirmed: bool) -> Result<()> {
        self.put_mark(SESSION_UNCONFIRMED, unconfirmed)
    }

    fn put_session_ended_at(&self, at_ms: u64) -> Result<()> {
        self.put_meta(SESSION_ENDED_AT, at_ms.to_string())
    }

    fn put_ledger_asked(&self) -> Result<()> {
        self.put_meta(LEDGER_ASKED, "1".into())
    }

    fn put_seen_token(&self, jti: Ulid, expires_at_ms: u64) -> Result<()> {
        let query = "INSERT INTO seen_tokens (jti, expires_at_ms) VALUES (?, ?)
            ON CONFLICT (jti) DO UPDATE SET expires_at_ms = excluded.expires_at_ms";
        self.run(query, vec![jti.to_string().into(), int(expires_at_ms)])
    }

    fn delete_seen_token(&self, jti: Ulid) -> Result<()> {
        self.run(
            "DELETE FROM seen_tokens WHERE jti = ?",
            vec![jti.to_string().into()],
        )
    }

    fn put_validation(&self, validation: &Validation) -> Result<()> {
        let query = "INSERT INTO validations (token_hash, jti, validated_at_ms) VALUES (unhex(?), ?, ?)
            ON CONFLICT (token_hash) DO UPDATE SET jti = excluded.jti, validated_at_ms = excluded.validated_at_ms";
        self.run(
            query,
            vec![
                hex(&validation.token_hash),
                validation.jti.to_string().into(),
                int(validation.validated_at_ms),
            ],
        )
    }

    fn delete_validation(&self, token_hash: &[u8; 32]) -> Result<()> {
        self.run(
            "DELETE FROM validations WHERE token_hash = unhex(?)",
            vec![hex(token_hash)],
        )
    }

    fn sweep_tokens(&self, expired_before_ms: u64) -> Result<()> {
        let before = int(expired_before_ms);
        self.run(
            "DELETE FROM revoked_tokens WHERE expires_at_ms < ?",
            vec![before.clone()],
        )?;
        self.run(
            "DELETE FROM lifted_tokens WHERE expires_at_ms < ?",
            vec![before.clone()],
        )?;
        self.run(
            "DELETE FROM reissued_tokens WHERE expires_at_ms < ?",
            vec![before.clone()],
        )?;
        self.run("DELETE FROM seen_tokens WHERE expires_at_ms < ?", vec![before])
    }

    fn peers(&self, peer: Option<&AgentDid>) -> Result<(bool, Option<PairId>)> {
        let query = "SELECT EXISTS (SELECT 1 FROM peers), (SELECT pair_id FROM peers WHERE peer = ?)";
        let peer = peer.map(AgentDid::as_str).into();
        match self.rows(query, vec![peer])?.pop().as_deref() {
            Some([known, pair]) => Ok((number(known)? != 0, optional_pair_id(pair)?)),
            _ => Err(unexpected()),
        }
    }

    fn put_all_peers(&self, peers: &[(AgentDid, PairId)]) -> Result<()> {
        self.run("DELETE FROM peers", vec![])?;
        for (peer, pair_id) in peers {
            self.put_peer(peer, pair_id)?;
        }
        self.put_meta(PEERS_LOADED, "1".into())
    }

    fn put_peer(&self, peer: &AgentDid, pair_id: &PairId) -> Result<()> {
        let query = "INSERT INTO peers (peer, pair_id) VALUES (?, ?)
            ON CONFLICT (peer) DO UPDATE SET pair_id = excluded.pair_id";
        self.run(query, vec![peer.as_str().into(), pair_id.as_str().into()])
    }

    fn delete_peer(&self, peer: &AgentDid) -> Result<()> {
        self.run("DELETE FROM peers WHERE peer = ?", vec![peer.as_str().into()])
    }

    fn has_ended(&self, peer: &AgentDid, pair_id: &PairId) -> Result<bool> {
        let query = "SELECT 1 FROM ended_pairs WHERE peer = ? AND pair_id = ?";
        let rows = self.rows(query, vec![peer.as_str().into(), pair_id.as_str().into()])?;
        Ok(!rows.is_empty())
    }

    fn put_ended(&self, ended: &EndedPair, at_ms: u64, untold_by: Option<&AgentDid>) -> Result<()> {
        let query = "INSERT INTO ended_pairs (peer, pair_id, ended_at_ms, untold_by) VALUES (?, ?, ?, ?)
            ON CONFLICT DO NOTHING";
        let values = vec![
            ended.peer.as_str().into(),
            ended.pair_id.as_str().into(),
            int(at_ms),
            untold_by.map_or(Value::Null, |agent| agent.as_str().into()),
        ];
        self.run(query, values)
    }

    fn put_removed_until(&self, peer: &AgentDid, until_ms: u64) -> Result<()> {
        let query = "INSERT INTO removed_until (peer, until_ms) VALUES (?, ?)
            ON CONFLICT (peer) DO UPDATE SET until_ms = MAX(until_ms, excluded.until_ms)";
        self.run(query, vec![peer.as_str().into(), int(until_ms)])?;
        let surplus = "DELETE FROM removed_until WHERE peer IN
            (SELECT peer FROM removed_until ORDER BY until_ms DESC LIMIT -1 OFFSET ?)";
        self.run(surplus, vec![int(MAX_REMOVED as u64)])
    }

    fn removed_until_ms(&self, peer: &AgentDid) -> Result<Option<u64>> {
        let query = "SELECT until_ms FROM removed_until WHERE peer = ?";
        let rows = self.rows(query, vec![peer.as_str().into()])?;
        rows.first().and_then(|row| row.first()).map(number).transpose()
    }

    fn settle_ended(&self, ended: &EndedPair) -> Result<()> {
        self.run(
            "UPDATE ended_pairs SET untold_by = NULL WHERE peer = ? AND pair_id = ?",
            vec![ended.peer.as_str().into(), ended.pair_id.as_str().into()],
        )
    }

    fn unsettled(&self) -> Result<Vec<(AgentDid, EndedPair)>> {
        let query = "SELECT untold_by, peer, pair_id FROM ended_pairs WHERE untold_by IS NOT NULL";
        let did = |text: &str| AgentDid::parse(text).ok();
        // A row that this version cannot read is left to the one that wrote it.
        let ended = |row: Vec<Value>| match row.as_slice() {
            [Value::String(agent), Value::String(peer), pair] => {
                let ended = EndedPair {
                    peer: did(peer)?,
                    pair_id: pair_id(pair).ok()?,
                };
                Some((did(agent)?, ended))
            }
            _ => None,
        };
        Ok(self.rows(query, vec![])?.into_iter().filter_map(ended).collect())
    }

    fn confirmed_at_ms(&self, what: Confirmed<'_>) -> Result<Option<u64>> {
        let query = "SELECT confirmed_at_ms FROM confirmed WHERE about = ? AND what = ?";
        let rows = self.rows(query, vec![what.about.into(), what.what.into()])?;
        rows.first().and_then(|row| row.first()).map(number).transpose()
    }

    fn put_confirmed(&self, what: Confirmed<'_>, at_ms: u64) -> Result<()> {
        let query = "INSERT INTO confirmed (about, what, confirmed_at_ms) VALUES (?, ?, ?)
            ON CONFLICT (about, what) DO UPDATE SET confirmed_at_ms = excluded.confirmed_at_ms";
        self.run(query, vec![what.about.into(), what.what.into(), int(at_ms)])?;
        let surplus = "DELETE FROM confirmed WHERE (about, what) IN
            (SELECT about, what FROM confirmed ORDER BY confirmed_at_ms DESC LIMIT -1 OFFSET ?)";
        self.run(surplus, vec![int(MAX_CONFIRMED as u64)])
    }

    fn delete_confirmed(&self, what: Confirmed<'_>) -> Result<()> {
        let query = "DELETE FROM confirmed WHERE about = ? AND what = ?";
        self.run(query, vec![what.about.into(), what.what.into()])
    }

    fn has_confirmed(&self) -> Result<bool> {
        Ok(!self.rows("SELECT 1 FROM confirmed LIMIT 1", vec![])?.is_empty())
    }

    fn has_met(&self, peer: &AgentDid) -> Result<bool> {
        let query = "SELECT 1 FROM confirmed WHERE about = ?1 UNION ALL SELECT 1 FROM ended_pairs WHERE peer = ?1 LIMIT 1";
        Ok(!self.rows(query, vec![peer.as_str().into()])?.is_empty())
    }

    fn sweep_confirmed(&self, before_ms: u64) -> Result<()> {
        self.run(
            "DELETE FROM confirmed WHERE confirmed_at_ms < ?",
            vec![int(before_ms)],
        )
    }

    fn sweep_ended(&self, before_ms: u64) -> Result<()> {
        self.run(
            "DELETE FROM removed_until WHERE until_ms < ?",
            vec![int(before_ms)],
        )?;
        self.run(
            "DELETE FROM ended_pairs WHERE untold_by IS NULL AND ended_at_ms < ?",
            vec![int(before_ms)],
        )
    }
}

pub(super) fn number(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(unexpected)
}

/// A value that was read by `hex(...)`.
pub(super) fn bytes<const N: usize>(value: &Value) -> Result<[u8; N]> {
    unhex(value).ok_or_else(unexpected)
}

fn ulid(value: &Value) -> Result<Ulid> {
    match value {
        Value::String(text) => Ulid::parse(text).map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

fn pair_id(value: &Value) -> Result<PairId> {
    match value {
        Value::String(text) => PairId::parse(text).map_err(|_| unexpected()),
        _ => Err(unexpected()),
    }
}

fn optional_pair_id(value: &Value) -> Result<Option<PairId>> {
    match value {
        Value::Null => Ok(None),
        pair => pair_id(pair).map(Some),
    }
}

pub(super) fn unexpected() -> Error {
    Error::RustError("a stored row has an unexpected shape".into())
}

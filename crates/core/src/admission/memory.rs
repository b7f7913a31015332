//! A model of an agent's storage for the tests. It outlives the machine, as the disk outlives an evicted object.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::rc::Rc;

use super::calls::{AdmitRequest, Changed};
use super::generation::Generation;
use super::overlay::TokenRevocation;
use super::pairs::{EndedPair, PairId};
use super::skew::SkewLog;
use super::tables::{
    Confirmed, Facts, Forgotten, MAX_CONFIRMED, MAX_REMOVED, NonceRow, Stored, Tables, Validation,
};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;

/// A clone is the same storage.
#[derive(Clone, Default)]
pub struct Memory(Rc<RefCell<Data>>);

#[derive(Default)]
struct Data {
    stored: Stored,
    nonces: Vec<NonceRow>,
    revoked_tokens: HashMap<Ulid, u64>,
    reissued_tokens: HashMap<Ulid, u64>,
    peers: HashMap<AgentDid, PairId>,
    /// When, and who is to tell the others.
    ended: HashMap<(AgentDid, PairId), (u64, Option<AgentDid>)>,
    removed_until: HashMap<AgentDid, u64>,
    confirmed: HashMap<(String, String), u64>,
}

fn key(what: Confirmed<'_>) -> (String, String) {
    (what.about.to_owned(), what.what.to_owned())
}

impl Memory {
    /// Nonces kept.
    pub fn nonce_rows(&self) -> usize {
        self.0.borrow().nonces.len()
    }

    /// When the revocation of a token ends, if it is revoked.
    pub fn revoked_until_ms(&self, jti: Ulid) -> Option<u64> {
        self.0.borrow().revoked_tokens.get(&jti).copied()
    }
}

impl Tables for Memory {
    type Error = Infallible;

    fn load(&self, seen_after_ms: u64) -> Result<Stored, Infallible> {
        let data = self.0.borrow();
        let seen = data
            .nonces
            .iter()
            .map(|row| (row.rate, row.seen_at_ms))
            .filter(|(_, seen)| *seen > seen_after_ms);
        Ok(Stored {
            oldest_bucket: data.nonces.iter().map(|row| row.bucket).min(),
            admissions: seen.collect(),
            ..data.stored.clone()
        })
    }

    fn facts(&self, request: &AdmitRequest, buckets: RangeInclusive<u64>) -> Result<Facts, Infallible> {
        let peers = self.peers(request.peer.as_ref())?;
        let data = self.0.borrow();
        let row = data
            .nonces
            .iter()
            .find(|row| row.hash == request.nonce_hash && buckets.contains(&row.bucket));
        Ok(Facts {
            attempt: row.map(|row| row.attempt),
            token_revoked: data.revoked_tokens.contains_key(&request.jti),
            peers,
        })
    }

    fn token_revoked(&self, jti: Ulid) -> Result<bool, Infallible> {
        Ok(self.0.borrow().revoked_tokens.contains_key(&jti))
    }

    fn insert_nonce(&self, row: &NonceRow) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        let taken = data
            .nonces
            .iter()
            .any(|known| (known.bucket, known.hash) == (row.bucket, row.hash));
        assert!(!taken, "the primary key is taken");
        data.nonces.push(row.clone());
        Ok(())
    }

    fn forget_nonces(&self, through: u64) -> Result<Forgotten, Infallible> {
        let mut data = self.0.borrow_mut();
        let highest = data
            .nonces
            .iter()
            .map(|row| row.bucket)
            .filter(|bucket| *bucket <= through)
            .max();
        data.nonces.retain(|row| row.bucket > through);
        data.stored.forgotten_through = data.stored.forgotten_through.max(highest);
        Ok(Forgotten {
            highest,
            oldest_left: data.nonces.iter().map(|row| row.bucket).min(),
        })
    }

    fn put_generation(&self, generation: Generation, changed: Changed) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        data.stored.generation = Some(generation);
        if changed == Changed::Session {
            data.stored.validations.clear();
        }
        Ok(())
    }

    fn put_skews(&self, text: &str) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.skews = SkewLog::from_text(text);
        Ok(())
    }

    fn put_agent_revoked(&self) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.agent_revoked = true;
        Ok(())
    }

    fn delete_agent_revoked(&self) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.agent_revoked = false;
        Ok(())
    }

    fn put_token_lifted(&self, token: &TokenRevocation) -> Result<(), Infallible> {
        self.delete_lifted_token(token.jti)?;
        let mut data = self.0.borrow_mut();
        data.revoked_tokens.remove(&token.jti);
        data.stored.lifted_tokens.push((token.jti, token.expires_at_ms));
        Ok(())
    }

    fn delete_lifted_token(&self, jti: Ulid) -> Result<(), Infallible> {
        self.0
            .borrow_mut()
            .stored
            .lifted_tokens
            .retain(|(known, _)| *known != jti);
        Ok(())
    }

    fn put_token_revoked(&self, token: &TokenRevocation) -> Result<bool, Infallible> {
        let mut data = self.0.borrow_mut();
        let before = data.revoked_tokens.get(&token.jti).copied();
        let after = before.max(Some(token.expires_at_ms));
        data.revoked_tokens
            .extend(after.map(|expiry| (token.jti, expiry)));
        Ok(before != after)
    }

    fn put_token_reissued(&self, token: &TokenRevocation, reissued: bool) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        match reissued {
            true => data.reissued_tokens.insert(token.jti, token.expires_at_ms),
            false => data.reissued_tokens.remove(&token.jti),
        };
        Ok(())
    }

    fn token_reissued(&self, jti: Ulid) -> Result<bool, Infallible> {
        Ok(self.0.borrow().reissued_tokens.contains_key(&jti))
    }

    fn put_unconfirmed(&self, unconfirmed: bool) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.unconfirmed = unconfirmed;
        Ok(())
    }

    fn put_session_unconfirmed(&self, unconfirmed: bool) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.session_unconfirmed = unconfirmed;
        Ok(())
    }

    fn put_session_ended_at(&self, at_ms: u64) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.session_ended_at_ms = Some(at_ms);
        Ok(())
    }

    fn put_ledger_asked(&self) -> Result<(), Infallible> {
        self.0.borrow_mut().stored.ledger_asked = true;
        Ok(())
    }

    fn put_seen_token(&self, jti: Ulid, expires_at_ms: u64) -> Result<(), Infallible> {
        self.delete_seen_token(jti)?;
        self.0.borrow_mut().stored.seen_tokens.push((jti, expires_at_ms));
        Ok(())
    }

    fn delete_seen_token(&self, jti: Ulid) -> Result<(), Infallible> {
        self.0
            .borrow_mut()
            .stored
            .seen_tokens
            .retain(|(known, _)| *known != jti);
        Ok(())
    }

    fn put_validation(&self, validation: &Validation) -> Result<(), Infallible> {
        self.delete_validation(&validation.token_hash)?;
        self.0.borrow_mut().stored.validations.push(*validation);
        Ok(())
    }

    fn delete_validation(&self, token_hash: &[u8; 32]) -> Result<(), Infallible> {
        self.0
            .borrow_mut()
            .stored
            .validations
            .retain(|known| known.token_hash != *token_hash);
        Ok(())
    }

    fn sweep_tokens(&self, expired_before_ms: u64) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        data.revoked_tokens
            .retain(|_, expiry| *expiry >= expired_before_ms);
        data.reissued_tokens
            .retain(|_, expiry| *expiry >= expired_before_ms);
        let stored = &mut data.stored;
        for tokens in [&mut stored.seen_tokens, &mut stored.lifted_tokens] {
            tokens.retain(|(_, expiry)| *expiry >= expired_before_ms);
        }
        Ok(())
    }

    fn peers(&self, peer: Option<&AgentDid>) -> Result<(bool, Option<PairId>), Infallible> {
        let data = self.0.borrow();
        let pair = peer.and_then(|peer| data.peers.get(peer).cloned());
        Ok((!data.peers.is_empty(), pair))
    }

    fn put_all_peers(&self, peers: &[(AgentDid, PairId)]) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        data.peers = peers.iter().cloned().collect();
        data.stored.peers_loaded = true;
        Ok(())
    }

    fn put_peer(&self, peer: &AgentDid, pair_id: &PairId) -> Result<(), Infallible> {
        self.0.borrow_mut().peers.insert(peer.clone(), pair_id.clone());
        Ok(())
    }

    fn delete_peer(&self, peer: &AgentDid) -> Result<(), Infallible> {
        self.0.borrow_mut().peers.remove(peer);
        Ok(())
    }

    fn has_ended(&self, peer: &AgentDid, pair_id: &PairId) -> Result<bool, Infallible> {
        let key = (peer.clone(), pair_id.clone());
        Ok(self.0.borrow().ended.contains_key(&key))
    }

    fn put_ended(
        &self,
        ended: &EndedPair,
        at_ms: u64,
        untold_by: Option<&AgentDid>,
    ) -> Result<(), Infallible> {
        let key = (ended.peer.clone(), ended.pair_id.clone());
        self.0
            .borrow_mut()
            .ended
            .entry(key)
            .or_insert((at_ms, untold_by.cloned()));
        Ok(())
    }

    fn put_removed_until(&self, peer: &AgentDid, until_ms: u64) -> Result<(), Infallible> {
        let removed = &mut self.0.borrow_mut().removed_until;
        let known = removed.entry(peer.clone()).or_insert(until_ms);
        *known = until_ms.max(*known);
        if removed.len() > MAX_REMOVED {
            let earliest = removed.iter().min_by_key(|(_, until_ms)| **until_ms);
            let earliest = earliest.map(|(peer, _)| peer.clone());
            earliest.map(|peer| removed.remove(&peer));
        }
        Ok(())
    }

    fn removed_until_ms(&self, peer: &AgentDid) -> Result<Option<u64>, Infallible> {
        Ok(self.0.borrow().removed_until.get(peer).copied())
    }

    fn settle_ended(&self, ended: &EndedPair) -> Result<(), Infallible> {
        let key = (ended.peer.clone(), ended.pair_id.clone());
        if let Some((_, unsettled)) = self.0.borrow_mut().ended.get_mut(&key) {
            *unsettled = None;
        }
        Ok(())
    }

    fn unsettled(&self) -> Result<Vec<(AgentDid, EndedPair)>, Infallible> {
        let data = self.0.borrow();
        let mut unsettled = Vec::new();
        for ((peer, pair_id), (_, untold_by)) in &data.ended {
            let ended = EndedPair {
                peer: peer.clone(),
                pair_id: pair_id.clone(),
            };
            unsettled.extend(untold_by.clone().map(|agent| (agent, ended)));
        }
        Ok(unsettled)
    }

    fn confirmed_at_ms(&self, what: Confirmed<'_>) -> Result<Option<u64>, Infallible> {
        Ok(self.0.borrow().confirmed.get(&key(what)).copied())
    }

    fn put_confirmed(&self, what: Confirmed<'_>, at_ms: u64) -> Result<(), Infallible> {
        let confirmed = &mut self.0.borrow_mut().confirmed;
        confirmed.insert(key(what), at_ms);
        while confirmed.len() > MAX_CONFIRMED {
            let oldest = confirmed.iter().min_by_key(|(_, at_ms)| **at_ms);
            let oldest = oldest.map(|(key, _)| key.clone()).unwrap();
            confirmed.remove(&oldest);
        }
        Ok(())
    }

    fn delete_confirmed(&self, what: Confirmed<'_>) -> Result<(), Infallible> {
        self.0.borrow_mut().confirmed.remove(&key(what));
        Ok(())
    }

    fn has_confirmed(&self) -> Result<bool, Infallible> {
        Ok(!self.0.borrow().confirmed.is_empty())
    }

    fn has_met(&self, peer: &AgentDid) -> Result<bool, Infallible> {
        let data = self.0.borrow();
        let in_a_group = data.confirmed.keys().any(|(about, _)| about == peer.as_str());
        Ok(in_a_group || data.ended.keys().any(|(ended, _)| ended == peer))
    }

    fn sweep_confirmed(&self, before_ms: u64) -> Result<(), Infallible> {
        self.0
            .borrow_mut()
            .confirmed
            .retain(|_, at_ms| *at_ms >= before_ms);
        Ok(())
    }

    fn sweep_ended(&self, before_ms: u64) -> Result<(), Infallible> {
        let mut data = self.0.borrow_mut();
        data.removed_until.retain(|_, until_ms| *until_ms >= before_ms);
        data.ended
            .retain(|_, (at_ms, untold_by)| untold_by.is_some() || *at_ms >= before_ms);
        Ok(())
    }
}

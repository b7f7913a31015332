//! How pairs begin and end in an agent's object.
//!
//! The record is asked; this object's copy decides. What ends a pair here is its agent's own word or the other side's,
//! and is kept in two ways, so that it also holds against what is still on its way:
//!
//! - the id of the pair that has ended never comes back;
//! - a removal ends every pair with that agent that was made until then, also one that this object has not been told of:
//!   its confirmation was first, and only its push came late or never. Whoever is told of such a pair afterwards ends it
//!   in the record. A time that lies ahead of this object's clock is no reason to refuse anything.

use super::super::calls::{Changed, EndPairReply, RevokeReply, StoreReply};
use super::super::generation::Generation;
use super::super::pairs::{EndedPair, Known, PairId, Paired, PeersReply, RecordedPair};
use super::super::tables::Tables;
use super::Admission;
use clawdentity_protocol::did::AgentDid;

/// The end of a pair is remembered for so long: longer than any mail that was let in by it can wait (seven days).
pub const KEEP_ENDED_MS: u64 = 8 * 24 * 3_600_000;

/// Whoever ends a pair tells the others itself first; after this time the object does.
const SETTLE_AFTER_MS: u64 = 3_000;
/// The first pause where that fails; it doubles, up to a minute.
const SETTLE_AGAIN_MS: u64 = 1_000;

/// An end of which others are still to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// The agent of this object.
    pub agent: AgentDid,
    /// The pair.
    pub ended: EndedPair,
    /// Every pair of the two that was made until then has ended too, Unix milliseconds; 0 where that is not known.
    pub until_ms: u64,
}

impl<T: Tables> Admission<T> {
    /// Takes in what the record says now of the pair with this agent. A pair that was ended here stays so; one that was
    /// made before its removal, and of which this object hears only now, is ended everywhere.
    ///
    /// # Errors
    /// The storage's.
    pub fn pair_read(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        peer: &AgentDid,
        recorded: Option<&RecordedPair>,
        fresh: Generation,
    ) -> Result<RevokeReply, T::Error> {
        let (_, held) = self.tables.peers(Some(peer))?;
        let mut stands = None;
        if let Some(pair) = recorded.filter(|_| self.peers_loaded)
            && !self.tables.has_ended(peer, &pair.id)?
        {
            match self.is_removed(now_ms, peer, pair)? {
                false => stands = Some(&pair.id),
                true => self.end_late(now_ms, agent, peer, pair)?,
            }
        }
        // What is not loaded yet will be read as a whole.
        if !self.peers_loaded || held.as_ref() == stands {
            return Ok(self.unchanged());
        }
        match stands {
            Some(pair_id) => self.tables.put_peer(peer, pair_id)?,
            None => self.tables.delete_peer(peer)?,
        }
        self.replace_generation(fresh, Changed::Pairs)
    }

    /// Ends the pair with this agent, on this agent's word. From then on nothing is admitted by it; the rest has to be
    /// told (`unsettled`). Asked again before that is done, it names the same pair again. Where none is held, one that was made
    /// until now and that this object is told of later ends then: the record is not asked because of what a caller names.
    ///
    /// # Errors
    /// The storage's.
    pub fn end_pair(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        peer: &AgentDid,
        fresh: Generation,
    ) -> Result<EndPairReply, T::Error> {
        let (_, held) = self.tables.peers(Some(peer))?;
        let unsettled = self.tables.unsettled()?;
        let mut of_peer = unsettled.into_iter().filter(|(_, ended)| ended.peer == *peer);
        let ended = match held.filter(|_| self.peers_loaded) {
            Some(pair_id) => {
                let ended = EndedPair {
                    peer: peer.clone(),
                    pair_id,
                };
                self.tables.put_ended(&ended, now_ms, Some(agent))?;
                self.tables.delete_peer(peer)?;
                self.settle_failures = 0;
                self.settle_due_ms = Some(now_ms.saturating_add(SETTLE_AFTER_MS));
                self.replace_generation(fresh, Changed::Pairs)?;
                Some(ended.pair_id)
            }
            None => of_peer.next().map(|(_, ended)| ended.pair_id),
        };
        if self.peers_loaded || ended.is_some() {
            self.tables.put_removed_until(peer, now_ms)?;
        }
        Ok(EndPairReply {
            unavailable: !self.peers_loaded,
            ended,
            until_ms: now_ms,
            generation: self.generation,
        })
    }

    /// The other side has ended this pair, and with it every one that was made until `until_ms` (0: not known). `untold_by`
    /// is this agent where the record has not been told: then this object tells it as well, so that the end outlives the
    /// loss of either object.
    ///
    /// # Errors
    /// The storage's.
    pub fn pair_ended(
        &mut self,
        now_ms: u64,
        ended: &EndedPair,
        until_ms: u64,
        untold_by: Option<&AgentDid>,
        fresh: Generation,
    ) -> Result<RevokeReply, T::Error> {
        self.tables.put_ended(ended, now_ms, untold_by)?;
        if until_ms > 0 {
            self.tables.put_removed_until(&ended.peer, until_ms.min(now_ms))?;
        }
        match untold_by {
            Some(_) => {
                self.settle_due_ms
                    .get_or_insert(now_ms.saturating_add(SETTLE_AFTER_MS));
            }
            // Whatever this object still had to tell of it, the other one has.
            None => {
                self.tables.settle_ended(ended)?;
                if self.tables.unsettled()?.is_empty() {
                    self.settle_due_ms = None;
                }
            }
        }
        let (_, held) = self.tables.peers(Some(&ended.peer))?;
        if held.as_ref() != Some(&ended.pair_id) {
            return Ok(self.unchanged());
        }
        self.tables.delete_peer(&ended.peer)?;
        self.replace_generation(fresh, Changed::Pairs)
    }

    /// Whether this object still has another pair with the same agent than this one, which has ended. The record knows
    /// whether that is an older one, which it has not been told of.
    ///
    /// # Errors
    /// The storage's.
    pub fn holds_another(&self, ended: &EndedPair) -> Result<bool, T::Error> {
        let (_, held) = self.tables.peers(Some(&ended.peer))?;
        Ok(held.is_some_and(|held| held != ended.pair_id))
    }

    /// Everybody has been told of the end of this pair. This object learns of it again, as it may have lost its storage
    /// meanwhile, and read the pair from the record just before it ended there.
    ///
    /// # Errors
    /// The storage's.
    pub fn pair_settled(
        &mut self,
        now_ms: u64,
        ended: &EndedPair,
        fresh: Generation,
    ) -> Result<StoreReply, T::Error> {
        self.pair_ended(now_ms, ended, 0, None, fresh)?;
        Ok(StoreReply { stored: true })
    }

    /// The pairs that this agent has ended and of which others are to be told now.
    ///
    /// # Errors
    /// The storage's.
    pub fn to_settle(&self, now_ms: u64) -> Result<Vec<Unsettled>, T::Error> {
        if self.settle_due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            return Ok(Vec::new());
        }
        let unsettled = self.tables.unsettled()?.into_iter();
        let with_time = unsettled.map(|(agent, ended)| {
            Ok(Unsettled {
                until_ms: self.tables.removed_until_ms(&ended.peer)?.unwrap_or(0),
                agent,
                ended,
            })
        });
        with_time.collect()
    }

    /// Not all could be told: they are told again, each time later.
    pub fn settling_failed(&mut self, now_ms: u64) {
        let pause_ms = SETTLE_AGAIN_MS.saturating_mul(1 << self.settle_failures.min(6));
        self.settle_failures = self.settle_failures.saturating_add(1);
        self.settle_due_ms = Some(now_ms.saturating_add(pause_ms));
    }

    /// The agent's peers, and whether `peer` is among them. With `pair_id`, a pair under which something was let in
    /// before: whether that has ended counts as well, as the two may have been paired anew since.
    pub(super) fn peers(
        &self,
        peer: Option<&AgentDid>,
        pair_id: Option<&PairId>,
    ) -> Result<PeersReply, T::Error> {
        let (known, pair) = self.tables.peers(peer)?;
        let ended = match (peer, pair_id) {
            (Some(peer), Some(pair_id)) => self.tables.has_ended(peer, pair_id)?,
            _ => false,
        };
        Ok(self.peers_reply(peer, known, pair.filter(|_| !ended)))
    }

    /// The reply from what the table says of them, which counts only once they are loaded.
    pub(super) fn peers_reply(
        &self,
        peer: Option<&AgentDid>,
        known: bool,
        pair: Option<PairId>,
    ) -> PeersReply {
        if !self.peers_loaded {
            return PeersReply {
                known: Known::Unavailable,
                paired: peer.map(|_| Paired::Unavailable),
            };
        }
        PeersReply {
            known: if known { Known::Yes } else { Known::No },
            paired: peer.map(|_| pair.map_or(Paired::No, Paired::Yes)),
        }
    }

    /// The whole record, less what was ended here and is still in it.
    pub(super) fn load_peers(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        peers: &[(AgentDid, RecordedPair)],
    ) -> Result<(), T::Error> {
        let mut standing = Vec::with_capacity(peers.len());
        for (peer, pair) in peers {
            if self.tables.has_ended(peer, &pair.id)? {
                continue;
            }
            match self.is_removed(now_ms, peer, pair)? {
                false => standing.push((peer.clone(), pair.id.clone())),
                true => self.end_late(now_ms, agent, peer, pair)?,
            }
        }
        self.tables.put_all_peers(&standing)?;
        self.peers_loaded = true;
        Ok(())
    }

    /// A pair of which this object hears only after the removal that ended it: it is ended everywhere.
    fn end_late(
        &mut self,
        now_ms: u64,
        agent: &AgentDid,
        peer: &AgentDid,
        pair: &RecordedPair,
    ) -> Result<(), T::Error> {
        let ended = EndedPair {
            peer: peer.clone(),
            pair_id: pair.id.clone(),
        };
        self.tables.put_ended(&ended, now_ms, Some(agent))?;
        self.settle_due_ms.get_or_insert(now_ms);
        Ok(())
    }

    /// Whether this pair was made before the last removal of a pair of the two.
    fn is_removed(&self, now_ms: u64, peer: &AgentDid, pair: &RecordedPair) -> Result<bool, T::Error> {
        let until_ms = self.tables.removed_until_ms(peer)?;
        Ok(until_ms.is_some_and(|until_ms| until_ms <= now_ms && pair.made_at_ms <= until_ms))
    }
}

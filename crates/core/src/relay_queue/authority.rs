//! What a message was accepted under, and whether that still holds when it is to be sent (docs/design.md §5.4).
//!
//! A message that has to wait is asked about before it is sent: one question about each sender covers all that waits
//! of it. An answer speaks only about what the question named, so a message that came in between is asked about later.
//! What cannot be told holds the message, and nothing but a definite no ends it.

use super::types::DeadReason;
use crate::admission::{Generation, PairId, Paired};
use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::{GroupId, Ulid};

/// A member of a group is believed to be one for so long after the last answer.
pub const MEMBER_BELIEVED_MS: u64 = 15 * 60_000;
/// The most tokens, pairs or groups of one question.
const MAX_NAMED: usize = 16;

/// Under what a message was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The sender's token; unknown for what an older version stored.
    pub jti: Option<Ulid>,
    /// The sender's generation.
    pub generation: Option<Generation>,
    /// Why the sender may write to the recipient.
    pub basis: Basis,
}

/// Why a sender may write to a recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Basis {
    /// It is a notice of the system, in the name of its sender: all that counts is that the sender is not revoked.
    Notice,
    /// An agent may always write to itself.
    Own,
    /// The two are paired; the id is unknown for what an older version stored.
    Pair(Option<PairId>),
    /// Both are in this group.
    Group(GroupId),
}

impl Authority {
    /// Of a notice of the system.
    pub const NOTICE: Self = Self {
        jti: None,
        generation: None,
        basis: Basis::Notice,
    };

    /// Whether this is a notice's.
    pub fn is_notice(&self) -> bool {
        self.basis == Basis::Notice
    }
}

/// What is asked about one sender. That it is not revoked is always asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who.
    pub sender: AgentDid,
    /// Have these tokens ended?
    pub tokens: Vec<Ulid>,
    /// Have these pairs of it and the recipient ended? Whether there is one is always asked.
    pub pairs: Vec<PairId>,
    /// Is it still in these groups?
    pub groups: Vec<GroupId>,
}

impl Question {
    pub(super) fn about(sender: AgentDid) -> Self {
        Self {
            sender,
            tokens: Vec::new(),
            pairs: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Names what this message rests on; false where there is no room for more. `ask_group`: the last answer about its
    /// group is too old.
    pub(super) fn name(&mut self, authority: &Authority, ask_group: bool) -> bool {
        if authority.is_notice() {
            return true;
        }
        let has_token = authority.jti.is_none_or(|jti| named(&mut self.tokens, &jti));
        let has_basis = match &authority.basis {
            Basis::Notice | Basis::Own | Basis::Pair(None) => true,
            Basis::Pair(Some(pair_id)) => named(&mut self.pairs, pair_id),
            Basis::Group(group) => !ask_group || named(&mut self.groups, group),
        };
        has_token && has_basis
    }
}

fn named<T: Clone + PartialEq>(list: &mut Vec<T>, item: &T) -> bool {
    if list.contains(item) {
        return true;
    }
    if list.len() >= MAX_NAMED {
        return false;
    }
    list.push(item.clone());
    true
}

/// What was learned of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nobody could tell: all its mail waits.
    Nothing,
    /// This.
    Of(Box<Known>),
}

/// What is known of a sender at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The agent is revoked.
    pub revoked: bool,
    /// The ledger has not confirmed a revocation yet: mail waits, and is not given up because of it.
    pub unconfirmed: bool,
    /// Its generation.
    pub generation: Generation,
    /// When its owner last ended its session, Unix milliseconds.
    pub session_ended_at_ms: Option<u64>,
    /// Its owner is said to have ended its session, and the ledger has not said when: mail accepted under it waits.
    pub session_unconfirmed: bool,
    /// Whether it is paired with the recipient now.
    pub paired: Paired,
    /// Of each token that was asked about, whether it has ended: revoked, and not because it was reissued.
    pub tokens: Vec<(Ulid, bool)>,
    /// Of each pair that was asked about, whether it has ended.
    pub pairs: Vec<(PairId, bool)>,
    /// Of each group that was asked about, whether it is a member; none where nobody could tell.
    pub groups: Vec<(GroupId, Option<bool>)>,
}

/// What that means for one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It may be sent.
    Good,
    /// Nobody could tell about it: it waits.
    Hold,
    /// The question did not name what it rests on.
    Unasked,
    /// It has no authority any more.
    Ended(DeadReason),
}

impl Known {
    /// Of a sender in good standing of whom nothing else was asked; for tests.
    #[cfg(test)]
    pub(super) fn good() -> Self {
        Self {
            revoked: false,
            unconfirmed: false,
            generation: Generation::from_random([9; 8]),
            session_ended_at_ms: None,
            session_unconfirmed: false,
            paired: Paired::Yes(PairId::unnumbered()),
            tokens: Vec::new(),
            pairs: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// What this means for a message that was accepted at `created_at_ms`. `is_member`: that it is in the message's
    /// group is still believed from before.
    pub fn judge(&self, authority: &Authority, created_at_ms: u64, is_member: bool) -> Verdict {
        let revoked = |reason| match self.unconfirmed {
            true => Verdict::Hold,
            false => Verdict::Ended(reason),
        };
        if self.revoked {
            return revoked(DeadReason::SenderRevoked);
        }
        if authority.is_notice() {
            return Verdict::Good;
        }
        match authority.jti.map(|jti| about(&self.tokens, &jti)) {
            Some(Some(true)) => return revoked(DeadReason::SenderTokenRevoked),
            Some(None) => return Verdict::Unasked,
            Some(Some(false)) | None => {}
        }
        // A session's end replaces the generation, so what has the present one came after it, whatever the clocks say.
        let is_of_this_generation = authority.generation == Some(self.generation);
        if !is_of_this_generation && self.session_ended_at_ms >= Some(created_at_ms) {
            return Verdict::Ended(DeadReason::SenderSessionEnded);
        }
        if !is_of_this_generation && self.session_unconfirmed {
            return Verdict::Hold;
        }
        match &authority.basis {
            Basis::Notice | Basis::Own => Verdict::Good,
            Basis::Pair(pair_id) => self.judge_pair(pair_id.as_ref()),
            Basis::Group(group) => match about(&self.groups, group) {
                Some(Some(true)) => Verdict::Good,
                Some(Some(false)) => Verdict::Ended(DeadReason::SenderLeftGroup),
                Some(None) => Verdict::Hold,
                None if is_member => Verdict::Good,
                None => Verdict::Unasked,
            },
        }
    }

    fn judge_pair(&self, pair_id: Option<&PairId>) -> Verdict {
        match (pair_id.map(|pair_id| about(&self.pairs, pair_id)), &self.paired) {
            (_, Paired::Unavailable) => Verdict::Hold,
            (Some(Some(true)), _) | (_, Paired::No) => Verdict::Ended(DeadReason::PairEnded),
            (Some(None), _) => Verdict::Unasked,
            (Some(Some(false)) | None, Paired::Yes(_)) => Verdict::Good,
        }
    }
}

fn about<K: PartialEq, V: Copy>(list: &[(K, V)], key: &K) -> Option<V> {
    list.iter().find(|(of, _)| of == key).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clawdentity_protocol::testing::agent;

    fn jti(n: u8) -> Ulid {
        Ulid::from_parts(1, [n; 10])
    }

    fn pair(n: u8) -> PairId {
        PairId::parse(&format!("pair-{n}")).unwrap()
    }

    fn group(n: u8) -> GroupId {
        GroupId::parse(&format!("grp_{}", jti(n))).unwrap()
    }

    fn of(basis: Basis) -> Authority {
        Authority {
            jti: Some(jti(1)),
            generation: Some(Generation::from_random([1; 8])),
            basis,
        }
    }

    fn by_pair() -> Authority {
        of(Basis::Pair(Some(pair(1))))
    }

    fn in_group() -> Authority {
        of(Basis::Group(group(1)))
    }

    /// A sender in good standing of whom everything was asked.
    fn good() -> Known {
        Known {
            tokens: vec![(jti(1), false)],
            pairs: vec![(pair(1), false)],
            groups: vec![(group(1), Some(true))],
            ..Known::good()
        }
    }

    /// Rows: what is known, and what it means for a message by a pair, by a group, to oneself, and a notice, all accepted at
    /// the time 1,000.
    #[test]
    fn what_ended_authority_is() {
        use DeadReason::{PairEnded, SenderLeftGroup, SenderRevoked, SenderSessionEnded, SenderTokenRevoked};
        use Verdict::{Ended, Good, Hold, Unasked};
        let all = |verdict| [verdict; 4];
        let sent = |verdict| [verdict, verdict, verdict, Good];
        let mut known = Vec::new();
        let mut row = |name: &'static str, change: &dyn Fn(&mut Known), expect: [Verdict; 4]| {
            let mut of = good();
            change(&mut of);
            known.push((name, of, expect));
        };
        row("all well", &|_| {}, all(Good));
        row(
            "the agent is revoked",
            &|known| known.revoked = true,
            all(Ended(SenderRevoked)),
        );
        row(
            "but the ledger has not confirmed it",
            &|known| (known.revoked, known.unconfirmed) = (true, true),
            all(Hold),
        );
        row(
            "its token is",
            &|known| known.tokens = vec![(jti(1), true)],
            sent(Ended(SenderTokenRevoked)),
        );
        row(
            "but the ledger has not confirmed that",
            &|known| (known.tokens, known.unconfirmed) = (vec![(jti(1), true)], true),
            sent(Hold),
        );
        row(
            "another token of it is",
            &|known| known.tokens.push((jti(2), true)),
            all(Good),
        );
        row(
            "the token was not asked about",
            &|known| known.tokens.clear(),
            sent(Unasked),
        );
        row(
            "its owner ended the session after that",
            &|known| known.session_ended_at_ms = Some(1_000),
            sent(Ended(SenderSessionEnded)),
        );
        row(
            "and before that",
            &|known| known.session_ended_at_ms = Some(999),
            all(Good),
        );
        row(
            "by a clock ahead: the generation is still that of the acceptance",
            &|known| {
                (known.session_ended_at_ms, known.generation) =
                    (Some(5_000), Generation::from_random([1; 8]));
            },
            all(Good),
        );
        let pairs = |verdict| [verdict, Good, Good, Good];
        row(
            "the pair ended",
            &|known| known.pairs = vec![(pair(1), true)],
            pairs(Ended(PairEnded)),
        );
        row(
            "and there is none",
            &|known| known.paired = Paired::No,
            pairs(Ended(PairEnded)),
        );
        row(
            "the two have another one",
            &|known| (known.pairs, known.paired) = (vec![(pair(1), true)], Paired::Yes(pair(2))),
            pairs(Ended(PairEnded)),
        );
        row(
            "nobody knows",
            &|known| known.paired = Paired::Unavailable,
            pairs(Hold),
        );
        row(
            "the pair was not asked about",
            &|known| known.pairs.clear(),
            pairs(Unasked),
        );
        let groups = |verdict| [Good, verdict, Good, Good];
        let membership = |is| move |known: &mut Known| known.groups = vec![(group(1), is)];
        row(
            "it left the group",
            &membership(Some(false)),
            groups(Ended(SenderLeftGroup)),
        );
        row("the registry does not say", &membership(None), groups(Hold));
        row(
            "the group was not asked about",
            &|known| known.groups.clear(),
            groups(Unasked),
        );
        for (name, known, expect) in known {
            let messages = [by_pair(), in_group(), of(Basis::Own), Authority::NOTICE];
            let judged = messages.map(|authority| known.judge(&authority, 1_000, false));
            assert_eq!(judged, expect, "{name}");
        }
    }

    #[test]
    fn what_is_believed_or_unknown_from_before() {
        let mut known = good();
        known.groups.clear();
        assert_eq!(known.judge(&in_group(), 0, true), Verdict::Good, "asked lately");
        known.groups = vec![(group(1), Some(false))];
        let left = Verdict::Ended(DeadReason::SenderLeftGroup);
        assert_eq!(known.judge(&in_group(), 0, true), left, "the newer word counts");
        let old = Authority {
            jti: None,
            generation: None,
            basis: Basis::Pair(None),
        };
        let nothing = Known::good();
        assert_eq!(
            nothing.judge(&old, 0, false),
            Verdict::Good,
            "an older version stored no more"
        );
        let unpaired = Known {
            paired: Paired::No,
            ..Known::good()
        };
        let ended = Verdict::Ended(DeadReason::PairEnded);
        assert_eq!(unpaired.judge(&old, 0, false), ended);
    }

    #[test]
    fn a_question_names_each_thing_once_and_no_more_than_fits() {
        let mut question = Question::about(agent(1));
        for _ in 0..2 {
            assert!(question.name(&by_pair(), true));
            assert!(question.name(&in_group(), true));
            assert!(question.name(&of(Basis::Group(group(2))), false));
            assert!(question.name(&of(Basis::Own), true));
            assert!(question.name(&Authority::NOTICE, true));
        }
        let expect = Question {
            sender: agent(1),
            tokens: vec![jti(1)],
            pairs: vec![pair(1)],
            groups: vec![group(1)],
        };
        assert_eq!(question, expect);
        let fits = (0..40).take_while(|n| question.name(&of(Basis::Pair(Some(pair(*n)))), true));
        assert_eq!(fits.count(), 16, "one of which was named already");
    }
}

//! Who is asked about before waiting mail goes out, and what the answers change.

use super::*;
use crate::relay_queue::lanes::ASK_LOST_AFTER_MS;
use crate::relay_queue::turns::MAX_ASKED;
use clawdentity_protocol::ids::GroupId;

#[test]
fn senders_are_asked_about_before_their_waiting_mail_goes_out() {
    let mut queue = empty();
    for from in [1, 2, 3, 1] {
        offer(&mut queue, from, 0);
    }
    queue.connected(500);
    let pumped = queue.pump(500);
    assert_eq!(
        (pumped.launches.len(), asked(&pumped)),
        (0, vec![sender(1), sender(2), sender(3)])
    );
    assert_eq!(queue.pump(501), Pumped::default(), "asked once");
    queue.learn(&sender(2), &good(), 502);
    let sent: Vec<u64> = queue.pump(502).launches.iter().map(|launch| launch.seq).collect();
    assert_eq!(sent, [2], "one that is slow to be answered about holds up nobody");
    assert_eq!(
        queue.learn(&sender(1), &revoked(), 503),
        [
            dead(1, DeadReason::SenderRevoked),
            dead(4, DeadReason::SenderRevoked)
        ]
    );
    queue.learn(&sender(3), &Answer::Nothing, 503);
    assert_eq!(queue.pump(503), Pumped::default(), "nobody knows about sender 3");
    assert_eq!(queue.next_due_ms(503), Some(503 + SECOND));
    assert_eq!(asked(&queue.pump(503 + SECOND)), [sender(3)]);
}

#[test]
fn an_admission_and_an_answer_are_believed_for_their_time_only() {
    let mut queue = empty();
    for _ in 0..10 {
        offer(&mut queue, 1, 0);
    }
    queue.connected(0);
    let pumped = queue.pump(0);
    let nothing_sent = (0, vec![sender(1)]);
    assert_eq!(
        (pumped.launches.len(), asked(&pumped)),
        nothing_sent,
        "a new connection asks anew"
    );
    queue.learn(&sender(1), &good(), 0);
    assert_eq!(queue.pump(0).launches.len(), 5);
    accept(&mut queue, 1, 499);
    assert_eq!(queue.pump(499).launches.len(), 1);
    accept(&mut queue, 2, 500);
    let pumped = queue.pump(500);
    assert_eq!((pumped.launches.len(), asked(&pumped)), (0, vec![sender(1)]));
    queue.learn(&sender(1), &good(), 700);
    assert_eq!(queue.pump(1_199).launches.len(), 1);
    accept(&mut queue, 3, 1_200);
    assert_eq!(asked(&queue.pump(1_200)), [sender(1)]);
    // An answer that is lost is asked for again.
    assert_eq!(queue.next_due_ms(1_200), Some(1_200 + ASK_LOST_AFTER_MS));
    assert_eq!(asked(&queue.pump(1_200 + ASK_LOST_AFTER_MS)), [sender(1)]);
}

#[test]
fn only_so_many_senders_are_asked_about_at_once() {
    let mut queue = empty();
    for from in 0..40 {
        offer(&mut queue, from, 0);
    }
    queue.connected(500);
    assert_eq!(queue.pump(500).ask.len(), MAX_ASKED);
    queue.learn(&sender(0), &good(), 501);
    let pumped = queue.pump(501);
    assert_eq!((pumped.launches.len(), asked(&pumped)), (1, vec![sender(16)]));
}

/// One question covers all that waits of a sender, whatever it was accepted under; what has ended goes, what nobody can tell
/// about holds up what is behind it, and what came after the question is asked about later.
#[test]
fn one_question_covers_a_senders_mail() {
    let jti = |n: u8| Ulid::from_parts(1, [n; 10]);
    let pair = |n: u8| PairId::parse(&format!("pair-{n}")).unwrap();
    let group = GroupId::parse(&format!("grp_{}", jti(9))).unwrap();
    let mut queue = empty();
    let offer = |queue: &mut RelayQueue, token: u8, basis: Basis, now: u64| {
        let authority = Authority {
            jti: Some(jti(token)),
            generation: None,
            basis,
        };
        let offer = Offer {
            sender: sender(1),
            authority,
            bytes: 1,
            expires_at_ms: now + HOUR,
            admitted: true,
        };
        queue.offer(offer, now)
    };
    offer(&mut queue, 1, Basis::Pair(Some(pair(1))), 0);
    offer(&mut queue, 2, Basis::Pair(Some(pair(1))), 0);
    offer(&mut queue, 1, Basis::Pair(Some(pair(2))), 0);
    offer(&mut queue, 1, Basis::Own, 0);
    offer(&mut queue, 1, Basis::Group(group), 0);
    offer(&mut queue, 1, Basis::Own, 0);
    let later = MEMBER_BELIEVED_MS;
    queue.connected(later - 1);
    assert_eq!(
        queue.pump(later - 1).ask[0].groups,
        [],
        "its membership is believed"
    );
    queue.connected(later);
    let question = Question {
        sender: sender(1),
        tokens: vec![jti(1), jti(2)],
        pairs: vec![pair(1), pair(2)],
        groups: vec![group],
    };
    assert_eq!(queue.pump(later).ask, [question]);
    offer(&mut queue, 3, Basis::Own, later);
    let ended_in_part = Known {
        tokens: vec![(jti(1), false), (jti(2), true)],
        pairs: vec![(pair(1), false), (pair(2), true)],
        groups: vec![(group, None)],
        ..Known::good()
    };
    assert_eq!(
        queue.learn(&sender(1), &known(ended_in_part.clone()), later),
        [
            dead(2, DeadReason::SenderTokenRevoked),
            dead(3, DeadReason::PairEnded)
        ]
    );
    let sent = |pumped: &Pumped| {
        pumped
            .launches
            .iter()
            .map(|launch| launch.seq)
            .collect::<Vec<_>>()
    };
    let pumped = queue.pump(later);
    assert_eq!(sent(&pumped), [1, 4], "5 is held, and 6 and 7 wait behind it");
    assert_eq!(asked(&pumped), [sender(1)], "it is asked about once more");
    queue.learn(&sender(1), &known(ended_in_part), later);
    assert_eq!(queue.pump(later), Pumped::default());
    assert_eq!(queue.next_due_ms(later), Some(later + SECOND));
    let again = &queue.pump(later + SECOND).ask[0];
    assert_eq!(
        (&again.tokens[..], &again.groups[..]),
        (&[jti(1), jti(3)][..], &[group][..])
    );
    let all_good = Known {
        tokens: vec![(jti(1), false), (jti(3), false)],
        groups: vec![(group, Some(true))],
        ..Known::good()
    };
    assert_eq!(queue.learn(&sender(1), &known(all_good), later + SECOND), []);
    let pumped = queue.pump(later + SECOND);
    assert_eq!((sent(&pumped), pumped.ask), (vec![5, 6, 7], vec![]));
}

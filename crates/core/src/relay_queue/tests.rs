//! A queue driven by numbers: tables for each rule, then random events against what was promised.

use proptest::prelude::*;

use super::*;

mod model;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const NONE: [u64; 0] = [];

fn settings() -> QueueSettings {
    QueueSettings {
        max_messages: 500,
        max_bytes: 1_000_000,
        max_in_flight: 5,
        max_attempts: 25,
        retry_initial_ms: SECOND,
        retry_max_ms: 30 * SECOND,
        retry_jitter_ratio: 0.2,
        ack_timeout_ms: 15 * SECOND,
        sender_check_ms: 500,
        sender_retry_ms: SECOND,
    }
}

fn sender(n: u8) -> AgentDid {
    AgentDid::parse(&format!(
        "did:cdi:registry.test:agent:01JZ00000000000000000000{:02}",
        10 + n
    ))
    .unwrap()
}

fn empty() -> RelayQueue {
    RelayQueue::restore(settings(), [], 1, false)
}

fn offer(queue: &mut RelayQueue, from: u8, now: u64) -> Taken {
    let expires_at_ms = now + HOUR;
    queue.offer(
        Offer {
            sender: sender(from),
            bytes: 10,
            expires_at_ms,
            admitted: true,
        },
        now,
    )
}

/// Pumps, and answers every question with "good".
fn pump_trusting(queue: &mut RelayQueue, now: u64) -> Vec<u64> {
    let mut sent = Vec::new();
    loop {
        let pumped = queue.pump(now);
        sent.extend(pumped.launches.iter().map(|launch| launch.seq));
        if pumped.ask.is_empty() {
            return sent;
        }
        for sender in &pumped.ask {
            queue.sender_is(sender, Standing::Good, now);
        }
    }
}

#[test]
fn offline_mail_waits_and_drains_oldest_first_on_connect() {
    let mut queue = empty();
    for n in 0..8 {
        assert_eq!(
            offer(&mut queue, n % 3, 0),
            Taken::Queued {
                seq: u64::from(n) + 1
            }
        );
    }
    assert_eq!(
        queue.next_due_ms(0),
        Some(HOUR),
        "an offline recipient needs nothing before the first expiry"
    );
    assert!(queue.pump(0).ask.is_empty());
    assert!(queue.connected(10).is_empty());
    assert_eq!(pump_trusting(&mut queue, 10), [1, 2, 3, 4, 5]);
    for (acked, next) in [(3, 6), (1, 7), (2, 8)] {
        let change = queue.acknowledged(acked, true, true, 20, 0.5);
        assert_eq!(change, Some(Change::Delivered { seq: acked }));
        assert_eq!(pump_trusting(&mut queue, 20), [next]);
    }
    assert_eq!((queue.depth(), queue.in_flight(), queue.bytes()), (5, 5, 50));
}

#[test]
fn what_can_go_out_at_once_does() {
    let mut queue = empty();
    queue.connected(0);
    for n in 1..=5 {
        let launch = Launch {
            seq: n,
            attempts: 1,
            deadline_ms: 15 * SECOND,
        };
        assert_eq!(offer(&mut queue, 1, 0), Taken::Launched(launch));
    }
    assert_eq!(offer(&mut queue, 2, 0), Taken::Queued { seq: 6 }, "five are out");
    queue.acknowledged(1, true, true, 1, 0.5);
    assert_eq!(
        offer(&mut queue, 2, 1),
        Taken::Queued { seq: 7 },
        "an earlier one of its sender waits"
    );
    assert!(
        matches!(offer(&mut queue, 3, 1), Taken::Launched(_)),
        "another sender's does not matter"
    );
    queue.acknowledged(2, true, true, 1, 0.5);
    let unadmitted = Offer {
        sender: sender(4),
        bytes: 1,
        expires_at_ms: HOUR,
        admitted: false,
    };
    assert_eq!(queue.offer(unadmitted, 1), Taken::Queued { seq: 9 });
    assert_eq!(
        queue.pump(1).ask,
        [sender(2), sender(4)],
        "and then its sender is asked about"
    );
}

#[test]
fn limits_count_live_messages_and_their_bytes() {
    let mut queue = RelayQueue::restore(
        QueueSettings {
            max_messages: 3,
            ..settings()
        },
        [],
        1,
        false,
    );
    for _ in 0..3 {
        assert!(matches!(offer(&mut queue, 1, 0), Taken::Queued { .. }));
    }
    assert_eq!(offer(&mut queue, 2, 0), Taken::Full);
    assert!(queue.settle(2));
    assert!(!queue.settle(2));
    assert!(matches!(offer(&mut queue, 2, 0), Taken::Queued { seq: 4 }));

    let mut queue = RelayQueue::restore(
        QueueSettings {
            max_bytes: 25,
            ..settings()
        },
        [],
        1,
        false,
    );
    offer(&mut queue, 1, 0);
    offer(&mut queue, 1, 0);
    assert_eq!(offer(&mut queue, 1, 0), Taken::Full);
    queue.settle(1);
    assert!(matches!(offer(&mut queue, 1, 0), Taken::Queued { .. }));
}

#[test]
fn a_refused_message_holds_up_its_sender_and_nobody_else() {
    let mut queue = empty();
    for from in [1, 1, 1, 2] {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    assert_eq!(pump_trusting(&mut queue, 0), [1, 2, 3, 4]);
    for from in [1, 2, 1] {
        offer(&mut queue, from, 0); // 5 of sender 1, 6 of sender 2, 7 of sender 1; 5 fills the room
    }
    let refused = queue.acknowledged(2, false, true, 100, 0.5);
    assert_eq!(
        refused,
        Some(Change::Requeued {
            seq: 2,
            attempts: 1,
            due_at_ms: 1_100
        })
    );
    assert_eq!(
        queue.acknowledged(2, false, true, 100, 0.5),
        None,
        "a second refusal says nothing new"
    );
    assert_eq!(
        pump_trusting(&mut queue, 100),
        [6],
        "sender 2 goes on, 7 of sender 1 waits for 2"
    );
    queue.acknowledged(1, true, true, 200, 0.5);
    assert_eq!(pump_trusting(&mut queue, 1_099), NONE);
    assert_eq!(queue.next_due_ms(1_099), Some(1_100));
    assert_eq!(
        pump_trusting(&mut queue, 1_100),
        [2],
        "five are out again: 7 waits for room"
    );
    queue.acknowledged(3, true, true, 1_100, 0.5);
    assert_eq!(pump_trusting(&mut queue, 1_100), [7]);
}

#[test]
fn retries_go_out_in_order_even_where_a_later_one_is_due_first() {
    let mut queue = empty();
    queue.connected(0);
    offer(&mut queue, 1, 0);
    offer(&mut queue, 1, 0);
    queue.acknowledged(1, false, true, 0, 0.999); // due at about 1.2 s
    queue.acknowledged(2, false, true, 0, 0.0); // due at 0.8 s
    assert_eq!(pump_trusting(&mut queue, 800), NONE);
    assert_eq!(pump_trusting(&mut queue, 1_200), [1, 2]);
}

#[test]
fn pauses_double_to_their_limit_with_jitter() {
    let queue = empty();
    let check = |attempts, random, expect| {
        assert_eq!(queue.pause_ms(attempts, random), expect, "{attempts} {random}")
    };
    check(1, 0.5, 1_000);
    check(2, 0.5, 2_000);
    check(5, 0.5, 16_000);
    check(6, 0.5, 30_000);
    check(25, 0.5, 30_000);
    check(u32::MAX, 0.5, 30_000);
    check(1, 0.0, 800);
    check(1, 1.0, 1_200);
    check(9, 0.0, 24_000);
    check(9, 1.0, 36_000);
}

#[test]
fn an_unacknowledged_message_fails_after_its_time_and_only_sends_count() {
    let mut queue = empty();
    queue.connected(0);
    offer(&mut queue, 1, 0);
    assert_eq!(queue.tick(15 * SECOND - 1, || 0.5), []);
    let change = Change::Requeued {
        seq: 1,
        attempts: 1,
        due_at_ms: 16 * SECOND,
    };
    assert_eq!(queue.tick(15 * SECOND, || 0.5), [change]);
    // Without a socket no time passes for it: nothing is sent, nothing counted.
    queue.disconnected(16 * SECOND);
    for now in (20..600).map(|n| n * SECOND) {
        assert_eq!(queue.tick(now, || 0.5), []);
        assert_eq!(queue.pump(now), Pumped::default());
    }
    queue.connected(600 * SECOND);
    let mut now = 600 * SECOND;
    for attempts in 2..=25 {
        let launches = loop {
            let sent = pump_trusting(&mut queue, now);
            if !sent.is_empty() {
                break sent;
            }
            now = queue.next_due_ms(now).unwrap();
        };
        assert_eq!(launches, [1]);
        let change = queue.acknowledged(1, false, true, now, 0.5).unwrap();
        if attempts < 25 {
            assert!(
                matches!(change, Change::Requeued { attempts: a, .. } if a == attempts),
                "{change:?}"
            );
        } else {
            assert_eq!(
                change,
                Change::DeadLetter {
                    seq: 1,
                    reason: DeadReason::AttemptsExhausted
                }
            );
        }
    }
    assert_eq!(queue.depth(), 0);
}

#[test]
fn a_late_acceptance_counts_and_a_late_refusal_does_not() {
    let mut queue = empty();
    queue.connected(0);
    offer(&mut queue, 1, 0);
    offer(&mut queue, 1, 0);
    queue.tick(15 * SECOND, || 0.5);
    assert_eq!(queue.acknowledged(1, false, true, 15 * SECOND, 0.5), None);
    assert_eq!(
        queue.acknowledged(1, true, true, 15 * SECOND, 0.5),
        Some(Change::Delivered { seq: 1 })
    );
    assert_eq!(queue.acknowledged(1, true, true, 15 * SECOND, 0.5), None, "once");
    queue.connected(16 * SECOND);
    assert_eq!(pump_trusting(&mut queue, 16 * SECOND), [2]);
    assert_eq!(
        queue.acknowledged(2, false, false, 16 * SECOND, 0.5),
        None,
        "refused on the socket before"
    );
    assert_eq!(
        queue.acknowledged(2, true, false, 16 * SECOND, 0.5),
        Some(Change::Delivered { seq: 2 })
    );
}

#[test]
fn a_lost_socket_fails_what_was_in_flight_at_once() {
    let mut queue = empty();
    queue.connected(0);
    offer(&mut queue, 1, 0);
    offer(&mut queue, 2, 0);
    assert_eq!(
        queue.disconnected(5),
        [Change::CutOff { seq: 1 }, Change::CutOff { seq: 2 }]
    );
    assert_eq!(queue.disconnected(6), []);
    assert_eq!(offer(&mut queue, 1, 7), Taken::Queued { seq: 3 });
    assert_eq!(queue.connected(8), []);
    assert_eq!(pump_trusting(&mut queue, 8), [1, 2, 3], "due at once, in order");
    assert_eq!(queue.connected(9).len(), 3, "a superseded socket is a lost one");
}

#[test]
fn what_waited_too_long_is_given_up_and_what_is_in_flight_may_still_arrive() {
    let mut queue = empty();
    offer(&mut queue, 1, 0);
    offer(&mut queue, 2, 5);
    assert_eq!(queue.tick(HOUR - 1, || 0.5), []);
    let expired = |seq| Change::DeadLetter {
        seq,
        reason: DeadReason::Expired,
    };
    assert_eq!(queue.tick(HOUR, || 0.5), [expired(1)]);
    queue.connected(HOUR + 4);
    assert_eq!(pump_trusting(&mut queue, HOUR + 4), [2]);
    assert_eq!(queue.tick(HOUR + 5, || 0.5), []);
    assert_eq!(queue.next_due_ms(HOUR + 5), Some(HOUR + 4 + 15 * SECOND));
    assert_eq!(
        queue.acknowledged(2, false, true, HOUR + 6, 0.5),
        Some(expired(2))
    );
    assert_eq!(queue.next_due_ms(HOUR + 6), None);
}

#[test]
fn senders_are_asked_about_before_their_waiting_mail_goes_out() {
    let mut queue = empty();
    for from in [1, 2, 3, 1] {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    let pumped = queue.pump(0);
    assert_eq!(
        (pumped.launches.len(), pumped.ask),
        (0, vec![sender(1), sender(2), sender(3)])
    );
    assert_eq!(queue.pump(1), Pumped::default(), "asked once");
    queue.sender_is(&sender(2), Standing::Good, 2);
    assert_eq!(
        queue.pump(2),
        Pumped::default(),
        "the older one of sender 1 is waited for"
    );
    let dead = |seq| Change::DeadLetter {
        seq,
        reason: DeadReason::SenderRevoked,
    };
    assert_eq!(
        queue.sender_is(&sender(1), Standing::Revoked, 3),
        [dead(1), dead(4)]
    );
    queue.sender_is(&sender(3), Standing::Unknown, 3);
    let sent: Vec<u64> = queue.pump(3).launches.iter().map(|launch| launch.seq).collect();
    assert_eq!(
        sent,
        [2],
        "nobody knows about sender 3: it is held, and holds up nobody"
    );
    assert_eq!(queue.next_due_ms(3), Some(3 + SECOND));
    assert_eq!(queue.pump(3 + SECOND).ask, [sender(3)]);
}

#[test]
fn a_good_standing_is_believed_for_its_time_only() {
    let mut queue = empty();
    for _ in 0..10 {
        offer(&mut queue, 1, 0);
    }
    queue.connected(0);
    assert_eq!(pump_trusting(&mut queue, 0), [1, 2, 3, 4, 5]);
    queue.acknowledged(1, true, true, 499, 0.5);
    assert_eq!(queue.pump(499).launches.len(), 1);
    queue.acknowledged(2, true, true, 500, 0.5);
    let pumped = queue.pump(500);
    assert_eq!((pumped.launches.len(), pumped.ask), (0, vec![sender(1)]));
    queue.sender_is(&sender(1), Standing::Good, 500);
    queue.connected(501);
    assert_eq!(queue.pump(501).ask, [sender(1)], "a new connection asks anew");
    queue.sender_is(&sender(1), Standing::Good, 501);
    assert_eq!(queue.pump(501).launches.len(), 5);
    queue.acknowledged(3, true, true, 1_500, 0.5);
    assert_eq!(queue.pump(1_500).ask, [sender(1)]);
    // An answer that is lost is asked for again.
    assert_eq!(queue.next_due_ms(1_500), Some(1_500 + ASK_LOST_AFTER_MS));
    assert_eq!(queue.pump(1_500 + ASK_LOST_AFTER_MS).ask, [sender(1)]);
}

#[test]
fn only_so_many_senders_are_asked_about_at_once() {
    let mut queue = empty();
    for from in 0..40 {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    assert_eq!(queue.pump(0).ask.len(), MAX_ASKED);
    queue.sender_is(&sender(0), Standing::Good, 1);
    let pumped = queue.pump(1);
    assert_eq!((pumped.launches.len(), pumped.ask), (1, vec![sender(16)]));
}

#[test]
fn a_revoked_recipients_queue_is_given_up_whole() {
    let mut queue = empty();
    queue.connected(0);
    for from in 0..7 {
        offer(&mut queue, from, 0);
    }
    let changes = queue.give_up_all(DeadReason::RecipientRevoked);
    let expect: Vec<Change> = (1..=7)
        .map(|seq| Change::DeadLetter {
            seq,
            reason: DeadReason::RecipientRevoked,
        })
        .collect();
    assert_eq!(changes, expect);
    assert_eq!(
        (
            queue.depth(),
            queue.in_flight(),
            queue.bytes(),
            queue.next_due_ms(0)
        ),
        (0, 0, 0, None)
    );
}

#[test]
fn what_is_stored_comes_back() {
    let row = |seq, attempts, place| StoredRow {
        seq,
        sender: sender(1),
        bytes: 10,
        attempts,
        place,
        created_at_ms: seq,
        expires_at_ms: HOUR,
    };
    let rows = [
        row(3, 1, Place::InFlight { deadline_ms: 900 }),
        row(4, 2, Place::Waiting { due_at_ms: 700 }),
        row(6, 0, Place::Waiting { due_at_ms: 0 }),
        row(7, 25, Place::InFlight { deadline_ms: 950 }),
    ];
    // Hibernated, its socket open: an acknowledgement finds its message, times go on.
    let mut queue = RelayQueue::restore(settings(), rows.clone(), 9, true);
    assert_eq!((queue.depth(), queue.in_flight(), queue.bytes()), (4, 2, 40));
    assert_eq!(queue.oldest_created_at_ms(), Some(3));
    assert_eq!(
        pump_trusting(&mut queue, 600),
        NONE,
        "4 is in back-off, 6 behind it"
    );
    assert_eq!(queue.next_due_ms(600), Some(700));
    assert_eq!(
        queue.acknowledged(3, true, true, 600, 0.5),
        Some(Change::Delivered { seq: 3 })
    );
    assert_eq!(pump_trusting(&mut queue, 700), [4, 6]);
    assert_eq!(
        offer(&mut queue, 2, 700),
        Taken::Launched(Launch {
            seq: 9,
            attempts: 1,
            deadline_ms: 15_700
        })
    );

    // Killed: no socket. What was in flight waits; what was sent as often as may be is found out by `tick`.
    let mut queue = RelayQueue::restore(settings(), rows, 9, false);
    assert!(queue.next_due_ms(600).is_some_and(|due| due <= 600));
    let exhausted = Change::DeadLetter {
        seq: 7,
        reason: DeadReason::AttemptsExhausted,
    };
    assert_eq!(queue.tick(600, || 0.5), [exhausted]);
    assert_eq!(queue.connected(600), []);
    assert_eq!(pump_trusting(&mut queue, 600), [3, 4, 6]);
}

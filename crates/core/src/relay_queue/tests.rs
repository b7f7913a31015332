//! A queue driven by numbers: tables for each rule, then random events checked against the promises.

use proptest::prelude::*;

use super::authority::{Authority, Basis, Known, MEMBER_BELIEVED_MS, Question};
use super::*;
use crate::admission::PairId;
use clawdentity_protocol::ids::Ulid;

mod broken_connections;
mod history;
mod model;
mod questions;
mod waiting;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const NONE: [u64; 0] = [];

fn settings() -> QueueSettings {
    QueueSettings {
        max_messages: 2_500,
        max_messages_per_sender: 500,
        max_bytes: 1_000_000,
        max_in_flight: 5,
        max_attempts: 25,
        retry_initial_ms: SECOND,
        retry_max_ms: 30 * SECOND,
        retry_jitter_ratio: 0.2,
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

/// Of a message by a pair, about which only the two need be known.
fn by_pair() -> Authority {
    Authority {
        jti: None,
        generation: None,
        basis: Basis::Pair(None),
    }
}

fn known(known: Known) -> Answer {
    Answer::Of(Box::new(known))
}

fn good() -> Answer {
    known(Known::good())
}

fn revoked() -> Answer {
    known(Known {
        revoked: true,
        ..Known::good()
    })
}

/// Whom `pump` asks about.
fn asked(pumped: &Pumped) -> Vec<AgentDid> {
    pumped
        .ask
        .iter()
        .map(|question| question.sender.clone())
        .collect()
}

fn with(settings: QueueSettings) -> RelayQueue {
    RelayQueue::restore(settings, [], 1, None)
}

fn empty() -> RelayQueue {
    with(settings())
}

fn offer(queue: &mut RelayQueue, from: u8, now: u64) -> Taken {
    offer_of(queue, from, 10, now)
}

fn offer_of(queue: &mut RelayQueue, from: u8, bytes: u64, now: u64) -> Taken {
    let offer = Offer {
        sender: sender(from),
        authority: by_pair(),
        bytes,
        expires_at_ms: now + HOUR,
        admitted: true,
    };
    queue.offer(offer, now)
}

fn accept(queue: &mut RelayQueue, seq: u64, now: u64) {
    let change = queue.acknowledged(seq, true, true, now, 0.5);
    assert_eq!(change, Some(Change::Delivered { seq }));
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
        for question in &pumped.ask {
            queue.learn(&question.sender, &good(), now);
        }
    }
}

fn cut(seq: u64, mark: Mark, cuts: u32, breaks: u32, due_at_ms: u64) -> Change {
    Change::Cut {
        seq,
        trouble: Trouble { mark, cuts, breaks },
        due_at_ms,
    }
}

fn dead(seq: u64, reason: DeadReason) -> Change {
    Change::DeadLetter { seq, reason }
}

#[test]
fn offline_mail_waits_and_drains_oldest_first_on_connect() {
    let mut queue = empty();
    for n in 0..8 {
        let seq = u64::from(n) + 1;
        assert_eq!(offer(&mut queue, n % 3, 0), Taken::Queued { seq });
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
        accept(&mut queue, acked, 20);
        assert_eq!(pump_trusting(&mut queue, 20), [next]);
    }
    assert_eq!(
        (queue.depth(), queue.in_flight().len(), queue.bytes()),
        (5, 5, 50)
    );
}

#[test]
fn what_can_go_out_at_once_does() {
    let mut queue = empty();
    queue.connected(0);
    for seq in 1..=5 {
        let launch = Launch { seq, attempts: 0 };
        assert_eq!(offer(&mut queue, 1, 0), Taken::Launched(launch));
    }
    assert_eq!(offer(&mut queue, 2, 0), Taken::Queued { seq: 6 }, "five are out");
    accept(&mut queue, 1, 1);
    assert_eq!(
        offer(&mut queue, 2, 1),
        Taken::Queued { seq: 7 },
        "an earlier one of its sender waits"
    );
    assert!(
        matches!(offer(&mut queue, 3, 1), Taken::Launched(_)),
        "another sender's does not matter"
    );
    accept(&mut queue, 2, 1);
    assert_eq!(
        offer(&mut queue, 1, 1),
        Taken::Queued { seq: 9 },
        "while another has mail to send, one has half of the places"
    );
    let unadmitted = Offer {
        sender: sender(4),
        authority: by_pair(),
        bytes: 1,
        expires_at_ms: HOUR,
        admitted: false,
    };
    assert_eq!(queue.offer(unadmitted, 1), Taken::Queued { seq: 10 });
    for (sent, acknowledged) in [(6, &[6][..]), (7, &[7, 3])] {
        let pumped = queue.pump(1);
        assert_eq!(
            pumped.launches,
            [Launch {
                seq: sent,
                attempts: 0
            }]
        );
        assert_eq!(pumped.ask, [], "its admission counts as asked");
        for seq in acknowledged {
            accept(&mut queue, *seq, 1);
        }
    }
    let pumped = queue.pump(1);
    assert_eq!(
        (pumped.launches.len(), asked(&pumped)),
        (0, vec![sender(4)]),
        "who was not admitted is asked about"
    );
}

#[test]
fn each_sender_has_a_share_of_what_may_wait() {
    let small = QueueSettings {
        max_messages: 30,
        max_messages_per_sender: 20,
        ..settings()
    };
    let mut queue = with(small);
    let take =
        |queue: &mut RelayQueue, from| (0..).take_while(|_| offer(queue, from, 0) != Taken::Full).count();
    assert_eq!(take(&mut queue, 1), 20, "its own share");
    assert_eq!(take(&mut queue, 2), 10, "until all is full");
    assert_eq!(
        take(&mut queue, 3),
        10,
        "but nobody with a few is refused for others'"
    );
    assert_eq!(queue.depth(), 40);
    let notice = |queue: &mut RelayQueue| {
        let offer = Offer {
            sender: sender(1),
            authority: Authority::NOTICE,
            bytes: 1,
            expires_at_ms: HOUR,
            admitted: false,
        };
        queue.offer(offer, 0)
    };
    let notices = (0..).take_while(|_| notice(&mut queue) != Taken::Full).count();
    assert_eq!(notices, 20, "notices are counted among themselves");
    assert!(queue.settle(21, 0));
    assert!(!queue.settle(21, 0));
    assert_eq!(
        offer(&mut queue, 2, 0),
        Taken::Queued { seq: 61 },
        "nine wait again: it has a few"
    );
    assert!(queue.settle(1, 0));
    assert_eq!(
        offer(&mut queue, 1, 0),
        Taken::Full,
        "its share is free, the whole is not"
    );

    let mut queue = with(QueueSettings {
        max_bytes: 100,
        ..settings()
    });
    assert!(matches!(offer_of(&mut queue, 1, 25, 0), Taken::Queued { .. }));
    assert_eq!(
        offer_of(&mut queue, 1, 1, 0),
        Taken::Full,
        "a quarter of the bytes"
    );
    for from in 2..34 {
        let taken = offer_of(&mut queue, from, 25, 0);
        assert_eq!(taken == Taken::Full, from == 33, "{from}: and a ceiling over all");
    }
}

#[test]
fn while_another_waits_a_sender_holds_half_of_the_places() {
    let mut queue = empty();
    for from in [1, 1, 1, 1, 1, 1, 2, 3] {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    assert_eq!(
        pump_trusting(&mut queue, 0),
        [1, 7, 8, 2, 3],
        "with nobody else left, the rest is its own"
    );
    offer(&mut queue, 2, 0);
    accept(&mut queue, 1, 0);
    assert_eq!(pump_trusting(&mut queue, 0), [9]);
    offer(&mut queue, 2, 0);
    offer(&mut queue, 3, 0);
    accept(&mut queue, 7, 0);
    accept(&mut queue, 8, 0);
    assert_eq!(
        pump_trusting(&mut queue, 0),
        [11, 10],
        "whoever has less goes first"
    );

    let mut queue = with(QueueSettings {
        max_in_flight: 1,
        ..settings()
    });
    offer(&mut queue, 1, 0);
    queue.connected(0);
    assert_eq!(pump_trusting(&mut queue, 0), [1], "at least one");
}

#[test]
fn a_refused_message_holds_up_its_sender_and_nobody_else() {
    let mut queue = empty();
    for from in [1, 1, 1, 2] {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    assert_eq!(pump_trusting(&mut queue, 0), [1, 4, 2, 3]);
    for from in [1, 2, 1] {
        offer(&mut queue, from, 0); // 5 of sender 1, 6 of sender 2, 7 of sender 1; 5 fills the room
    }
    let refused = queue.acknowledged(2, false, true, 100, 0.5);
    let requeued = Change::Requeued {
        seq: 2,
        attempts: 1,
        due_at_ms: 1_100,
    };
    assert_eq!(refused, Some(requeued));
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
    accept(&mut queue, 1, 200);
    assert_eq!(pump_trusting(&mut queue, 1_099), NONE);
    assert_eq!(queue.next_due_ms(1_099), Some(1_100));
    assert_eq!(
        pump_trusting(&mut queue, 1_100),
        [2],
        "five are out again: 7 waits for room"
    );
    accept(&mut queue, 3, 1_100);
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
fn only_refusals_are_counted() {
    let mut queue = empty();
    let mut now = 0;
    offer(&mut queue, 1, now);
    // However many connections end with it in flight, it is sent once on each, and nothing is counted.
    for _ in 0..100 {
        queue.connected(now);
        assert_eq!(pump_trusting(&mut queue, now), [1]);
        now += 10 * SECOND;
        assert_eq!(queue.tick(now), []);
        assert_eq!(pump_trusting(&mut queue, now), NONE);
        assert_eq!(queue.disconnected(EndedBy::Connector, now).len(), 1);
    }
    queue.connected(now);
    for attempts in 1..=25 {
        while pump_trusting(&mut queue, now) != [1] {
            now = queue.next_due_ms(now).unwrap();
        }
        let change = queue.acknowledged(1, false, true, now, 0.5).unwrap();
        if attempts < 25 {
            assert!(
                matches!(change, Change::Requeued { attempts: a, .. } if a == attempts),
                "{change:?}"
            );
        } else {
            assert_eq!(change, dead(1, DeadReason::AttemptsExhausted));
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
    queue.connected(10);
    assert_eq!(
        queue.acknowledged(1, false, true, 10, 0.5),
        None,
        "not sent on this one"
    );
    accept(&mut queue, 1, 10);
    assert_eq!(queue.acknowledged(1, true, true, 10, 0.5), None, "once");
    assert_eq!(pump_trusting(&mut queue, 10), [2]);
    assert_eq!(
        queue.acknowledged(2, false, false, 20, 0.5),
        None,
        "refused on the connection before"
    );
    assert_eq!(
        queue.acknowledged(2, true, false, 20, 0.5),
        Some(Change::Delivered { seq: 2 })
    );
}

#[test]
fn what_waited_too_long_is_given_up_and_what_is_in_flight_may_still_arrive() {
    let mut queue = empty();
    offer(&mut queue, 1, 0);
    offer(&mut queue, 2, 5);
    offer(&mut queue, 2, 5);
    assert_eq!(queue.tick(HOUR - 1), []);
    assert_eq!(queue.tick(HOUR), [dead(1, DeadReason::Expired)]);
    queue.connected(HOUR + 4);
    assert_eq!(pump_trusting(&mut queue, HOUR + 4), [2, 3]);
    assert_eq!(queue.tick(HOUR + 5), []);
    assert_eq!(queue.next_due_ms(HOUR + 5), Some(HOUR + 4 + 300 * SECOND));
    accept(&mut queue, 3, 2 * HOUR);
    assert_eq!(
        queue.acknowledged(2, false, true, HOUR + 6, 0.5),
        Some(dead(2, DeadReason::Expired))
    );
    assert_eq!(queue.next_due_ms(HOUR + 6), None);
    offer(&mut queue, 1, 2 * HOUR);
    assert_eq!(
        queue.disconnected(EndedBy::Connector, 3 * HOUR),
        [dead(4, DeadReason::Expired)]
    );
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
        .map(|seq| dead(seq, DeadReason::RecipientRevoked))
        .collect();
    assert_eq!(changes, expect);
    let left = (queue.depth(), queue.in_flight().len(), queue.bytes());
    assert_eq!((left, queue.next_due_ms(0)), ((0, 0, 0), None));
}

#[test]
fn what_is_stored_comes_back() {
    let row = |seq, attempts, mark, due_at_ms| StoredRow {
        seq,
        sender: sender(1),
        authority: by_pair(),
        bytes: 10,
        attempts,
        trouble: Trouble {
            mark,
            cuts: 0,
            breaks: 0,
        },
        due_at_ms,
        created_at_ms: seq,
        expires_at_ms: HOUR,
    };
    let rows = [
        row(3, 0, Mark::None, 0),
        row(4, 2, Mark::None, 700),
        row(6, 0, Mark::None, 0),
    ];
    let connection = Connection {
        opened_at_ms: 100,
        progress_at_ms: 400,
        in_flight: vec![(2, 250), (3, 300)],
    };
    // Hibernated, its socket open: an acknowledgement finds its message, times go on. 2 is known to the socket alone.
    let mut queue = RelayQueue::restore(settings(), rows.clone(), 5, Some(connection.clone()));
    assert_eq!(queue.in_flight().collect::<Vec<_>>(), [(3, 300)]);
    assert_eq!(
        (queue.depth(), queue.bytes(), queue.progress_at_ms()),
        (3, 30, Some(400))
    );
    assert_eq!(queue.oldest_created_at_ms(), Some(3));
    assert_eq!(
        pump_trusting(&mut queue, 600),
        NONE,
        "4 is in back-off, 6 behind it"
    );
    assert_eq!(queue.next_due_ms(600), Some(700));
    accept(&mut queue, 3, 600);
    assert_eq!(pump_trusting(&mut queue, 700), [4, 6]);
    let launch = Launch { seq: 7, attempts: 0 };
    assert_eq!(
        offer(&mut queue, 2, 700),
        Taken::Launched(launch),
        "numbers go on"
    );

    // Killed: no socket, nothing is in flight, and nothing was said about any message.
    let mut queue = RelayQueue::restore(settings(), rows.clone(), 9, None);
    assert_eq!(queue.connected(700), []);
    assert_eq!(pump_trusting(&mut queue, 700), [3, 4, 6]);

    // A break is remembered: one at a time.
    let mut rows = rows;
    rows[2].trouble.mark = Mark::Cut;
    let mut queue = RelayQueue::restore(settings(), rows, 9, Some(connection));
    assert_eq!(pump_trusting(&mut queue, 700), NONE);
    accept(&mut queue, 3, 700);
    assert_eq!(pump_trusting(&mut queue, 700), [4]);
}

/// What the alarm finds to do over two hours with a message that nobody answers, another behind it, and a sender of whom
/// nobody can tell anything: a bounded number of times, never twice within a second.
#[test]
fn the_alarm_never_fires_in_a_loop() {
    let mut queue = with(QueueSettings {
        max_in_flight: 1,
        ..settings()
    });
    queue.connected(0);
    assert!(matches!(offer(&mut queue, 1, 0), Taken::Launched(_)));
    offer(&mut queue, 1, 0);
    offer(&mut queue, 2, 5);
    let (mut now, mut alarms) = (5, 0);
    while let Some(due) = queue.next_due_ms(now).filter(|due| *due < 2 * HOUR) {
        assert!(due >= now + SECOND, "{due} after {now}");
        now = due;
        alarms += 1;
        queue.tick(now);
        if queue.is_stalled(now) {
            queue.disconnected(EndedBy::Us, now);
            queue.connected(now);
        }
        for question in queue.pump(now).ask {
            let answer = if alarms % 2 == 0 { good() } else { Answer::Nothing };
            queue.learn(&question.sender, &answer, now);
        }
        queue.pump(now);
    }
    assert!((12..200).contains(&alarms), "{alarms}");
    assert_eq!(queue.depth(), 0, "all of it expired");
}

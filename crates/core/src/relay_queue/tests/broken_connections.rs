//! Connections that break, and what that says about a message.

use super::*;

#[test]
fn a_connection_that_answers_nothing_is_stalled() {
    let minute = 60 * SECOND;
    let mut queue = empty();
    queue.connected(0);
    assert_eq!(queue.next_due_ms(0), None, "nothing is in flight: nothing is due");
    let start = 10 * minute;
    for _ in 0..3 {
        offer(&mut queue, 1, start);
    }
    // A webhook of four minutes: each answer starts the time anew, and nothing is sent twice.
    for seq in 1..=3 {
        let now = start + 4 * minute * seq;
        assert!(!queue.is_stalled(now));
        assert_eq!(pump_trusting(&mut queue, now), NONE);
        accept(&mut queue, seq, now);
    }
    let last = start + 12 * minute;
    offer(&mut queue, 1, last + minute);
    assert_eq!(queue.next_due_ms(last + minute), Some(last + 6 * minute));
    assert!(!queue.is_stalled(last + 6 * minute - 1));
    assert!(queue.is_stalled(last + 6 * minute));
}

#[test]
fn after_a_break_frames_go_one_at_a_time_until_all_that_were_out_are_settled() {
    let mut queue = empty();
    for from in [1, 1, 1, 1, 2, 2, 2] {
        offer(&mut queue, from, 0);
    }
    queue.connected(0);
    assert_eq!(pump_trusting(&mut queue, 0), [1, 5, 2, 6], "two of five each");
    let expect: Vec<Change> = [1, 2, 5, 6].map(|seq| cut(seq, Mark::Cut, 1, 0, 5)).into();
    assert_eq!(queue.disconnected(EndedBy::Connector, 5), expect);
    assert_eq!(queue.disconnected(EndedBy::Connector, 6), []);
    assert_eq!(queue.connected(8), []);
    for seq in [1, 2] {
        assert_eq!(pump_trusting(&mut queue, 8), [seq]);
        accept(&mut queue, seq, 8);
    }
    assert!(
        matches!(offer(&mut queue, 3, 8), Taken::Launched(_)),
        "the place is free"
    );
    assert_eq!(pump_trusting(&mut queue, 8), NONE, "and then it is not");
    accept(&mut queue, 8, 8);
    for seq in [3, 4] {
        assert_eq!(pump_trusting(&mut queue, 8), [seq], "the oldest first");
        accept(&mut queue, seq, 8);
    }
    assert_eq!(pump_trusting(&mut queue, 8), [5]);
    queue.acknowledged(5, false, true, 8, 0.5);
    assert!(matches!(offer(&mut queue, 1, 8), Taken::Launched(_)));
    accept(&mut queue, 9, 8);
    assert_eq!(
        pump_trusting(&mut queue, 8),
        NONE,
        "6 waits for 5, which was refused"
    );
    assert_eq!(pump_trusting(&mut queue, 1_008), [5]);
    accept(&mut queue, 5, 1_008);
    assert_eq!(
        pump_trusting(&mut queue, 1_008),
        [6],
        "the last of them is still alone"
    );
    accept(&mut queue, 6, 1_008);
    for _ in 0..5 {
        assert!(matches!(offer(&mut queue, 4, 1_008), Taken::Launched(_)) || queue.in_flight().len() == 5);
        pump_trusting(&mut queue, 1_008);
    }
    assert_eq!(queue.in_flight().len(), 5, "and then all places are there again");
}

/// One poisonous message among five: on sight of it the connector ends the connection, at once, every time.
#[test]
fn the_message_that_breaks_connections_is_found_and_nobody_elses_dies_with_it() {
    const POISON: u64 = 3;
    let mut queue = empty();
    for from in [1, 2, 3, 2, 1, 3] {
        offer(&mut queue, from, 0);
    }
    let mut now = 0;
    let mut arrived = Vec::new();
    let mut breaks = 0;
    let mut given_up = Vec::new();
    queue.connected(now);
    for _ in 0..1_000 {
        let sent = pump_trusting(&mut queue, now);
        if sent.is_empty() {
            now = queue.next_due_ms(now).unwrap();
        }
        let changes = if sent.contains(&POISON) {
            breaks += 1;
            now += SECOND;
            let changes = queue.disconnected(EndedBy::Connector, now);
            now += SECOND;
            queue.connected(now);
            changes
        } else {
            sent.into_iter()
                .filter_map(|seq| queue.acknowledged(seq, true, true, now, 0.5))
                .collect()
        };
        for change in changes {
            match change {
                Change::Delivered { seq } => arrived.push((seq, now)),
                Change::DeadLetter { seq, reason } => given_up.push((seq, reason, now)),
                _ => {}
            }
        }
        if queue.depth() == 0 {
            break;
        }
    }
    // Once among others, once alone, and on three connections that had lived for 30 s.
    assert_eq!(breaks, 5);
    let [(POISON, DeadReason::ConnectorBroke, at)] = given_up[..] else {
        panic!("{given_up:?}")
    };
    assert!((90 * SECOND..110 * SECOND).contains(&at), "{at}");
    let early: Vec<u64> = arrived
        .iter()
        .filter(|(_, at)| *at < 10 * SECOND)
        .map(|(seq, _)| *seq)
        .collect();
    assert_eq!(early, [1, 2, 4, 5], "nobody else waited");
    assert_eq!(
        arrived.last(),
        Some(&(6, at)),
        "what its sender sent after it waited, and arrived"
    );
}

#[test]
fn only_what_the_connector_does_at_once_is_held_against_a_message() {
    /// One message, sent on a connection that is `lived` old; that connection ends `after` the sending.
    fn check(by: EndedBy, lived: u64, after: u64, expect: Change) {
        let mut queue = empty();
        queue.connected(0);
        offer(&mut queue, 1, lived);
        assert_eq!(
            queue.disconnected(by, lived + after),
            [expect],
            "{by:?} {lived} {after}"
        );
    }
    let old = 30 * SECOND;
    check(
        EndedBy::Connector,
        old,
        2_000,
        cut(1, Mark::Suspect, 1, 1, old + 2_000),
    );
    check(
        EndedBy::Connector,
        old - 1,
        2_000,
        cut(1, Mark::Suspect, 1, 0, old + 1_999),
    );
    check(
        EndedBy::Connector,
        old,
        2_001,
        cut(1, Mark::Cut, 1, 0, old + 2_001),
    );
    check(EndedBy::Us, old, 0, cut(1, Mark::Cut, 1, 0, old));
}

#[test]
fn a_link_that_never_lives_long_dead_letters_nothing_before_its_time() {
    let mut queue = empty();
    for from in [1, 1, 2, 3] {
        offer(&mut queue, from, 0);
    }
    let mut now = 0;
    while now < HOUR {
        assert_eq!(queue.tick(now), []);
        queue.connected(now);
        pump_trusting(&mut queue, now);
        now += SECOND;
        for change in queue.disconnected(EndedBy::Connector, now) {
            assert!(matches!(change, Change::Cut { .. }) || now >= HOUR, "{change:?}");
        }
    }
    queue.tick(now);
    assert_eq!(queue.depth(), 0);
}

#[test]
fn what_ends_every_connection_slowly_still_lets_others_pass() {
    let mut queue = empty();
    offer(&mut queue, 1, 0);
    offer(&mut queue, 2, 0);
    let mut arrived = Vec::new();
    for round in 0..4 {
        let now = round * 10 * SECOND;
        queue.connected(now);
        while let [seq] = pump_trusting(&mut queue, now)[..] {
            if seq == 1 {
                break;
            }
            accept(&mut queue, seq, now);
            arrived.push(seq);
        }
        queue.disconnected(EndedBy::Connector, now + 5 * SECOND);
    }
    assert_eq!(arrived, [2], "though the other is older");
}

//! Memberships under virtual time.

use super::*;
use crate::circuit::FailureKind;
use crate::provenance::Source;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60_000;
const START: u64 = 1_000_000_000;
const AGENT: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB7";
const OTHER: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB8";
const GROUP: &str = "grp_01HF7YAT31JZHSMW1CG6Q6MHB7";
const FAILED: Outcome = Outcome::Failure {
    kind: FailureKind::Timeout,
    retry_after_ms: None,
};

fn new() -> IdentityDesk {
    IdentityDesk::new(IdentitySettings {
        ages: Ages {
            fresh_ms: MINUTE,
            stale_ms: 15 * MINUTE,
        },
        denied_ms: 5 * SECOND,
        max_entries: 10,
        claim_ms: 10 * SECOND,
        circuit: CircuitSettings::default(),
    })
}

fn question(group: &str, agent: &str, generation: u8) -> Membership {
    let generation = Generation::from_random([generation; 8]);
    Membership::new(
        &GroupId::parse(group).unwrap(),
        &AgentDid::parse(agent).unwrap(),
        generation,
    )
}

/// What a request is told, by whom; the registry answers at once if it is asked.
fn request(
    desk: &mut IdentityDesk,
    question: &Membership,
    answer: Result<bool, Outcome>,
    now_ms: u64,
) -> Option<(bool, Source)> {
    match desk.decide(question, now_ms) {
        Decision::Serve {
            value,
            provenance,
            refresh,
        } => {
            if let Some(permit) = refresh {
                desk.answered(question, permit, now_ms, answer, now_ms);
            }
            Some((value, provenance.source))
        }
        Decision::Ask(permit) => {
            desk.answered(question, permit, now_ms, answer, now_ms);
            answer.ok().map(|is_member| (is_member, Source::Network))
        }
        Decision::Unavailable { .. } => None,
    }
}

#[test]
fn a_member_is_fresh_then_stale_then_unknown() {
    let mut desk = new();
    let member = question(GROUP, AGENT, 1);
    let table = [
        (0, Ok(true), Some((true, Source::Network))),
        (MINUTE - 1, Err(FAILED), Some((true, Source::Fresh))),
        (MINUTE, Err(FAILED), Some((true, Source::Stale))),
        (15 * MINUTE - 1, Err(FAILED), Some((true, Source::Stale))),
        (15 * MINUTE, Err(FAILED), None),
        (15 * MINUTE, Ok(true), Some((true, Source::Network))),
        // Left the group: stale is served once, then the answer counts.
        (17 * MINUTE, Ok(false), Some((true, Source::Stale))),
        (17 * MINUTE + 4_999, Ok(true), Some((false, Source::Fresh))),
        // Joined again: not believed to be out for long.
        (17 * MINUTE + 5_000, Ok(true), Some((true, Source::Network))),
    ];
    for (at_ms, answer, expect) in table {
        assert_eq!(
            request(&mut desk, &member, answer, START + at_ms),
            expect,
            "{at_ms}"
        );
    }
}

#[test]
fn a_membership_is_of_one_agent_in_one_group_under_one_generation() {
    let mut desk = new();
    request(&mut desk, &question(GROUP, AGENT, 1), Ok(true), START);
    let others = [
        question(GROUP, OTHER, 1),
        question("grp_01HF7YAT31JZHSMW1CG6Q6MHB8", AGENT, 1),
        question(GROUP, AGENT, 2),
    ];
    for other in others {
        assert_eq!(
            request(&mut desk, &other, Ok(false), START),
            Some((false, Source::Network))
        );
    }
    assert_eq!(
        request(&mut desk, &question(GROUP, AGENT, 1), Ok(false), START),
        Some((true, Source::Fresh))
    );
}

#[test]
fn ownership_and_membership_share_one_circuit() {
    let mut desk = new();
    for _ in 0..5 {
        let permit = desk.circuit().ask(START).unwrap();
        desk.circuit().report(permit, FAILED, START);
    }
    assert_eq!(
        request(&mut desk, &question(GROUP, AGENT, 1), Ok(true), START),
        None
    );
}

#[test]
fn bodies_mean_what_the_wire_says() {
    let ownership = |owns_agent, agent_status| {
        Some(Ownership {
            owns_agent,
            agent_status,
        })
    };
    let (active, revoked) = (Some(AgentStatus::Active), Some(AgentStatus::Revoked));
    let table = [
        (
            r#"{"ownsAgent":true,"agentStatus":"active"}"#,
            ownership(true, active),
            true,
        ),
        (
            r#"{"ownsAgent":true,"agentStatus":"active","more":1}"#,
            ownership(true, active),
            true,
        ),
        (
            r#"{"ownsAgent":true,"agentStatus":"revoked"}"#,
            ownership(true, revoked),
            false,
        ),
        (
            r#"{"ownsAgent":true,"agentStatus":null}"#,
            ownership(true, None),
            false,
        ),
        (
            r#"{"ownsAgent":false,"agentStatus":"active"}"#,
            ownership(false, active),
            false,
        ),
        (r#"{"ownsAgent":true}"#, ownership(true, None), false),
        (r#"{"agentStatus":"active"}"#, None, false),
        (r#"{"ownsAgent":"true","agentStatus":"active"}"#, None, false),
        (r#"{"ownsAgent":true,"agentStatus":"suspended"}"#, None, false),
        (
            r#"{"ownsAgent":false,"ownsAgent":true,"agentStatus":"active"}"#,
            None,
            false,
        ),
        (r#"[true,"active"]"#, None, false),
        ("null", None, false),
        ("", None, false),
    ];
    for (body, expect, confirmed) in table {
        let parsed = Ownership::parse(body.as_bytes());
        assert_eq!(parsed, expect, "{body}");
        assert_eq!(parsed.is_some_and(Ownership::is_confirmed), confirmed, "{body}");
    }
    let table = [
        (r#"{"isMember":true}"#, Some(true)),
        (r#"{"isMember":false,"more":1}"#, Some(false)),
        (r#"{"isMember":false,"isMember":true}"#, None),
        (r#"{"isMember":1}"#, None),
        (r#"{}"#, None),
        (r#"[true]"#, None),
    ];
    for (body, expect) in table {
        assert_eq!(parse_membership(body.as_bytes()), expect, "{body}");
    }
}

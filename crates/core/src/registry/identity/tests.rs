//! What the answers mean, and what a membership is remembered under.

use super::*;

const AGENT: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB7";
const OTHER: &str = "did:cdi:registry.example.com:agent:01HF7YAT31JZHSMW1CG6Q6MHB8";
const GROUP: &str = "grp_01HF7YAT31JZHSMW1CG6Q6MHB7";

#[test]
fn a_membership_is_of_one_agent_in_one_group_under_one_generation() {
    let key = |group: &str, agent: &str, generation: u8| {
        let generation = Generation::from_random([generation; 8]);
        membership_key(
            &GroupId::parse(group).unwrap(),
            &AgentDid::parse(agent).unwrap(),
            generation,
        )
    };
    let one = key(GROUP, AGENT, 1);
    assert_eq!(one, key(GROUP, AGENT, 1));
    let others = [
        key(GROUP, OTHER, 1),
        key("grp_01HF7YAT31JZHSMW1CG6Q6MHB8", AGENT, 1),
        key(GROUP, AGENT, 2),
    ];
    assert!(others.iter().all(|other| *other != one));
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

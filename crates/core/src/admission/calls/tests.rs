//! The formats of the calls and of their replies, byte for byte.

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::*;
use crate::admission::pairs::{Known, Paired};
use clawdentity_protocol::did::HumanDid;
use clawdentity_protocol::ids::GroupId;

const DID: &str = "did:cdi:registry.example.com:agent:01HF7YAT00W6W7CM7N3W5FDXT4";

fn agent() -> AgentDid {
    AgentDid::parse(DID).unwrap()
}

fn jti() -> Ulid {
    Ulid::parse("01HF7YAT31JZHSMW1CG6Q6MHB7").unwrap()
}

fn pinned<T: Serialize + DeserializeOwned + Debug>(value: &T, json: &str) {
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    let back: T = serde_json::from_str(json).unwrap();
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
}

#[test]
fn calls_are_pinned() {
    let admit = AdmitRequest {
        agent: agent(),
        jti: jti(),
        jti_expires_at_ms: 2,
        timestamp_s: 1,
        nonce_hash: [0; 32],
        attempt: [0xff; 16],
        peer: None,
        rate: Rate::Requests,
    };
    let zeros = "A".repeat(43);
    let admit_json = format!(
        r#"{{"admit":{{"agent":"{DID}","jti":"01HF7YAT31JZHSMW1CG6Q6MHB7","jti_expires_at_ms":2,"timestamp_s":1,"nonce_hash":"{zeros}","attempt":"_____________________w"}}}}"#
    );
    pinned(&TrustCall::Admit(admit.clone()), &admit_json);
    let rate = Rate::Receipts;
    pinned(
        &TrustCall::Admit(AdmitRequest { rate, ..admit }),
        &admit_json.replace("}}", r#","rate":"receipts"}}"#),
    );
    pinned(
        &TrustCall::Revoke(RevokeRequest {
            agent: agent(),
            revoke_agent: false,
            tokens: vec![TokenRevocation {
                jti: jti(),
                expires_at_ms: 3,
            }],
            unconfirmed: false,
            reissued: None,
        }),
        &format!(
            r#"{{"revoke":{{"agent":"{DID}","revoke_agent":false,"tokens":[{{"jti":"01HF7YAT31JZHSMW1CG6Q6MHB7","expires_at_ms":3}}]}}}}"#
        ),
    );
    pinned(
        &TrustCall::Lift(LiftRequest {
            agent: agent(),
            lift_agent: true,
            tokens: vec![],
        }),
        &format!(r#"{{"lift":{{"agent":"{DID}","lift_agent":true,"tokens":[]}}}}"#),
    );
    pinned(
        &TrustCall::ReplaceGeneration {
            agent: agent(),
            changed: Changed::Pairs,
            by_owner: false,
        },
        &format!(r#"{{"replace_generation":{{"agent":"{DID}","changed":"pairs"}}}}"#),
    );
    pinned(
        &TrustCall::SessionEnded {
            agent: agent(),
            at_ms: Some(7),
        },
        &format!(r#"{{"session_ended":{{"agent":"{DID}","at_ms":7}}}}"#),
    );
    pinned(
        &TrustCall::Check {
            agent: agent(),
            jti: None,
            peer: None,
            pair_id: None,
            mail: None,
            named: None,
        },
        &format!(r#"{{"check":{{"agent":"{DID}","jti":null}}}}"#),
    );
    let peer = || AgentDid::parse(DID).unwrap();
    pinned(
        &TrustCall::Check {
            agent: agent(),
            jti: None,
            peer: Some(peer()),
            pair_id: None,
            mail: Some(MailQuestion {
                tokens: vec![jti()],
                pairs: vec![PairId::unnumbered()],
            }),
            named: None,
        },
        &format!(
            r#"{{"check":{{"agent":"{DID}","jti":null,"peer":"{DID}","mail":{{"tokens":["01HF7YAT31JZHSMW1CG6Q6MHB7"],"pairs":["unnumbered"]}}}}}}"#
        ),
    );
    pinned(
        &TrustCall::PairChanged {
            agent: agent(),
            peer: peer(),
        },
        &format!(r#"{{"pair_changed":{{"agent":"{DID}","peer":"{DID}"}}}}"#),
    );
    pinned(
        &TrustCall::EndPair {
            agent: agent(),
            peer: peer(),
        },
        &format!(r#"{{"end_pair":{{"agent":"{DID}","peer":"{DID}"}}}}"#),
    );
    let ended = || EndedPair {
        peer: peer(),
        pair_id: PairId::unnumbered(),
    };
    let ended_json = format!(r#"{{"agent":"{DID}","ended":{{"peer":"{DID}","pair_id":"unnumbered"}}}}"#);
    pinned(
        &TrustCall::PairEnded {
            agent: agent(),
            ended: ended(),
            until_ms: 0,
            unrecorded: false,
        },
        &format!(
            r#"{{"pair_ended":{{"agent":"{DID}","ended":{{"peer":"{DID}","pair_id":"unnumbered"}},"until_ms":0}}}}"#
        ),
    );
    pinned(
        &TrustCall::PairEnded {
            agent: agent(),
            ended: ended(),
            until_ms: 7,
            unrecorded: true,
        },
        &format!(
            r#"{{"pair_ended":{{"agent":"{DID}","ended":{{"peer":"{DID}","pair_id":"unnumbered"}},"until_ms":7,"unrecorded":true}}}}"#
        ),
    );
    pinned(
        &TrustCall::PairSettled {
            agent: agent(),
            ended: ended(),
        },
        &format!(r#"{{"pair_settled":{ended_json}}}"#),
    );
    pinned(
        &TrustCall::StoreValidation(StoreValidation {
            agent: agent(),
            jti: jti(),
            token_hash: [0; 32],
            validated_at_ms: 5,
            generation: Generation::from_random([1; 8]),
        }),
        &format!(
            r#"{{"store_validation":{{"agent":"{DID}","jti":"01HF7YAT31JZHSMW1CG6Q6MHB7","token_hash":"{zeros}","validated_at_ms":5,"generation":"0101010101010101"}}}}"#
        ),
    );
    pinned(
        &TrustCall::DropValidation {
            agent: agent(),
            token_hash: [0; 32],
        },
        &format!(r#"{{"drop_validation":{{"agent":"{DID}","token_hash":"{zeros}"}}}}"#),
    );
}

#[test]
fn replies_are_pinned() {
    let generation = Generation::from_random([1; 8]);
    let validations = Validations(vec![Validated {
        token_hash: [0; 32],
        at_ms: 7,
    }]);
    assert_eq!(
        (validations.at_ms(&[0; 32]), validations.at_ms(&[1; 32])),
        (Some(7), None)
    );
    let cases = [
        (
            AdmitReply::Admitted {
                generation,
                peers: PeersReply::default(),
                validations: Validations::default(),
                token_lifted: false,
            },
            r#"{"admitted":{"generation":"0101010101010101","peers":{"known":"unavailable"}}}"#,
        ),
        (
            AdmitReply::Admitted {
                generation,
                peers: PeersReply {
                    known: Known::Yes,
                    paired: Some(Paired::Yes(PairId::unnumbered())),
                },
                validations,
                token_lifted: true,
            },
            r#"{"admitted":{"generation":"0101010101010101","peers":{"known":"yes","paired":{"yes":"unnumbered"}},"validations":[{"token_hash":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","at_ms":7}],"token_lifted":true}}"#,
        ),
        (
            AdmitReply::Revoked {
                what: RevokedWhat::Agent,
            },
            r#"{"revoked":{"what":"agent"}}"#,
        ),
        (AdmitReply::Replayed, r#""replayed""#),
        (
            AdmitReply::OverRate { retry_after_s: 9 },
            r#"{"over_rate":{"retry_after_s":9}}"#,
        ),
        (AdmitReply::Skewed, r#""skewed""#),
    ];
    for (reply, json) in &cases {
        pinned(reply, json);
    }
    pinned(
        &RevokeReply {
            changed: true,
            generation,
        },
        r#"{"changed":true,"generation":"0101010101010101"}"#,
    );
    pinned(
        &CheckReply {
            revoked: None,
            generation,
            worst_skew: None,
            unconfirmed: false,
            reissued: false,
            session_ended_at_ms: None,
            session_unconfirmed: false,
            peers: PeersReply::default(),
            mail: None,
            met: false,
            may_ask: None,
        },
        r#"{"revoked":null,"generation":"0101010101010101","peers":{"known":"unavailable"}}"#,
    );
    pinned(
        &CheckReply {
            revoked: None,
            generation,
            worst_skew: Some(WorstSkew {
                skew_s: -250,
                at_ms: 7,
            }),
            unconfirmed: false,
            reissued: false,
            session_ended_at_ms: None,
            session_unconfirmed: false,
            peers: PeersReply::default(),
            mail: Some(MailReply {
                ended_tokens: vec![jti()],
                ended_pairs: vec![PairId::unnumbered()],
            }),
            met: false,
            may_ask: None,
        },
        r#"{"revoked":null,"generation":"0101010101010101","worst_skew":{"skew_s":-250,"at_ms":7},"peers":{"known":"unavailable"},"mail":{"ended_tokens":["01HF7YAT31JZHSMW1CG6Q6MHB7"],"ended_pairs":["unnumbered"]}}"#,
    );
    pinned(&StoreReply { stored: true }, r#"{"stored":true}"#);
    let named = |named: &Named, json: &str| {
        let answered = TrustCall::Answered {
            agent: agent(),
            named: named.clone(),
            is_yes: Some(true),
        };
        let expect = format!(r#"{{"answered":{{"agent":"{DID}","named":{json},"is_yes":true}}}}"#);
        pinned(&answered, &expect);
    };
    let zeros = "A".repeat(43);
    named(&Named::Token([0; 32]), &format!(r#"{{"token":"{zeros}"}}"#));
    named(
        &Named::Member {
            group: GroupId::parse("grp_01HF7YAT31JZHSMW1CG6Q6MHB7").unwrap(),
            member: agent(),
        },
        &format!(r#"{{"member":{{"group":"grp_01HF7YAT31JZHSMW1CG6Q6MHB7","member":"{DID}"}}}}"#),
    );
    let owner = DID.replace(":agent:", ":human:");
    named(
        &Named::Owner(HumanDid::parse(&owner).unwrap()),
        &format!(r#"{{"owner":"{owner}"}}"#),
    );
    for (may_ask, json) in [
        (MayAsk::Confirmed, r#""confirmed""#),
        (MayAsk::Ask { known: true }, r#"{"ask":{"known":true}}"#),
        (MayAsk::Refused, r#""refused""#),
        (
            MayAsk::Wait { retry_after_ms: 9 },
            r#"{"wait":{"retry_after_ms":9}}"#,
        ),
    ] {
        pinned(&may_ask, json);
    }
}

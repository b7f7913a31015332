//! The calls and their answers as they are on the wire between objects.

use std::fmt::Debug;

use serde::de::DeserializeOwned;

use super::*;

const A: &str = "did:cdi:registry.test:agent:01JZ0000000000000000000001";
const O: &str = "did:cdi:registry.test:human:01JZ0000000000000000000002";
const J: &str = "01JZ0000000000000000000003";

fn agent() -> AgentDid {
    AgentDid::parse(A).unwrap()
}

fn ulid() -> Ulid {
    Ulid::parse(J).unwrap()
}

/// `A`, `O` and `J` stand for the ids.
fn text(pattern: &str) -> String {
    pattern
        .replace("\"A\"", &format!("\"{A}\""))
        .replace("\"O\"", &format!("\"{O}\""))
        .replace("\"J\"", &format!("\"{J}\""))
}

fn pinned<T: Serialize + DeserializeOwned + Debug>(value: &T, pattern: &str) {
    let json = text(pattern);
    assert_eq!(serde_json::to_string(value).unwrap(), json);
    assert_eq!(
        format!("{:?}", serde_json::from_str::<T>(&json).unwrap()),
        format!("{value:?}")
    );
}

fn pinned_call(call: RelayCall<'_>, pattern: &str) {
    let json = text(&format!(r#"{{"agent":"A","call":{pattern}}}"#));
    let request = RelayRequest { agent: agent(), call };
    assert_eq!(serde_json::to_string(&request).unwrap(), json);
    let back: RelayRequest<'_> = serde_json::from_str(&json).unwrap();
    assert_eq!(format!("{back:?}"), format!("{request:?}"));
}

/// During a deploy old code and new talk to each other.
#[test]
fn calls_are_pinned() {
    let payload: &RawValue = serde_json::from_str(r#"{"a":1.0,  "b":1e400}"#).unwrap();
    let bare = DeliverCall {
        sender: agent(),
        request_id: ulid().into(),
        payload,
        delivery_source: None,
        content_type: None,
        group_id: None,
        conversation_id: None,
        reply_to: None,
        pair_id: None,
        sender_admitted: true,
        wait: false,
        hash: None,
        jti: None,
        generation: None,
    };
    let full = DeliverCall {
        sender: agent(),
        request_id: ulid().into(),
        delivery_source: Some("s".into()),
        content_type: Some("t".into()),
        group_id: Some(GroupId::parse(&format!("grp_{J}")).unwrap()),
        conversation_id: Some("c".into()),
        reply_to: Some("https://r".into()),
        pair_id: Some(PairId::unnumbered()),
        hash: Some("00".into()),
        jti: Some(ulid()),
        generation: Some(serde_json::from_str("\"00000000000000ab\"").unwrap()),
        ..bare
    };
    pinned_call(
        RelayCall::Deliver(bare),
        r#"{"deliver":{"sender":"A","requestId":"J","payload":{"a":1.0,  "b":1e400},"senderAdmitted":true,"wait":false}}"#,
    );
    let all = format!(
        r#"{{"deliver":{{"sender":"A","requestId":"J","payload":{{"a":1.0,  "b":1e400}},"deliverySource":"s","contentType":"t","groupId":"grp_{J}","conversationId":"c","replyTo":"https://r","pairId":"unnumbered","senderAdmitted":true,"wait":false,"hash":"00","jti":"J","generation":"00000000000000ab"}}}}"#
    );
    pinned_call(RelayCall::Deliver(full), &all);
    let receipt = ReceiptCall {
        sender: agent(),
        request_id: ulid().into(),
        status: ReceiptStatus::DeadLettered,
        reason: Some("r".into()),
    };
    pinned_call(
        RelayCall::RecordReceipt(receipt),
        r#"{"recordReceipt":{"sender":"A","requestId":"J","status":"dead_lettered","reason":"r"}}"#,
    );
    let receipts = vec![PushReceipt {
        request_id: ulid(),
        status: ReceiptStatus::DeliveredToWebhook,
        reason: None,
    }];
    pinned_call(
        RelayCall::PushReceipts(PushReceiptsCall {
            recipient: agent(),
            receipts,
        }),
        r#"{"pushReceipts":{"recipient":"A","receipts":[{"requestId":"J","status":"delivered_to_webhook"}]}}"#,
    );
    pinned_call(
        RelayCall::FindDelivery {
            sender: agent(),
            request_id: ulid().into(),
        },
        r#"{"findDelivery":{"sender":"A","request_id":"J"}}"#,
    );
    let generation = serde_json::from_str("\"00000000000000ab\"").unwrap();
    pinned_call(
        RelayCall::GenerationChanged { generation },
        r#"{"generationChanged":{"generation":"00000000000000ab"}}"#,
    );
    let revoke = |which| RelayCall::RevokeSockets { which };
    pinned_call(
        revoke(RevokedSockets::Agent),
        r#"{"revokeSockets":{"which":"agent"}}"#,
    );
    pinned_call(
        revoke(RevokedSockets::Session),
        r#"{"revokeSockets":{"which":"session"}}"#,
    );
    pinned_call(
        revoke(RevokedSockets::Tokens(vec![ulid()])),
        r#"{"revokeSockets":{"which":{"tokens":["J"]}}}"#,
    );
    pinned_call(RelayCall::LiftRevocation, r#""liftRevocation""#);
    pinned_call(RelayCall::Inspect, r#""inspect""#);
}

#[test]
fn replies_are_pinned() {
    pinned(
        &RelayReply::Delivery(Delivery {
            delivery_id: ulid(),
            state: DeliveryState::Queued,
            queue_depth: 2,
            connected_sockets: 1,
        }),
        r#"{"delivery":{"deliveryId":"J","state":"queued","queueDepth":2,"connectedSockets":1}}"#,
    );
    pinned(&RelayReply::QueueFull, r#""queueFull""#);
    pinned(&RelayReply::RequestIdReused, r#""requestIdReused""#);
    pinned(
        &RelayReply::Found(FoundDelivery {
            request_id: ulid().into(),
            delivery_id: ulid(),
            state: DeliveryState::DeadLettered,
            reason: Some("expired".into()),
            expires_at_ms: 5,
            status_updated_at_ms: 4,
        }),
        r#"{"found":{"requestId":"J","deliveryId":"J","state":"dead_lettered","reason":"expired","expiresAtMs":5,"statusUpdatedAtMs":4}}"#,
    );
    pinned(&RelayReply::NotFound, r#""notFound""#);
    pinned(&RelayReply::Closed { sockets: 1 }, r#"{"closed":{"sockets":1}}"#);
    pinned(&RelayReply::Done, r#""done""#);
    pinned(
        &RelayReply::Status(SessionStatus {
            queue_depth: 1,
            in_flight: 1,
            queued_bytes: 7,
            oldest_age_ms: None,
            connected_sockets: 1,
            revoked: false,
            stored_bytes: 8,
        }),
        r#"{"status":{"queueDepth":1,"inFlight":1,"queuedBytes":7,"oldestAgeMs":null,"connectedSockets":1,"revoked":false,"storedBytes":8}}"#,
    );
}

#[test]
fn a_hash_tells_messages_apart() {
    let hash = |text: &str| hash_of(serde_json::from_str(text).unwrap());
    assert_eq!(hash("{}"), "44136fa355b3678a1146ad16f7e8649e");
    assert_ne!(hash("{ }"), hash("{}"), "byte for byte");
}

#[test]
fn the_upgrade_is_pinned() {
    let call = ConnectCall {
        agent: agent(),
        owner: HumanDid::parse(O).unwrap(),
        jti: ulid(),
        issuer: Some("https://i".into()),
        kid: Some("k".into()),
        ait_expires_at_ms: 9,
        generation: serde_json::from_str("\"00000000000000ab\"").unwrap(),
    };
    pinned(
        &call,
        r#"{"agent":"A","owner":"O","jti":"J","issuer":"https://i","kid":"k","aitExpiresAtMs":9,"generation":"00000000000000ab"}"#,
    );
    pinned(&ConnectRefusal::Revoked, r#""revoked""#);
    pinned(&ConnectRefusal::TrustUnavailable, r#""trustUnavailable""#);
    pinned(&ConnectRefusal::NotAnUpgrade, r#""notAnUpgrade""#);
}

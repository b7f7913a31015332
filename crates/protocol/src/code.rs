//! The error codes of docs/wire.md §8, each with its status.
//!
//! Codes are constants because they are the API, the log field and the metric label at once. The proxy sends no other
//! code.

/// One code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// What clients match on: `error.code` of the envelope.
    pub name: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
}

impl Code {
    /// The header that says what would have been taken: on 401 (RFC 9110 §11.6.1) and on 426 (§7.8).
    pub fn challenge(&self) -> Option<(&'static str, &'static str)> {
        match self.status {
            401 if *self == PROXY_BEARER_REQUIRED || *self == PROXY_BEARER_INVALID => {
                Some(("www-authenticate", "Bearer"))
            }
            401 => Some(("www-authenticate", "Claw")),
            426 => Some(("upgrade", "websocket")),
            _ => None,
        }
    }
}

macro_rules! codes {
    ($($status:literal: $($name:ident),+;)+) => {
        $($(
            #[doc = concat!("Status ", stringify!($status), ".")]
            pub const $name: Code = Code { name: stringify!($name), status: $status };
        )+)+

        /// All of them, by status.
        pub const ALL: &[&Code] = &[$($(&$name),+),+];
    };
}

codes! {
    400: PROXY_REQUEST_INVALID, PROXY_HOOK_INVALID_JSON, PROXY_HOOK_RECIPIENT_REQUIRED, PROXY_HOOK_RECIPIENT_INVALID,
        PROXY_HOOK_GROUP_INVALID, PROXY_HOOK_CONVERSATION_INVALID, PROXY_HOOK_RECEIPT_URL_INVALID,
        PROXY_PAIR_INVALID_BODY, PROXY_PAIR_TICKET_INVALID_FORMAT,
        PROXY_PAIR_TICKET_UNSUPPORTED_VERSION, PROXY_PAIR_TICKET_INVALID_ISSUER,
        PROXY_PAIR_TICKET_INVALID_SIGNATURE, PROXY_RELAY_RECEIPT_INVALID_INPUT,
        PROXY_RELAY_RECEIPT_INVALID_QUERY, PROXY_ADMIN_INVALID_INPUT, PROXY_FEED_INVALID_QUERY;
    401: PROXY_AUTH_MISSING_TOKEN, PROXY_AUTH_INVALID_SCHEME, PROXY_AUTH_INVALID_AIT, PROXY_AUTH_INVALID_PROOF,
        PROXY_AUTH_INVALID_TIMESTAMP, PROXY_AUTH_TIMESTAMP_SKEW, PROXY_AUTH_INVALID_NONCE, PROXY_AUTH_REPLAY,
        PROXY_AUTH_REVOKED, PROXY_AGENT_ACCESS_REQUIRED, PROXY_AGENT_ACCESS_INVALID,
        PROXY_BEARER_REQUIRED, PROXY_BEARER_INVALID;
    403: PROXY_AUTH_FORBIDDEN, PROXY_PAIR_OWNERSHIP_FORBIDDEN, PROXY_PAIR_STATUS_FORBIDDEN,
        PROXY_PAIR_RESPONDER_FORBIDDEN, PROXY_RELAY_RECEIPT_FORBIDDEN;
    404: PROXY_NOT_FOUND, PROXY_PAIR_TICKET_NOT_FOUND, PROXY_REVOCATION_NOT_FOUND, PROXY_DEAD_LETTER_NOT_FOUND;
    405: PROXY_METHOD_NOT_ALLOWED;
    408: PROXY_BODY_TIMEOUT;
    409: PROXY_HOOK_REQUEST_ID_REUSED, PROXY_PAIR_TICKET_ALREADY_CONFIRMED, PROXY_REVOCATION_NEEDS_FORCE,
        PROXY_REVOCATION_AGENT_MISMATCH;
    410: PROXY_PAIR_TICKET_EXPIRED;
    413: PROXY_BODY_TOO_LARGE;
    415: PROXY_HOOK_UNSUPPORTED_MEDIA_TYPE;
    426: PROXY_RELAY_UPGRADE_REQUIRED;
    429: PROXY_RATE_LIMIT_EXCEEDED, PROXY_PUBLIC_RATE_LIMIT_EXCEEDED, PROXY_SIGN_IN_LIMIT_EXCEEDED,
        PROXY_FEED_STREAM_LIMIT_EXCEEDED;
    500: INTERNAL_SERVER_ERROR, CONFIG_VALIDATION_FAILED;
    502: PROXY_RELAY_DELIVERY_FAILED, PROXY_RELAY_RECEIPT_QUEUE_FAILED;
    503: PROXY_RELAY_UNAVAILABLE, PROXY_RELAY_RECEIPT_QUEUE_UNAVAILABLE, PROXY_PAIR_TICKET_SIGNING_UNAVAILABLE,
        PROXY_AUTH_DEPENDENCY_UNAVAILABLE, PROXY_PAIR_STATE_UNAVAILABLE, PROXY_PAIR_OWNERSHIP_UNAVAILABLE,
        PROXY_GROUP_MEMBERSHIP_UNAVAILABLE, PROXY_INTERNAL_AUTH_UNAUTHORIZED, PROXY_REVOCATION_UNAVAILABLE,
        PROXY_FEED_STREAM_UNAVAILABLE;
    507: PROXY_RELAY_QUEUE_FULL;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use expect_test::expect;

    use super::*;

    #[test]
    fn each_401_and_426_says_what_would_have_been_taken() {
        for code in ALL {
            let expect = match code.name {
                "PROXY_BEARER_REQUIRED" | "PROXY_BEARER_INVALID" => Some(("www-authenticate", "Bearer")),
                name if name.starts_with("PROXY_AUTH_") && code.status == 401 => {
                    Some(("www-authenticate", "Claw"))
                }
                "PROXY_AGENT_ACCESS_REQUIRED" | "PROXY_AGENT_ACCESS_INVALID" => {
                    Some(("www-authenticate", "Claw"))
                }
                "PROXY_RELAY_UPGRADE_REQUIRED" => Some(("upgrade", "websocket")),
                _ => None,
            };
            assert_eq!(code.challenge(), expect, "{}", code.name);
        }
    }

    /// Clients match on these names: changing one breaks them.
    #[test]
    fn codes_unchanged() {
        let lines: Vec<String> = ALL
            .iter()
            .map(|code| format!("{} {}", code.status, code.name))
            .collect();
        assert_eq!(
            lines.iter().collect::<BTreeSet<_>>().len(),
            lines.len(),
            "a code is listed twice"
        );
        expect![[r#"
            400 PROXY_REQUEST_INVALID
            400 PROXY_HOOK_INVALID_JSON
            400 PROXY_HOOK_RECIPIENT_REQUIRED
            400 PROXY_HOOK_RECIPIENT_INVALID
            400 PROXY_HOOK_GROUP_INVALID
            400 PROXY_HOOK_CONVERSATION_INVALID
            400 PROXY_HOOK_RECEIPT_URL_INVALID
            400 PROXY_PAIR_INVALID_BODY
            400 PROXY_PAIR_TICKET_INVALID_FORMAT
            400 PROXY_PAIR_TICKET_UNSUPPORTED_VERSION
            400 PROXY_PAIR_TICKET_INVALID_ISSUER
            400 PROXY_PAIR_TICKET_INVALID_SIGNATURE
            400 PROXY_RELAY_RECEIPT_INVALID_INPUT
            400 PROXY_RELAY_RECEIPT_INVALID_QUERY
            400 PROXY_ADMIN_INVALID_INPUT
            400 PROXY_FEED_INVALID_QUERY
            401 PROXY_AUTH_MISSING_TOKEN
            401 PROXY_AUTH_INVALID_SCHEME
            401 PROXY_AUTH_INVALID_AIT
            401 PROXY_AUTH_INVALID_PROOF
            401 PROXY_AUTH_INVALID_TIMESTAMP
            401 PROXY_AUTH_TIMESTAMP_SKEW
            401 PROXY_AUTH_INVALID_NONCE
            401 PROXY_AUTH_REPLAY
            401 PROXY_AUTH_REVOKED
            401 PROXY_AGENT_ACCESS_REQUIRED
            401 PROXY_AGENT_ACCESS_INVALID
            401 PROXY_BEARER_REQUIRED
            401 PROXY_BEARER_INVALID
            403 PROXY_AUTH_FORBIDDEN
            403 PROXY_PAIR_OWNERSHIP_FORBIDDEN
            403 PROXY_PAIR_STATUS_FORBIDDEN
            403 PROXY_PAIR_RESPONDER_FORBIDDEN
            403 PROXY_RELAY_RECEIPT_FORBIDDEN
            404 PROXY_NOT_FOUND
            404 PROXY_PAIR_TICKET_NOT_FOUND
            404 PROXY_REVOCATION_NOT_FOUND
            404 PROXY_DEAD_LETTER_NOT_FOUND
            405 PROXY_METHOD_NOT_ALLOWED
            408 PROXY_BODY_TIMEOUT
            409 PROXY_HOOK_REQUEST_ID_REUSED
            409 PROXY_PAIR_TICKET_ALREADY_CONFIRMED
            409 PROXY_REVOCATION_NEEDS_FORCE
            409 PROXY_REVOCATION_AGENT_MISMATCH
            410 PROXY_PAIR_TICKET_EXPIRED
            413 PROXY_BODY_TOO_LARGE
            415 PROXY_HOOK_UNSUPPORTED_MEDIA_TYPE
            426 PROXY_RELAY_UPGRADE_REQUIRED
            429 PROXY_RATE_LIMIT_EXCEEDED
            429 PROXY_PUBLIC_RATE_LIMIT_EXCEEDED
            429 PROXY_SIGN_IN_LIMIT_EXCEEDED
            429 PROXY_FEED_STREAM_LIMIT_EXCEEDED
            500 INTERNAL_SERVER_ERROR
            500 CONFIG_VALIDATION_FAILED
            502 PROXY_RELAY_DELIVERY_FAILED
            502 PROXY_RELAY_RECEIPT_QUEUE_FAILED
            503 PROXY_RELAY_UNAVAILABLE
            503 PROXY_RELAY_RECEIPT_QUEUE_UNAVAILABLE
            503 PROXY_PAIR_TICKET_SIGNING_UNAVAILABLE
            503 PROXY_AUTH_DEPENDENCY_UNAVAILABLE
            503 PROXY_PAIR_STATE_UNAVAILABLE
            503 PROXY_PAIR_OWNERSHIP_UNAVAILABLE
            503 PROXY_GROUP_MEMBERSHIP_UNAVAILABLE
            503 PROXY_INTERNAL_AUTH_UNAUTHORIZED
            503 PROXY_REVOCATION_UNAVAILABLE
            503 PROXY_FEED_STREAM_UNAVAILABLE
            507 PROXY_RELAY_QUEUE_FULL"#]]
        .assert_eq(&lines.join("\n"));
    }
}

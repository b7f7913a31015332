//! What one caller can cause in a minute, for every door: each route, and each frame that a connector can send.
//!
//! The standing rule: nothing that a stranger can make up costs anybody else. A door that is added without a row here fails
//! a native test, and docs/limits.md shows the table. The figures are what the budgets allow at the default settings, for
//! one caller and one isolate that is cold, whatever the caller makes up: tokens, groups, recipients, tickets, numbers.
//! `tests/runtime/doors.test.mjs` reads that table and drives every door to its row beside an honest caller.

/// Who is counted, and how often it gets in within a minute. Who comes more often is refused, which costs a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Often {
    /// One agent, over all routes that are counted so.
    Agent(u32),
    /// One address at this path, and then one agent.
    AddressThenAgent(u32, u32),
    /// One agent's frames of this kind.
    Frames(u32),
    /// Failed sign-ins of one address; the bearer of the token is not counted.
    FailedSignIns(u32),
    /// It is not counted, because it costs nothing but its answer.
    Uncounted,
}

/// One door.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    /// `METHOD path`, or `frame` and its type.
    pub name: &'static str,
    pub often: Often,
    /// Questions to the registry in a minute.
    pub registry: u32,
    /// Questions to D1 in a minute.
    pub database: u32,
    /// Objects made in a minute.
    pub objects: u32,
    /// Log lines of one request or frame.
    pub lines: u32,
    /// What is kept because of it, and for how long.
    pub kept: &'static str,
}

const NOTHING: &str = "nothing";
const NONCES: &str = "a nonce each, 10 min";
const AGENT: Often = Often::Agent(60);
const GUESSES: Often = Often::FailedSignIns(10);
/// The keys and the CRL of a cold isolate, with a second look each; they are shared by all callers.
const SHARED: u32 = 4;
/// The agent's own token where it is confirmed, and five that are not.
const TOKENS: u32 = 7;

const fn open(name: &'static str, registry: u32, database: u32, objects: u32, lines: u32) -> Door {
    Door {
        name,
        often: Often::Uncounted,
        registry,
        database,
        objects,
        lines,
        kept: NOTHING,
    }
}

const fn claw(name: &'static str, registry: u32, database: u32, objects: u32, kept: &'static str) -> Door {
    Door {
        name,
        often: AGENT,
        registry: SHARED + registry,
        database: 4 + database,
        objects,
        lines: 4,
        kept,
    }
}

const fn message(name: &'static str) -> Door {
    Door {
        often: Often::AddressThenAgent(120, 60),
        // Ten groups that it is not in; that it is in one, and sixty others that are not.
        ..claw(
            name,
            TOKENS + 10 + 62,
            0,
            1,
            "mail for who trusts it: 500 messages and 32 MiB a recipient, an hour; a nonce each, 10 min",
        )
    }
}

const fn connect(name: &'static str) -> Door {
    Door {
        often: Often::AddressThenAgent(120, 60),
        ..claw(name, TOKENS, 0, 2, NONCES)
    }
}

const fn receipts(name: &'static str, kept: &'static str) -> Door {
    Door {
        often: Often::Agent(1_200),
        ..claw(name, TOKENS, 0, 2, kept)
    }
}

const fn bearer(name: &'static str) -> Door {
    Door {
        name,
        often: GUESSES,
        registry: 0,
        database: 0,
        objects: 0,
        lines: 2,
        kept: NOTHING,
    }
}

const fn page(name: &'static str) -> Door {
    Door {
        often: Often::Uncounted,
        lines: 1,
        ..bearer(name)
    }
}

/// A frame that costs no log line, but for one a minute if there are too many.
const fn frame(name: &'static str, often: Often) -> Door {
    Door {
        name,
        often,
        registry: 0,
        database: 0,
        objects: 0,
        lines: 0,
        kept: NOTHING,
    }
}

const fn enqueue(name: &'static str) -> Door {
    Door {
        registry: 10 + 62,
        lines: 1,
        kept: "mail for who trusts it: 500 messages and 32 MiB a recipient, an hour",
        ..frame(name, Often::Frames(6_000))
    }
}

/// Every door there is.
#[rustfmt::skip]
pub const DOORS: &[Door] = &[
    // The isolate looks once a second, whoever asks; for the keys again after each of five failures, in D1 too, and says so.
    open("GET /health", 10, 66, 2, 2),
    open("GET /v1/time", 0, 0, 0, 1),
    message("POST /hooks/message"),
    message("POST /hooks/agent"),
    connect("GET /v1/relay/connect"),
    connect("GET /relay/connect"),
    receipts("POST /v1/relay/delivery-receipts", "a queue message for who trusts it; a nonce each, 10 min"),
    receipts("GET /v1/relay/delivery-receipts", NONCES),
    // Five questions about an owner that is not one; one each about the owner that is, and a ticket each.
    claw("POST /pair/start", 60, 60, 1, "a ticket each, 15 min; a nonce each, 10 min"),
    claw("POST /pair/confirm", 0, 60, 1, NONCES),
    claw("POST /pair/status", 0, 60, 1, NONCES),
    claw("POST /pair/remove", 0, 0, 1, "a removal each, of at most 1,000 agents; a nonce each, 10 min"),
    claw("GET /v1/revocations", 0, 60, 1, NONCES),
    // A bundle is built once for each number of the ledger, whoever asks.
    claw("GET /v1/bundles/revocations.tar.gz", 0, 60, 2, NONCES),
    // Where each stream is closed again, so that there is a seat for the next.
    claw("GET /v1/events/revocations", 0, 120, 2, NONCES),
    bearer("POST /admin/v1/revocations"),
    bearer("GET /admin/v1/revocations"),
    bearer("POST /admin/v1/revocations/{seq}/lift"),
    bearer("POST /admin/v1/reconcile"),
    bearer("POST /admin/v1/keys/refresh"),
    bearer("GET /admin/v1/import"),
    bearer("POST /admin/v1/feed/epoch"),
    bearer("GET /admin/v1/status"),
    bearer("GET /admin/v1/dead-letters"),
    bearer("GET /admin/v1/dead-letters/{id}"),
    bearer("POST /admin/v1/dead-letters/{id}/retry"),
    bearer("POST /admin/v1/dead-letters/{id}/drop"),
    page("GET /admin"),
    page("GET /admin/agents"),
    page("GET /admin/dead-letters"),
    page("GET /admin/lift"),
    page("GET /admin/style.css"),
    bearer("POST /admin/sign-in"),
    page("POST /admin/sign-out"),
    page("POST /admin/revoke"),
    page("POST /admin/lift"),
    page("POST /admin/reconcile"),
    page("POST /admin/keys"),
    page("POST /admin/dead-letters"),
    frame("frame heartbeat", Often::Frames(240)),
    // An acknowledgement must never be refused; one that names nothing does nothing.
    frame("frame heartbeat_ack", Often::Uncounted),
    frame("frame deliver_ack", Often::Uncounted),
    enqueue("frame enqueue"),
    frame("frame malformed", Often::Frames(240)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Access, ROUTES};
    use clawdentity_protocol::frame::InboundFrame;

    /// A frame that is added to the wire needs a name here, and a row.
    fn name_of(frame: &InboundFrame) -> &'static str {
        match frame {
            InboundFrame::Heartbeat { .. } => "frame heartbeat",
            InboundFrame::HeartbeatAck { .. } => "frame heartbeat_ack",
            InboundFrame::DeliverAck { .. } => "frame deliver_ack",
            InboundFrame::Enqueue(_) => "frame enqueue",
        }
    }

    #[test]
    fn every_route_and_every_frame_has_a_row() {
        let routes = ROUTES.iter().map(|spec| format!("{} {}", spec.method, spec.path));
        let _exhaustive: fn(&InboundFrame) -> &'static str = name_of;
        let frames = [
            "heartbeat",
            "heartbeat_ack",
            "deliver_ack",
            "enqueue",
            "malformed",
        ];
        let expect: Vec<String> = routes
            .chain(frames.map(|frame| format!("frame {frame}")))
            .collect();
        let rows: Vec<&str> = DOORS.iter().map(|door| door.name).collect();
        assert_eq!(rows, expect);
    }

    /// What says who is counted agrees with who may call.
    #[test]
    fn rows_agree_with_the_router() {
        for (spec, door) in ROUTES.iter().zip(DOORS) {
            let agrees = match spec.access {
                Access::Open(_) | Access::Page(_) => {
                    matches!(door.often, Often::Uncounted | Often::FailedSignIns(_))
                }
                Access::Claw { .. } if spec.public_limit => {
                    matches!(door.often, Often::AddressThenAgent(..))
                }
                Access::Claw { .. } | Access::Feed(_) => matches!(door.often, Often::Agent(_)),
                Access::Admin(_) => matches!(door.often, Often::FailedSignIns(_)),
            };
            assert!(agrees, "{}", door.name);
        }
    }

    /// The table of docs/limits.md is `DOORS`, row for row.
    #[test]
    fn the_page_lists_every_door() {
        let page = include_str!("../../../docs/limits.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expect: Vec<String> = DOORS.iter().map(documented_row).collect();
        assert_eq!(
            rows,
            expect,
            "the table of docs/limits.md should be:\n{}",
            expect.join("\n")
        );
    }

    fn documented_row(door: &Door) -> String {
        let often = match door.often {
            Often::Agent(n) => format!("{n} of an agent"),
            Often::AddressThenAgent(address, agent) => {
                format!("{address} of an address, {agent} of an agent")
            }
            Often::Frames(n) => format!("{n} of an agent"),
            Often::FailedSignIns(n) => format!("{n} failed sign-ins of an address"),
            Often::Uncounted => "not counted".to_owned(),
        };
        let Door {
            name,
            registry,
            database,
            objects,
            lines,
            kept,
            ..
        } = door;
        format!("| `{name}` | {often} | {registry} | {database} | {objects} | {lines} | {kept} |")
    }
}

//! The feed: which rows a page shows, and who of those that listen to the stream gets what (docs/wire.md §10.2).
//!
//! Everything is decided here, over explicit time, so that it can be tested natively. The Worker's room `feed` reads
//! the ledger and moves the bytes.

use clawdentity_protocol::did::AgentDid;
use clawdentity_protocol::ids::Ulid;
use clawdentity_protocol::revocation::{Item, is_epoch};

use crate::admin::number;

pub mod hub;

/// An agent that opened a stream. The stream ends when the agent, or the token it showed, is revoked or expires, and
/// when the agent loses its last pair.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ListeningAgent {
    /// The agent.
    pub agent: AgentDid,
    /// The token it showed.
    pub jti: Ulid,
    /// When that ends, Unix milliseconds.
    pub expires_at_ms: u64,
}

/// Whom a stream is for, and where it begins.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listener {
    /// The position it has everything up to.
    pub place: Place,
    /// Who opened it; none for the bearer of the feed's token.
    pub caller: Option<ListeningAgent>,
}

/// A position in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// The number up to which everything is known.
    pub since: u64,
    /// The epoch that this number belongs to, where the reader says so.
    #[serde(default)]
    pub epoch: Option<String>,
}

impl Place {
    /// Whether a reader at this position starts over: its numbers are of another epoch, or above the latest.
    pub fn is_reset(&self, epoch: &str, latest: u64) -> bool {
        self.since > latest || self.epoch.as_deref().is_some_and(|own| own != epoch)
    }
}

/// The reader's epoch, if its query names one: `?epoch=`, once.
///
/// # Errors
/// What is wrong, for the caller.
pub fn epoch_query<'a>(
    pairs: impl Iterator<Item = (impl AsRef<str> + 'a, impl AsRef<str> + 'a)>,
) -> Result<Option<String>, &'static str> {
    let mut epoch = None;
    for (name, value) in pairs {
        if name.as_ref() != "epoch" {
            continue;
        }
        if !is_epoch(value.as_ref()) {
            return Err("epoch is not an epoch of this feed");
        }
        if epoch.replace(value.as_ref().to_owned()).is_some() {
            return Err("epoch may be given once only");
        }
    }
    Ok(epoch)
}

/// `Last-Event-ID` of a stream: the number of the last event, blank where there was none yet.
///
/// # Errors
/// What is wrong, for the caller.
pub fn last_event_id(text: &str) -> Result<Option<u64>, &'static str> {
    match text.trim() {
        "" => Ok(None),
        id => number(id).map(Some).ok_or("Last-Event-ID must be a number"),
    }
}

/// Where a page ends: what to ask for next, and whether there is more. Reckoned on the rows that were read, also those
/// of kinds that this version leaves out. `since` is the position that was read from, after a reset 0.
pub fn page_end(since: u64, latest: u64, limit: u64, rows: u64, last_row: Option<u64>) -> (u64, bool) {
    match last_row {
        Some(last) if rows >= limit && last < latest => (last, true),
        _ => (latest.max(since).max(last_row.unwrap_or(0)), false),
    }
}

/// An item as an agent gets it: without the reason, which is for operators and the bearers of the feed's token.
#[must_use]
pub fn for_agents(item: Item) -> Item {
    Item { reason: None, ..item }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_reader_starts_over() {
        let place = |since, epoch: Option<&str>| Place {
            since,
            epoch: epoch.map(str::to_owned),
        };
        for (place, expect) in [
            (place(4, None), false),
            (place(5, None), true),
            (place(4, Some("a")), false),
            (place(0, Some("b")), true),
            (place(9, Some("b")), true),
        ] {
            assert_eq!(place.is_reset("a", 4), expect, "{place:?}");
        }
    }

    #[test]
    fn more_is_reckoned_on_rows() {
        for ((since, latest, limit, rows, last), expect) in [
            ((0, 9, 2, 2, Some(4)), (4, true)),
            ((0, 4, 2, 2, Some(4)), (4, false)),
            ((0, 9, 2, 1, Some(4)), (9, false)),
            ((9, 9, 2, 0, None), (9, false)),
            ((0, 0, 2, 0, None), (0, false)),
        ] {
            assert_eq!(page_end(since, latest, limit, rows, last), expect);
        }
    }

    #[test]
    fn queries_and_headers() {
        assert_eq!(epoch_query([("since", "1")].into_iter()), Ok(None));
        assert_eq!(
            epoch_query([("epoch", "ab1")].into_iter()),
            Ok(Some("ab1".into()))
        );
        for bad in [
            vec![("epoch", "")],
            vec![("epoch", "a b")],
            vec![("epoch", "a"), ("epoch", "a")],
        ] {
            assert!(epoch_query(bad.clone().into_iter()).is_err(), "{bad:?}");
        }
        for (text, expect) in [("", Ok(None)), (" 7 ", Ok(Some(7)))] {
            assert_eq!(last_event_id(text), expect);
        }
        for bad in ["x", "-1", "1.5", "9999999999999999999"] {
            assert!(last_event_id(bad).is_err(), "{bad}");
        }
    }
}

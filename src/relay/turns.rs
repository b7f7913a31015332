//! Whose turn it is among the `enqueue` frames of an agent: those to one recipient go one after the other.

use std::collections::HashMap;

use futures_channel::oneshot;

use crate::protocol::did::AgentDid;

/// Frames of one agent that wait for their turn, in bytes: they are in memory.
const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// The last in each row, by recipient.
#[derive(Default)]
pub struct Turns {
    last: HashMap<AgentDid, (u64, oneshot::Receiver<()>)>,
    next_number: u64,
    waiting_bytes: usize,
}

/// A place in a row.
pub struct Turn {
    number: u64,
    bytes: usize,
    /// Done, or dropped with whoever was to do it: either way it is this one's turn.
    pub before: Option<oneshot::Receiver<()>>,
    /// To be dropped when this one is done.
    pub done: oneshot::Sender<()>,
}

impl Turns {
    /// The next place in a recipient's row; none where too much waits already.
    pub fn take(&mut self, to: &AgentDid, bytes: usize) -> Option<Turn> {
        let waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        if waiting_bytes > MAX_WAITING_BYTES {
            return None;
        }
        self.waiting_bytes = waiting_bytes;
        self.next_number += 1;
        let number = self.next_number;
        let (done, turn) = oneshot::channel();
        let before = self
            .last
            .insert(to.clone(), (number, turn))
            .map(|(_, before)| before);
        Some(Turn {
            number,
            bytes,
            before,
            done,
        })
    }

    /// This one is done.
    pub fn leave(&mut self, to: &AgentDid, turn: &Turn) {
        self.waiting_bytes = self.waiting_bytes.saturating_sub(turn.bytes);
        if self
            .last
            .get(to)
            .is_some_and(|(number, _)| *number == turn.number)
        {
            self.last.remove(to);
        }
    }
}

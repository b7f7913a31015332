//! Connectors of both deployed families with their webhooks, links and laptops, as `tests/support/connectors.mjs` has them.
//!
//! The Rust one works on one frame at a time, acknowledges it only once its webhook has answered, drops no duplicates, and
//! drops its socket on a frame that it cannot parse. The TypeScript one works on many at once, drops duplicates, and
//! drops some frames without acknowledging them.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Rust,
    TypeScript,
}

/// The connector's end of a connection.
struct Line {
    /// What came on it, and whether that was refused on it since.
    seen: HashMap<Id, bool>,
    latency: u64,
}

pub struct Connector {
    family: Family,
    webhook_ms: u64,
    /// Each connection ends by itself after so long.
    lives_ms: Option<u64>,
    /// Of so many webhooks' answers one is a refusal.
    refuses_one_in: u64,
    lines: HashMap<u64, Line>,
    open: Option<u64>,
    pub connections: u64,
    /// Until when the laptop sleeps, and what has come meanwhile.
    asleep_until: u64,
    held: VecDeque<(u64, Frame)>,
    /// What the Rust one has read and not worked on.
    queue: VecDeque<(u64, Id)>,
    is_busy: bool,
    /// What the TypeScript one has taken.
    known: HashSet<Id>,
    /// Another process of it, which knows nothing of the one before.
    process: u64,
}

impl Connector {
    pub fn new() -> Self {
        Self {
            family: Family::Rust,
            webhook_ms: 20,
            lives_ms: None,
            refuses_one_in: 30,
            lines: HashMap::new(),
            open: None,
            connections: 0,
            asleep_until: 0,
            held: VecDeque::new(),
            queue: VecDeque::new(),
            is_busy: false,
            known: HashSet::new(),
            process: 0,
        }
    }

    pub fn is_kind(&mut self) {
        (self.webhook_ms, self.lives_ms, self.refuses_one_in) = (20, None, u64::MAX);
    }

    pub fn is_open(&self, conn: u64) -> bool {
        self.open == Some(conn)
    }

    pub fn sleeps(&self, now: u64) -> bool {
        now < self.asleep_until
    }

    pub fn wakes(&mut self) -> VecDeque<(u64, Frame)> {
        std::mem::take(&mut self.held)
    }

    pub fn latency(&self, conn: u64) -> u64 {
        self.lines.get(&conn).map_or(1, |line| line.latency)
    }

    /// The lines to which the end of all connections is to be told.
    pub fn all_end(&self) -> Vec<u64> {
        self.open.into_iter().collect()
    }
}

impl World {
    pub fn connect(&mut self) {
        if self.connector.open.is_some() || self.connector.sleeps(self.now) {
            return;
        }
        self.connector.connections += 1;
        let conn = self.connector.connections;
        if !self.session.connected(conn, self.now) {
            self.effects();
            return self.after(200, Event::Connect);
        }
        let latency = self.random.between(1, 30);
        self.connector.open = Some(conn);
        self.connector.lines.retain(|other, _| other + 20 > conn);
        let seen = HashMap::new();
        self.connector.lines.insert(conn, Line { seen, latency });
        self.effects();
        self.after(20_000, Event::Beat(conn));
        if let Some(ms) = self.connector.lives_ms {
            self.after(ms, Event::LinkDies(conn));
        }
    }

    pub fn say(&mut self, conn: u64, word: Word) {
        let ms = self.connector.latency(conn);
        self.after(ms, Event::ToSession(conn, word));
    }

    /// The line ends, for both; the session may hear of it only when it is superseded.
    pub fn link_dies(&mut self, conn: u64) {
        if !self.connector.is_open(conn) {
            return;
        }
        if !self.random.one_in(4) {
            self.after(1, Event::LineEnds(conn));
        }
        self.line_is_gone(conn);
    }

    fn line_is_gone(&mut self, conn: u64) {
        if self.connector.is_open(conn) {
            self.connector.open = None;
            let ms = self.random.between(20, 2_000);
            self.after(ms, Event::Connect);
        }
    }

    /// A frame, or the end of the line, arrives at the connector.
    pub fn comes(&mut self, conn: u64, frame: Frame) {
        if self.connector.sleeps(self.now) {
            return self.connector.held.push_back((conn, frame));
        }
        let Frame::Deliver(id) = frame else {
            let ms = self.connector.latency(conn);
            self.after(ms, Event::LineEnds(conn));
            return self.line_is_gone(conn);
        };
        if !self.connector.is_open(conn) {
            return;
        }
        let line = self.connector.lines.get_mut(&conn).unwrap();
        let before = line.seen.insert(id, false);
        assert!(
            before.is_none_or(|refused| refused),
            "{id:?} came twice on a live connection"
        );
        // Its first sight must be in order.
        if self.seen.insert(id) {
            let last = &mut self.first_seen[usize::from(id.0)];
            assert!(last.is_none_or(|last| last < id.1), "{id:?} came after {last:?}");
            *last = Some(id.1);
        }
        match self.connector.family {
            Family::Rust if is_poisoned(id) => {
                self.after(1, Event::LineEnds(conn));
                self.line_is_gone(conn);
            }
            Family::Rust => {
                self.connector.queue.push_back((conn, id));
                self.work();
            }
            Family::TypeScript if is_mute(id) => {}
            Family::TypeScript if self.connector.known.contains(&id) => {
                self.taken.insert(id);
                self.say(conn, Word::Ack { id, accepted: true });
            }
            Family::TypeScript => self.post(conn, id),
        }
    }

    /// The Rust connector takes up the next frame, on whatever connection that came.
    fn work(&mut self) {
        if self.connector.is_busy || self.connector.family != Family::Rust {
            return;
        }
        if let Some((conn, id)) = self.connector.queue.pop_front() {
            self.connector.is_busy = true;
            self.post(conn, id);
        }
    }

    fn post(&mut self, conn: u64, id: Id) {
        let slow = self.connector.webhook_ms;
        let ms = self.random.between(slow / 2, slow * 3 / 2);
        let process = self.connector.process;
        self.after(ms, Event::Webhook { conn, id, process });
    }

    pub fn webhook_answered(&mut self, conn: u64, id: Id, process: u64) {
        if process != self.connector.process {
            return;
        }
        if self.connector.sleeps(self.now) {
            let ms = self.connector.asleep_until - self.now + 1;
            return self.after(ms, Event::Webhook { conn, id, process });
        }
        let accepted = !is_cursed(id) && !self.random.one_in(self.connector.refuses_one_in);
        if accepted {
            self.connector.known.insert(id);
        }
        // On the connection on which it came, where that is still there.
        if self.connector.is_open(conn) {
            let line = self.connector.lines.get_mut(&conn).unwrap();
            line.seen.insert(id, !accepted);
            if accepted {
                self.taken.insert(id);
            }
            self.say(conn, Word::Ack { id, accepted });
        }
        self.connector.is_busy = false;
        self.work();
    }

    /// Another process, of another family, with another webhook and link; or the laptop goes to sleep.
    pub fn change(&mut self) {
        if self.random.one_in(4) {
            let ms = self.random.between(10_000, 200_000);
            self.connector.asleep_until = self.now + ms;
            self.after(ms, Event::Wakes);
            self.after(ms + 1, Event::Connect);
        } else {
            let connector = &mut self.connector;
            connector.process += 1;
            connector.family = self.random.one_of(&[Family::Rust, Family::TypeScript]);
            connector.webhook_ms = self.random.one_of(&[5, 20, 20, 100, 400, 1_500, 5_000]);
            // No two in a row that never live for long: what waits for a connection that has lived for 30 s would expire.
            connector.lives_ms = match connector.lives_ms {
                Some(..30_000) => None,
                _ => self
                    .random
                    .one_of(&[None, None, Some(1_000), Some(7_000), Some(45_000)]),
            };
            connector.refuses_one_in = self.random.one_of(&[10, 50, 1_000]);
            connector.known.clear();
            connector.queue.clear();
            connector.is_busy = false;
            if let Some(conn) = connector.open {
                self.link_dies(conn);
            }
        }
        let ms = self.random.between(20_000, 240_000);
        self.after(ms, Event::Change);
    }
}

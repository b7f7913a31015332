//! A session as `src/relay` runs it: the same steps, with the same writes in the same order, on the same SQL. It may die
//! before any write or any send.

use rusqlite::{Connection as Sqlite, Params, params};

use super::*;
use crate::relay_queue::socket::{Attachment, SocketStep};
use crate::relay_queue::{schema, statements};
use clawdentity_protocol::did::HumanDid;

const BATCH: u32 = 100;
const TTL_MS: u64 = HOUR;
const KEEP_MS: u64 = 24 * HOUR;
const LEAST_MS: u64 = 1_000;

/// The object has died in the middle of a step.
#[derive(Debug)]
pub struct Died;

#[derive(Clone, Copy, PartialEq)]
pub enum Frame {
    Deliver(Id),
    /// The line ends: we closed it, or the object died.
    Close,
}

/// What a step lets out.
pub enum Out {
    Frame(u64, Frame),
    Ask(Question),
    /// The alarm is set for then.
    Alarm(u64),
    /// Receipts are to be told.
    Outbox,
    /// All connections have ended.
    Died,
}

/// What is in memory.
struct Awake {
    queue: RelayQueue,
    mail: HashMap<u64, Id>,
    seqs: HashMap<Id, u64>,
    socket: Option<u64>,
    outbox_due_ms: Option<u64>,
    /// The running step changed or sent something.
    did: bool,
}

pub struct Session {
    disk: Sqlite,
    /// The senders' sessions: receipts for their connectors.
    senders: Sqlite,
    /// When the tables of outcomes begin.
    outcomes: Vec<u64>,
    /// The platform's sockets, with what is attached to each.
    sockets: BTreeMap<u64, Attachment>,
    awake: Option<Awake>,
    alarm_at: Option<u64>,
    emptying_outbox: bool,
    pub out: Vec<Out>,
    /// After so many more writes and sends it dies; none while it may not.
    pub dies_after: Option<u32>,
    /// Of a step that dies, what was written so far may be kept.
    kept: u32,
    pub deaths: u32,
    /// When each message was last seen to end.
    pub ends: HashMap<Id, u64>,
}

fn request(id: Id) -> Ulid {
    Ulid::from_u128(u128::from(id.0) << 64 | u128::from(id.1))
}

fn id_of(request: &str) -> Id {
    let number = Ulid::parse(request).unwrap().as_u128();
    ((number >> 64) as u8, number as u32)
}

fn mark_of(trouble: Trouble) -> Option<&'static str> {
    match trouble.mark {
        Mark::None => None,
        Mark::Cut => Some("cut"),
        Mark::Unanswered => Some("unanswered"),
        Mark::Suspect => Some("suspect"),
    }
}

impl Session {
    pub fn new() -> Self {
        let open = || {
            let sql = Sqlite::open_in_memory().unwrap();
            sql.execute_batch(schema::SCHEMA).unwrap();
            sql
        };
        Self {
            disk: open(),
            senders: open(),
            outcomes: Vec::new(),
            sockets: BTreeMap::new(),
            awake: None,
            alarm_at: None,
            emptying_outbox: false,
            out: Vec::new(),
            dies_after: None,
            kept: 0,
            deaths: 0,
            ends: HashMap::new(),
        }
    }

    /// A hook's call. Whether it waits for the outcome; none where no answer comes.
    pub fn deliver(&mut self, id: Id, now: u64) -> Option<bool> {
        self.step(now, |session, awake| {
            if awake.seqs.contains_key(&id) {
                return Ok(awake.queue.is_in_flight(awake.seqs[&id]));
            }
            if !session.outcomes_of(id).is_empty() {
                return Ok(false);
            }
            let attached = awake.socket.map(|conn| &session.sockets[&conn]);
            if attached.is_some_and(|it| it.is_doubtful(now)) {
                session.close_socket(awake, now)?;
            }
            let offer = Offer {
                sender: sender(id.0),
                authority: by_pair(),
                bytes: 1,
                expires_at_ms: now + TTL_MS,
                admitted: true,
            };
            let (seq, launch) = match awake.queue.offer(offer, now) {
                Taken::Full => panic!("full"),
                Taken::Queued { seq } => (seq, None),
                Taken::Launched(launch) => (launch.seq, Some(launch)),
            };
            awake.did = true;
            let none: Option<&str> = None;
            session.write(
                statements::INSERT_MAIL,
                params![
                    seq,
                    request(id).to_string(),
                    sender(id.0).as_str(),
                    none,
                    "hash",
                    now,
                    now,
                    now + TTL_MS,
                    1,
                    none,
                    none,
                    none,
                    none,
                    none,
                    none,
                    none,
                    none,
                    "1"
                ],
            )?;
            awake.mail.insert(seq, id);
            awake.seqs.insert(id, seq);
            if launch.is_some() {
                session.remember_flight(awake)?;
                session.send(awake, id)?;
            }
            Ok(launch.is_some())
        })
    }

    /// The second step of a hook: whether the message is stored; none where no answer comes.
    pub fn knows(&mut self, id: Id, now: u64) -> Option<bool> {
        self.step(now, |session, awake| {
            Ok(awake.seqs.contains_key(&id) || !session.outcomes_of(id).is_empty())
        })
    }

    /// A connection opens; the one before it is superseded. False where the object died.
    pub fn connected(&mut self, conn: u64, now: u64) -> bool {
        self.step(now, |session, awake| {
            session.close_all();
            session.point()?;
            session.sockets.insert(conn, attachment(conn, now));
            awake.socket = Some(conn);
            awake.did = true;
            let changes = awake.queue.connected(now);
            session.apply(awake, changes, now)
        })
        .is_some()
    }

    /// A frame came in.
    pub fn hears(&mut self, conn: u64, word: Word, now: u64, random: f64) {
        let Some(it) = self.sockets.get(&conn) else { return };
        let is_closed = it.closed;
        self.step(now, |session, awake| {
            let is_current = !is_closed && awake.socket == Some(conn);
            if is_current {
                session.change_socket(awake, |it| it.last_seen_ms = now)?;
            }
            let Word::Ack { id, accepted } = word else {
                return Ok(());
            };
            let Some(seq) = awake.seqs.get(&id).copied() else {
                return Ok(());
            };
            awake.did = true;
            let change = awake.queue.acknowledged(seq, accepted, is_current, now, random);
            session.apply(awake, change, now)
        });
    }

    /// The line of a connection has ended.
    pub fn ended(&mut self, conn: u64, now: u64) {
        if !self.sockets.contains_key(&conn) {
            return;
        }
        self.step(now, |session, awake| {
            if awake.socket == Some(conn) {
                awake.socket = None;
                awake.did = true;
                let changes = awake.queue.disconnected(EndedBy::Connector, now);
                session.apply(awake, changes, now)?;
            }
            Ok(())
        });
        self.sockets.remove(&conn);
    }

    pub fn learns(&mut self, question: &Question, answer: &Answer, now: u64) {
        self.step(now, |session, awake| {
            awake.did = true;
            let changes = awake.queue.learn(&question.sender, answer, now);
            session.apply(awake, changes, now)
        });
    }

    /// The alarm that was set for `at`: whether there was nothing to do. None where it is another one's time, or it failed.
    pub fn alarm(&mut self, at: u64, now: u64) -> Option<bool> {
        if self.alarm_at != Some(at) {
            return None;
        }
        self.alarm_at = None;
        match self.step(now, |_, _| Ok(())) {
            Some(()) => Some(!self.awake.as_ref().is_some_and(|awake| awake.did)),
            None => {
                // The platform calls again, or the handler that failed has set it.
                self.set_alarm(now + 2_000);
                None
            }
        }
    }

    /// One round of `empty_outbox`. The call to the senders' sessions may be lost before or after it was done.
    pub fn empty_outbox(&mut self, now: u64, lost_before: bool, lost_after: bool) {
        let due = self.step(now, |session, awake| {
            let rows = session.outbox(now);
            if rows.is_empty() {
                awake.outbox_due_ms = session.outbox_due();
            }
            Ok(rows)
        });
        let Some(rows) = due.filter(|rows| !rows.is_empty()) else {
            self.emptying_outbox = false;
            return;
        };
        if !lost_before {
            for (_, id, status) in &rows {
                let last: Option<u64> = self
                    .senders
                    .query_row(statements::LAST_PUSH, [], |row| row.get(0))
                    .unwrap();
                let seq = last.unwrap_or(0) + 1;
                let recipient = sender(60);
                let values = params![
                    seq,
                    request(*id).to_string(),
                    recipient.as_str(),
                    status,
                    "reason",
                    now + KEEP_MS,
                    seq.saturating_sub(200)
                ];
                self.senders.execute(statements::KEEP_RECEIPT, values).unwrap();
            }
        }
        let taken = !lost_before && !lost_after;
        let seqs: Vec<u64> = rows.iter().map(|(seq, ..)| *seq).collect();
        let list = serde_json::to_string(&seqs).unwrap();
        let done = self.step(now, |session, awake| {
            if taken {
                session.write(statements::TAKE_FROM_OUTBOX, [&list])?;
            } else {
                session.write(statements::POSTPONE_IN_OUTBOX, params![now + 1_000, list])?;
            }
            awake.outbox_due_ms = session.outbox_due();
            Ok(())
        });
        self.emptying_outbox = false;
        let is_due = done.is_some() && self.outbox_due().is_some_and(|due| due <= now);
        if is_due && !self.emptying_outbox {
            self.emptying_outbox = true;
            self.out.push(Out::Outbox);
        }
    }

    /// The senders' connectors come, and read what is there. It stays there where their heartbeat is not answered.
    pub fn fetch_receipts(&mut self, is_confirmed: bool) -> Vec<(Id, String)> {
        let mut statement = self.senders.prepare(statements::PUSHES_AFTER).unwrap();
        let rows = statement
            .query_map(params![0, 1_000_000], |row| {
                Ok((
                    row.get::<_, u64>(0)?,
                    row.get::<_, String>(1)?,
                    row.get::<_, String>(3)?,
                ))
            })
            .unwrap();
        let rows: Vec<_> = rows.map(Result::unwrap).collect();
        let requests: HashSet<&String> = rows.iter().map(|(_, request, _)| request).collect();
        assert_eq!(requests.len(), rows.len(), "a receipt is kept twice");
        if let Some((last, ..)) = rows.last().filter(|_| is_confirmed) {
            self.senders.execute(statements::PUSHED_THROUGH, [last]).unwrap();
        }
        rows.iter()
            .map(|(_, request, status)| (id_of(request), status.clone()))
            .collect()
    }

    /// Its memory is gone, and nothing else: it has hibernated.
    pub fn forgets(&mut self) {
        self.awake = None;
    }

    pub fn live(&self) -> u64 {
        let query = "SELECT COUNT(*) FROM mail";
        self.disk.query_row(query, [], |row| row.get(0)).unwrap()
    }

    pub fn live_of(&self, from: u8) -> u64 {
        let query = "SELECT COUNT(*) FROM mail WHERE sender_did = ?";
        let of = sender(from);
        self.disk
            .query_row(query, [of.as_str()], |row| row.get(0))
            .unwrap()
    }

    pub fn outbox_is_empty(&self) -> bool {
        self.outbox_due().is_none()
    }

    pub fn outcome(&self, id: Id) -> Option<(String, Option<String>)> {
        self.outcomes_of(id).into_iter().next()
    }

    /// One step, as `Session::step` does it; none where the object died in it.
    fn step<R>(&mut self, now: u64, act: impl FnOnce(&mut Self, &mut Awake) -> Result<R, Died>) -> Option<R> {
        self.disk.execute_batch("BEGIN").unwrap();
        let outs = self.out.len();
        let mut awake = self.awake.take().unwrap_or_else(|| self.wake());
        awake.did = false;
        let stepped = (|| {
            let expired = awake.queue.tick(now);
            self.apply(&mut awake, expired, now)?;
            self.look_after_socket(&mut awake, now)?;
            let result = act(self, &mut awake)?;
            self.drain(&mut awake, now)?;
            Ok(result)
        })();
        let result = match stepped {
            Ok(result) => result,
            Err(Died) => {
                self.dies(outs);
                return None;
            }
        };
        self.disk.execute_batch("COMMIT").unwrap();
        let socket = awake.socket.map(|conn| self.sockets[&conn].next_due_ms());
        let outbox = awake.outbox_due_ms.map(|due| match due > now {
            true => due,
            false => now + 10_000,
        });
        let due = [awake.queue.next_due_ms(now), socket, outbox]
            .into_iter()
            .flatten()
            .min();
        let is_due = awake.outbox_due_ms.is_some_and(|due| due <= now);
        if is_due && !self.emptying_outbox {
            awake.did = true;
            self.emptying_outbox = true;
            self.out.push(Out::Outbox);
        }
        self.awake = Some(awake);
        if let Some(due) = due {
            let due = if due <= now { now + LEAST_MS } else { due };
            if self.alarm_at.is_none_or(|at| at > due) {
                self.set_alarm(due);
            }
        }
        Some(result)
    }

    /// The platform has killed it, and kept nothing of the step; or the step failed, and its writes and sends so far stand.
    fn dies(&mut self, outs: usize) {
        self.deaths += 1;
        self.dies_after = None;
        self.kept += 1;
        self.emptying_outbox = false;
        if self.kept.is_multiple_of(2) {
            self.disk.execute_batch("COMMIT").unwrap();
            self.close_all();
        } else {
            self.disk.execute_batch("ROLLBACK").unwrap();
            self.sockets.clear();
            self.out.truncate(outs);
            self.out.push(Out::Died);
        }
        self.outcomes.retain(|since_ms| {
            let query = "SELECT COUNT(*) FROM sqlite_master WHERE name = ?";
            let name = format!("outcomes_{since_ms}");
            self.disk
                .query_row(query, [name], |row| row.get::<_, u64>(0))
                .unwrap()
                > 0
        });
    }

    fn wake(&mut self) -> Awake {
        let mut statement = self.disk.prepare(statements::LIVE_MAIL).unwrap();
        let rows = statement
            .query_map([], |row| {
                let id = id_of(&row.get::<_, String>(1)?);
                let mark = match row.get::<_, Option<String>>(7)?.as_deref() {
                    None => Mark::None,
                    Some("unanswered") => Mark::Unanswered,
                    Some("suspect") => Mark::Suspect,
                    Some(_) => Mark::Cut,
                };
                let trouble = Trouble {
                    mark,
                    cuts: row.get(8)?,
                    breaks: row.get(9)?,
                };
                let stored = StoredRow {
                    seq: row.get(0)?,
                    sender: sender(id.0),
                    authority: by_pair(),
                    bytes: row.get(12)?,
                    attempts: row.get(5)?,
                    trouble,
                    due_at_ms: row.get(6)?,
                    created_at_ms: row.get(10)?,
                    expires_at_ms: row.get(11)?,
                };
                Ok((stored, id))
            })
            .unwrap();
        let rows: Vec<(StoredRow, Id)> = rows.map(Result::unwrap).collect();
        drop(statement);
        let open = self.sockets.iter().filter(|(_, it)| !it.closed);
        let socket = open
            .max_by_key(|(_, it)| it.opened_at_ms)
            .map(|(conn, it)| (*conn, it.connection()));
        let in_flight = socket.iter().flat_map(|(_, connection)| &connection.in_flight);
        let last = in_flight
            .map(|(seq, _)| *seq)
            .chain(rows.iter().map(|(row, _)| row.seq))
            .max();
        let mail: HashMap<u64, Id> = rows.iter().map(|(row, id)| (row.seq, *id)).collect();
        Awake {
            seqs: mail.iter().map(|(seq, id)| (*id, *seq)).collect(),
            mail,
            socket: socket.as_ref().map(|(conn, _)| *conn),
            queue: RelayQueue::restore(
                settings(),
                rows.into_iter().map(|(row, _)| row),
                last.unwrap_or(0) + 1,
                socket.map(|(_, connection)| connection),
            ),
            outbox_due_ms: self.outbox_due(),
            did: false,
        }
    }

    fn apply(
        &mut self,
        awake: &mut Awake,
        changes: impl IntoIterator<Item = Change>,
        now: u64,
    ) -> Result<(), Died> {
        for change in changes {
            awake.did = true;
            match change {
                Change::Delivered { seq } => self.finish(awake, seq, "delivered", None, now)?,
                Change::Requeued {
                    seq,
                    attempts,
                    due_at_ms,
                } => self.write(statements::REQUEUE_MAIL, params![attempts, due_at_ms, seq])?,
                Change::Cut {
                    seq,
                    trouble,
                    due_at_ms,
                } => self.write(
                    statements::CUT_MAIL,
                    params![mark_of(trouble), trouble.cuts, trouble.breaks, due_at_ms, seq],
                )?,
                Change::DeadLetter { seq, reason } => {
                    let of = sender(awake.mail[&seq].0);
                    let request = request(awake.mail[&seq]).to_string();
                    self.write(
                        statements::PUT_IN_OUTBOX,
                        params![
                            of.as_str(),
                            request,
                            "dead_lettered",
                            reason.as_str(),
                            now,
                            now + KEEP_MS
                        ],
                    )?;
                    awake.outbox_due_ms = Some(now);
                    self.finish(awake, seq, "dead_lettered", Some(reason.as_str()), now)?;
                }
            }
        }
        Ok(())
    }

    fn finish(
        &mut self,
        awake: &mut Awake,
        seq: u64,
        state: &str,
        reason: Option<&str>,
        now: u64,
    ) -> Result<(), Died> {
        let id = awake.mail.remove(&seq).unwrap();
        awake.seqs.remove(&id);
        self.ends.insert(id, now);
        let last = self.outcomes.last().copied();
        let since_ms = match last.filter(|since_ms| now < since_ms + KEEP_MS / 2) {
            Some(since_ms) => since_ms,
            None => {
                self.disk.execute_batch(&schema::outcomes(now)).unwrap();
                self.outcomes.push(now);
                now
            }
        };
        let (none, of): (Option<&str>, _) = (None, sender(id.0));
        let request = request(id).to_string();
        let values = params![request, of.as_str(), none, "hash", state, reason, now];
        self.write(&statements::put_outcome(since_ms), values)?;
        self.write(statements::REMOVE_MAIL, [seq])
    }

    fn drain(&mut self, awake: &mut Awake, now: u64) -> Result<(), Died> {
        let pumped = awake.queue.pump(now);
        awake.did |= !pumped.ask.is_empty() || !pumped.launches.is_empty();
        self.out.extend(pumped.ask.into_iter().map(Out::Ask));
        self.remember_flight(awake)?;
        for launch in pumped.launches {
            self.send(awake, awake.mail[&launch.seq])?;
        }
        Ok(())
    }

    fn remember_flight(&mut self, awake: &mut Awake) -> Result<(), Died> {
        let Some(it) = awake.socket.map(|conn| &self.sockets[&conn]) else {
            return Ok(());
        };
        let progress_at_ms = awake.queue.progress_at_ms().unwrap();
        let in_flight: Vec<(u64, u64)> = awake.queue.in_flight().collect();
        if in_flight == it.in_flight && progress_at_ms == it.progress_at_ms {
            return Ok(());
        }
        self.change_socket(awake, |it| {
            it.in_flight = in_flight;
            it.progress_at_ms = progress_at_ms;
        })
    }

    fn look_after_socket(&mut self, awake: &mut Awake, now: u64) -> Result<(), Died> {
        let Some(it) = awake.socket.map(|conn| &self.sockets[&conn]) else {
            return Ok(());
        };
        if it.step(now) != SocketStep::Nothing || awake.queue.is_stalled(now) {
            self.close_socket(awake, now)?;
        }
        Ok(())
    }

    fn close_socket(&mut self, awake: &mut Awake, now: u64) -> Result<(), Died> {
        let Some(conn) = awake.socket.take() else {
            return Ok(());
        };
        self.point()?;
        awake.did = true;
        self.close(conn);
        let changes = awake.queue.disconnected(EndedBy::Us, now);
        self.apply(awake, changes, now)
    }

    fn close_all(&mut self) {
        let open: Vec<u64> = self
            .sockets
            .iter()
            .filter(|(_, it)| !it.closed)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in open {
            self.close(conn);
        }
    }

    fn close(&mut self, conn: u64) {
        self.sockets.get_mut(&conn).unwrap().closed = true;
        self.out.push(Out::Frame(conn, Frame::Close));
    }

    fn change_socket(&mut self, awake: &mut Awake, change: impl FnOnce(&mut Attachment)) -> Result<(), Died> {
        self.point()?;
        change(self.sockets.get_mut(&awake.socket.unwrap()).unwrap());
        Ok(())
    }

    fn send(&mut self, awake: &mut Awake, id: Id) -> Result<(), Died> {
        self.point()?;
        self.out
            .push(Out::Frame(awake.socket.unwrap(), Frame::Deliver(id)));
        Ok(())
    }

    fn write(&mut self, query: &str, values: impl Params) -> Result<(), Died> {
        self.point()?;
        self.disk.prepare(query).unwrap().execute(values).unwrap();
        Ok(())
    }

    /// A write or a send: the object may die before it.
    fn point(&mut self) -> Result<(), Died> {
        match &mut self.dies_after {
            Some(0) => Err(Died),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn set_alarm(&mut self, at: u64) {
        self.alarm_at = Some(at);
        self.out.push(Out::Alarm(at));
    }

    fn outcomes_of(&self, id: Id) -> Vec<(String, Option<String>)> {
        let Some(query) = statements::find_outcomes(&self.outcomes, statements::OF_ID) else {
            return Vec::new();
        };
        let mut statement = self.disk.prepare(&query).unwrap();
        let request = request(id).to_string();
        let rows = statement
            .query_map([request], |row| Ok((row.get(5)?, row.get(6)?)))
            .unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn outbox(&self, now: u64) -> Vec<(u64, Id, String)> {
        let mut statement = self.disk.prepare(statements::OUTBOX).unwrap();
        let rows = statement
            .query_map(params![now, BATCH], |row| {
                Ok((row.get(0)?, id_of(&row.get::<_, String>(2)?), row.get(3)?))
            })
            .unwrap();
        rows.map(Result::unwrap).collect()
    }

    fn outbox_due(&self) -> Option<u64> {
        self.disk
            .query_row(statements::OUTBOX_DUE, [], |row| row.get(0))
            .unwrap()
    }
}

fn attachment(conn: u64, now: u64) -> Attachment {
    Attachment {
        socket_id: format!("{conn:016x}"),
        agent: sender(60),
        owner: HumanDid::parse("did:cdi:registry.test:human:01JZ0000000000000000000002").unwrap(),
        jti: Ulid::from_u128(1),
        issuer: None,
        kid: None,
        ait_expires_at_ms: u64::MAX,
        generation: crate::admission::Generation::from_random([1; 8]),
        opened_at_ms: now,
        last_seen_ms: now,
        looked_at_ms: now,
        asked_at_ms: now,
        progress_at_ms: now,
        in_flight: Vec::new(),
        pushed_through: 0,
        confirmed_through: 0,
        probe: None,
        enqueued: Default::default(),
        idle: Default::default(),
        closed: false,
    }
}

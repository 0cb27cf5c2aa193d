//! The calls of this node: its commands, from the call to the outcome.
//!
//! All commands of one run of the node form one session. They are numbered when they are packed, sent in
//! order, and sent again until the log has decided on each; what it decided is learnt from this node's own
//! [`Replica`](super::replica::Replica), never from the leader.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::entry::{Batch, COMMAND_LEN_MAX, CommandsBuilder, Owner, SessionId};
use super::io::{CallId, CallOutcome, Rejection};
use super::replica::Applied;
use super::sessions::{Outcome, Sessions};
use super::types::{Incarnation, Member, Sequence, Term, Version};
use crate::time::Instant;

/// So many calls may wait.
pub(super) const WAITING_MAX: usize = 65_536;

/// The commands of waiting calls may have so many bytes.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;

/// So many commands go in one batch.
const BATCH_COUNT_MAX: u32 = 4_096;

/// No command is added to a batch of so many bytes.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Nothing is sent while so many bytes are sent and not decided on.
const WINDOW_BYTES: usize = 8 << 20;

/// The calls of one run of this node.
#[derive(Debug)]
pub(super) struct Client {
    owner: Owner,
    forward_timeout: Duration,
    session: Option<SessionId>,
    /// Calls whose commands have no number yet, in order.
    queue: VecDeque<Queued>,
    /// Calls whose commands have a number, in its order, from the first that has not ended.
    sent: VecDeque<Sent>,
    /// The number of the first in `sent`, or of the next command.
    front: Sequence,
    /// The batches that hold the commands of `sent`.
    flights: VecDeque<Flight>,
    /// How many of `flights` are due.
    due: usize,
    /// How many of `queue` were given up.
    holes: usize,
    /// Calls that have not ended.
    waiting: usize,
    queue_bytes: usize,
    flight_bytes: usize,
    /// Where to everything goes.
    target: Option<(Member, Term)>,
    /// The target refuses commands; it is asked again at the deadline.
    refused: bool,
    /// When what was sent, and has brought nothing since, is sent again.
    deadline: Option<Instant>,
    /// All was sent again when this was the first command not ended: gaps before that is decided on are
    /// known already.
    resent_from: Option<Sequence>,
    ended: VecDeque<(CallId, CallOutcome)>,
    stopped: bool,
}

/// A call whose command has no number yet.
#[derive(Debug)]
struct Queued {
    call: CallId,
    /// `None`: it was given up, and leaves no place in the session.
    command: Option<Bytes>,
}

/// A call whose command has a number.
#[derive(Clone, Copy, Debug)]
struct Sent {
    call: CallId,
    state: SentState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SentState {
    Waiting,
    /// The caller waits no longer; the log decides whether the command or its absence came first.
    GivenUp,
    Ended,
}

/// A batch that was sent.
#[derive(Debug)]
struct Flight {
    batch: Batch,
    /// It is to be sent again.
    due: bool,
    /// It has commands that have been given up since it was packed.
    outdated: bool,
}

/// What is to go to the leader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// A session is to be opened.
    pub(super) open: bool,
    /// Commands, in order.
    pub(super) batches: Vec<Batch>,
}

impl Client {
    /// The calls of this run; what is sent brings something within `forward_timeout`, or is sent again.
    pub(super) const fn new(owner: Owner, forward_timeout: Duration) -> Self {
        Self {
            owner,
            forward_timeout,
            session: None,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            front: Sequence(1),
            flights: VecDeque::new(),
            due: 0,
            holes: 0,
            waiting: 0,
            queue_bytes: 0,
            flight_bytes: 0,
            target: None,
            refused: false,
            deadline: None,
            resent_from: None,
            ended: VecDeque::new(),
            stopped: false,
        }
    }

    /// Which run it is.
    pub(super) const fn owner(&self) -> Owner {
        self.owner
    }

    /// Goes on as `owner`: the node has left its founding, in which no session was opened.
    pub(super) fn leave_founding(&mut self, owner: Owner) {
        self.lose_session();
        self.owner = owner;
    }

    /// Takes a command, to be applied exactly once. Its outcome comes from [`poll_ended`](Self::poll_ended).
    ///
    /// # Errors
    /// Where it is too long, too much waits, or all has stopped. The call has then ended.
    pub(super) fn execute(&mut self, call: CallId, command: Bytes) -> Result<(), Rejection> {
        if self.stopped {
            return Err(Rejection::Stopped);
        }
        if command.len() > COMMAND_LEN_MAX {
            return Err(Rejection::TooLong {
                len: command.len(),
                limit: COMMAND_LEN_MAX,
            });
        }
        let bytes = self.queue_bytes + self.flight_bytes;
        if self.waiting >= WAITING_MAX || bytes + command.len() > WAITING_BYTES_MAX {
            return Err(Rejection::Busy {
                waiting: self.waiting,
            });
        }
        self.waiting += 1;
        self.queue_bytes += command.len();
        self.queue.push_back(Queued {
            call,
            command: Some(command),
        });
        Ok(())
    }

    /// The caller waits no longer. A command that was never sent ends at once; of another the log decides.
    pub(super) fn give_up(&mut self, call: CallId) {
        if let Some(at) = place_of(&self.queue, call, |queued| queued.call) {
            if let Some(command) = self.queue[at].command.take() {
                self.queue_bytes -= command.len();
                self.end(call, CallOutcome::GivenUp);
                self.holes += 1;
                self.drop_holes();
            }
            return;
        }
        let Some(at) = place_of(&self.sent, call, |sent| sent.call) else {
            return;
        };
        let sent = &mut self.sent[at];
        if sent.state != SentState::Waiting {
            return;
        }
        sent.state = SentState::GivenUp;
        let sequence = Sequence(self.front.0 + at as u64);
        let after = self
            .flights
            .partition_point(|flight| flight.batch.last() < sequence);
        if let Some(flight) = self.flights.get_mut(after) {
            flight.outdated = true;
            self.due += usize::from(!flight.due);
            flight.due = true;
        }
    }

    /// What is to go to `leader`, which leads in `term`, now. To be asked at the end of each turn, with the
    /// leader that is known and can be reached.
    pub(super) fn outgoing(
        &mut self,
        now: Instant,
        leader: Option<Member>,
        term: Term,
    ) -> Outgoing {
        let target = leader.map(|leader| (leader, term));
        let is_due = self.deadline.is_some_and(|deadline| deadline <= now);
        if target != self.target || is_due {
            // Another leader knows nothing of what was sent; what brought nothing may be lost.
            self.target = target;
            self.refused = false;
            self.deadline = None;
            self.resend();
        }
        let mut outgoing = Outgoing::default();
        if self.target.is_none() || self.refused || self.stopped {
            return outgoing;
        }
        let Some(session) = self.session else {
            outgoing.open = self.deadline.is_none();
            self.deadline.get_or_insert(now + self.forward_timeout);
            return outgoing;
        };
        self.send_due(&mut outgoing.batches);
        self.pack(session, &mut outgoing.batches);
        if !outgoing.batches.is_empty() {
            self.deadline.get_or_insert(now + self.forward_timeout);
        }
        outgoing
    }

    /// When [`outgoing`](Self::outgoing) is to be asked although nothing has happened.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The calls that have ended, one by one.
    pub(super) fn poll_ended(&mut self) -> Option<(CallId, CallOutcome)> {
        self.ended.pop_front()
    }

    /// `member` takes no commands. They wait until there is another leader, or are sent again in a while.
    pub(super) fn not_leader(&mut self, now: Instant, member: Member) {
        if self.target.is_some_and(|(leader, _)| leader == member) {
            self.refused = true;
            self.deadline = Some(now + self.forward_timeout);
        }
    }

    /// Takes note of what the replica reports, in its order.
    pub(super) fn applied(&mut self, now: Instant, incarnation: Incarnation, applied: Applied) {
        match applied {
            Applied::Opened(session) => self.opened(session, Sequence::ZERO),
            Applied::Ended {
                session,
                sequence,
                outcome,
            } => {
                if self.session == Some(session) {
                    self.end_sent(session, incarnation, sequence, outcome);
                    self.advance(now);
                }
            }
            Applied::Gap { session, expected } => {
                if self.session == Some(session)
                    && expected == self.front
                    && self.resent_from != Some(expected)
                {
                    self.resend();
                }
            }
            Applied::UnknownSession(session) => {
                if self.session == Some(session) {
                    self.lose_session();
                }
            }
        }
    }

    /// The replica has moved over entries that it did not apply one by one: what became of the commands in
    /// them is in its sessions.
    pub(super) fn restored(&mut self, now: Instant, incarnation: Incarnation, sessions: &Sessions) {
        if let Some(id) = self.session {
            match sessions.get(id) {
                Some(session) => {
                    let end = self.front.0 + self.sent.len() as u64;
                    let last = session.last().0.min(end);
                    for sequence in (self.front.0..=last).map(Sequence) {
                        let outcome = session.outcome(sequence);
                        self.end_sent(id, incarnation, sequence, outcome);
                    }
                    self.advance(now);
                }
                None => self.lose_session(),
            }
        }
        if let Some((id, session)) = sessions.of(self.owner) {
            self.opened(id, session.last());
        }
    }

    /// Ends all calls: nothing is sent any more.
    pub(super) fn stop(&mut self) {
        self.lose_session();
        self.stopped = true;
        for queued in std::mem::take(&mut self.queue) {
            if queued.command.is_some() {
                self.end(queued.call, CallOutcome::Rejected(Rejection::Stopped));
            }
        }
        self.queue_bytes = 0;
        self.holes = 0;
    }

    /// There is a session in which the commands up to `last` have ended.
    fn opened(&mut self, session: SessionId, last: Sequence) {
        if self.session == Some(session) {
            return;
        }
        self.lose_session();
        self.session = Some(session);
        self.front = last.next();
    }

    /// The session has ended: whether its open commands were applied is not known, and they are never tried
    /// under another.
    fn lose_session(&mut self) {
        for sent in std::mem::take(&mut self.sent) {
            if sent.state != SentState::Ended {
                self.end(sent.call, CallOutcome::Unknown);
            }
        }
        self.flights.clear();
        self.flight_bytes = 0;
        self.due = 0;
        self.session = None;
        self.resent_from = None;
        if !self.refused {
            self.deadline = None;
        }
    }

    fn end(&mut self, call: CallId, outcome: CallOutcome) {
        self.waiting -= 1;
        self.ended.push_back((call, outcome));
    }

    fn end_sent(
        &mut self,
        session: SessionId,
        incarnation: Incarnation,
        sequence: Sequence,
        outcome: Outcome,
    ) {
        let sent = sequence
            .0
            .checked_sub(self.front.0)
            .and_then(|at| self.sent.get_mut(usize::try_from(at).ok()?));
        let Some(sent) = sent else {
            return;
        };
        let Sent { call, state } = *sent;
        sent.state = SentState::Ended;
        let outcome = match (outcome, state) {
            (_, SentState::Ended) => return,
            (Outcome::Applied { index, output }, _) => CallOutcome::Applied {
                version: Version { incarnation, index },
                output,
            },
            (Outcome::GivenUp, _) => CallOutcome::GivenUp,
            (Outcome::Lost, SentState::Waiting) => CallOutcome::OutputLost { session, sequence },
            // What is lost may also be that it was given up.
            (Outcome::Lost, SentState::GivenUp) => CallOutcome::Unknown,
        };
        self.end(call, outcome);
    }

    /// Forgets what has ended.
    fn advance(&mut self, now: Instant) {
        let before = self.front;
        while let Some(sent) = self.sent.front()
            && sent.state == SentState::Ended
        {
            self.sent.pop_front();
            self.front = self.front.next();
        }
        if self.front == before {
            return;
        }
        while let Some(flight) = self.flights.front()
            && flight.batch.last() < self.front
        {
            self.due -= usize::from(flight.due);
            self.flight_bytes -= flight.batch.commands.len_bytes();
            self.flights.pop_front();
        }
        if !self.refused {
            // What is sent does bring something: there is time for the rest.
            let rest = !self.flights.is_empty();
            self.deadline = rest.then_some(now + self.forward_timeout);
        }
    }

    /// All that is sent and not decided on is to be sent again.
    fn resend(&mut self) {
        for flight in &mut self.flights {
            flight.due = true;
        }
        self.due = self.flights.len();
        self.resent_from = (!self.flights.is_empty()).then_some(self.front);
    }

    fn send_due(&mut self, batches: &mut Vec<Batch>) {
        if self.due == 0 {
            return;
        }
        for flight in self.flights.iter_mut().filter(|flight| flight.due) {
            if flight.outdated {
                let before = flight.batch.commands.len_bytes();
                flight.leave_out(self.front, &self.sent);
                self.flight_bytes -= before - flight.batch.commands.len_bytes();
            }
            flight.due = false;
            flight.batch.acked_through = self.front.previous();
            batches.push(flight.batch.clone());
        }
        self.due = 0;
    }

    /// Packs what is queued, as far as the window allows.
    fn pack(&mut self, session: SessionId, batches: &mut Vec<Batch>) {
        let mut builder = CommandsBuilder::default();
        while !self.queue.is_empty() && self.flight_bytes < WINDOW_BYTES {
            let first = Sequence(self.front.0 + self.sent.len() as u64);
            while builder.count() < BATCH_COUNT_MAX
                && builder.len_bytes() < BATCH_BYTES_MAX
                && let Some(queued) = self.queue.pop_front()
            {
                let Some(command) = queued.command else {
                    self.holes -= 1;
                    continue;
                };
                self.queue_bytes -= command.len();
                builder.push(&command);
                self.sent.push_back(Sent {
                    call: queued.call,
                    state: SentState::Waiting,
                });
            }
            if builder.count() == 0 {
                return;
            }
            let batch = Batch {
                session,
                first,
                acked_through: self.front.previous(),
                commands: builder.take(),
            };
            self.flight_bytes += batch.commands.len_bytes();
            batches.push(batch.clone());
            self.flights.push_back(Flight {
                batch,
                due: false,
                outdated: false,
            });
        }
    }

    /// Keeps calls that were given up from outnumbering the others in the queue.
    fn drop_holes(&mut self) {
        if 2 * self.holes > self.queue.len() {
            self.queue.retain(|queued| queued.command.is_some());
            self.holes = 0;
        }
    }
}

/// Where `call` is. Found at once among calls in ascending order, as callers number them as a rule.
fn place_of<T>(calls: &VecDeque<T>, call: CallId, of: impl Fn(&T) -> CallId) -> Option<usize> {
    let guess = calls.partition_point(|other| of(other) < call);
    if calls.get(guess).is_some_and(|other| of(other) == call) {
        return Some(guess);
    }
    calls.iter().position(|other| of(other) == call)
}

impl Flight {
    /// Leaves out the commands that were given up, but not their places. `sent` begins with the command
    /// `front`.
    fn leave_out(&mut self, front: Sequence, sent: &VecDeque<Sent>) {
        let mut commands = CommandsBuilder::default();
        let numbers = self.batch.first.0..;
        for (number, command) in numbers.zip(self.batch.commands.iter()) {
            let at = number.checked_sub(front.0).map(|at| at as usize);
            let sent = at.and_then(|at| sent.get(at));
            let is_given_up = sent.is_some_and(|sent| sent.state == SentState::GivenUp);
            match command {
                Some(command) if !is_given_up => commands.push(&command),
                Some(_) | None => commands.push_given_up(),
            }
        }
        self.batch.commands = commands.take();
        self.outdated = false;
    }
}

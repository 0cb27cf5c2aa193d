//! The calls of this node: its commands, from the call to the outcome.
//!
//! All commands of one run of the node form one session. They are numbered when they are packed, sent in
//! order, and sent again until the log has decided on each; what it decided is learnt from this node's own
//! [`Replica`](super::replica::Replica), never from the leader.

use std::collections::VecDeque;
use std::time::Duration;

use super::entry::{Batch, COMMAND_LEN_MAX, Commands, CommandsBuilder, Owner, SessionId};
use super::io::{CallId, CallOutcome, Rejection};
use super::outputs::{Ending, Outputs};
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

/// While so many batches are sent and not decided on, another goes only when it is full: what comes meanwhile goes
/// together, since most of what a batch costs all members does not depend on what is in it.
const FLIGHTS_MAX: usize = 4;

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
    queue_count: usize,
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
    ended: VecDeque<Ended>,
    stopped: bool,
}

/// How calls ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// One.
    One(CallId, CallOutcome),
    /// Several that were made together, from this one on: all were applied, in one entry.
    Applied(CallId, Version, Outputs),
}

/// Calls that were made together, and whose commands have no number yet.
#[derive(Debug)]
struct Queued {
    /// The first of them.
    first: CallId,
    /// Their commands. None: they were given up, and leave no place in the session.
    commands: Commands,
}

impl Queued {
    /// The last of the calls, or the one before the first where there is none.
    const fn last(&self) -> u64 {
        self.first
            .0
            .wrapping_add(self.commands.count() as u64)
            .wrapping_sub(1)
    }
}

/// A call whose command has a number.
#[derive(Clone, Copy, Debug)]
struct Sent {
    call: CallId,
    state: SentState,
    /// It was made together with the one before it.
    is_joined: bool,
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
            queue_count: 0,
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

    /// Has its session opened for `owner`, which is another name for this run.
    pub(super) const fn be_called(&mut self, owner: Owner) {
        self.owner = owner;
    }

    /// Goes on as `owner`: the sessions of the incarnation that it belonged to mean nothing in the next. What became of
    /// commands that were sent is not known; those that were not are sent there.
    pub(super) fn begin_anew(&mut self, owner: Owner) {
        self.lose_session();
        self.owner = owner;
    }

    /// Takes a command, to be applied exactly once. Its outcome comes from [`poll_ended`](Self::poll_ended).
    ///
    /// # Errors
    /// Where it is too long, too much waits, or all has stopped. The call has then ended.
    pub(super) fn execute(&mut self, call: CallId, command: &[u8]) -> Result<(), Rejection> {
        if self.stopped {
            return Err(Rejection::Stopped);
        }
        if command.len() > COMMAND_LEN_MAX {
            return Err(Rejection::TooLong {
                len: command.len(),
                limit: COMMAND_LEN_MAX,
            });
        }
        let mut commands = CommandsBuilder::default();
        commands.push(command);
        self.execute_many(call, commands.take())
    }

    /// Takes commands that are not too long, each to be applied exactly once; their calls are numbered from `first`
    /// on. Their outcomes come from [`poll_ended`](Self::poll_ended).
    ///
    /// # Errors
    /// Where too much waits, or all has stopped. The calls have then ended.
    pub(super) fn execute_many(
        &mut self,
        first: CallId,
        commands: Commands,
    ) -> Result<(), Rejection> {
        if self.stopped {
            return Err(Rejection::Stopped);
        }
        let waiting = self.waiting + commands.count() as usize;
        let bytes = self.queue_bytes + self.flight_bytes + commands.len_bytes();
        if waiting > WAITING_MAX || bytes > WAITING_BYTES_MAX {
            return Err(Rejection::Busy {
                waiting: self.waiting,
            });
        }
        self.waiting = waiting;
        self.queue_count += commands.count() as usize;
        self.queue_bytes += commands.len_bytes();
        self.queue.push_back(Queued { first, commands });
        Ok(())
    }

    /// The caller waits no longer. A command that was never sent ends at once; of another the log decides.
    pub(super) fn give_up(&mut self, call: CallId) {
        if let Some(at) = self.queued_at(call) {
            self.give_up_queued(at, call);
            return;
        }
        let Some(at) = place_of(&self.sent, call) else {
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

    /// The leader takes no commands now: what is due waits once more as long.
    pub(super) fn put_off(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = Some(now + self.forward_timeout);
        }
    }

    /// When [`outgoing`](Self::outgoing) is to be asked although nothing has happened.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// The calls that have ended, one by one.
    pub(super) fn poll_ended(&mut self) -> Option<Ended> {
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
            Applied::Run {
                session,
                first,
                outputs,
            } => {
                if self.session == Some(session) {
                    self.end_run(session, incarnation, first, &outputs);
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
        self.end_queued(&CallOutcome::Rejected(Rejection::Stopped));
    }

    /// Ends all calls that were never sent.
    fn end_queued(&mut self, outcome: &CallOutcome) {
        for queued in std::mem::take(&mut self.queue) {
            for call in (queued.first.0..).take(queued.commands.count() as usize) {
                self.end(CallId(call), outcome.clone());
            }
        }
        self.queue_count = 0;
        self.queue_bytes = 0;
        self.holes = 0;
    }

    /// Goes on as `owner`: the incarnation was given up for `into`. All that waits ends with it, also what was
    /// never sent: it was asked of a state that is no more.
    pub(super) fn supersede(&mut self, owner: Owner, incarnation: Incarnation, into: Incarnation) {
        let outcome = CallOutcome::Superseded { incarnation, into };
        for sent in std::mem::take(&mut self.sent) {
            if sent.state != SentState::Ended {
                self.end(sent.call, outcome.clone());
            }
        }
        self.end_queued(&outcome);
        self.lose_session();
        self.owner = owner;
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
        self.ended.push_back(Ended::One(call, outcome));
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
        let Sent { call, state, .. } = *sent;
        sent.state = SentState::Ended;
        let outcome = match (outcome, state) {
            (_, SentState::Ended) => return,
            (Outcome::Applied { index, output }, _) => CallOutcome::Applied {
                version: Version { incarnation, index },
                output,
            },
            (Outcome::GivenUp, _) => CallOutcome::GivenUp,
            (Outcome::Refused, _) => CallOutcome::Rejected(Rejection::Frozen),
            (Outcome::Lost, SentState::Waiting) => CallOutcome::OutputLost { session, sequence },
            // What is lost may also be that it was given up, or refused.
            (Outcome::Lost, SentState::GivenUp) | (Outcome::Unknown, _) => CallOutcome::Unknown,
        };
        self.end(call, outcome);
    }

    /// Like [`end_sent`](Self::end_sent) for several, of which those that were made together end together.
    fn end_run(
        &mut self,
        session: SessionId,
        incarnation: Incarnation,
        first: Sequence,
        outputs: &Outputs,
    ) {
        let index = outputs.index();
        let version = Version { incarnation, index };
        let mut place = 0;
        while place < outputs.len() {
            let sequence = Sequence(first.0 + place as u64);
            let together = self.applied_together(sequence, outputs, place);
            if together > 1 {
                let at = (sequence.0 - self.front.0) as usize;
                let call = self.sent[at].call;
                for sent in self.sent.range_mut(at..at + together) {
                    sent.state = SentState::Ended;
                }
                self.waiting -= together;
                let outputs = outputs.slice(place..place + together);
                self.ended.push_back(Ended::Applied(call, version, outputs));
                place += together;
            } else {
                if let Some(ending) = outputs.get(place) {
                    self.end_sent(session, incarnation, sequence, Outcome::of(index, ending));
                }
                place += 1;
            }
        }
    }

    /// How many calls that were made together, and wait, have all been applied: the one of command `sequence`, of
    /// which `place` in `outputs` tells, and those after it.
    fn applied_together(&self, sequence: Sequence, outputs: &Outputs, place: usize) -> usize {
        let Some(at) = sequence.0.checked_sub(self.front.0) else {
            return 0;
        };
        let at = (at as usize).min(self.sent.len());
        let sent = self.sent.range(at..).enumerate();
        let applied = sent
            .zip(outputs.iter_from(place))
            .take_while(|((nth, sent), ending)| {
                let is_open = sent.state != SentState::Ended;
                is_open && (*nth == 0 || sent.is_joined) && matches!(ending, Ending::Applied(_))
            });
        applied.count()
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
        let mut parts = Vec::new();
        while self.may_pack() {
            let first = Sequence(self.front.0 + self.sent.len() as u64);
            let (mut count, mut bytes) = (0, 0);
            while count < BATCH_COUNT_MAX
                && bytes < BATCH_BYTES_MAX
                && let Some(queued) = self.queue.pop_front()
            {
                if queued.commands.is_empty() {
                    self.holes -= 1;
                    continue;
                }
                let (room, room_bytes) = (BATCH_COUNT_MAX - count, BATCH_BYTES_MAX - bytes);
                let (packed, left) = queued.commands.split(room, room_bytes);
                let calls = queued.first.0..queued.first.0 + u64::from(packed.count());
                if !left.is_empty() {
                    self.queue.push_front(Queued {
                        first: CallId(calls.end),
                        commands: left,
                    });
                }
                self.sent.extend(calls.map(|call| Sent {
                    call: CallId(call),
                    state: SentState::Waiting,
                    is_joined: call != queued.first.0,
                }));
                self.queue_count -= packed.count() as usize;
                self.queue_bytes -= packed.len_bytes();
                count += packed.count();
                bytes += packed.len_bytes();
                parts.push(packed);
            }
            if count == 0 {
                return;
            }
            let batch = Batch {
                session,
                first,
                acked_through: self.front.previous(),
                commands: Commands::concat(&mut parts),
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

    /// Whether there is a batch that may go.
    fn may_pack(&self) -> bool {
        let is_full =
            self.queue_count >= BATCH_COUNT_MAX as usize || self.queue_bytes >= BATCH_BYTES_MAX;
        let may_go = self.flights.len() < FLIGHTS_MAX || is_full;
        !self.queue.is_empty() && self.flight_bytes < WINDOW_BYTES && may_go
    }

    /// Which of the queue holds `call`. Found at once among calls in ascending order, as callers number them as a rule.
    fn queued_at(&self, call: CallId) -> Option<usize> {
        let holds = |queued: &Queued| {
            !queued.commands.is_empty() && (queued.first.0..=queued.last()).contains(&call.0)
        };
        let after = self.queue.partition_point(|queued| queued.first <= call);
        let guess = after.checked_sub(1);
        guess
            .filter(|at| holds(&self.queue[*at]))
            .or_else(|| self.queue.iter().position(holds))
    }

    /// Ends a call of those at `at` in the queue. What was made together with it is split there.
    fn give_up_queued(&mut self, at: usize, call: CallId) {
        let queued = &mut self.queue[at];
        let place = (call.0 - queued.first.0) as u32;
        let (before, rest) = std::mem::take(&mut queued.commands).split(place, usize::MAX);
        let (command, after) = rest.split(1, usize::MAX);
        let is_last = after.is_empty();
        let after = Queued {
            first: CallId(call.0 + 1),
            commands: after,
        };
        self.queue_count -= 1;
        self.queue_bytes -= command.len_bytes();
        if before.is_empty() {
            self.holes += usize::from(is_last);
            *queued = after;
        } else {
            queued.commands = before;
            if !is_last {
                self.queue.insert(at + 1, after);
            }
        }
        self.end(call, CallOutcome::GivenUp);
        self.drop_holes();
    }

    /// Keeps calls that were given up from outnumbering the others in the queue.
    fn drop_holes(&mut self) {
        if 2 * self.holes > self.queue.len() {
            self.queue.retain(|queued| !queued.commands.is_empty());
            self.holes = 0;
        }
    }
}

/// Which of `sent` is `call`. Found at once among calls in ascending order, as callers number them as a rule.
fn place_of(sent: &VecDeque<Sent>, call: CallId) -> Option<usize> {
    let guess = sent.partition_point(|other| other.call < call);
    if sent.get(guess).is_some_and(|other| other.call == call) {
        return Some(guess);
    }
    sent.iter().position(|other| other.call == call)
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
                Some(command) if !is_given_up => commands.push(command),
                Some(_) | None => commands.push_given_up(),
            }
        }
        self.batch.commands = commands.take();
        self.outdated = false;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::outputs::OutputsBuilder;
    use super::super::replica::Replica;
    use super::super::replica::testing::{List, entry, founding, owner};
    use super::*;
    use crate::protocol::raft::{Config, Entry, Index, Payload};

    const TIMEOUT: Duration = Duration::from_secs(2);
    const SESSION: SessionId = SessionId(Index(2));

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn incarnation() -> Incarnation {
        let founding = founding();
        let Payload::Founding(charter) = &founding.payload else {
            unreachable!("it is a founding")
        };
        charter.incarnation()
    }

    fn client() -> Client {
        Client::new(owner(1), TIMEOUT)
    }

    fn leader() -> Option<Member> {
        Some(owner(8).member)
    }

    /// A client with a session, and a leader that it has sent to.
    fn with_session() -> Client {
        let mut client = client();
        assert!(client.outgoing(at(0), leader(), Term(1)).open);
        client.applied(at(0), incarnation(), Applied::Opened(SESSION));
        client
    }

    fn execute(client: &mut Client, calls: std::ops::Range<u64>) {
        for call in calls {
            client.execute(CallId(call), &call.to_le_bytes()).unwrap();
        }
    }

    fn execute_many(client: &mut Client, calls: std::ops::Range<u64>) {
        let mut commands = CommandsBuilder::default();
        calls
            .clone()
            .for_each(|call| commands.push(&call.to_le_bytes()));
        let first = CallId(calls.start);
        client.execute_many(first, commands.take()).unwrap();
    }

    fn turn(client: &mut Client, now: u64) -> Vec<Batch> {
        let outgoing = client.outgoing(at(now), leader(), Term(1));
        assert!(!outgoing.open);
        outgoing.batches
    }

    /// First and last number of each batch.
    fn numbers(batches: &[Batch]) -> Vec<(u64, u64)> {
        let number = |batch: &Batch| (batch.first.0, batch.last().0);
        batches.iter().map(number).collect()
    }

    fn applied(client: &mut Client, now: u64, numbers: std::ops::RangeInclusive<u64>) {
        for sequence in numbers {
            let applied = Applied::Ended {
                session: SESSION,
                sequence: Sequence(sequence),
                outcome: Outcome::Applied {
                    index: Index(9),
                    output: Bytes::new(),
                },
            };
            client.applied(at(now), incarnation(), applied);
        }
    }

    fn ended(client: &mut Client) -> Vec<(u64, CallOutcome)> {
        std::iter::from_fn(|| client.poll_ended())
            .flat_map(one_by_one)
            .collect()
    }

    /// How each call has ended.
    fn one_by_one(ended: Ended) -> Vec<(u64, CallOutcome)> {
        match ended {
            Ended::One(call, outcome) => vec![(call.0, outcome)],
            Ended::Applied(first, version, outputs) => {
                let outputs = outputs.iter().filter_map(Ending::output);
                let outcomes = outputs.map(|output| CallOutcome::Applied {
                    version,
                    output: Bytes::copy_from_slice(output),
                });
                (first.0..).zip(outcomes).collect()
            }
        }
    }

    fn ok() -> CallOutcome {
        CallOutcome::Applied {
            version: Version {
                incarnation: incarnation(),
                index: Index(9),
            },
            output: Bytes::new(),
        }
    }

    #[test]
    fn a_session_is_asked_for_before_the_first_call() {
        let mut client = client();
        assert_eq!(client.outgoing(at(0), None, Term(1)), Outgoing::default());
        assert_eq!(client.poll_timeout(), None);
        assert!(client.outgoing(at(10), leader(), Term(1)).open);
        assert!(
            !client.outgoing(at(20), leader(), Term(1)).open,
            "asked already"
        );
        assert_eq!(client.poll_timeout(), Some(at(2_010)));
        assert!(
            client.outgoing(at(2_010), leader(), Term(1)).open,
            "again in time"
        );
        assert!(
            client.outgoing(at(2_020), leader(), Term(2)).open,
            "of another leader"
        );
        client.applied(at(2_030), incarnation(), Applied::Opened(SESSION));
        assert!(!client.outgoing(at(9_000), leader(), Term(3)).open);
        assert_eq!(client.poll_timeout(), None, "nothing is awaited");
    }

    #[test]
    fn what_is_queued_in_a_turn_is_one_batch() {
        let mut client = with_session();
        execute(&mut client, 0..3);
        let batches = turn(&mut client, 0);
        assert_eq!(numbers(&batches), [(1, 3)]);
        assert_eq!(batches[0].session, SESSION);
        assert_eq!(turn(&mut client, 10), []);
        execute(&mut client, 3..5);
        assert_eq!(numbers(&turn(&mut client, 20)), [(4, 5)]);
        applied(&mut client, 30, 1..=4);
        let done: Vec<_> = (0..4).map(|call| (call, ok())).collect();
        assert_eq!(ended(&mut client), done);
        execute(&mut client, 5..6);
        let batches = turn(&mut client, 40);
        assert_eq!(numbers(&batches), [(6, 6)]);
        assert_eq!(batches[0].acked_through, Sequence(4));
    }

    #[test]
    fn while_some_batches_are_on_their_way_the_next_is_gathered() {
        let mut client = with_session();
        for call in 0..FLIGHTS_MAX as u64 {
            execute(&mut client, call..call + 1);
            assert_eq!(turn(&mut client, 0).len(), 1);
        }
        let next = FLIGHTS_MAX as u64;
        execute(&mut client, next..next + 3);
        assert_eq!(turn(&mut client, 0), []);
        applied(&mut client, 10, 1..=1);
        assert_eq!(numbers(&turn(&mut client, 10)), [(next + 1, next + 3)]);
        let many = u64::from(BATCH_COUNT_MAX) + 1;
        execute_many(&mut client, 100..100 + many);
        let full = numbers(&turn(&mut client, 10));
        assert_eq!(
            full,
            [(next + 4, next + 2 + many)],
            "one that is full goes at once"
        );
        assert_eq!(client.queue_count, 1);
        applied(&mut client, 20, 2..=next + 3);
        assert_eq!(turn(&mut client, 20).len(), 1);
        assert_eq!((client.queue_count, client.queue_bytes), (0, 0));
    }

    #[test]
    fn what_brings_nothing_is_sent_again() {
        let mut client = with_session();
        execute(&mut client, 0..1);
        turn(&mut client, 0);
        execute(&mut client, 1..2);
        turn(&mut client, 1_000);
        assert_eq!(client.poll_timeout(), Some(at(2_000)));
        assert_eq!(turn(&mut client, 1_999), []);
        assert_eq!(numbers(&turn(&mut client, 2_000)), [(1, 1), (2, 2)]);
        assert_eq!(client.poll_timeout(), Some(at(4_000)));
        applied(&mut client, 3_000, 1..=1);
        assert_eq!(client.poll_timeout(), Some(at(5_000)), "something came");
        assert_eq!(numbers(&turn(&mut client, 5_000)), [(2, 2)]);
        applied(&mut client, 5_001, 2..=2);
        assert_eq!(client.poll_timeout(), None);
    }

    #[test]
    fn another_leader_or_term_is_sent_all_that_is_open() {
        let mut client = with_session();
        execute(&mut client, 0..2);
        turn(&mut client, 0);
        let other = Some(owner(9).member);
        for (leader, term) in [(other, 1), (other, 2), (leader(), 2)] {
            let outgoing = client.outgoing(at(1), leader, Term(term));
            assert_eq!(numbers(&outgoing.batches), [(1, 2)]);
        }
        assert_eq!(client.outgoing(at(2), None, Term(2)), Outgoing::default());
        assert_eq!(client.poll_timeout(), None);
        execute(&mut client, 2..3);
        let outgoing = client.outgoing(at(9_000), leader(), Term(2));
        assert_eq!(numbers(&outgoing.batches), [(1, 2), (3, 3)]);
    }

    #[test]
    fn a_gap_is_filled_once() {
        let mut client = with_session();
        for call in 0..4 {
            execute(&mut client, call..call + 1);
            turn(&mut client, 0);
        }
        let gap = |client: &mut Client, expected| {
            let gap = Applied::Gap {
                session: SESSION,
                expected: Sequence(expected),
            };
            client.applied(at(10), incarnation(), gap);
            numbers(&turn(client, 10))
        };
        applied(&mut client, 10, 1..=1);
        assert_eq!(gap(&mut client, 2), [(2, 2), (3, 3), (4, 4)]);
        assert_eq!(gap(&mut client, 2), [], "the last one of the same loss");
        applied(&mut client, 10, 2..=2);
        assert_eq!(gap(&mut client, 3), [(3, 3), (4, 4)], "another loss");
        assert_eq!(numbers(&turn(&mut client, 2_010)), [(3, 3), (4, 4)]);
        assert_eq!(gap(&mut client, 3), [], "on its way again");
    }

    #[test]
    fn who_does_not_lead_is_left_alone_for_a_while() {
        let mut client = with_session();
        execute(&mut client, 0..1);
        turn(&mut client, 0);
        client.not_leader(at(10), owner(9).member);
        execute(&mut client, 1..2);
        assert_eq!(
            numbers(&turn(&mut client, 10)),
            [(2, 2)],
            "of another it says nothing"
        );
        client.not_leader(at(20), owner(8).member);
        execute(&mut client, 2..3);
        assert_eq!(turn(&mut client, 30), []);
        let all = [(1, 1), (2, 2), (3, 3)];
        assert_eq!(client.poll_timeout(), Some(at(2_020)));
        assert_eq!(numbers(&turn(&mut client, 2_020)), all);
        client.not_leader(at(2_030), owner(8).member);
        let other = client.outgoing(at(2_040), Some(owner(9).member), Term(1));
        assert_eq!(numbers(&other.batches), all);
    }

    /// What is reported of commands that were applied together, from `first` on.
    fn applied_together(client: &mut Client, first: u64, outputs: &[Option<&[u8]>]) {
        let mut all = OutputsBuilder::default();
        for output in outputs {
            match output {
                Some(output) => all.push(output),
                None => all.push_given_up(),
            }
        }
        let run = Applied::Run {
            session: SESSION,
            first: Sequence(first),
            outputs: all.finish(Index(9)),
        };
        client.applied(at(30), incarnation(), run);
    }

    #[test]
    fn calls_made_together_end_together_as_far_as_they_were_applied() {
        let mut client = with_session();
        execute_many(&mut client, 0..3);
        execute(&mut client, 3..4);
        execute_many(&mut client, 4..8);
        assert_eq!(numbers(&turn(&mut client, 0)), [(1, 8)]);
        let outputs: Vec<[u8; 1]> = (0..8).map(|n| [n]).collect();
        let mut outputs: Vec<Option<&[u8]>> = outputs.iter().map(|it| Some(&it[..])).collect();
        outputs[5] = None;
        applied_together(&mut client, 1, &outputs[..2]);
        // They were sent twice, and are reported twice.
        applied(&mut client, 30, 1..=2);
        applied_together(&mut client, 3, &outputs[2..]);
        let shapes = std::iter::from_fn(|| client.poll_ended()).map(|ended| match ended {
            Ended::One(call, outcome) => (call.0, matches!(outcome, CallOutcome::GivenUp), 1),
            Ended::Applied(first, _, outputs) => {
                let of_calls = (first.0..).map(|call| vec![call as u8]);
                let all: Vec<_> = outputs.iter().filter_map(Ending::output).collect();
                assert!(of_calls.take(all.len()).eq(all.iter().copied()));
                (first.0, false, all.len())
            }
        });
        let shapes: Vec<_> = shapes.collect();
        let expected = [(0, false, 2), (2, false, 1), (3, false, 1), (4, false, 1)];
        assert_eq!(shapes[..4], expected);
        assert_eq!(shapes[4..], [(5, true, 1), (6, false, 2)]);
        assert_eq!((client.waiting, client.flights.len()), (0, 0));
    }

    #[test]
    fn of_calls_made_together_those_given_up_in_time_leave_no_place() {
        let mut client = with_session();
        execute_many(&mut client, 0..7);
        for call in [0, 3, 6, 3, 4] {
            client.give_up(CallId(call));
        }
        let given_up = [0, 3, 6, 4].map(|call| (call, CallOutcome::GivenUp));
        assert_eq!(ended(&mut client), given_up);
        let batches = turn(&mut client, 0);
        let commands: Vec<_> = batches[0].commands.iter().flatten().collect();
        let expected = [1, 2, 5].map(|call: u64| call.to_le_bytes().to_vec());
        assert_eq!(commands, expected);
        assert_eq!((client.queue_bytes, client.holes), (0, 0));
        applied(&mut client, 30, 1..=3);
        assert_eq!(ended(&mut client), [(1, ok()), (2, ok()), (5, ok())]);
    }

    #[test]
    fn many_calls_made_together_are_divided_among_batches() {
        let mut client = with_session();
        let all = u64::from(BATCH_COUNT_MAX) * 2 + 3;
        execute(&mut client, 0..1);
        execute_many(&mut client, 1..all);
        let batches = turn(&mut client, 0);
        let count = u64::from(BATCH_COUNT_MAX);
        let divided = [(1, count), (count + 1, 2 * count), (2 * count + 1, all)];
        assert_eq!(numbers(&batches), divided);
        let commands = batches
            .iter()
            .flat_map(|batch| batch.commands.iter().flatten());
        assert!(commands.eq((0..all).map(u64::to_le_bytes).collect::<Vec<_>>().iter()));
    }

    #[test]
    fn a_call_given_up_ends_at_once_if_it_was_never_sent() {
        let mut client = with_session();
        execute(&mut client, 0..4);
        for call in [1, 1, 77] {
            client.give_up(CallId(call));
        }
        assert_eq!(ended(&mut client), [(1, CallOutcome::GivenUp)]);
        let batches = turn(&mut client, 0);
        assert_eq!(numbers(&batches), [(1, 3)]);
        let calls: Vec<_> = batches[0].commands.iter().flatten().collect();
        let expected = [0, 2, 3].map(|call: u64| call.to_le_bytes().to_vec());
        assert_eq!(calls, expected);
    }

    #[test]
    fn of_a_call_given_up_after_it_was_sent_the_log_decides() {
        let mut client = with_session();
        execute(&mut client, 0..2);
        turn(&mut client, 0);
        execute(&mut client, 2..3);
        turn(&mut client, 0);
        client.give_up(CallId(0));
        client.give_up(CallId(1));
        client.give_up(CallId(1));
        assert_eq!(ended(&mut client), []);
        let batches = turn(&mut client, 10);
        assert_eq!(
            numbers(&batches),
            [(1, 2)],
            "the batch that it is in, and no other"
        );
        assert_eq!(batches[0].commands.iter().collect::<Vec<_>>(), [None, None]);
        assert_eq!(turn(&mut client, 20), []);
        applied(&mut client, 30, 1..=1);
        let given_up = |sequence| Applied::Ended {
            session: SESSION,
            sequence: Sequence(sequence),
            outcome: Outcome::GivenUp,
        };
        client.applied(at(30), incarnation(), given_up(2));
        client.applied(at(30), incarnation(), given_up(2));
        assert_eq!(ended(&mut client), [(0, ok()), (1, CallOutcome::GivenUp)]);
    }

    #[test]
    fn with_the_session_only_what_was_sent_is_lost() {
        let mut client = with_session();
        execute(&mut client, 0..2);
        turn(&mut client, 0);
        execute(&mut client, 2..3);
        let other = SessionId(Index(1));
        client.applied(at(10), incarnation(), Applied::UnknownSession(other));
        assert_eq!(ended(&mut client), []);
        client.applied(at(10), incarnation(), Applied::UnknownSession(SESSION));
        assert_eq!(
            ended(&mut client),
            [(0, CallOutcome::Unknown), (1, CallOutcome::Unknown)]
        );
        let outgoing = client.outgoing(at(10), leader(), Term(1));
        assert_eq!((outgoing.open, outgoing.batches), (true, vec![]));
        let next = SessionId(Index(20));
        client.applied(at(20), incarnation(), Applied::Opened(next));
        let batches = turn(&mut client, 20);
        assert_eq!(numbers(&batches), [(1, 1)]);
        assert_eq!(batches[0].session, next);
        applied(&mut client, 30, 1..=1);
        assert_eq!(
            ended(&mut client),
            [],
            "what the former session brings is not of this one"
        );
    }

    #[test]
    fn what_a_snapshot_skipped_is_read_from_its_sessions() {
        let mut sessions = Sessions::default();
        let mut client = client();
        assert!(client.outgoing(at(0), leader(), Term(1)).open);
        client.restored(at(0), incarnation(), &sessions);
        execute(&mut client, 0..3);
        assert_eq!(turn(&mut client, 0), [], "it has none yet");
        sessions.open(SESSION, owner(1), 9);
        client.restored(at(10), incarnation(), &sessions);
        assert_eq!(
            numbers(&turn(&mut client, 10)),
            [(1, 3)],
            "it was opened in between"
        );
        client.give_up(CallId(1));
        let session = sessions.get_mut(SESSION).unwrap();
        let mut outputs = OutputsBuilder::default();
        outputs.push(&[]);
        outputs.push_given_up();
        session.push(outputs.finish(Index(9)), 1_000);
        client.restored(at(20), incarnation(), &sessions);
        assert_eq!(ended(&mut client), [(0, ok()), (1, CallOutcome::GivenUp)]);
        client.restored(at(30), incarnation(), &Sessions::default());
        assert_eq!(ended(&mut client), [(2, CallOutcome::Unknown)]);
        assert!(client.outgoing(at(30), leader(), Term(1)).open);
    }

    #[test]
    fn with_the_incarnation_all_calls_end() {
        let mut client = with_session();
        execute(&mut client, 0..2);
        turn(&mut client, 0);
        execute(&mut client, 2..4);
        client.give_up(CallId(1));
        client.give_up(CallId(3));
        let refused = Applied::Ended {
            session: SESSION,
            sequence: Sequence(1),
            outcome: Outcome::Refused,
        };
        client.applied(at(10), incarnation(), refused);
        let into = Incarnation(crate::id::Digest::from_bytes([1; 32]));
        client.supersede(owner(7), incarnation(), into);
        let superseded = CallOutcome::Superseded {
            incarnation: incarnation(),
            into,
        };
        assert_eq!(
            ended(&mut client),
            [
                (3, CallOutcome::GivenUp),
                (0, CallOutcome::Rejected(Rejection::Frozen)),
                (1, superseded.clone()),
                (2, superseded),
            ]
        );
        assert_eq!((client.waiting, client.queue_bytes), (0, 0));
        execute(&mut client, 9..10);
        assert!(client.outgoing(at(20), leader(), Term(1)).open);
        client.applied(at(20), incarnation(), Applied::Opened(SessionId(Index(5))));
        assert_eq!(numbers(&turn(&mut client, 20)), [(1, 1)]);
    }

    #[test]
    fn at_the_end_all_calls_end() {
        let mut client = with_session();
        execute(&mut client, 0..1);
        turn(&mut client, 0);
        execute(&mut client, 1..3);
        client.give_up(CallId(1));
        client.stop();
        let stopped = Rejection::Stopped;
        assert_eq!(
            ended(&mut client),
            [
                (1, CallOutcome::GivenUp),
                (0, CallOutcome::Unknown),
                (2, CallOutcome::Rejected(stopped.clone())),
            ]
        );
        assert_eq!(client.execute(CallId(9), &[]), Err(stopped));
        assert_eq!(
            client.outgoing(at(9_000), leader(), Term(2)),
            Outgoing::default()
        );
    }

    #[test]
    fn too_long_and_too_many_calls_are_refused() {
        let mut client = with_session();
        let long = vec![0; COMMAND_LEN_MAX + 1];
        let refused = client.execute(CallId(0), &long);
        assert!(
            matches!(refused, Err(Rejection::TooLong { .. })),
            "{refused:?}"
        );
        let longest = &long[1..];
        let taken = (0..100).take_while(|call| {
            turn(&mut client, 0);
            client.execute(CallId(*call), longest).is_ok()
        });
        let taken = taken.count();
        assert_eq!(
            taken,
            WAITING_BYTES_MAX / COMMAND_LEN_MAX - 1,
            "each has its length in front"
        );
        assert_eq!(client.flights.len(), 1, "one fills the window");
        client.give_up(CallId(taken as u64 - 1));
        client.execute(CallId(200), longest).unwrap();

        let mut client = with_session();
        execute(&mut client, 0..WAITING_MAX as u64);
        let busy = Err(Rejection::Busy {
            waiting: WAITING_MAX,
        });
        assert_eq!(client.execute(CallId(u64::MAX), &[]), busy);
        let batches = turn(&mut client, 0);
        assert!(
            batches
                .iter()
                .all(|batch| batch.commands.count() == BATCH_COUNT_MAX)
        );
        assert_eq!(
            client.execute(CallId(u64::MAX), &[]),
            busy,
            "sent ones wait as well"
        );
        applied(&mut client, 10, 1..=1);
        client.execute(CallId(u64::MAX), &[]).unwrap();
    }

    #[test]
    fn many_calls_given_up_leave_nothing_behind() {
        let mut client = client();
        for call in 0..10_000 {
            execute(&mut client, call..call + 1);
            client.give_up(CallId(call));
            assert!(client.queue.len() <= 1);
        }
        // Not in ascending order either.
        for call in [5, 3, 9, 1] {
            execute(&mut client, call..call + 1);
        }
        for call in [3, 1, 5] {
            client.give_up(CallId(call));
        }
        assert_eq!(
            (client.waiting, client.queue.len(), client.queue_bytes),
            (1, 1, 12)
        );
        assert_eq!(ended(&mut client).len(), 10_003);
    }

    /// What goes to the leader.
    #[derive(Clone, Debug)]
    enum Message {
        Open,
        Batch(Batch),
    }

    /// A client, the replica of its node, one of another node, and a leader with a bad way to it.
    struct World {
        now: Instant,
        client: Client,
        config: Config,
        near: Replica<List>,
        far: Replica<List>,
        leader: Option<Member>,
        term: Term,
        way: Vec<Message>,
        /// All entries; the leader's tail may still be cut off.
        log: Vec<Entry>,
        committed: usize,
        calls: u64,
        ended: BTreeMap<u64, CallOutcome>,
    }

    #[derive(Clone, Debug)]
    enum Step {
        Execute(usize),
        ExecuteMany(usize),
        GiveUp(prop::sample::Index),
        Turn,
        Deliver(usize),
        DeliverAny(prop::sample::Index),
        Duplicate(prop::sample::Index),
        Lose(prop::sample::Index),
        /// So much of the leader's tail is lost, and whether the next leader is known.
        Depose(prop::sample::Index, bool),
        Refuse,
        Commit(usize),
        /// The node is behind, and moves on by a snapshot.
        Restore,
        OtherOpens(u8),
        WaitForTimeout,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let any_index = any::<prop::sample::Index>;
        let step = prop_oneof![
            4 => (1..4usize).prop_map(Step::Execute),
            4 => (1..6usize).prop_map(Step::ExecuteMany),
            2 => any_index().prop_map(Step::GiveUp),
            8 => Just(Step::Turn),
            6 => (1..5usize).prop_map(Step::Deliver),
            2 => any_index().prop_map(Step::DeliverAny),
            2 => any_index().prop_map(Step::Duplicate),
            2 => any_index().prop_map(Step::Lose),
            1 => (any_index(), any::<bool>()).prop_map(|(cut, known)| Step::Depose(cut, known)),
            1 => Just(Step::Refuse),
            6 => (1..6usize).prop_map(Step::Commit),
            1 => Just(Step::Restore),
            1 => (2..5u8).prop_map(Step::OtherOpens),
            1 => Just(Step::WaitForTimeout),
        ];
        prop::collection::vec(step, 0..150)
    }

    impl World {
        fn new(sessions_max: u32, session_bytes_max: u32) -> Self {
            let config = Config {
                sessions_max,
                session_bytes_max,
                ..Config::default()
            };
            let mut world = Self {
                now: Instant::ZERO,
                client: client(),
                near: Replica::new(config.clone(), owner(1), List::default()),
                far: Replica::new(config.clone(), owner(9), List::default()),
                config,
                leader: leader(),
                term: Term(1),
                way: Vec::new(),
                log: vec![founding()],
                committed: 0,
                calls: 0,
                ended: BTreeMap::new(),
            };
            world.commit(1);
            world
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Execute(count) => {
                    let next = self.calls + *count as u64;
                    execute(&mut self.client, self.calls..next);
                    self.calls = next;
                }
                Step::ExecuteMany(count) => {
                    let next = self.calls + *count as u64;
                    execute_many(&mut self.client, self.calls..next);
                    self.calls = next;
                }
                Step::GiveUp(call) if self.calls > 0 => {
                    let call = call.index(self.calls as usize) as u64;
                    self.client.give_up(CallId(call));
                }
                Step::Turn => self.turn(),
                Step::Deliver(count) => {
                    let count = self.way.len().min(*count);
                    let messages: Vec<_> = self.way.drain(..count).collect();
                    messages
                        .into_iter()
                        .for_each(|message| self.append(message));
                }
                Step::DeliverAny(at) if !self.way.is_empty() => {
                    let message = self.way.remove(at.index(self.way.len()));
                    self.append(message);
                }
                Step::Duplicate(at) if !self.way.is_empty() => {
                    self.way.push(self.way[at.index(self.way.len())].clone());
                }
                Step::Lose(at) if !self.way.is_empty() => {
                    self.way.remove(at.index(self.way.len()));
                }
                Step::Depose(cut, is_known) => {
                    let open = self.log.len() - self.committed;
                    self.log.truncate(self.committed + cut.index(open + 1));
                    self.term = self.term.next();
                    self.leader = is_known.then(|| owner(8 + self.term.0 as u8 % 2).member);
                }
                Step::Refuse => {
                    if let Some(leader) = self.leader {
                        self.client.not_leader(self.now, leader);
                    }
                }
                Step::Commit(count) => self.commit(*count),
                Step::Restore => {
                    let index = self.log.len() as u64 + 1;
                    self.log.push(entry(index, Payload::SnapshotPoint));
                    for entry in &self.log[self.committed..] {
                        self.far.apply(entry, &mut |_| {});
                    }
                    self.committed = self.log.len();
                    self.near.install(&self.far.snapshot().unwrap()).unwrap();
                    let sessions = self.near.sessions();
                    self.client.restored(self.now, incarnation(), sessions);
                }
                Step::OtherOpens(peer) => self.push(Payload::Open(owner(*peer))),
                Step::WaitForTimeout => {
                    self.now = self.client.poll_timeout().unwrap_or(self.now).max(self.now);
                }
                Step::GiveUp(_) | Step::DeliverAny(_) | Step::Duplicate(_) | Step::Lose(_) => {}
            }
            for (call, outcome) in ended(&mut self.client) {
                let before = self.ended.insert(call, outcome);
                assert_eq!(before, None, "call {call} ended twice");
            }
        }

        fn turn(&mut self) {
            let outgoing = self.client.outgoing(self.now, self.leader, self.term);
            self.way.extend(outgoing.open.then_some(Message::Open));
            self.way
                .extend(outgoing.batches.into_iter().map(Message::Batch));
        }

        fn append(&mut self, message: Message) {
            self.push(match message {
                Message::Open => Payload::Open(self.client.owner()),
                Message::Batch(batch) => Payload::Commands(batch),
            });
        }

        fn push(&mut self, payload: Payload) {
            let index = self.log.len() as u64 + 1;
            self.log.push(entry(index, payload));
        }

        fn commit(&mut self, count: usize) {
            let through = self.log.len().min(self.committed.saturating_add(count));
            for entry in &self.log[self.committed..through] {
                self.near.apply(entry, &mut |applied| {
                    self.client.applied(self.now, incarnation(), applied);
                });
                self.far.apply(entry, &mut |_| {});
            }
            self.committed = through;
        }

        /// All goes well from here on, until nothing waits any more.
        fn settle(&mut self) {
            self.leader = self.leader.or(leader());
            for _ in 0..8 {
                self.step(&Step::Turn);
                self.step(&Step::Deliver(usize::MAX));
                self.step(&Step::Commit(usize::MAX));
                if self.ended.len() as u64 == self.calls {
                    return;
                }
                self.step(&Step::WaitForTimeout);
            }
            panic!("{} of {} calls ended", self.ended.len(), self.calls);
        }

        /// Each call ended as it says, and took place at most once, in order.
        fn check(&self) {
            assert_eq!(self.near.state(), self.far.state());
            assert_eq!(self.near.sessions(), self.far.sessions());
            let call = |command: &Bytes| u64::from_le_bytes(command[..].try_into().unwrap());
            let list: Vec<(u64, u64)> = self
                .near
                .state()
                .0
                .iter()
                .map(|(index, command)| (*index, call(command)))
                .collect();
            assert!(list.is_sorted_by(|(_, a), (_, b)| a < b), "{list:?}");
            let present: BTreeSet<u64> = list.iter().map(|(_, call)| *call).collect();
            for (call, outcome) in &self.ended {
                match outcome {
                    CallOutcome::Applied { version, output } => {
                        let place = u64::from_le_bytes(output[..].try_into().unwrap());
                        assert_eq!(list[place as usize], (version.index.0, *call));
                    }
                    CallOutcome::GivenUp => assert!(!present.contains(call), "call {call}"),
                    CallOutcome::OutputLost { .. } => {
                        assert!(present.contains(call), "call {call}");
                        assert!(self.config.session_bytes_max < 1_000, "call {call}");
                    }
                    CallOutcome::Unknown => {
                        let is_bounded =
                            self.config.sessions_max < 10 || self.config.session_bytes_max < 1_000;
                        assert!(is_bounded, "call {call}");
                    }
                    CallOutcome::Rejected(_) | CallOutcome::Superseded { .. } => {
                        panic!("call {call}: {outcome:?}")
                    }
                }
            }
            assert_eq!((self.client.waiting, self.client.queue.len()), (0, 0));
            assert_eq!((self.client.sent.len(), self.client.flights.len()), (0, 0));
            assert_eq!((self.client.queue_bytes, self.client.flight_bytes), (0, 0));
            assert_eq!(self.client.queue_count, 0);
            assert_eq!((self.client.due, self.client.holes), (0, 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn each_command_is_applied_exactly_once_whatever_happens_on_its_way(
            steps in steps(),
            sessions_max in prop_oneof![3 => Just(100u32), 1 => Just(2)],
            bytes_max in prop_oneof![3 => Just(1_000_000u32), 1 => Just(100)],
        ) {
            let mut world = World::new(sessions_max, bytes_max);
            for step in &steps {
                world.step(step);
            }
            world.settle();
            world.check();
        }
    }
}

//! Runs a group's machine on a node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::calls::{Calls, Outcomes};
use super::error::{QueryError, Stopped};
use super::handle::{Consistency, GroupEvent, Queried};
use super::inbox::{Event, MessageBytes, Surroundings};
use super::level::{Heard, Level};
use super::machine::{Adapter, StateMachine};
use super::passages::{Passage, Passages};
use super::switchboard::{Outgoing, Switchboard};
use super::view::GroupStatus;
use crate::id::{GroupId, PeerId};
use crate::node::store::GroupStore;
use crate::node::tasks::Tasks;
use crate::node::watched::Watched;
use crate::protocol::raft::{
    self, CallOutcome, Commands, Envelope, Input, Message, Output, Raft, ReadId, Rejection, Role,
    Version, WriteId,
};
use crate::protocol::{Machine, mutant};
use crate::time::{Duration, Instant};
use crate::wire;

/// Events taken before the machine's outputs are: what they have in common, an append to each member and a write, is
/// then made once.
const EVENTS_PER_TURN_MAX: usize = 1_024;

/// A group in which nothing else was said for so long lets its signs of life wait for those of others.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// The memory in which messages are encoded, each time it is used up.
const ENCODE_BUFFER_LEN: usize = 64 << 10;

type Answer<M> = Result<Queried<<M as StateMachine>::QueryResult>, QueryError>;

/// A query that waits until the state has come far enough.
struct Reading<M: StateMachine> {
    query: M::Query,
    reply: oneshot::Sender<Answer<M>>,
}

/// What a worker is made of.
pub(super) struct Parts<M: StateMachine> {
    pub(super) group: GroupId,
    pub(super) tasks: Tasks,
    pub(super) machine: Raft<Adapter<M>>,
    pub(super) events: mpsc::UnboundedReceiver<Event<M>>,
    pub(super) queued: Arc<MessageBytes>,
    pub(super) switchboard: Switchboard,
    pub(super) store: Option<GroupStore>,
    pub(super) status: Arc<Watched<GroupStatus>>,
    pub(super) notices: broadcast::Sender<GroupEvent>,
    pub(super) passages: Arc<Passages>,
    pub(super) budget: Arc<Semaphore>,
    /// Whether this node may write.
    pub(super) may_write: bool,
    /// The life of the group that is announced.
    pub(super) announced: watch::Sender<Option<raft::Incarnation>>,
    pub(super) closing: CancellationToken,
    pub(super) departure_window: Duration,
    pub(super) command_timeout: Duration,
}

/// How a worker goes about ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// It does not.
    No,
    /// The node goes away, or nobody has a handle any more.
    Away { until: Instant },
    /// The node leaves the group for good.
    Left { until: Instant },
}

/// The worker of one group.
pub(super) struct Worker<M: StateMachine> {
    parts: Parts<M>,
    calls: Calls,
    reads: BTreeMap<ReadId, Reading<M>>,
    reads_asked: u64,
    /// Those that are content with the state as it is, once the turn is over: until then the machine may have gone over to
    /// another life of the group, and its state be that of the one before.
    weak_reads: Vec<Reading<M>>,
    outgoing: Vec<Outgoing>,
    buffer: BytesMut,
    bonded: BTreeSet<PeerId>,
    /// Those of them that may only read.
    readers: BTreeSet<PeerId>,
    surroundings: Surroundings,
    known: raft::Surroundings,
    closing: Closing,
    /// When something was said last that was no sign of life.
    busy_at: Instant,
    level: Level,
    shown: GroupStatus,
    /// The last write that was handed to the store, and the last that is durable.
    written: WriteId,
    durable: WriteId,
    /// What the machine has told, each with the write that it waits for. What says that this node belongs to another life
    /// of the group is told once a crash does not take it back, and what came after that not before it. Few wait: one
    /// write is all that a life waits for, and what else is told meanwhile comes no faster than elections.
    held: VecDeque<(WriteId, GroupEvent)>,
    stopped: Option<Stopped>,
    has_ended: bool,
}

impl<M: StateMachine> Worker<M> {
    pub(super) fn new(parts: Parts<M>) -> Self {
        Self {
            calls: Calls::new(parts.command_timeout, parts.budget.clone()),
            reads: BTreeMap::new(),
            reads_asked: 0,
            weak_reads: Vec::new(),
            outgoing: Vec::new(),
            buffer: BytesMut::new(),
            bonded: BTreeSet::new(),
            readers: BTreeSet::new(),
            surroundings: Surroundings::default(),
            known: raft::Surroundings::default(),
            closing: Closing::No,
            busy_at: Instant::ZERO,
            level: Level::default(),
            shown: GroupStatus::new(),
            written: WriteId::default(),
            durable: WriteId::default(),
            held: VecDeque::new(),
            stopped: None,
            has_ended: false,
            parts,
        }
    }

    /// Runs the group until it ends on this node. Gives what it has written to, where the node has left for good.
    pub(super) async fn run(mut self) -> Option<GroupStore> {
        let mut batch = Vec::new();
        loop {
            self.end_turn();
            if let Some(why) = self.why_ended() {
                return self.end(why);
            }
            let deadline = self.deadline();
            let parts = &mut self.parts;
            let is_open = self.closing == Closing::No;
            crate::select! {
                () = cancelled(&parts.closing, is_open) => self.go_away(),
                () = sleep(&parts.tasks, deadline) => self.due(),
                taken = parts.events.recv_many(&mut batch, EVENTS_PER_TURN_MAX) => {
                    // The handles' and the bonds' senders are gone only after `closing` was cancelled.
                    if taken == 0 {
                        return self.end(Stopped::Left);
                    }
                    let now = self.now();
                    for event in batch.drain(..) {
                        self.handle(now, event);
                    }
                },
            }
        }
    }

    const fn config(&self) -> &raft::Config {
        self.parts.machine.config()
    }

    fn now(&self) -> Instant {
        self.parts.tasks.runtime().now()
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let calls = self.calls.poll_timeout().map(|at| (at, "command timeout"));
        let closing = match self.closing {
            Closing::No => None,
            Closing::Away { until } | Closing::Left { until } => Some((until, "departure")),
        };
        let machine = self.parts.machine.poll_timeout();
        [machine, calls, closing].into_iter().flatten().min()
    }

    fn due(&mut self) {
        let now = self.now();
        self.parts.machine.handle_timeout(now);
        for call in self.calls.due(now) {
            self.parts.machine.handle(now, Input::GiveUp(call));
            // It may have been sent: the group decides whether it was too late.
            if mutant!(self.config(), TimedOutUndecided) {
                self.calls.ended(call, CallOutcome::GivenUp);
            }
        }
    }

    // ---- What happens ----

    fn handle(&mut self, now: Instant, event: Event<M>) {
        let input = match event {
            Event::Message {
                peer,
                may_write,
                payload,
            } => {
                self.parts.queued.taken(may_write, &payload);
                // A bond that has ended may have left messages in the queue.
                if !self.bonded.contains(&peer) {
                    return;
                }
                match wire::decode::<Envelope>(&payload) {
                    Ok(envelope) => {
                        self.hear(now, peer, envelope);
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(peer = %peer.short(), %error, "a member says what is no message");
                        self.parts.switchboard.garbled(self.parts.group, peer);
                        return;
                    }
                }
            }
            Event::Execute {
                commands,
                cost,
                reply,
            } => {
                self.busy_at = now;
                self.execute(now, commands, cost, reply);
                return;
            }
            Event::Query {
                query,
                consistency,
                reply,
            } => {
                self.query(now, consistency, Reading { query, reply });
                return;
            }
            Event::Bonded { peer, may_write } => {
                self.bonded.insert(peer);
                if !may_write {
                    self.readers.insert(peer);
                }
                self.notice(GroupEvent::Bonded(peer));
                self.look_around(now);
                if may_write {
                    Input::Bonded(peer)
                } else {
                    Input::BondedReader(peer)
                }
            }
            Event::Unbonded(peer) => {
                self.bonded.remove(&peer);
                self.readers.remove(&peer);
                self.notice(GroupEvent::Unbonded(peer));
                self.look_around(now);
                Input::Unbonded(peer)
            }
            Event::Refused(peer, why) => {
                self.notice(GroupEvent::Refused(peer, why));
                return;
            }
            Event::Stored(Ok(write)) => {
                self.durable = write;
                Input::Persisted(write)
            }
            Event::Stored(Err(error)) => Input::PersistFailed(error),
            Event::Surroundings(surroundings) => {
                self.surroundings = surroundings;
                self.look_around(now);
                return;
            }
            Event::TransferLeadership => Input::TransferLeadership,
            Event::Reform => Input::Reform,
            Event::Leave => {
                let until = now + self.parts.departure_window;
                if !matches!(self.closing, Closing::Left { .. }) {
                    self.closing = Closing::Left { until };
                }
                Input::Leave
            }
        };
        self.parts.machine.handle(now, input);
    }

    fn hear(&mut self, now: Instant, peer: PeerId, envelope: Envelope) {
        if !is_sign_of_life(&envelope.message) {
            self.busy_at = now;
        }
        let heard = Heard::of(peer, &envelope);
        let machine = &mut self.parts.machine;
        machine.handle(now, Input::Message(peer, envelope));
        if let Some(heard) = heard {
            self.level.hear(heard, &machine.status());
        }
    }

    fn execute(
        &mut self,
        now: Instant,
        commands: Commands,
        cost: usize,
        reply: oneshot::Sender<Outcomes>,
    ) {
        let count = commands.count() as usize;
        let first = self.calls.open(now, count, cost, reply);
        let input = Input::ExecuteMany(first, commands);
        self.parts.machine.handle(now, input);
    }

    fn query(&mut self, now: Instant, consistency: Consistency, reading: Reading<M>) {
        match consistency {
            Consistency::Weak if mutant!(self.config(), QueryWithinTurn) => {
                self.read(reading, self.version());
            }
            Consistency::Weak => self.weak_reads.push(reading),
            Consistency::Strong => {
                self.busy_at = now;
                let id = ReadId(self.reads_asked);
                self.reads_asked += 1;
                self.reads.insert(id, reading);
                self.parts.machine.handle(now, Input::Read(id));
            }
        }
    }

    fn version(&self) -> Option<Version> {
        let status = self.parts.machine.status();
        status.incarnation.map(|incarnation| Version {
            incarnation,
            index: status.applied,
        })
    }

    fn read(&self, reading: Reading<M>, version: Option<Version>) {
        let state = self.parts.machine.state();
        let answer = match state.query(reading.query) {
            Some(result) => Ok(Queried { version, result }),
            // The group stops at the end of the turn.
            None => Err(QueryError::Stopped(failed(state))),
        };
        // Nobody listens where the caller has gone.
        let _ = reading.reply.send(answer);
    }

    /// Tells the machine what is known of members beyond the bonds, where that has changed.
    fn look_around(&mut self, now: Instant) {
        let members = &self.surroundings.members;
        let mut unbonded = members
            .iter()
            .filter(|(peer, incarnation)| incarnation.is_none() && !self.bonded.contains(peer));
        // What a member that may only read belongs to may never have been, or have lost all its writers: a writer that comes
        // waits a while for another that knows of it, and not for ever.
        let founded = || {
            members
                .iter()
                .filter(|(_, incarnation)| incarnation.is_some())
        };
        let is_reader = |(peer, _): (&PeerId, _)| self.readers.contains(peer);
        let known = raft::Surroundings {
            is_founded: founded().any(|member| !is_reader(member)),
            incomplete: self.surroundings.awaits_bootstrap
                || unbonded.next().is_some()
                || founded().any(is_reader),
        };
        if known != self.known {
            self.known = known;
            self.parts.machine.handle(now, Input::Surroundings(known));
        }
    }

    /// The node goes away: what it keeps on disk brings it back, and without any it must not be waited for.
    fn go_away(&mut self) {
        let now = self.now();
        let until = now + self.parts.departure_window;
        self.closing = Closing::Away { until };
        let input = match self.parts.store {
            Some(_) => Input::TransferLeadership,
            None => Input::Leave,
        };
        self.parts.machine.handle(now, input);
    }

    // ---- What is wanted ----

    /// Carries out what the machine wants, and shows where it stands.
    fn end_turn(&mut self) {
        let told_before = self.held.len();
        while let Some(output) = self.parts.machine.poll_output() {
            // What a torn state has led to must not get out: neither onto the disk nor to another member.
            let state = self.parts.machine.state();
            if state.failed().is_some() && !mutant!(self.config(), TornStateTold) {
                break;
            }
            // Whoever is told of an outcome finds it in the state.
            if !mutant!(self.config(), OutcomeBeforeEffect) {
                state.publish(self.version());
            }
            self.carry_out(output);
        }
        let state = self.parts.machine.state();
        state.publish(self.version());
        for reading in std::mem::take(&mut self.weak_reads) {
            self.read(reading, self.version());
        }
        let state = self.parts.machine.state();
        if let Some(why) = state.failed() {
            self.stopped.get_or_insert_with(|| why.clone());
            if !mutant!(self.config(), TornStateTold) {
                self.outgoing.clear();
                return;
            }
        }
        // All that the machine has done in a turn is in the writes of that turn.
        for (waits_for, event) in self.held.iter_mut().skip(told_before) {
            if is_of_life(event) && !mutant!(self.parts.machine.config(), LifeToldBeforeDurable) {
                *waits_for = self.written;
            }
        }
        if !self.outgoing.is_empty() {
            self.parts
                .switchboard
                .send(self.parts.group, &mut self.outgoing);
            self.outgoing.clear();
        }
        let status = self.parts.machine.status();
        let is_level = self.level.is_reached(&status);
        let status = self.shown.updated(&status, is_level);
        if status != self.shown {
            // What a reader belongs to counts for nobody, so it does not say so: a writer that is alone would found the group
            // only once the entries of all readers are forgotten that are gone as well.
            if self.parts.may_write {
                self.parts.announced.send_if_modified(|announced| {
                    std::mem::replace(announced, status.incarnation) != status.incarnation
                });
            }
            self.shown.clone_from(&status);
            self.parts.status.set(status);
        }
        self.tell_what_is_durable();
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send(peer, envelope) => self.send(peer, &envelope),
            Output::Persist(id, write) => match &self.parts.store {
                Some(store) => {
                    self.written = id;
                    store.write(id, write);
                    // A crash takes back what the store has not made durable yet.
                    if mutant!(self.config(), WriteTakenForDurable) {
                        let now = self.now();
                        self.parts.machine.handle(now, Input::Persisted(id));
                    }
                }
                // A volatile member writes nothing, and a durable one is not started without a store.
                None => debug_assert!(false, "a member without a store has written {write:?}"),
            },
            Output::Completed(call, outcome) => {
                let outcome = self.as_told(outcome);
                self.calls.ended(call, outcome);
            }
            Output::Applied(first, version, outputs) => {
                self.calls.applied(first, version, outputs);
            }
            Output::ReadReady(id, version) => {
                if let Some(reading) = self.reads.remove(&id) {
                    self.read(reading, Some(version));
                }
            }
            Output::ReadFailed(id, error) => {
                if let Some(reading) = self.reads.remove(&id) {
                    let why = || self.stopped.clone().unwrap_or(Stopped::ShutDown);
                    let _ = reading.reply.send(Err(QueryError::of(error, why)));
                }
            }
            Output::Event(event) => self.event(event),
            // What else it has said already is not looked at.
            Output::Overstepped(peer) => {
                if self.bonded.remove(&peer) {
                    tracing::warn!(
                        group = %self.parts.group.short(),
                        peer = %peer.short(),
                        "a member that may only read says what only writers say, and is shut out"
                    );
                    self.parts.switchboard.overstepped(self.parts.group, peer);
                }
            }
            Output::Stopped(reason) => {
                self.stopped.get_or_insert(reason.into());
            }
        }
    }

    /// What a caller is told: just that, but for deliberate bugs.
    fn as_told(&self, outcome: CallOutcome) -> CallOutcome {
        match outcome {
            // Whoever is told that it was rejected may send it again.
            CallOutcome::Unknown if mutant!(self.config(), UnknownRejected) => {
                CallOutcome::Rejected(Rejection::Stopped)
            }
            outcome => outcome,
        }
    }

    fn send(&mut self, peer: PeerId, envelope: &Envelope) {
        let now = self.now();
        let is_sign_of_life = is_sign_of_life(&envelope.message);
        if !is_sign_of_life {
            self.busy_at = now;
        }
        if self.buffer.capacity() < ENCODE_BUFFER_LEN / 16 {
            self.buffer.reserve(ENCODE_BUFFER_LEN);
        }
        if let Err(error) = wire::encode_into(envelope, &mut self.buffer) {
            debug_assert!(false, "our own messages can be encoded: {error}");
            self.buffer.clear();
            return;
        }
        self.outgoing.push(Outgoing {
            peer,
            payload: self.buffer.split().freeze(),
            can_wait: is_sign_of_life && now.since(self.busy_at) > IDLE_AFTER,
        });
    }

    fn event(&mut self, event: raft::Event) {
        let notice = match event {
            raft::Event::Joined(incarnation) => GroupEvent::Joined(incarnation),
            raft::Event::LeftFounding(incarnation) => GroupEvent::LeftFounding(incarnation),
            raft::Event::Leader(_, leader) => GroupEvent::Leader(leader.map(|leader| leader.peer)),
            raft::Event::Restored(index) => GroupEvent::Restored(index),
            raft::Event::Voting(votes) => GroupEvent::Voting(votes),
            raft::Event::Superseded(superseded) => {
                tracing::warn!(
                    group = %self.parts.group.short(),
                    given_up = %superseded.version.incarnation,
                    into = %superseded.into,
                    commands = superseded.commands,
                    "a life of a group was given up for another: two foundings have met, or all writers are there"
                );
                GroupEvent::Superseded(Arc::new((*superseded).into()))
            }
            raft::Event::Stalled(stalled) => {
                let missing: Vec<PeerId> = stalled.missing.iter().map(|it| it.peer).collect();
                tracing::warn!(
                    group = %self.parts.group.short(),
                    missing = missing.len(),
                    "a group stands still: too many of its voters are silent, and may come back"
                );
                GroupEvent::Stalled {
                    incarnation: stalled.incarnation,
                    missing,
                }
            }
            raft::Event::Reformed(reformed) => {
                tracing::warn!(
                    group = %self.parts.group.short(),
                    parent = %reformed.parent.incarnation,
                    incarnation = %reformed.incarnation,
                    proved = reformed.is_proved,
                    "a group has lost too many of its voters, and goes on from what was left"
                );
                GroupEvent::Reformed(Arc::new((*reformed).into()))
            }
            // The status shows it.
            raft::Event::Committed(_) => return,
        };
        self.held.push_back((WriteId::default(), notice));
    }

    fn tell_what_is_durable(&mut self) {
        while let Some((waits_for, _)) = self.held.front()
            && *waits_for <= self.durable
            && let Some((_, event)) = self.held.pop_front()
        {
            self.tell(event);
        }
    }

    fn tell(&mut self, event: GroupEvent) {
        let passage = match &event {
            GroupEvent::Superseded(superseded) => Some(Passage::Superseded(superseded.clone())),
            GroupEvent::Reformed(reformed) => Some(Passage::Reformed(reformed.clone())),
            _ => None,
        };
        if let Some(passage) = passage {
            let mut shown = self.shown.clone();
            shown.passages = self.parts.passages.add(passage);
            self.shown.clone_from(&shown);
            self.parts.status.set(shown);
        }
        self.notice(event);
    }

    fn notice(&self, notice: GroupEvent) {
        // Fails only where nobody listens.
        let _ = self.parts.notices.send(notice);
    }

    // ---- The end ----

    fn why_ended(&self) -> Option<Stopped> {
        if let Some(why) = &self.stopped {
            return Some(why.clone());
        }
        let (until, is_away) = match self.closing {
            Closing::No => return None,
            Closing::Away { until } => (until, true),
            Closing::Left { until } => (until, false),
        };
        let status = self.parts.machine.status();
        // Nobody is there to be told, or to take over.
        let is_alone = self.bonded.is_empty();
        let has_handed_over = self.parts.store.is_some() && status.role != Role::Leader;
        let is_done = is_alone || (is_away && has_handed_over) || self.now() >= until;
        is_done.then_some(if is_away {
            Stopped::ShutDown
        } else {
            Stopped::Left
        })
    }

    fn end(&mut self, why: Stopped) -> Option<GroupStore> {
        self.has_ended = true;
        match &why {
            Stopped::Left | Stopped::ShutDown => {
                tracing::debug!(group = %self.parts.group.short(), %why, "a group has ended here");
            }
            _ => {
                tracing::error!(group = %self.parts.group.short(), %why, "a group has stopped on this node");
            }
        }
        if !matches!(why, Stopped::Storage(_)) {
            // The store carries out what it was handed before it is closed.
            for (_, event) in std::mem::take(&mut self.held) {
                self.tell(event);
            }
        }
        self.parts.switchboard.leave(self.parts.group);
        // First, so that whoever is turned away from here on finds out why.
        self.parts.status.set(self.shown.after_stop(why.clone()));
        self.parts.budget.close();
        self.parts.events.close();
        while let Ok(event) = self.parts.events.try_recv() {
            match event {
                // Never came to the machine.
                Event::Execute {
                    commands, reply, ..
                } => {
                    let rejected = CallOutcome::Rejected(Rejection::Stopped);
                    let count = commands.count() as usize;
                    let _ = reply.send(Outcomes::all(count, &rejected));
                }
                Event::Query { reply, .. } => {
                    let _ = reply.send(Err(QueryError::Stopped(why.clone())));
                }
                _ => {}
            }
        }
        self.calls.end_all();
        for (_, reading) in std::mem::take(&mut self.reads) {
            let _ = reading.reply.send(Err(QueryError::Stopped(why.clone())));
        }
        self.notice(GroupEvent::Stopped(why));
        // The others may have gone on without it since, by the proof that it never comes back as what it was.
        let has_left = matches!(self.closing, Closing::Left { .. });
        let is_kept = !has_left || mutant!(self.config(), StoreKeptByWhoLeft);
        self.parts.store.take().filter(|_| !is_kept)
    }
}

impl<M: StateMachine> Drop for Worker<M> {
    /// A worker may end before its time: its task is cancelled when the node shuts down and the departure takes too long, or
    /// it has panicked. Whoever waits for it must not wait for ever, and the members must not take it for one that is there:
    /// the node may join the group again.
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Their writes may not have been handed to the store.
        self.held.clear();
        self.end(if std::thread::panicking() {
            Stopped::Panicked("in the code that runs it".to_owned())
        } else {
            Stopped::ShutDown
        });
    }
}

/// Why a machine that answers nothing any more does not.
fn failed<M: StateMachine>(state: &Adapter<M>) -> Stopped {
    let why = state.failed().cloned();
    why.unwrap_or(Stopped::ShutDown)
}

/// Whether an event says that this node belongs to another life of the group.
const fn is_of_life(event: &GroupEvent) -> bool {
    matches!(
        event,
        GroupEvent::Joined(_)
            | GroupEvent::LeftFounding(_)
            | GroupEvent::Superseded(_)
            | GroupEvent::Reformed(_)
    )
}

/// Whether a message says no more than that its sender is there.
fn is_sign_of_life(message: &Message) -> bool {
    match message {
        Message::Append(append) => append.entries.is_empty(),
        Message::AppendReply(_) => true,
        _ => false,
    }
}

/// Completes when `token` is cancelled, where that still matters.
async fn cancelled(token: &CancellationToken, matters: bool) {
    if matters {
        token.cancelled().await;
    } else {
        std::future::pending::<()>().await;
    }
}

async fn sleep(tasks: &Tasks, deadline: Option<(Instant, &'static str)>) {
    match deadline {
        Some((deadline, reason)) => tasks.runtime().sleep_until(deadline, reason).await,
        None => std::future::pending().await,
    }
}

//! The public handle of a group.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::calls::{Ended, Outcomes};
use super::error::{CommandError, QueryError, Stopped};
use super::inbox::Event;
use super::machine::{Answer, NoOp, Snapshot, StateMachine};
use super::passages::{Passage, Passages};
use super::switchboard::Switchboard;
use super::view::{GroupStatus, When};
use crate::id::{GroupId, PeerId};
use crate::node::events::Events;
use crate::node::watched::Watched;
use crate::protocol::bonds::{BondInfo, BondState, Refusal};
use crate::protocol::raft::{
    self, COMMAND_LEN_MAX, CallOutcome, Commands, CommandsBuilder, Config, Incarnation, Index,
    Position, Rejection, RestoreError, Version,
};
use crate::wire;

/// What commands that wait may count for together: so many of them, and so many KiB.
pub(super) const BUDGET: usize = 65_536;

/// One that is larger counts for so many bytes each time.
const COST_UNIT: usize = 1_024;

/// Commands that are handed over together are sent once they count for so many.
const REQUEST_COST: usize = BUDGET / 4;

/// What a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// The state of this node, which may be behind. Answered at once.
    Weak,
    /// All that was acknowledged anywhere before the query began (linearizable). Takes one round trip at the
    /// leader, two elsewhere, and fails while no majority can be reached.
    Strong,
}

/// A command that was applied, once, by a majority of the voters' agreement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executed<O> {
    /// Where in the history of the group.
    pub version: Version,
    /// What the state machine gave for it.
    pub output: O,
}

impl<O> Deref for Executed<O> {
    type Target = O;

    fn deref(&self) -> &O {
        &self.output
    }
}

impl<O> From<Executed<O>> for Index {
    fn from(executed: Executed<O>) -> Self {
        executed.version.index
    }
}

impl<O> From<Executed<O>> for Version {
    fn from(executed: Executed<O>) -> Self {
        executed.version
    }
}

/// What became of a command of `M`.
type ExecutedOr<M> =
    Result<Executed<<M as StateMachine>::Output>, CommandError<<M as StateMachine>::Command>>;

/// The answer to a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queried<R> {
    /// The state that it was read from; `None` before this node belongs to the group.
    pub version: Option<Version>,
    /// What the state machine said.
    pub result: R,
}

impl<R> Deref for Queried<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.result
    }
}

/// What happens to a group on this node.
///
/// Where the group is durable, what says that the node belongs to another life of the group comes when that is on disk: a
/// crash does not take it back. The [status](Group::status) is a little ahead then.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupEvent {
    /// A member has proved the group's key.
    Bonded(PeerId),
    /// There is no bond with it any more.
    Unbonded(PeerId),
    /// A peer that names the group in the catalog is not bonded.
    Refused(PeerId, Refusal),
    /// The node belongs to this life of the group now.
    Joined(Incarnation),
    /// It has left a founding that could never be completed, or a life of the group that stands still and in which it
    /// had nothing, for another.
    LeftFounding(Incarnation),
    /// It follows this leader now, which may be itself; `None` while it knows of none.
    Leader(Option<PeerId>),
    /// It is one of the voters now, or no longer.
    Voting(bool),
    /// A snapshot has moved the state to here, without applying what lies between.
    Restored(Index),
    /// Two foundings of the group have met, and the life that the node belonged to was given up for the other, to
    /// which it belongs now. Its state has begun anew; calls that were open have failed. Also kept for
    /// [`Group::take_passages`].
    ///
    /// On a node that [may only read](super::GroupBuilder::with_write_verifier) it comes as well where no leader was heard for
    /// long, and all members that may write belong to the other life.
    Superseded(Arc<Superseded>),
    /// The group stands still: so many voters are silent that nobody can be elected, and it is not proved that they
    /// are gone for good. It goes on when they come back, or when an operator calls [`Group::reform`].
    Stalled {
        /// The life of the group that the node belongs to.
        incarnation: Incarnation,
        /// Who is waited for. Empty where nobody that is left has a log to know that by.
        missing: Vec<PeerId>,
    },
    /// Too many voters were gone for good. The group goes on in another life, from what was left of the one before: what
    /// was acknowledged there may be lost. Calls that had been sent fail as
    /// [`Unknown`](super::CommandError::Unknown). Also kept for [`Group::take_passages`].
    Reformed(Arc<Reformed>),
    /// The group does nothing any more on this node.
    Stopped(Stopped),
}

/// A life of a group that was given up, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Superseded {
    /// The life that has ended, and how far this node had applied its log.
    pub version: Version,
    /// The one that goes on.
    pub into: Incarnation,
    /// Commands that the [state](Self::state) holds.
    pub commands: u64,
    /// Commands that were applied in that life in all: more than the state holds where this node was told of the end
    /// before it had applied everything.
    pub commands_in_all: u64,
    chunks: Vec<Bytes>,
}

impl Superseded {
    /// The state that was given up.
    ///
    /// # Errors
    /// Where `S` is not the [snapshot](StateMachine::Snapshot) of the group's state machine.
    pub fn state<S: Snapshot>(&self) -> Result<S, RestoreError> {
        S::from_chunks(&self.chunks)
    }
}

impl From<raft::Superseded> for Superseded {
    fn from(superseded: raft::Superseded) -> Self {
        Self {
            version: superseded.version,
            into: superseded.into,
            commands: superseded.commands,
            commands_in_all: superseded.commands_in_all,
            chunks: superseded.state,
        }
    }
}

/// How a group has gone on after too many of its voters were gone for good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reformed {
    /// The life that could not go on, and how far this node had applied its log.
    pub parent: Version,
    /// The one that goes on.
    pub incarnation: Incarnation,
    /// Where the log ended that it goes on from. What lay above, or in its place elsewhere, is lost.
    pub at: Position,
    /// It was proved that the one before could not go on; else an operator has said so, or
    /// [`reform_after`](Config::reform_after) has passed.
    pub is_proved: bool,
    chunks: Option<Vec<Bytes>>,
}

impl Reformed {
    /// The state that this node had before; `None` where all that it knew to be committed is part of what goes on.
    ///
    /// # Errors
    /// Where `S` is not the [snapshot](StateMachine::Snapshot) of the group's state machine.
    pub fn state<S: Snapshot>(&self) -> Result<Option<S>, RestoreError> {
        let chunks = self.chunks.as_deref();
        chunks.map(S::from_chunks).transpose()
    }
}

impl From<raft::Reformed> for Reformed {
    fn from(reformed: raft::Reformed) -> Self {
        Self {
            parent: reformed.parent,
            incarnation: reformed.incarnation,
            at: reformed.at,
            is_proved: reformed.is_proved,
            chunks: reformed.state,
        }
    }
}

/// A group on this node: sends commands, asks queries, and says where the group stands.
///
/// A clone is the same membership. When the last clone is dropped the node leaves the group if it keeps nothing on
/// disk, and otherwise goes away as for a restart. [`leave`](Self::leave) leaves for good.
pub struct Group<M: StateMachine = NoOp>(Arc<Inner<M>>);

pub(super) struct Inner<M: StateMachine> {
    pub(super) id: GroupId,
    pub(super) config: Config,
    pub(super) events: mpsc::UnboundedSender<Event<M>>,
    pub(super) status: Arc<Watched<GroupStatus>>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) notices: broadcast::Sender<GroupEvent>,
    pub(super) passages: Arc<Passages>,
    pub(super) switchboard: Switchboard,
    pub(super) closing: CancellationToken,
    pub(super) ended: watch::Receiver<bool>,
}

impl<M: StateMachine> Drop for Inner<M> {
    fn drop(&mut self) {
        self.closing.cancel();
    }
}

impl<M: StateMachine> Clone for Group<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M: StateMachine> fmt::Debug for Group<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.0.id)
            .finish_non_exhaustive()
    }
}

impl<M: StateMachine> Group<M> {
    pub(super) fn new(inner: Inner<M>) -> Self {
        Self(Arc::new(inner))
    }

    /// The group's id: the digest of its key and of all that its members agree on.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// How consensus is run.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Where this node stands in the group.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        self.0.status.get()
    }

    /// The leader, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<PeerId> {
        self.status().leader
    }

    /// Whether this node leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.status().is_leader()
    }

    /// How far this node knows the log to be committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.status().committed
    }

    /// Where this node's log ends.
    #[must_use]
    pub fn log_position(&self) -> Position {
        self.status().last
    }

    /// Conditions to wait for.
    #[must_use]
    pub fn when(&self) -> When {
        When::new(self.0.status.clone())
    }

    /// The status, to be watched.
    pub(crate) fn watched(&self) -> &Arc<Watched<GroupStatus>> {
        &self.0.status
    }

    /// What happens from now on. What was before is in the [status](Self::status), and what the node has gone through
    /// in [`take_passages`](Self::take_passages).
    #[must_use]
    pub fn events(&self) -> Events<GroupEvent> {
        Events::new(&self.0.notices)
    }

    /// How this node has come from one life of the group to another since it joined, with the states that it has given
    /// up: all that was not taken yet, the oldest first, each with its number. They are numbered from 1, and the
    /// [status](GroupStatus::passages) has the number of the latest.
    ///
    /// Unlike [events](Self::events) they wait for whoever looks for them; [`When::passed`] tells that there are some.
    /// The latest four are kept: where more have come meanwhile their numbers show a gap. All handles take from the same. Nothing is
    /// kept across a restart of the node.
    #[must_use = "what was taken is not kept any more"]
    pub fn take_passages(&self) -> Vec<(u64, Passage)> {
        self.0.passages.take()
    }

    /// The bonds with the other members, at this moment.
    #[must_use]
    pub fn bonds(&self) -> Bonds {
        Bonds(self.0.switchboard.topology(self.0.id))
    }

    /// Executes a command and gives what the state machine made of it. When it returns, the command is committed by
    /// a majority of the voters, durably where the group is, and applied on this node.
    ///
    /// It is applied exactly once, however often it has to be sent. Commands of one handle are applied in the order
    /// in which they were first polled, unless they have to wait before they are sent: then each goes when it is polled again.
    /// One that is executed after another was [fed](Self::feed) is applied after it in any case.
    ///
    /// Where it is dropped before it ends, the command may still be applied. Waits for at most twice the
    /// [command timeout](super::GroupBuilder::with_command_timeout), and before that while 65,536 commands or 64 MiB
    /// of this node wait already.
    ///
    /// # Errors
    /// [`CommandError`]. It tells what was certainly not applied, and is given back, from what may have been.
    pub async fn execute(
        &self,
        command: M::Command,
    ) -> Result<Executed<M::Output>, CommandError<M::Command>> {
        self.feed(command).await?.await
    }

    /// Executes commands, in their order. Other commands may come between them; they share entries of the log, so this
    /// is far cheaper than one at a time.
    ///
    /// Gives one result for each. What holds of [`execute`](Self::execute) holds of each.
    pub async fn execute_many(
        &self,
        commands: impl IntoIterator<Item = M::Command>,
    ) -> Vec<Result<Executed<M::Output>, CommandError<M::Command>>> {
        self.feed_many(commands).await.await
    }

    /// Hands over a command without waiting for its outcome, which the future that is returned gives. Dropping that
    /// future takes nothing back.
    ///
    /// Waits while 65,536 commands or 64 MiB of this node wait already. Cancellation safe: where it is dropped before
    /// it ends, the command is not sent.
    ///
    /// # Errors
    /// [`CommandError`], where the command was not sent.
    pub async fn feed(&self, command: M::Command) -> Result<Pending<M>, CommandError<M::Command>> {
        let mut commands = CommandsBuilder::default();
        let cost = match encode(&command, &mut commands) {
            Ok(cost) => cost,
            Err(error) => return Err(error.map(|()| command)),
        };
        match self.send(commands.take(), cost).await {
            Some(answer) => Ok(Pending {
                answer,
                command: Some(command),
                group: self.clone(),
            }),
            None => Err(CommandError::Stopped {
                command,
                why: self.why_stopped(),
            }),
        }
    }

    /// Hands over commands, in their order, without waiting for their outcomes, which the future that is returned
    /// gives, one for each. Dropping that future takes nothing back.
    ///
    /// Waits as [`feed`](Self::feed) does. Where it is dropped before it ends, some of the commands may have been sent.
    pub async fn feed_many(
        &self,
        commands: impl IntoIterator<Item = M::Command>,
    ) -> PendingMany<M> {
        let commands = commands.into_iter();
        let count = commands.size_hint().0;
        let mut pending = PendingMany {
            requests: VecDeque::new(),
            results: Vec::with_capacity(count),
            group: self.clone(),
        };
        let mut request = Request {
            commands: Vec::with_capacity(count),
            refused: Vec::new(),
        };
        let (mut encoded, mut cost) = (CommandsBuilder::default(), 0);
        for command in commands {
            match encode(&command, &mut encoded) {
                Ok(of_command) => cost += of_command,
                Err(error) => request.refused.push((request.commands.len(), error)),
            }
            request.commands.push(command);
            if cost >= REQUEST_COST {
                let request = std::mem::take(&mut request);
                pending
                    .send(request, encoded.take(), std::mem::take(&mut cost))
                    .await;
            }
        }
        pending.send(request, encoded.take(), cost).await;
        pending
    }

    /// Asks about the state.
    ///
    /// Cancellation safe. Waits for at most [`query_timeout`](Config::query_timeout) where it is
    /// [`Strong`](Consistency::Strong).
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query(
        &self,
        query: M::Query,
        consistency: Consistency,
    ) -> Result<Queried<M::QueryResult>, QueryError> {
        let (reply, answer) = oneshot::channel();
        let event = Event::Query {
            query,
            consistency,
            reply,
        };
        let sent = self.0.events.send(event);
        match sent.ok() {
            Some(()) => answer.await.ok(),
            None => None,
        }
        .unwrap_or_else(|| Err(QueryError::Stopped(self.why_stopped())))
    }

    /// Hands leadership to another voter, where this node leads and there is one that is level with it. Done in the
    /// background: [`When::is_follower`] tells.
    pub fn transfer_leadership(&self) {
        // Fails only where the group has stopped: this node leads nothing then.
        let _ = self.0.events.send(Event::TransferLeadership);
    }

    /// Has a group that [stands still](GroupEvent::Stalled) go on from what is left, without proof that the others are
    /// gone: in another life, from the best log of the members that this node has a bond with. What only the others
    /// have is lost, and where they are alive and together a majority there are two groups then, one of which is given up
    /// when they meet.
    ///
    /// Returns at once; [`GroupEvent::Reformed`] tells. Nothing comes of it where the group goes on by itself, nor on a node
    /// that [may only read](super::GroupBuilder::with_write_verifier), whose log counts for nothing.
    pub fn reform(&self) {
        // Fails only where the worker has ended.
        let _ = self.0.events.send(Event::Reform);
    }

    /// Leaves the group for good: the node votes no longer, and what it keeps of the group on disk is removed.
    /// All handles are of no use from then on.
    ///
    /// Completes when the group has stopped on this node, after the
    /// [graceful departure window](crate::discovery::Config::graceful_departure_window) at the latest; the last voter
    /// cannot be replaced and goes without. Cancellation safe: the departure goes on.
    pub async fn leave(&self) {
        // Fails only where the group has stopped already.
        let _ = self.0.events.send(Event::Leave);
        self.ended().await;
    }

    /// Waits until the group has ended on this node, which may join it again then.
    pub(crate) async fn ended(&self) {
        let mut ended = self.0.ended.clone();
        // An error means that the worker is gone.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn why_stopped(&self) -> Stopped {
        self.status().stopped.unwrap_or(Stopped::ShutDown)
    }

    /// Sends commands once the budget allows it. `None`: the group has stopped.
    async fn send(&self, commands: Commands, cost: usize) -> Option<oneshot::Receiver<Outcomes>> {
        let permits = u32::try_from(cost).unwrap_or(u32::MAX);
        // Given back by the worker when the request is answered.
        self.0.budget.acquire_many(permits).await.ok()?.forget();
        let (reply, answer) = oneshot::channel();
        let event = Event::Execute {
            commands,
            cost,
            reply,
        };
        self.0.events.send(event).ok()?;
        Some(answer)
    }

    /// What it means to the caller how a command ended.
    fn result(
        &self,
        command: M::Command,
        ended: Option<Ended<'_>>,
    ) -> Result<Executed<M::Output>, CommandError<M::Command>> {
        let outcome = match ended {
            Some(Ended::Applied(version, output)) => return executed(command, version, output),
            Some(Ended::As(outcome)) => Some(outcome),
            None => None,
        };
        match outcome {
            Some(CallOutcome::Applied { version, output }) => executed(command, version, &output),
            Some(CallOutcome::OutputLost { .. }) => Err(CommandError::OutputLost),
            Some(CallOutcome::GivenUp) => Err(CommandError::TimedOut(command)),
            Some(CallOutcome::Rejected(Rejection::TooLong { len, .. })) => {
                Err(CommandError::TooLong { command, len })
            }
            Some(CallOutcome::Rejected(Rejection::Busy { .. })) => Err(CommandError::Busy(command)),
            Some(CallOutcome::Rejected(Rejection::Frozen)) => Err(CommandError::Frozen(command)),
            Some(CallOutcome::Rejected(Rejection::ReadOnly)) => {
                Err(CommandError::ReadOnly(command))
            }
            Some(CallOutcome::Superseded { incarnation, into }) => Err(CommandError::Superseded {
                command,
                incarnation,
                into,
            }),
            Some(CallOutcome::Rejected(Rejection::Stopped)) => Err(CommandError::Stopped {
                command,
                why: self.why_stopped(),
            }),
            Some(CallOutcome::Unknown) | None => Err(CommandError::Unknown),
        }
    }
}

/// Adds a command to others, and gives what it counts for in the budget.
fn encode<C: Serialize>(command: &C, to: &mut CommandsBuilder) -> Result<usize, CommandError<()>> {
    let len = to
        .push_with(|buffer| wire::encode_into(command, buffer))
        .map_err(|error| CommandError::Unencodable { command: (), error })?;
    if len > COMMAND_LEN_MAX {
        return Err(CommandError::TooLong { command: (), len });
    }
    Ok(len.div_ceil(COST_UNIT).max(1))
}

/// What a command gives that was applied.
fn executed<C, O: DeserializeOwned>(
    command: C,
    version: Version,
    output: &[u8],
) -> Result<Executed<O>, CommandError<C>> {
    match wire::decode(output) {
        Ok(Answer::Output(output)) => Ok(Executed { version, output }),
        Ok(Answer::Undecodable) => Err(CommandError::Refused(command)),
        Err(error) => Err(CommandError::Undecodable(error)),
    }
}

/// The outcome of a command that was handed over.
#[must_use = "the outcome of a command is known only to who awaits it"]
pub struct Pending<M: StateMachine> {
    answer: oneshot::Receiver<Outcomes>,
    /// Taken when the future completes.
    command: Option<M::Command>,
    group: Group<M>,
}

// Nothing in it is pinned.
impl<M: StateMachine> Unpin for Pending<M> {}

impl<M: StateMachine> Future for Pending<M> {
    type Output = Result<Executed<M::Output>, CommandError<M::Command>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcomes = std::task::ready!(Pin::new(&mut self.answer).poll(cx));
        let mut command = self.command.take();
        let mut result = Err(CommandError::Unknown);
        outcomes.unwrap_or_default().tell(1, |ended| {
            if let Some(command) = command.take() {
                result = self.group.result(command, ended);
            }
        });
        Poll::Ready(result)
    }
}

/// The outcomes of commands that were handed over together, in their order.
#[must_use = "the outcomes of commands are known only to who awaits them"]
pub struct PendingMany<M: StateMachine> {
    requests: VecDeque<Sent<M>>,
    results: Vec<ExecutedOr<M>>,
    group: Group<M>,
}

/// Commands that are handed over together.
struct Request<C> {
    commands: Vec<C>,
    /// Those that cannot be sent, by their place, and why.
    refused: Vec<(usize, CommandError<()>)>,
}

impl<C> Default for Request<C> {
    fn default() -> Self {
        Self {
            commands: Vec::new(),
            refused: Vec::new(),
        }
    }
}

struct Sent<M: StateMachine> {
    request: Request<M::Command>,
    /// `None`: the group has stopped.
    answer: Option<oneshot::Receiver<Outcomes>>,
}

// Nothing in it is pinned.
impl<M: StateMachine> Unpin for PendingMany<M> {}

impl<M: StateMachine> PendingMany<M> {
    async fn send(&mut self, request: Request<M::Command>, encoded: Commands, cost: usize) {
        let answer = if encoded.is_empty() {
            let (reply, answer) = oneshot::channel();
            // The receiver is here.
            let _ = reply.send(Outcomes::default());
            Some(answer)
        } else {
            self.group.send(encoded, cost).await
        };
        self.requests.push_back(Sent { request, answer });
    }

    /// Notes what became of a request; `None`: the group had stopped.
    fn take(&mut self, request: Request<M::Command>, outcomes: Option<Outcomes>) {
        let Request { commands, refused } = request;
        let sent = commands.len() - refused.len();
        let outcomes = outcomes
            .unwrap_or_else(|| Outcomes::all(sent, &CallOutcome::Rejected(Rejection::Stopped)));
        let (results, group) = (&mut self.results, &self.group);
        let mut commands = (0..).zip(commands);
        let mut refused = refused.into_iter().peekable();
        // The next that was sent; those before it were not.
        let mut next = |results: &mut Vec<ExecutedOr<M>>| loop {
            let (place, command) = commands.next()?;
            match refused.next_if(|(at, _)| *at == place) {
                Some((_, error)) => results.push(Err(error.map(|()| command))),
                None => return Some(command),
            }
        };
        outcomes.tell(sent, |ended| {
            if let Some(command) = next(results) {
                results.push(group.result(command, ended));
            }
        });
        next(results);
    }
}

impl<M: StateMachine> Future for PendingMany<M> {
    type Output = Vec<ExecutedOr<M>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some(sent) = this.requests.front_mut() {
            let outcomes = match &mut sent.answer {
                Some(answer) => {
                    let answered = std::task::ready!(Pin::new(answer).poll(cx));
                    Some(answered.unwrap_or_default())
                }
                None => None,
            };
            let request = std::mem::take(&mut sent.request);
            this.requests.pop_front();
            this.take(request, outcomes);
        }
        Poll::Ready(std::mem::take(&mut this.results))
    }
}

/// The bonds of a group on this node at one moment, by peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bonds(Vec<Bond>);

/// Where this node stands with one peer in one group.
pub type Bond = BondInfo;

impl Bonds {
    /// All, also those that are not up.
    pub fn iter(&self) -> impl Iterator<Item = &Bond> {
        self.0.iter()
    }

    /// The peers with whom a bond is up.
    pub fn bonded(&self) -> impl Iterator<Item = PeerId> + '_ {
        let up = self.iter().filter(|bond| is_up(bond));
        up.map(|bond| bond.peer)
    }

    /// How many are up.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bonded().count()
    }

    /// Whether none is up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn is_up(bond: &Bond) -> bool {
    matches!(bond.state, BondState::Bonded { .. })
}

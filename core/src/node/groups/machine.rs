//! What an application replicates, and how it becomes what consensus replicates.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Stopped;
use crate::id::UniqueId;
use crate::protocol::raft::{
    self, ApplyContext, FrozenState, LeadershipPreference, OutputsBuilder, RestoreError, Version,
};
use crate::unique_id;
use crate::wire;

/// What a group replicates: a function of the commands applied to it, in order, and of nothing else.
///
/// The same commands must give the same outputs and the same state on every member: no clock, no randomness, no
/// order of a default-hashed map, nothing of the node it runs on. A machine that panics stops its group on that
/// node, and only there.
///
/// ```
/// use serde::{Deserialize, Serialize};
/// use smalti_core::groups::{ApplyContext, Serialized, StateMachine};
/// use smalti_core::{UniqueId, unique_id};
///
/// /// Counts, and says how far it has come.
/// #[derive(Default)]
/// struct Counter(u64);
///
/// #[derive(Serialize, Deserialize)]
/// struct Add(u64);
///
/// impl StateMachine for Counter {
///     type Command = Add;
///     type Output = u64;
///     type Query = ();
///     type QueryResult = u64;
///     type Snapshot = Serialized<u64>;
///
///     fn signature(&self) -> UniqueId {
///         unique_id!("counter 1")
///     }
///     fn apply(&mut self, Add(n): Add, _context: ApplyContext) -> u64 {
///         self.0 = self.0.saturating_add(n);
///         self.0
///     }
///     fn query(&self, (): ()) -> u64 {
///         self.0
///     }
///     fn snapshot(&self) -> Serialized<u64> {
///         Serialized(self.0)
///     }
///     fn restore(&mut self, Serialized(count): Serialized<u64>) {
///         self.0 = count;
///     }
/// }
///
/// let mut counter = Counter::default();
/// let context = ApplyContext { index: Default::default(), term: Default::default() };
/// assert_eq!(counter.apply(Add(2), context), 2);
/// ```
pub trait StateMachine: Send + 'static {
    /// What changes the state. Bytes that nest deeper than 256 levels are no command: see
    /// [`decode_bounded`](crate::wire::decode_bounded).
    type Command: Serialize + DeserializeOwned + Send + 'static;
    /// What the caller of a command is given. It is kept, encoded, until the caller has it.
    type Output: Serialize + DeserializeOwned + Send + 'static;
    /// What asks about the state. Never leaves the node.
    type Query: Send + 'static;
    /// The answer.
    type QueryResult: Send + 'static;
    /// The state at one moment.
    type Snapshot: Snapshot;

    /// Names what commands mean, what they do and how all is encoded: change it whenever one of these changes.
    /// Members whose machines have different signatures are in different groups.
    fn signature(&self) -> UniqueId;

    /// Applies a command, and gives its output.
    fn apply(&mut self, command: Self::Command, context: ApplyContext) -> Self::Output;

    /// Applies commands that follow each other, and hands the output of each to `output`, in their order. Default:
    /// [`apply`](Self::apply) one after the other; worth replacing where several at once are cheaper.
    ///
    /// The outcome must not depend on how commands are divided among calls: each member may divide them otherwise. All
    /// of `commands` must be taken, and one output given for each; anything else stops the group on this node, as a
    /// panic does.
    fn apply_batch(
        &mut self,
        commands: impl Iterator<Item = Self::Command>,
        context: ApplyContext,
        mut output: impl FnMut(Self::Output),
    ) {
        for command in commands {
            output(self.apply(command, context));
        }
    }

    /// Answers a query. Nothing is applied meanwhile, so it should be quick.
    fn query(&self, query: Self::Query) -> Self::QueryResult;

    /// The present state, unmoved by what is applied afterwards. Called each
    /// [`snapshot_interval`](raft::Config::snapshot_interval) entries while nothing is applied: a clone of
    /// persistent structures is best.
    fn snapshot(&self) -> Self::Snapshot;

    /// Puts a state in place of the present one.
    fn restore(&mut self, snapshot: Self::Snapshot);

    /// How eagerly this member leads. Default: like any other.
    fn leadership_preference(&self) -> LeadershipPreference {
        LeadershipPreference::Normal
    }

    /// Shows the present state, which is at `version`, to whoever looks at it without asking the group. Called when what
    /// could be applied has been, before the outcomes are told; also where `version` alone has moved, by an entry that holds
    /// no command. Default: does nothing.
    fn publish(&self, version: Option<Version>) {
        let _ = version;
    }

    /// Why this node cannot have the group's state, if it cannot: the group stops on this node then, and nothing that
    /// came of the state is sent or written. Asked after each command or batch of them, and when a state was restored. Default: it can.
    fn refusal(&self) -> Option<String> {
        None
    }
}

/// A state that travels in chunks to members that lack it.
pub trait Snapshot: Send + Sized + 'static {
    /// Whether equal states give equal chunks on every member, so that one snapshot may be put together from
    /// several sources at once. Default: no.
    const CANONICAL: bool = false;

    /// The state as chunks of about `len` bytes each, in order.
    fn chunks(&self, len: usize) -> Vec<Bytes>;

    /// The state that the chunks hold.
    ///
    /// # Errors
    /// [`RestoreError`] where they hold none.
    fn from_chunks(chunks: &[Bytes]) -> Result<Self, RestoreError>;
}

/// A state that is small enough to be encoded in one go, by its `Serialize`. It must not nest deeper than 256 levels: see
/// [`decode_bounded`](crate::wire::decode_bounded).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Serialized<T>(pub T);

impl<T: Serialize + DeserializeOwned + Send + 'static> Snapshot for Serialized<T> {
    fn chunks(&self, len: usize) -> Vec<Bytes> {
        // A state that cannot be encoded is a defect of the application's, which stops the group.
        let encoded = wire::encode(&self.0).expect("the state of a group must be encodable");
        let encoded = Bytes::from(encoded);
        let starts = (0..encoded.len()).step_by(len.max(1));
        starts
            .map(|start| encoded.slice(start..encoded.len().min(start + len.max(1))))
            .collect()
    }

    fn from_chunks(chunks: &[Bytes]) -> Result<Self, RestoreError> {
        let whole = chunks.concat();
        match wire::decode_bounded(&whole) {
            Ok(state) => Ok(Self(state)),
            Err(error) => Err(RestoreError(error.to_string())),
        }
    }
}

/// A machine without a state: the group is there for its membership and its leader.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOp {
    preference: LeadershipPreference,
}

impl NoOp {
    /// A member that leads as eagerly as `preference` says.
    #[must_use]
    pub const fn new(preference: LeadershipPreference) -> Self {
        Self { preference }
    }
}

impl StateMachine for NoOp {
    type Command = ();
    type Output = ();
    type Query = ();
    type QueryResult = ();
    type Snapshot = Serialized<()>;

    fn signature(&self) -> UniqueId {
        unique_id!("smalti no-op 1")
    }

    fn apply(&mut self, (): (), _context: ApplyContext) {}

    fn query(&self, (): ()) {}

    fn snapshot(&self) -> Serialized<()> {
        Serialized(())
    }

    fn restore(&mut self, _snapshot: Serialized<()>) {}

    fn leadership_preference(&self) -> LeadershipPreference {
        self.preference
    }
}

/// What a member says of a command, encoded. Every member must come to the same.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer<T> {
    /// It was applied.
    Output(T),
    /// Its bytes are no command: nothing was applied.
    Undecodable,
}

/// Why a machine cannot go on.
type Failed = Arc<OnceLock<Stopped>>;

/// Makes an application's machine one that consensus runs.
pub(super) struct Adapter<M> {
    machine: M,
    failed: Failed,
    /// The state is another one than was published.
    changed: Cell<bool>,
    /// The version that was published.
    published: Cell<Option<Version>>,
}

impl<M: StateMachine> Adapter<M> {
    pub(super) fn new(machine: M) -> Self {
        Self {
            machine,
            failed: Failed::default(),
            changed: Cell::new(false),
            published: Cell::new(None),
        }
    }

    /// Why the machine cannot go on. Nothing that came of it since is to be believed.
    pub(super) fn failed(&self) -> Option<&Stopped> {
        self.failed.get()
    }

    /// Shows the state, where it or its version has changed.
    pub(super) fn publish(&self, version: Option<Version>) {
        let (changed, before) = (self.changed.replace(false), self.published.replace(version));
        if changed || before != version {
            guard(&self.failed, || self.machine.publish(version));
        }
    }

    /// Looks whether this node can have the state that it has now.
    fn look(&self) {
        self.changed.set(true);
        if let Some(Some(why)) = guard(&self.failed, || self.machine.refusal()) {
            // Nothing was set before: the guard would not have run.
            let _ = self.failed.set(Stopped::Refused(why));
        }
    }

    /// Answers a query; `None` where the machine panics or has done so.
    pub(super) fn query(&self, query: M::Query) -> Option<M::QueryResult> {
        guard(&self.failed, || self.machine.query(query))
    }
}

/// Runs code of the application's; `None` where it panics, or has failed before: its state may be torn then.
fn guard<R>(failed: &Failed, run: impl FnOnce() -> R) -> Option<R> {
    if failed.get().is_some() {
        return None;
    }
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => Some(result),
        Err(payload) => {
            let words = payload.downcast_ref::<&str>().copied();
            let words = words.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            let words = words.unwrap_or("a panic without words").to_owned();
            // Set once: another panic cannot come after it.
            let _ = failed.set(Stopped::Panicked(words));
            None
        }
    }
}

/// Has `machine` apply `commands`: at once those between bytes that are no command.
fn apply_all<M: StateMachine>(
    machine: &mut M,
    context: ApplyContext,
    commands: &mut dyn Iterator<Item = &[u8]>,
    outputs: &mut OutputsBuilder,
) {
    let mut next = commands.next().map(wire::decode_bounded);
    while let Some(decoded) = next.take() {
        let Ok(first) = decoded else {
            push(outputs, &Answer::<M::Output>::Undecodable);
            next = commands.next().map(wire::decode_bounded);
            continue;
        };
        let (before, mut taken, mut are_all_taken) = (outputs.len(), 1, false);
        let others = std::iter::from_fn(|| match commands.next().map(wire::decode_bounded) {
            Some(Ok(command)) => {
                taken += 1;
                Some(command)
            }
            other => {
                (next, are_all_taken) = (other, true);
                None
            }
        });
        let all = std::iter::once(first).chain(others.fuse());
        machine.apply_batch(all, context, |output| {
            push(outputs, &Answer::Output(output));
        });
        // Commands would go without their outputs otherwise, or with those of others.
        assert!(are_all_taken, "`apply_batch` must take all commands");
        assert_eq!(
            outputs.len() - before,
            taken,
            "`apply_batch` must give one output for each command"
        );
    }
}

fn push<T: Serialize>(outputs: &mut OutputsBuilder, answer: &Answer<T>) {
    outputs
        .push_with(|buffer| wire::encode_into(answer, buffer))
        .expect("the output of a command must be encodable");
}

impl<M: StateMachine> raft::StateMachine for Adapter<M> {
    type Frozen = Frozen<M::Snapshot>;

    fn apply(&mut self, context: ApplyContext, command: &[u8]) -> Bytes {
        let machine = &mut self.machine;
        let applied = guard(&self.failed, || {
            let answer = match wire::decode_bounded(command) {
                Ok(command) => Answer::Output(machine.apply(command, context)),
                Err(_) => Answer::Undecodable,
            };
            wire::encode(&answer).expect("the output of a command must be encodable")
        });
        self.look();
        // Whoever drives the machine looks for a failure before anything is done with this.
        applied.map_or_else(Bytes::new, Bytes::from)
    }

    fn apply_batch(
        &mut self,
        context: ApplyContext,
        commands: &mut dyn Iterator<Item = &[u8]>,
        outputs: &mut OutputsBuilder,
    ) {
        let machine = &mut self.machine;
        // What is there after a panic nobody looks at.
        guard(&self.failed, || {
            apply_all(machine, context, commands, outputs);
        });
        self.look();
    }

    fn freeze(&self) -> Frozen<M::Snapshot> {
        Frozen {
            snapshot: guard(&self.failed, || self.machine.snapshot()),
            failed: self.failed.clone(),
        }
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        let machine = &mut self.machine;
        let restored = guard(&self.failed, || {
            machine.restore(M::Snapshot::from_chunks(chunks)?);
            Ok(())
        });
        self.look();
        match self.failed() {
            Some(why) => Err(RestoreError(why.to_string())),
            None => restored.unwrap_or(Ok(())),
        }
    }

    fn is_canonical(&self) -> bool {
        M::Snapshot::CANONICAL
    }
}

/// The state of an application's machine at one moment.
pub(super) struct Frozen<S> {
    /// `None`: the machine has failed.
    snapshot: Option<S>,
    failed: Failed,
}

impl<S: Snapshot> FrozenState for Frozen<S> {
    fn chunks(&self, len: usize) -> Vec<Bytes> {
        let snapshot = self.snapshot.as_ref();
        let chunks = snapshot.and_then(|it| guard(&self.failed, || it.chunks(len)));
        chunks.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::protocol::raft::{Index, StateMachine as _, Term};

    /// Panics where it is told to, and refuses to have come to 100.
    #[derive(Default)]
    struct Fragile(u32);

    impl StateMachine for Fragile {
        type Command = u32;
        type Output = u32;
        type Query = u32;
        type QueryResult = u32;
        type Snapshot = Serialized<u32>;

        fn signature(&self) -> UniqueId {
            unique_id!("fragile")
        }
        fn apply(&mut self, command: u32, _context: ApplyContext) -> u32 {
            assert!(command != 13, "unlucky");
            self.0 += command;
            self.0
        }
        fn query(&self, add: u32) -> u32 {
            self.0 + add
        }
        fn snapshot(&self) -> Serialized<u32> {
            Serialized(self.0)
        }
        fn restore(&mut self, snapshot: Serialized<u32>) {
            self.0 = snapshot.0;
        }
        fn refusal(&self) -> Option<String> {
            (self.0 == 100).then(|| "a hundred".to_owned())
        }
    }

    fn apply<M: StateMachine>(adapter: &mut Adapter<M>, command: &[u8]) -> Bytes {
        let context = ApplyContext {
            index: Index(1),
            term: Term(1),
        };
        raft::StateMachine::apply(adapter, context, command)
    }

    #[test]
    fn commands_and_states_go_through() {
        let mut adapter = Adapter::new(Fragile::default());
        let answer = apply(&mut adapter, &wire::encode(&7_u32).unwrap());
        assert_eq!(wire::decode(&answer), Ok(Answer::Output(7_u32)));
        let chunks = adapter.freeze().chunks(1);
        let mut other = Adapter::new(Fragile::default());
        other.restore(&chunks).unwrap();
        assert_eq!(other.query(1), Some(8));
    }

    /// Adds up what it is given at once, and gives each the sum; where that is 13, it gives nothing.
    #[derive(Default)]
    struct Together(Vec<u32>);

    impl StateMachine for Together {
        type Command = u32;
        type Output = u32;
        type Query = ();
        type QueryResult = Vec<u32>;
        type Snapshot = Serialized<Vec<u32>>;

        fn signature(&self) -> UniqueId {
            unique_id!("together")
        }
        fn apply(&mut self, _: u32, _context: ApplyContext) -> u32 {
            unreachable!("it takes several at once")
        }
        fn apply_batch(
            &mut self,
            commands: impl Iterator<Item = u32>,
            _context: ApplyContext,
            output: impl FnMut(u32),
        ) {
            let commands: Vec<u32> = commands.collect();
            let sum = commands.iter().sum();
            self.0.push(sum);
            let outputs = if sum == 13 { 0 } else { commands.len() };
            std::iter::repeat_n(sum, outputs).for_each(output);
        }
        fn query(&self, (): ()) -> Vec<u32> {
            self.0.clone()
        }
        fn snapshot(&self) -> Serialized<Vec<u32>> {
            Serialized(self.0.clone())
        }
        fn restore(&mut self, snapshot: Serialized<Vec<u32>>) {
            self.0 = snapshot.0;
        }
    }

    /// What a machine answers to commands that are applied at once.
    fn apply_batch<M: StateMachine>(
        adapter: &mut Adapter<M>,
        commands: &[&[u8]],
    ) -> Vec<Answer<M::Output>> {
        let context = ApplyContext {
            index: Index(1),
            term: Term(1),
        };
        let mut outputs = OutputsBuilder::default();
        adapter.apply_batch(context, &mut commands.iter().copied(), &mut outputs);
        let outputs = outputs.finish(context.index);
        let outputs = outputs.iter().filter_map(raft::Ending::output);
        outputs
            .map(|output| wire::decode(output).unwrap())
            .collect()
    }

    #[test]
    fn commands_that_follow_each_other_are_applied_at_once() {
        let mut adapter = Adapter::new(Together::default());
        let commands: [&[u8]; 5] = [&[1], &[2], &[0xff; 9], &[0xff; 9], &[4]];
        let (three, four) = (Answer::Output(3), Answer::Output(4));
        assert_eq!(
            apply_batch(&mut adapter, &commands),
            [
                Answer::Output(3),
                three,
                Answer::Undecodable,
                Answer::Undecodable,
                four
            ]
        );
        assert_eq!(adapter.query(()), Some(vec![3, 4]));
        assert_eq!(
            apply_batch(&mut Adapter::new(Fragile(5)), &commands).len(),
            5
        );
    }

    #[test]
    fn a_machine_that_gives_fewer_outputs_than_it_took_commands_is_stopped() {
        let mut adapter = Adapter::new(Together::default());
        apply_batch(&mut adapter, &[&[6], &[7]]);
        let words = adapter.failed().unwrap().to_string();
        assert!(words.contains("one output for each command"), "{words}");
        assert_eq!(apply_batch(&mut adapter, &[&[1]]), []);
    }

    #[test]
    fn bytes_that_are_no_command_are_answered_and_change_nothing() {
        let mut adapter = Adapter::new(Fragile::default());
        let answer = apply(&mut adapter, &[0xff; 9]);
        assert_eq!(wire::decode(&answer), Ok(Answer::<u32>::Undecodable));
        assert_eq!((adapter.query(0), adapter.failed()), (Some(0), None));
    }

    #[test]
    fn bytes_that_nest_without_end_are_no_command_and_no_state() {
        #[derive(Serialize, Deserialize)]
        struct Chain(Option<Box<Chain>>);

        /// Does nothing.
        struct Idle;

        impl StateMachine for Idle {
            type Command = Chain;
            type Output = ();
            type Query = ();
            type QueryResult = ();
            type Snapshot = Serialized<Chain>;

            fn signature(&self) -> UniqueId {
                unique_id!("idle")
            }
            fn apply(&mut self, _command: Chain, _context: ApplyContext) {}
            fn query(&self, (): ()) {}
            fn snapshot(&self) -> Serialized<Chain> {
                Serialized(Chain(None))
            }
            fn restore(&mut self, _snapshot: Serialized<Chain>) {}
        }

        let endless = Bytes::from(vec![1; 1 << 20]);
        let mut adapter = Adapter::new(Idle);
        let answer = apply(&mut adapter, &endless);
        assert_eq!(wire::decode(&answer), Ok(Answer::<()>::Undecodable));
        let answers = apply_batch(&mut adapter, &[&endless, &[0]]);
        assert_eq!(answers, [Answer::Undecodable, Answer::Output(())]);
        assert!(raft::StateMachine::restore(&mut adapter, &[endless]).is_err());
        assert!(adapter.failed().is_none());
    }

    #[test]
    fn a_version_that_goes_on_is_published_and_nothing_is_twice() {
        /// Notes what is published.
        #[derive(Default)]
        struct Publishing(RefCell<Vec<Option<Version>>>);
        impl StateMachine for Publishing {
            type Command = ();
            type Output = ();
            type Query = ();
            type QueryResult = ();
            type Snapshot = Serialized<()>;
            fn signature(&self) -> UniqueId {
                unique_id!("publishing")
            }
            fn apply(&mut self, (): (), _: ApplyContext) {}
            fn query(&self, (): ()) {}
            fn snapshot(&self) -> Serialized<()> {
                Serialized(())
            }
            fn restore(&mut self, _: Serialized<()>) {}
            fn publish(&self, version: Option<Version>) {
                self.0.borrow_mut().push(version);
            }
        }
        let version = |index| {
            Some(Version {
                incarnation: raft::Incarnation(crate::id::Digest::from_bytes([1; 32])),
                index: Index(index),
            })
        };
        let mut adapter = Adapter::new(Publishing::default());
        adapter.publish(None);
        adapter.publish(version(1));
        apply(&mut adapter, &wire::encode(&()).unwrap());
        adapter.publish(version(2));
        adapter.publish(version(2));
        adapter.publish(version(3));
        assert_eq!(*adapter.machine.0.borrow(), [1, 2, 3].map(version));
    }

    #[test]
    fn after_a_panic_nothing_is_applied_answered_or_saved() {
        let mut adapter = Adapter::new(Fragile::default());
        apply(&mut adapter, &wire::encode(&13_u32).unwrap());
        let unlucky = Stopped::Panicked("unlucky".to_owned());
        assert_eq!(adapter.failed(), Some(&unlucky));
        assert!(apply(&mut adapter, &wire::encode(&1_u32).unwrap()).is_empty());
        assert_eq!(adapter.query(0), None);
        assert!(adapter.freeze().chunks(8).is_empty());
        assert!(adapter.restore(&[]).is_err());
    }

    #[test]
    fn a_state_that_is_refused_is_the_end() {
        let refused = Stopped::Refused("a hundred".to_owned());
        let mut adapter = Adapter::new(Fragile::default());
        apply(&mut adapter, &wire::encode(&100_u32).unwrap());
        assert_eq!(adapter.failed(), Some(&refused));
        assert!(adapter.freeze().chunks(8).is_empty());
        let mut other = Adapter::new(Fragile::default());
        assert!(other.restore(&Serialized(100_u32).chunks(8)).is_err());
        assert_eq!(other.failed(), Some(&refused));
    }

    #[test]
    fn chunks_of_something_else_are_refused() {
        assert!(Serialized::<u32>::from_chunks(&[Bytes::from_static(&[0xff; 12])]).is_err());
        assert!(Serialized::<u32>::from_chunks(&[]).is_err());
    }
}

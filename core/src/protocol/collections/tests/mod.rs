//! Each collection against a model of the standard library: random batches, on three machines, one of which is restored
//! from chunks now and then.

mod cells;
mod hostile;
mod large;
mod map;
mod queue;
mod set;
mod vec;

use std::fmt::Debug;

use proptest::prelude::*;
use serde::Serialize;

use super::{Batch, Collection, Command, Frozen, Machine, OutOfBounds, Outcome, Reply};
use crate::id::Digest;
use crate::protocol::raft::Index;
use crate::wire;

/// What a collection must do, done simply.
trait Model: Clone + Default + Debug + PartialEq {
    type Collection: Collection<Operation: Clone + Debug> + PartialEq + Debug;

    /// Carries out an operation.
    fn apply(&mut self, operation: OperationOf<Self>) -> Result<Reply, OutOfBounds>;
    /// Does what a change says.
    fn follow(&mut self, change: ChangeOf<Self>);
    /// What the collection must hold.
    fn expected(&self) -> Self::Collection;
}

type OperationOf<M> = <<M as Model>::Collection as Collection>::Operation;
type ChangeOf<M> = <<M as Model>::Collection as Collection>::Change;

/// The digest of all that a member would send of its state.
fn digest<C: Collection>(frozen: &Frozen<C>, len: usize) -> Digest {
    let chunks = frozen.chunks(len);
    let parts: Vec<&[u8]> = chunks.iter().map(|chunk| &chunk[..]).collect();
    Digest::of("state", &parts)
}

fn command<C: Collection>(operations: &[C::Operation]) -> Command {
    let mut batch = Batch::<C>::new();
    for operation in operations {
        batch.push::<()>(operation);
    }
    batch.into_command(C::fingerprint())
}

fn reply<R: Serialize>(value: R) -> Reply {
    Reply::of(&value)
}

/// A batch, and the length of chunks in which one member is given the state after it, if it is.
type Step<M> = (Vec<OperationOf<M>>, Option<usize>);

fn steps<M: Model>(operations: BoxedStrategy<OperationOf<M>>) -> impl Strategy<Value = Vec<Step<M>>>
where
    OperationOf<M>: Clone + Debug,
{
    // Most batches have one operation, as most writes do.
    let len = prop_oneof![3 => Just(1..=1), 1 => Just(0..=6)];
    let batch = len.prop_flat_map(move |len| prop::collection::vec(operations.clone(), len));
    let chunk_len = prop_oneof![4 => Just(None), 1 => (0..200_usize).prop_map(Some)];
    prop::collection::vec((batch, chunk_len), 0..60)
}

/// Applies the batches, and checks every outcome and all that is left.
fn check<M: Model>(steps: Vec<Step<M>>) -> Result<(), TestCaseError> {
    let mut model = M::default();
    let mut machines: [Machine<M::Collection>; 3] = Default::default();
    let mut index = Index::ZERO;
    for (operations, chunk_len) in steps {
        index = index.next();
        let command = command::<M::Collection>(&operations);
        let mut after = model.clone();
        let replies: Result<Vec<_>, _> = operations.into_iter().map(|it| after.apply(it)).collect();
        let expected = match replies {
            Ok(replies) => {
                model = after;
                Outcome::Applied(replies)
            }
            Err(error) => Outcome::OutOfBounds(error),
        };
        for machine in &mut machines {
            prop_assert_eq!(machine.apply(index, &command), expected.clone());
        }
        if let Some(len) = chunk_len {
            let chunks = machines[0].freeze().chunks(len);
            machines[2] = Machine::default();
            machines[2].restore(Frozen::from_chunks(&chunks).unwrap());
        }
    }
    for machine in &machines {
        prop_assert_eq!(machine.contents(), &model.expected());
        for len in [0, 1, 64, 1 << 20] {
            prop_assert_eq!(
                digest(&machine.freeze(), len),
                digest(&machines[0].freeze(), len)
            );
        }
    }
    // Whoever follows the changes comes to the same.
    let history = machines[0].history();
    let mut followed = M::default();
    for number in 0..history.end() {
        let entry = history.get(number).flatten().expect("nothing was dropped");
        entry
            .changes
            .iter()
            .for_each(|it| followed.follow(it.clone()));
    }
    prop_assert_eq!(followed.expected(), model.expected());
    Ok(())
}

/// A few short texts, so that they meet.
fn word() -> impl Strategy<Value = String> + Clone {
    prop::sample::select(vec![
        "",
        "a",
        "b",
        "be",
        "c",
        "long enough for a chunk of its own",
    ])
    .prop_map(str::to_owned)
}

//! What an object is: its operations one after the other.

use std::fmt::Debug;

use crate::history::{History, Operation};

/// A sequential object: what its operations do to it and return when there is one client.
///
/// It is deterministic: one state, one operation, one next state and output.
pub trait Model {
    /// What is called.
    type Op: Clone + Ord + Debug;
    /// What a call returns.
    type Output: Clone + Debug;
    /// The object between two operations.
    type State: Clone + Ord + Debug;
    /// What divides operations into those of independent objects, for example the key of a map; `()` where all
    /// are of one.
    type Key: Clone + Ord + Debug;

    /// The object that `op` belongs to. Nothing done to one key may have an effect on another.
    fn key(&self, op: &Self::Op) -> Self::Key;

    /// The object of `key` before its first operation.
    fn initial(&self, key: &Self::Key) -> Self::State;

    /// The state after `op` took effect in `state`, or nothing where it would not have returned `output`.
    ///
    /// Without an output, any is right, because it was not seen: the answer is what it is with the right one.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;

    /// Whether `op`, where it returns `output` (any, if not given), leaves every state as it is. The search
    /// then need not ask what happens if it comes later. Saying no is always right.
    fn is_read(&self, op: &Self::Op, output: Option<&Self::Output>) -> bool {
        let _ = (op, output);
        false
    }

    /// Whether `unknown`, an operation whose output was not seen, can matter when it takes effect right before
    /// `next`, which returned `output` (any, if not given).
    ///
    /// No is a promise: in every state in which `unknown` and then `next` are possible, `next` is also possible
    /// without it and leads to the same state; as with a write before another write, or before the read of
    /// another value. No is also right where `next`, if its output was not seen either, changes nothing after
    /// `unknown`. Yes is always right, and slow where many outcomes are unknown.
    fn can_matter(
        &self,
        unknown: &Self::Op,
        next: &Self::Op,
        output: Option<&Self::Output>,
    ) -> bool {
        let _ = (unknown, next, output);
        true
    }

    /// `op` and its output, where it was seen, as a [`CounterExample`](super::CounterExample) shows them.
    fn describe(&self, op: &Self::Op, output: Option<&Self::Output>) -> String {
        match output {
            Some(output) => format!("{op:?} -> {output:?}"),
            None => format!("{op:?} -> ?"),
        }
    }
}

/// A history of the operations of `M`.
pub type HistoryOf<M> = History<<M as Model>::Op, <M as Model>::Output>;

/// An operation of such a history.
pub type OperationOf<M> = Operation<<M as Model>::Op, <M as Model>::Output>;

//! First in, first out.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::marker::PhantomData;

use crate::linearizability::Model;

/// A queue without bound, empty at first.
#[derive(Clone, Debug)]
pub struct Queue<V> {
    items: PhantomData<fn(&V)>,
}

impl<V> Queue<V> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: PhantomData }
    }
}

impl<V> Default for Queue<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is done to a [`Queue`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueOp<V> {
    /// Adds an item at the end. Returns [`QueueOutput::Done`].
    Push(V),
    /// Takes the first item. Returns [`QueueOutput::Popped`].
    Pop,
}

/// What a [`QueueOp`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueOutput<V> {
    /// The item is added.
    Done,
    /// The item taken, if there was one.
    Popped(Option<V>),
}

impl<V: Clone + Ord + Debug> Model for Queue<V> {
    type Op = QueueOp<V>;
    type Output = QueueOutput<V>;
    type State = VecDeque<V>;
    type Key = ();

    fn key(&self, _: &QueueOp<V>) {}

    fn initial(&self, (): &()) -> VecDeque<V> {
        VecDeque::new()
    }

    fn step(
        &self,
        state: &VecDeque<V>,
        op: &QueueOp<V>,
        output: Option<&QueueOutput<V>>,
    ) -> Option<VecDeque<V>> {
        let mut next = state.clone();
        let right = match op {
            QueueOp::Push(item) => {
                next.push_back(item.clone());
                QueueOutput::Done
            }
            QueueOp::Pop => QueueOutput::Popped(next.pop_front()),
        };
        output.is_none_or(|output| *output == right).then_some(next)
    }

    fn is_read(&self, op: &QueueOp<V>, output: Option<&QueueOutput<V>>) -> bool {
        *op == QueueOp::Pop && output == Some(&QueueOutput::Popped(None))
    }
}

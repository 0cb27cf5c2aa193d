//! Many independent objects, one for each key.

use std::fmt::Debug;

use crate::linearizability::Model;

/// A map from keys to objects of one model. Each key is checked by itself.
#[derive(Clone, Debug)]
pub struct Keyed<K, M> {
    model: M,
    keys: std::marker::PhantomData<fn(&K)>,
}

impl<K, M> Keyed<K, M> {
    /// A map whose objects are all as `model` says.
    #[must_use]
    pub const fn new(model: M) -> Self {
        Self {
            model,
            keys: std::marker::PhantomData,
        }
    }
}

/// What is done to one object of a [`Keyed`]. It returns what `Op` returns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyedOp<K, Op> {
    /// Which object.
    pub key: K,
    /// What is done to it.
    pub op: Op,
}

impl<K: Clone + Ord + Debug, M: Model<Key = ()>> Model for Keyed<K, M> {
    type Op = KeyedOp<K, M::Op>;
    type Output = M::Output;
    type State = M::State;
    type Key = K;

    fn key(&self, op: &Self::Op) -> K {
        op.key.clone()
    }

    fn initial(&self, _: &K) -> M::State {
        self.model.initial(&())
    }

    fn step(
        &self,
        state: &M::State,
        op: &Self::Op,
        output: Option<&M::Output>,
    ) -> Option<M::State> {
        self.model.step(state, &op.op, output)
    }

    fn is_read(&self, op: &Self::Op, output: Option<&M::Output>) -> bool {
        self.model.is_read(&op.op, output)
    }

    fn can_matter(&self, unknown: &Self::Op, next: &Self::Op, output: Option<&M::Output>) -> bool {
        self.model.can_matter(&unknown.op, &next.op, output)
    }

    fn describe(&self, op: &Self::Op, output: Option<&M::Output>) -> String {
        self.model.describe(&op.op, output)
    }
}

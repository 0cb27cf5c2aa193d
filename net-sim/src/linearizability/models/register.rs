//! One value that is read, written and swapped.

use std::fmt::Debug;

use crate::linearizability::Model;

/// A register, which holds one value. `Option<V>` makes one that may be empty.
#[derive(Clone, Debug)]
pub struct Register<V> {
    initial: V,
}

impl<V> Register<V> {
    /// A register that holds `initial` at first.
    #[must_use]
    pub const fn new(initial: V) -> Self {
        Self { initial }
    }
}

/// What is done to a [`Register`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegisterOp<V> {
    /// Returns [`RegisterOutput::Value`].
    Read,
    /// Returns [`RegisterOutput::Done`].
    Write(V),
    /// Writes the second value where the register holds the first. Returns [`RegisterOutput::Swapped`].
    CompareAndSwap(V, V),
}

/// What a [`RegisterOp`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOutput<V> {
    /// The value read.
    Value(V),
    /// The value is written.
    Done,
    /// Whether the register held what was expected, and so was written.
    Swapped(bool),
}

impl<V: Clone + Ord + Debug> Model for Register<V> {
    type Op = RegisterOp<V>;
    type Output = RegisterOutput<V>;
    type State = V;
    type Key = ();

    fn key(&self, _: &RegisterOp<V>) {}

    fn initial(&self, (): &()) -> V {
        self.initial.clone()
    }

    fn step(&self, state: &V, op: &RegisterOp<V>, output: Option<&RegisterOutput<V>>) -> Option<V> {
        let (next, right) = match op {
            RegisterOp::Read => {
                let right = match output {
                    None => true,
                    Some(RegisterOutput::Value(value)) => value == state,
                    Some(RegisterOutput::Done | RegisterOutput::Swapped(_)) => false,
                };
                (state, right)
            }
            RegisterOp::Write(value) => (
                value,
                output.is_none_or(|output| *output == RegisterOutput::Done),
            ),
            RegisterOp::CompareAndSwap(expected, value) => {
                let swaps = state == expected;
                let right = output.is_none_or(|output| *output == RegisterOutput::Swapped(swaps));
                (if swaps { value } else { state }, right)
            }
        };
        right.then(|| next.clone())
    }

    fn is_read(&self, op: &RegisterOp<V>, output: Option<&RegisterOutput<V>>) -> bool {
        match op {
            RegisterOp::Read => true,
            RegisterOp::Write(_) => false,
            RegisterOp::CompareAndSwap(..) => output == Some(&RegisterOutput::Swapped(false)),
        }
    }

    fn can_matter(
        &self,
        unknown: &RegisterOp<V>,
        next: &RegisterOp<V>,
        output: Option<&RegisterOutput<V>>,
    ) -> bool {
        let (RegisterOp::Write(left) | RegisterOp::CompareAndSwap(_, left)) = unknown else {
            return false;
        };
        match (next, output) {
            (RegisterOp::Write(_), _) | (RegisterOp::Read, None) => false,
            (RegisterOp::Read, Some(output)) => *output == RegisterOutput::Value(left.clone()),
            (
                RegisterOp::CompareAndSwap(expected, _),
                None | Some(RegisterOutput::Swapped(true)),
            ) => left == expected,
            (RegisterOp::CompareAndSwap(expected, _), Some(RegisterOutput::Swapped(false))) => {
                left != expected
            }
            (
                RegisterOp::CompareAndSwap(..),
                Some(RegisterOutput::Value(_) | RegisterOutput::Done),
            ) => false,
        }
    }
}

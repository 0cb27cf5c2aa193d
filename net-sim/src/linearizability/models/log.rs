//! Entries that are appended, and never change.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::linearizability::Model;

/// A log, empty at first. A state is all entries, so a check takes time and memory with the square of their
/// number; some thousands are well.
#[derive(Clone, Debug)]
pub struct Log<V> {
    entries: PhantomData<fn(&V)>,
}

impl<V> Log<V> {
    /// An empty log.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            entries: PhantomData,
        }
    }
}

impl<V> Default for Log<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is done to a [`Log`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogOp<V> {
    /// Appends an entry. Returns [`LogOutput::Position`].
    Append(V),
    /// Reads the entry at a position, from 0. Returns [`LogOutput::Entry`].
    Read(usize),
    /// Reads how many entries there are. Returns [`LogOutput::Position`], that of the next entry.
    End,
}

/// What a [`LogOp`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput<V> {
    /// A position, from 0.
    Position(usize),
    /// The entry there, if there is one.
    Entry(Option<V>),
}

impl<V: Clone + Ord + Debug> Model for Log<V> {
    type Op = LogOp<V>;
    type Output = LogOutput<V>;
    type State = Vec<V>;
    type Key = ();

    fn key(&self, _: &LogOp<V>) {}

    fn initial(&self, (): &()) -> Vec<V> {
        Vec::new()
    }

    fn step(&self, state: &Vec<V>, op: &LogOp<V>, output: Option<&LogOutput<V>>) -> Option<Vec<V>> {
        let right = match op {
            LogOp::Append(_) | LogOp::End => LogOutput::Position(state.len()),
            LogOp::Read(position) => LogOutput::Entry(state.get(*position).cloned()),
        };
        if output.is_some_and(|output| *output != right) {
            return None;
        }
        let mut next = state.clone();
        if let LogOp::Append(entry) = op {
            next.push(entry.clone());
        }
        Some(next)
    }

    fn is_read(&self, op: &LogOp<V>, _: Option<&LogOutput<V>>) -> bool {
        match op {
            LogOp::Append(_) => false,
            LogOp::Read(_) | LogOp::End => true,
        }
    }
}

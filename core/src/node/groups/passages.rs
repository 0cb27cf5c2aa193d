//! What a node has gone through with a group: from one life of it to another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{Reformed, Superseded};

/// Passages kept for who does not take them.
const KEPT_MAX: usize = 4;

/// How a node has come from one life of a group to another.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Passage {
    /// Two foundings have met, and the life that the node belonged to was given up.
    Superseded(Arc<Superseded>),
    /// The group goes on in another life from what was left of the one before.
    Reformed(Arc<Reformed>),
}

/// Passages that nobody has taken yet, and those after them.
#[derive(Debug, Default)]
pub(super) struct Passages(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// With their numbers.
    kept: VecDeque<(u64, Passage)>,
    latest: u64,
}

impl Passages {
    /// Keeps a passage, and gives its number.
    pub(super) fn add(&self, passage: Passage) -> u64 {
        let mut inner = self.lock();
        inner.latest += 1;
        let number = inner.latest;
        // The oldest goes when there are too many: its number tells that it is missing.
        if inner.kept.len() == KEPT_MAX {
            inner.kept.pop_front();
        }
        inner.kept.push_back((number, passage));
        number
    }

    pub(super) fn take(&self) -> Vec<(u64, Passage)> {
        std::mem::take(&mut self.lock().kept).into()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // Every change is whole when the lock is released, also by a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Digest;
    use crate::protocol::raft::{self, Incarnation, Index, Version};

    fn passage(n: u8) -> Passage {
        let life = |n| Incarnation(Digest::from_bytes([n; 32]));
        Passage::Superseded(Arc::new(Superseded::from(raft::Superseded {
            version: Version {
                incarnation: life(n),
                index: Index(1),
            },
            into: life(n + 1),
            commands: 0,
            commands_in_all: 0,
            state: Vec::new(),
        })))
    }

    #[test]
    fn passages_wait_to_be_taken_and_numbers_show_which_are_gone() {
        let passages = Passages::default();
        assert_eq!(passages.take(), []);
        for n in 1..=6 {
            assert_eq!(passages.add(passage(n)), u64::from(n));
        }
        let numbers: Vec<u64> = passages.take().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [3, 4, 5, 6]);
        passages.add(passage(7));
        assert_eq!(passages.take(), [(7, passage(7))]);
        assert_eq!(passages.take(), []);
    }
}

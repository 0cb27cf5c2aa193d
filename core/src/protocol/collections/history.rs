//! The latest changes of a collection, for those who follow them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::protocol::raft::Index;

/// Changes that are kept, at most.
const CHANGES_MAX: usize = 16_384;

/// Their bytes, as they would be encoded, or those of the commands that have made them where these are more; at most.
const BYTES_MAX: usize = 16 << 20;

/// What one command has changed.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    /// Where in the log the command is. Others may be at the same index.
    pub(crate) index: Index,
    /// What it has changed, in order.
    pub(crate) changes: Box<[T]>,
    /// What it counts for.
    bytes: usize,
}

/// What a command changes, as far as it can be kept. What nobody will be told is not copied: a short command may ask for a long value
/// to be moved so often that there is no room for a copy each time.
#[derive(Debug)]
pub struct Noted<T> {
    changes: Vec<T>,
    weight: fn(&T) -> usize,
    /// What the changes count for.
    bytes: usize,
    /// There are more than are kept.
    are_too_many: bool,
}

impl<T> Noted<T> {
    /// None yet; `weight` tells what each counts for.
    pub(super) const fn new(weight: fn(&T) -> usize) -> Self {
        Self {
            changes: Vec::new(),
            weight,
            bytes: 0,
            are_too_many: false,
        }
    }

    /// Notes a change, which is made where it can be kept.
    pub(super) fn push(&mut self, change: impl FnOnce() -> T) {
        if self.are_too_many {
            return;
        }
        let change = change();
        self.bytes += (self.weight)(&change);
        self.changes.push(change);
        if self.changes.len() > CHANGES_MAX || self.bytes > BYTES_MAX {
            self.are_too_many = true;
            self.changes = Vec::new();
        }
    }
}

/// The latest changes, as they were applied on this node.
///
/// Entries are numbered as they come, by this node alone: a number that is skipped is a gap, over which nobody who
/// follows the changes gets without noticing.
#[derive(Debug)]
pub(crate) struct History<T> {
    entries: VecDeque<Arc<Entry<T>>>,
    /// The number of the first entry.
    first: u64,
    /// All changes above this index are here; `None` while it is not known what the present state goes back to.
    after: Option<Index>,
    changes: usize,
    bytes: usize,
}

impl<T> History<T> {
    /// One of a collection to which nothing was applied yet.
    pub(crate) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            first: 0,
            after: Some(Index::ZERO),
            changes: 0,
            bytes: 0,
        }
    }

    /// Adds what a command of so many bytes at `index` has changed.
    pub(crate) fn note(&mut self, index: Index, bytes: usize, noted: Noted<T>) {
        if noted.are_too_many {
            self.skip(Some(index));
        } else {
            // What is kept must not be longer than it counts for.
            self.push(index, bytes.max(noted.bytes), noted.changes);
        }
    }

    /// Adds what a command at `index` has changed, which counts for so many bytes, and drops the oldest changes where there are too many.
    pub(crate) fn push(&mut self, index: Index, bytes: usize, changes: Vec<T>) {
        self.begin(index.previous());
        if changes.is_empty() {
            return;
        }
        self.changes += changes.len();
        self.bytes += bytes;
        self.entries.push_back(Arc::new(Entry {
            index,
            changes: changes.into(),
            bytes,
        }));
        while self.changes > CHANGES_MAX || self.bytes > BYTES_MAX {
            let Some(dropped) = self.entries.pop_front() else {
                break;
            };
            self.changes -= dropped.changes.len();
            self.bytes -= dropped.bytes;
            self.first += 1;
            self.after = Some(dropped.index);
        }
    }

    /// The state was replaced by another one: what led to it is not known.
    pub(crate) fn restart(&mut self) {
        self.skip(None);
    }

    /// All changes up to here are missing.
    fn skip(&mut self, after: Option<Index>) {
        // One number is skipped, so that who has followed up to here sees the gap.
        self.first = self.end() + 1;
        self.entries.clear();
        self.after = after;
        self.changes = 0;
        self.bytes = 0;
    }

    /// The present state is that of `index`: whatever comes above it will be here. Says nothing where it is known what the
    /// state goes back to.
    pub(crate) fn begin(&mut self, index: Index) {
        self.after.get_or_insert(index);
    }

    /// The number that the next entry will have.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The number of the first entry above `index`; `None` where changes above it are missing.
    pub(crate) fn above(&self, index: Index) -> Option<u64> {
        if self.after.is_none_or(|after| index < after) {
            return None;
        }
        let order = |entry: &Arc<Entry<T>>| {
            if entry.index > index {
                std::cmp::Ordering::Greater
            } else {
                std::cmp::Ordering::Less
            }
        };
        // Nothing is equal, so it ends where the first greater one is.
        let (Ok(place) | Err(place)) = self.entries.binary_search_by(order);
        Some(self.first + place as u64)
    }

    /// The entry of this number; `None` inside where there is none yet, and `None` outside where it is gone.
    pub(crate) fn get(&self, number: u64) -> Option<Option<&Arc<Entry<T>>>> {
        let place = number.checked_sub(self.first)?;
        Some(
            usize::try_from(place)
                .ok()
                .and_then(|it| self.entries.get(it)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(indexes: &[u64]) -> History<u64> {
        let mut history = History::new();
        for index in indexes {
            history.push(Index(*index), 1, vec![*index]);
        }
        history
    }

    #[test]
    fn changes_are_found_by_the_index_above_which_they_are_asked_for() {
        let history = history(&[2, 2, 5]);
        let above = [0, 1, 2, 4, 5, 9].map(|index| history.above(Index(index)));
        assert_eq!(above, [0, 0, 2, 2, 3, 3].map(Some));
        assert!(
            history
                .get(2)
                .is_some_and(|it| it.is_some_and(|it| it.index == Index(5)))
        );
        assert!(history.get(3).is_some_and(|it| it.is_none()));
    }

    #[test]
    fn what_is_too_much_goes_and_leaves_a_gap() {
        let mut history = history(&[1]);
        history.push(Index(2), 1, vec![0; CHANGES_MAX]);
        assert_eq!(
            (history.above(Index::ZERO), history.above(Index(1))),
            (None, Some(1))
        );
        assert!(history.get(0).is_none());
        history.push(Index(3), BYTES_MAX + 1, vec![3]);
        assert_eq!(
            (history.above(Index(2)), history.above(Index(3))),
            (None, Some(3))
        );
    }

    #[test]
    fn what_is_too_much_at_once_is_not_made() {
        let mut made = 0;
        let mut noted = Noted::new(|_| 1 << 20);
        for _ in 0..100 {
            noted.push(|| made += 1);
        }
        assert_eq!(made, (BYTES_MAX >> 20) + 1);
        let mut few = Noted::new(|_| 0);
        few.push(|| ());
        let mut history = History::new();
        history.note(Index(1), 1, few);
        history.note(Index(2), 1, noted);
        assert!(history.get(1).is_none());
        assert_eq!(
            (history.above(Index(1)), history.above(Index(2))),
            (None, Some(history.end()))
        );
    }

    #[test]
    fn another_state_is_a_gap_for_who_has_followed_up_to_it() {
        let mut history = history(&[1, 2]);
        let followed = history.end();
        history.restart();
        assert!(history.get(followed).is_none());
        assert_eq!(history.above(Index(9)), None);
        history.push(Index(7), 1, vec![7]);
        assert_eq!(
            (history.above(Index(5)), history.above(Index(6))),
            (None, Some(3))
        );
    }

    #[test]
    fn who_has_seen_the_other_state_misses_nothing_after_it() {
        let mut history = history(&[1, 2]);
        history.restart();
        assert_eq!(history.above(Index(9)), None);
        history.begin(Index(5));
        let seen = history.above(Index(5));
        history.push(Index(8), 1, vec![8]);
        assert_eq!(
            (history.above(Index(4)), history.above(Index(5))),
            (None, seen)
        );
        assert!(
            seen.and_then(|it| history.get(it))
                .is_some_and(|it| it.is_some())
        );
    }
}

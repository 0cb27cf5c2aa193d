//! `Vec`: items one after the other.

use serde::{Deserialize, Serialize};

use super::collection::{Collection, OutOfBounds, Reply, Value};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use crate::protocol::raft::RestoreError;

/// What changes are collected in.
type Changes<T> = Noted<VecChange<T>>;

/// A replicated vec: items one after the other, by place.
///
/// As a value this is what such a vec holds at one moment. A clone costs nothing to speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vec<T: Value>(im::Vector<T>);

impl<T: Value> Vec<T> {
    /// How many items there are. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The item at this place. O(log n).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index)
    }

    /// The first item. O(log n).
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.0.front()
    }

    /// The last item. O(log n).
    #[must_use]
    pub fn back(&self) -> Option<&T> {
        self.0.back()
    }

    /// Whether an item equals this one. O(n).
    #[must_use]
    pub fn contains(&self, item: &T) -> bool {
        self.0.contains(item)
    }

    /// The first place with an item that equals this one. O(n).
    #[must_use]
    pub fn index_of(&self, item: &T) -> Option<usize> {
        self.0.index_of(item)
    }

    /// All items, by place.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter()
    }
}

impl<T: Value> Default for Vec<T> {
    fn default() -> Self {
        Self(im::Vector::new())
    }
}

impl<T: Value> IntoIterator for Vec<T> {
    type Item = T;
    type IntoIter = im::vector::ConsumingIter<T, im::shared_ptr::DefaultSharedPtr>;

    /// All items, by place, cloned as they come where others hold them too.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What can be done to a [`Vec`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum VecOperation<T> {
    /// Puts an item behind the last.
    PushBack(T),
    /// Puts an item before the first.
    PushFront(T),
    /// Removes the last.
    PopBack,
    /// Removes the first.
    PopFront,
    /// Puts an item at a place; those from there on move up.
    Insert(u64, T),
    /// Removes the item at a place; those behind it move down.
    Remove(u64),
    /// Exchanges two items.
    Swap(u64, u64),
    /// Keeps so many, the first.
    Truncate(u64),
    /// Puts items behind the last.
    Extend(std::vec::Vec<T>),
    /// Removes all.
    Clear,
}

/// A change of a [`Vec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VecChange<T> {
    /// The item is at this place now; those from there on have moved up.
    Inserted(u64, T),
    /// The item at this place is gone; those behind it have moved down.
    Removed(u64),
    /// The items at these places were exchanged.
    Swapped(u64, u64),
    /// So many are left, the first.
    Truncated(u64),
}

impl<T: Value> Vec<T> {
    /// A place as it is counted in memory, where it is below `end`.
    fn place(&self, index: u64, end: usize) -> Result<usize, OutOfBounds> {
        let place = usize::try_from(index).ok().filter(|place| *place < end);
        let len = self.len() as u64;
        place.ok_or(OutOfBounds { index, len })
    }

    /// Puts items behind the last, and gives the place of the first of them.
    fn extend(&mut self, items: impl IntoIterator<Item = T>, changes: &mut Changes<T>) -> u64 {
        let first = self.len() as u64;
        for item in items {
            changes.push(|| VecChange::Inserted(self.len() as u64, item.clone()));
            self.0.push_back(item);
        }
        first
    }

    /// Keeps so many, and gives how many were removed.
    fn truncate(&mut self, len: u64, changes: &mut Changes<T>) -> u64 {
        let before = self.len() as u64;
        if len < before {
            // It fits: it is below a length.
            self.0.truncate(len as usize);
            changes.push(|| VecChange::Truncated(len));
        }
        before.saturating_sub(len)
    }
}

impl<T: Value> Collection for Vec<T> {
    const KIND: &'static str = "smalti vec 1";
    type Operation = VecOperation<T>;
    type Change = VecChange<T>;
    type Item = T;

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<T>()
    }

    fn apply(
        &mut self,
        operation: VecOperation<T>,
        changes: &mut Changes<T>,
    ) -> Result<Reply, OutOfBounds> {
        let len = self.len();
        // Every place is checked before anything is changed: the structures below panic over one that is not there.
        Ok(match operation {
            VecOperation::PushBack(item) => Reply::of(&self.extend([item], changes)),
            VecOperation::Extend(items) => Reply::of(&self.extend(items, changes)),
            VecOperation::PushFront(item) => {
                changes.push(|| VecChange::Inserted(0, item.clone()));
                self.0.push_front(item);
                Reply::of(&())
            }
            VecOperation::PopBack => {
                let popped = self.0.pop_back();
                if popped.is_some() {
                    changes.push(|| VecChange::Removed(len as u64 - 1));
                }
                Reply::of(&popped)
            }
            VecOperation::PopFront => {
                let popped = self.0.pop_front();
                if popped.is_some() {
                    changes.push(|| VecChange::Removed(0));
                }
                Reply::of(&popped)
            }
            VecOperation::Insert(index, item) => {
                let place = self.place(index, len.saturating_add(1))?;
                changes.push(|| VecChange::Inserted(index, item.clone()));
                self.0.insert(place, item);
                Reply::of(&())
            }
            VecOperation::Remove(index) => {
                let place = self.place(index, len)?;
                changes.push(|| VecChange::Removed(index));
                Reply::of(&self.0.remove(place))
            }
            VecOperation::Swap(a, b) => {
                let (place_a, place_b) = (self.place(a, len)?, self.place(b, len)?);
                if place_a != place_b {
                    changes.push(|| VecChange::Swapped(a, b));
                    self.0.swap(place_a, place_b);
                }
                Reply::of(&())
            }
            VecOperation::Truncate(len) => Reply::of(&self.truncate(len, changes)),
            VecOperation::Clear => Reply::of(&self.truncate(0, changes)),
        })
    }

    fn items(&self) -> impl Iterator<Item = impl Serialize> {
        self.0.iter()
    }

    fn put(&mut self, item: T) -> Result<(), RestoreError> {
        self.0.push_back(item);
        Ok(())
    }
}

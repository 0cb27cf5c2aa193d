//! `Set`: items, each once.

use std::borrow::Borrow;

use serde::{Deserialize, Serialize};

use super::collection::{Collection, Key, OutOfBounds, Reply};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use super::snapshot::malformed;
use crate::protocol::raft::RestoreError;

/// A replicated set: items, each once, in their order.
///
/// As a value this is what such a set holds at one moment. A clone costs nothing to speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<T: Key>(im::OrdSet<T>);

impl<T: Key> Set<T> {
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

    /// Whether the item is in the set. O(log n).
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.contains(item)
    }

    /// Whether all items are in `other` too. O(n) at most.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// All items, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter()
    }
}

impl<T: Key> Default for Set<T> {
    fn default() -> Self {
        Self(im::OrdSet::new())
    }
}

impl<T: Key> IntoIterator for Set<T> {
    type Item = T;
    type IntoIter = im::ordset::ConsumingIter<T, im::shared_ptr::DefaultSharedPtr>;

    /// All items, ascending, cloned as they come where others hold them too.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What can be done to a [`Set`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SetOperation<T> {
    /// Puts an item.
    Insert(T),
    /// Puts items.
    Extend(Vec<T>),
    /// Removes an item.
    Remove(T),
    /// Removes items.
    RemoveMany(Vec<T>),
    /// Removes all.
    Clear,
}

/// A change of a [`Set`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetChange<T> {
    /// The item is in the set now.
    Inserted(T),
    /// The item is in the set no longer.
    Removed(T),
    /// The set is empty now.
    Cleared,
}

impl<T: Key> Set<T> {
    fn insert(&mut self, item: T, changes: &mut Noted<SetChange<T>>) -> bool {
        let is_new = self.0.insert(item.clone()).is_none();
        if is_new {
            changes.push(|| SetChange::Inserted(item));
        }
        is_new
    }

    fn remove(&mut self, item: T, changes: &mut Noted<SetChange<T>>) -> bool {
        let was_there = self.0.remove(&item).is_some();
        if was_there {
            changes.push(|| SetChange::Removed(item));
        }
        was_there
    }
}

impl<T: Key> Collection for Set<T> {
    const KIND: &'static str = "smalti set 1";
    type Operation = SetOperation<T>;
    type Change = SetChange<T>;
    type Item = T;

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<T>()
    }

    fn apply(
        &mut self,
        operation: SetOperation<T>,
        changes: &mut Noted<SetChange<T>>,
    ) -> Result<Reply, OutOfBounds> {
        let mut count = |items: Vec<T>, one: fn(&mut Self, T, &mut Noted<SetChange<T>>) -> bool| {
            let items = items.into_iter();
            let changed = items.filter_map(|item| one(self, item, changes).then_some(()));
            Reply::of(&(changed.count() as u64))
        };
        Ok(match operation {
            SetOperation::Extend(items) => count(items, Self::insert),
            SetOperation::RemoveMany(items) => count(items, Self::remove),
            SetOperation::Insert(item) => Reply::of(&self.insert(item, changes)),
            SetOperation::Remove(item) => Reply::of(&self.remove(item, changes)),
            SetOperation::Clear => {
                let before = self.len();
                if before > 0 {
                    self.0 = im::OrdSet::new();
                    changes.push(|| SetChange::Cleared);
                }
                Reply::of(&(before as u64))
            }
        })
    }

    fn items(&self) -> impl Iterator<Item = impl Serialize> {
        self.0.iter()
    }

    fn put(&mut self, item: T) -> Result<(), RestoreError> {
        if self.0.get_max().is_some_and(|last| *last >= item) {
            return Err(malformed("items are not in ascending order"));
        }
        self.0.insert(item);
        Ok(())
    }
}

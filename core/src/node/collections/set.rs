//! Reads and writes of a `Set`.

use std::borrow::Borrow;

use super::handle::{Reader, Writer};
use super::roles::{roles, writes};
use crate::protocol::collections::{Key, Set, SetOperation as Operation};

/// Reads a [`Set`].
pub type SetReader<T> = Reader<Set<T>>;

/// Reads and writes a [`Set`].
pub type SetWriter<T> = Writer<Set<T>>;

roles!([T: Key] Set<T>);

impl<T: Key> Reader<Set<T>> {
    /// How many items there are. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    /// Whether the item is in the set. O(log n).
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.view().contains(item)
    }

    /// Whether all items that this set has now are in the other set now. O(n) at most.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.view().is_subset(&other.view())
    }

    /// All items as they are now, ascending, cloned as they come. Begins with a pointer for
    /// each 16 of them, and holds on to these contents; a [`view`](Self::view) gives references instead.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + use<T> {
        self.view().contents().into_iter()
    }
}

writes!([T: Key] Set<T> {
    /// Puts an item, and gives whether it is new. O(log n).
    fn insert(item: T) -> bool = Operation::Insert(item);

    /// Puts items, as one, and gives how many of them are new. O(log n) each.
    fn extend(items: impl IntoIterator<Item = T>) -> u64 =
        Operation::Extend(items.into_iter().collect());

    /// Removes an item, and gives whether it was there. O(log n).
    fn remove(item: T) -> bool = Operation::Remove(item);

    /// Removes items, as one, and gives how many of them were there. O(log n) each.
    fn remove_many(items: impl IntoIterator<Item = T>) -> u64 =
        Operation::RemoveMany(items.into_iter().collect());

    /// Removes all, and gives how many there were. O(1) for who asks.
    fn clear() -> u64 = Operation::Clear;
});

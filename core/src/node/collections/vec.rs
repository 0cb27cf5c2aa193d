//! Reads and writes of a `Vec`.

use super::handle::{Reader, Writer};
use super::roles::{roles, writes};
use crate::protocol::collections::{Value, Vec, VecOperation as Operation};

/// Reads a [`Vec`].
pub type VecReader<T> = Reader<Vec<T>>;

/// Reads and writes a [`Vec`].
pub type VecWriter<T> = Writer<Vec<T>>;

roles!([T: Value] Vec<T>);

impl<T: Value> Reader<Vec<T>> {
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

    /// The item at this place, cloned. O(log n).
    #[must_use]
    pub fn get(&self, index: usize) -> Option<T> {
        self.view().get(index).cloned()
    }

    /// The first item, cloned. O(log n).
    #[must_use]
    pub fn front(&self) -> Option<T> {
        self.view().front().cloned()
    }

    /// The last item, cloned. O(log n).
    #[must_use]
    pub fn back(&self) -> Option<T> {
        self.view().back().cloned()
    }

    /// Whether an item equals this one. O(n).
    #[must_use]
    pub fn contains(&self, item: &T) -> bool {
        self.view().contains(item)
    }

    /// The first place with an item that equals this one. O(n).
    #[must_use]
    pub fn index_of(&self, item: &T) -> Option<usize> {
        self.view().index_of(item)
    }

    /// All items as they are now, by place, cloned as they come. O(1) to begin with. Holds on to these contents; a
    /// [`view`](Self::view) gives references instead.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + use<T> {
        self.view().contents().into_iter()
    }
}

writes!([T: Value] Vec<T> {
    /// Puts an item behind the last, and gives its place. O(log n).
    fn push_back(item: T) -> u64 = Operation::PushBack(item);

    /// Puts an item before the first. O(log n).
    fn push_front(item: T) -> () = Operation::PushFront(item);

    /// Removes the last item, and gives it. O(log n).
    fn pop_back() -> Option<T> = Operation::PopBack;

    /// Removes the first item, and gives it. O(log n).
    fn pop_front() -> Option<T> = Operation::PopFront;

    /// Puts an item at a place, that behind the last at most; those from there on move up. Fails where there is no such
    /// place, by [`OutOfBounds`](crate::collections::WriteError::OutOfBounds). O(log n).
    fn insert(index: u64, item: T) -> () = Operation::Insert(index, item);

    /// Removes the item at a place, and gives it; those behind it move down. Fails where there is no such place, by
    /// [`OutOfBounds`](crate::collections::WriteError::OutOfBounds). O(log n).
    fn remove(index: u64) -> T = Operation::Remove(index);

    /// Exchanges the items at two places. Fails where there is no such place, by
    /// [`OutOfBounds`](crate::collections::WriteError::OutOfBounds). O(log n).
    fn swap(a: u64, b: u64) -> () = Operation::Swap(a, b);

    /// Keeps so many items, the first, and gives how many were removed. O(log n).
    fn truncate(len: u64) -> u64 = Operation::Truncate(len);

    /// Puts items behind the last, as one, and gives the place of the first of them. O(log n) each.
    fn extend(items: impl IntoIterator<Item = T>) -> u64 =
        Operation::Extend(items.into_iter().collect());

    /// Removes all, and gives how many there were. O(1) for who asks.
    fn clear() -> u64 = Operation::Clear;
});

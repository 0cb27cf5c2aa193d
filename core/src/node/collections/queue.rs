//! Reads and writes of a `PriorityQueue`.

use std::borrow::Borrow;
use std::ops::RangeBounds;

use super::handle::{Reader, Writer};
use super::roles::{roles, writes};
use crate::protocol::collections::{
    Inserted, Key, PriorityQueue, QueueOperation as Operation, Value,
};

/// Reads a [`PriorityQueue`].
pub type PriorityQueueReader<P, K, V> = Reader<PriorityQueue<P, K, V>>;

/// Reads and writes a [`PriorityQueue`].
pub type PriorityQueueWriter<P, K, V> = Writer<PriorityQueue<P, K, V>>;

roles!([P: Key, K: Key, V: Value] PriorityQueue<P, K, V>);

/// An entry as a value of its own.
fn owned<P: Clone, K: Clone, V: Clone>((priority, key, value): (&P, &K, &V)) -> (P, K, V) {
    (priority.clone(), key.clone(), value.clone())
}

impl<P: Key, K: Key, V: Value> Reader<PriorityQueue<P, K, V>> {
    /// How many keys there are. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.view().len()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view().is_empty()
    }

    /// How many entries it has at most; `None` where there is no limit. O(1).
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.view().capacity()
    }

    /// Whether the key is in the queue. O(log n).
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.view().contains_key(key)
    }

    /// The value of a key, cloned. O(log n).
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.view().get(key).cloned()
    }

    /// The priority of a key, cloned. O(log n).
    #[must_use]
    pub fn get_priority<Q: Ord + ?Sized>(&self, key: &Q) -> Option<P>
    where
        K: Borrow<Q>,
    {
        self.view().get_priority(key).cloned()
    }

    /// The entry of the lowest priority, cloned. O(log n).
    #[must_use]
    pub fn get_min(&self) -> Option<(P, K, V)> {
        self.view().get_min().map(owned)
    }

    /// The entry of the highest priority, cloned. O(log n).
    #[must_use]
    pub fn get_max(&self) -> Option<(P, K, V)> {
        self.view().get_max().map(owned)
    }

    /// All entries as they are now, by ascending priority, cloned as they come. Begins with a pointer for
    /// each 16 of them, and holds on to these contents; a [`view`](Self::view) gives references instead.
    #[must_use]
    pub fn iter_asc(&self) -> impl DoubleEndedIterator<Item = (P, K, V)> + use<P, K, V> {
        self.view().contents().into_iter()
    }

    /// All entries as they are now, by descending priority. See [`iter_asc`](Self::iter_asc).
    #[must_use]
    pub fn iter_desc(&self) -> impl DoubleEndedIterator<Item = (P, K, V)> + use<P, K, V> {
        self.iter_asc().rev()
    }
}

writes!([P: Key, K: Key, V: Value] PriorityQueue<P, K, V> {
    /// Puts an entry, and gives the one that the key had before, and the one that was given up for the capacity.
    /// O(log n).
    fn insert(priority: P, key: K, value: V) -> Inserted<P, K, V> =
        Operation::Insert(priority, key, value);

    /// Puts entries, as one, and gives how many were given up for the capacity. O(log n) each.
    fn extend(entries: impl IntoIterator<Item = (P, K, V)>) -> u64 =
        Operation::Extend(entries.into_iter().collect());

    /// Gives a key another priority, and gives the one that it had; `None` where the key is not there, and nothing is
    /// changed. O(log n).
    fn update_priority(key: K, priority: P) -> Option<P> = Operation::UpdatePriority(key, priority);

    /// Gives a key another value, and gives the one that it had; `None` where the key is not there, and nothing is
    /// changed. O(log n).
    fn update_value(key: K, value: V) -> Option<V> = Operation::UpdateValue(key, value);

    /// Gives a key the value `new`, or removes it where that is `None`, if its value equals `expected`. Where it does not,
    /// `Err` has the value that is there, if any. O(log n).
    fn compare_exchange_value(key: K, expected: V, new: Option<V>) -> Result<(), Option<V>> =
        Operation::CompareExchangeValue { key, expected, new };

    /// Removes a key, and gives the priority and the value that it had. O(log n).
    fn remove(key: K) -> Option<(P, V)> = Operation::Remove(key);

    /// Removes keys, as one, and gives how many of them were there. O(log n) each.
    fn remove_keys(keys: impl IntoIterator<Item = K>) -> u64 =
        Operation::RemoveKeys(keys.into_iter().collect());

    /// Removes the keys whose priorities lie in `range`, as one, and gives how many these were. O(log n) each, and
    /// to find them.
    fn remove_range(range: impl RangeBounds<P>) -> u64 =
        Operation::RemoveRange(range.start_bound().cloned(), range.end_bound().cloned());

    /// Removes the entry of the lowest priority, and gives it. O(log n).
    fn pop_min() -> Option<(P, K, V)> = Operation::PopMin;

    /// Removes the entry of the highest priority, and gives it. O(log n).
    fn pop_max() -> Option<(P, K, V)> = Operation::PopMax;

    /// Sets how many entries there are at most, and gives how many were given up for it. O(log n) each.
    fn set_capacity(capacity: Option<u64>) -> u64 = Operation::SetCapacity(capacity);

    /// Removes all entries, and gives how many there were. The capacity stays. O(1) for who asks.
    fn clear() -> u64 = Operation::Clear;
});

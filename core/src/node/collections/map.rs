//! Reads and writes of a `Map`.

use std::borrow::Borrow;

use super::handle::{Reader, Writer};
use super::roles::{roles, writes};
use crate::protocol::collections::{Key, Map, MapOperation as Operation, Value};

/// Reads a [`Map`].
pub type MapReader<K, V> = Reader<Map<K, V>>;

/// Reads and writes a [`Map`].
pub type MapWriter<K, V> = Writer<Map<K, V>>;

roles!([K: Key, V: Value] Map<K, V>);

impl<K: Key, V: Value> Reader<Map<K, V>> {
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

    /// Whether there is a value for `key`. O(log n).
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.view().contains_key(key)
    }

    /// The value for `key`, cloned. O(log n).
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.view().get(key).cloned()
    }

    /// All keys with their values as they are now, by ascending key, cloned as they come. Begins with a pointer for
    /// each 16 of them, and holds on to these contents; a [`view`](Self::view) gives references instead.
    #[must_use]
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, V)> + use<K, V> {
        self.view().contents().into_iter()
    }

    /// The keys as they are now, ascending. See [`iter`](Self::iter).
    #[must_use]
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = K> + use<K, V> {
        self.iter().map(|(key, _)| key)
    }

    /// The values as they are now, by ascending key. See [`iter`](Self::iter).
    #[must_use]
    pub fn values(&self) -> impl DoubleEndedIterator<Item = V> + use<K, V> {
        self.iter().map(|(_, value)| value)
    }
}

writes!([K: Key, V: Value] Map<K, V> {
    /// Puts a value for a key, and gives the one that was there. O(log n).
    fn insert(key: K, value: V) -> Option<V> = Operation::Insert(key, value);

    /// Puts values for keys, as one, and gives how many of the keys are new. Where a key comes twice the last value
    /// stays. O(log n) each.
    fn extend(entries: impl IntoIterator<Item = (K, V)>) -> u64 =
        Operation::Extend(entries.into_iter().collect());

    /// Puts the value `new` for a key, or removes it where that is `None`, if what is there equals `expected`. Gives
    /// what was there: `Ok` where it was exchanged, `Err` where not. O(log n).
    fn compare_exchange(key: K, expected: Option<V>, new: Option<V>) -> Result<Option<V>, Option<V>> =
        Operation::CompareExchange { key, expected, new };

    /// Removes a key, and gives the value that was there. O(log n).
    fn remove(key: K) -> Option<V> = Operation::Remove(key);

    /// Removes keys, as one, and gives how many of them were there. O(log n) each.
    fn remove_many(keys: impl IntoIterator<Item = K>) -> u64 =
        Operation::RemoveMany(keys.into_iter().collect());

    /// Removes all, and gives how many there were. O(1) for who asks.
    fn clear() -> u64 = Operation::Clear;
});

//! `Map`: values by key.

use std::borrow::Borrow;
use std::ops::RangeBounds;

use serde::{Deserialize, Serialize};

use super::collection::{Collection, Key, OutOfBounds, Reply, Value};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use super::snapshot::malformed;
use crate::protocol::raft::RestoreError;

/// A replicated map: one value for each key, in the order of the keys.
///
/// As a value this is what such a map holds at one moment. A clone costs nothing to speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map<K: Key, V: Value>(im::OrdMap<K, V>);

impl<K: Key, V: Value> Map<K, V> {
    /// How many keys there are. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is a value for `key`. O(log n).
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// The value for `key`. O(log n).
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// All keys with their values, by ascending key.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.0.iter()
    }

    /// The keys in `range` with their values, by ascending key; none where the range ends before it starts.
    /// O(log n) to begin with.
    pub fn range<R: RangeBounds<K>>(&self, range: R) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        let range = is_ordered(&range).then(|| self.0.range(range));
        range.into_iter().flatten()
    }

    /// The keys, ascending.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> {
        self.0.keys()
    }

    /// The values, by ascending key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }
}

/// Whether a range does not end before it starts.
pub(super) fn is_ordered<T: Ord>(range: &impl RangeBounds<T>) -> bool {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    match (range.start_bound(), range.end_bound()) {
        (Unbounded, _) | (_, Unbounded) => true,
        (Included(start), Included(end)) => start <= end,
        (Included(start) | Excluded(start), Excluded(end)) | (Excluded(start), Included(end)) => {
            start < end
        }
    }
}

impl<K: Key, V: Value> Default for Map<K, V> {
    fn default() -> Self {
        Self(im::OrdMap::new())
    }
}

impl<K: Key, V: Value> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = im::ordmap::ConsumingIter<K, V, im::shared_ptr::DefaultSharedPtr>;

    /// All keys with their values, by ascending key, cloned as they come where others hold them too.
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// What can be done to a [`Map`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum MapOperation<K, V> {
    /// Puts a value for a key.
    Insert(K, V),
    /// Puts values for keys.
    Extend(Vec<(K, V)>),
    /// Puts a value for a key, or none, where there is what is expected.
    CompareExchange {
        /// The key.
        key: K,
        /// What must be there.
        expected: Option<V>,
        /// What comes in its place.
        new: Option<V>,
    },
    /// Removes a key.
    Remove(K),
    /// Removes keys.
    RemoveMany(Vec<K>),
    /// Removes all.
    Clear,
}

/// A change of a [`Map`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapChange<K, V> {
    /// The key has this value now.
    Inserted(K, V),
    /// The key has no value any more.
    Removed(K),
    /// No key has a value any more.
    Cleared,
}

impl<K: Key, V: Value> Map<K, V> {
    fn insert(&mut self, key: K, value: V, changes: &mut Noted<MapChange<K, V>>) -> Option<V> {
        changes.push(|| MapChange::Inserted(key.clone(), value.clone()));
        self.0.insert(key, value)
    }

    fn remove(&mut self, key: K, changes: &mut Noted<MapChange<K, V>>) -> Option<V> {
        let former = self.0.remove(&key)?;
        changes.push(|| MapChange::Removed(key));
        Some(former)
    }

    fn compare_exchange(
        &mut self,
        key: K,
        expected: Option<&V>,
        new: Option<V>,
        changes: &mut Noted<MapChange<K, V>>,
    ) -> Result<Option<V>, Option<V>> {
        let present = self.0.get(&key);
        if present != expected {
            return Err(present.cloned());
        }
        Ok(match new {
            Some(new) => self.insert(key, new, changes),
            None => self.remove(key, changes),
        })
    }
}

impl<K: Key, V: Value> Collection for Map<K, V> {
    const KIND: &'static str = "smalti map 1";
    type Operation = MapOperation<K, V>;
    type Change = MapChange<K, V>;
    type Item = (K, V);

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<(K, V)>()
    }

    fn apply(
        &mut self,
        operation: MapOperation<K, V>,
        changes: &mut Noted<MapChange<K, V>>,
    ) -> Result<Reply, OutOfBounds> {
        Ok(match operation {
            MapOperation::Insert(key, value) => Reply::of(&self.insert(key, value, changes)),
            MapOperation::Extend(entries) => {
                let before = self.len();
                for (key, value) in entries {
                    self.insert(key, value, changes);
                }
                Reply::of(&((self.len() - before) as u64))
            }
            MapOperation::CompareExchange { key, expected, new } => {
                Reply::of(&self.compare_exchange(key, expected.as_ref(), new, changes))
            }
            MapOperation::Remove(key) => Reply::of(&self.remove(key, changes)),
            MapOperation::RemoveMany(keys) => {
                let before = self.len();
                for key in keys {
                    self.remove(key, changes);
                }
                Reply::of(&((before - self.len()) as u64))
            }
            MapOperation::Clear => {
                let before = self.len();
                if before > 0 {
                    self.0 = im::OrdMap::new();
                    changes.push(|| MapChange::Cleared);
                }
                Reply::of(&(before as u64))
            }
        })
    }

    fn items(&self) -> impl Iterator<Item = impl Serialize> {
        self.0.iter()
    }

    fn put(&mut self, (key, value): (K, V)) -> Result<(), RestoreError> {
        if self.0.get_max().is_some_and(|(last, _)| *last >= key) {
            return Err(malformed("keys are not in ascending order"));
        }
        self.0.insert(key, value);
        Ok(())
    }
}

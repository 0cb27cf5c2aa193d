//! `PriorityQueue`: values by key, and keys by priority.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;

use equivalent::{Comparable, Equivalent};
use serde::{Deserialize, Serialize};

use super::collection::{Collection, Key, OutOfBounds, Reply, Value};
use super::fingerprint::Fingerprint;
use super::history::Noted;
use super::map::is_ordered;
use super::snapshot::malformed;
use crate::protocol::raft::RestoreError;
use crate::wire;

/// What changes are collected in.
type Changes<P, K, V> = Noted<QueueChange<P, K, V>>;

/// A replicated priority queue with two ends: keys, each with a priority and a value, in the order of the priorities, and
/// of the keys where priorities are equal.
///
/// It may have a capacity. When there are more entries than that, those of the lowest priorities go.
///
/// As a value this is what such a queue holds at one moment. A clone costs nothing to speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityQueue<P: Key, K: Key, V: Value> {
    entries: im::OrdMap<K, (P, V)>,
    /// The same keys, by priority.
    order: im::OrdSet<(P, K)>,
    capacity: Option<u64>,
}

impl<P: Key, K: Key, V: Value> PriorityQueue<P, K, V> {
    /// How many keys there are. O(1).
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none. O(1).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many entries it has at most; `None` where there is no limit. O(1).
    #[must_use]
    pub const fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    /// Whether the key is in the queue. O(log n).
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.entries.contains_key(key)
    }

    /// The value of a key. O(log n).
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The priority of a key. O(log n).
    #[must_use]
    pub fn get_priority<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&P>
    where
        K: Borrow<Q>,
    {
        self.entries.get(key).map(|(priority, _)| priority)
    }

    /// The entry of the lowest priority. O(log n).
    #[must_use]
    pub fn get_min(&self) -> Option<(&P, &K, &V)> {
        self.iter_asc().next()
    }

    /// The entry of the highest priority. O(log n).
    #[must_use]
    pub fn get_max(&self) -> Option<(&P, &K, &V)> {
        self.iter_desc().next()
    }

    /// All entries, by ascending priority. O(log n) each.
    pub fn iter_asc(&self) -> impl Iterator<Item = (&P, &K, &V)> {
        self.order.iter().filter_map(|it| self.entry(it))
    }

    /// All entries, by descending priority. O(log n) each.
    pub fn iter_desc(&self) -> impl Iterator<Item = (&P, &K, &V)> {
        self.order.iter().rev().filter_map(|it| self.entry(it))
    }

    fn entry<'a>(&'a self, (priority, key): &'a (P, K)) -> Option<(&'a P, &'a K, &'a V)> {
        // Every key in order has an entry.
        let (_, value) = self.entries.get(key)?;
        Some((priority, key, value))
    }
}

impl<P: Key, K: Key, V: Value> Default for PriorityQueue<P, K, V> {
    fn default() -> Self {
        Self {
            entries: im::OrdMap::new(),
            order: im::OrdSet::new(),
            capacity: None,
        }
    }
}

impl<P: Key, K: Key, V: Value> IntoIterator for PriorityQueue<P, K, V> {
    type Item = (P, K, V);
    type IntoIter = IntoIter<P, K, V>;

    /// All entries, by ascending priority, cloned as they come.
    fn into_iter(self) -> IntoIter<P, K, V> {
        IntoIter {
            order: self.order.into_iter(),
            entries: self.entries,
        }
    }
}

/// The entries of a [`PriorityQueue`], by ascending priority.
pub struct IntoIter<P, K, V> {
    order: im::ordset::ConsumingIter<(P, K), im::shared_ptr::DefaultSharedPtr>,
    entries: im::OrdMap<K, (P, V)>,
}

impl<P: Key, K: Key, V: Value> IntoIter<P, K, V> {
    /// Every key in order has an entry.
    fn entry(&self, (priority, key): (P, K)) -> Option<(P, K, V)> {
        let (_, value) = self.entries.get(&key)?;
        Some((priority, key, value.clone()))
    }
}

impl<P: Key, K: Key, V: Value> Iterator for IntoIter<P, K, V> {
    type Item = (P, K, V);

    fn next(&mut self) -> Option<Self::Item> {
        let place = self.order.next()?;
        self.entry(place)
    }
}

impl<P: Key, K: Key, V: Value> DoubleEndedIterator for IntoIter<P, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let place = self.order.next_back()?;
        self.entry(place)
    }
}

/// What can be done to a [`PriorityQueue`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum QueueOperation<P, K, V> {
    /// Puts an entry.
    Insert(P, K, V),
    /// Puts entries.
    Extend(Vec<(P, K, V)>),
    /// Gives a key another priority.
    UpdatePriority(K, P),
    /// Gives a key another value.
    UpdateValue(K, V),
    /// Gives a key another value, or removes it, where its value is the one expected.
    CompareExchangeValue {
        /// The key.
        key: K,
        /// What its value must be.
        expected: V,
        /// What comes in its place; `None` removes the key.
        new: Option<V>,
    },
    /// Removes a key.
    Remove(K),
    /// Removes keys.
    RemoveKeys(Vec<K>),
    /// Removes the keys whose priorities lie between these.
    RemoveRange(Bound<P>, Bound<P>),
    /// Removes the entry of the lowest priority.
    PopMin,
    /// Removes the entry of the highest priority.
    PopMax,
    /// Sets how many entries there are at most.
    SetCapacity(Option<u64>),
    /// Removes all.
    Clear,
}

/// A change of a [`PriorityQueue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueChange<P, K, V> {
    /// The key has this priority and value now.
    Inserted(P, K, V),
    /// The key is in the queue no longer.
    Removed(K),
    /// The queue is empty now.
    Cleared,
}

/// What an insertion into a [`PriorityQueue`] has put out of its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inserted<P, K, V> {
    /// The priority and the value that the key had before.
    pub former: Option<(P, V)>,
    /// The entry that was given up for the [capacity](PriorityQueue::capacity): it may be the one that was inserted.
    pub evicted: Option<(P, K, V)>,
}

/// A part of a [`PriorityQueue`], as snapshots hold it.
#[derive(Serialize, Deserialize)]
pub enum QueueItem<P, K, V> {
    /// How many entries there are at most. Comes first, if at all.
    Capacity(u64),
    /// An entry.
    Entry(P, K, V),
}

impl<P: Key, K: Key, V: Value> PriorityQueue<P, K, V> {
    fn insert(
        &mut self,
        priority: P,
        key: K,
        value: V,
        changes: &mut Changes<P, K, V>,
    ) -> Option<(P, V)> {
        changes.push(|| inserted(&priority, &key, &value));
        self.put_entry(priority, key, value)
    }

    fn put_entry(&mut self, priority: P, key: K, value: V) -> Option<(P, V)> {
        let former = self.entries.insert(key.clone(), (priority.clone(), value));
        if let Some((former, _)) = &former {
            self.order.remove(&(former.clone(), key.clone()));
        }
        self.order.insert((priority, key));
        former
    }

    /// Gives a key another priority. Its value is moved, not copied: it may be long, and the command that asks for this short.
    fn update_priority(
        &mut self,
        key: K,
        priority: P,
        changes: &mut Changes<P, K, V>,
    ) -> Option<P> {
        let (former, value) = self.entries.remove(&key)?;
        let place = (former, key);
        self.order.remove(&place);
        let (former, key) = place;
        self.insert(priority, key, value, changes);
        Some(former)
    }

    /// Gives a key another value. Its priority, which may be long, stays where it is.
    fn update_value(&mut self, key: &K, new: V, changes: &mut Changes<P, K, V>) -> Option<V> {
        let (priority, value) = self.entries.get_mut(key)?;
        changes.push(|| inserted(priority, key, &new));
        Some(std::mem::replace(value, new))
    }

    fn remove(&mut self, key: &K, changes: &mut Changes<P, K, V>) -> Option<(P, V)> {
        let (priority, value) = self.entries.remove(key)?;
        self.order.remove(&(priority.clone(), key.clone()));
        changes.push(|| QueueChange::Removed(key.clone()));
        Some((priority, value))
    }

    fn pop(&mut self, end: Option<(P, K)>, changes: &mut Changes<P, K, V>) -> Option<(P, K, V)> {
        let (_, key) = end?;
        let (priority, value) = self.remove(&key, changes)?;
        Some((priority, key, value))
    }

    fn pop_min(&mut self, changes: &mut Changes<P, K, V>) -> Option<(P, K, V)> {
        self.pop(self.order.get_min().cloned(), changes)
    }

    /// Removes one entry where there are too many.
    fn evict(&mut self, changes: &mut Changes<P, K, V>) -> Option<(P, K, V)> {
        let is_over = self.capacity.is_some_and(|most| self.len() as u64 > most);
        if is_over { self.pop_min(changes) } else { None }
    }

    /// Removes what there is too much, and gives how many that were.
    fn evict_all(&mut self, changes: &mut Changes<P, K, V>) -> u64 {
        std::iter::from_fn(|| self.evict(changes)).count() as u64
    }

    fn compare_exchange_value(
        &mut self,
        key: &K,
        expected: &V,
        new: Option<V>,
        changes: &mut Changes<P, K, V>,
    ) -> Result<(), Option<V>> {
        match self.entries.get(key) {
            Some((_, present)) if present == expected => {
                match new {
                    Some(new) => drop(self.update_value(key, new, changes)),
                    None => drop(self.remove(key, changes)),
                }
                Ok(())
            }
            present => Err(present.map(|(_, value)| value.clone())),
        }
    }

    fn remove_range(&mut self, range: (Bound<P>, Bound<P>), changes: &mut Changes<P, K, V>) -> u64 {
        if !is_ordered(&range) {
            return 0;
        }
        let (start, end) = &range;
        let range = (edge(start, Ordering::Greater), edge(end, Ordering::Less));
        let places = self.order.range(range);
        let keys: Vec<K> = places.map(|(_, key)| key.clone()).collect();
        for key in &keys {
            self.remove(key, changes);
        }
        keys.len() as u64
    }
}

fn inserted<P: Clone, K: Clone, V: Clone>(
    priority: &P,
    key: &K,
    value: &V,
) -> QueueChange<P, K, V> {
    QueueChange::Inserted(priority.clone(), key.clone(), value.clone())
}

/// A place between those of the keys of one priority and those of other priorities.
struct Edge<'a, P> {
    priority: &'a P,
    /// On which side of the keys of this priority it is.
    side: Ordering,
}

/// Where a range of priorities begins or ends. One that excludes a priority does so at this side of its keys.
fn edge<P>(bound: &Bound<P>, excluding: Ordering) -> Bound<Edge<'_, P>> {
    match bound {
        Bound::Included(priority) => Bound::Included(Edge {
            priority,
            side: excluding.reverse(),
        }),
        Bound::Excluded(priority) => Bound::Included(Edge {
            priority,
            side: excluding,
        }),
        Bound::Unbounded => Bound::Unbounded,
    }
}

impl<P: Ord, K> Equivalent<(P, K)> for Edge<'_, P> {
    fn equivalent(&self, _place: &(P, K)) -> bool {
        false
    }
}

impl<P: Ord, K> Comparable<(P, K)> for Edge<'_, P> {
    fn compare(&self, (priority, _): &(P, K)) -> Ordering {
        self.priority.cmp(priority).then(self.side)
    }
}

impl<P: Key, K: Key, V: Value> Collection for PriorityQueue<P, K, V> {
    const KIND: &'static str = "smalti priority queue 1";
    type Operation = QueueOperation<P, K, V>;
    type Change = QueueChange<P, K, V>;
    type Item = QueueItem<P, K, V>;

    fn fingerprint() -> Fingerprint {
        Fingerprint::of::<(P, K, V)>()
    }

    fn apply(
        &mut self,
        operation: QueueOperation<P, K, V>,
        changes: &mut Changes<P, K, V>,
    ) -> Result<Reply, OutOfBounds> {
        Ok(match operation {
            QueueOperation::Insert(priority, key, value) => {
                let former = self.insert(priority, key, value, changes);
                let evicted = self.evict(changes);
                Reply::of(&Inserted { former, evicted })
            }
            QueueOperation::Extend(entries) => {
                for (priority, key, value) in entries {
                    self.insert(priority, key, value, changes);
                }
                Reply::of(&self.evict_all(changes))
            }
            QueueOperation::UpdatePriority(key, priority) => {
                Reply::of(&self.update_priority(key, priority, changes))
            }
            QueueOperation::UpdateValue(key, value) => {
                Reply::of(&self.update_value(&key, value, changes))
            }
            QueueOperation::CompareExchangeValue { key, expected, new } => {
                Reply::of(&self.compare_exchange_value(&key, &expected, new, changes))
            }
            QueueOperation::Remove(key) => Reply::of(&self.remove(&key, changes)),
            QueueOperation::RemoveKeys(keys) => {
                let keys = keys.iter();
                let removed = keys.filter_map(|key| self.remove(key, changes));
                Reply::of(&(removed.count() as u64))
            }
            QueueOperation::RemoveRange(start, end) => {
                Reply::of(&self.remove_range((start, end), changes))
            }
            QueueOperation::PopMin => Reply::of(&self.pop_min(changes)),
            QueueOperation::PopMax => Reply::of(&self.pop(self.order.get_max().cloned(), changes)),
            QueueOperation::SetCapacity(capacity) => {
                self.capacity = capacity;
                Reply::of(&self.evict_all(changes))
            }
            QueueOperation::Clear => {
                let before = self.len();
                if before > 0 {
                    self.entries = im::OrdMap::new();
                    self.order = im::OrdSet::new();
                    changes.push(|| QueueChange::Cleared);
                }
                Reply::of(&(before as u64))
            }
        })
    }

    /// Other than with the other kinds a change has what the command did not: what else is in the entry, and which it is.
    fn weight(change: &QueueChange<P, K, V>) -> usize {
        let len = match change {
            QueueChange::Inserted(priority, key, value) => {
                wire::encoded_len(&(priority, key, value))
            }
            QueueChange::Removed(key) => wire::encoded_len(key),
            QueueChange::Cleared => return 0,
        };
        len.expect("what was decoded must be encodable")
    }

    fn items(&self) -> impl Iterator<Item = impl Serialize> {
        let capacity = self.capacity.map(QueueItem::Capacity);
        let entries = self.iter_asc();
        let entries = entries.map(|(priority, key, value)| QueueItem::Entry(priority, key, value));
        capacity.into_iter().chain(entries)
    }

    fn put(&mut self, item: QueueItem<P, K, V>) -> Result<(), RestoreError> {
        match item {
            QueueItem::Capacity(capacity) => {
                if self.capacity.is_some() || !self.is_empty() {
                    return Err(malformed("a capacity is not in front"));
                }
                self.capacity = Some(capacity);
            }
            QueueItem::Entry(priority, key, value) => {
                if self.capacity.is_some_and(|most| self.len() as u64 >= most) {
                    return Err(malformed("there are more entries than the capacity allows"));
                }
                let last = self.order.get_max();
                let is_ordered = last.is_none_or(|(p, k)| (p, k) < (&priority, &key));
                if !is_ordered || self.put_entry(priority, key, value).is_some() {
                    return Err(malformed(
                        "entries are not in ascending order, each key once",
                    ));
                }
            }
        }
        Ok(())
    }
}

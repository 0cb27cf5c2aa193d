use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::protocol::collections::{
    Inserted, PriorityQueue, QueueChange, QueueItem, QueueOperation as Operation,
};

type Queue = PriorityQueue<u8, String, u16>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct QueueModel {
    entries: BTreeMap<String, (u8, u16)>,
    capacity: Option<u64>,
}

type Entry = (u8, String, u16);

impl QueueModel {
    /// By ascending priority.
    fn sorted(&self) -> Vec<Entry> {
        let entries = self.entries.iter();
        let mut sorted: Vec<_> = entries.map(|(key, (p, v))| (*p, key.clone(), *v)).collect();
        sorted.sort();
        sorted
    }

    fn remove(&mut self, entry: Option<&Entry>) -> Option<Entry> {
        let entry = entry?;
        self.entries.remove(&entry.1);
        Some(entry.clone())
    }

    fn evict(&mut self) -> Option<Entry> {
        let is_over = self
            .capacity
            .is_some_and(|most| self.entries.len() as u64 > most);
        if is_over {
            self.remove(self.sorted().first())
        } else {
            None
        }
    }

    fn evict_all(&mut self) -> Reply {
        reply(std::iter::from_fn(|| self.evict()).count() as u64)
    }

    fn remove_all(&mut self, goes: impl Fn(&String, u8) -> bool) -> Reply {
        let before = self.entries.len();
        self.entries
            .retain(|key, (priority, _)| !goes(key, *priority));
        reply((before - self.entries.len()) as u64)
    }
}

impl Model for QueueModel {
    type Collection = Queue;

    fn apply(&mut self, operation: Operation<u8, String, u16>) -> Result<Reply, OutOfBounds> {
        Ok(match operation {
            Operation::Insert(priority, key, value) => {
                let former = self.entries.insert(key, (priority, value));
                let evicted = self.evict();
                reply(Inserted { former, evicted })
            }
            Operation::Extend(entries) => {
                let entries = entries.into_iter().map(|(p, key, v)| (key, (p, v)));
                self.entries.extend(entries);
                self.evict_all()
            }
            Operation::UpdatePriority(key, new) => {
                let entry = self.entries.get_mut(&key);
                reply(entry.map(|(priority, _)| std::mem::replace(priority, new)))
            }
            Operation::UpdateValue(key, new) => {
                let entry = self.entries.get_mut(&key);
                reply(entry.map(|(_, value)| std::mem::replace(value, new)))
            }
            Operation::CompareExchangeValue { key, expected, new } => {
                let present = self.entries.get(&key).map(|(_, value)| *value);
                if present != Some(expected) {
                    return Ok(reply(Err::<(), _>(present)));
                }
                match new {
                    Some(new) => self
                        .entries
                        .entry(key)
                        .and_modify(|entry| entry.1 = new)
                        .key()
                        .len(),
                    None => self.entries.remove(&key).map_or(0, |_| 0),
                };
                reply(Ok::<_, Option<u16>>(()))
            }
            Operation::Remove(key) => reply(self.entries.remove(&key)),
            Operation::RemoveKeys(keys) => self.remove_all(|key, _| keys.contains(key)),
            Operation::RemoveRange(start, end) => self.remove_all(|_, priority| {
                let after_start = match start {
                    Bound::Included(start) => start <= priority,
                    Bound::Excluded(start) => start < priority,
                    Bound::Unbounded => true,
                };
                let before_end = match end {
                    Bound::Included(end) => priority <= end,
                    Bound::Excluded(end) => priority < end,
                    Bound::Unbounded => true,
                };
                after_start && before_end
            }),
            Operation::PopMin => reply(self.remove(self.sorted().first())),
            Operation::PopMax => reply(self.remove(self.sorted().last())),
            Operation::SetCapacity(capacity) => {
                self.capacity = capacity;
                self.evict_all()
            }
            Operation::Clear => self.remove_all(|_, _| true),
        })
    }

    fn follow(&mut self, change: QueueChange<u8, String, u16>) {
        match change {
            QueueChange::Inserted(priority, key, value) => {
                self.entries.insert(key, (priority, value));
            }
            QueueChange::Removed(key) => assert!(self.entries.remove(&key).is_some()),
            QueueChange::Cleared => self.entries.clear(),
        }
    }

    fn expected(&self) -> Queue {
        let mut queue = Queue::default();
        for (priority, key, value) in self.sorted() {
            queue.put(QueueItem::Entry(priority, key, value)).unwrap();
        }
        queue
    }
}

fn operations() -> BoxedStrategy<Operation<u8, String, u16>> {
    let (priority, value) = (0..6_u8, 0..3_u16);
    let entry = (priority.clone(), word(), value.clone());
    let bound = prop_oneof![
        priority.clone().prop_map(Bound::Included),
        priority.clone().prop_map(Bound::Excluded),
        Just(Bound::Unbounded),
    ];
    prop_oneof![
        8 => entry.clone().prop_map(|(p, k, v)| Operation::Insert(p, k, v)),
        2 => prop::collection::vec(entry, 0..5).prop_map(Operation::Extend),
        2 => (word(), priority).prop_map(|(k, p)| Operation::UpdatePriority(k, p)),
        2 => (word(), value.clone()).prop_map(|(k, v)| Operation::UpdateValue(k, v)),
        2 => (word(), value.clone(), prop::option::of(value))
            .prop_map(|(key, expected, new)| Operation::CompareExchangeValue { key, expected, new }),
        2 => word().prop_map(Operation::Remove),
        1 => prop::collection::vec(word(), 0..4).prop_map(Operation::RemoveKeys),
        2 => (bound.clone(), bound).prop_map(|(start, end)| Operation::RemoveRange(start, end)),
        2 => Just(Operation::PopMin),
        2 => Just(Operation::PopMax),
        1 => Just(Operation::Clear),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn a_queue_does_what_a_sorted_list_does(steps in steps::<QueueModel>(operations())) {
        check::<QueueModel>(steps)?;
    }
}

#[test]
fn a_queue_that_is_full_gives_up_the_lowest_priorities() {
    let mut machine = Machine::<Queue>::default();
    let insert = |priority, key: &str| Operation::Insert(priority, key.to_owned(), 0_u16);
    let capacity = |most| vec![Operation::SetCapacity(most)];
    let evicted = |entry: Option<(u8, &str)>| {
        let evicted = entry.map(|(priority, key)| (priority, key.to_owned(), 0));
        let former = None;
        Outcome::Applied(vec![reply(Inserted::<u8, String, u16> { former, evicted })])
    };
    let count = |count: u64| Outcome::Applied(vec![reply(count)]);
    let steps = [
        (capacity(Some(2)), count(0)),
        (vec![insert(5, "a")], evicted(None)),
        (vec![insert(7, "b")], evicted(None)),
        (vec![insert(6, "c")], evicted(Some((5, "a")))),
        (vec![insert(1, "d")], evicted(Some((1, "d")))),
        (capacity(Some(1)), count(1)),
        (capacity(None), count(0)),
        (vec![insert(8, "e")], evicted(None)),
    ];
    for (operations, expected) in steps {
        assert_eq!(
            machine.apply(Index(1), &command::<Queue>(&operations)),
            expected
        );
        let chunks = machine.freeze().chunks(1);
        let restored = Frozen::<Queue>::from_chunks(&chunks).unwrap();
        assert_eq!(restored, machine.freeze());
    }
    assert_eq!(machine.contents().len(), 2);
}

static COMPARISONS: AtomicU64 = AtomicU64::new(0);

/// Counts how often it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
struct Counted(u32);

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        COMPARISONS.fetch_add(1, Ordering::Relaxed);
        self.0.cmp(&other.0)
    }
}

#[test]
fn a_range_is_found_without_looking_at_what_is_beside_it() {
    type Queue = PriorityQueue<Counted, u32, ()>;
    let mut machine = Machine::<Queue>::default();
    let entries = (0..10_000).map(|n| (Counted(n), n, ()));
    let fill = Operation::Extend(entries.collect());
    machine.apply(Index(1), &command::<Queue>(&[fill]));
    let bounds = [
        (
            Bound::Included(Counted(5_000)),
            Bound::Excluded(Counted(5_000)),
            0,
        ),
        (
            Bound::Excluded(Counted(10)),
            Bound::Excluded(Counted(12)),
            1,
        ),
        (
            Bound::Included(Counted(9_000)),
            Bound::Included(Counted(9_001)),
            2,
        ),
        (Bound::Unbounded, Bound::Included(Counted(2)), 3),
        (Bound::Excluded(Counted(9_995)), Bound::Unbounded, 4),
    ];
    for (start, end, removed) in bounds {
        let before = COMPARISONS.load(Ordering::Relaxed);
        let remove = Operation::RemoveRange(start, end);
        let outcome = machine.apply(Index(2), &command::<Queue>(&[remove]));
        assert_eq!(outcome, Outcome::Applied(vec![reply(removed as u64)]));
        let comparisons = COMPARISONS.load(Ordering::Relaxed) - before;
        assert!(comparisons < 500, "{comparisons} for {start:?} to {end:?}");
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let entries = [("a", (3, 10)), ("b", (1, 20)), ("c", (3, 30))];
    let model = QueueModel {
        entries: entries.map(|(key, entry)| (key.to_owned(), entry)).into(),
        capacity: None,
    };
    let queue = model.expected();
    assert_eq!(
        (queue.len(), queue.is_empty(), queue.capacity()),
        (3, false, None)
    );
    assert_eq!(
        (queue.get("a"), queue.get_priority("a")),
        (Some(&10), Some(&3))
    );
    assert!(queue.contains_key("b") && queue.get("d").is_none());
    assert_eq!(queue.get_min(), Some((&1, &"b".to_owned(), &20)));
    assert_eq!(queue.get_max(), Some((&3, &"c".to_owned(), &30)));
    assert!(queue.iter_asc().map(|(_, key, _)| key).eq(["b", "a", "c"]));
    assert!(queue.iter_desc().map(|(_, key, _)| key).eq(["c", "a", "b"]));
    assert!(
        queue
            .into_iter()
            .rev()
            .map(|(_, key, _)| key)
            .eq(["c", "a", "b"])
    );
}

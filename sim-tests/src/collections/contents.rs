//! Contents as plain values of the standard library, and what changes make of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use smalti_core::collections::{
    Cell, Collection, Map, MapChange, Once, PriorityQueue, QueueChange, Set, SetChange, Vec,
    VecChange,
};

/// What is used of each kind.
pub(super) type Numbers = Map<u64, u64>;
pub(super) type Value = Cell<u64>;
pub(super) type Decision = Once<u64>;
pub(super) type List = Vec<u64>;
pub(super) type Queue = PriorityQueue<u64, u64, u64>;
pub(super) type Members = Set<u64>;

/// Keys of the map that are only ever written together, to the same value.
pub(super) const TWINS: [u64; 2] = [10, 11];

/// A kind of collection whose changes can be followed.
pub(super) trait Contents: Collection {
    /// The contents as a plain value.
    type Plain: Clone + Default + PartialEq + Debug;

    fn plain(&self) -> Self::Plain;

    /// What a change makes of contents, and which item it has moved.
    ///
    /// # Errors
    /// Where no write can have made that change.
    fn follow(contents: &mut Self::Plain, change: Self::Change) -> Result<Moved, String>;

    /// Whether these can be the contents of any moment.
    ///
    /// # Errors
    /// Why not.
    fn look(&self) -> Result<(), String> {
        Ok(())
    }

    /// The items, where it is a collection of items.
    fn items_in(contents: &Self::Plain) -> std::vec::Vec<u64> {
        let _ = contents;
        std::vec::Vec::new()
    }
}

/// What became of items by a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Nothing,
    Came(u64),
    /// It went, and was then the first, the last, or both.
    Went {
        item: u64,
        is_first: bool,
        is_last: bool,
    },
    /// They went at once.
    Swept(std::vec::Vec<u64>),
    /// The items at these places were exchanged.
    Swapped([u64; 2]),
}

impl Contents for Numbers {
    type Plain = BTreeMap<u64, u64>;

    fn plain(&self) -> Self::Plain {
        self.iter().map(|(key, value)| (*key, *value)).collect()
    }

    fn follow(contents: &mut Self::Plain, change: MapChange<u64, u64>) -> Result<Moved, String> {
        match change {
            MapChange::Inserted(key, value) => drop(contents.insert(key, value)),
            MapChange::Removed(key) => {
                let removed = contents.remove(&key);
                removed.ok_or(format!("key {key} was removed and is not there"))?;
            }
            MapChange::Cleared => contents.clear(),
        }
        Ok(Moved::Nothing)
    }

    fn look(&self) -> Result<(), String> {
        let [one, other] = TWINS.map(|key| self.get(&key));
        if one == other {
            return Ok(());
        }
        Err(format!(
            "keys that are written together have {one:?} and {other:?}"
        ))
    }
}

impl Contents for Members {
    type Plain = BTreeSet<u64>;

    fn plain(&self) -> Self::Plain {
        self.iter().copied().collect()
    }

    fn follow(contents: &mut Self::Plain, change: SetChange<u64>) -> Result<Moved, String> {
        let is_right = match change {
            SetChange::Inserted(item) => contents.insert(item),
            SetChange::Removed(item) => contents.remove(&item),
            SetChange::Cleared => {
                contents.clear();
                true
            }
        };
        if is_right {
            Ok(Moved::Nothing)
        } else {
            Err(format!("{change:?} changes nothing"))
        }
    }
}

impl Contents for Value {
    type Plain = Option<u64>;

    fn plain(&self) -> Self::Plain {
        self.read().copied()
    }

    fn follow(contents: &mut Self::Plain, change: Option<u64>) -> Result<Moved, String> {
        *contents = change;
        Ok(Moved::Nothing)
    }
}

impl Contents for Decision {
    type Plain = Option<u64>;

    fn plain(&self) -> Self::Plain {
        self.read().copied()
    }

    fn follow(contents: &mut Self::Plain, change: u64) -> Result<Moved, String> {
        match contents.replace(change) {
            None => Ok(Moved::Nothing),
            Some(before) => Err(format!("{change} was written after {before}")),
        }
    }
}

impl Contents for List {
    type Plain = std::vec::Vec<u64>;

    fn plain(&self) -> Self::Plain {
        self.iter().copied().collect()
    }

    fn follow(contents: &mut Self::Plain, change: VecChange<u64>) -> Result<Moved, String> {
        let place = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        match change {
            VecChange::Inserted(at, item) if place(at) <= contents.len() => {
                contents.insert(place(at), item);
                Ok(Moved::Came(item))
            }
            VecChange::Removed(at) if place(at) < contents.len() => {
                let (at, last) = (place(at), contents.len() - 1);
                Ok(Moved::Went {
                    item: contents.remove(at),
                    is_first: at == 0,
                    is_last: at == last,
                })
            }
            VecChange::Swapped(a, b)
                if a != b && place(a) < contents.len() && place(b) < contents.len() =>
            {
                contents.swap(place(a), place(b));
                Ok(Moved::Swapped([a, b]))
            }
            VecChange::Truncated(len) if place(len) < contents.len() => {
                Ok(Moved::Swept(contents.split_off(place(len))))
            }
            other => Err(format!(
                "{other:?} of {} items is no change",
                contents.len()
            )),
        }
    }

    fn items_in(contents: &Self::Plain) -> std::vec::Vec<u64> {
        contents.clone()
    }
}

impl Contents for Queue {
    /// Priority and value by key.
    type Plain = BTreeMap<u64, (u64, u64)>;

    fn plain(&self) -> Self::Plain {
        let entries = self.iter_asc();
        entries
            .map(|(priority, key, value)| (*key, (*priority, *value)))
            .collect()
    }

    fn follow(
        contents: &mut Self::Plain,
        change: QueueChange<u64, u64, u64>,
    ) -> Result<Moved, String> {
        match change {
            QueueChange::Inserted(priority, key, value) => {
                Ok(match contents.insert(key, (priority, value)) {
                    None => Moved::Came(key),
                    Some(_) => Moved::Nothing,
                })
            }
            QueueChange::Removed(key) => {
                let removed = contents.remove(&key);
                let (priority, _) =
                    removed.ok_or(format!("key {key} was removed and is not there"))?;
                let others = || contents.iter().map(|(other, (of, _))| (*of, *other));
                Ok(Moved::Went {
                    item: key,
                    is_first: others().all(|other| (priority, key) < other),
                    is_last: others().all(|other| (priority, key) > other),
                })
            }
            QueueChange::Cleared if contents.is_empty() => {
                Err("a queue without entries was cleared".to_owned())
            }
            QueueChange::Cleared => {
                let keys = std::mem::take(contents).into_keys();
                Ok(Moved::Swept(keys.collect()))
            }
        }
    }

    fn look(&self) -> Result<(), String> {
        let order: std::vec::Vec<_> = self.iter_asc().map(|(p, key, _)| (*p, *key)).collect();
        let is_whole = order.len() == self.len()
            && self.capacity().is_none_or(|most| self.len() as u64 <= most)
            && order
                .iter()
                .all(|(p, key)| self.get_priority(key) == Some(p));
        if is_whole
            && order.is_sorted()
            && self
                .iter_desc()
                .map(|(p, key, _)| (*p, *key))
                .eq(order.iter().rev().copied())
        {
            return Ok(());
        }
        Err(format!(
            "the entries are not in order, or more than {:?}: {order:?}",
            self.capacity()
        ))
    }

    fn items_in(contents: &Self::Plain) -> std::vec::Vec<u64> {
        contents.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_that_nothing_can_have_made_are_noticed() {
        let mut map = BTreeMap::from([(1, 5)]);
        assert!(Numbers::follow(&mut map, MapChange::Removed(2)).is_err());
        let mut set = BTreeSet::from([1]);
        assert!(Members::follow(&mut set, SetChange::Inserted(1)).is_err());
        assert!(Members::follow(&mut set, SetChange::Removed(2)).is_err());
        assert!(Decision::follow(&mut Some(3), 4).is_err());
        let mut list = vec![1, 2];
        assert!(List::follow(&mut list, VecChange::Inserted(3, 9)).is_err());
        assert!(List::follow(&mut list, VecChange::Removed(2)).is_err());
        assert!(List::follow(&mut list, VecChange::Truncated(2)).is_err());
        assert!(List::follow(&mut list, VecChange::Swapped(1, 1)).is_err());
        assert!(List::follow(&mut list, VecChange::Swapped(1, 2)).is_err());
        assert!(Queue::follow(&mut BTreeMap::new(), QueueChange::Removed(1)).is_err());
        assert!(Queue::follow(&mut BTreeMap::new(), QueueChange::Cleared).is_err());
    }

    #[test]
    fn of_what_goes_it_is_told_at_which_end_it_was() {
        let went = |item, is_first, is_last| Moved::Went {
            item,
            is_first,
            is_last,
        };
        let mut list = vec![7, 8, 9];
        let mut remove = |at| List::follow(&mut list, VecChange::Removed(at));
        assert_eq!(remove(1), Ok(went(8, false, false)));
        assert_eq!(remove(1), Ok(went(9, false, true)));
        assert_eq!(remove(0), Ok(went(7, true, true)));
        let mut queue = BTreeMap::from([(1, (5, 0)), (2, (3, 0)), (3, (5, 0))]);
        let mut remove = |key| Queue::follow(&mut queue, QueueChange::Removed(key));
        assert_eq!(remove(1), Ok(went(1, false, false)));
        assert_eq!(remove(2), Ok(went(2, true, false)));
        assert_eq!(remove(3), Ok(went(3, true, true)));
    }

    #[test]
    fn of_what_goes_at_once_it_is_told_what_it_was() {
        let mut list = vec![7, 8, 9];
        let swapped = List::follow(&mut list, VecChange::Swapped(2, 0));
        assert_eq!(
            (swapped, &list),
            (Ok(Moved::Swapped([2, 0])), &vec![9, 8, 7])
        );
        let swept = List::follow(&mut list, VecChange::Truncated(1));
        assert_eq!((swept, &list), (Ok(Moved::Swept(vec![8, 7])), &vec![9]));
        let mut queue = BTreeMap::from([(1, (5, 0)), (2, (3, 0))]);
        let swept = Queue::follow(&mut queue, QueueChange::Cleared);
        assert_eq!((swept, queue.len()), (Ok(Moved::Swept(vec![1, 2])), 0));
    }
}

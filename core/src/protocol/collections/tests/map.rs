use std::collections::BTreeMap;

use super::*;
use crate::protocol::collections::{Map, MapChange, MapOperation as Operation};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct MapModel(BTreeMap<String, u16>);

impl Model for MapModel {
    type Collection = Map<String, u16>;

    fn apply(&mut self, operation: Operation<String, u16>) -> Result<Reply, OutOfBounds> {
        let before = self.0.len();
        Ok(match operation {
            Operation::Insert(key, value) => reply(self.0.insert(key, value)),
            Operation::Extend(entries) => {
                self.0.extend(entries);
                reply((self.0.len() - before) as u64)
            }
            Operation::CompareExchange { key, expected, new } => {
                let present = self.0.get(&key).copied();
                if present != expected {
                    return Ok(reply(Err::<Option<u16>, _>(present)));
                }
                let former = match new {
                    Some(new) => self.0.insert(key, new),
                    None => self.0.remove(&key),
                };
                reply(Ok::<_, Option<u16>>(former))
            }
            Operation::Remove(key) => reply(self.0.remove(&key)),
            Operation::RemoveMany(keys) => {
                self.0.retain(|key, _| !keys.contains(key));
                reply((before - self.0.len()) as u64)
            }
            Operation::Clear => {
                self.0.clear();
                reply(before as u64)
            }
        })
    }

    fn follow(&mut self, change: MapChange<String, u16>) {
        match change {
            MapChange::Inserted(key, value) => drop(self.0.insert(key, value)),
            MapChange::Removed(key) => assert!(self.0.remove(&key).is_some()),
            MapChange::Cleared => self.0.clear(),
        }
    }

    fn expected(&self) -> Map<String, u16> {
        let mut map = Map::default();
        self.0
            .clone()
            .into_iter()
            .for_each(|entry| map.put(entry).unwrap());
        map
    }
}

fn operations() -> BoxedStrategy<Operation<String, u16>> {
    let value = 0..3_u16;
    let maybe = prop::option::of(value.clone());
    let entries = prop::collection::vec((word(), value.clone()), 0..5);
    prop_oneof![
        6 => (word(), value).prop_map(|(key, value)| Operation::Insert(key, value)),
        2 => entries.prop_map(Operation::Extend),
        3 => (word(), maybe.clone(), maybe)
            .prop_map(|(key, expected, new)| Operation::CompareExchange { key, expected, new }),
        3 => word().prop_map(Operation::Remove),
        1 => prop::collection::vec(word(), 0..4).prop_map(Operation::RemoveMany),
        1 => Just(Operation::Clear),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn a_map_does_what_a_b_tree_map_does(steps in steps::<MapModel>(operations())) {
        check::<MapModel>(steps)?;
    }

    #[test]
    fn ranges_are_those_of_a_b_tree_map(keys in prop::collection::btree_set(0..50_u8, 0..30), a in 0..50_u8, b in 0..50_u8) {
        let mut map = Map::default();
        keys.iter().for_each(|key| map.put((*key, ())).unwrap());
        let in_range = |start, end| map.range((start, end)).map(|(key, ())| *key).collect::<Vec<_>>();
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let is_in = |key: &&u8, from: bool, to: bool| from && to && keys.contains(*key);
        let expect = |holds: &dyn Fn(u8) -> bool| {
            keys.iter().filter(|key| is_in(key, true, holds(**key))).copied().collect::<Vec<_>>()
        };
        prop_assert_eq!(in_range(Included(a), Included(b)), expect(&|key| a <= key && key <= b));
        prop_assert_eq!(in_range(Excluded(a), Excluded(b)), expect(&|key| a < key && key < b));
        prop_assert_eq!(in_range(Included(a), Excluded(b)), expect(&|key| a <= key && key < b));
        prop_assert_eq!(in_range(Unbounded, Included(b)), expect(&|key| key <= b));
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let mut map = Map::default();
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        map.put((key.to_owned(), value)).unwrap();
    }
    assert_eq!((map.len(), map.is_empty()), (3, false));
    assert_eq!((map.get("b"), map.get("d")), (Some(&2), None));
    assert!(map.contains_key("a") && !map.contains_key("d"));
    assert!(map.keys().eq(["a", "b", "c"]) && map.values().eq(&[1, 2, 3]));
    assert!(map.iter().rev().map(|(_, value)| *value).eq([3, 2, 1]));
    assert!(map.into_iter().map(|(_, value)| value).eq([1, 2, 3]));
}

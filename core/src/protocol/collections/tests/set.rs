use std::collections::BTreeSet;

use super::*;
use crate::protocol::collections::{Key, Set, SetChange, SetOperation as Operation};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SetModel(BTreeSet<String>);

impl Model for SetModel {
    type Collection = Set<String>;

    fn apply(&mut self, operation: Operation<String>) -> Result<Reply, OutOfBounds> {
        let before = self.0.len();
        Ok(match operation {
            Operation::Insert(item) => reply(self.0.insert(item)),
            Operation::Extend(items) => {
                self.0.extend(items);
                reply((self.0.len() - before) as u64)
            }
            Operation::Remove(item) => reply(self.0.remove(&item)),
            Operation::RemoveMany(items) => {
                self.0.retain(|item| !items.contains(item));
                reply((before - self.0.len()) as u64)
            }
            Operation::Clear => {
                self.0.clear();
                reply(before as u64)
            }
        })
    }

    fn follow(&mut self, change: SetChange<String>) {
        match change {
            SetChange::Inserted(item) => assert!(self.0.insert(item)),
            SetChange::Removed(item) => assert!(self.0.remove(&item)),
            SetChange::Cleared => self.0.clear(),
        }
    }

    fn expected(&self) -> Set<String> {
        of(self.0.clone())
    }
}

fn of<T: Key>(items: BTreeSet<T>) -> Set<T> {
    let mut set = Set::default();
    items.into_iter().for_each(|item| set.put(item).unwrap());
    set
}

fn operations() -> BoxedStrategy<Operation<String>> {
    prop_oneof![
        6 => word().prop_map(Operation::Insert),
        2 => prop::collection::vec(word(), 0..5).prop_map(Operation::Extend),
        3 => word().prop_map(Operation::Remove),
        1 => prop::collection::vec(word(), 0..4).prop_map(Operation::RemoveMany),
        1 => Just(Operation::Clear),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn a_set_does_what_a_b_tree_set_does(steps in steps::<SetModel>(operations())) {
        check::<SetModel>(steps)?;
    }

    #[test]
    fn subsets_are_those_of_b_tree_sets(a in prop::collection::btree_set(0..6_u8, 0..6), b in prop::collection::btree_set(0..6_u8, 0..6)) {
        prop_assert_eq!(of(a.clone()).is_subset(&of(b.clone())), a.is_subset(&b));
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let set = of(BTreeSet::from(["a".to_owned(), "b".to_owned()]));
    assert_eq!((set.len(), set.is_empty()), (2, false));
    assert!(set.contains("a") && !set.contains("c"));
    assert!(set.iter().eq(["a", "b"]));
    assert!(set.into_iter().eq(["a", "b"]));
}

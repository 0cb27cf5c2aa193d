use super::*;
use crate::protocol::collections::{Vec as Items, VecChange, VecOperation as Operation};

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct VecModel(Vec<u16>);

impl VecModel {
    fn check(&self, index: u64, end: usize) -> Result<usize, OutOfBounds> {
        let len = self.0.len() as u64;
        if index < end as u64 {
            Ok(index as usize)
        } else {
            Err(OutOfBounds { index, len })
        }
    }
}

impl Model for VecModel {
    type Collection = Items<u16>;

    fn apply(&mut self, operation: Operation<u16>) -> Result<Reply, OutOfBounds> {
        let len = self.0.len();
        Ok(match operation {
            Operation::PushBack(item) => {
                self.0.push(item);
                reply(len as u64)
            }
            Operation::PushFront(item) => {
                self.0.insert(0, item);
                reply(())
            }
            Operation::PopBack => reply(self.0.pop()),
            Operation::PopFront => reply((len > 0).then(|| self.0.remove(0))),
            Operation::Insert(index, item) => {
                let place = self.check(index, len + 1)?;
                self.0.insert(place, item);
                reply(())
            }
            Operation::Remove(index) => {
                let place = self.check(index, len)?;
                reply(self.0.remove(place))
            }
            Operation::Swap(a, b) => {
                let (a, b) = (self.check(a, len)?, self.check(b, len)?);
                self.0.swap(a, b);
                reply(())
            }
            Operation::Truncate(most) => {
                self.0.truncate(usize::try_from(most).unwrap_or(usize::MAX));
                reply((len - self.0.len()) as u64)
            }
            Operation::Extend(items) => {
                self.0.extend(items);
                reply(len as u64)
            }
            Operation::Clear => {
                self.0.clear();
                reply(len as u64)
            }
        })
    }

    fn follow(&mut self, change: VecChange<u16>) {
        match change {
            VecChange::Inserted(index, item) => self.0.insert(index as usize, item),
            VecChange::Removed(index) => drop(self.0.remove(index as usize)),
            VecChange::Swapped(a, b) => self.0.swap(a as usize, b as usize),
            VecChange::Truncated(len) => self.0.truncate(len as usize),
        }
    }

    fn expected(&self) -> Items<u16> {
        let mut items = Items::default();
        self.0.iter().for_each(|item| items.put(*item).unwrap());
        items
    }
}

fn operations() -> BoxedStrategy<Operation<u16>> {
    let item = 0..300_u16;
    // Most lie in it, some beyond, few far beyond.
    let index = prop_oneof![12 => 0..8_u64, 2 => 0..60_u64, 1 => Just(u64::MAX)];
    prop_oneof![
        6 => item.clone().prop_map(Operation::PushBack),
        3 => item.clone().prop_map(Operation::PushFront),
        2 => Just(Operation::PopBack),
        2 => Just(Operation::PopFront),
        4 => (index.clone(), item.clone()).prop_map(|(index, item)| Operation::Insert(index, item)),
        2 => index.clone().prop_map(Operation::Remove),
        2 => (index.clone(), index.clone()).prop_map(|(a, b)| Operation::Swap(a, b)),
        1 => index.prop_map(Operation::Truncate),
        2 => prop::collection::vec(item, 0..40).prop_map(Operation::Extend),
        1 => Just(Operation::Clear),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn a_vec_does_what_a_vec_does(steps in steps::<VecModel>(operations())) {
        check::<VecModel>(steps)?;
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let items = VecModel(vec![3, 1, 4, 1]).expected();
    assert_eq!((items.len(), items.is_empty()), (4, false));
    assert_eq!((items.front(), items.back()), (Some(&3), Some(&1)));
    assert_eq!((items.get(2), items.get(4)), (Some(&4), None));
    assert_eq!((items.index_of(&1), items.index_of(&9)), (Some(1), None));
    assert!(items.contains(&4) && !items.contains(&9));
    assert!(items.iter().rev().eq(&[1, 4, 1, 3]));
    assert!(items.into_iter().eq([3, 1, 4, 1]));
}

use super::*;
use crate::protocol::collections::{Cell, CellOperation, Once, OnceOperation};

#[derive(Clone, Debug, Default, PartialEq)]
struct CellModel(Option<u16>);

impl Model for CellModel {
    type Collection = Cell<u16>;

    fn apply(&mut self, operation: CellOperation<u16>) -> Result<Reply, OutOfBounds> {
        Ok(match operation {
            CellOperation::Write(new) => reply(std::mem::replace(&mut self.0, new)),
            CellOperation::CompareExchange { expected, new } if self.0 == expected => {
                reply(Ok::<_, Option<u16>>(std::mem::replace(&mut self.0, new)))
            }
            CellOperation::CompareExchange { .. } => reply(Err::<Option<u16>, _>(self.0)),
        })
    }

    fn follow(&mut self, change: Option<u16>) {
        self.0 = change;
    }

    fn expected(&self) -> Cell<u16> {
        let mut cell = Cell::default();
        self.0
            .into_iter()
            .for_each(|value| cell.put(value).unwrap());
        cell
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct OnceModel(Option<u16>);

impl Model for OnceModel {
    type Collection = Once<u16>;

    fn apply(
        &mut self,
        OnceOperation::Write(value): OnceOperation<u16>,
    ) -> Result<Reply, OutOfBounds> {
        Ok(reply(match self.0 {
            Some(winner) => Err(winner),
            None => {
                self.0 = Some(value);
                Ok(())
            }
        }))
    }

    fn follow(&mut self, change: u16) {
        assert_eq!(self.0.replace(change), None, "it is written once");
    }

    fn expected(&self) -> Once<u16> {
        let mut once = Once::default();
        self.0
            .into_iter()
            .for_each(|value| once.put(value).unwrap());
        once
    }
}

fn of_cell() -> BoxedStrategy<CellOperation<u16>> {
    let value = prop::option::of(0..3_u16);
    prop_oneof![
        value.clone().prop_map(CellOperation::Write),
        (value.clone(), value)
            .prop_map(|(expected, new)| CellOperation::CompareExchange { expected, new }),
    ]
    .boxed()
}

proptest! {
    #[test]
    fn a_cell_does_what_an_option_does(steps in steps::<CellModel>(of_cell())) {
        check::<CellModel>(steps)?;
    }

    #[test]
    fn of_all_writes_the_first_decides(steps in steps::<OnceModel>((0..9_u16).prop_map(OnceOperation::Write).boxed())) {
        check::<OnceModel>(steps)?;
    }
}

#[test]
fn what_is_read_is_what_was_written() {
    let (cell, once) = (CellModel(Some(7)).expected(), OnceModel(Some(7)).expected());
    assert_eq!((cell.read(), cell.is_empty()), (Some(&7), false));
    assert_eq!((once.read(), once.is_empty()), (Some(&7), false));
    assert!(Cell::<u16>::default().is_empty() && Once::<u16>::default().is_empty());
}

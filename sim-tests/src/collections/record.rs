//! What all hosts of a run did with one collection, and saw of it.

use std::collections::BTreeMap;

use smalti_core::collections::View;
use smalti_core::groups::{Incarnation, Index, Version};

use super::contents::Contents;
use super::items::Items;
use super::slots::Slots;
use super::views::Views;
use super::world::reaches;

/// How far each life of a collection was acknowledged.
pub(super) type Acknowledged = BTreeMap<Incarnation, Index>;

/// A record of one collection.
pub(super) struct Record<C: Contents> {
    pub(super) views: Views<C::Plain>,
    pub(super) slots: Slots,
    pub(super) items: Items,
    pub(super) acknowledged: Acknowledged,
    /// The same at the last step: hosts run one after the other, though their clocks show one time.
    pub(super) acknowledged_before: Acknowledged,
    /// Up to where each host got a write and a read through in the end.
    pub(super) settled: BTreeMap<usize, Version>,
    /// What each host shows in the end.
    pub(super) shown: BTreeMap<usize, (Version, C::Plain)>,
}

impl<C: Contents> Default for Record<C> {
    fn default() -> Self {
        Self {
            views: Views::default(),
            slots: Slots::default(),
            items: Items::default(),
            acknowledged: Acknowledged::new(),
            acknowledged_before: Acknowledged::new(),
            settled: BTreeMap::new(),
            shown: BTreeMap::new(),
        }
    }
}

impl<C: Contents> Record<C> {
    /// A step of the simulation is over.
    pub(super) fn tick(&mut self) {
        self.acknowledged_before.clone_from(&self.acknowledged);
    }

    pub(super) fn acknowledge(&mut self, version: Version) {
        let index = self.acknowledged.entry(version.incarnation).or_default();
        *index = version.index.max(*index);
    }

    /// Notes what a view shows.
    pub(super) fn look(&mut self, view: &View<C>) -> Result<(), String> {
        view.look()?;
        match view.version() {
            Some(version) => self.views.note(version, &view.plain()),
            None => Ok(()),
        }
    }
}

/// Whether what is seen at `version` has all that was acknowledged in its life.
pub(super) fn is_fresh(version: Version, acknowledged: &Acknowledged) -> Result<(), String> {
    let behind = acknowledged.iter().find(|(incarnation, index)| {
        let acknowledged = Version {
            incarnation: **incarnation,
            index: **index,
        };
        !reaches(version, acknowledged)
    });
    match behind {
        None => Ok(()),
        Some((_, index)) => Err(format!(
            "{version:?} is shown, and {index} was acknowledged before it was asked for"
        )),
    }
}

/// The version of so many entries of a life, for tests.
#[cfg(test)]
pub(super) fn version(life: u8, index: u64) -> Version {
    Version {
        incarnation: Incarnation(smalti_core::Digest::from_bytes([life; 32])),
        index: Index(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_something_acknowledged_is_not_fresh() {
        let acknowledged = [version(1, 5), version(2, 9)].map(|it| (it.incarnation, it.index));
        let acknowledged = Acknowledged::from(acknowledged);
        is_fresh(version(1, 5), &acknowledged).unwrap();
        is_fresh(version(1, 4), &acknowledged).unwrap_err();
    }
}

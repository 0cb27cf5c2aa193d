//! What a store holds, in memory: the reference for all stores, and the store of groups that keep nothing.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::entry::Entry;
use super::outline::Outline;
use super::store::{HardState, Recovered, Snapshot, Storage, StorageError, Write};
use super::types::Index;
use crate::id::GroupId;

/// What a store holds for one group.
///
/// A clone shares commands and chunks, and copies the rest. A simulated disk is one of these with all that
/// is durable, and the writes that are not yet: after a crash the first few of them are carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreImage {
    outline: Outline,
    hard_state: Option<HardState>,
    snapshot: Option<Snapshot>,
    staged: BTreeMap<u32, Bytes>,
    entries: VecDeque<Entry>,
}

impl StoreImage {
    /// Carries out `write`, field by field in their order.
    ///
    /// # Errors
    /// [`StorageError::Contradiction`], as [`Outline::carry_out`] says; nothing has changed then.
    pub fn carry_out(&mut self, write: Write) -> Result<(), StorageError> {
        let mut outline = self.outline.clone();
        outline.carry_out(&write)?;
        if write.reset {
            self.entries.clear();
            self.staged.clear();
            self.snapshot = None;
            self.outline = Outline::default();
        }
        self.hard_state = write.hard_state.or(self.hard_state);
        if let Some(chunk) = write.staged {
            if self.outline.staged() != Some(chunk.position) {
                self.staged.clear();
            }
            self.staged.insert(chunk.number, chunk.bytes);
        }
        if let Some(manifest) = write.snapshot {
            // All of them are there: the outline has been asked.
            let staged = std::mem::take(&mut self.staged).into_values();
            let chunks = staged.take(manifest.chunks.len()).collect();
            self.snapshot = Some(Snapshot { manifest, chunks });
        }
        if write.drop_log {
            self.entries.clear();
        }
        if let Some(through) = write.compact_through {
            let dropped = self.entries.partition_point(|entry| entry.index <= through);
            self.entries.drain(..dropped);
        }
        if let Some(first) = write.entries.first().map(|entry| entry.index) {
            let kept = self.entries.partition_point(|entry| entry.index < first);
            self.entries.truncate(kept);
            self.entries.extend(write.entries);
        }
        self.outline = outline;
        Ok(())
    }

    /// What a store that holds this finds when it is opened; `None` where nothing was ever written.
    #[must_use]
    pub fn recovered(&self) -> Option<Recovered> {
        Some(Recovered {
            hard_state: self.hard_state?,
            snapshot: self.snapshot.clone(),
            entries: self.entries.iter().cloned().collect(),
        })
    }

    /// Forgets what is staged, as a store does that is opened anew.
    pub fn forget_staged(&mut self) {
        self.staged.clear();
        self.outline.forget_staged();
    }

    /// Where log and snapshots begin and end.
    #[must_use]
    pub const fn outline(&self) -> &Outline {
        &self.outline
    }

    /// The entry at `index`, where the log has it.
    #[must_use]
    pub fn entry(&self, index: Index) -> Option<&Entry> {
        let first = self.entries.front()?.index.0;
        self.entries.get(index.0.checked_sub(first)? as usize)
    }
}

impl From<Recovered> for StoreImage {
    fn from(found: Recovered) -> Self {
        let first = found.entries.first().map(|entry| entry.index);
        let last = found.entries.last().map(|entry| entry.index);
        let snapshot = found.snapshot.as_ref();
        Self {
            outline: Outline::recovered(
                first.zip(last),
                snapshot.map(|snapshot| snapshot.manifest.position.index),
            ),
            hard_state: Some(found.hard_state),
            snapshot: found.snapshot,
            staged: BTreeMap::new(),
            entries: found.entries.into(),
        }
    }
}

/// A store that is gone with the process: that of groups whose members are other ones after a restart.
///
/// Commands and chunks are shared with whoever wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InMemoryStorage {
    groups: BTreeMap<GroupId, StoreImage>,
}

impl InMemoryStorage {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The groups that something was written for, and what is held for each.
    pub fn images(&self) -> impl Iterator<Item = (&GroupId, &StoreImage)> {
        self.groups.iter()
    }
}

impl Storage for InMemoryStorage {
    fn load(&mut self, group: &GroupId) -> Result<Option<Recovered>, StorageError> {
        Ok(self.groups.get(group).and_then(StoreImage::recovered))
    }

    fn write(&mut self, group: &GroupId, write: Write) -> Result<(), StorageError> {
        if write.is_empty() {
            return Ok(());
        }
        self.groups.entry(*group).or_default().carry_out(write)
    }

    fn sync(&mut self) -> Result<(), StorageError> {
        Ok(())
    }

    fn forget(&mut self, group: &GroupId) -> Result<(), StorageError> {
        self.groups.remove(group);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::raft::test_samples as samples;

    /// An image with entries 1 to 6 and a snapshot at 3 of two chunks.
    fn began() -> StoreImage {
        let mut image = StoreImage::default();
        let writes = [
            Write {
                hard_state: Some(samples::hard_state(1)),
                entries: samples::entries(1..=6, 1),
                ..Write::default()
            },
            Write {
                staged: Some(samples::chunk(3, 0)),
                ..Write::default()
            },
            Write {
                staged: Some(samples::chunk(3, 1)),
                snapshot: Some(samples::manifest(3, 2)),
                ..Write::default()
            },
        ];
        for write in writes {
            assert_eq!(image.carry_out(write), Ok(()));
        }
        image
    }

    #[test]
    fn an_image_holds_what_was_written() {
        let found = began().recovered().unwrap();
        assert_eq!(found.hard_state, samples::hard_state(1));
        assert_eq!(found.entries, samples::entries(1..=6, 1));
        let snapshot = found.snapshot.unwrap();
        assert_eq!(snapshot.manifest, samples::manifest(3, 2));
        let chunks = [samples::chunk(3, 0).bytes, samples::chunk(3, 1).bytes];
        assert_eq!(snapshot.chunks, chunks);
        assert_eq!(StoreImage::default().recovered(), None);
    }

    #[test]
    fn fields_are_carried_out_in_their_order() {
        let snapshot = Some(samples::manifest(9, 1));
        let table: [(&str, Write, &[u64], Option<u64>); 5] = [
            (
                "reset comes before all else",
                Write {
                    reset: true,
                    staged: Some(samples::chunk(9, 0)),
                    snapshot: snapshot.clone(),
                    entries: samples::entries(10..=10, 2),
                    ..Write::default()
                },
                &[10],
                Some(9),
            ),
            (
                "a chunk is staged before its manifest, the log dropped before entries are put",
                Write {
                    staged: Some(samples::chunk(9, 0)),
                    snapshot,
                    drop_log: true,
                    entries: samples::entries(10..=11, 2),
                    ..Write::default()
                },
                &[10, 11],
                Some(9),
            ),
            (
                "what is compacted is measured by the snapshot before the write's entries",
                Write {
                    compact_through: Some(Index(2)),
                    entries: samples::entries(5..=5, 2),
                    ..Write::default()
                },
                &[3, 4, 5],
                Some(3),
            ),
            (
                "all may be compacted and the log go on",
                Write {
                    staged: Some(samples::chunk(6, 0)),
                    snapshot: Some(samples::manifest(6, 1)),
                    compact_through: Some(Index(6)),
                    entries: samples::entries(7..=7, 2),
                    ..Write::default()
                },
                &[7],
                Some(6),
            ),
            ("nothing", Write::default(), &[1, 2, 3, 4, 5, 6], Some(3)),
        ];
        for (name, write, indexes, snapshot) in table {
            let mut image = began();
            assert_eq!(image.carry_out(write), Ok(()), "{name}");
            let found = image.recovered().unwrap();
            let found_indexes: Vec<_> = found.entries.iter().map(|entry| entry.index.0).collect();
            assert_eq!(found_indexes, indexes, "{name}");
            let found_snapshot = found.snapshot.map(|s| s.manifest.position.index.0);
            assert_eq!(found_snapshot, snapshot, "{name}");
            assert_eq!(found.hard_state, samples::hard_state(1), "{name}");
        }
    }

    #[test]
    fn a_refused_write_changes_nothing() {
        let mut image = began();
        let hole = Write {
            hard_state: Some(samples::hard_state(2)),
            reset: true,
            entries: samples::entries(2..=2, 2),
            ..Write::default()
        };
        assert!(image.carry_out(hole).is_err());
        assert_eq!(image, began());
    }

    #[test]
    fn staged_chunks_of_another_position_are_dropped() {
        let mut image = began();
        for chunk in [samples::chunk(5, 1), samples::chunk(6, 0)] {
            let stage = Write {
                staged: Some(chunk),
                ..Write::default()
            };
            assert_eq!(image.carry_out(stage), Ok(()));
        }
        let install = Write {
            snapshot: Some(samples::manifest(6, 1)),
            ..Write::default()
        };
        let mut opened_anew = image.clone();
        opened_anew.forget_staged();
        assert!(opened_anew.carry_out(install.clone()).is_err());
        assert_eq!(image.carry_out(install), Ok(()));
        let snapshot = image.recovered().unwrap().snapshot.unwrap();
        assert_eq!(snapshot.chunks, [samples::chunk(6, 0).bytes]);
    }

    #[test]
    fn chunks_that_the_manifest_does_not_name_are_dropped() {
        let mut image = began();
        for number in 0..3 {
            let stage = Write {
                staged: Some(samples::chunk(6, number)),
                ..Write::default()
            };
            assert_eq!(image.carry_out(stage), Ok(()));
        }
        let install = Write {
            snapshot: Some(samples::manifest(6, 1)),
            ..Write::default()
        };
        assert_eq!(image.carry_out(install), Ok(()));
        let snapshot = image.recovered().unwrap().snapshot.unwrap();
        assert_eq!(snapshot.chunks, [samples::chunk(6, 0).bytes]);
    }

    #[test]
    fn an_image_of_what_was_recovered_goes_on_from_there() {
        let image = began();
        let mut anew = StoreImage::from(image.recovered().unwrap());
        assert_eq!(anew, image);
        assert_eq!(anew.entry(Index(6)).unwrap().index, Index(6));
        assert_eq!((anew.entry(Index(0)), anew.entry(Index(7))), (None, None));
        let next = Write {
            compact_through: Some(Index(2)),
            entries: samples::entries(7..=7, 1),
            ..Write::default()
        };
        assert_eq!(anew.carry_out(next), Ok(()));
        assert_eq!(anew.entry(Index(3)).unwrap().index, Index(3));
    }

    #[test]
    fn groups_do_not_mix_and_are_forgotten_one_by_one() {
        let (a, b) = (GroupId::from("a"), GroupId::from("b"));
        let mut store = InMemoryStorage::new();
        for (group, boot) in [(a, 1), (b, 2)] {
            let first = Write {
                hard_state: Some(samples::hard_state(boot)),
                ..Write::default()
            };
            assert_eq!(store.write(&group, first), Ok(()));
        }
        assert_eq!(store.write(&GroupId::from("c"), Write::default()), Ok(()));
        assert_eq!(store.sync(), Ok(()));
        assert_eq!(store.images().count(), 2);
        assert_eq!(store.forget(&a), Ok(()));
        assert_eq!(store.load(&a), Ok(None));
        let left = store.load(&b).unwrap().unwrap();
        assert_eq!(left.hard_state, samples::hard_state(2));
    }
}

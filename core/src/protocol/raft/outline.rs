//! What a store holds for a group, in outline: which writes make sense next.

use std::collections::BTreeSet;

use super::entry::Entry;
use super::store::{Manifest, StagedChunk, StorageError, Write};
use super::types::{Index, Position};

/// Where the log and the snapshots of a group begin and end.
///
/// Every store keeps one for each group, so that all of them refuse the same writes: a contradiction shows
/// when it is written, not when it is recovered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    has_hard_state: bool,
    log: Option<(Index, Index)>,
    snapshot: Option<Index>,
    staged: Option<(Position, BTreeSet<u32>)>,
}

impl Outline {
    /// The outline of what was found when a store was opened: it has a hard state, the log from the first
    /// to the last entry, and the snapshot at this index.
    #[must_use]
    pub const fn recovered(log: Option<(Index, Index)>, snapshot: Option<Index>) -> Self {
        Self {
            has_hard_state: true,
            log,
            snapshot,
            staged: None,
        }
    }

    /// The first and the last entry of the log.
    #[must_use]
    pub const fn log(&self) -> Option<(Index, Index)> {
        self.log
    }

    /// The index of the snapshot.
    #[must_use]
    pub const fn snapshot(&self) -> Option<Index> {
        self.snapshot
    }

    /// Where the snapshot lies that is being staged.
    #[must_use]
    pub fn staged(&self) -> Option<Position> {
        self.staged.as_ref().map(|(position, _)| *position)
    }

    /// Forgets what is staged, as a store does that is opened anew.
    pub fn forget_staged(&mut self) {
        self.staged = None;
    }

    /// What is there once `write` has been carried out. An empty write changes nothing.
    ///
    /// # Errors
    /// [`StorageError::Contradiction`] where the group has no hard state; where a chunk of the snapshot was
    /// never staged; where more of the log is dropped than the snapshot covers; where the entries do not
    /// follow each other, or leave a hole behind the log or the snapshot; and where a log would be left that
    /// ends before the snapshot does. The outline is of no use then.
    pub fn carry_out(&mut self, write: &Write) -> Result<(), StorageError> {
        if write.is_empty() {
            return Ok(());
        }
        if write.reset {
            (self.log, self.snapshot, self.staged) = (None, None, None);
        }
        self.has_hard_state |= write.hard_state.is_some();
        if !self.has_hard_state {
            return contradiction("the first write of a group has no hard state");
        }
        if let Some(chunk) = &write.staged {
            self.stage(chunk);
        }
        if let Some(manifest) = &write.snapshot {
            self.install(manifest)?;
        }
        if write.drop_log {
            self.log = None;
        }
        if let Some(through) = write.compact_through {
            self.compact(through)?;
        }
        self.append(write)?;
        match (self.log, self.snapshot) {
            (Some((_, last)), Some(snapshot)) if last < snapshot => contradiction(format!(
                "the log ends at {last}, before the snapshot at {snapshot}"
            )),
            _ => Ok(()),
        }
    }

    fn stage(&mut self, chunk: &StagedChunk) {
        match &mut self.staged {
            Some((position, numbers)) if *position == chunk.position => {
                numbers.insert(chunk.number);
            }
            _ => self.staged = Some((chunk.position, BTreeSet::from([chunk.number]))),
        }
    }

    fn install(&mut self, manifest: &Manifest) -> Result<(), StorageError> {
        let position = manifest.position;
        let numbers = match self.staged.take() {
            Some((staged, numbers)) if staged == position => numbers,
            _ => BTreeSet::new(),
        };
        // More may be there, of one from elsewhere that had more of them.
        let mut needed = 0..manifest.chunks.len() as u32;
        if !needed.all(|number| numbers.contains(&number)) {
            return contradiction(format!(
                "the snapshot at {position} has {} chunks, but those staged are {numbers:?}",
                manifest.chunks.len()
            ));
        }
        self.snapshot = Some(position.index);
        Ok(())
    }

    fn compact(&mut self, through: Index) -> Result<(), StorageError> {
        let covered = self.snapshot.unwrap_or_default();
        if through > covered {
            return contradiction(format!(
                "the log is dropped up to {through}, but the snapshot ends at {covered}"
            ));
        }
        if let Some((first, last)) = self.log {
            let first = first.max(through.next());
            self.log = (first <= last).then_some((first, last));
        }
        Ok(())
    }

    fn append(&mut self, write: &Write) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) else {
            return Ok(());
        };
        let follows = |pair: &[Entry]| pair[1].index.0.checked_sub(pair[0].index.0) == Some(1);
        if !write.entries.windows(2).all(follows) {
            return contradiction(format!(
                "the entries from {} to {} do not follow each other",
                first.index, last.index
            ));
        }
        let covered = self.snapshot.unwrap_or_default();
        let begins = match self.log {
            // What is replaced may reach below what the log began with.
            Some((begins, ends)) if first.index <= ends.next() => begins.min(first.index),
            Some((_, ends)) => {
                return contradiction(format!(
                    "the log ends at {ends}, and entry {} is to follow it",
                    first.index
                ));
            }
            None => first.index,
        };
        if begins == Index::ZERO || begins > covered.next() {
            return contradiction(format!(
                "the log would begin at {begins}, with the snapshot at {covered}"
            ));
        }
        self.log = Some((begins, last.index));
        Ok(())
    }
}

fn contradiction<T>(how: impl Into<String>) -> Result<T, StorageError> {
    Err(StorageError::Contradiction { how: how.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::raft::Payload;
    use crate::protocol::raft::store::HardState;
    use crate::protocol::raft::test_samples as samples;

    /// What a table of writes begins with.
    fn began() -> Outline {
        let mut outline = Outline::default();
        let founding = Write {
            hard_state: Some(samples::hard_state(1)),
            entries: samples::entries(1..=10, 1),
            ..Write::default()
        };
        assert_eq!(outline.carry_out(&founding), Ok(()));
        outline
    }

    fn logged(outline: &Outline) -> Option<(u64, u64)> {
        outline.log().map(|(first, last)| (first.0, last.0))
    }

    #[test]
    fn the_log_and_the_snapshot_are_where_each_write_leaves_them() {
        let snapshot = |index| Some(samples::manifest(index, 0));
        let compact = |through| Write {
            snapshot: snapshot(7),
            compact_through: Some(Index(through)),
            ..Write::default()
        };
        let put = |range| Write {
            entries: samples::entries(range, 2),
            ..Write::default()
        };
        let reset = Write {
            reset: true,
            ..Write::default()
        };
        let dropped = |index| Write {
            snapshot: snapshot(index),
            drop_log: true,
            ..Write::default()
        };
        let dropped_and_put = Write {
            entries: samples::entries(21..=22, 2),
            ..dropped(20)
        };
        let table = [
            ("nothing", Write::default(), Some((1, 10)), None),
            ("append", put(11..=12), Some((1, 12)), None),
            ("overwrite the tail", put(5..=6), Some((1, 6)), None),
            ("overwrite all", put(1..=1), Some((1, 1)), None),
            (
                "compact below the snapshot",
                compact(3),
                Some((4, 10)),
                Some(7),
            ),
            (
                "compact to the snapshot",
                compact(7),
                Some((8, 10)),
                Some(7),
            ),
            ("compact nothing", compact(0), Some((1, 10)), Some(7)),
            ("reset", reset, None, None),
            ("drop the log", dropped(20), None, Some(20)),
            ("drop and go on", dropped_and_put, Some((21, 22)), Some(20)),
        ];
        for (name, write, log, snapshot) in table {
            let mut outline = began();
            assert_eq!(outline.carry_out(&write), Ok(()), "{name}");
            assert_eq!(logged(&outline), log, "{name}");
            assert_eq!(outline.snapshot(), snapshot.map(Index), "{name}");
        }
    }

    #[test]
    fn what_contradicts_is_refused() {
        let put = |entries| Write {
            entries,
            ..Write::default()
        };
        let hole_within = [samples::entries(11..=11, 1), samples::entries(13..=13, 1)].concat();
        let backwards = [samples::entries(12..=12, 1), samples::entries(11..=11, 1)].concat();
        let table = [
            ("a hole behind the log", put(samples::entries(12..=12, 1))),
            ("a hole within", put(hole_within)),
            ("backwards", put(backwards)),
            ("entry 0", put(samples::entries(0..=11, 1))),
            (
                "compacts what no snapshot covers",
                Write {
                    compact_through: Some(Index(1)),
                    ..Write::default()
                },
            ),
            (
                "a chunk is missing",
                Write {
                    staged: Some(samples::chunk(5, 1)),
                    snapshot: Some(samples::manifest(5, 2)),
                    ..Write::default()
                },
            ),
            (
                "chunks of another position",
                Write {
                    staged: Some(samples::chunk(4, 0)),
                    snapshot: Some(samples::manifest(5, 1)),
                    ..Write::default()
                },
            ),
            (
                "a log that ends before the snapshot",
                Write {
                    snapshot: Some(samples::manifest(11, 0)),
                    ..Write::default()
                },
            ),
            (
                "a hole behind the snapshot",
                Write {
                    snapshot: Some(samples::manifest(20, 0)),
                    drop_log: true,
                    entries: samples::entries(22..=22, 1),
                    ..Write::default()
                },
            ),
        ];
        for (name, write) in table {
            let refused = began().carry_out(&write);
            assert!(
                matches!(refused, Err(StorageError::Contradiction { .. })),
                "{name}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_group_begins_with_its_hard_state() {
        let mut outline = Outline::default();
        let entries = Write {
            entries: vec![Entry {
                term: samples::hard_state(1).term,
                index: Index(1),
                payload: Payload::Blank,
            }],
            ..Write::default()
        };
        assert!(outline.carry_out(&entries).is_err());
        let hard_state: Option<HardState> = Some(samples::hard_state(1));
        let first = Write {
            hard_state,
            ..entries
        };
        assert_eq!(Outline::default().carry_out(&first), Ok(()));
    }

    #[test]
    fn staging_another_position_begins_anew() {
        let mut outline = began();
        let stage = |index, number| Write {
            staged: Some(samples::chunk(index, number)),
            ..Write::default()
        };
        for write in [stage(5, 0), stage(6, 1), stage(6, 0)] {
            assert_eq!(outline.carry_out(&write), Ok(()));
        }
        assert_eq!(outline.staged(), Some(samples::manifest(6, 0).position));
        let install = Write {
            snapshot: Some(samples::manifest(6, 2)),
            ..Write::default()
        };
        assert_eq!(outline.carry_out(&install), Ok(()));
        assert_eq!(
            (outline.snapshot(), outline.staged()),
            (Some(Index(6)), None)
        );
        // What was installed is staged no longer.
        assert!(outline.carry_out(&install).is_err());
    }
}

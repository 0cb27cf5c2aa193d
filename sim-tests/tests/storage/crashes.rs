//! Crashes between any two disk operations.

use std::ops::RangeInclusive;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smalti::storage::RedbStorage;
use smalti_core::protocol::raft::{Storage, StorageError};
use smalti_sim::disk::{DiskFaults, SimDisk};
use smalti_sim::rng::Streams;

use crate::script::{Change, Model, Script};
use crate::{Contents, contents, open};

/// A store, all that was ever written to it, and how much of that must be there.
pub(crate) struct Run {
    pub(crate) disk: SimDisk,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) script: Script,
    /// What is durable for certain.
    durable: Model,
    /// What was written since, in order.
    pending: Vec<Change>,
    /// Durable and pending.
    written: Model,
    /// Syncs that have taken the journal into the database.
    checkpoints: u32,
}

impl Run {
    pub(crate) fn new(seed: u64) -> Self {
        let streams = Streams::new(seed);
        let disk = SimDisk::new(&streams);
        let mut rng = streams.stream("test");
        disk.set_faults(DiskFaults {
            sector_len: if rng.random() { 512 } else { 4_096 },
            ..DiskFaults::default()
        });
        Self {
            disk,
            rng,
            script: Script::new(ChaCha8Rng::seed_from_u64(seed)),
            durable: Model::default(),
            pending: Vec::new(),
            written: Model::default(),
            checkpoints: 0,
        }
    }

    /// Writes and syncs, so many times or until something fails.
    pub(crate) fn work(
        &mut self,
        store: &mut RedbStorage,
        changes: usize,
    ) -> Result<(), StorageError> {
        for _ in 0..changes {
            let change = self.script.change(&self.written);
            self.make(store, change)?;
            if self.rng.random_ratio(1, 4) {
                self.sync(store)?;
            }
        }
        Ok(())
    }

    /// Makes one change.
    pub(crate) fn make(
        &mut self,
        store: &mut RedbStorage,
        change: Change,
    ) -> Result<(), StorageError> {
        // Noted before it is made: where making it fails, it may have been made.
        self.pending.push(change.clone());
        self.written.carry_out(change.clone());
        match change {
            Change::Write(group, write) => store.write(&group, *write),
            Change::Forget(group) => store.forget(&group),
        }
    }

    pub(crate) fn sync(&mut self, store: &mut RedbStorage) -> Result<(), StorageError> {
        let before = self.disk.counts().writes;
        store.sync()?;
        self.checkpoints += u32::from(self.disk.counts().writes > before + RECORD_AND_MARK);
        self.pending.clear();
        self.durable = self.written.clone();
        Ok(())
    }

    /// What is certainly there.
    pub(crate) fn durable(&self) -> Contents {
        self.durable.contents()
    }

    /// The store is opened, and must hold what a prefix of the writes leaves, the durable ones among them.
    /// From then on that is durable.
    pub(crate) fn recover(&mut self) -> Result<RedbStorage, StorageError> {
        let mut store = open(&self.disk)?;
        let found = contents(&mut store)?;
        let mut changes = std::mem::take(&mut self.pending).into_iter();
        while self.durable.contents() != found {
            let Some(change) = changes.next() else {
                panic!("what is found is no prefix of what was written");
            };
            self.durable.carry_out(change);
        }
        self.durable.open_anew();
        self.script.open_anew();
        self.written = self.durable.clone();
        Ok(store)
    }
}

/// What a commit writes as long as the journal has room.
pub(crate) const RECORD_AND_MARK: u64 = 2;

/// Several lives, each with some work, that end in one way or another. Gives how often the journal was taken into the
/// database.
fn live_and_die(seed: u64) -> u32 {
    let mut run = Run::new(seed);
    for _ in 0..5 {
        let fuse: RangeInclusive<u64> = if run.rng.random_ratio(1, 3) {
            0..=40
        } else {
            20..=200
        };
        let dies = run.rng.random_ratio(3, 4);
        if dies {
            let changes = run.rng.random_range(fuse);
            run.disk.lose_power_after(changes);
        }
        let lived = run.recover().and_then(|mut store| {
            let changes = run.rng.random_range(1..60);
            run.work(&mut store, changes)?;
            if run.rng.random() {
                return store.close();
            }
            // Not closed: the host is gone before its destructor runs.
            if run.rng.random() {
                run.disk.kill();
            } else {
                run.disk.crash();
            }
            Ok(())
        });
        match lived {
            // The process ends, and the machine may stay up.
            Ok(()) if run.rng.random() => run.disk.kill(),
            Ok(()) => run.disk.crash(),
            Err(StorageError::Disk { .. }) if dies => run.disk.crash(),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    run.recover().expect("nothing is wrong with the disk");
    run.checkpoints
}

#[test]
fn what_was_synced_survives_crashes_between_any_two_operations() {
    let checkpoints: u32 = (0..120).map(live_and_die).sum();
    assert!(checkpoints > 100, "{checkpoints}");
}

/// A store is made, and the power goes off after each number of operations.
#[test]
fn a_store_that_was_not_made_to_the_end_is_made_anew() {
    let operations = {
        let disk = SimDisk::new(&Streams::new(1));
        open(&disk).unwrap().close().unwrap();
        disk.counts().changes()
    };
    for operation in 0..operations {
        let disk = SimDisk::new(&Streams::new(operation));
        disk.lose_power_after(operation);
        let made = open(&disk).and_then(RedbStorage::close);
        let failed = made.unwrap_err();
        assert!(matches!(failed, StorageError::Disk { .. }), "{failed}");
        disk.crash();
        let mut store = open(&disk).expect("nothing was in it");
        assert_eq!(contents(&mut store), Ok(Contents::new()));
    }
}

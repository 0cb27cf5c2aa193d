//! Disks that fail and fill up.

use bytes::Bytes;
use rand::RngExt;
use smalti_core::id::GroupId;
use smalti_core::protocol::raft::{
    Index, Position, StagedChunk, Storage, StorageError, Term, Write,
};
use smalti_sim::disk::DiskFaults;

use crate::crashes::Run;
use crate::open;
use crate::script::Change;

const GROUP: &str = "a";

/// A store that has failed does nothing more.
fn assert_closed(store: &mut dyn Storage) {
    let group = GroupId::from(GROUP);
    assert_eq!(store.sync(), Err(StorageError::Closed));
    assert_eq!(store.load(&group), Err(StorageError::Closed));
    assert_eq!(store.forget(&group), Err(StorageError::Closed));
    let write = store.write(&group, Write::default());
    assert_eq!(write, Err(StorageError::Closed));
}

/// Works on a disk with `faults` until something fails; whatever that was, the store is closed, and opened
/// anew, by the same process or after a crash, it holds what it must.
fn fail(seed: u64, faults: &DiskFaults) -> Option<StorageError> {
    let mut run = Run::new(seed);
    let mut failure = None;
    for _ in 0..4 {
        run.disk.set_faults(DiskFaults::default());
        if run.rng.random_ratio(1, 3) {
            // The power goes off while it recovers, wherever that is.
            let changes = run.rng.random_range(0..60);
            run.disk.lose_power_after(changes);
            let _wherever = open(&run.disk);
            run.disk.crash();
        }
        let mut store = run.recover().expect("the disk is sound now");
        run.work(&mut store, 5).expect("the disk is sound still");
        run.disk.set_faults(faults.clone());
        let changes = run.rng.random_range(1..100);
        if let Err(error) = run.work(&mut store, changes) {
            assert_closed(&mut store);
            failure = Some(error);
        }
        if run.rng.random() {
            run.disk.kill();
        } else {
            run.disk.crash();
        }
    }
    run.disk.set_faults(DiskFaults::default());
    run.recover().expect("the disk is sound again");
    failure
}

/// More than half of some sixty stores must have failed, and each because of its disk.
fn most_fail_for_the_disk(failures: impl Iterator<Item = StorageError>) {
    let mut count = 0;
    for failure in failures {
        assert!(matches!(failure, StorageError::Disk { .. }), "{failure}");
        count += 1;
    }
    assert!(count > 30, "{count}");
}

#[test]
fn a_store_whose_sync_failed_is_closed_and_loses_nothing_of_before() {
    let faults = DiskFaults {
        sync_error_ppm: 200_000,
        ..DiskFaults::default()
    };
    let failures = (0..60).filter_map(|seed| fail(seed, &faults));
    most_fail_for_the_disk(failures);
}

#[test]
fn a_store_whose_disk_fails_now_and_then_is_closed_and_loses_nothing_of_before() {
    let faults = DiskFaults {
        read_error_ppm: 20_000,
        write_error_ppm: 20_000,
        sync_error_ppm: 20_000,
        ..DiskFaults::default()
    };
    let failures = (100..160).filter_map(|seed| fail(seed, &faults));
    most_fail_for_the_disk(failures);
}

#[test]
fn a_full_disk_is_called_full_and_loses_nothing_of_before() {
    let mut run = Run::new(1);
    let mut store = run.recover().expect("it is made");
    run.work(&mut store, 20).expect("there is room");
    let used = run.disk.contents(crate::FILE).map_or(0, |file| file.len());
    run.disk.set_faults(DiskFaults {
        capacity_bytes: Some(used as u64 + 100_000),
        ..DiskFaults::default()
    });
    // The file has room for some before it has to grow.
    let filled = (0..1_000).try_for_each(|number| {
        let position = Position {
            term: Term(1),
            index: Index(1_000),
        };
        let staged = StagedChunk {
            position,
            number,
            bytes: Bytes::from(vec![1; 50_000]),
        };
        let write = Write {
            hard_state: Some(run.script.hard_state()),
            staged: Some(staged),
            ..Write::default()
        };
        run.make(
            &mut store,
            Change::Write(GroupId::from(GROUP), Box::new(write)),
        )?;
        run.sync(&mut store)
    });
    let full = filled.unwrap_err();
    assert!(matches!(full, StorageError::Full { .. }), "{full}");
    assert_closed(&mut store);
    run.disk.crash();
    run.disk.set_faults(DiskFaults::default());
    run.recover().expect("there is room again");
}

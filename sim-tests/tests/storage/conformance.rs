//! What every store promises.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smalti_core::id::GroupId;
use smalti_core::protocol::raft::{InMemoryStorage, Storage, StorageError, Write};
use smalti_sim::disk::SimDisk;
use smalti_sim::rng::Streams;

use crate::crashes::RECORD_AND_MARK;
use crate::open;
use crate::script::{Change, Model, Script};

/// Runs `check` on an empty store of each kind.
fn on_each(check: fn(&mut dyn Storage)) {
    check(&mut InMemoryStorage::new());
    let disk = SimDisk::new(&Streams::new(1));
    check(&mut open(&disk).expect("the disk is sound"));
}

fn apply(store: &mut dyn Storage, change: &Change) -> Result<(), StorageError> {
    match change {
        Change::Write(group, write) => store.write(group, (**write).clone()),
        Change::Forget(group) => store.forget(group),
    }
}

#[test]
fn nothing_is_there_of_a_group_that_nothing_was_written_for() {
    on_each(|store| {
        let group = GroupId::from("a");
        assert_eq!(store.load(&group), Ok(None));
        assert_eq!(store.write(&group, Write::default()), Ok(()));
        assert_eq!(store.forget(&group), Ok(()));
        assert_eq!(store.sync(), Ok(()));
        assert_eq!(store.load(&group), Ok(None));
    });
}

#[test]
fn what_is_loaded_is_what_was_written_synced_or_not() {
    on_each(|store| {
        for seed in 0..4 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut script = Script::new(ChaCha8Rng::seed_from_u64(seed + 100));
            let mut model = Model::default();
            for group in ["a", "b", "c"] {
                assert_eq!(store.forget(&GroupId::from(group)), Ok(()));
            }
            for _ in 0..150 {
                let change = script.change(&model);
                assert_eq!(apply(store, &change), Ok(()));
                model.carry_out(change);
                if rng.random_ratio(1, 3) {
                    assert_eq!(store.sync(), Ok(()));
                }
                if rng.random_ratio(1, 4) {
                    let contents = model.contents();
                    for group in ["a", "b", "c"].map(GroupId::from) {
                        let found = store.load(&group).unwrap();
                        assert!(found.as_ref() == contents.get(&group), "seed {seed}");
                    }
                }
            }
        }
    });
}

#[test]
fn what_contradicts_is_refused() {
    on_each(|store| {
        let no_hard_state = Write {
            drop_log: true,
            ..Write::default()
        };
        let refused = store.write(&GroupId::from("new"), no_hard_state);
        let is_refused = matches!(refused, Err(StorageError::Contradiction { .. }));
        assert!(is_refused, "{refused:?}");
    });
}

#[test]
fn a_durable_store_that_has_refused_something_is_closed() {
    let disk = SimDisk::new(&Streams::new(1));
    let mut store = open(&disk).unwrap();
    let no_hard_state = Write {
        drop_log: true,
        ..Write::default()
    };
    assert!(store.write(&GroupId::from("a"), no_hard_state).is_err());
    assert_eq!(store.sync(), Err(StorageError::Closed));
}

#[test]
fn a_durable_store_that_was_closed_is_found_as_it_was() {
    let disk = SimDisk::new(&Streams::new(1));
    let mut script = Script::new(ChaCha8Rng::seed_from_u64(1));
    let mut model = Model::default();
    for _ in 0..5 {
        let mut store = open(&disk).unwrap();
        assert_eq!(crate::contents(&mut store), Ok(model.contents()));
        for _ in 0..20 {
            let change = script.change(&model);
            assert_eq!(apply(&mut store, &change), Ok(()));
            model.carry_out(change);
        }
        assert_eq!(store.sync(), Ok(()));
        // What is not synced is lost.
        let lost = script.change(&model);
        assert_eq!(apply(&mut store, &lost), Ok(()));
        assert_eq!(store.close(), Ok(()));
        script.open_anew();
        model.open_anew();
    }
}

#[test]
fn a_commit_costs_one_sync_and_mostly_two_writes() {
    let disk = SimDisk::new(&Streams::new(1));
    let mut store = open(&disk).unwrap();
    let mut checkpoints = 0;
    let mut script = Script::new(ChaCha8Rng::seed_from_u64(3));
    let mut model = Model::default();
    for _ in 0..20 {
        for _ in 0..5 {
            let change = script.change(&model);
            assert_eq!(apply(&mut store, &change), Ok(()));
            model.carry_out(change);
        }
        let before = disk.counts();
        assert_eq!(store.sync(), Ok(()));
        let after = disk.counts();
        assert_eq!(after.syncs - before.syncs, 1);
        checkpoints += u32::from(after.writes - before.writes > RECORD_AND_MARK);
        assert_eq!(store.sync(), Ok(()));
        assert_eq!(disk.counts(), after, "there is nothing to sync");
    }
    assert!((1..10).contains(&checkpoints), "{checkpoints}");
}

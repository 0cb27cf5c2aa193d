//! Bits that change on the disk: found, or without effect.

use rand::RngExt;
use smalti_core::protocol::raft::StorageError;

use crate::crashes::Run;
use crate::{Contents, DATABASE_AT, FILE, JOURNAL_AT, read};

/// How the life before the damage ended.
#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Killed,
    Crashed,
}

/// A store with something in it, of which all is synced, and what it held one sync before.
fn filled(seed: u64, end: End) -> (Run, Contents) {
    let mut run = Run::new(seed);
    let mut store = run.recover().expect("the disk is sound");
    let mut before = run.durable();
    for _ in 0..run.rng.random_range(1..12) {
        let changes = run.rng.random_range(1..10);
        run.work(&mut store, changes).expect("the disk is sound");
        before = run.durable();
        run.work(&mut store, 1).expect("the disk is sound");
        run.sync(&mut store).expect("the disk is sound");
    }
    match end {
        End::Closed => store.close().expect("the disk is sound"),
        End::Killed => run.disk.kill(),
        End::Crashed => run.disk.crash(),
    }
    (run, before)
}

/// Whether it was found out. A store that was refused is as it was, byte for byte.
fn is_found_out(run: &Run, allowed: &[Contents]) -> bool {
    let damaged = run.disk.contents(FILE);
    match read(&run.disk) {
        Ok(found) => {
            assert!(allowed.contains(&found), "it is not what was written");
            false
        }
        Err(StorageError::Damaged { .. } | StorageError::Foreign { .. }) => {
            assert_eq!(run.disk.contents(FILE), damaged, "it was changed");
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn rotten_bits_are_found_out_or_change_nothing() {
    let mut found_out = 0;
    for seed in 0..150 {
        let end = [End::Closed, End::Killed, End::Crashed][seed as usize % 3];
        let (mut run, before) = filled(seed, end);
        let allowed = match end {
            End::Closed | End::Killed => vec![run.durable()],
            // The mark of the last commit may have been lost with the power; no other may be missing.
            End::Crashed => vec![run.durable(), before],
        };
        let count = 1 << run.rng.random_range(0..12);
        run.disk.rot(FILE, count);
        found_out += u32::from(is_found_out(&run, &allowed));
    }
    assert!((50..150).contains(&found_out), "{found_out}");
}

/// Each byte of what decides where recovery begins: our header and marks, the first record of the journal, and
/// redb's header.
#[test]
fn each_byte_of_the_headers_may_rot() {
    for end in [End::Closed, End::Killed] {
        let (run, _) = filled(4, end);
        let sound = run.disk.contents(FILE).expect("it is there");
        let headers = [
            0..28,
            4_096..4_113,
            8_192..8_209,
            JOURNAL_AT..JOURNAL_AT + 20,
            DATABASE_AT..DATABASE_AT + 320,
        ];
        for offset in headers.into_iter().flatten() {
            for bit in [0, 3, 7] {
                run.disk.put(FILE, sound.clone());
                run.disk.flip_bit(FILE, offset as u64, bit);
                is_found_out(&run, &[run.durable()]);
            }
        }
    }
}

/// What a store that was not closed has in its journal alone.
#[test]
fn a_rotten_record_of_the_journal_is_found_out() {
    let mut run = Run::new(7);
    let mut store = run.recover().expect("the disk is sound");
    for _ in 0..4 {
        run.work(&mut store, 2).expect("the disk is sound");
        run.sync(&mut store).expect("the disk is sound");
    }
    run.disk.kill();
    let sound = run.disk.contents(FILE).expect("it is there");
    let journal = &sound[JOURNAL_AT..DATABASE_AT];
    let last = journal.iter().rposition(|byte| *byte != 0);
    let taken = last.expect("something is written there");
    assert!(taken > 1_000, "{taken}");
    for _ in 0..200 {
        let offset = JOURNAL_AT + run.rng.random_range(0..=taken);
        run.disk.put(FILE, sound.clone());
        run.disk
            .flip_bit(FILE, offset as u64, run.rng.random_range(0..8));
        assert!(is_found_out(&run, &[]), "{offset}");
    }
}

#[test]
fn a_store_that_was_cut_off_or_overwritten_is_found_out() {
    let (mut run, _) = filled(5, End::Closed);
    let sound = run.disk.contents(FILE).expect("it is there");
    let cuts = [
        0,
        1,
        16,
        28,
        4_096,
        JOURNAL_AT,
        DATABASE_AT,
        DATABASE_AT + 1,
        DATABASE_AT + 4_096,
        sound.len() - 1,
    ];
    for len in cuts {
        run.disk.put(FILE, sound[..len].to_vec());
        assert!(is_found_out(&run, &[]), "cut to {len}");
    }
    for _ in 0..60 {
        let mut overwritten = sound.clone();
        let from = run.rng.random_range(0..sound.len());
        let to = (from + run.rng.random_range(1..100_000)).min(sound.len());
        overwritten[from..to].fill(run.rng.random());
        run.disk.put(FILE, overwritten);
        is_found_out(&run, &[run.durable()]);
    }
}

#[test]
fn an_older_copy_of_a_part_is_found_out() {
    let (mut run, _) = filled(6, End::Closed);
    let old = run.disk.contents(FILE).expect("it is there");
    let mut store = run.recover().expect("it is sound");
    run.work(&mut store, 60).expect("the disk is sound");
    run.sync(&mut store).expect("the disk is sound");
    store.close().expect("the disk is sound");
    let new = run.disk.contents(FILE).expect("it is there");
    let mut found_out = 0;
    for page in 3..old.len().min(new.len()) / 4_096 {
        let range = page * 4_096..(page + 1) * 4_096;
        if old[range.clone()] == new[range.clone()] {
            continue;
        }
        let mut mixed = new.clone();
        mixed[range.clone()].copy_from_slice(&old[range]);
        run.disk.put(FILE, mixed);
        found_out += u32::from(is_found_out(&run, &[run.durable()]));
    }
    assert!(found_out > 3, "{found_out}");
}

use std::collections::BTreeSet;

use smalti_core::runtime::Disk;

use super::*;

const NAME: &str = "file";

fn disk(seed: u64) -> SimDisk {
    SimDisk::new(&Streams::new(seed))
}

/// Four sectors of ones, durable, and twos over the middle two, not synced.
fn half_written(seed: u64) -> SimDisk {
    let disk = disk(seed);
    let file = disk.mount().create(NAME).unwrap();
    file.write_at(0, &[1; 4 * 512]).unwrap();
    file.sync().unwrap();
    file.write_at(512, &[2; 2 * 512]).unwrap();
    disk
}

/// The first byte of each sector; all bytes of a sector are alike.
fn sectors(disk: &SimDisk) -> Vec<u8> {
    let contents = disk.contents(NAME).unwrap();
    let sectors = contents.chunks(512).map(|sector| {
        assert!(sector.iter().all(|byte| *byte == sector[0]), "torn within");
        sector[0]
    });
    sectors.collect()
}

#[test]
fn what_is_read_is_what_was_written() {
    let disk = disk(1);
    let mount = disk.mount();
    let file = mount.create(NAME).unwrap();
    file.write_at(3, b"abc").unwrap();
    let mut all = [9; 6];
    file.read_at(0, &mut all).unwrap();
    assert_eq!(&all, b"\0\0\0abc");
    let end = file.read_at(1, &mut all).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    file.set_len(4).unwrap();
    file.set_len(5).unwrap();
    assert_eq!(disk.contents(NAME).unwrap(), b"\0\0\0a\0");
    assert_eq!(mount.open(NAME).unwrap().len().unwrap(), 5);
}

#[test]
fn names_are_made_moved_and_removed() {
    let mount = disk(1).mount();
    mount.create("a").unwrap().write_at(0, b"a").unwrap();
    mount.create("b").unwrap();
    let kind = |result: io::Result<()>| result.unwrap_err().kind();
    assert_eq!(
        kind(mount.create("a").map(drop)),
        io::ErrorKind::AlreadyExists
    );
    mount.rename("a", "b").unwrap();
    assert_eq!(mount.list().unwrap(), ["b"]);
    assert_eq!(mount.open("b").unwrap().len().unwrap(), 1);
    for missing in [
        mount.open("a").map(drop),
        mount.rename("a", "b"),
        mount.remove("a"),
    ] {
        assert_eq!(kind(missing), io::ErrorKind::NotFound);
    }
    mount.remove("b").unwrap();
    assert_eq!(mount.list().unwrap(), [""; 0]);
}

#[test]
fn a_crash_leaves_any_sectors_of_what_was_not_synced() {
    let outcomes: BTreeSet<_> = (0..100)
        .map(|seed| {
            let disk = half_written(seed);
            disk.crash();
            sectors(&disk)
        })
        .collect();
    let all = [[1, 1, 1, 1], [1, 1, 2, 1], [1, 2, 1, 1], [1, 2, 2, 1]];
    assert_eq!(outcomes, all.map(Vec::from).into());
}

#[test]
fn a_length_that_was_not_synced_survives_or_not() {
    let lens: BTreeSet<_> = (0..100)
        .map(|seed| {
            let disk = half_written(seed);
            disk.mount().open(NAME).unwrap().set_len(100).unwrap();
            disk.crash();
            disk.contents(NAME).unwrap().len()
        })
        .collect();
    assert_eq!(lens, BTreeSet::from([100, 4 * 512]));
}

#[test]
fn what_was_synced_stays_and_a_kill_loses_nothing() {
    for seed in 0..20 {
        let disk = half_written(seed);
        disk.kill();
        assert_eq!(sectors(&disk), [1, 2, 2, 1]);
        disk.mount().open(NAME).unwrap().sync().unwrap();
        disk.crash();
        assert_eq!(sectors(&disk), [1, 2, 2, 1]);
    }
}

#[test]
fn a_life_that_is_over_does_nothing() {
    let disk = half_written(1);
    let mount = disk.mount();
    let file = mount.open(NAME).unwrap();
    disk.kill();
    assert!(file.write_at(0, &[3]).is_err());
    assert!(file.sync().is_err());
    assert!(mount.remove(NAME).is_err());
    assert_eq!(sectors(&disk), [1, 2, 2, 1]);
}

#[test]
fn a_failed_sync_loses_what_it_did_not_write_though_the_next_succeeds() {
    let lost = (0..50).filter(|seed| {
        let disk = half_written(*seed);
        disk.set_faults(DiskFaults {
            sync_error_ppm: rng::MILLION,
            ..DiskFaults::default()
        });
        let file = disk.mount().open(NAME).unwrap();
        assert!(file.sync().is_err());
        assert_eq!(sectors(&disk), [1, 2, 2, 1], "reads return it still");
        disk.set_faults(DiskFaults::default());
        file.sync().unwrap();
        disk.crash();
        sectors(&disk) != [1, 2, 2, 1]
    });
    assert!((10..50).contains(&lost.count()));
}

#[test]
fn errors_come_as_often_as_asked() {
    let faults = DiskFaults {
        read_error_ppm: 500_000,
        write_error_ppm: 250_000,
        ..DiskFaults::default()
    };
    let disk = disk(1);
    let file = disk.mount().create(NAME).unwrap();
    file.write_at(0, &[0; 512]).unwrap();
    disk.set_faults(faults);
    let failed = |call: &dyn Fn() -> bool| (0..1_000).filter(|_| call()).count();
    let reads = failed(&|| file.read_at(0, &mut [0]).is_err());
    assert!((450..550).contains(&reads), "{reads}");
    let writes = failed(&|| file.write_at(0, &[0]).is_err());
    assert!((200..300).contains(&writes), "{writes}");
}

#[test]
fn a_full_disk_takes_no_more_and_says_so() {
    let disk = disk(1);
    disk.set_faults(DiskFaults {
        capacity_bytes: Some(1_000),
        ..DiskFaults::default()
    });
    let mount = disk.mount();
    let file = mount.create(NAME).unwrap();
    file.write_at(0, &[1; 600]).unwrap();
    let other = mount.create("other").unwrap();
    let full = [other.write_at(0, &[1; 401]), file.set_len(1_001)];
    for refused in full {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    file.write_at(0, &[2; 600]).unwrap();
    other.write_at(0, &[1; 400]).unwrap();
}

#[test]
fn the_power_goes_off_between_two_changes() {
    let disk = half_written(1);
    let file = disk.mount().open(NAME).unwrap();
    disk.lose_power_after(1);
    file.sync().unwrap();
    assert!(file.write_at(0, &[3; 4 * 512]).is_err());
    assert_eq!(sectors(&disk), [1, 2, 2, 1]);
    disk.crash();
    assert_eq!(sectors(&disk), [1, 2, 2, 1]);
    disk.mount().open(NAME).unwrap().set_len(0).unwrap();
}

#[test]
fn bits_rot_where_they_are_said_to() {
    let disk = half_written(1);
    disk.kill();
    let before = disk.contents(NAME).unwrap();
    disk.flip_bit(NAME, 5, 7);
    assert_eq!(disk.contents(NAME).unwrap()[5], before[5] ^ 0x80);
    disk.flip_bit(NAME, 5, 7);
    let offsets = disk.rot(NAME, 1);
    let after = disk.contents(NAME).unwrap();
    let differing = (0..after.len()).filter(|at| after[*at] != before[*at]);
    // What is not yet written cannot have rotted.
    let is_unwritten = (512..3 * 512).contains(&(offsets[0] as usize));
    let expected = if is_unwritten { vec![] } else { offsets };
    assert!(differing.map(|at| at as u64).eq(expected));
    assert_eq!(disk.rot("missing", 1), [0; 0]);
}

#[test]
fn calls_cost_simulated_time_and_are_counted() {
    let disk = half_written(1);
    let cost = disk.take_cost();
    // One file made, two writes, one sync.
    let (low, high) = (Duration::from_micros(130), Duration::from_micros(2_300));
    assert!((low..=high).contains(&cost), "{cost:?}");
    assert_eq!(disk.take_cost(), Duration::ZERO);
    let counts = disk.counts();
    assert_eq!((counts.writes, counts.syncs, counts.directory), (2, 1, 1));
    assert_eq!(counts.written_bytes, 6 * 512);
    assert_eq!(counts.changes(), 4);
}

#[test]
fn a_seed_decides_what_survives() {
    let survivors = |seed| {
        let disk = half_written(seed);
        disk.crash();
        sectors(&disk)
    };
    for seed in 0..20 {
        assert_eq!(survivors(seed), survivors(seed));
    }
}

#[test]
fn a_crash_before_syncs_have_ended_falls_between_any_two_changes() {
    let outcomes: BTreeSet<_> = (0..200)
        .map(|seed| {
            let disk = SimDisk::with_pending_syncs(&Streams::new(seed));
            let file = disk.mount().create(NAME).unwrap();
            file.write_at(0, &[1; 2 * 512]).unwrap();
            file.sync().unwrap();
            disk.end_syncs(disk.counts().changes());
            for sector in 0..2 {
                file.write_at(sector * 512, &[2; 512]).unwrap();
                file.sync().unwrap();
            }
            assert_eq!(sectors(&disk), [2, 2], "reads return it");
            disk.crash();
            sectors(&disk)
        })
        .collect();
    let in_order = [[1, 1], [2, 1], [2, 2]];
    assert_eq!(outcomes, in_order.map(Vec::from).into());
}

#[test]
fn what_was_synced_before_a_name_was_given_is_durable_with_it() {
    for seed in 0..50 {
        let disk = SimDisk::with_pending_syncs(&Streams::new(seed));
        let mount = disk.mount();
        let file = mount.create("new").unwrap();
        file.write_at(0, &[3; 512]).unwrap();
        file.sync().unwrap();
        mount.rename("new", NAME).unwrap();
        disk.crash();
        assert_eq!(sectors(&disk), [3]);
    }
}

#[test]
fn a_directory_is_open_once_and_has_names_of_its_own() {
    let disk = disk(1);
    let first = disk.mount_directory("one").unwrap();
    first.create(NAME).unwrap().write_at(0, b"1").unwrap();
    assert!(disk.mount_directory("one").is_none());
    let second = disk.mount_directory("two").unwrap();
    assert_eq!(second.list().unwrap(), [""; 0]);
    assert_eq!(first.list().unwrap(), [NAME]);
    assert_eq!(disk.contents("one/file").unwrap(), b"1");
    drop(second);
    assert!(disk.mount_directory("two").is_some());

    disk.kill();
    let next_life = disk.mount_directory("one").unwrap();
    drop(first);
    assert!(disk.mount_directory("one").is_none());
    assert_eq!(next_life.list().unwrap(), [NAME]);
}

#[test]
fn faults_are_switched_on_and_off() {
    let disk = half_written(1);
    let file = disk.mount().open(NAME).unwrap();
    disk.fail_next_sync();
    assert!(file.sync().is_err());
    file.sync().unwrap();
    disk.set_full(true);
    let full = file.set_len(5 * 512).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.write_at(0, &[4; 512]).unwrap();
    disk.set_full(false);
    file.set_len(5 * 512).unwrap();
    let _ = disk.take_cost();
    disk.slow_down(1_000);
    file.sync().unwrap();
    assert!(disk.take_cost() >= Duration::from_millis(100));
}

#[test]
fn a_write_that_is_to_fail_does_and_failures_are_counted_in_their_life() {
    let disk = disk(3);
    let file = disk.mount().create(NAME).unwrap();
    file.write_at(0, &[1; 512]).unwrap();
    disk.fail_next_write();
    file.sync().unwrap();
    assert!(file.write_at(512, &[2; 512]).is_err());
    file.write_at(512, &[3; 512]).unwrap();
    disk.set_full(true);
    assert!(file.write_at(1024, &[4; 512]).is_err());
    assert_eq!((disk.failures(), disk.lost_changes()), (2, 0));
    disk.crash();
    assert_eq!(disk.failures(), 0);
}

#[test]
fn a_crash_says_how_many_changes_it_has_lost() {
    let (mut none, mut all) = (0, 0);
    for seed in 0..50 {
        let disk = half_written(seed);
        disk.crash();
        let survived = sectors(&disk) == [1, 2, 2, 1];
        assert_eq!(disk.lost_changes(), u64::from(!survived), "{seed}");
        none += u32::from(survived);
        all += u32::from(!survived);
    }
    assert!(none > 0 && all > 0, "{none} {all}");
}

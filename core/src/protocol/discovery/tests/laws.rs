//! Laws of the catalog, and the rules by which entries are taken in.

use proptest::prelude::*;

use super::super::catalog::Catalog;
use super::super::entry::Content;
use super::super::io::Refusal;
use super::super::records::{Merged, Records};
use super::super::*;
use super::harness::EPOCH;
use crate::id::{Digest, Instance, NetworkId, PeerId, SecretKey, Tag};
use crate::time::{Duration, Instant, WallTime};

pub(super) fn key(index: u64) -> SecretKey {
    SecretKey::from(format!("peer {index}").as_str())
}

/// An entry of peer `index`; `variant` makes entries of one version differ.
pub(super) fn entry(
    index: u64,
    started: u64,
    sequence: u64,
    variant: u8,
    gone: bool,
) -> VerifiedEntry {
    let key = key(index);
    let entry = PeerEntry {
        protocol: PROTOCOL_VERSION,
        network: NetworkId::from("test"),
        id: key.peer_id(),
        instance: Instance::from_bytes([variant; 16]),
        version: EntryVersion {
            started_at: WallTime::from_micros(EPOCH + started),
            sequence,
        },
        updated_at: WallTime::from_micros(EPOCH + started),
        status: if gone {
            Status::Departed
        } else {
            Status::Alive
        },
        content: Content {
            addresses: vec![([10, 0, 0, 1], 1).into()],
            tags: [Tag::from("matcher")].into(),
            ..Content::default()
        },
    };
    VerifiedEntry::sign(entry, &key).unwrap()
}

#[test]
fn a_peer_takes_one_place_however_its_entries_age() {
    let mut records = records(Instant::ZERO);
    // Renewed, and each second time as if it had been on its way for longer than the one before.
    for sequence in 0..100 {
        let age_ms = if sequence % 2 == 0 {
            1_000 + sequence as u32
        } else {
            100_000
        };
        let entry = entry(1, 0, sequence, 0, false);
        records.accept(Instant::ZERO, entry, age_ms).unwrap();
        records.check_invariants();
    }
    let late = Instant::ZERO + Config::default().purge_after;
    assert!(records.purge(late).is_some());
    assert_eq!(records.purge(late), None);
    records.check_invariants();
}

pub(super) fn records(now: Instant) -> Records {
    let local = PeerId::from_bytes([0xff; 32]);
    let wall = WallTime::from_micros(EPOCH);
    Records::new(
        now,
        NetworkId::from("test"),
        local,
        wall,
        &Config::default(),
    )
}

fn any_entry() -> impl Strategy<Value = VerifiedEntry> {
    (0..6u64, 0..3u64, 0..3u64, 0..2u8, any::<bool>()).prop_map(
        |(peer, started, sequence, variant, gone)| entry(peer, started, sequence, variant, gone),
    )
}

fn merged(entries: &[VerifiedEntry]) -> Records {
    let mut records = records(Instant::ZERO);
    for entry in entries {
        records.accept(Instant::ZERO, entry.clone(), 0).unwrap();
    }
    records.check_invariants();
    records
}

/// What a catalog says, tombstones included.
fn contents(catalog: &Catalog) -> Vec<VerifiedEntry> {
    catalog
        .records(&Range::ALL)
        .map(|record| record.entry.clone())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(
        entries in proptest::collection::vec(any_entry(), 0..24),
        seed in any::<u64>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let expected = contents(merged(&entries).catalog());
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|entry| Digest::of("order", &[&seed.to_le_bytes()[..], &entry.digest().as_bytes()[..]]));
        prop_assert_eq!(&contents(merged(&shuffled).catalog()), &expected);
        let twice = [&entries[..], &shuffled[..]].concat();
        prop_assert_eq!(&contents(merged(&twice).catalog()), &expected);
        // The join of two joins is the join of all.
        let (left, right) = entries.split_at(cut.index(entries.len() + 1));
        let halves = [contents(merged(right).catalog()), contents(merged(left).catalog())].concat();
        prop_assert_eq!(&contents(merged(&halves).catalog()), &expected);
    }

    #[test]
    fn merging_only_goes_up(entries in proptest::collection::vec(any_entry(), 0..24)) {
        let mut records = records(Instant::ZERO);
        for entry in entries {
            let before = records.catalog().record(entry.id()).map(|record| record.entry.clone());
            records.accept(Instant::ZERO, entry.clone(), 0).unwrap();
            let after = &records.catalog().record(entry.id()).unwrap().entry;
            prop_assert!(after.rank() >= entry.rank());
            prop_assert!(before.is_none_or(|before| after.rank() >= before.rank()));
        }
    }

    #[test]
    fn no_order_of_merges_brings_the_departed_back(
        entries in proptest::collection::vec(any_entry(), 0..24),
        sequence in 3..6u64,
    ) {
        let tombstone = entry(0, 3, sequence, 0, true);
        for position in 0..=entries.len() {
            let mut all = entries.clone();
            all.insert(position, tombstone.clone());
            let records = merged(&all);
            prop_assert_eq!(records.catalog().get(tombstone.id()), None);
            let kept = records.catalog().record(tombstone.id()).map(|record| &record.entry);
            prop_assert_eq!(kept, Some(&tombstone));
        }
    }

    #[test]
    fn sums_are_those_of_the_records_after_any_changes(
        changes in proptest::collection::vec((any_entry(), any::<bool>()), 0..40)
    ) {
        let mut records = records(Instant::ZERO);
        for (entry, is_removal) in changes {
            if is_removal {
                records.bury(Instant::ZERO, entry.id());
            } else {
                let _refused = records.accept(Instant::ZERO, entry, 0);
            }
            records.check_invariants();
        }
    }
}

#[test]
fn entries_are_refused_by_the_rules() {
    let minute = Instant::ZERO + Duration::from_secs(60);
    let ahead = |micros: u64| entry(1, 60_000_000 + micros, 0, 0, false);
    let mut foreign = PeerEntry::clone(&entry(1, 0, 0, 0, false));
    foreign.network = NetworkId::from("other");
    let foreign = VerifiedEntry::sign(foreign, &key(1)).unwrap();
    for (what, entry, age_ms, expected) in [
        ("now", ahead(0), 0, Ok(Merged::New)),
        (
            "as far ahead as may be",
            ahead(10_000_000),
            0,
            Ok(Merged::New),
        ),
        (
            "further ahead",
            ahead(10_000_001),
            0,
            Err(Refusal::FromTheFuture),
        ),
        ("old", entry(1, 0, 0, 0, false), 299_999, Ok(Merged::New)),
        (
            "too old",
            entry(1, 0, 0, 0, false),
            300_000,
            Err(Refusal::Stale),
        ),
        ("another network", foreign, 0, Err(Refusal::OtherNetwork)),
    ] {
        let mut records = records(Instant::ZERO);
        assert_eq!(records.accept(minute, entry, age_ms), expected, "{what}");
    }
}

#[test]
fn a_clock_that_is_set_moves_the_horizon() {
    let mut records = records(Instant::ZERO);
    let now = Instant::ZERO + Duration::from_secs(1);
    let entry = entry(1, 100_000_000, 0, 0, false);
    assert_eq!(
        records.accept(now, entry.clone(), 0),
        Err(Refusal::FromTheFuture)
    );
    records.set_wall(now, WallTime::from_micros(EPOCH + 95_000_000));
    assert_eq!(records.accept(now, entry, 0), Ok(Merged::New));
}

#[test]
fn ages_add_up_from_node_to_node_and_end_alike() {
    let entry = entry(1, 0, 0, 0, false);
    let at = |secs: u64| Instant::ZERO + Duration::from_secs(secs);
    let (mut first, mut second) = (records(Instant::ZERO), records(Instant::ZERO));
    first.accept(at(100), entry.clone(), 0).unwrap();
    let passed = first.aged_of(at(300), entry.id()).unwrap();
    assert_eq!(passed.age_ms, 200_000);
    // The other node has been up for a shorter time.
    second.accept(at(10), passed.entry, passed.age_ms).unwrap();
    assert_eq!(second.aged_of(at(60), entry.id()).unwrap().age_ms, 250_000);
    assert_eq!(first.purge(at(399)), None);
    assert_eq!(first.purge(at(400)), Some(entry.clone()));
    assert_eq!(second.purge(at(109)), None);
    assert_eq!(second.purge(at(110)), Some(entry));
}

#[test]
fn what_was_purged_comes_back_only_newer() {
    let mut records = records(Instant::ZERO);
    let old = entry(1, 0, 5, 0, false);
    records.accept(Instant::ZERO, old.clone(), 0).unwrap();
    let purged = Instant::ZERO + Duration::from_secs(300);
    assert_eq!(records.next_purge(), purged);
    assert_eq!(records.purge(purged), Some(old.clone()));
    assert_eq!(records.accept(purged, old.clone(), 1), Err(Refusal::Stale));
    assert_eq!(
        records.accept(purged, entry(1, 0, 6, 0, false), 1),
        Ok(Merged::New)
    );
    records.check_invariants();
    // The grave is forgotten after as long again.
    let later = purged + Duration::from_secs(600);
    assert!(records.purge(later).is_some());
    assert_eq!(records.purge(later + Duration::from_secs(300)), None);
    assert_eq!(records.next_purge(), Instant::FAR_FUTURE);
}

#[test]
fn renewing_an_entry_puts_off_its_purge() {
    let mut records = records(Instant::ZERO);
    let at = |secs: u64| Instant::ZERO + Duration::from_secs(secs);
    for round in 0..100 {
        records
            .accept(at(round * 15), entry(1, 0, round, 0, false), 0)
            .unwrap();
        assert_eq!(records.purge(at(round * 15)), None);
    }
    records.check_invariants();
    assert_eq!(records.purge(at(99 * 15 + 299)), None);
    assert!(records.purge(at(99 * 15 + 300)).is_some());
}

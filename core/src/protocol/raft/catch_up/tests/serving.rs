use std::sync::Arc;

use super::world::{Source, at, config, entry, peer, snapshot, truth};
use crate::protocol::raft::catch_up::{LogView, SnapshotShelf, fetch};
use crate::protocol::raft::{Entry, Index, Message};
use crate::time::Instant;

fn shelf() -> SnapshotShelf {
    SnapshotShelf::new(&config())
}

/// The lowest entry that is kept for others.
fn pinned_from(shelf: &SnapshotShelf, now: Instant) -> Option<Index> {
    const WANTED: Index = Index(30_000);
    let kept = shelf.keep_from(now, WANTED, |_| Some(0));
    Some(kept).filter(|kept| *kept < WANTED)
}

fn position_of(answer: &Message) -> u64 {
    match answer {
        Message::Manifest(Some(manifest)) => manifest.position.index.0,
        other => panic!("{other:?}"),
    }
}

fn has_chunk(shelf: &mut SnapshotShelf, now: Instant, asker: u8, index: u64) -> bool {
    match shelf.chunk(now, peer(asker), entry(index).position(), 0) {
        Message::Chunk {
            bytes: Some(bytes), ..
        } => {
            assert_eq!(bytes, snapshot(index, 2, None).chunks[0]);
            true
        }
        _ => false,
    }
}

#[test]
fn only_what_is_committed_is_served() {
    let source = Source::new(1, &truth(100), 1, 90);
    assert!(source.last_index() > Index(100));
    let answer = fetch(&config(), &source, Index(80), Index(100));
    let Message::Fetched {
        first,
        entries,
        commit,
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!((first, commit), (Index(80), Index(90)));
    assert_eq!(entries, (80..=90).map(entry).collect::<Vec<_>>());
    let answer = fetch(&config(), &source, Index(91), Index(100));
    let gone = Message::Gone {
        first: Index(91),
        kept_from: Index(1),
        commit: Index(90),
    };
    assert_eq!(answer, gone);
}

#[cfg(smalti_mutants)]
#[test]
fn a_mutant_serves_what_is_not_committed() {
    let config = crate::protocol::raft::Config {
        mutant: Some(crate::protocol::Mutant::UncommittedServed),
        ..config()
    };
    let source = Source::new(1, &truth(100), 1, 90);
    let answer = fetch(&config, &source, Index(91), Index(95));
    let Message::Fetched { entries, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(entries.len(), 5);
}

#[test]
fn what_is_no_longer_there_is_said_to_be_gone() {
    let source = Source::new(1, &truth(100), 50, 100);
    for first in [0, 1, 49] {
        let answer = fetch(&config(), &source, Index(first), Index(100));
        let gone = Message::Gone {
            first: Index(first),
            kept_from: Index(50),
            commit: Index(100),
        };
        assert_eq!(answer, gone);
    }
}

#[test]
fn a_reply_is_limited_in_entries_and_bytes() {
    let len_of =
        |source: &Source, first, last| match fetch(&config(), source, Index(first), Index(last)) {
            Message::Fetched { entries, .. } => (
                entries.len(),
                entries.iter().map(Entry::size).sum::<usize>(),
            ),
            other => panic!("{other:?}"),
        };
    let small: Vec<Entry> = (1..=2_000)
        .map(|index| Entry {
            payload: crate::protocol::raft::Payload::Blank,
            ..entry(index)
        })
        .collect();
    let source = Source::new(1, &std::rc::Rc::new(small), 1, 2_000);
    assert_eq!(len_of(&source, 1, u64::MAX).0, 512);
    let source = Source::new(1, &truth(2_000), 1, 2_000);
    let (count, bytes) = len_of(&source, 1, 512);
    assert!(count < 512);
    assert!((256 << 10..260 << 10).contains(&bytes), "{bytes}");
    // However long, one entry always goes.
    let mut builder = crate::protocol::raft::CommandsBuilder::default();
    builder.push(&vec![0; 1 << 20]);
    let mut long = entry(3);
    if let crate::protocol::raft::Payload::Commands(batch) = &mut long.payload {
        batch.commands = builder.take();
    }
    let log = std::rc::Rc::new(vec![entry(1), entry(2), long, entry(4)]);
    let source = Source::new(1, &log, 1, 4);
    assert_eq!(len_of(&source, 3, 4).0, 1);
}

#[test]
fn an_empty_shelf_has_nothing() {
    let mut shelf = shelf();
    let answer = shelf.manifest(at(0), peer(1));
    assert_eq!(answer, Message::Manifest(None));
    assert!(!has_chunk(&mut shelf, at(0), 1, 10));
    assert_eq!(pinned_from(&shelf, at(0)), None);
    assert_eq!(shelf.poll_timeout(), None);
}

#[test]
fn a_snapshot_stays_while_it_is_fetched() {
    let mut shelf = shelf();
    shelf.put(at(0), Arc::new(snapshot(100, 2, None)));
    assert_eq!(position_of(&shelf.manifest(at(0), peer(1))), 100);
    assert_eq!(pinned_from(&shelf, at(0)), Some(Index(101)));
    shelf.put(at(1), Arc::new(snapshot(200, 2, None)));
    shelf.put(at(2), Arc::new(snapshot(300, 2, None)));
    assert!(has_chunk(&mut shelf, at(19_000), 1, 100));
    assert!(!has_chunk(&mut shelf, at(3), 2, 200), "nobody fetched it");
    assert!(has_chunk(&mut shelf, at(3), 2, 300));
    assert_eq!(pinned_from(&shelf, at(3)), Some(Index(101)));
    // It counts from the last request.
    shelf.handle_timeout(at(38_000));
    assert!(has_chunk(&mut shelf, at(38_000), 1, 100));
    assert_eq!(shelf.poll_timeout(), Some(at(58_000)));
    shelf.handle_timeout(at(58_000));
    assert!(!has_chunk(&mut shelf, at(58_000), 1, 100));
    assert_eq!(pinned_from(&shelf, at(58_000)), None);
}

#[test]
fn of_two_snapshots_in_transfer_the_older_stays_beside_the_latest() {
    let mut shelf = shelf();
    shelf.put(at(0), Arc::new(snapshot(100, 2, None)));
    shelf.manifest(at(0), peer(1));
    shelf.put(at(1), Arc::new(snapshot(200, 2, None)));
    shelf.manifest(at(1), peer(2));
    shelf.put(at(2), Arc::new(snapshot(300, 2, None)));
    assert!(has_chunk(&mut shelf, at(3), 1, 100));
    assert!(!has_chunk(&mut shelf, at(3), 2, 200));
    assert_eq!(position_of(&shelf.manifest(at(3), peer(2))), 300);
    // The one who fetched the first is gone: the other's stays now.
    shelf.forget(&peer(1));
    assert!(!has_chunk(&mut shelf, at(4), 1, 100));
    shelf.put(at(5), Arc::new(snapshot(400, 2, None)));
    assert!(has_chunk(&mut shelf, at(6), 2, 300));
    let latest = shelf.latest().map(|snapshot| snapshot.manifest.position);
    assert_eq!(latest, Some(entry(400).position()));
}

#[test]
fn a_pin_lasts_while_entries_after_the_snapshot_are_fetched_and_moves_with_them() {
    let mut shelf = shelf();
    shelf.put(at(0), Arc::new(snapshot(100, 2, None)));
    shelf.manifest(at(0), peer(1));
    shelf.fetches(at(15_000), peer(1), Index(101));
    shelf.fetches(at(15_000), peer(2), Index(101));
    assert_eq!(pinned_from(&shelf, at(30_000)), Some(Index(101)));
    shelf.fetches(at(30_000), peer(1), Index(20_000));
    assert_eq!(
        pinned_from(&shelf, at(49_000)),
        Some(Index(20_000 - 16_384))
    );
    assert_eq!(pinned_from(&shelf, at(50_000)), None);
}

#[test]
fn a_pin_keeps_the_log_up_to_a_limit_of_bytes() {
    let mut shelf = shelf();
    let size = |len: usize| move |_: Index| Some(len);
    let keep = |shelf: &SnapshotShelf, len| shelf.keep_from(at(10), Index(1_001), size(len)).0;
    assert_eq!(keep(&shelf, 1), 1_001);
    shelf.put(at(0), Arc::new(snapshot(100, 2, None)));
    shelf.manifest(at(0), peer(1));
    assert_eq!(keep(&shelf, 1), 101);
    assert_eq!(keep(&shelf, (64 << 20) / 900), 101);
    assert_eq!(keep(&shelf, (64 << 20) / 900 + 1), 1_001);
    // One that needs less is kept where all together are too much.
    shelf.put(at(1), Arc::new(snapshot(900, 2, None)));
    shelf.manifest(at(1), peer(2));
    assert_eq!(keep(&shelf, (64 << 20) / 900), 101);
    assert_eq!(keep(&shelf, (64 << 20) / 900 + 1), 901);
    assert_eq!(keep(&shelf, 64 << 20), 1_001);
    // What lies above the cut is kept anyway, and after a while nothing for others.
    assert_eq!(shelf.keep_from(at(10), Index(50), size(1)), Index(50));
    let later = shelf.keep_from(at(30_000), Index(1_001), size(1));
    assert_eq!(later, Index(1_001));
    // Below what is there, nothing can be kept.
    let kept = shelf.keep_from(at(10), Index(1_001), |index| (index.0 > 500).then_some(1));
    assert_eq!(kept, Index(901));
}

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::LIMIT;
use super::world::{Faults, Lie, Source, World, at, entry, millis, peer, snapshot, truth};
use crate::protocol::raft::catch_up::SnapshotShelf;
use crate::protocol::raft::catch_up::transfer::{CHUNK_LEN_MAX, CHUNKS_MAX};
use crate::protocol::raft::replica::chunk_digest;
use crate::protocol::raft::{Config, Incarnation, Index, Message};
use crate::time::Duration;

const CHUNKS: u32 = 24;

/// A source that has a snapshot at `index` and the log above it, up to 8,000.
fn compacted(number: u8, index: u64, flavour: Option<u8>) -> Source {
    Source::new(number, &truth(8_000), index + 1, 8_000)
        .with_snapshot(snapshot(index, CHUNKS, flavour))
}

fn world(is_canonical: bool, sources: Vec<Source>) -> World {
    World::new(1, &truth(8_000), 10, is_canonical, 1, sources)
}

fn lying(lie: fn(&mut Message)) -> Faults {
    Faults {
        lie: Some(lie),
        ..Faults::default()
    }
}

#[test]
fn where_entries_are_gone_a_snapshot_comes_first() {
    let sources = (1..=4).map(|number| compacted(number, 5_000, None));
    let mut world = world(true, sources.collect());
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 8_000);
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)]);
    assert!(world.source(1).asked.is_empty(), "the leader was asked");
    let mut all = Vec::new();
    for number in 2..=4 {
        let chunks = world.source(number).chunks();
        assert!(chunks.len() >= 4, "{number} served {chunks:?}");
        all.extend(chunks);
    }
    all.sort_unstable();
    assert_eq!(all, (0..CHUNKS).collect::<Vec<_>>(), "each chunk once");
}

#[test]
fn entries_that_one_source_still_has_need_no_snapshot() {
    let truth = truth(8_000);
    let sources = vec![
        compacted(1, 5_000, None),
        compacted(2, 5_000, None),
        Source::new(3, &truth, 1, 5_500),
    ];
    let mut world = world(true, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, []);
}

#[test]
fn the_newest_manifest_is_taken() {
    let sources = vec![
        compacted(1, 6_000, None),
        compacted(2, 4_000, None),
        compacted(3, 5_000, None),
        compacted(4, 3_000, None),
    ];
    let mut world = world(true, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)]);
    assert!(world.source(1).chunks().is_empty());
}

#[test]
fn the_leader_gives_the_snapshot_that_nobody_else_has() {
    let truth = truth(8_000);
    let sources = vec![
        compacted(1, 6_000, None),
        Source::new(2, &truth, 8_001, 8_000),
        Source::new(3, &truth, 1, 5),
    ];
    let mut world = world(false, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, [snapshot(6_000, CHUNKS, None)]);
}

#[test]
fn chunks_that_differ_from_member_to_member_come_from_one() {
    let sources = (1..=4).map(|number| compacted(number, 5_000, Some(number)));
    let mut world = world(false, sources.collect());
    assert!(world.run(LIMIT));
    let askeds: Vec<_> = (1..=4)
        .filter(|number| !world.source(*number).chunks().is_empty())
        .collect();
    assert_eq!(askeds.len(), 1, "{askeds:?}");
    assert_eq!(
        world.restored,
        [snapshot(5_000, CHUNKS, Some(askeds[0]))],
        "nothing is mixed"
    );
}

#[test]
fn members_that_name_the_same_chunks_share_the_work_in_any_case() {
    let sources = (1..=3).map(|number| compacted(number, 5_000, None));
    let mut world = world(false, sources.collect());
    assert!(world.run(LIMIT));
    for number in 2..=3 {
        assert!(!world.source(number).chunks().is_empty());
    }
}

#[test]
fn a_chunk_that_is_not_the_one_named_drops_its_source() {
    // They claim that equal states have equal chunks, and it is not so.
    let sources = vec![
        compacted(1, 5_000, None),
        compacted(2, 5_000, Some(2)),
        compacted(3, 5_000, None),
    ];
    let mut world = world(true, sources);
    assert!(world.run(LIMIT));
    let [restored] = &world.restored[..] else {
        panic!("{} snapshots", world.restored.len());
    };
    assert_eq!(*restored, snapshot(5_000, CHUNKS, None));
    assert!((1..=8).contains(&world.source(2).chunks().len()));
    let last = world.source(2).asked.last();
    assert!(matches!(last, Some(Message::FetchChunk { .. })), "{last:?}");
}

#[test]
fn a_chunk_that_is_too_long_drops_its_source() {
    const LONG: &[u8] = &[0; CHUNK_LEN_MAX + 1];
    let lie = |answer: &mut Message| match answer {
        Message::Manifest(Some(manifest)) => manifest.chunks[0] = chunk_digest(LONG),
        Message::Chunk {
            number: 0, bytes, ..
        } => *bytes = Some(Bytes::from_static(LONG)),
        _ => {}
    };
    let sources = vec![
        compacted(1, 5_000, None),
        compacted(2, 6_000, None).with_faults(lying(lie)),
    ];
    let mut world = world(true, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)]);
}

#[test]
fn a_manifest_that_cannot_be_drops_its_source() {
    let lies: [Lie; 6] = [
        ("beyond all logs", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.position.index = Index(u64::MAX);
            }
        }),
        ("another life", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.incarnation = Incarnation(chunk_digest(b"another"));
            }
        }),
        ("voters of later", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.configured_at = Index(6_001);
            }
        }),
        ("no voters", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.configuration.voters.clear();
            }
        }),
        ("no chunks", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.chunks.clear();
            }
        }),
        ("too many chunks", |answer| {
            if let Message::Manifest(Some(manifest)) = answer {
                manifest.chunks = vec![chunk_digest(b"x"); CHUNKS_MAX + 1];
            }
        }),
    ];
    for (what, lie) in lies {
        let sources = vec![
            compacted(1, 5_000, None),
            compacted(2, 6_000, None).with_faults(lying(lie)),
        ];
        let mut world = world(true, sources);
        assert!(world.run(LIMIT), "{what}");
        assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)], "{what}");
        let after = world.source(2).asked.iter().rev();
        let after = after.take_while(|message| **message != Message::FetchManifest);
        assert_eq!(after.count(), 0, "{what}");
    }
}

#[test]
fn a_snapshot_that_is_lost_on_the_way_is_replaced_and_equal_chunks_are_kept() {
    let sources = vec![compacted(1, 4_000, None)];
    let mut world = world(true, sources);
    while world.source(1).chunks().len() < 14 {
        assert!(world.step());
    }
    let before: BTreeSet<_> = world.source(1).chunks().into_iter().collect();
    if let Some(source) = world.sources.get_mut(&peer(1)) {
        source.shelf = SnapshotShelf::new(&Config::default());
        let newer = snapshot(5_000, CHUNKS, None);
        source.compact(world.now, 8_000, newer, 5_001, false);
        source.asked.clear();
    }
    world.leader_speaks();
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)]);
    let started = world
        .source(1)
        .asked
        .iter()
        .position(|message| *message == Message::FetchManifest);
    let again = &world.source(1).asked[started.unwrap()..];
    let fetched_again = |number: u32| {
        again.iter().any(
            |message| matches!(message, Message::FetchChunk { number: of, .. } if *of == number),
        )
    };
    for number in before.into_iter().filter(|number| *number < 12) {
        assert_eq!(fetched_again(number), number % 2 == 0, "chunk {number}");
    }
}

#[test]
fn when_the_only_holder_vanishes_another_snapshot_is_taken() {
    let vanishes = Faults {
        vanishes: Some((at(35), at(1_000_000))),
        ..Faults::default()
    };
    let sources = vec![
        compacted(1, 5_000, Some(1)),
        compacted(2, 6_000, Some(2)).with_faults(vanishes),
    ];
    let mut world = world(false, sources);
    assert!(world.run(millis(3_000)));
    assert!(!world.source(2).chunks().is_empty());
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, Some(1))]);
}

#[test]
fn when_the_only_holder_falls_silent_another_snapshot_is_taken() {
    let silent = Faults {
        stalls: Some((at(35), at(1_000_000))),
        ..Faults::default()
    };
    let sources = vec![
        compacted(1, 5_000, Some(1)),
        compacted(2, 6_000, Some(2)).with_faults(silent),
    ];
    let mut world = world(false, sources);
    assert!(world.run(Duration::from_secs(60)), "at {}", world.now);
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, Some(1))]);
}

#[test]
fn until_there_is_a_snapshot_it_is_asked_for_now_and_then() {
    let truth = truth(8_000);
    let mut world = world(true, vec![Source::new(1, &truth, 5_001, 8_000)]);
    assert!(!world.run(Duration::from_secs(10)));
    let asked = world.source(1).asked.len();
    assert!((5..=15).contains(&asked), "{asked} in ten seconds");
    if let Some(source) = world.sources.get_mut(&peer(1)) {
        let snapshot = snapshot(5_000, CHUNKS, None);
        source.shelf.put(world.now, Arc::new(snapshot));
    }
    assert!(world.run(LIMIT));
}

#[test]
fn who_lacked_a_snapshot_may_have_it_later() {
    let mut world = world(
        true,
        vec![compacted(1, 5_000, None), compacted(2, 5_000, None)],
    );
    // The other has named the snapshot, and loses it; and so does the leader, until it has it again.
    let empty = || SnapshotShelf::new(&Config::default());
    while world.source(2).chunks().is_empty() {
        assert!(world.step());
    }
    for number in [1, 2] {
        if let Some(source) = world.sources.get_mut(&peer(number)) {
            source.shelf = empty();
        }
    }
    while world.source(1).chunks().is_empty() {
        assert!(world.step());
    }
    assert!(!world.run(Duration::from_secs(3)));
    for number in [1, 2] {
        if let Some(source) = world.sources.get_mut(&peer(number)) {
            let snapshot = snapshot(5_000, CHUNKS, None);
            source.shelf.put(world.now, Arc::new(snapshot));
        }
    }
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, [snapshot(5_000, CHUNKS, None)]);
}

#[test]
fn a_snapshot_that_came_too_late_is_given_up() {
    let mut world = world(true, vec![compacted(1, 5_000, None)]);
    while world.source(1).chunks().len() < 5 {
        assert!(world.step());
    }
    world.catch_up.advance(world.now, entry(5_000).position());
    world.have = 5_000;
    assert!(world.run(LIMIT));
    assert_eq!(world.restored, []);
}

/// A member fetches from a leader that takes a snapshot each second and keeps the log of one second; a
/// snapshot takes many. Whether it gets through within two minutes.
fn gets_through(is_pinning: bool) -> (bool, World) {
    const PACE: u64 = 200;
    let truth = truth(PACE * 140);
    let slow = Faults {
        delay: (200, 200),
        ..Faults::default()
    };
    let leader = Source::new(1, &truth, PACE * 9 + 1, PACE * 10)
        .with_snapshot(snapshot(PACE * 10, 160, None))
        .with_faults(slow);
    let mut world = World::new(1, &truth, 0, true, 1, vec![leader]);
    for second in 1..=120 {
        while world.now < at(1_000 * second) && world.step() {}
        if world.catch_up.is_complete() {
            return (true, world);
        }
        if let Some(leader) = world.sources.get_mut(&peer(1)) {
            let commit = PACE * (10 + second);
            if !is_pinning {
                leader.shelf.forget(&super::world::FETCHER);
            }
            let snapshot = snapshot(commit, 160, None);
            leader.compact(world.now, commit, snapshot, commit - PACE + 1, is_pinning);
        }
        world.leader_speaks();
    }
    (false, world)
}

#[test]
fn a_member_slower_than_compaction_gets_through() {
    let (is_through, world) = gets_through(true);
    assert!(is_through, "at {} with {}", world.now, world.have);
    assert_eq!(world.restored.len(), 1);
    // Without the pin there is no end.
    let (is_through, _) = gets_through(false);
    assert!(
        !is_through,
        "the schedule does not show what the pin is for"
    );
}

mod serving;
mod snapshots;
mod swarm;
mod world;

use bytes::Bytes;

use self::world::{Faults, Lie, Source, World, at, config, entry, member, millis, peer, truth};
use super::sources::{Asked, REQUESTS_MAX, Sources};
use super::{CatchUp, Gained, Gap};
use crate::protocol::raft::{Config, Entry, Index, Message, Payload, Term};
use crate::time::Duration;

const LIMIT: Duration = Duration::from_secs(600);

#[test]
fn parts_of_a_snapshot_are_waited_for_longer_than_entries() {
    let config = Config {
        fetch_timeout: millis(2_000),
        snapshot_request_timeout: millis(7_000),
        ..config()
    };
    let mut sources = Sources::new(peer(2), &config);
    sources.set(&[(member(1), Index(9))], peer(2));
    let entries = Asked::Entries {
        first: Index(1),
        last: Index(9),
    };
    for (asked, patience) in [(entries, 2_000), (Asked::Manifest, 7_000)] {
        sources.ask(at(100), peer(1), asked);
        assert_eq!(sources.deadline(), Some(at(100 + patience)));
        assert_eq!(sources.answered(peer(1), |it| *it == asked), Some(asked));
        assert_eq!(sources.deadline(), None);
    }
}

#[test]
fn a_gap_is_filled_from_all_others_and_the_leader_is_spared() {
    let truth = truth(20_000);
    let sources = (1..=4).map(|number| Source::new(number, &truth, 1, 20_000));
    let mut world = World::new(1, &truth, 10, true, 1, sources.collect());
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 20_000);
    assert!(world.source(1).asked.is_empty(), "the leader was asked");
    for number in 2..=4 {
        let pieces = world.source(number).firsts().len();
        assert!(pieces >= 8, "{number} served {pieces} of 40 pieces");
    }
    assert!(world.most_at_one <= REQUESTS_MAX);
    assert_eq!(world.restored, []);
    // Nothing was asked for twice: 40 pieces, and the rest of those that are too long for one reply.
    let all: usize = (2..=4).map(|number| world.source(number).asked.len()).sum();
    let distinct: usize = (2..=4)
        .map(|number| world.source(number).firsts().len())
        .sum();
    assert_eq!(all, distinct);
}

#[test]
fn a_leader_without_other_members_serves_all() {
    let truth = truth(3_000);
    let mut world = World::new(
        1,
        &truth,
        0,
        true,
        1,
        vec![Source::new(1, &truth, 1, 3_000)],
    );
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 3_000);
    assert!(world.most_at_one <= REQUESTS_MAX);
}

#[test]
fn the_leader_serves_only_what_nobody_else_has() {
    let truth = truth(8_000);
    let sources = vec![
        Source::new(1, &truth, 1, 8_000),
        Source::new(2, &truth, 2_000, 6_000),
        Source::new(3, &truth, 3_000, 7_000),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 8_000);
    let by_leader = world.source(1).firsts();
    assert!(!by_leader.is_empty());
    for first in by_leader {
        assert!(!(2_000..=7_000).contains(&first), "{first} is elsewhere");
    }
}

#[test]
fn a_source_that_is_behind_is_asked_again_when_it_has_come_further() {
    let truth = truth(10_000);
    let slow = Faults {
        delay: (400, 400),
        ..Faults::default()
    };
    let sources = vec![
        Source::new(1, &truth, 1, 10_000).with_faults(slow),
        Source::new(2, &truth, 1, 600),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    world.run(millis(900));
    assert!(world.source(2).asked.len() <= 6, "it is not pestered");
    if let Some(source) = world.sources.get_mut(&peer(2)) {
        source.commit = Index(10_000);
    }
    assert!(world.run(LIMIT));
    let last = world.source(2).firsts().pop_last();
    assert!(last > Some(9_000), "{last:?}");
}

#[test]
fn the_target_moves_with_the_leader() {
    let truth = truth(5_000);
    let sources = vec![
        Source::new(1, &truth, 1, 1_000),
        Source::new(2, &truth, 1, 5_000),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 1_000);
    assert_eq!(world.catch_up.poll_timeout(), None);
    if let Some(leader) = world.sources.get_mut(&peer(1)) {
        leader.commit = Index(5_000);
    }
    world.leader_speaks();
    assert!(!world.catch_up.is_complete());
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 5_000);
}

#[test]
fn what_came_by_other_means_is_not_handed_over() {
    let truth = truth(3_000);
    let sources = vec![Source::new(1, &truth, 1, 3_000)];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    // The answers for what is asked already are of no use then.
    world.catch_up.advance(at(0), entry(1_300).position());
    world.have = 1_300;
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 3_000);
}

#[test]
fn pieces_of_a_source_that_stalls_go_to_others() {
    let truth = truth(20_000);
    let stalls = Faults {
        stalls: Some((at(12), at(1_000_000))),
        ..Faults::default()
    };
    let sources = vec![
        Source::new(1, &truth, 1, 20_000),
        Source::new(2, &truth, 1, 20_000).with_faults(stalls),
        Source::new(3, &truth, 1, 20_000),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(millis(1_500)));
    assert_eq!(world.have, 20_000);
    assert!(world.source(1).asked.is_empty());
}

#[test]
fn a_silent_source_keeps_nobody_waiting_for_long() {
    let truth = truth(100_000);
    let silent = Faults {
        stalls: Some((at(0), at(1_000_000))),
        ..Faults::default()
    };
    let sources = vec![
        Source::new(1, &truth, 1, 100_000),
        Source::new(2, &truth, 1, 100_000).with_faults(silent),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(Duration::from_secs(10)), "at {}", world.now);
}

#[test]
fn an_answer_that_comes_late_is_still_taken() {
    let truth = truth(200);
    let slow = Faults {
        delay: (1_500, 1_500),
        ..Faults::default()
    };
    let sources = vec![Source::new(1, &truth, 1, 200).with_faults(slow)];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(millis(3_000)));
    assert_eq!(world.source(1).asked.len(), 1);
}

#[test]
fn pieces_of_a_source_that_vanishes_go_to_others_at_once() {
    let truth = truth(4_000);
    let vanishes = Faults {
        delay: (100, 100),
        vanishes: Some((at(150), at(1_000_000))),
        ..Faults::default()
    };
    let sources = vec![
        Source::new(1, &truth, 1, 4_000),
        Source::new(2, &truth, 1, 4_000).with_faults(vanishes),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(world.run(millis(400)));
}

#[test]
fn a_source_in_another_life_is_another_source() {
    let truth = truth(2_000);
    let lies = Faults {
        lie: Some(|answer| {
            if let Message::Fetched { entries, .. } = answer {
                entries.clear();
            }
        }),
        ..Faults::default()
    };
    let sources = vec![
        Source::new(1, &truth, 1, 2_000).with_faults(lies),
        Source::new(2, &truth, 1, 0),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(!world.run(LIMIT));
    assert!(world.catch_up.has_sources());
    if let Some(source) = world.sources.get_mut(&peer(1)) {
        source.member.instance = crate::id::Instance::from_bytes([100; 16]);
        source.faults.lie = None;
    }
    world.bonds_changed();
    assert!(world.run(LIMIT));
}

/// What a source may send that no honest one does.
const LIES: [Lie; 11] = [
    ("another first entry", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            entries.remove(0);
        }
    }),
    ("a hole", |answer| {
        if let Message::Fetched { entries, .. } = answer
            && entries.len() > 2
        {
            entries.remove(entries.len() / 2);
        }
    }),
    ("more than was asked for", |answer| {
        if let Message::Fetched { entries, .. } = answer
            && let Some(last) = entries.last()
        {
            let more = last.index.0 + 1..last.index.0 + 600;
            entries.extend(more.map(entry));
        }
    }),
    ("more than it has committed", |answer| {
        if let Message::Fetched { commit, first, .. } = answer {
            *commit = Index(first.0 + 3);
        }
    }),
    ("terms that fall", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            entries[3].term = Term(900);
        }
    }),
    ("term zero", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            entries[0].term = Term(0);
        }
    }),
    ("nothing, though it is committed", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            entries.clear();
        }
    }),
    ("a founding within the log", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            entries[5].payload = entry(1).payload;
        }
    }),
    ("no founding, or one of another life", |answer| {
        if let Message::Fetched { entries, .. } = answer
            && let Payload::Founding(charter) = &mut entries[0].payload
        {
            charter.nonce = [8; 32];
        }
    }),
    ("commands that are none", |answer| {
        if let Message::Fetched { entries, .. } = answer {
            let Payload::Commands(batch) = &mut entries[2].payload else {
                panic!("there are commands at 3");
            };
            let encoded = postcard::to_allocvec(&(2_u32, Bytes::from_static(&[9, 9])));
            batch.commands = postcard::from_bytes(&encoded.unwrap()).unwrap();
        }
    }),
    ("gone, though it is kept", |answer| {
        if let Message::Fetched { first, commit, .. } = *answer {
            *answer = Message::Gone {
                first,
                kept_from: first,
                commit,
            };
        }
    }),
];

#[test]
fn a_source_that_lies_is_not_asked_again() {
    for (what, lie) in LIES {
        let truth = truth(400);
        let lies = Faults {
            lie: Some(lie),
            ..Faults::default()
        };
        let sources = vec![
            Source::new(1, &truth, 1, 400),
            Source::new(2, &truth, 1, 400).with_faults(lies),
        ];
        let mut world = World::new(1, &truth, 0, true, 1, sources);
        assert!(world.run(LIMIT), "{what}");
        assert_eq!(world.source(2).asked.len(), 1, "{what}");
        assert!(!world.source(1).asked.is_empty(), "{what}");
    }
}

#[test]
fn terms_that_fall_from_piece_to_piece_drop_the_source() {
    let gap = Gap {
        incarnation: world::incarnation(),
        have: Index(1_099),
        target: Index(3_000),
        is_canonical: true,
    };
    let sources: Vec<_> = [1, 2, 3].map(|number| (member(number), Index::ZERO)).into();
    let mut catch_up = CatchUp::new(at(0), &config(), &gap, &sources, peer(1), Index(1));
    let asked: Vec<_> = std::iter::from_fn(|| catch_up.poll_message()).collect();
    let whom = |first| {
        let is_such =
            |message: &Message| matches!(message, Message::Fetch { first: of, .. } if *of == first);
        let found = asked.iter().find(|(_, message)| is_such(message));
        found.map(|(peer, _)| *peer).unwrap()
    };
    let (honest, liar) = (whom(Index(1_100)), whom(Index(1_612)));
    assert_ne!(honest, liar);
    let false_entries = (1_612..=2_123).map(|index| Entry {
        term: Term(1),
        ..entry(index)
    });
    let (first, commit) = (Index(1_612), Index(3_000));
    catch_up.fetched(at(5), liar, first, false_entries.collect(), commit);
    let true_entries: Vec<_> = (1_100..=1_611).map(entry).collect();
    catch_up.fetched(at(6), honest, Index(1_100), true_entries.clone(), commit);
    assert_eq!(
        catch_up.poll_gained(),
        Some(Gained::Entries(true_entries)),
        "and nothing more"
    );
    assert_eq!(catch_up.poll_gained(), None);
    let asked: Vec<_> = std::iter::from_fn(|| catch_up.poll_message()).collect();
    assert!(
        asked.iter().any(
            |(_, message)| matches!(message, Message::Fetch { first, .. } if first.0 == 1_612)
        )
    );
    assert!(asked.iter().all(|(peer, _)| *peer != liar), "{asked:?}");
}

#[test]
fn what_was_not_asked_for_is_ignored() {
    let truth = truth(5_000);
    let sources = vec![
        Source::new(1, &truth, 1, 5_000),
        Source::new(2, &truth, 1, 5_000),
    ];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    let wrong = Entry {
        term: Term(9),
        index: Index(1),
        payload: Payload::Blank,
    };
    // The leader was not asked, and the other not for this.
    for (from, first) in [(1, 1), (2, 2), (9, 1)] {
        let fetched = Message::Fetched {
            first: Index(first),
            entries: vec![wrong.clone()],
            commit: Index(5_000),
        };
        world.deliver(peer(from), fetched);
        let gone = Message::Gone {
            first: Index(first),
            kept_from: Index(9_999),
            commit: Index(9_999),
        };
        world.deliver(peer(from), gone);
        world.deliver(peer(from), Message::Manifest(None));
        world.deliver(
            peer(from),
            Message::Chunk {
                position: entry(9).position(),
                number: 0,
                bytes: None,
            },
        );
    }
    assert!(world.run(LIMIT));
    assert_eq!(world.have, 5_000);
    assert!(world.source(1).asked.is_empty());
}

#[test]
fn without_anybody_honest_a_new_catch_up_is_needed() {
    let truth = truth(400);
    let lies = Faults {
        lie: Some(LIES[0].1),
        ..Faults::default()
    };
    let sources = vec![Source::new(1, &truth, 1, 400).with_faults(lies)];
    let mut world = World::new(1, &truth, 0, true, 1, sources);
    assert!(!world.run(LIMIT));
    assert!(!world.catch_up.has_sources());
    assert_eq!(world.catch_up.poll_timeout(), None);
}

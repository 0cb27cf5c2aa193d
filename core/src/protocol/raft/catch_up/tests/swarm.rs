//! Random worlds: whatever goes wrong, the member ends with the committed entries, in order.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::world::{Faults, Source, World, at, snapshot, truth};
use super::{LIES, LIMIT};
use crate::protocol::raft::Message;

const SEEDS: u64 = 400;

fn random_faults(rng: &mut ChaCha8Rng, is_leader: bool) -> Faults {
    let slowest = [5, 50, 300, 1_800][rng.random_range(0..4_usize)];
    let from = rng.random_range(0..5_000_u64);
    let interval = Some((at(from), at(from + rng.random_range(1..60_000_u64))));
    let flip = |answer: &mut Message| {
        if let Message::Chunk {
            bytes: Some(bytes), ..
        } = answer
        {
            *bytes = [&b"!"[..], &bytes[..]].concat().into();
        }
    };
    let lies = [0, 1, 2, 3, 6, 10].map(|lie| LIES[lie].1);
    let lie = match rng.random_range(0..24_usize) {
        at if is_leader || at > lies.len() => None,
        at => Some(lies.get(at).copied().unwrap_or(flip)),
    };
    Faults {
        lost: [0, 0, 2, 20][rng.random_range(0..4_usize)],
        twice: [0, 0, 30][rng.random_range(0..3_usize)],
        delay: (rng.random_range(1..=slowest), slowest),
        stalls: interval.filter(|_| rng.random_range(0..4_u32) == 0),
        vanishes: interval.filter(|_| rng.random_range(0..4_u32) == 0),
        lie,
    }
}

fn random_world(seed: u64) -> World {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let len = rng.random_range(1..6_000_u64);
    let truth = truth(len);
    let have = rng.random_range(0..len);
    let is_canonical = rng.random_range(0..2_u32) == 0;
    let leader = rng.random_range(1..=5_u8);
    let interval = rng.random_range(50..1_500_u64);
    let is_compact = rng.random_range(0..2_u32) == 0;
    let mut sources = Vec::new();
    for number in 1..=rng.random_range(leader..=6) {
        let commit = if number == leader || rng.random_range(0..2_u32) == 0 {
            len
        } else {
            rng.random_range(0..=len)
        };
        let at = rng.random_range(0..=commit / interval) * interval;
        let kept_from = if at == 0 || is_compact {
            at + 1
        } else {
            rng.random_range(1..=at + 1)
        };
        let mut source = Source::new(number, &truth, kept_from, commit);
        if at > 0 {
            let flavour = Some(number).filter(|_| !is_canonical);
            source = source.with_snapshot(snapshot(at, 1 + len as u32 % 40, flavour));
        }
        sources.push(source.with_faults(random_faults(&mut rng, number == leader)));
    }
    World::new(seed, &truth, have, is_canonical, leader, sources)
}

#[test]
fn whatever_goes_wrong_the_end_is_the_log() {
    let mut restored = 0;
    let mut without_leader = 0;
    for seed in 0..SEEDS {
        let mut world = random_world(seed);
        assert!(world.run(LIMIT), "seed {seed} is at {}", world.have);
        assert_eq!(world.have, world.truth.len() as u64, "seed {seed}");
        for restored in &world.restored {
            let index = restored.manifest.position.index.0;
            let chunks = restored.chunks.len() as u32;
            let is_whole = (0..=6).any(|number| {
                let flavour = Some(number).filter(|number| *number > 0);
                *restored == snapshot(index, chunks, flavour)
            });
            assert!(is_whole, "seed {seed}: mixed at {index}");
        }
        restored += u32::from(!world.restored.is_empty());
        without_leader += u32::from(world.sources[&world.leader].asked.is_empty());
    }
    // The worlds are of all kinds.
    assert!((50..350).contains(&restored), "{restored}");
    assert!((20..380).contains(&without_leader), "{without_leader}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let mut all = Vec::new();
    for seed in 0..20 {
        let [first, second] = [seed, seed].map(|seed| {
            let mut world = random_world(seed);
            world.run(LIMIT);
            world.trace
        });
        assert_eq!(first, second, "seed {seed}");
        all.extend(first);
    }
    assert!(all.len() > 300, "{} requests", all.len());
}

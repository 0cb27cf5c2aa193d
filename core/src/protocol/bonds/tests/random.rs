//! Random runs of three to five nodes. The world checks every frame and every event, the machines themselves after
//! each step.

use proptest::prelude::*;

use super::world::{SECOND, World};
use crate::time::Duration;

#[derive(Clone, Debug)]
enum Op {
    Break(usize, usize),
    Cut(usize, usize, bool),
    Stall(usize, usize, bool),
    Restart(usize),
    Pause(usize, u64),
    Join(usize, u8),
    Leave(usize, u8),
    Announce(usize),
    Send(usize, u8, usize, bool),
    Flood(usize, u8, usize),
}

fn ops() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let node = 0..5usize;
    let group = 1..4u8;
    let op = prop_oneof![
        2 => (node.clone(), node.clone()).prop_map(|(a, b)| Op::Break(a, b)),
        2 => (node.clone(), node.clone(), any::<bool>()).prop_map(|(a, b, on)| Op::Cut(a, b, on)),
        2 => (node.clone(), node.clone(), any::<bool>()).prop_map(|(a, b, on)| Op::Stall(a, b, on)),
        1 => node.clone().prop_map(Op::Restart),
        1 => (node.clone(), 0..8_000u64).prop_map(|(a, ms)| Op::Pause(a, ms)),
        2 => (node.clone(), group.clone()).prop_map(|(a, group)| Op::Join(a, group)),
        2 => (node.clone(), group.clone()).prop_map(|(a, group)| Op::Leave(a, group)),
        1 => node.clone().prop_map(Op::Announce),
        6 => (node.clone(), group.clone(), node.clone(), any::<bool>())
            .prop_map(|(a, group, b, wait)| Op::Send(a, group, b, wait)),
        1 => (node.clone(), group, node).prop_map(|(a, group, b)| Op::Flood(a, group, b)),
    ];
    // Mostly within a round trip of each other, now and then after a while.
    let pause = prop_oneof![4 => 0..30u64, 2 => 0..400u64, 1 => 0..7_000u64];
    prop::collection::vec((pause, op), 1..60)
}

/// Node 4 has another key in group 3 than all others.
fn key_of(node: usize, group: u8) -> u8 {
    if (node, group) == (4, 3) { 99 } else { group }
}

fn apply(world: &mut World, op: &Op) {
    let size = world.ids.len();
    let (a, b) = match *op {
        Op::Break(a, b) | Op::Cut(a, b, _) | Op::Stall(a, b, _) => (a, b),
        Op::Send(a, _, b, _) | Op::Flood(a, _, b) => (a, b),
        Op::Restart(a) | Op::Pause(a, _) | Op::Join(a, _) | Op::Leave(a, _) | Op::Announce(a) => {
            (a, a + 1)
        }
    };
    let (a, b) = (a % size, b % size);
    if a == b {
        return;
    }
    match *op {
        Op::Break(..) => world.break_links(a, b),
        Op::Cut(_, _, on) => world.set_cut(a, b, on),
        Op::Stall(_, _, on) => world.set_stalled(a, b, on),
        Op::Restart(_) => {
            let groups: Vec<u8> = world
                .node(a)
                .groups
                .keys()
                .map(|id| id.as_bytes()[0])
                .collect();
            world.crash(a);
            world.start(a);
            for group in groups {
                world.join(a, group, key_of(a, group));
            }
        }
        Op::Pause(_, ms) => world.pause(a, Duration::from_millis(ms)),
        Op::Join(_, group) => world.join(a, group, key_of(a, group)),
        Op::Leave(_, group) => world.leave(a, group),
        Op::Announce(_) => world.announce(a),
        Op::Send(_, group, _, wait) => {
            world.send(a, group, b, wait);
        }
        Op::Flood(_, group, _) => {
            for _ in 0..50 {
                world.send(a, group, b, false);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn bonds_come_about_at_both_ends_whatever_happened(
        seed in any::<u64>(),
        size in 3..6usize,
        ops in ops(),
    ) {
        let mut world = World::with_groups(seed, size, &[1]);
        for (pause, op) in &ops {
            world.run(Duration::from_millis(*pause));
            apply(&mut world, op);
        }
        for a in 0..size {
            for b in 0..a {
                world.set_cut(a, b, false);
                world.set_stalled(a, b, false);
            }
        }
        // Pauses of 8 s at most, silence of 5 s, a redial of 5 s, an offer again after 30 s.
        world.run(SECOND * 50);
        for group in 1..4u8 {
            for a in 0..size {
                for b in 0..size {
                    let member = |node: usize| {
                        world.node(node).groups.contains_key(&super::world::group(group))
                    };
                    let expected = a != b
                        && member(a)
                        && member(b)
                        && key_of(a, group) == key_of(b, group);
                    prop_assert_eq!(
                        world.is_bonded(a, group, b),
                        expected,
                        "group {}, {} with {}", group, a, b
                    );
                    if expected {
                        let before = world.node(b).received.len();
                        prop_assert!(world.send(a, group, b, false));
                        world.run(SECOND / 5);
                        prop_assert_eq!(world.node(b).received.len(), before + 1);
                    }
                }
            }
        }
    }
}

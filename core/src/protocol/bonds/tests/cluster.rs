//! Whole networks, step by step.

use super::super::*;
use super::world::{SECOND, World, group};
use crate::time::Duration;
use crate::wire::CloseCode;

fn assert_mesh(world: &World, numbers: &[u8]) {
    let size = world.ids.len();
    for &number in numbers {
        for a in 0..size {
            for b in 0..a {
                assert!(world.are_bonded(number, a, b), "{number}: {a} and {b}");
            }
        }
    }
}

fn losses(world: &World, index: usize) -> Vec<Loss> {
    let events = world.node(index).events.iter();
    events
        .filter_map(|event| match event {
            Event::Unbonded { why, .. } => Some(*why),
            _ => None,
        })
        .collect()
}

#[test]
fn members_bond_soon_and_once() {
    let mut world = World::with_groups(1, 5, &[1]);
    world.run(SECOND / 2);
    assert_mesh(&world, &[1]);
    for index in 0..5 {
        assert_eq!(losses(&world, index), [], "{index}");
    }
    assert_eq!(
        world.dials, 10,
        "the greater id waits for the smaller to dial"
    );
}

#[test]
fn two_hundred_groups_share_their_links_and_their_heartbeats() {
    let numbers: Vec<u8> = (0..200).collect();
    let mut world = World::with_groups(1, 5, &numbers);
    world.run(SECOND * 2);
    assert_mesh(&world, &numbers);
    for index in 0..5 {
        assert_eq!(world.node(index).machine.links(), 4);
    }
    let before = world.frames;
    world.run(SECOND * 60);
    let per_link = (world.frames - before) / 10;
    // Both ends ping about twice a second, and answer.
    assert!(
        (300..500).contains(&per_link),
        "{per_link} frames in a minute"
    );
    assert_mesh(&world, &numbers);
}

#[test]
fn signs_of_life_of_many_groups_share_frames() {
    let numbers: Vec<u8> = (0..100).collect();
    let mut world = World::with_groups(1, 2, &numbers);
    world.run(SECOND);
    let before = world.frames;
    for &number in &numbers {
        assert!(world.send(0, number, 1, true));
        world.run(Duration::from_millis(1));
    }
    world.run(SECOND / 10);
    assert_eq!(world.node(1).received.len(), 100);
    assert!(
        world.frames - before < 10,
        "{} frames",
        world.frames - before
    );
}

#[test]
fn what_is_urgent_goes_at_once_and_takes_along_what_waits() {
    let mut world = World::with_groups(1, 2, &[1, 2]);
    world.run(SECOND);
    world.latency = Duration::ZERO;
    world.send(0, 1, 1, true);
    world.run(Duration::from_millis(6));
    assert_eq!(world.node(1).received.len(), 0);
    world.send(0, 2, 1, false);
    world.run(Duration::from_millis(6));
    assert_eq!(world.node(1).received.len(), 2);
}

#[test]
fn both_dialling_at_once_leaves_one_link() {
    for seed in 0..20 {
        let mut world = World::new(seed, 2);
        world.start(0);
        world.start(1);
        world.join(0, 1, 1);
        world.join(1, 1, 1);
        world.run(Duration::from_millis(30));
        // Both find their link gone, and dial while the other does.
        for _ in 0..10 {
            world.break_links(0, 1);
            world.run(SECOND / 3);
        }
        world.run(SECOND * 6);
        assert_mesh(&world, &[1]);
        assert_eq!(world.node(0).machine.links(), 1);
        assert_eq!(world.node(1).machine.links(), 1);
        let before = world.dials;
        world.run(SECOND * 60);
        assert_eq!(world.dials, before);
    }
}

#[test]
fn a_restarted_peer_is_bonded_again_at_once() {
    let mut world = World::with_groups(1, 3, &[1]);
    world.run(SECOND);
    // Nobody hears of its end.
    for other in [0, 1] {
        world.set_stalled(other, 2, true);
    }
    world.crash(2);
    for other in [0, 1] {
        world.set_stalled(other, 2, false);
    }
    world.start(2);
    world.join(2, 1, 1);
    world.run(SECOND);
    assert_mesh(&world, &[1]);
    assert_eq!(losses(&world, 0), [Loss::Replaced]);
}

#[test]
fn who_leaves_a_group_is_unbonded_there_alone() {
    let mut world = World::with_groups(1, 3, &[1, 2]);
    world.run(SECOND);
    assert!(world.send(2, 1, 0, true), "its last words");
    world.leave(2, 1);
    world.run(SECOND);
    assert!(!world.is_bonded(0, 1, 2) && !world.is_bonded(2, 1, 0));
    assert!(world.are_bonded(1, 0, 1));
    assert_mesh(&world, &[2]);
    assert_eq!(losses(&world, 0), [Loss::Departed]);
    assert_eq!(losses(&world, 2), [Loss::Left, Loss::Left]);
    assert_eq!(world.node(0).received.len(), 1);
    world.join(2, 1, 1);
    world.run(SECOND);
    assert_mesh(&world, &[1, 2]);
}

#[test]
fn a_link_that_no_group_needs_is_closed() {
    let mut world = World::with_groups(1, 2, &[1]);
    world.run(SECOND);
    world.leave(0, 1);
    world.run(SECOND * 10);
    assert_eq!(world.node(0).machine.links(), 0);
    assert_eq!(world.node(1).machine.links(), 0);
    let before = world.dials;
    world.run(SECOND * 60);
    assert_eq!(world.dials, before);
}

#[test]
fn nodes_with_different_keys_never_bond_and_stop_trying() {
    let mut world = World::new(1, 3);
    for index in 0..3 {
        world.start(index);
        // Node 2 says that it is in the group, and has another key.
        world.join(index, 1, if index == 2 { 9 } else { 1 });
    }
    world.run(SECOND * 30);
    assert!(world.are_bonded(1, 0, 1));
    assert_eq!(losses(&world, 0), []);
    let refused = |index: usize, peer: usize, why| {
        let peer = world.ids[peer];
        let event = Event::Refused {
            group: group(1),
            peer,
            why,
        };
        let events = world.node(index).events.iter();
        events.filter(|had| **had == event).count()
    };
    for (index, peer) in [(0, 2), (1, 2), (2, 0), (2, 1)] {
        let times =
            refused(index, peer, Refusal::NotProved) + refused(index, peer, Refusal::Distrusted);
        assert!((1..=2).contains(&times), "{index} of {peer}: {times}");
        assert!(!world.is_bonded(index, 1, peer));
    }
    assert_eq!(world.node(2).machine.links(), 0, "useless links are closed");
    let before = world.dials;
    world.run(SECOND * 60);
    assert_eq!(world.dials, before);
}

#[test]
fn a_stalled_peer_is_given_up_and_found_again() {
    let mut world = World::with_groups(1, 3, &[1]);
    world.run(SECOND);
    world.set_stalled(0, 1, true);
    world.run(SECOND * 4);
    assert_mesh(&world, &[1]);
    world.run(SECOND * 3);
    assert!(!world.is_bonded(0, 1, 1) && !world.is_bonded(1, 1, 0));
    assert!(matches!(
        losses(&world, 0)[..],
        [Loss::Silent | Loss::Stalled]
    ));
    assert!(world.are_bonded(1, 0, 2) && world.are_bonded(1, 1, 2));
    world.set_stalled(0, 1, false);
    world.run(SECOND * 6);
    assert_mesh(&world, &[1]);
}

#[test]
fn a_node_that_did_not_run_gives_nobody_up_for_it() {
    let mut world = World::with_groups(1, 3, &[1]);
    world.run(SECOND);
    // Shorter than the others' patience, longer than what two missed pings would be.
    world.pause(1, SECOND * 4);
    world.run(SECOND * 6);
    assert_mesh(&world, &[1]);
    world.pause(1, SECOND * 20);
    world.run(SECOND * 19);
    assert_eq!(losses(&world, 0), [Loss::Silent]);
    world.run(SECOND * 8);
    assert_mesh(&world, &[1]);
    assert!(
        !losses(&world, 1).contains(&Loss::Silent),
        "{:?}",
        losses(&world, 1)
    );
}

#[test]
fn the_round_trip_time_is_measured() {
    let mut world = World::with_groups(1, 2, &[1]);
    world.latency = Duration::from_millis(40);
    world.run(SECOND * 20);
    let bonds: Vec<_> = world.node(0).machine.topology(group(1)).collect();
    let [info] = bonds[..] else {
        panic!("{bonds:?}");
    };
    assert_eq!(info.peer, world.ids[1]);
    assert!(matches!(info.state, BondState::Bonded { since } if since.as_nanos() > 0));
    let rtt = info.rtt.unwrap();
    assert!((80..95).contains(&rtt.as_millis()), "{rtt:?}");
}

#[test]
fn the_view_follows_a_bond_from_first_to_last() {
    let mut world = World::new(1, 2);
    world.start(0);
    world.start(1);
    world.set_cut(0, 1, true);
    world.join(0, 1, 1);
    world.join(1, 1, 1);
    let state = |world: &World| {
        let mut bonds = world.node(0).machine.topology(group(1));
        bonds.next().map(|info| info.state)
    };
    assert_eq!(state(&world), None);
    world.run(SECOND * 10);
    assert!(matches!(state(&world), Some(BondState::Unlinked { .. })));
    world.set_cut(0, 1, false);
    world.run(SECOND * 6);
    assert!(matches!(state(&world), Some(BondState::Bonded { .. })));
    world.leave(1, 1);
    world.run(SECOND / 50);
    assert!(matches!(state(&world), Some(BondState::Apart(None))));
    world.leave(0, 1);
    assert_eq!(state(&world), None);
}

#[test]
fn shutting_down_takes_leave_and_closes_in_good_order() {
    let mut world = World::with_groups(1, 3, &[1, 2]);
    world.run(SECOND);
    world.send(0, 1, 1, true);
    world.input(0, Input::Close);
    world.run(SECOND / 10);
    assert_eq!(losses(&world, 1), [Loss::Departed; 2]);
    assert_eq!(world.node(1).received.len(), 1);
    assert_eq!(world.node(0).machine.links(), 0);
    world.run(SECOND * 60);
    assert!(world.are_bonded(1, 1, 2) && world.are_bonded(2, 1, 2));
    assert_eq!(CloseCode::GRACEFUL_SHUTDOWN.as_u32(), 204);
}

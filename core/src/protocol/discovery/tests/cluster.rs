//! What many nodes come to together.

use super::super::*;
use super::harness::Net;
use crate::id::Tag;
use crate::time::{Duration, Instant, WallTime};

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A network in which all started at once and join through the first.
fn started(seed: u64, size: usize) -> Net {
    let mut net = Net::new(seed, size);
    for index in 0..size {
        net.start(index, (index > 0).then_some(0));
    }
    net
}

fn converged(seed: u64, size: usize) -> Net {
    let mut net = started(seed, size);
    assert!(
        net.run_until(Instant::ZERO + secs(10), Net::has_converged),
        "{size} nodes"
    );
    net
}

#[test]
fn nodes_that_start_together_find_each_other() {
    for (size, within) in [(2, 1), (3, 1), (8, 2), (64, 4)] {
        for seed in 0..5 {
            let mut net = started(seed, size);
            let end = Instant::ZERO + secs(within);
            assert!(
                net.run_until(end, Net::has_converged),
                "{size} nodes, seed {seed}"
            );
            assert!(
                net.run_until(end + secs(20), Net::is_connected),
                "{size} nodes, seed {seed}"
            );
        }
    }
}

#[test]
fn a_change_reaches_everyone_at_once() {
    let mut net = converged(1, 32);
    net.run(secs(20));
    let at = net.now;
    let tags = vec![Tag::from("new")];
    net.request(7, 1, Command::Local(LocalChange::AddTags(tags)));
    assert!(!net.has_converged());
    assert!(net.run_until(at + secs(1), Net::has_converged));
    assert_eq!(net.nodes[&net.ids[7]].done[&1], Ok(()));
}

#[test]
fn a_node_that_leaves_is_gone_at_once() {
    let mut net = converged(2, 16);
    net.run(secs(20));
    let (left, at) = (net.ids[5], net.now);
    net.request(5, 1, Command::Leave);
    assert!(net.nodes[&left].has_left);
    assert_eq!(net.nodes[&left].done[&1], Ok(()));
    assert!(net.run_until(at + secs(1), Net::has_converged));
    for index in (0..16).filter(|index| *index != 5) {
        let departures = net
            .events(index)
            .iter()
            .filter(|event| **event == Event::PeerDeparted(left));
        assert_eq!(departures.count(), 1, "node {index}");
    }
    assert!(net.run_until(net.now + secs(10), Net::is_connected));
}

#[test]
fn a_node_that_crashes_is_purged_everywhere_and_does_not_come_back() {
    let mut net = converged(3, 16);
    net.run(secs(20));
    net.crash(5);
    let at = net.now;
    net.run(secs(250));
    assert!(
        !net.has_converged(),
        "a silent peer counts until purge_after"
    );
    assert!(net.run_until(at + secs(305), Net::has_converged));
    let events = |net: &Net| {
        (0..16)
            .filter(|i| *i != 5)
            .map(|i| net.events(i).len())
            .sum::<usize>()
    };
    let before = events(&net);
    net.run(secs(400));
    assert!(net.has_converged());
    assert_eq!(events(&net), before, "the purged peer came and went again");
}

#[test]
fn the_departed_stay_departed_though_one_node_missed_it() {
    let mut net = converged(4, 12);
    net.run(secs(20));
    // Node 11 hears nothing while node 5 leaves.
    for other in 0..11 {
        net.set_cut(11, other, true);
    }
    net.run(secs(5));
    net.request(5, 1, Command::Leave);
    net.run(secs(60));
    let left = net.ids[5];
    assert!(
        net.machine(11).catalog().get(&left).is_some(),
        "node 11 has missed it"
    );
    let events = |net: &Net| {
        (0..11)
            .filter(|i| *i != 5)
            .map(|i| net.events(i).len())
            .sum::<usize>()
    };
    let before = events(&net);
    for other in 0..11 {
        net.set_cut(11, other, false);
    }
    assert!(net.run_until(net.now + secs(60), Net::has_converged));
    net.run(secs(400));
    assert!(net.has_converged());
    assert_eq!(
        events(&net),
        before,
        "the departed peer was discovered again"
    );
}

#[test]
fn a_restart_under_an_earlier_clock_is_not_ignored() {
    let mut net = converged(5, 8);
    let before = net.machine(5).local().version();
    net.crash(5);
    net.run(secs(2));
    let config = Config {
        bootstrap: vec![net.address(0)],
        ..Config::default()
    };
    let wall = WallTime::from_micros(net.wall().as_micros() - 9_000_000);
    assert!(wall < before.started_at);
    net.start_with(5, config, wall);
    assert!(net.run_until(net.now + secs(2), Net::has_converged));
    assert!(net.machine(5).local().version() > before);
}

#[test]
fn a_restart_after_leaving_is_a_discovery() {
    let mut net = converged(6, 8);
    net.request(5, 1, Command::Leave);
    net.run(secs(2));
    net.crash(5);
    net.start(5, Some(0));
    assert!(net.run_until(net.now + secs(5), Net::has_converged));
}

#[test]
fn the_halves_of_a_network_cut_in_two_become_one_again() {
    // Shorter than purge_after, and so long that each half has forgotten the other.
    for (seed, cut) in [(1, 30), (2, 120), (3, 700), (4, 700)] {
        let mut net = converged(seed, 24);
        net.run(secs(20));
        net.set_split(12, true);
        net.run(secs(cut));
        if cut > 300 {
            assert_eq!(net.machine(0).catalog().peers_count(), 11);
        }
        net.set_split(12, false);
        let tags = vec![Tag::from("since")];
        net.request(20, 1, Command::Local(LocalChange::AddTags(tags)));
        let end = net.now + secs(120);
        assert!(net.run_until(end, Net::has_converged), "seed {seed}");
        assert!(net.run_until(end, Net::is_connected), "seed {seed}");
    }
}

#[test]
fn halves_without_a_common_bootstrap_peer_remember_whom_they_lost() {
    let mut net = Net::new(12, 16);
    for index in 0..16 {
        let bootstrap = [0, 8]
            .into_iter()
            .find(|first| index > *first && index < first + 8);
        net.start(index, bootstrap);
    }
    net.run(secs(5));
    let peers = vec![net.address(0)];
    net.request(8, 1, Command::Dial(peers));
    assert!(net.run_until(net.now + secs(30), Net::has_converged));
    net.run(secs(60));
    net.set_split(8, true);
    net.run(secs(700));
    assert_eq!(net.machine(3).catalog().peers_count(), 7);
    net.set_split(8, false);
    assert!(net.run_until(net.now + secs(120), Net::has_converged));
}

#[test]
fn two_cliques_with_full_views_find_each_other() {
    // Twelve nodes that know all of each other, but whose links lie within two halves.
    let mut net = Net::new(7, 12);
    net.set_split(6, true);
    for index in 0..12 {
        net.start(index, Some(if index < 6 { 0 } else { 6 }));
    }
    net.run(secs(20));
    for index in 0..12 {
        assert_eq!(net.machine(index).neighbours().len(), 5);
    }
    net.set_split(6, false);
    let entry = net.machine(0).local().clone();
    net.request(7, 1, Command::Feed(entry));
    assert!(net.run_until(net.now + secs(60), Net::has_converged));
    assert!(net.run_until(net.now + secs(60), Net::is_connected));
}

#[test]
fn links_that_fail_are_made_up_for() {
    let mut net = converged(8, 32);
    for round in 0..50 {
        let index = round * 7 % 32;
        let id = net.ids[index];
        for neighbour in net.machine(index).neighbours().to_vec() {
            net.break_link(id, neighbour);
        }
        let tags = vec![Tag::from(round.to_string())];
        net.request(
            index,
            round as u64,
            Command::Local(LocalChange::AddTags(tags)),
        );
        net.run(Duration::from_millis(700));
    }
    assert!(net.run_until(net.now + secs(3), Net::has_converged));
    assert!(net.run_until(net.now + secs(3), Net::is_connected));
}

#[test]
fn crashes_of_many_leave_the_rest_connected() {
    for seed in 0..5 {
        let mut net = converged(seed, 40);
        net.run(secs(30));
        (1..20).for_each(|index| net.crash(index));
        assert!(
            net.run_until(net.now + secs(40), Net::is_connected),
            "seed {seed}"
        );
        assert!(
            net.run_until(net.now + secs(310), Net::has_converged),
            "seed {seed}"
        );
    }
}

#[test]
fn two_live_nodes_with_one_key_are_reported_and_make_no_storm() {
    let mut net = Net::new(9, 4);
    for index in 0..3 {
        net.start(index, (index > 0).then_some(0));
    }
    net.run(secs(20));
    // The twin of node 1 speaks through entries that are fed to node 2.
    let key = crate::id::SecretKey::from("node 1");
    let mut fed = 0;
    for round in 0..120 {
        let version = net.machine(2).catalog().get(&net.ids[1]).unwrap().version();
        let mut entry = PeerEntry::new(crate::id::NetworkId::from("test"), net.address(3));
        entry.id = net.ids[1];
        entry.version = version.next();
        entry.updated_at = net.wall();
        let entry = VerifiedEntry::sign(entry, &key).unwrap();
        net.request(2, round, Command::Feed(entry));
        fed += 1;
        net.run(secs(1));
    }
    let is_report = |event: &&Event| matches!(event, Event::DuplicateIdentity { .. });
    let reports = net.events(1).iter().filter(is_report).count();
    assert!((1..=3).contains(&reports), "{reports} reports");
    let raised = net.machine(1).local().version().sequence;
    assert!(
        raised < fed + 40,
        "sequence {raised} after {fed} foreign entries"
    );
}

#[test]
fn same_seed_same_run() {
    let run = |seed| {
        let mut net = converged(seed, 24);
        net.run(secs(60));
        let neighbours: Vec<_> = (0..24)
            .map(|i| net.machine(i).neighbours().to_vec())
            .collect();
        (net.steps, neighbours)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn an_announcement_costs_a_node_no_more_than_three_times_its_size_and_fan_out() {
    let mut net = converged(10, 150);
    net.check = false;
    net.run(secs(20));
    let announced = |net: &Net| {
        let versions = net
            .nodes
            .values()
            .map(|node| node.machine.local().version().sequence);
        versions.sum::<u64>() as usize
    };
    let before = announced(&net);
    net.gossip_bytes = Some(Default::default());
    net.run(secs(60));
    let count = announced(&net) - before;
    let bytes = net.gossip_bytes.take().unwrap();
    let bound = 3 * net.machine(0).local().wire_len() * 5;
    for (id, bytes) in bytes {
        let each = bytes / count;
        assert!(
            each < bound,
            "{id:?} sent {each} bytes for an announcement; {bound} are allowed"
        );
    }
}

#[test]
fn periodic_comparison_of_catalogs_stays_cheap() {
    let mut net = converged(11, 100);
    net.check = false;
    net.run(secs(20));
    net.sync_bytes = Some(0);
    net.run(secs(150));
    // Ten comparisons of each node, of catalogs in which a few announcements are under way.
    let each = net.sync_bytes.unwrap() / 1_000;
    assert!(each < 4_000, "{each} bytes for a comparison");
}

#[test]
fn any_churn_ends_in_agreement() {
    use rand::{RngExt, SeedableRng};
    for seed in 0..12 {
        let size = 4 + 2 * seed as usize;
        let mut net = started(seed, size);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        for round in 0..80 {
            let (a, b) = (
                rng.random_range(1..size as u64) as usize,
                rng.random_range(0..size as u64) as usize,
            );
            match rng.random_range(0..8u64) {
                0 if net.nodes.contains_key(&net.ids[a]) => net.crash(a),
                0 | 1 if !net.nodes.contains_key(&net.ids[a]) => net.start(a, Some(0)),
                2 => net.request(a, round, Command::Leave),
                3 | 4 if a != b => net.set_cut(a, b, round % 2 == 0),
                5 => net.break_link(net.ids[a], net.ids[b]),
                6 => net.set_split(1 + b.min(size - 2), true),
                7 => net.set_split(1 + b.min(size - 2), false),
                _ => {
                    let tags = vec![Tag::from(round.to_string())];
                    net.request(a, round, Command::Local(LocalChange::AddTags(tags)));
                }
            }
            net.run(Duration::from_millis(rng.random_range(0..8_000)));
        }
        for a in 0..size {
            for b in 0..a {
                net.set_cut(a, b, false);
            }
        }
        let end = net.now + secs(360);
        assert!(
            net.run_until(end, Net::has_converged),
            "seed {seed} does not converge"
        );
        assert!(
            net.run_until(end, Net::is_connected),
            "seed {seed} is not connected"
        );
        let events = |net: &Net| {
            net.nodes
                .values()
                .map(|node| node.events.len())
                .sum::<usize>()
        };
        net.run(end.since(net.now));
        let before = events(&net);
        net.run(secs(400));
        assert!(net.has_converged(), "seed {seed} does not stay converged");
        assert_eq!(events(&net), before, "seed {seed}: somebody came or went");
    }
}

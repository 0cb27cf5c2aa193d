//! What the campaign has found.

use bytes::Bytes;

use super::super::*;
use super::smoke::{Cluster, peer};
use crate::protocol::Machine;
use crate::time::Duration;

fn execute(cluster: &mut Cluster, n: usize, call: u64) {
    cluster.input(n, Input::Execute(CallId(call), Bytes::from_static(b"x")));
}

#[test]
fn a_peer_that_has_forgotten_who_we_are_is_told_again() {
    let mut cluster = Cluster::new(3, Config::default());
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    let other = (leader + 1) % 3;
    // The bond is made anew, and the other end learns nothing of it.
    cluster.input(leader, Input::Bonded(peer(other)));
    cluster.run(Duration::from_secs(1));
    execute(&mut cluster, other, 1);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.done.len(), 1, "{:?}", cluster.done);
}

#[test]
fn a_leader_that_hands_over_waits_with_its_own_commands() {
    let mut cluster = Cluster::new(3, Config::default());
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    execute(&mut cluster, leader, 1);
    cluster.run(Duration::from_millis(100));
    for other in 0..3 {
        cluster.cut.push((other, leader));
    }
    execute(&mut cluster, leader, 2);
    cluster.run(Duration::from_millis(1_500));
    cluster.input(leader, Input::TransferLeadership);
    // What is due again cannot be sent: time passes all the same.
    for _ in 0..100 {
        let machine = cluster.nodes[leader].as_mut().unwrap();
        let (at, _) = machine.poll_timeout().unwrap();
        cluster.now = cluster.now.max(at);
        machine.handle_timeout(cluster.now);
        cluster.drain(leader);
    }
    let (at, reason) = cluster.nodes[leader]
        .as_ref()
        .unwrap()
        .poll_timeout()
        .unwrap();
    assert!(
        at > cluster.now,
        "{reason} at {at}, and it is {}",
        cluster.now
    );
}

#[test]
fn what_as_many_as_expected_have_accepted_needs_no_more_than_a_majority() {
    let config = Config {
        storage: StorageClass::Durable,
        founding: FoundingRule::Expect(3),
        ..Config::default()
    };
    let mut cluster = Cluster::new(3, config);
    cluster.run(Duration::from_secs(5));
    execute(&mut cluster, 0, 1);
    cluster.run(Duration::from_secs(1));
    assert_eq!(cluster.done.len(), 1, "{:?}", cluster.done);
    // All crash, and one of them for good.
    let recovered: Vec<Recovered> = (0..2)
        .map(|n| {
            let machine = cluster.nodes[n].as_ref().unwrap();
            let status = machine.status();
            let indexes = 1..=status.last.index.0;
            let entries = indexes.map(|index| machine.entry(Index(index)).unwrap().clone());
            Recovered {
                hard_state: HardState {
                    instance: status.me.instance,
                    boot: 1,
                    runs: Runs::NONE,
                    incarnation: status.incarnation,
                    term: status.term,
                    vote: status.leader,
                    seals: Default::default(),
                },
                snapshot: None,
                entries: entries.collect(),
            }
        })
        .collect();
    cluster.nodes.iter_mut().for_each(|node| *node = None);
    for (n, recovered) in recovered.into_iter().enumerate() {
        cluster.start_with(n, 10 + n as u64, Some(recovered));
    }
    cluster.run(Duration::from_secs(10));
    execute(&mut cluster, 0, 2);
    cluster.run(Duration::from_secs(2));
    assert_eq!(cluster.done.len(), 2, "{:?}", cluster.done);
}

#[test]
fn a_follower_that_differs_where_the_leader_s_log_begins_catches_up() {
    let config = Config {
        snapshot_interval: 8,
        log_window: 0,
        ..Config::default()
    };
    let mut cluster = Cluster::new(3, config);
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    // It goes on alone, with entries that no other will have.
    for other in (0..3).filter(|other| *other != leader) {
        cluster.cut.extend([(leader, other), (other, leader)]);
    }
    let mut call = 0;
    for _ in 0..40 {
        execute(&mut cluster, leader, call);
        call += 1;
    }
    cluster.run(Duration::from_secs(6));
    let next = cluster.nodes.iter().position(|node| {
        let status = node.as_ref().unwrap().status();
        status.role == Role::Leader && status.term > Term(1)
    });
    let next = next.unwrap();
    let kept = |cluster: &Cluster| cluster.nodes[next].as_ref().unwrap().status().kept_from;
    let status = cluster.nodes[leader].as_ref().unwrap().status();
    let (shared, last) = (status.commit, status.last.index);
    // The other leader's log comes to begin within what the first has to itself.
    while kept(&cluster) <= shared.next() {
        execute(&mut cluster, next, call);
        call += 1;
        cluster.run(Duration::from_millis(1));
    }
    assert!(kept(&cluster) <= last, "{} of {last}", kept(&cluster));
    cluster.cut.clear();
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.list(leader), cluster.list(next));
}

#[test]
fn a_member_that_has_left_says_nothing_more() {
    let mut cluster = Cluster::new(4, Config::default());
    cluster.run(Duration::from_secs(5));
    let leader = cluster.leader().unwrap();
    let leaver = (leader + 1) % 4;
    cluster.input(leaver, Input::Leave);
    cluster.run(Duration::from_secs(30));
    let status = cluster.nodes[leaver].as_ref().unwrap().status();
    assert_eq!(status.role, Role::Stopped, "{status:?}");
}

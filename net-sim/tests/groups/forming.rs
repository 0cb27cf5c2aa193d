//! Groups come about, agree, and outlive their leader.

use std::time::Duration;

use smalti_core::groups::{Group, NoOp, QueryError};
use smalti_core::{Strong, Weak};
use smalti_sim::{AppResult, Simulation};

use crate::journal::{Journal, Line, Notes, join, key, write};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const LINES: u32 = 20;

/// Waits until this node has applied so many lines, and gives them.
async fn lines(group: &Group<Journal>, count: usize) -> Result<Vec<Line>, QueryError> {
    loop {
        let more = group.when().committed();
        let lines = group.query((), Weak).await?;
        if lines.result.len() >= count {
            return Ok(lines.result);
        }
        more.await;
    }
}

#[test]
fn three_hosts_form_a_group_and_come_to_the_same_history() {
    let simulation = HOSTS
        .into_iter()
        .fold(Simulation::new(1), |simulation, name| {
            simulation.host(name, move |network| async move {
                let group = join(&network).await?;
                group.when().online().await;
                // Nobody has what all wait for, and leaves again, before this one has written.
                while group.status().voters.len() < HOSTS.len() {
                    group.when().committed().await;
                }
                let notes = Notes::default();
                write(&group, name, 0..LINES, &notes).await?;
                let all = lines(&group, HOSTS.len() * LINES as usize).await?;
                // Exactly once, and in the order in which each host wrote.
                for host in HOSTS {
                    let of_host = all.iter().filter(|line| line.host == host);
                    assert!(of_host.map(|line| line.number).eq(0..LINES));
                }
                let strong = group.query((), Strong).await?;
                assert_eq!(strong.result, all);
                assert_eq!(group.bonds().len(), 2);
                Ok(())
            })
        });
    simulation.run_twice().unwrap();
}

#[test]
fn a_lone_host_is_a_group() {
    let simulation = Simulation::new(2).host("a", |network| async move {
        let group = join(&network).await?;
        group.when().is_leader().await;
        let notes = Notes::default();
        write(&group, "a", 0..3, &notes).await?;
        assert_eq!(group.query((), Strong).await?.len(), 3);
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn many_commands_are_executed_in_their_order() {
    let simulation = HOSTS
        .into_iter()
        .fold(Simulation::new(3), |simulation, name| {
            simulation.host(name, move |network| async move {
                let group = join(&network).await?;
                group.when().online().await;
                if name == "a" {
                    let line = |number| Line {
                        host: "a".to_owned(),
                        number,
                    };
                    let first = group.feed_many((0..5_000).map(line)).await;
                    let second = group.feed(line(5_000)).await?;
                    let third = group.execute_many((5_001..5_010).map(line));
                    let third = third.await.into_iter().collect::<Result<Vec<_>, _>>()?;
                    assert_eq!(third.last().map(|last| last.output), Some(5_010));
                    assert_eq!(second.await?.output, 5_001);
                    let first = first.await.into_iter().collect::<Result<Vec<_>, _>>()?;
                    assert!(first.iter().map(|it| it.output).eq(1..=5_000));
                }
                let all = lines(&group, 5_010).await?;
                assert!(all.iter().map(|line| line.number).eq(0..5_010));
                Ok(())
            })
        });
    simulation.run().unwrap();
}

#[test]
fn the_group_goes_on_without_its_leader() {
    let notes = Notes::default();
    let mut simulation = Simulation::new(4);
    for name in HOSTS {
        let notes = notes.clone();
        let peers = HOSTS.map(|host| (simulation.peer_id(host), host));
        simulation = simulation.service(name, move |network| {
            let (notes, peers) = (notes.clone(), peers);
            async move {
                let group = join(&network).await?;
                loop {
                    group.when().leader_changed().await;
                    let leader = group.leader();
                    let leader = peers.iter().find(|(peer, _)| Some(*peer) == leader);
                    notes.follow(name, leader.map(|(_, host)| (*host).to_owned()));
                    write(&group, name, 0..LINES, &notes).await?;
                }
            }
        });
    }
    let seen = notes.clone();
    let simulation = simulation.script(move |control| {
        let notes = seen.clone();
        async move {
            let count = HOSTS.len() * LINES as usize;
            control
                .wait_until(|| notes.acknowledged().len() == count)
                .await;
            let leader = notes.leader_of("a").expect("a leader took the commands");
            control.crash(leader.as_str());
            let crashed_at = control.elapsed();
            let left: Vec<&str> = HOSTS.into_iter().filter(|host| *host != leader).collect();
            control
                .wait_until(|| notes.acknowledged().len() == count + 2 * LINES as usize)
                .await;
            let took = control.elapsed() - crashed_at;
            assert!(took < Duration::from_secs(8), "{left:?} took {took:?}");
        }
    });
    simulation.run().unwrap();
}

#[test]
fn a_group_without_a_state_machine_elects_a_leader() -> AppResult {
    let mut simulation = Simulation::new(5);
    for name in HOSTS {
        simulation = simulation.host(name, |network| async move {
            let group: Group<NoOp> = network.groups().with_key(key()).join().await?;
            group.when().leader_elected().await;
            group.execute(()).await?;
            Ok(())
        });
    }
    simulation.run()?;
    Ok(())
}

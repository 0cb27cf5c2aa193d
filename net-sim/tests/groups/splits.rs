//! A group that is cut in two.

use std::time::Duration;

use smalti_core::groups::{ConsensusConfig, Storage};
use smalti_core::{Network, PeerId, Strong, Weak};
use smalti_sim::{AppResult, Simulation};
use tokio::time::sleep;

use crate::journal::{Line, Notes, join_with};

const HOSTS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// What was on its way when the network was cut may be acknowledged so long afterwards.
const ON_ITS_WAY: Duration = Duration::from_millis(300);

/// Writes and reads all the time, and notes what is acknowledged and answered.
async fn work(
    network: Network,
    name: &'static str,
    peers: [(PeerId, &'static str); 5],
    notes: Notes,
) -> AppResult {
    let group = join_with(&network, Storage::InMemory, ConsensusConfig::default()).await?;
    group.when().online().await;
    let mut number = 0;
    loop {
        let line = Line {
            host: name.to_owned(),
            number,
        };
        number += 1;
        let leader = group.leader();
        let leader = peers.iter().find(|(peer, _)| Some(*peer) == leader);
        notes.follow(name, leader.map(|(_, host)| (*host).to_owned()));
        if group.execute(line.clone()).await.is_ok() {
            notes.acknowledge(line);
        }
        if group.query((), Strong).await.is_ok() {
            notes.answer(name);
        }
        notes.keep(name, group.query((), Weak).await?.result);
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn of_a_group_cut_in_two_the_minority_stands_still_and_nothing_acknowledged_is_lost() {
    let notes = Notes::default();
    let mut simulation = Simulation::new(11).duration(Duration::from_secs(120));
    let peers = HOSTS.map(|host| (simulation.peer_id(host), host));
    for name in HOSTS {
        let notes = notes.clone();
        simulation = simulation.service(name, move |network| {
            work(network, name, peers, notes.clone())
        });
    }
    let told = notes.clone();
    let simulation = simulation.script(move |control| {
        let notes = told.clone();
        async move {
            control
                .wait_until(|| HOSTS.iter().all(|host| notes.answers_of(host) > 20))
                .await;
            let leader = notes.leader_of("a").expect("somebody leads");
            let follower = HOSTS.into_iter().find(|host| *host != leader);
            let minority = [leader.clone(), follower.unwrap_or_default().to_owned()];
            let majority: Vec<String> = HOSTS
                .into_iter()
                .filter(|host| !minority.iter().any(|it| it == host))
                .map(str::to_owned)
                .collect();
            control.partition(minority.clone(), majority.clone());
            let cut_at = control.elapsed();
            control.sleep(ON_ITS_WAY).await;
            let (writes, reads) = (notes.acknowledged().len(), notes.answered().len());
            // The majority has another leader within two election timeouts, and goes on.
            control
                .wait_until(|| {
                    majority.iter().all(|host| {
                        let leader = notes.leader_of(host);
                        leader.is_some_and(|leader| majority.contains(&leader))
                    })
                })
                .await;
            let elected_after = control.elapsed() - cut_at;
            let limit = 2 * ConsensusConfig::default().election_timeout;
            assert!(elected_after <= limit, "elected after {elected_after:?}");
            control.sleep(Duration::from_secs(15)).await;
            for line in &notes.acknowledged()[writes..] {
                assert!(majority.contains(&line.host), "{line:?} was acknowledged");
            }
            for host in &notes.answered()[reads..] {
                assert!(majority.contains(host), "{host} was answered");
            }
            control.repair_all();
            let acknowledged = notes.acknowledged();
            control
                .wait_until(|| {
                    HOSTS.iter().all(|host| {
                        let kept = notes.kept_by(host);
                        acknowledged.iter().all(|line| kept.contains(line))
                    })
                })
                .await;
            // And all take part again.
            let before: Vec<usize> = HOSTS.iter().map(|host| notes.answers_of(host)).collect();
            control
                .wait_until(|| {
                    let mut now = HOSTS.iter().map(|host| notes.answers_of(host));
                    before.iter().all(|before| now.next() > Some(*before + 3))
                })
                .await;
        }
    });
    simulation.run().unwrap();
}

//! Members of a group bond with each other.

use std::collections::BTreeSet;
use std::time::Duration;

use smalti_core::{GroupKey, Network, PeerId};
use smalti_sim::{AppResult, Simulation};
use tokio::time::{sleep, timeout};

const KEY: GroupKey = GroupKey::from_bytes([1; 32]);

/// Joins the group, and stays for a while once it is bonded with exactly `others`.
async fn join(network: Network, others: BTreeSet<PeerId>) -> AppResult {
    let group = network.groups().with_key(KEY).join().await?;
    let all = async {
        while group.bonds().bonded().collect::<BTreeSet<_>>() != others {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), all).await?;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(group.bonds().bonded().collect::<BTreeSet<_>>(), others);
    assert_eq!(network.violations(), 0);
    // The others are still there, for as long as messages take.
    sleep(Duration::from_secs(5)).await;
    Ok(())
}

fn members(seed: u64, count: usize) -> Simulation {
    let mut simulation = Simulation::new(seed);
    let names: Vec<String> = (0..count).map(|i| format!("member {i}")).collect();
    let ids: BTreeSet<PeerId> = names.iter().map(|name| simulation.peer_id(name)).collect();
    for name in &names {
        let mut others = ids.clone();
        others.remove(&simulation.peer_id(name));
        simulation = simulation.host(name, move |network| join(network, others.clone()));
    }
    simulation
}

#[test]
fn two_members_bond() {
    members(1, 2).run_twice().expect("both bond");
}

#[test]
fn five_members_bond_each_with_each() {
    members(1, 5).run_twice().expect("all bond");
}

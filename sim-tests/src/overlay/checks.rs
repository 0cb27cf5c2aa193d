//! What must hold of a network of discovery machines.

use std::collections::BTreeSet;
use std::time::Duration;

use smalti_core::protocol::discovery::Catalog;
use smalti_sim::NodeIndex;
use smalti_sim::faults::{Fault, FaultEvent};
use smalti_sim::time::SimTime;

use super::membership::Members;
use super::network::Overlay;
use super::rare;
use crate::Outcome;
use crate::panics::catch;

/// Runs `scenario` in `world` and gathers what came of it, also where it panics.
pub(super) fn observe(
    mut world: Overlay,
    drawn: Vec<String>,
    scenario: impl FnOnce(&mut Overlay, &mut Vec<String>) -> Result<(), String>,
) -> Outcome {
    let mut measured = Vec::new();
    let result = catch(|| scenario(&mut world, &mut measured));
    measured.push(format!(
        "{} steps in the busiest second",
        world.busiest_second()
    ));
    let mut coverage = world.environment().coverage.clone();
    let in_step = |event: &&FaultEvent| matches!(event.fault, Fault::CrashAfter(..));
    let faults = world.recorded_faults().to_vec();
    coverage.reach_times(
        rare::CRASHED_IN_STEP,
        faults.iter().filter(in_step).count() as u64,
    );
    Outcome {
        trace: world.trace().clone(),
        simulated: world.now().since(SimTime::ZERO),
        drawn,
        measured,
        faults,
        operations: 0,
        coverage,
        failure: match result {
            Ok(Ok(())) => None,
            Ok(Err(cause)) | Err(cause) => Some(cause),
        },
    }
}

/// Why the network is not as it should be: every live node's catalog names the live nodes and no
/// others, each by its present run; `Ok` where it is.
pub(super) fn agreement(world: &Overlay) -> Result<(), String> {
    let members = &world.environment().members;
    let mut live: Vec<_> = members.live().map(|(_, id, run)| (id, run)).collect();
    live.sort_unstable();
    let catalogs: Vec<_> = members
        .live()
        .filter_map(|(node, ..)| Some((node, world.machine(node)?.catalog())))
        .collect();
    if catalogs.len() < live.len() {
        return Err("a live node is down".to_owned());
    }
    // What takes no time first: this is asked many times before it holds.
    for (node, catalog) in &catalogs {
        if catalog.peers_count() + 1 != live.len() {
            return Err(difference(*node, catalog, members));
        }
    }
    for (node, catalog) in &catalogs {
        // A catalog with no entries but signed ones is in the order of ids.
        let known = catalog.iter().map(|entry| (*entry.id(), *entry.instance()));
        if !known.eq(live.iter().copied()) {
            return Err(difference(*node, catalog, members));
        }
    }
    Ok(())
}

fn difference(node: NodeIndex, catalog: &Catalog, members: &Members) -> String {
    let missing = members
        .live()
        .filter(|(other, id, _)| *other != node && catalog.get(id).is_none());
    let missing: Vec<String> = missing.map(|(node, ..)| node.to_string()).collect();
    let surplus = catalog.peers().filter(|entry| {
        let member = members.node(entry.id()).map(|node| members.member(node));
        member.is_none_or(|member| member.live != Some(*entry.instance()))
    });
    let surplus: Vec<String> = surplus
        .filter_map(|entry| members.node(entry.id()))
        .map(|node| node.to_string())
        .collect();
    format!("{node} lacks {missing:?} and has former runs of {surplus:?}")
}

/// Why the overlay is not as it should be: its live nodes are connected by links that both ends
/// count among their neighbours, and none has more than it may or none at all; `Ok` where it is.
pub(super) fn connectedness(world: &Overlay) -> Result<(), String> {
    let members = &world.environment().members;
    let machines: Vec<_> = members
        .live()
        .filter_map(|(node, id, _)| Some((node, id, world.machine(node)?)))
        .collect();
    let mut unreached: BTreeSet<_> = machines.iter().map(|(node, ..)| *node).collect();
    let (least, most) = (usize::from(machines.len() > 1), ACTIVE_MAX);
    for (node, _, machine) in &machines {
        let neighbours = machine.neighbours().len();
        if !(least..=most).contains(&neighbours) {
            return Err(format!("{node} has {neighbours} neighbours"));
        }
    }
    let mut reached = Vec::from_iter(unreached.pop_first());
    while let Some(node) = reached.pop() {
        let id = members.id(node);
        let Some(machine) = world.machine(node) else {
            continue;
        };
        for peer in machine.neighbours() {
            let Some(peer) = members.node(peer) else {
                continue;
            };
            let is_mutual = world
                .machine(peer)
                .is_some_and(|machine| machine.neighbours().contains(&id));
            if is_mutual && unreached.remove(&peer) {
                reached.push(peer);
            }
        }
    }
    if unreached.is_empty() {
        return Ok(());
    }
    let (parted, all) = (unreached.len(), machines.len());
    Err(format!(
        "{parted} of {all} nodes are not connected with the others: {unreached:?}"
    ))
}

/// The most neighbours that a node has in the overlay.
pub(super) const ACTIVE_MAX: usize = 5;

/// Lets time pass until `check` finds nothing wrong, or `limit` has passed.
pub(super) fn settle(
    world: &mut Overlay,
    limit: Duration,
    check: impl Fn(&Overlay) -> Result<(), String>,
) -> Result<(), String> {
    let limit = world.now() + limit;
    loop {
        let cause = match check(world) {
            Ok(()) => return Ok(()),
            Err(cause) => cause,
        };
        if world.now() >= limit {
            return Err(cause);
        }
        let next = world.now() + LOOK_EVERY;
        world.run_until(next.min(limit));
    }
}

/// How often a network that is not as it should be yet is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

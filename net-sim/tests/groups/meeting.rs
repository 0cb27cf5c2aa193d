//! Two foundings of one group that meet.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::discovery::PeerAddr;
use smalti_core::groups::{CommandError, Passage, Serialized, Superseded};
use smalti_core::{Network, Weak};
use smalti_sim::{AppResult, Simulation};
use tokio::time::sleep;

use crate::journal::{Line, Notes, join};

/// What a host was told of the life of the group that it had belonged to: its state, and how it stands.
type Told = Rc<RefCell<Vec<(&'static str, Vec<Line>, Superseded)>>>;

/// Writes a line now and then, `lines` in all, and notes what is acknowledged, what it has, and what it has gone through. It
/// listens to no events: what it looks for waits for it.
async fn live(
    network: Network,
    name: &'static str,
    lines: u32,
    notes: Notes,
    told: Told,
) -> AppResult {
    let group = join(&network).await?;
    let mut passed = group.when().passed();
    let mut written = 0;
    loop {
        if group.status().is_online {
            notes.follow(name, group.leader().map(|leader| leader.to_string()));
        }
        if written < lines {
            let line = Line {
                host: name.to_owned(),
                number: written,
            };
            match group.execute(line.clone()).await {
                Ok(_) => {
                    notes.acknowledge(line);
                    written += 1;
                }
                // What is given up is not written again: it shows what was lost.
                Err(CommandError::Superseded { .. }) => written += 1,
                Err(_) => {}
            }
        }
        notes.keep(name, group.query((), Weak).await?.result);
        let has_passed = passed.is_condition_met();
        let passages = group.take_passages();
        assert_eq!(has_passed, !passages.is_empty());
        for (number, passage) in passages {
            assert_eq!(number, group.status().passages);
            passed = group.when().passed();
            if let Passage::Superseded(superseded) = passage {
                let Serialized(state) = superseded.state::<Serialized<Vec<Line>>>()?;
                told.borrow_mut().push((name, state, (*superseded).clone()));
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Runs hosts that write so many lines, cut into two parts from the start; gives what was acknowledged, what each
/// has in the end, and what hosts were told. All have the same in the end.
fn meet(
    seed: u64,
    left: &[(&'static str, u32)],
    right: &[(&'static str, u32)],
) -> (BTreeSet<Line>, BTreeSet<Line>, Told) {
    let (notes, told) = (Notes::default(), Told::default());
    let mut simulation = Simulation::new(seed).duration(Duration::from_secs(180));
    let hosts: Vec<_> = left.iter().chain(right).copied().collect();
    let mut second: Option<PeerAddr> = None;
    for (place, (name, lines)) in hosts.iter().copied().enumerate() {
        let (notes, told) = (notes.clone(), told.clone());
        // Those at the right find each other without the first host of all.
        let bootstrap = second.clone();
        simulation = simulation.service_with(
            name,
            move |builder| builder.with_bootstrap(bootstrap.clone()),
            move |network| live(network, name, lines, notes.clone(), told.clone()),
        );
        if place == left.len() {
            let address = simulation.address(name);
            second = Some(PeerAddr::new(simulation.peer_id(name), address));
        }
    }
    let names =
        |part: &[(&'static str, u32)]| part.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    let (left, right) = (names(left), names(right));
    let seen = notes.clone();
    let simulation = simulation.script(move |control| {
        let (notes, left, right, hosts) =
            (seen.clone(), left.clone(), right.clone(), hosts.clone());
        async move {
            control.partition(left.clone(), right.clone());
            let expected: usize = hosts.iter().map(|(_, lines)| *lines as usize).sum();
            control
                .wait_until(|| {
                    notes.acknowledged().len() == expected
                        && hosts
                            .iter()
                            .all(|(host, _)| notes.leader_of(host).is_some())
                })
                .await;
            control.repair_all();
            control.sleep(Duration::from_secs(30)).await;
            let first = notes.leader_of(hosts[0].0);
            control
                .wait_until(|| {
                    hosts.iter().all(|(host, _)| {
                        notes.leader_of(host) == notes.leader_of(hosts[0].0)
                            && notes.kept_by(host) == notes.kept_by(hosts[0].0)
                    })
                })
                .await;
            assert!(first.is_some(), "the group is led");
        }
    });
    simulation.run().expect("the foundings meet");
    let acknowledged = notes.acknowledged().into_iter().collect();
    (acknowledged, notes.kept_by("a"), told)
}

fn of<'a>(lines: &'a BTreeSet<Line>, hosts: &'a [&str]) -> impl Iterator<Item = &'a Line> {
    lines
        .iter()
        .filter(move |line| hosts.contains(&&*line.host))
}

#[test]
fn of_two_foundings_the_one_with_more_commands_stays_and_the_other_is_given_its_state() {
    let (acknowledged, kept, told) = meet(31, &[("a", 5), ("b", 5)], &[("c", 2), ("d", 2)]);
    assert_eq!(acknowledged.len(), 14);
    assert!(of(&acknowledged, &["a", "b"]).eq(kept.iter()));
    let told = told.borrow();
    let hosts: BTreeSet<_> = told.iter().map(|(host, ..)| *host).collect();
    assert_eq!(hosts, BTreeSet::from(["c", "d"]));
    for (host, state, superseded) in &*told {
        let state: BTreeSet<Line> = state.iter().cloned().collect();
        assert!(of(&acknowledged, &["c", "d"]).eq(state.iter()), "{host}");
        assert_eq!((superseded.commands, superseded.commands_in_all), (4, 4));
    }
}

#[test]
fn who_founded_alone_and_wrote_nothing_does_not_displace_a_group_with_data() {
    let (acknowledged, kept, told) = meet(32, &[("a", 1), ("b", 0), ("c", 0)], &[("d", 0)]);
    assert_eq!(acknowledged, kept);
    let told = told.borrow();
    assert!(
        told.iter()
            .all(|(host, state, _)| *host == "d" && state.is_empty())
    );
}

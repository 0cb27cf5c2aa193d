//! Groups whose voters are gone for good, and go on from what is left.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::groups::{CommandError, ConsensusConfig, GroupEvent, Incarnation, Storage};
use smalti_core::{Network, Weak};
use smalti_sim::{AppResult, Simulation};
use tokio::time::sleep;

use crate::journal::{Line, Notes, join_with, write};

const HOSTS: [&str; 3] = ["a", "b", "c"];
const LINES: u32 = 5;

/// What a script and its hosts tell each other.
#[derive(Clone, Default)]
struct Board {
    notes: Notes,
    /// What hosts were told of reforms, and whether that was by proof.
    reformed: Rc<RefCell<Vec<(&'static str, bool)>>>,
    stalled: Rc<RefCell<Vec<&'static str>>>,
    /// The host at which an operator orders a reform.
    ordered: Rc<RefCell<Option<&'static str>>>,
}

impl Board {
    /// Something that was acknowledged, and that the host does not have.
    fn lost_by(&self, host: &str) -> Option<Line> {
        let kept = self.notes.kept_by(host);
        let acknowledged = self.notes.acknowledged();
        acknowledged.into_iter().find(|line| !kept.contains(line))
    }
}

/// Writes some lines in its first life, and one more after each reform; notes what it has and what it is told.
async fn live(network: Network, name: &'static str, storage: Storage, board: Board) -> AppResult {
    let group = join_with(&network, storage, ConsensusConfig::default()).await?;
    let mut events = group.events();
    group.when().online().await;
    let is_first = board.notes.kept_by(name).is_empty();
    if is_first {
        write(&group, name, 0..LINES, &board.notes).await?;
    }
    let mut extra = LINES;
    loop {
        board.notes.keep(name, group.query((), Weak).await?.result);
        board
            .notes
            .follow(name, group.leader().map(|leader| leader.to_string()));
        while let Some(Ok(Some(event))) = futures_util::FutureExt::now_or_never(events.recv()) {
            match event {
                GroupEvent::Reformed(reformed) => {
                    board.reformed.borrow_mut().push((name, reformed.is_proved));
                    let line = Line {
                        host: name.to_owned(),
                        number: extra,
                    };
                    extra += 1;
                    match group.execute(line.clone()).await {
                        Ok(_) => board.notes.acknowledge(line),
                        Err(CommandError::Unknown | CommandError::TimedOut(_)) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                GroupEvent::Stalled { missing, .. } => {
                    assert!(group.status().stalled.is_some() && !missing.is_empty());
                    board.stalled.borrow_mut().push(name);
                }
                _ => {}
            }
        }
        if board
            .ordered
            .borrow_mut()
            .take_if(|host| *host == name)
            .is_some()
        {
            group.reform();
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn hosts(seed: u64, storage: Storage, board: &Board) -> Simulation {
    let mut simulation = Simulation::new(seed).duration(Duration::from_secs(180));
    for name in HOSTS {
        let board = board.clone();
        simulation = simulation.service_with(
            name,
            move |builder| match storage {
                Storage::Durable => builder.with_data_dir("data"),
                Storage::InMemory => builder,
            },
            move |network| live(network, name, storage, board.clone()),
        );
    }
    simulation
}

#[test]
fn a_majority_in_memory_that_starts_again_costs_nothing_that_one_is_left_to_know() {
    let board = Board::default();
    let seen = board.clone();
    let simulation = hosts(41, Storage::InMemory, &board).script(move |control| {
        let board = seen.clone();
        async move {
            let all = HOSTS.len() * LINES as usize;
            let have_all = |count| {
                HOSTS
                    .iter()
                    .all(|host| board.notes.kept_by(host).len() >= count)
            };
            control.wait_until(|| have_all(all)).await;
            control.crash("a");
            control.crash("b");
            control.sleep(Duration::from_millis(200)).await;
            control.restart("a");
            control.restart("b");
            control
                .wait_until(|| !board.reformed.borrow().is_empty())
                .await;
            control
                .wait_until(|| board.notes.acknowledged().len() > all)
                .await;
            control
                .wait_until(|| {
                    HOSTS
                        .iter()
                        .all(|host| board.lost_by(host).is_none() && have_all(all + 1))
                })
                .await;
        }
    });
    simulation.run().expect("the group goes on");
    assert!(
        board
            .reformed
            .borrow()
            .iter()
            .all(|(_, is_proved)| *is_proved)
    );
}

#[test]
fn a_durable_group_stands_still_until_an_operator_has_it_go_on() {
    let board = Board::default();
    let seen = board.clone();
    let simulation = hosts(42, Storage::Durable, &board).script(move |control| {
        let board = seen.clone();
        async move {
            let all = HOSTS.len() * LINES as usize;
            control
                .wait_until(|| {
                    HOSTS
                        .iter()
                        .all(|host| board.notes.kept_by(host).len() >= all)
                })
                .await;
            control.crash("a");
            control.crash("b");
            control
                .wait_until(|| !board.stalled.borrow().is_empty())
                .await;
            // They may come back at any time.
            control.sleep(Duration::from_secs(30)).await;
            assert!(board.reformed.borrow().is_empty());
            *board.ordered.borrow_mut() = Some("c");
            control
                .wait_until(|| board.notes.acknowledged().len() > all)
                .await;
            assert_eq!(*board.reformed.borrow(), [("c", false)]);
            control.wait_until(|| board.lost_by("c").is_none()).await;
        }
    });
    simulation.run().expect("the group goes on");
    assert_eq!(*board.stalled.borrow(), ["c"]);
}

/// What a host was told of reforms, and what it belonged to when it had joined, each time.
#[derive(Clone, Default)]
struct Belongings {
    told: Rc<RefCell<Vec<Incarnation>>>,
    found: Rc<RefCell<Vec<Option<Incarnation>>>>,
    stalled: Rc<RefCell<bool>>,
    ordered: Rc<RefCell<bool>>,
}

async fn belong(network: Network, belongings: Belongings) -> AppResult {
    let group = join_with(&network, Storage::Durable, ConsensusConfig::default()).await?;
    let mut events = group.events();
    sleep(Duration::from_millis(5)).await;
    let found = group.status().incarnation;
    belongings.found.borrow_mut().push(found);
    loop {
        if std::mem::take(&mut *belongings.ordered.borrow_mut()) {
            group.reform();
        }
        match tokio::time::timeout(Duration::from_millis(5), events.recv()).await {
            Ok(Ok(Some(GroupEvent::Reformed(reformed)))) => {
                belongings.told.borrow_mut().push(reformed.incarnation);
            }
            Ok(Ok(Some(GroupEvent::Stalled { .. }))) => *belongings.stalled.borrow_mut() = true,
            _ => {}
        }
    }
}

#[test]
fn a_host_is_told_of_a_reform_once_no_crash_takes_it_back() {
    let belongings = Belongings::default();
    let mut simulation = Simulation::new(43).duration(Duration::from_secs(180));
    for name in ["a", "b", "c"] {
        // The others are not looked at.
        let belongings = if name == "c" {
            belongings.clone()
        } else {
            Belongings::default()
        };
        simulation = simulation.service_with(
            name,
            |builder| builder.with_data_dir("data"),
            move |network| belong(network, belongings.clone()),
        );
    }
    let seen = belongings.clone();
    let simulation = simulation.script(move |control| {
        let belongings = seen.clone();
        async move {
            control.sleep(Duration::from_secs(10)).await;
            control.crash(["a", "b"]);
            control.wait_until(|| *belongings.stalled.borrow()).await;
            // A sync takes seconds.
            control.slow_disk("c", 2_000);
            *belongings.ordered.borrow_mut() = true;
            control
                .wait_until(|| !belongings.told.borrow().is_empty())
                .await;
            control.crash("c");
            control.slow_disk("c", 1);
            control.restart("c");
            control
                .wait_until(|| belongings.found.borrow().len() == 2)
                .await;
        }
    });
    simulation.run().expect("the group goes on");
    let (told, found) = (belongings.told.borrow(), belongings.found.borrow());
    assert_eq!(found[1], Some(told[0]), "before: {:?}", found[0]);
}

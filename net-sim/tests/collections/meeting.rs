//! Two foundings of one collection that meet.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::collections::{Map, MapChange, Version};
use smalti_core::discovery::PeerAddr;
use smalti_core::groups::GroupEvent;
use smalti_core::{Network, StoreId, unique_id};
use smalti_sim::{AppResult, Simulation};
use tokio::time::{sleep, timeout};

use crate::stay;

const ID: StoreId = unique_id!("map that is founded twice");
/// Keys from here on are written after the foundings have met.
const AFTER: u32 = 100;

type Numbers = Map<u32, u32>;

/// Writes so many keys with this value, and notes that it has.
async fn write(network: Network, keys: u32, value: u32, done: Rc<Cell<u32>>) -> AppResult {
    let map = Numbers::online_writer(&network, ID).await?;
    for key in 0..keys {
        map.insert(key, value).await?;
    }
    done.set(done.get() + 1);
    let mut events = map.events();
    loop {
        if keys > 2 {
            // For ever, so that there is something to follow.
            map.insert(AFTER + map.len() as u32, value).await?;
            sleep(Duration::from_millis(200)).await;
        } else if let Ok(Some(GroupEvent::Superseded(superseded))) = events.recv().await {
            let given_up = map.given_up(&superseded)?;
            assert!(given_up.iter().eq([(&0, &value), (&1, &value)]));
            return stay(map).await;
        }
    }
}

/// Follows a map from its beginning in a life that is given up, into the one that goes on.
async fn follow(network: Network) -> AppResult {
    let map = Numbers::online_reader(&network, ID).await?;
    let mut changes = map.changes(None);
    let (mut at, mut told) = (None::<Version>, Vec::new());
    let lagged = loop {
        match changes.next().await.ok_or("the map has stopped")? {
            Ok(changed) => {
                let version = changed.version;
                assert!(at.is_none_or(|at| {
                    at.incarnation == version.incarnation && at.index < version.index
                }));
                at = Some(version);
                told.push(changed.change);
            }
            Err(lagged) => break lagged,
        }
    };
    assert_eq!(told, [0, 1].map(|key| MapChange::Inserted(key, 2)));
    let given_up = at.ok_or("nothing was told")?;
    let mut at = lagged.view.version().ok_or("it has no version")?;
    assert_ne!(at.incarnation, given_up.incarnation);
    let mut followed: BTreeMap<u32, u32> = lagged.view.contents().into_iter().collect();
    assert!(followed.values().all(|value| *value == 1), "{followed:?}");
    let has_enough = |followed: &BTreeMap<u32, u32>| followed.range(AFTER..).count() >= 5;
    while !has_enough(&followed) || map.version() != Some(at) {
        let changed = changes.next().await.ok_or("the map has stopped")??;
        assert_eq!(changed.version.incarnation, at.incarnation);
        assert!(changed.version.index > at.index);
        at = changed.version;
        let MapChange::Inserted(key, value) = changed.change else {
            return Err("nothing is removed".into());
        };
        followed.insert(key, value);
    }
    assert!(map.iter().eq(followed));
    // A version of the life that was given up says nothing of the one that goes on.
    let mut again = map.changes(given_up);
    let lagged = again.next().await.ok_or("the map has stopped")?;
    let lagged = lagged.expect_err("the changes in between are of two lives");
    assert_eq!(
        lagged.view.version().map(|it| it.incarnation),
        Some(at.incarnation)
    );
    let reached = timeout(Duration::from_secs(5), map.when().reaches(given_up)).await;
    assert!(reached.is_err(), "what was given up is never reached");
    Ok(())
}

#[test]
fn who_follows_a_life_that_is_given_up_is_told_and_goes_on_in_the_other() {
    let done: Rc<Cell<u32>> = Rc::default();
    let writer = |keys, value| {
        let done = done.clone();
        move |network| write(network, keys, value, done.clone())
    };
    let simulation = Simulation::new(151)
        .service("a", writer(5, 1))
        .service("c", writer(2, 2));
    // Those at the right find each other without the first host of all.
    let right = PeerAddr::new(simulation.peer_id("c"), simulation.address("c"));
    let simulation = simulation.host_with(
        "d",
        move |builder| builder.with_bootstrap(right.clone()),
        follow,
    );
    let simulation = simulation.script(move |control| {
        let done = done.clone();
        async move {
            control.partition("a", ["c", "d"]);
            control.wait_until(|| done.get() == 2).await;
            // The reader comes to what was written at its side.
            control.sleep(Duration::from_secs(10)).await;
            control.repair_all();
        }
    });
    simulation.run().unwrap();
}

//! A map that hosts have in common.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::collections::{CollectionConfig, Map, MapChange, OpenError, SyncConfig};
use smalti_core::groups::Index;
use smalti_core::{StoreId, unique_id};
use smalti_sim::Simulation;
use tokio::time::sleep;

use crate::stay;

const ID: StoreId = unique_id!("map of the tests");
const WRITERS: [&str; 3] = ["a", "b", "c"];
const KEYS: u64 = 20;

type Numbers = Map<String, u64>;

/// What readers have had at each index.
type Seen = Rc<RefCell<BTreeMap<Index, Vec<(String, u64)>>>>;

fn key(host: &str, number: u64) -> String {
    format!("{host} {number:02}")
}

/// All that the writers write.
fn expected(hosts: &[&str]) -> Vec<(String, u64)> {
    let of_host = |host: &&str| {
        (0..KEYS)
            .map(|number| (key(host, number), number))
            .collect()
    };
    let mut all: Vec<_> = hosts.iter().flat_map::<Vec<_>, _>(of_host).collect();
    all.sort();
    all
}

#[test]
fn what_each_writes_all_read_in_the_same_order() {
    let mut simulation = Simulation::new(101);
    // What any reader has had at each index: the same as all others.
    let seen: Seen = Rc::default();
    for name in WRITERS {
        simulation = simulation.service(name, move |network| async move {
            let map = Numbers::online_writer(&network, ID).await?;
            for number in 0..KEYS {
                let written = map.insert(key(name, number), number).await?;
                assert_eq!(written.output, None);
                // A write that has returned is there.
                assert_eq!(map.get(&key(name, number)), Some(number));
                map.when().reaches(written).await;
            }
            stay(map).await
        });
    }
    for name in ["reader 1", "reader 2"] {
        let seen = seen.clone();
        simulation = simulation.host(name, move |network| {
            let seen = seen.clone();
            async move {
                let map = Numbers::online_reader(&network, ID).await?;
                let mut updated = map.when().updated();
                loop {
                    let view = map.view();
                    let entries: Vec<_> = view.contents().into_iter().collect();
                    if let Some(version) = view.version() {
                        let mut seen = seen.borrow_mut();
                        let first = seen.entry(version.index).or_insert_with(|| entries.clone());
                        assert_eq!(*first, entries, "at {version:?}");
                    }
                    if entries.len() == WRITERS.len() * KEYS as usize {
                        break;
                    }
                    (&mut updated).await;
                }
                assert!(map.iter().eq(expected(&WRITERS)));
                assert!(map.keys().eq(map.view().keys().cloned()));
                assert!(map.values().eq(map.view().values().copied()));
                assert!(map.strong().await?.iter().eq(map.view().iter()));
                assert!(map.contains_key("a 00") && !map.is_empty());
                let status = map.status();
                assert!(
                    !status.voters.contains(&network.local().id()),
                    "readers have no vote"
                );
                Ok(())
            }
        });
    }
    simulation.run_twice().unwrap();
}

#[test]
fn a_map_tells_each_writer_what_became_of_its_operation() {
    let simulation = Simulation::new(105).host("a", |network| async move {
        let map = Map::<u32, u32>::online_writer(&network, ID).await?;
        assert_eq!(*map.insert(1, 10).await?, None);
        assert_eq!(*map.insert(1, 11).await?, Some(10));
        assert_eq!(*map.extend([(1, 12), (2, 20), (3, 30), (3, 31)]).await?, 2);
        let exchange = map.compare_exchange(1, Some(10), Some(13)).await?;
        assert_eq!(*exchange, Err(Some(12)));
        let exchange = map.compare_exchange(1, Some(12), None).await?;
        assert_eq!(*exchange, Ok(Some(12)));
        let exchange = map.compare_exchange(1, None, Some(14)).await?;
        assert_eq!(*exchange, Ok(None));
        assert!(map.iter().eq([(1, 14), (2, 20), (3, 31)]));
        assert_eq!(*map.remove(2).await?, Some(20));
        assert_eq!(*map.remove(2).await?, None);
        assert_eq!(*map.remove_many([2, 3, 4]).await?, 1);
        assert_eq!(map.len(), 1);
        assert_eq!(*map.clear().await?, 1);
        assert!(map.is_empty());
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn a_map_outlives_its_leader_and_loses_nothing() {
    let acknowledged = Rc::new(RefCell::new(BTreeMap::new()));
    let mut simulation = Simulation::new(102);
    let leaders: Rc<RefCell<BTreeMap<&str, bool>>> = Rc::default();
    for name in WRITERS {
        let (acknowledged, leaders) = (acknowledged.clone(), leaders.clone());
        simulation = simulation.service(name, move |network| {
            let (acknowledged, leaders) = (acknowledged.clone(), leaders.clone());
            async move {
                let map = Numbers::online_writer(&network, ID).await?;
                for number in 0.. {
                    map.insert(key(name, number), number).await?;
                    acknowledged.borrow_mut().insert(key(name, number), number);
                    leaders.borrow_mut().insert(name, map.status().is_leader());
                    sleep(Duration::from_millis(50)).await;
                }
                Ok(())
            }
        });
    }
    let seen = acknowledged.clone();
    simulation = simulation.host("reader", move |network| {
        let seen = seen.clone();
        async move {
            let map = Numbers::online_reader(&network, ID).await?;
            while seen.borrow().len() < 600 {
                sleep(Duration::from_millis(100)).await;
            }
            let before = seen.borrow().clone();
            let strong = map.strong().await?;
            assert!(
                before
                    .iter()
                    .all(|(key, value)| strong.get(key) == Some(value))
            );
            Ok(())
        }
    });
    let simulation = simulation.script(move |control| {
        let (acknowledged, leaders) = (acknowledged.clone(), leaders.clone());
        async move {
            control
                .wait_until(|| acknowledged.borrow().len() >= 200)
                .await;
            let leaders = leaders.borrow();
            let leader = leaders
                .iter()
                .find(|(_, leads)| **leads)
                .map(|(name, _)| *name);
            control.crash(leader.expect("a leader took the writes"));
        }
    });
    simulation.run().unwrap();
}

#[test]
fn who_comes_late_is_given_a_snapshot_while_writes_go_on() {
    // So little is kept that nobody who comes late finds the beginning.
    let config = || {
        CollectionConfig::default().with_sync_config(SyncConfig {
            snapshot_interval: 32,
            log_window: 8,
            ..SyncConfig::default()
        })
    };
    let mut simulation = Simulation::new(103);
    for name in WRITERS {
        simulation = simulation.service(name, move |network| async move {
            let map = Map::<u64, [u64; 32]>::writer_with_config(&network, ID, config()).await?;
            map.online().await?;
            if name == "a" {
                for first in (0..5_000).step_by(100) {
                    map.extend((first..first + 100).map(|number| (number, [number; 32])))
                        .await?;
                }
                for number in 5_000.. {
                    map.insert(number, [number; 32]).await?;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            stay(map).await
        });
    }
    let simulation = simulation.host("late", move |network| async move {
        sleep(Duration::from_secs(20)).await;
        let map = Map::<u64, [u64; 32]>::online_reader_with_config(&network, ID, config()).await?;
        // Who begins with what is there misses nothing after it.
        let mut changes = map.changes(map.version());
        let changed = changes.next().await.ok_or("the map has stopped")??;
        assert!(matches!(changed.change, MapChange::Inserted(number, _) if number > 5_000));
        let strong = map.strong().await?;
        assert!(strong.len() > 5_000, "{}", strong.len());
        assert!(
            map.iter()
                .zip(0..)
                .all(|((key, value), number)| { (key, value) == (number, [number; 32]) })
        );
        let (log, applied) = (map.status().log(), map.status().applied);
        assert!(
            !log.contains(&Index(1)) && log.contains(&applied),
            "{log:?}"
        );
        // What came by the snapshot is no change.
        let mut changes = map.changes(None);
        let lagged = changes
            .next()
            .await
            .ok_or("the map has stopped")?
            .unwrap_err();
        assert!(lagged.view.len() > 5_000);
        let changed = changes.next().await.ok_or("the map has stopped")??;
        let after = lagged.view.version().ok_or("it has no version")?;
        assert!(changed.version.index > after.index);
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn a_collection_is_open_once_on_a_node_and_ends_with_its_last_handle() {
    let simulation = Simulation::new(104).host("a", |network| async move {
        let map = Numbers::online_writer(&network, ID).await?;
        let again = Numbers::reader(&network, ID).await;
        assert!(matches!(again, Err(OpenError::Join(_))), "{again:?}");
        // Another id, or another kind, is another collection.
        let other = Numbers::online_writer(&network, "another").await?;
        other.insert("x".to_owned(), 1).await?;
        assert!(map.is_empty());
        map.insert("y".to_owned(), 1).await?;
        map.leave().await;
        let error = map.insert("z".to_owned(), 2).await.unwrap_err();
        let mut batch = error.into_batch().expect("what was not sent is given back");
        batch.insert("w".to_owned(), 3);
        let written = other.commit(batch).await?;
        assert!(other.keys().eq(["w", "x", "z"].map(str::to_owned)));
        assert_eq!(other.version(), Some(written.version));
        assert!(matches!(map.online().await, Err(OpenError::Stopped(_))));
        Ok(())
    });
    simulation.run().unwrap();
}

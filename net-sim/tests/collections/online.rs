//! What those have who are online.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::collections::Map;
use smalti_core::{StoreId, unique_id};
use smalti_sim::Simulation;
use tokio::time::sleep;

use crate::stay;

const ID: StoreId = unique_id!("long map of the tests");
/// So few that a reader is sent them one after the other, and so long that it takes several messages.
const ENTRIES: u64 = 900;

type Long = Map<u64, Vec<u8>>;

/// A host that has written all entries, and goes on writing them anew.
fn written(seed: u64) -> (Simulation, Rc<Cell<bool>>) {
    let is_done = Rc::new(Cell::new(false));
    let told = is_done.clone();
    let simulation = Simulation::new(seed).service("a", move |network| {
        let told = told.clone();
        async move {
            let map = Long::online_writer(&network, ID).await?;
            for key in 0..ENTRIES {
                map.insert(key, vec![0; 4 << 10]).await?;
            }
            told.set(true);
            for key in (0..ENTRIES).cycle() {
                map.insert(key, vec![1; 16]).await?;
                sleep(Duration::from_millis(50)).await;
            }
            stay(map).await
        }
    });
    (simulation, is_done)
}

#[test]
fn who_is_online_has_what_was_there_when_it_found_the_leader() {
    let (simulation, is_done) = written(141);
    let simulation = simulation.host("late", move |network| {
        let is_done = is_done.clone();
        async move {
            while !is_done.get() {
                sleep(Duration::from_millis(100)).await;
            }
            let map = Long::reader(&network, ID).await?;
            map.when().online().await;
            assert_eq!(map.len() as u64, ENTRIES);
            Ok(())
        }
    });
    simulation.run().unwrap();
}

#[test]
fn an_online_reader_has_what_was_acknowledged_before() {
    let (simulation, is_done) = written(142);
    let simulation = simulation.host("late", move |network| {
        let is_done = is_done.clone();
        async move {
            while !is_done.get() {
                sleep(Duration::from_millis(100)).await;
            }
            let map = Long::online_reader(&network, ID).await?;
            assert_eq!(map.len() as u64, ENTRIES);
            Ok(())
        }
    });
    simulation.run().unwrap();
}

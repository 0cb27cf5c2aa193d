//! What those see who follow a collection.

use std::collections::BTreeMap;

use smalti_core::collections::{Map, MapChange};
use smalti_core::{StoreId, unique_id};
use smalti_sim::Simulation;

use crate::stay;

const ID: StoreId = unique_id!("followed map of the tests");

type Numbers = Map<u32, u32>;

fn follow(map: &mut BTreeMap<u32, u32>, change: &MapChange<u32, u32>) {
    match change {
        MapChange::Inserted(key, value) => drop(map.insert(*key, *value)),
        MapChange::Removed(key) => drop(map.remove(key)),
        MapChange::Cleared => map.clear(),
    }
}

#[test]
fn who_follows_the_changes_comes_to_the_contents() {
    let simulation = Simulation::new(121)
        .service("a", |network| async move {
            let map = Numbers::online_writer(&network, ID).await?;
            for round in 0..50 {
                map.insert(round % 7, round).await?;
                map.extend([(round % 3, 0), (round % 5, 1)]).await?;
                map.remove((round + 1) % 7).await?;
                if round == 20 {
                    map.clear().await?;
                }
            }
            map.insert(99, 99).await?;
            stay(map).await
        })
        .host("reader", |network| async move {
            let map = Numbers::online_reader(&network, ID).await?;
            let mut followed = BTreeMap::new();
            let mut changes = map.changes(None);
            let mut half = None;
            while !followed.contains_key(&99) {
                let changed = changes.next().await.ok_or("the map has stopped")??;
                follow(&mut followed, &changed.change);
                if half.is_none() && followed.get(&4) == Some(&25) {
                    half = Some(changed.version);
                }
            }
            assert!(map.iter().eq(followed));
            // From a version on there is what comes after it.
            let version = half.ok_or("round 25 was not seen")?;
            let mut again = map.changes(version);
            let first = again.next().await.ok_or("the map has stopped")??;
            assert!(first.version.index > version.index);
            assert_eq!(first.change, MapChange::Inserted(1, 0), "round 25 goes on");
            map.leave().await;
            while again.next().await.is_some() {}
            Ok(())
        });
    simulation.run().unwrap();
}

#[test]
fn what_is_acknowledged_at_one_host_is_awaited_at_another() {
    let simulation = Simulation::new(122)
        .service("a", |network| async move {
            let map = Numbers::online_writer(&network, ID).await?;
            // Tells the version in a second map.
            let versions =
                Map::<u32, smalti_core::collections::Version>::online_writer(&network, "versions")
                    .await?;
            for number in 0..20 {
                let written = map.insert(number, number).await?;
                versions.insert(number, written.version).await?;
            }
            stay(map).await
        })
        .host("reader", |network| async move {
            let map = Numbers::reader(&network, ID).await?;
            let versions =
                Map::<u32, smalti_core::collections::Version>::online_reader(&network, "versions")
                    .await?;
            for number in 0..20 {
                let version = loop {
                    let updated = versions.when().updated();
                    match versions.get(&number) {
                        Some(version) => break version,
                        None => updated.await,
                    }
                };
                map.when().reaches(version).await;
                assert_eq!(map.get(&number), Some(number));
            }
            map.when().online().await;
            Ok(())
        });
    simulation.run().unwrap();
}

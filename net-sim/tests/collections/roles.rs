//! Those that write, and those that may only read.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::collections::{CollectionConfig, Map, MapReader, OpenError};
use smalti_core::groups::WriteKey;
use smalti_core::{Network, StoreId, unique_id};
use smalti_sim::{AppResult, Simulation};
use tokio::time::{sleep, timeout};

use crate::stay;

const ID: StoreId = unique_id!("map of few writers");

type Numbers = Map<u32, u32>;

fn secret() -> WriteKey {
    WriteKey::from_bytes([7; 32])
}

fn writing() -> CollectionConfig {
    CollectionConfig::default().with_write_secret(secret())
}

fn reading() -> CollectionConfig {
    CollectionConfig::default().with_write_verifier(secret().verifier())
}

/// Waits until the reader has this value.
async fn has(map: &MapReader<u32, u32>, key: u32, value: u32) {
    while map.get(&key) != Some(value) {
        map.when().updated().await;
    }
}

#[test]
fn readers_follow_the_writers_through_the_loss_of_all() {
    let lives: Rc<RefCell<u32>> = Rc::default();
    let (of_writer, of_script) = (lives.clone(), lives.clone());
    // All that a reader has seen, by life of the writer.
    let seen: Rc<RefCell<Vec<(&str, u32)>>> = Rc::default();
    let mut simulation = Simulation::new(161).service("writer", move |network| {
        let lives = of_writer.clone();
        async move {
            let map = Numbers::online_writer_with_config(&network, ID, writing()).await?;
            let life = *lives.borrow() + 1;
            *lives.borrow_mut() = life;
            for key in 0..50 {
                map.insert(key, life).await?;
            }
            assert_eq!(map.len(), 50, "it takes nothing of what readers have");
            stay(map).await
        }
    });
    for name in ["a", "b"] {
        let seen = seen.clone();
        simulation = simulation.host(name, move |network| {
            let seen = seen.clone();
            async move {
                let refused = Numbers::writer_with_config(&network, ID, reading()).await;
                assert_eq!(refused.err(), Some(OpenError::ReadOnly));
                let map = Numbers::online_reader_with_config(&network, ID, reading()).await?;
                for life in [1, 2] {
                    has(&map, 49, life).await;
                    let strong = map.strong().await?;
                    assert!((0..50).all(|key| strong.get(&key) == Some(&life)));
                    seen.borrow_mut().push((name, life));
                }
                Ok(())
            }
        });
    }
    let simulation = simulation.script(move |control| {
        let (seen, lives) = (seen.clone(), of_script.clone());
        async move {
            control.wait_until(|| seen.borrow().len() >= 2).await;
            assert_eq!(*lives.borrow(), 1);
            control.crash("writer");
            control.restart("writer");
        }
    });
    simulation.run().unwrap();
}

async fn never_online(network: Network, config: CollectionConfig) -> AppResult {
    let opened = Numbers::online_reader_with_config(&network, ID, config);
    let waited = timeout(Duration::from_secs(20), opened).await;
    assert!(waited.is_err(), "it has met others");
    Ok(())
}

#[test]
fn those_that_differ_in_who_may_write_do_not_meet() {
    let simulation = Simulation::new(162)
        .service("writer", |network| async move {
            let map = Numbers::online_writer_with_config(&network, ID, writing()).await?;
            for key in 0.. {
                map.insert(key, 1).await?;
                sleep(Duration::from_secs(1)).await;
            }
            stay(map).await
        })
        .host("open", |network| {
            never_online(network, CollectionConfig::default())
        })
        .host("other", |network| {
            let other = WriteKey::from_bytes([8; 32]).verifier();
            let config = CollectionConfig::default().with_write_verifier(other);
            never_online(network, config)
        });
    simulation.run().unwrap();
}

#[test]
fn several_writers_decide_and_a_reader_reads_when_one_of_them_is_lost() {
    let written: Rc<RefCell<u32>> = Rc::default();
    let mut simulation = Simulation::new(163);
    for (place, name) in (0..).zip(["a", "b", "c"]) {
        let written = written.clone();
        simulation = simulation.service(name, move |network| {
            let written = written.clone();
            async move {
                let map = Numbers::online_writer_with_config(&network, ID, writing()).await?;
                for number in 0.. {
                    map.insert(1_000 * place + number, number).await?;
                    *written.borrow_mut() += 1;
                    sleep(Duration::from_millis(50)).await;
                }
                stay(map).await
            }
        });
    }
    let of_reader = written.clone();
    let simulation = simulation.host("reader", move |network| {
        let written = of_reader.clone();
        async move {
            let map = Numbers::online_reader_with_config(&network, ID, reading()).await?;
            while *written.borrow() < 200 {
                sleep(Duration::from_millis(100)).await;
            }
            let acknowledged = *written.borrow();
            assert!(map.strong().await?.len() as u32 >= acknowledged);
            Ok(())
        }
    });
    let simulation = simulation.script(move |control| {
        let written = written.clone();
        async move {
            control.wait_until(|| *written.borrow() >= 60).await;
            control.crash("a");
        }
    });
    simulation.run().unwrap();
}

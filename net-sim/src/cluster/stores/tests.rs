//! Stores of simulated hosts, over crashes and what else a disk does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smalti_core::NetworkBuilder;
use smalti_core::id::{GroupId, Instance, SecretKey};
use smalti_core::network::Error;
use smalti_core::protocol::raft::{HardState, Runs, Storage, StorageError, Term, Write};
use smalti_core::runtime::{Clock, Runtime};
use smalti_core::time::Instant;

use crate::cluster::{AppResult, Cause, Simulation, SimulationError};

/// What is written.
fn write(boot: u64) -> Write {
    let hard_state = HardState {
        instance: Instance::from_bytes([7; 16]),
        boot,
        runs: Runs::NONE,
        incarnation: None,
        term: Term(0),
        vote: None,
        seals: [None; 4],
    };
    Write {
        hard_state: Some(hard_state),
        ..Write::default()
    }
}

/// A store, used as a node's worker uses it.
struct Store {
    runtime: Arc<dyn Runtime>,
    storage: Option<Box<dyn Storage>>,
}

impl Store {
    async fn open(runtime: &Arc<dyn Runtime>) -> Result<Self, StorageError> {
        let opened = runtime
            .open_store("data".into(), "stores".into(), None)
            .await?;
        Ok(Self {
            runtime: runtime.clone(),
            storage: Some(opened.storage),
        })
    }

    /// Does something with the storage where that may block, and waits for it.
    async fn does<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Storage) -> T + Send + 'static,
    ) -> T {
        let mut storage = self.storage.take().unwrap();
        let result = Arc::new(Mutex::new(None));
        let left = result.clone();
        let work = Box::new(move || {
            let output = work(&mut *storage);
            *left.lock().unwrap() = Some((storage, output));
        });
        self.runtime.blocking("test", work).await;
        let (storage, output) = result.lock().unwrap().take().unwrap();
        self.storage = Some(storage);
        output
    }

    async fn write(&mut self, boot: u64) -> Result<(), StorageError> {
        self.does(move |storage| {
            storage.write(&GroupId::from("g"), write(boot))?;
            storage.sync()
        })
        .await
    }

    /// What was last written, and 0 where nothing was.
    async fn last(&mut self) -> u64 {
        let found = self.does(|storage| storage.load(&GroupId::from("g")));
        let found = found.await.unwrap();
        found.map_or(0, |found| found.hard_state.boot)
    }
}

/// Runs what `build` makes over each kind of store there is.
fn run_over_each(build: impl Fn() -> Simulation) {
    build().run_twice().unwrap();
    #[cfg(feature = "full")]
    build().over_quic().run_twice().unwrap();
}

/// A host that writes 1, 2, 3, and so on, and crashes, twice. Notes, of each crash, how many writes were
/// there afterwards though nobody had been told that they are durable.
fn crashes_while_it_writes(seed: u64, unexpected: Arc<Mutex<BTreeSet<u64>>>) -> Simulation {
    Simulation::new(seed)
        .host_on_runtime("a", {
            let (lives, told) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            move |runtime| {
                let (lives, told) = (lives.clone(), told.clone());
                let unexpected = unexpected.clone();
                async move {
                    let mut store = Store::open(&runtime).await?;
                    let (found, before) = (store.last().await, told.load(Ordering::Relaxed));
                    assert!(found >= before, "{found} is there, {before} was durable");
                    let life = lives.fetch_add(1, Ordering::Relaxed);
                    if life > 0 {
                        unexpected.lock().unwrap().insert(found - before);
                    }
                    if life == 2 {
                        lives.store(0, Ordering::Relaxed);
                        told.store(0, Ordering::Relaxed);
                        return Ok(());
                    }
                    for boot in found + 1.. {
                        store.write(boot).await?;
                        told.store(boot, Ordering::Relaxed);
                    }
                    Ok(())
                }
            }
        })
        .script(|control| async move {
            control.slow_disk("a", 20);
            for _ in 0..2 {
                control.sleep(Duration::from_secs(1)).await;
                control.crash("a");
                control.sleep(Duration::from_millis(100)).await;
                control.restart("a");
            }
        })
}

#[test]
fn what_was_told_to_be_durable_survives_a_crash_and_what_was_not_may_be_lost() {
    let unexpected = Arc::default();
    for seed in 0..20 {
        crashes_while_it_writes(seed, Arc::clone(&unexpected))
            .run_twice()
            .unwrap();
    }
    assert_eq!(*unexpected.lock().unwrap(), BTreeSet::from([0, 1]));
}

#[cfg(feature = "full")]
#[test]
fn the_real_store_keeps_what_it_promised_over_crashes() {
    let unexpected = Arc::default();
    for seed in 0..10 {
        crashes_while_it_writes(seed, Arc::clone(&unexpected))
            .over_quic()
            .run_twice()
            .unwrap();
    }
    assert_eq!(*unexpected.lock().unwrap(), BTreeSet::from([0, 1]));
}

#[test]
fn a_slow_disk_delays_the_reply() {
    run_over_each(|| {
        Simulation::new(1)
            .host_on_runtime("a", |runtime| async move {
                let mut store = Store::open(&runtime).await?;
                let mut takes = Vec::new();
                for boot in 1..3 {
                    let begun = runtime.now();
                    store.write(boot).await?;
                    takes.push(runtime.now().since(begun));
                    until(&*runtime, 2).await;
                }
                assert!(takes[0] < Duration::from_millis(50), "{takes:?}");
                assert!(takes[1] > Duration::from_millis(100), "{takes:?}");
                Ok(())
            })
            .script(|control| async move {
                control.sleep(Duration::from_secs(1)).await;
                control.slow_disk("a", 1_000);
            })
    });
}

/// Waits until the host is up for so many seconds.
async fn until(runtime: &dyn Clock, secs: u64) {
    let deadline = Instant::ZERO + Duration::from_secs(secs);
    runtime.sleep_until(deadline, "test").await;
}

#[test]
fn a_store_whose_sync_has_failed_is_closed_until_it_is_opened_again() {
    run_over_each(|| {
        Simulation::new(1)
            .host_on_runtime("a", |runtime| async move {
                let mut store = Store::open(&runtime).await?;
                store.write(1).await?;
                until(&*runtime, 2).await;
                let failed = store.write(2).await;
                assert!(matches!(failed, Err(StorageError::Disk { .. })));
                assert_eq!(store.write(3).await, Err(StorageError::Closed));
                drop(store);
                let mut again = Store::open(&runtime).await?;
                let found = again.last().await;
                assert!([1, 2].contains(&found), "{found}");
                Ok(again.write(3).await?)
            })
            .script(|control| async move {
                control.sleep(Duration::from_secs(1)).await;
                control.fail_sync("a");
            })
    });
}

#[test]
fn a_full_disk_takes_nothing_more_and_says_so() {
    let simulation = Simulation::new(1)
        .host_on_runtime("a", |runtime| async move {
            let mut store = Store::open(&runtime).await?;
            store.write(1).await?;
            until(&*runtime, 2).await;
            let refused = store.write(2).await;
            assert!(matches!(refused, Err(StorageError::Full { .. })));
            until(&*runtime, 4).await;
            drop(store);
            let mut again = Store::open(&runtime).await?;
            assert_eq!(again.last().await, 1);
            Ok(again.write(2).await?)
        })
        .script(|control| async move {
            control.sleep(Duration::from_secs(1)).await;
            control.fill_disk("a");
            control.sleep(Duration::from_secs(2)).await;
            control.free_disk("a");
        });
    simulation.run_twice().unwrap();
}

/// Has something done where it may block, when it is dropped.
struct LastWish(Arc<dyn Runtime>, Arc<AtomicBool>);

impl Drop for LastWish {
    fn drop(&mut self) {
        let done = self.1.clone();
        let work = Box::new(move || done.store(true, Ordering::Relaxed));
        drop(self.0.blocking("last wish", work));
    }
}

#[test]
fn nothing_is_done_for_a_host_that_has_crashed() {
    let done = Arc::new(AtomicBool::new(false));
    let noted = done.clone();
    Simulation::new(1)
        .host_on_runtime("a", move |runtime| {
            let wish = LastWish(runtime, noted.clone());
            async move {
                std::future::pending::<()>().await;
                drop(wish);
                Ok(())
            }
        })
        .script(|control| async move {
            control.sleep(Duration::from_secs(1)).await;
            control.crash("a");
            control.sleep(Duration::from_secs(1)).await;
        })
        .duration(Duration::from_secs(5))
        .run()
        .unwrap_err();
    assert!(!done.load(Ordering::Relaxed));
}

async fn node(
    runtime: &Arc<dyn Runtime>,
    key: Option<&str>,
) -> Result<smalti_core::Network, Error> {
    let builder = NetworkBuilder::new("data").with_data_dir("data");
    let builder = match key {
        Some(key) => builder.with_secret_key(SecretKey::from(key)),
        None => builder,
    };
    let address = ([192, 168, 0, 1], crate::cluster::PORT).into();
    builder
        .with_addresses([address])
        .build_on(runtime.clone())
        .await
}

#[test]
fn a_nodes_key_is_that_of_its_data_directory() {
    run_over_each(|| {
        Simulation::new(1).host_on_runtime("a", |runtime| async move {
            let first = node(&runtime, None).await?;
            let id = first.local().id();
            let twice = node(&runtime, None).await.map(drop);
            assert!(matches!(
                twice,
                Err(Error::Storage(StorageError::InUse { .. }))
            ));
            first.shutdown().await;
            let foreign = node(&runtime, Some("another")).await.map(drop);
            assert!(matches!(
                foreign,
                Err(Error::Storage(StorageError::Foreign { .. }))
            ));
            let again = node(&runtime, None).await?;
            assert_eq!(again.local().id(), id);
            again.shutdown().await;
            Ok(())
        })
    });
}

#[test]
fn a_host_that_starts_again_finds_its_data_directory() {
    let with_data = |seed| {
        let lives = Arc::new(AtomicU64::new(0));
        Simulation::new(seed)
            .host_with(
                "a",
                |builder| builder.with_data_dir("data"),
                move |_network| {
                    let life = lives.fetch_add(1, Ordering::Relaxed);
                    async move {
                        if life.is_multiple_of(2) {
                            std::future::pending::<()>().await;
                        }
                        AppResult::Ok(())
                    }
                },
            )
            .script(|control| async move {
                control.sleep(Duration::from_secs(1)).await;
                control.crash("a");
                control.restart("a");
            })
    };
    with_data(1).run_twice().unwrap();

    let lives = AtomicBool::new(false);
    let other_key = Simulation::new(1)
        .host_with(
            "a",
            move |builder| {
                let builder = builder.with_data_dir("data");
                if lives.swap(true, Ordering::Relaxed) {
                    builder.with_secret_key(SecretKey::from("another"))
                } else {
                    builder
                }
            },
            |_network| async {
                std::future::pending::<()>().await;
                Ok(())
            },
        )
        .script(|control| async move {
            control.sleep(Duration::from_secs(1)).await;
            control.crash("a");
            control.restart("a");
        });
    let Err(SimulationError {
        cause: Cause::App { error, .. },
        ..
    }) = other_key.run()
    else {
        panic!("the store is that of the first key");
    };
    assert!(error.to_string().contains("it belongs to peer"), "{error}");
}

#[test]
fn a_directory_of_one_network_is_refused_in_another() {
    run_over_each(|| {
        Simulation::new(8).host_on_runtime("a", |runtime| async move {
            for _ in 0..2 {
                drop(Store::open(&runtime).await?);
                let elsewhere = runtime.open_store("data".into(), "elsewhere".into(), None);
                let refused = elsewhere.await.map(drop).unwrap_err();
                assert!(matches!(refused, StorageError::Foreign { .. }), "{refused}");
            }
            Ok(())
        })
    });
}

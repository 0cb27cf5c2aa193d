//! Builds that do not agree on what a collection holds.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smalti_core::collections::{Fingerprint, Map, OpenError, SchemaConflict, WriteError};
use smalti_core::groups::Stopped;
use smalti_core::{StoreId, unique_id};
use smalti_sim::Simulation;
use tokio::time::{sleep, timeout};

use crate::stay;

const ID: StoreId = unique_id!("changed map of the tests");

mod before {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Price {
        pub(super) cents: u64,
    }
}

mod after {
    use super::{Deserialize, Serialize};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Price {
        pub(super) cents: u64,
        pub(super) currency: String,
    }
}

type Before = Map<u32, before::Price>;
type After = Map<u32, after::Price>;

/// What a node with the changed types must be told.
fn conflict() -> SchemaConflict {
    SchemaConflict {
        ours: Fingerprint::of::<(u32, after::Price)>(),
        theirs: Fingerprint::of::<(u32, before::Price)>(),
    }
}

#[test]
fn who_comes_with_other_types_is_refused_and_the_others_go_on() {
    let told = Rc::new(Cell::new(0));
    let mut simulation = Simulation::new(131);
    for name in ["a", "b"] {
        simulation = simulation.service(name, |network| async move {
            let map = Before::online_writer(&network, ID).await?;
            map.insert(1, before::Price { cents: 310 }).await?;
            stay(map).await
        });
    }
    for (name, writes) in [("changed writer", true), ("changed reader", false)] {
        let told = told.clone();
        simulation = simulation.host(name, move |network| {
            let told = told.clone();
            async move {
                sleep(Duration::from_secs(10)).await;
                let error = if writes {
                    After::online_writer(&network, ID).await.err()
                } else {
                    After::online_reader(&network, ID).await.err()
                };
                assert_eq!(error, Some(OpenError::Schema(conflict())));
                told.set(told.get() + 1);
                Ok(())
            }
        });
    }
    let simulation = simulation.host("reader", move |network| {
        let told = told.clone();
        async move {
            let map = Before::online_reader(&network, ID).await?;
            while told.get() < 2 {
                sleep(Duration::from_millis(100)).await;
            }
            let strong = map.strong().await?;
            assert_eq!(strong.get(&1), Some(&before::Price { cents: 310 }));
            Ok(())
        }
    });
    simulation.run().unwrap();
}

#[test]
fn of_two_builds_that_begin_together_one_is_refused() {
    let results: Rc<RefCell<Vec<Option<OpenError>>>> = Rc::default();
    let mut simulation = Simulation::new(132);
    for name in ["a", "b"] {
        let results = results.clone();
        simulation = simulation.host(name, move |network| {
            let results = results.clone();
            async move {
                let limit = Duration::from_secs(90);
                // Where the one that is refused was a voter, the other may wait for another one.
                let error = if name == "a" {
                    let opened = timeout(limit, Before::online_writer(&network, ID)).await;
                    opened.ok().and_then(Result::err)
                } else {
                    let opened = timeout(limit, After::online_writer(&network, ID)).await;
                    opened.ok().and_then(Result::err)
                };
                results.borrow_mut().push(error);
                while results.borrow().len() < 2 {
                    sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            }
        });
    }
    simulation.duration(Duration::from_secs(180)).run().unwrap();
    let results = results.borrow();
    let errors: Vec<_> = results.iter().flatten().collect();
    let [OpenError::Schema(refused)] = errors[..] else {
        panic!("{errors:?}");
    };
    let types = [refused.ours, refused.theirs];
    let all = [conflict().ours, conflict().theirs];
    assert!(all.iter().all(|it| types.contains(it)));
    assert!(
        all.iter()
            .all(|it| refused.to_string().contains(&it.to_string()))
    );
}

#[test]
fn a_reader_of_other_types_learns_it_from_the_first_write() {
    let simulation = Simulation::new(133)
        .service("a", |network| async move {
            let map = Before::writer(&network, ID).await?;
            map.when().online().await;
            sleep(Duration::from_secs(20)).await;
            let error = After::writer(&network, ID).await.err();
            assert!(
                matches!(error, Some(OpenError::Join(_))),
                "one id, one collection"
            );
            map.insert(1, before::Price { cents: 310 }).await?;
            stay(map).await
        })
        .host("reader", |network| async move {
            let map = After::reader(&network, ID).await?;
            map.when().online().await;
            map.when().offline().await;
            assert!(matches!(map.status().stopped, Some(Stopped::Refused(_))));
            assert_eq!(map.online().await, Err(OpenError::Schema(conflict())));
            assert!(map.is_empty(), "what cannot be read is not shown");
            Ok(())
        });
    simulation.run().unwrap();
}

#[test]
fn a_write_error_says_what_is_wrong() {
    let error = WriteError::<Before>::Schema(conflict());
    assert!(error.is_rejected() && error.to_string().contains(&conflict().theirs.to_string()));
    assert_eq!(error.into_batch(), None);
}

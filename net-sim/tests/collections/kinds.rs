//! All kinds of collections, written by some hosts and read by another.

use std::cell::RefCell;
use std::rc::Rc;

use smalti_core::collections::{self, Cell, Inserted, Once, PriorityQueue, Set, WriteError};
use smalti_core::{StoreId, unique_id};
use smalti_sim::{AppResult, Simulation};

use crate::stay;

const ID: StoreId = unique_id!("collection of the tests");
const HOSTS: [&str; 3] = ["a", "b", "c"];

type Items = collections::Vec<String>;
type Queue = PriorityQueue<u32, String, u64>;

fn out_of_bounds<C, R>(result: &Result<R, WriteError<C>>) -> (u64, u64) {
    match result {
        Err(WriteError::OutOfBounds(error)) => (error.index, error.len),
        _ => panic!("there is no such place"),
    }
}

#[test]
fn a_vec_tells_each_writer_what_became_of_its_operation() {
    let simulation = Simulation::new(111)
        .service("a", |network| async move {
            let items = Items::online_writer(&network, ID).await?;
            let text = |text: &str| text.to_owned();
            assert_eq!(*items.pop_back().await?, None);
            assert_eq!(*items.push_back(text("b")).await?, 0);
            assert_eq!(*items.push_back(text("c")).await?, 1);
            items.push_front(text("a")).await?;
            assert_eq!(out_of_bounds(&items.insert(4, text("x")).await), (4, 3));
            assert_eq!(out_of_bounds(&items.remove(3).await), (3, 3));
            assert_eq!(out_of_bounds(&items.swap(0, u64::MAX).await), (u64::MAX, 3));
            items.insert(3, text("d")).await?;
            assert_eq!(*items.remove(1).await?, "b");
            items.swap(0, 2).await?;
            assert_eq!(*items.extend(["e", "f", "g"].map(text)).await?, 3);
            assert_eq!(*items.pop_front().await?, Some(text("d")));
            assert_eq!(*items.pop_back().await?, Some(text("g")));
            assert_eq!(*items.truncate(3).await?, 1);
            // All or nothing.
            let mut batch = items.batch();
            batch.clear();
            batch.remove(0);
            assert_eq!(out_of_bounds(&items.commit(batch).await), (0, 0));
            let mut batch = items.batch();
            let (last, place) = (batch.pop_back(), batch.push_back(text("z")));
            let results = items.commit(batch).await?;
            assert_eq!(results.get(&last)?, Some(text("e")));
            assert_eq!(results.get(&place)?, 2);
            stay(items).await
        })
        .host("reader", |network| async move {
            let items = Items::online_reader(&network, ID).await?;
            let mut updated = items.when().updated();
            while items.back().as_deref() != Some("z") {
                (&mut updated).await;
            }
            assert!(items.iter().eq(["c", "a", "z"]));
            assert_eq!(items.front().as_deref(), Some("c"));
            assert_eq!(items.get(1).as_deref(), Some("a"));
            assert_eq!(items.index_of(&"z".to_owned()), Some(2));
            assert!(items.contains(&"a".to_owned()) && !items.is_empty());
            assert_eq!(items.len(), 3);
            Ok(())
        });
    simulation.run().unwrap();
}

#[test]
fn a_set_tells_what_is_new() {
    let simulation = Simulation::new(112).host("a", |network| async move {
        let set = Set::<u32>::online_writer(&network, ID).await?;
        let other = Set::<u32>::online_writer(&network, "other").await?;
        assert!(*set.insert(1).await? && !*set.insert(1).await?);
        assert_eq!(*set.extend([1, 2, 3]).await?, 2);
        assert!(!set.is_subset(&other));
        other.extend(0..9).await?;
        assert!(set.is_subset(&other) && set.contains(&3));
        assert!(*set.remove(1).await? && !*set.remove(1).await?);
        assert_eq!(*set.remove_many([1, 2]).await?, 1);
        assert!(set.iter().eq([3]) && set.len() == 1);
        assert_eq!(*set.clear().await?, 1);
        assert!(set.is_empty());
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn what_is_popped_from_a_queue_goes_to_one_host_alone() {
    const ENTRIES: usize = 60;
    let popped: Rc<RefCell<Vec<u32>>> = Rc::default();
    let mut simulation = Simulation::new(113);
    for name in HOSTS {
        let popped = popped.clone();
        simulation = simulation.host(name, move |network| {
            let popped = popped.clone();
            async move {
                let queue = Queue::online_writer(&network, ID).await?;
                if name == "a" {
                    let entries = (0..ENTRIES as u32).map(|n| (n, n.to_string(), 0));
                    queue.extend(entries).await?;
                }
                let mut updated = queue.when().updated();
                while queue.is_empty() && popped.borrow().is_empty() {
                    (&mut updated).await;
                }
                while popped.borrow().len() < ENTRIES {
                    let from_below = name != "b";
                    let entry = if from_below {
                        queue.pop_min().await?
                    } else {
                        queue.pop_max().await?
                    };
                    if let Some((priority, _, _)) = entry.output {
                        popped.borrow_mut().push(priority);
                    }
                }
                Ok(())
            }
        });
    }
    simulation.run().unwrap();
    let mut popped = popped.take();
    popped.sort_unstable();
    assert!(popped.into_iter().eq(0..ENTRIES as u32));
}

#[test]
fn a_queue_is_ordered_by_priority_from_both_ends() {
    let simulation = Simulation::new(114).host("a", |network| async move {
        let queue = Queue::online_writer(&network, ID).await?;
        let text = |text: &str| text.to_owned();
        queue.insert(5, text("a"), 50).await?;
        queue.insert(3, text("b"), 30).await?;
        let inserted = queue.insert(4, text("a"), 40).await?;
        assert_eq!(inserted.former, Some((5, 50)));
        assert_eq!(*queue.update_priority(text("b"), 9).await?, Some(3));
        assert_eq!(*queue.update_priority(text("x"), 9).await?, None);
        assert_eq!(*queue.update_value(text("b"), 90).await?, Some(30));
        let exchange = queue.compare_exchange_value(text("b"), 30, None).await?;
        assert_eq!(*exchange, Err(Some(90)));
        let exchange = queue
            .compare_exchange_value(text("b"), 90, Some(91))
            .await?;
        assert_eq!(*exchange, Ok(()));
        assert_eq!(queue.get_min(), Some((4, text("a"), 40)));
        assert_eq!(queue.get_max(), Some((9, text("b"), 91)));
        assert_eq!(
            (queue.get("a"), queue.get_priority("a")),
            (Some(40), Some(4))
        );
        assert!(queue.iter_asc().map(|(_, key, _)| key).eq(["a", "b"]));
        assert!(queue.iter_desc().map(|(_, key, _)| key).eq(["b", "a"]));
        assert_eq!(*queue.set_capacity(Some(2)).await?, 0);
        let evicted = Some((4, text("a"), 40));
        let inserted = queue.insert(7, text("c"), 70).await?.output;
        assert_eq!(
            inserted,
            Inserted {
                former: None,
                evicted
            }
        );
        assert_eq!((queue.len(), queue.capacity()), (2, Some(2)));
        assert_eq!(*queue.remove_range(..9).await?, 1);
        assert_eq!(*queue.remove(text("b")).await?, Some((9, 91)));
        queue.set_capacity(None).await?;
        queue.extend((0..5).map(|n| (n, n.to_string(), 0))).await?;
        assert_eq!(*queue.remove_keys([text("0"), text("x")]).await?, 1);
        assert!(queue.contains_key("1"));
        assert_eq!(*queue.clear().await?, 4);
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn of_those_who_race_for_a_once_one_wins_and_all_learn_what_it_wrote() {
    let results: Rc<RefCell<Vec<Result<(), String>>>> = Rc::default();
    let mut simulation = Simulation::new(115);
    for name in HOSTS {
        let results = results.clone();
        simulation = simulation.host(name, move |network| {
            let results = results.clone();
            async move {
                let once = Once::<String>::online_writer(&network, ID).await?;
                let result = once.write(name.to_owned()).await?.output;
                let value = once.await_value().await?;
                assert_eq!(once.read(), Some(value.clone()));
                if let Err(winner) = &result {
                    assert_eq!(*winner, value);
                }
                assert_eq!(*once.set("late".to_owned()).await?, Err(value));
                results.borrow_mut().push(result);
                while results.borrow().len() < HOSTS.len() {
                    once.strong().await?;
                }
                Ok(())
            }
        });
    }
    simulation.run().unwrap();
    assert_eq!(results.borrow().iter().filter(|it| it.is_ok()).count(), 1);
}

#[test]
fn who_awaits_a_value_is_told_once_it_is_written() {
    let simulation = Simulation::new(116)
        .service("a", |network| async move {
            let once = Once::<u64>::online_writer(&network, ID).await?;
            tokio::time::sleep(std::time::Duration::from_secs(5)).await;
            assert!(once.is_empty());
            once.write(7).await?.output.expect("nobody else writes");
            stay(once).await
        })
        .host("reader", |network| async move {
            let once = Once::<u64>::online_reader(&network, ID).await?;
            assert_eq!((once.read(), once.await_value().await?), (None, 7));
            Ok(())
        });
    simulation.run().unwrap();
}

/// Counts up by compare and exchange, so many times.
async fn count(cell: &collections::CellWriter<u64>, times: u64) -> AppResult {
    for _ in 0..times {
        let mut present = cell.read();
        while let Err(other) = cell
            .compare_exchange(present, Some(present.unwrap_or_default() + 1))
            .await?
            .output
        {
            present = other;
        }
    }
    Ok(())
}

#[test]
fn no_exchange_is_lost_between_hosts() {
    const TIMES: u64 = 15;
    let mut simulation = Simulation::new(117);
    for name in HOSTS {
        simulation = simulation.host(name, move |network| async move {
            let cell = Cell::<u64>::online_writer(&network, ID).await?;
            count(&cell, TIMES).await?;
            while cell.strong().await?.read() < Some(&(TIMES * HOSTS.len() as u64)) {
                cell.when().updated().await;
            }
            assert_eq!(cell.read(), Some(TIMES * HOSTS.len() as u64));
            Ok(())
        });
    }
    simulation.run().unwrap();
}

#[test]
fn a_cell_holds_one_value_or_none() {
    let simulation = Simulation::new(118).host("a", |network| async move {
        let cell = Cell::<String>::online_writer(&network, ID).await?;
        assert_eq!(*cell.write("a".to_owned()).await?, None);
        assert_eq!(*cell.set("b".to_owned()).await?, Some("a".to_owned()));
        assert_eq!(*cell.clear().await?, Some("b".to_owned()));
        assert!(cell.is_empty());
        Ok(())
    });
    simulation.run().unwrap();
}

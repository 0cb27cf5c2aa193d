//! Leaving groups, and what ends with them.

use smalti_core::groups::{CommandError, JoinError, Stopped};
use smalti_core::{Strong, Weak};
use smalti_sim::Simulation;

use crate::journal::{Line, Notes, join, write};

fn line(number: u32) -> Line {
    Line {
        host: "x".to_owned(),
        number,
    }
}

#[test]
fn who_has_left_gets_commands_and_queries_back_and_may_join_again() {
    let simulation = Simulation::new(21).host("a", |network| async move {
        let group = join(&network).await?;
        assert!(matches!(
            join(&network).await,
            Err(JoinError::AlreadyJoined(_))
        ));
        group.when().online().await;
        group.leave().await;
        assert_eq!(group.status().stopped, Some(Stopped::Left));
        let error = group.execute(line(1)).await.unwrap_err();
        assert!(matches!(error, CommandError::Stopped { .. }), "{error}");
        assert_eq!(error.into_command(), Some(line(1)));
        assert!(group.query((), Weak).await.is_err());
        assert!(group.query((), Strong).await.is_err());
        let again = join(&network).await?;
        again.when().online().await;
        assert_eq!(again.query((), Weak).await?.len(), 0);
        Ok(())
    });
    simulation.run().unwrap();
}

#[test]
fn a_leader_that_leaves_hands_over_and_its_writes_stay() {
    let hosts = ["a", "b", "c"];
    let mut simulation = Simulation::new(22);
    for name in hosts {
        simulation = simulation.host(name, move |network| async move {
            let group = join(&network).await?;
            group.when().online().await;
            let notes = Notes::default();
            write(&group, name, 0..5, &notes).await?;
            while group.query((), Strong).await?.len() < 15 {
                group.when().committed().await;
            }
            if group.is_leader() {
                network.shutdown().await;
                return Ok(());
            }
            group.when().leader_changed().await;
            write(&group, name, 5..10, &notes).await?;
            let kept = group.query((), Strong).await?.result;
            assert!(notes.acknowledged().iter().all(|line| kept.contains(line)));
            Ok(())
        });
    }
    simulation.run().unwrap();
}

#[test]
fn dropping_the_last_handle_leaves() {
    let simulation = Simulation::new(23)
        .host("a", |network| async move {
            let group = join(&network).await?;
            group.when().online().await;
            // Alone again once b's handle is dropped.
            loop {
                let left = group.bonds().is_empty() && group.status().voters.len() == 1;
                let seen = network.discovery().catalog().peers_count() > 0;
                if left && seen && group.status().commands >= 1 {
                    return Ok(());
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        })
        .host("b", |network| async move {
            let group = join(&network).await?;
            group.when().online().await;
            group.execute(line(1)).await?;
            drop(group);
            Ok(())
        });
    simulation.run().unwrap();
}

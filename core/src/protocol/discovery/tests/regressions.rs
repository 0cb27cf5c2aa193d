//! Defects that were found once, each with what brought it about.

use super::super::*;
use super::laws::entry;
use super::single::Single;
use crate::id::{Instance, NetworkId, SecretKey};
use crate::time::{Duration, WallTime};

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_node_whose_clock_was_ahead_dates_itself_anew_once_it_is_set_right() {
    let mut single = Single::new(Config::default());
    let started = single.machine.local().started_at();
    let right = WallTime::from_micros(started.as_micros() - HOUR.as_micros() as u64);
    let outputs = single.input(Input::Wall(right));
    assert_eq!(single.machine.local().started_at(), right);
    assert!(outputs.contains(&Output::CatalogChanged { content: false }));
    single.pass(Duration::from_secs(60));
    let limit = right + Duration::from_secs(60);
    assert!(single.machine.local().updated_at() <= limit);
    assert_eq!(single.machine.local().started_at(), right);
}

#[test]
fn a_clock_that_is_set_back_within_the_drift_changes_nothing() {
    let mut single = Single::new(Config::default());
    let before = single.machine.local().clone();
    let wall = WallTime::from_micros(before.started_at().as_micros() - 9_000_000);
    single.input(Input::Wall(wall));
    assert_eq!(single.machine.local(), &before);
}

#[test]
fn an_earlier_run_that_was_dated_in_the_future_is_not_moved_above() {
    let mut single = Single::with_neighbours(1);
    let future = single.machine.local().started_at() + HOUR;
    let former = Discovery::new(
        single.now,
        Identity {
            network: NetworkId::from("test"),
            secret_key: SecretKey::from("single"),
            instance: Instance::from_bytes([8; 16]),
            addresses: Vec::new(),
            wall: future,
        },
        Config::default(),
        rand::SeedableRng::seed_from_u64(2),
    );
    single.gossip(0, former.local().clone());
    single.pass(Duration::from_secs(60));
    assert!(single.machine.local().started_at() < future);
}

#[test]
fn a_node_that_every_dial_fails_at_once_does_not_dial_without_pause() {
    let mut single = Single::new(Config::default());
    // Peers are known by hand, but nobody is there any more.
    for index in 0..40 {
        let known = entry(index, 0, 0, 0, false);
        single
            .request(Command::Feed(known))
            .expect("it is well formed");
    }
    let mut dials = 0;
    for _ in 0..600 {
        for (_, output) in single.pass(Duration::from_millis(100)) {
            if let Output::Connect(peer) = output {
                dials += 1;
                single.input(Input::ConnectFailed(peer.id));
            }
        }
    }
    assert!((1..120).contains(&dials), "{dials} dials in a minute");
}

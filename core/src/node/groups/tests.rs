//! Groups of a node that is alone.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use super::handle::BUDGET;
use super::{
    CommandError, Consistency, Group, GroupEvent, JoinError, QueryError, Serialized, StateMachine,
    Stopped, Storage,
};
use crate::node::Network;
use crate::node::alone::{Alone, poll};
use crate::protocol::groups::{GroupKey, WriteKey, WriteKeyMismatch};
use crate::protocol::raft::{ApplyContext, Config, Version};
use crate::{UniqueId, unique_id};

const KEY: GroupKey = GroupKey::from_bytes([1; 32]);

async fn join(network: &Network) -> Result<Group, JoinError> {
    network.groups().with_key(KEY).join().await
}

#[test]
fn nobody_waits_for_a_worker_that_is_no_more() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join(&network)).unwrap();
    runtime.run(group.when().online());
    let mut events = group.events();
    let many = pin!(runtime.run(group.feed_many(vec![(); BUDGET])));
    let mut late = pin!(group.execute(()));
    let mut strong = pin!(group.query((), Consistency::Strong));
    let mut offline = pin!(group.when().offline());
    assert!(poll(late.as_mut()).is_pending() && poll(strong.as_mut()).is_pending());
    assert!(poll(offline.as_mut()).is_pending());
    // As where it panics, or its node has gone away without it.
    drop(runtime.tasks(|name| name == "group"));
    let Poll::Ready(Err(error)) = poll(late) else {
        panic!("it waits still");
    };
    let why = Stopped::ShutDown;
    assert_eq!(
        error,
        CommandError::Stopped {
            command: (),
            why: why.clone()
        }
    );
    let never_taken = |result: &Result<_, CommandError<()>>| {
        let error = result.as_ref().err();
        error.is_some_and(CommandError::is_rejected)
    };
    assert!(matches!(poll(many), Poll::Ready(results) if results.iter().all(never_taken)));
    assert_eq!(
        poll(strong),
        Poll::Ready(Err(QueryError::Stopped(why.clone())))
    );
    assert!(poll(offline).is_ready());
    assert_eq!(group.status().stopped, Some(why.clone()));
    let told = runtime.run(events.recv());
    assert_eq!(told, Ok(Some(GroupEvent::Stopped(why))));
    runtime.run(group.ended());
    let again = runtime.run(join(&network)).unwrap();
    runtime.run(again.when().online());
}

#[test]
fn a_group_can_be_joined_again_once_all_are_told_that_it_was_left() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join(&network)).unwrap();
    runtime.run(group.when().online());
    let held = "announce group";
    assert!(runtime.run_without(held, group.leave()).is_none());
    assert_eq!(group.status().stopped, Some(Stopped::Left));
    let joined = runtime.run_without(held, join(&network));
    assert!(matches!(joined, Some(Err(JoinError::AlreadyJoined(_)))));
    runtime.run(group.leave());
    let again = runtime.run(join(&network)).unwrap();
    runtime.run(again.when().online());
}

/// Adds up what it is given, and cannot bear 13.
#[derive(Default)]
struct Sum {
    value: u32,
    /// What is shown of it.
    shown: Arc<AtomicU32>,
}

impl StateMachine for Sum {
    type Command = u32;
    type Output = u32;
    type Query = ();
    type QueryResult = u32;
    type Snapshot = Serialized<u32>;

    fn signature(&self) -> UniqueId {
        unique_id!("sum of the tests")
    }
    fn apply(&mut self, number: u32, _context: ApplyContext) -> u32 {
        assert!(number != 13, "unlucky");
        self.value += number;
        self.value
    }
    fn query(&self, (): ()) -> u32 {
        self.value
    }
    fn snapshot(&self) -> Serialized<u32> {
        Serialized(self.value)
    }
    fn restore(&mut self, snapshot: Serialized<u32>) {
        self.value = snapshot.0;
    }
    fn publish(&self, _version: Option<Version>) {
        self.shown.store(self.value, Ordering::Relaxed);
    }
}

async fn join_sum(network: &Network, config: Config) -> Result<Group<Sum>, JoinError> {
    let builder = network.groups().with_key(KEY);
    let builder = builder.with_state_machine(Sum::default());
    builder.with_consensus_config(config).join().await
}

fn query_sees_all_before_it(config: Config) {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join_sum(&network, config)).unwrap();
    assert_eq!(*runtime.run(group.execute(1)).unwrap(), 1);
    let mut second = pin!(group.execute(2));
    let mut query = pin!(group.query((), Consistency::Weak));
    assert!(poll(second.as_mut()).is_pending() && poll(query.as_mut()).is_pending());
    let queried = runtime.run(query).unwrap();
    let executed = runtime.run(second).unwrap();
    assert_eq!(
        (queried.result, queried.version),
        (3, Some(executed.version))
    );
}

#[test]
fn a_query_is_answered_by_a_state_that_all_before_it_has_come_to() {
    query_sees_all_before_it(Config::default());
}

#[test]
fn who_may_only_read_is_told_so_and_waits_for_a_writer() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let key = WriteKey::from_bytes([2; 32]);
    let builder = || network.groups().with_key(KEY);
    let reading = builder().with_write_verifier(key.verifier()).join();
    let group = runtime.run(reading).unwrap();
    assert_eq!(
        runtime.run(group.execute(())).unwrap_err(),
        CommandError::ReadOnly(())
    );
    let many = runtime.run(group.execute_many([(), ()]));
    let is_refused = |result: &Result<_, _>| matches!(result, Err(CommandError::ReadOnly(())));
    assert!(many.len() == 2 && many.iter().all(is_refused));
    // Nobody else is there, and it founds nothing.
    assert!(runtime.run_without("", group.when().online()).is_none());
    assert_eq!(group.status().incarnation, None);
    let id = group.id();
    runtime.run(group.leave());

    // With the key it is the same group.
    let writing = builder().with_write_key(key.clone());
    let writing = writing.with_write_verifier(key.verifier()).join();
    let group = runtime.run(writing).unwrap();
    assert_eq!(group.id(), id);
    runtime.run(group.execute(())).unwrap();

    // Those who do not ask for a proof are in another one, and so are those who ask for another.
    let open = runtime.run(builder().join()).unwrap();
    let other = WriteKey::from_bytes([3; 32]);
    let of_others = runtime.run(builder().with_write_key(other.clone()).join());
    let of_others = of_others.unwrap();
    assert!(open.id() != id && of_others.id() != id && open.id() != of_others.id());

    let both = builder().with_write_key(key.clone());
    let both = both.with_write_verifier(other.verifier()).join();
    let mismatch = WriteKeyMismatch {
        of_key: key.verifier(),
        given: other.verifier(),
    };
    assert_eq!(
        runtime.run(both).unwrap_err(),
        JoinError::WriteKey(mismatch)
    );
}

#[test]
fn a_durable_group_goes_on_when_its_only_voter_has_its_write_key_again() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let key = WriteKey::from_bytes([2; 32]);
    let builder = || {
        let builder = network
            .groups()
            .with_key(KEY)
            .with_storage(Storage::Durable);
        builder.with_state_machine(Sum::default())
    };
    let read = async |group: &Group<Sum>| {
        let queried = group.query((), Consistency::Weak).await;
        queried.unwrap().result
    };
    let writing = || builder().with_write_key(key.clone()).join();
    let group = runtime.run(writing()).unwrap();
    runtime.run(group.execute(5)).unwrap();
    drop(group);
    assert!(runtime.run_without("", pending::<()>()).is_none());

    // It has been the group's only voter, and may not be any more.
    let reading = builder().with_write_verifier(key.verifier()).join();
    let group = runtime.run(reading).unwrap();
    assert!(runtime.run_without("", group.when().online()).is_none());
    assert!(!group.is_leader());
    drop(group);
    assert!(runtime.run_without("", pending::<()>()).is_none());

    let group = runtime.run(writing()).unwrap();
    assert_eq!(*runtime.run(group.execute(1)).unwrap(), 6);
    assert_eq!(runtime.run(read(&group)), 6);
}

fn nothing_is_told_of_a_torn_state(config: Config) {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join_sum(&network, config)).unwrap();
    let mut events = group.events();
    // It is applied as soon as the node has founded the group.
    let error = runtime.run(group.execute(13)).unwrap_err();
    assert_eq!(error, CommandError::Unknown);
    let stopped = Stopped::Panicked("unlucky".to_owned());
    assert_eq!(group.status().stopped, Some(stopped.clone()));
    let told = runtime.run(events.recv());
    assert_eq!(told, Ok(Some(GroupEvent::Stopped(stopped))));
}

#[test]
fn of_what_led_to_a_state_that_cannot_be_nothing_is_told() {
    nothing_is_told_of_a_torn_state(Config::default());
}

/// Notes what is shown of a sum whenever it is woken.
#[derive(Default)]
struct Witness {
    shown: Arc<AtomicU32>,
    seen: Mutex<Vec<u32>>,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        let shown = self.shown.load(Ordering::Relaxed);
        self.seen.lock().unwrap().push(shown);
    }
}

fn outcome_is_told_after_its_effect_is_shown(config: Config) {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let witness = Arc::new(Witness::default());
    let sum = Sum {
        shown: witness.shown.clone(),
        ..Sum::default()
    };
    let builder = network.groups().with_key(KEY).with_state_machine(sum);
    let group = runtime.run(builder.with_consensus_config(config).join());
    let group = group.unwrap();
    runtime.run(group.when().online());
    let mut executed = pin!(group.execute(5));
    let waker = Waker::from(witness.clone());
    let pending = executed.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(pending.is_pending());
    let seen = || {
        let seen = witness.seen.lock().unwrap();
        seen.first().copied()
    };
    let first = runtime.run(poll_fn(|_| seen().map_or(Poll::Pending, Poll::Ready)));
    assert_eq!(first, 5, "it is told what nobody can see yet");
    assert_eq!(*runtime.run(executed).unwrap(), 5);
}

#[test]
fn whoever_is_told_of_an_outcome_finds_it_published() {
    outcome_is_told_after_its_effect_is_shown(Config::default());
}

fn life_is_told_once_it_is_durable(config: Config) {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let builder = network.groups().with_key(KEY);
    let builder = builder.with_storage(Storage::Durable);
    let group = runtime.run(builder.with_consensus_config(config).join());
    let group = group.unwrap();
    let mut events = group.events();
    let mut joined =
        pin!(async { while !matches!(events.recv().await, Ok(Some(GroupEvent::Joined(_)))) {} });
    assert_eq!(runtime.run_without("store", joined.as_mut()), None);
    assert!(group.status().incarnation.is_some(), "it has founded");
    runtime.run(joined);
}

#[test]
fn that_a_life_has_begun_is_told_once_no_crash_takes_it_back() {
    life_is_told_once_it_is_durable(Config::default());
}

fn who_has_left_begins_anew(config: Config) {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let join = |config: Config| {
        let builder = network.groups().with_key(KEY);
        let builder = builder.with_state_machine(Sum::default());
        let builder = builder.with_storage(Storage::Durable);
        runtime.run(builder.with_consensus_config(config).join())
    };
    let group = join(config.clone()).unwrap();
    let before = runtime.run(group.execute(5)).unwrap().version;
    runtime.run(group.leave());
    let again = join(config).unwrap();
    let executed = runtime.run(again.execute(1)).unwrap();
    assert_eq!(*executed, 1);
    assert_ne!(executed.version.incarnation, before.incarnation);
}

#[test]
fn who_has_left_for_good_has_nothing_of_the_group_when_it_comes_back() {
    who_has_left_begins_anew(Config::default());
}

#[cfg(smalti_mutants)]
#[test]
fn deliberate_bugs_are_noticed() {
    use crate::protocol::{Mutant, assert_noticed};
    let noticed_by: [(Mutant, fn(Config)); 5] = [
        (Mutant::QueryWithinTurn, query_sees_all_before_it),
        (Mutant::TornStateTold, nothing_is_told_of_a_torn_state),
        (
            Mutant::OutcomeBeforeEffect,
            outcome_is_told_after_its_effect_is_shown,
        ),
        (
            Mutant::LifeToldBeforeDurable,
            life_is_told_once_it_is_durable,
        ),
        (Mutant::StoreKeptByWhoLeft, who_has_left_begins_anew),
    ];
    assert_noticed(&noticed_by, |mutant| Config {
        mutant: Some(mutant),
        ..Config::default()
    });
}

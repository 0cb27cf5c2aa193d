//! Groups of a node that is alone.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::handle::BUDGET;
use super::{
    CommandError, Consistency, Group, GroupEvent, JoinError, QueryError, Serialized, StateMachine,
    Stopped,
};
use crate::node::Network;
use crate::node::alone::{Alone, poll};
use crate::protocol::groups::GroupKey;
use crate::protocol::raft::ApplyContext;
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
struct Sum(u32);

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
        self.0 += number;
        self.0
    }
    fn query(&self, (): ()) -> u32 {
        self.0
    }
    fn snapshot(&self) -> Serialized<u32> {
        Serialized(self.0)
    }
    fn restore(&mut self, snapshot: Serialized<u32>) {
        self.0 = snapshot.0;
    }
}

async fn join_sum(network: &Network) -> Result<Group<Sum>, JoinError> {
    let builder = network.groups().with_key(KEY);
    builder.with_state_machine(Sum::default()).join().await
}

#[test]
fn a_query_is_answered_by_a_state_that_all_before_it_has_come_to() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join_sum(&network)).unwrap();
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
fn of_what_led_to_a_state_that_cannot_be_nothing_is_told() {
    let runtime = Arc::new(Alone::default());
    let network = runtime.node();
    let group = runtime.run(join_sum(&network)).unwrap();
    let mut events = group.events();
    // It is applied as soon as the node has founded the group.
    let error = runtime.run(group.execute(13)).unwrap_err();
    assert_eq!(error, CommandError::Unknown);
    let stopped = Stopped::Panicked("unlucky".to_owned());
    assert_eq!(group.status().stopped, Some(stopped.clone()));
    let told = runtime.run(events.recv());
    assert_eq!(told, Ok(Some(GroupEvent::Stopped(stopped))));
}

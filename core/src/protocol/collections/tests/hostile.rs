//! What no writer and no member sends that is right in the head.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::*;
use crate::protocol::collections::{
    Cell, CellOperation, Fingerprint, Map, MapOperation, Once, OnceOperation, PriorityQueue,
    QueueItem, QueueOperation, Set, SetOperation, Value, Vec as Items, VecOperation,
};
use crate::protocol::raft::COMMAND_LEN_MAX;

type Prices = Map<String, u16>;

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    let mut machine = Machine::<Items<u8>>::default();
    let operations = [
        VecOperation::PushBack(1),
        VecOperation::Clear,
        VecOperation::Remove(3),
        VecOperation::PushBack(2),
    ];
    let outcome = machine.apply(Index(1), &command::<Items<u8>>(&operations));
    assert_eq!(
        outcome,
        Outcome::OutOfBounds(OutOfBounds { index: 3, len: 0 })
    );
    assert!(machine.contents().is_empty());
    assert_eq!(machine.history().end(), 0);
}

#[test]
fn operations_that_cannot_be_read_change_nothing() {
    let mut machine = Machine::<Prices>::default();
    let good = command::<Prices>(&[MapOperation::Insert("a".to_owned(), 1)]);
    let cut = Command {
        operations: good.operations.slice(..2),
        ..good.clone()
    };
    let miscounted = Command {
        count: 2,
        ..good.clone()
    };
    let garbage = Command {
        operations: Bytes::from_static(&[0xff; 9]),
        ..good.clone()
    };
    for command in [cut, miscounted, garbage] {
        assert_eq!(machine.apply(Index(1), &command), Outcome::Malformed);
        assert!(machine.contents().is_empty());
    }
    assert!(matches!(
        machine.apply(Index(2), &good),
        Outcome::Applied(_)
    ));
}

#[test]
fn the_first_command_settles_the_element_types() {
    let other = Command {
        schema: Fingerprint::of::<i8>(),
        ..command::<Prices>(&[])
    };
    let ours = command::<Prices>(&[MapOperation::Insert("a".to_owned(), 1)]);

    let mut first = Machine::<Prices>::default();
    assert!(matches!(first.apply(Index(1), &ours), Outcome::Applied(_)));
    assert_eq!(first.apply(Index(2), &other), Outcome::Foreign(ours.schema));
    assert_eq!((first.conflict(), first.contents().len()), (None, 1));

    let mut second = Machine::<Prices>::default();
    assert_eq!(
        second.apply(Index(1), &other),
        Outcome::Foreign(other.schema)
    );
    assert_eq!(
        second.apply(Index(2), &ours),
        Outcome::Foreign(other.schema)
    );
    let conflict = second.conflict().unwrap();
    assert_eq!(
        (conflict.ours, conflict.theirs),
        (ours.schema, other.schema)
    );
    let says = conflict.to_string();
    assert!(says.contains(&ours.schema.to_string()) && says.contains(&other.schema.to_string()));
}

#[test]
fn a_state_of_other_element_types_is_not_looked_into() {
    let mut theirs = Machine::<Set<i64>>::default();
    theirs.apply(Index(1), &command::<Set<i64>>(&[SetOperation::Insert(-1)]));
    let frozen = Frozen::<Set<String>>::from_chunks(&theirs.freeze().chunks(64)).unwrap();
    let mut ours = Machine::<Set<String>>::default();
    ours.restore(frozen);
    assert_eq!(ours.conflict().map(|it| it.theirs), theirs.schema());
}

#[test]
fn chunks_of_something_else_are_refused() {
    let mut machine = Machine::<Prices>::default();
    let entries = ["a", "b", "c"].map(|key| (key.to_owned(), 1));
    machine.apply(
        Index(1),
        &command::<Prices>(&[MapOperation::Extend(entries.into())]),
    );
    let good = machine.freeze().chunks(1);
    assert_eq!(good.len(), 4);
    let without = |place: usize| {
        let mut chunks = good.clone();
        chunks.remove(place);
        chunks
    };
    let mut twice = good.clone();
    twice.push(good[3].clone());
    let mut crossed = good.clone();
    crossed.swap(1, 2);
    let mut empty = good.clone();
    empty.push(Bytes::from_static(&[0]));
    let mut longer = good.clone();
    longer[3] = [&good[3][..], &[0]].concat().into();
    let mut many = good.clone();
    many.push(Bytes::from(wire::encode(&u32::MAX).unwrap()));
    let mut typeless = good.clone();
    typeless[0] = Bytes::from_static(&[0]);
    for chunks in [
        Vec::new(),
        without(0),
        twice,
        crossed,
        empty,
        longer,
        many,
        typeless,
    ] {
        assert!(
            Frozen::<Prices>::from_chunks(&chunks).is_err(),
            "{chunks:?}"
        );
    }
    assert!(Frozen::<Prices>::from_chunks(&good).is_ok());
}

#[test]
fn a_queue_is_restored_only_from_what_a_queue_can_hold() {
    type Queue = PriorityQueue<u8, u8, ()>;
    let entry = |priority, key| QueueItem::Entry(priority, key, ());
    let table = [
        vec![entry(2, 1), entry(1, 2)],
        vec![entry(1, 1), entry(2, 1)],
        vec![entry(1, 1), QueueItem::Capacity(3)],
        vec![QueueItem::Capacity(3), QueueItem::Capacity(3)],
        vec![QueueItem::Capacity(1), entry(1, 1), entry(2, 2)],
    ];
    for items in table {
        let mut queue = Queue::default();
        assert!(items.into_iter().any(|item| queue.put(item).is_err()));
    }
}

#[test]
fn no_chunk_is_longer_than_two_commands() {
    type Queue = PriorityQueue<String, u8, String>;
    let long = "x".repeat(COMMAND_LEN_MAX - 100);
    let mut machine = Machine::<Queue>::default();
    let operations = [
        QueueOperation::Insert("w".to_owned(), 0, "y".repeat(60 << 10)),
        QueueOperation::Insert(String::new(), 1, long.clone()),
        QueueOperation::UpdatePriority(1, long),
    ];
    for (operation, index) in operations.into_iter().zip(1..) {
        let outcome = machine.apply(Index(index), &command::<Queue>(&[operation]));
        assert!(matches!(outcome, Outcome::Applied(_)));
    }
    let chunks = machine.freeze().chunks(64 << 10);
    assert_eq!(chunks.len(), 3);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.len() <= 2 * COMMAND_LEN_MAX)
    );
    assert_eq!(Frozen::from_chunks(&chunks).unwrap(), machine.freeze());
}

#[test]
fn items_without_bytes_are_counted() {
    let mut machine = Machine::<Items<()>>::default();
    let items = VecOperation::Extend(vec![(); 70_000]);
    machine.apply(Index(1), &command::<Items<()>>(&[items]));
    let chunks = machine.freeze().chunks(64);
    assert_eq!(chunks.len(), 3);
    assert_eq!(
        Frozen::<Items<()>>::from_chunks(&chunks).unwrap(),
        machine.freeze()
    );
}

/// A command whose operations are these bytes.
fn raw<C: Collection>(operations: &[u8]) -> Command {
    Command {
        schema: C::fingerprint(),
        count: 1,
        operations: Bytes::copy_from_slice(operations),
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, serde::Deserialize)]
enum Nested {
    Leaf,
    Branch(Box<Nested>),
    Branches(Vec<Nested>),
}

#[test]
fn values_that_nest_without_end_are_refused() {
    // A value in a cell that is in so many others, one byte each; or two, in sequences of one.
    for (branch, byte_max) in [(&[1][..], 4 << 20), (&[2, 1], 2 << 20)] {
        let deep = [branch.repeat(byte_max), vec![0]].concat();
        let write = [&[0, 1][..], &deep].concat();
        let mut machine = Machine::<Cell<Nested>>::default();
        let outcome = machine.apply(Index(1), &raw::<Cell<Nested>>(&write));
        assert_eq!(outcome, Outcome::Malformed);
        let header = wire::encode(&Some(Cell::<Nested>::fingerprint())).unwrap();
        let item = [&[1][..], &deep].concat();
        let chunks = [header.into(), item.into()];
        assert!(Frozen::<Cell<Nested>>::from_chunks(&chunks).is_err());
    }
}

#[test]
fn values_nest_as_deep_as_is_said() {
    let deep = (0..80).fold(Nested::Leaf, |inside, _| {
        Nested::Branches(vec![Nested::Branch(Box::new(inside))])
    });
    let mut machine = Machine::<Cell<Nested>>::default();
    let write = CellOperation::Write(Some(deep));
    let written = machine.apply(Index(1), &command::<Cell<Nested>>(&[write]));
    assert!(matches!(written, Outcome::Applied(_)));
    let chunks = machine.freeze().chunks(1);
    assert_eq!(Frozen::from_chunks(&chunks).unwrap(), machine.freeze());
}

#[test]
fn sequences_of_nothing_do_not_last_for_ever() {
    let endless = wire::encode(&(8_u8, u64::MAX)).unwrap();
    let mut machine = Machine::<Items<()>>::default();
    let outcome = machine.apply(Index(1), &raw::<Items<()>>(&endless));
    assert_eq!(outcome, Outcome::Malformed);
    // Nor do many that are long.
    let long = wire::encode(&(8_u8, 1_000_000_u32)).unwrap();
    let many = Command {
        count: 10_000,
        ..raw::<Items<()>>(&long.repeat(10_000))
    };
    assert_eq!(machine.apply(Index(1), &many), Outcome::Malformed);
}

/// Applies `first`, and then a batch of so many times `again`.
fn repeat<C: Collection<Operation: Clone>>(
    first: C::Operation,
    again: C::Operation,
    times: usize,
) -> (Machine<C>, Outcome) {
    let mut machine = Machine::<C>::default();
    let applied = machine.apply(Index(1), &command::<C>(&[first]));
    assert!(matches!(applied, Outcome::Applied(_)));
    let outcome = machine.apply(Index(2), &command::<C>(&vec![again; times]));
    (machine, outcome)
}

#[test]
fn what_a_batch_gives_is_no_longer_than_a_command() {
    let text = "x".repeat(1 << 20);
    let lose = || MapOperation::CompareExchange {
        key: 1_u8,
        expected: None,
        new: Some(String::new()),
    };
    let long = || MapOperation::Insert(1, text.clone());
    let (_, seven) = repeat::<Map<u8, String>>(long(), lose(), 7);
    assert!(matches!(seven, Outcome::Applied(replies) if replies.len() == 7));
    let (machine, eight) = repeat::<Map<u8, String>>(long(), lose(), 8);
    assert_eq!(eight, Outcome::ResultsTooLong);
    assert_eq!(machine.contents().get(&1), Some(&text));

    let once = OnceOperation::Write(text.clone());
    let (_, lost) = repeat::<Once<String>>(once, OnceOperation::Write(String::new()), 1_000);
    assert_eq!(lost, Outcome::ResultsTooLong);

    // One alone gives whatever it gives.
    let longest = "x".repeat(9 << 20);
    let write = CellOperation::Write(Some(longest));
    let (machine, cleared) = repeat::<Cell<String>>(write, CellOperation::Write(None), 1);
    assert!(matches!(cleared, Outcome::Applied(_)));
    assert!(machine.contents().is_empty());
}

static COPIES: AtomicU64 = AtomicU64::new(0);

/// Counts how often it is copied.
#[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
struct Copied(Vec<u8>);

impl Clone for Copied {
    fn clone(&self) -> Self {
        COPIES.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

#[test]
fn changes_are_kept_by_what_is_in_them() {
    type Queue<K, V> = PriorityQueue<u32, K, V>;
    fn all<K: super::super::Key, V: Value>(
        operations: impl IntoIterator<Item = QueueOperation<u32, K, V>>,
    ) -> Machine<Queue<K, V>> {
        let mut machine = Machine::default();
        for (operation, index) in operations.into_iter().zip(1..) {
            let outcome = machine.apply(Index(index), &command::<Queue<K, V>>(&[operation]));
            assert!(matches!(outcome, Outcome::Applied(_)));
        }
        machine
    }
    let text = "x".repeat(1 << 20);
    let insert = QueueOperation::Insert(0, 1_u8, text.clone());
    let update = (1..100).map(|priority| QueueOperation::UpdatePriority(1_u8, priority));
    let machine = all::<u8, String>([insert].into_iter().chain(update));
    let kept = |since| machine.history().above(Index(since)).is_some();
    assert!(kept(90) && !kept(50), "a change has the long value");

    // Nor are there so many copies while a batch is applied.
    let long = |times: usize| {
        let insert = QueueOperation::Insert(0, 1_u8, Copied(vec![0; 1 << 20]));
        let before = COPIES.load(Ordering::Relaxed);
        let update = QueueOperation::UpdatePriority(1_u8, 1);
        let (_, updated) = repeat::<Queue<u8, Copied>>(insert, update, times);
        assert!(matches!(updated, Outcome::Applied(replies) if replies.len() == times));
        COPIES.load(Ordering::Relaxed) - before
    };
    assert!(long(1_000) < long(10) + 20);

    let key = |n: u32| format!("{n} {text}");
    let insert = (0..30).map(|n| QueueOperation::Insert(n, key(n), ()));
    let pop = (0..30).map(|_| QueueOperation::PopMin);
    let machine = all::<String, ()>(insert.chain(pop));
    let kept = |since| machine.history().above(Index(since)).is_some();
    assert!(kept(50) && !kept(30), "a change has the long key");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        header in any::<bool>(),
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
        count in 0..4_u32,
    ) {
        let mut all: Vec<Bytes> = chunks.into_iter().map(Bytes::from).collect();
        let operations = all.first().cloned().unwrap_or_default();
        let mut machine = Machine::<Items<u8>>::default();
        let schema = Fingerprint::of::<u8>();
        machine.apply(Index(1), &Command { schema, count, operations });
        if header {
            all.insert(0, Machine::<Items<u8>>::default().freeze().chunks(1).remove(0));
            all[0] = Bytes::from(wire::encode(&Some(schema)).unwrap());
        }
        let _ = Frozen::<Items<u8>>::from_chunks(&all);
    }
}

//! The same against the same models where there is so much that the structures below have several levels.

use std::ops::Bound;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::map::MapModel;
use super::queue::QueueModel;
use super::set::SetModel;
use super::vec::VecModel;
use super::*;
use crate::protocol::collections::{MapOperation, QueueOperation, SetOperation, VecOperation};

/// Applies so many operations, and compares all now and then: also what somebody has kept since long ago.
fn check_large<M: Model>(steps: usize, mut operation: impl FnMut(&mut ChaCha8Rng) -> OperationOf<M>)
where
    OperationOf<M>: Clone + Debug,
{
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut model = M::default();
    let mut machine = Machine::<M::Collection>::default();
    let mut kept: Vec<(M::Collection, M)> = Vec::new();
    for step in 0..steps {
        let operation = operation(&mut rng);
        let command = command::<M::Collection>(std::slice::from_ref(&operation));
        let expected = match model.apply(operation.clone()) {
            Ok(reply) => Outcome::Applied(vec![reply]),
            Err(error) => Outcome::OutOfBounds(error),
        };
        let outcome = machine.apply(Index(step as u64 + 1), &command);
        assert_eq!(outcome, expected, "{operation:?}");
        if step % (steps / 8) == 0 {
            kept.push((machine.contents().clone(), model.clone()));
        }
    }
    kept.push((machine.contents().clone(), model));
    for (contents, model) in kept {
        assert!(contents == model.expected());
    }
    let restored = Frozen::from_chunks(&machine.freeze().chunks(1_000)).unwrap();
    assert!(restored == machine.freeze());
}

fn many<T>(rng: &mut ChaCha8Rng, mut one: impl FnMut(&mut ChaCha8Rng) -> T) -> Vec<T> {
    (0..rng.random_range(0..60)).map(|_| one(rng)).collect()
}

fn key(rng: &mut ChaCha8Rng) -> String {
    rng.random_range(0..4_000_u32).to_string()
}

#[test]
fn a_large_map_does_what_a_b_tree_map_does() {
    check_large::<MapModel>(4_000, |rng| {
        let value = rng.random_range(0..3);
        match rng.random_range(0..100) {
            0..40 => MapOperation::Insert(key(rng), value),
            40..44 => MapOperation::Extend(many(rng, |rng| (key(rng), value))),
            44..60 => MapOperation::CompareExchange {
                key: key(rng),
                expected: rng.random_bool(0.5).then_some(value),
                new: rng.random_bool(0.5).then_some(1),
            },
            60..98 => MapOperation::Remove(key(rng)),
            _ => MapOperation::RemoveMany(many(rng, key)),
        }
    });
}

#[test]
fn a_large_set_does_what_a_b_tree_set_does() {
    check_large::<SetModel>(4_000, |rng| match rng.random_range(0..100) {
        0..50 => SetOperation::Insert(key(rng)),
        50..54 => SetOperation::Extend(many(rng, key)),
        54..98 => SetOperation::Remove(key(rng)),
        _ => SetOperation::RemoveMany(many(rng, key)),
    });
}

#[test]
fn a_large_vec_does_what_a_vec_does() {
    check_large::<VecModel>(8_000, |rng| {
        let item = rng.random_range(0..u16::MAX);
        // Some lie beyond the end.
        let index = rng.random_range(0..3_000);
        match rng.random_range(0..200) {
            0..30 => VecOperation::PushBack(item),
            30..60 => VecOperation::PushFront(item),
            60..75 => VecOperation::PopBack,
            75..90 => VecOperation::PopFront,
            90..130 => VecOperation::Insert(index, item),
            130..165 => VecOperation::Remove(index),
            165..190 => VecOperation::Swap(index, rng.random_range(0..3_000)),
            190..199 => VecOperation::Extend(many(rng, |rng| rng.random_range(0..u16::MAX))),
            _ => VecOperation::Truncate(index.max(1_000)),
        }
    });
}

#[test]
fn a_large_queue_does_what_a_sorted_list_does() {
    check_large::<QueueModel>(3_000, |rng| {
        let (priority, value) = (rng.random_range(0..=u8::MAX), rng.random_range(0..3));
        let entry = |rng: &mut ChaCha8Rng| (rng.random_range(0..=u8::MAX), key(rng), 0);
        match rng.random_range(0..100) {
            0..40 => QueueOperation::Insert(priority, key(rng), value),
            40..48 => QueueOperation::Extend(many(rng, entry)),
            48..58 => QueueOperation::UpdatePriority(key(rng), priority),
            58..62 => QueueOperation::UpdateValue(key(rng), value),
            62..80 => QueueOperation::Remove(key(rng)),
            80..85 => QueueOperation::RemoveKeys(many(rng, key)),
            85..90 => {
                let end = priority.saturating_add(2);
                QueueOperation::RemoveRange(Bound::Excluded(priority), Bound::Included(end))
            }
            90..95 => QueueOperation::PopMin,
            _ => QueueOperation::PopMax,
        }
    });
}

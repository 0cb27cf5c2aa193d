//! A number that is added to.

use crate::linearizability::Model;

/// A counter that begins at zero. Additions wrap around.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter;

/// What is done to a [`Counter`]. Each returns the value before it took effect, or nothing (`None`) where the
/// interface under test does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CounterOp {
    /// Adds a number.
    Add(i64),
    /// Reads the value.
    Get,
}

impl Model for Counter {
    type Op = CounterOp;
    type Output = Option<i64>;
    type State = i64;
    type Key = ();

    fn key(&self, _: &CounterOp) {}

    fn initial(&self, (): &()) -> i64 {
        0
    }

    fn step(&self, state: &i64, op: &CounterOp, output: Option<&Option<i64>>) -> Option<i64> {
        if let Some(Some(before)) = output
            && before != state
        {
            return None;
        }
        Some(match op {
            CounterOp::Add(number) => state.wrapping_add(*number),
            CounterOp::Get => *state,
        })
    }

    fn is_read(&self, op: &CounterOp, _: Option<&Option<i64>>) -> bool {
        matches!(op, CounterOp::Get | CounterOp::Add(0))
    }
}

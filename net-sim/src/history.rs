//! What clients did and saw, for checkers to judge afterwards.
//!
//! A [`History`] records operations: which client called what and when, and what came of it. Some
//! operations have an outcome that nobody knows, because the reply was lost, the client gave up or the run
//! ended; they are recorded as such and never guessed.
//!
//! ```
//! use smalti_sim::history::{ClientId, History};
//! use smalti_sim::time::SimTime;
//!
//! let mut history = History::new();
//! let put = history.call(ClientId(1), "put 5", SimTime::from_nanos(10));
//! let get = history.call(ClientId(2), "get", SimTime::from_nanos(12));
//! history.returned(get, Some(5), SimTime::from_nanos(20));
//! history.unknown(put); // it timed out: it may have taken effect, or may yet
//! assert_eq!(history.operations().count(), 2);
//! ```
//!
//! Times are those of the run ([`SimTime`]), not of a node's drifting clock. Events of different clients may
//! be recorded in any order, since simulated hosts run one after the other; those of one client are recorded
//! as they happen. Tasks that share a history keep it behind a mutex.

use std::fmt;

use crate::time::SimTime;

/// Who calls operations. A client may have several outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}", self.0)
    }
}

/// An operation of the [`History`] that gave this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(usize);

/// One call and what came of it.
#[derive(Clone, Debug)]
pub struct Operation<Op, Output> {
    client: ClientId,
    op: Op,
    called: Moment,
    end: End<Output>,
}

/// A time, and the place among all that was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    time: SimTime,
    count: u64,
}

#[derive(Clone, Debug)]
enum End<Output> {
    /// Nothing has been heard of it, which is as good as `Unknown`.
    Outstanding,
    Returned(Output, Moment),
    Unknown,
    /// It did not take effect and never will.
    Failed,
}

impl<Op, Output> Operation<Op, Output> {
    /// Who called it.
    #[must_use]
    pub const fn client(&self) -> ClientId {
        self.client
    }

    /// What was called.
    #[must_use]
    pub const fn op(&self) -> &Op {
        &self.op
    }

    /// When it was called.
    #[must_use]
    pub const fn called(&self) -> SimTime {
        self.called.time
    }

    /// What it returned; nothing where its outcome is unknown.
    #[must_use]
    pub const fn output(&self) -> Option<&Output> {
        match &self.end {
            End::Returned(output, _) => Some(output),
            End::Outstanding | End::Unknown | End::Failed => None,
        }
    }

    /// When it returned; nothing where its outcome is unknown.
    #[must_use]
    pub const fn returned(&self) -> Option<SimTime> {
        match &self.end {
            End::Returned(_, moment) => Some(moment.time),
            End::Outstanding | End::Unknown | End::Failed => None,
        }
    }

    /// Whether it was over before `other` began: it returned at an earlier time than `other` was called; or at
    /// the same time, by the same client, and recorded before it. At one and the same time, what different
    /// clients do is concurrent, whatever the order in which it was recorded.
    #[must_use]
    pub fn precedes(&self, other: &Self) -> bool {
        let End::Returned(_, returned) = &self.end else {
            return false;
        };
        if self.client == other.client {
            *returned < other.called
        } else {
            returned.time < other.called.time
        }
    }

    /// What orders operations by when they returned.
    pub(crate) fn return_order(&self) -> Option<(SimTime, u64)> {
        match &self.end {
            End::Returned(_, moment) => Some((moment.time, moment.count)),
            End::Outstanding | End::Unknown | End::Failed => None,
        }
    }

    /// What orders operations by when they were called.
    pub(crate) const fn call_order(&self) -> (SimTime, u64) {
        (self.called.time, self.called.count)
    }
}

/// The operations of a run.
#[derive(Clone, Debug)]
pub struct History<Op, Output> {
    operations: Vec<Operation<Op, Output>>,
    /// Calls and returns so far.
    events: u64,
}

impl<Op, Output> Default for History<Op, Output> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Op, Output> History<Op, Output> {
    /// A history of nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            operations: Vec::new(),
            events: 0,
        }
    }

    /// Records that `client` called `op`. Until more is said, its outcome is unknown.
    pub fn call(&mut self, client: ClientId, op: Op, time: SimTime) -> OpId {
        let called = self.moment(time);
        self.operations.push(Operation {
            client,
            op,
            called,
            end: End::Outstanding,
        });
        OpId(self.operations.len() - 1)
    }

    /// Records that an operation took effect and returned `output`.
    ///
    /// # Panics
    ///
    /// If the operation has ended already or is not of this history, or if `time` is before its call.
    #[track_caller]
    pub fn returned(&mut self, id: OpId, output: Output, time: SimTime) {
        let returned = self.moment(time);
        let operation = self.outstanding(id, "returned");
        let called = operation.called.time;
        assert!(
            time >= called,
            "operation {} of {} was called at {called} and cannot return at {time}: give times of the run",
            id.0,
            operation.client
        );
        operation.end = End::Returned(output, returned);
    }

    /// Records that nobody will know what came of an operation: it may take effect at any time after its call,
    /// or never.
    ///
    /// # Panics
    ///
    /// If the operation has ended already or is not of this history.
    #[track_caller]
    pub fn unknown(&mut self, id: OpId) {
        self.outstanding(id, "unknown").end = End::Unknown;
    }

    /// Records that an operation certainly has not taken effect and never will; the history no longer has it.
    /// A timeout is no such certainty: see [`unknown`](Self::unknown).
    ///
    /// # Panics
    ///
    /// If the operation has ended already or is not of this history.
    #[track_caller]
    pub fn failed(&mut self, id: OpId) {
        self.outstanding(id, "failed").end = End::Failed;
    }

    /// The operations in the order of their recording, without those that certainly took no effect.
    pub fn operations(&self) -> impl Iterator<Item = &Operation<Op, Output>> {
        let operations = self.operations.iter();
        operations.filter(|operation| !matches!(operation.end, End::Failed))
    }

    #[track_caller]
    fn outstanding(&mut self, id: OpId, now: &str) -> &mut Operation<Op, Output> {
        let recorded = self.operations.len();
        let Some(operation) = self.operations.get_mut(id.0) else {
            panic!(
                "operation {} is not of this history, which has {recorded}: use the id that `call` returned",
                id.0
            );
        };
        let ended = match operation.end {
            End::Outstanding => return operation,
            End::Returned(..) => "returned",
            End::Unknown => "unknown",
            End::Failed => "failed",
        };
        panic!(
            "operation {} of {} is {now}, but it was {ended} before: an operation ends once",
            id.0, operation.client
        );
    }

    fn moment(&mut self, time: SimTime) -> Moment {
        self.events += 1;
        Moment {
            time,
            count: self.events,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ClientId = ClientId(1);
    const B: ClientId = ClientId(2);

    fn at(nanos: u64) -> SimTime {
        SimTime::from_nanos(nanos)
    }

    #[test]
    fn at_one_time_only_a_clients_own_operations_are_ordered() {
        let mut history = History::new();
        let first = history.call(A, 'a', at(0));
        history.returned(first, (), at(5));
        let second = history.call(A, 'b', at(5));
        let other = history.call(B, 'c', at(5));
        history.returned(second, (), at(5));
        history.returned(other, (), at(6));
        let ops: Vec<_> = history.operations().collect();
        assert!(ops[0].precedes(ops[1]));
        assert!(!ops[1].precedes(ops[0]));
        assert!(!ops[0].precedes(ops[2]), "they touch at 5");
        assert!(!ops[1].precedes(ops[2]));
    }

    #[test]
    fn an_operation_of_unknown_outcome_precedes_nothing() {
        let mut history = History::<_, ()>::new();
        let lost = history.call(A, 'a', at(0));
        history.unknown(lost);
        history.call(A, 'b', at(9));
        let ops: Vec<_> = history.operations().collect();
        assert!(!ops[0].precedes(ops[1]) && !ops[1].precedes(ops[0]));
        assert_eq!((ops[0].output(), ops[1].returned()), (None, None));
    }

    #[test]
    fn what_certainly_failed_is_left_out() {
        let mut history = History::<_, ()>::new();
        let id = history.call(A, 'a', at(0));
        history.failed(id);
        assert_eq!(history.operations().count(), 0);
    }

    #[test]
    #[should_panic(expected = "operation 0 of client 1 is returned, but it was unknown before")]
    fn an_operation_ends_once() {
        let mut history = History::new();
        let id = history.call(A, 'a', at(0));
        history.unknown(id);
        history.returned(id, (), at(1));
    }

    #[test]
    #[should_panic(expected = "cannot return at 0.000000003")]
    fn an_operation_does_not_return_before_its_call() {
        let mut history = History::new();
        let id = history.call(A, 'a', at(4));
        history.returned(id, (), at(3));
    }

    #[test]
    #[should_panic(expected = "is not of this history, which has 0")]
    fn an_id_belongs_to_its_history() {
        let mut history = History::<_, ()>::new();
        let id = history.call(A, 'a', at(4));
        History::<char, ()>::new().unknown(id);
    }
}

//! Judges whether a history is linearizable: whether each operation can have taken effect at one moment between
//! its call and its return, so that all outputs are those of one object used by one client at a time
//! (Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects", 1990).
//!
//! Operations are recorded in a [`History`]. A [`Model`] says what the object is; [`Register`], [`Counter`],
//! [`Log`] and [`Queue`] are there, and [`Keyed`] makes a map of any of them. The [`Checker`] gives a
//! [`Verdict`], with a [`CounterExample`] where there is no such order.
//!
//! ```
//! use smalti_sim::history::{ClientId, History};
//! use smalti_sim::linearizability::{Checker, Register, RegisterOp, RegisterOutput, Verdict};
//! use smalti_sim::time::SimTime;
//!
//! let at = SimTime::from_nanos;
//! let mut history = History::new();
//! let write = history.call(ClientId(1), RegisterOp::Write(5), at(0));
//! history.returned(write, RegisterOutput::Done, at(10));
//! let read = history.call(ClientId(2), RegisterOp::Read, at(20));
//! history.returned(read, RegisterOutput::Value(0), at(30));
//!
//! let Verdict::NotLinearizable(example) = Checker::new(Register::new(0)).check(&history) else {
//!     panic!("a read after the write gave the value of before");
//! };
//! assert_eq!(example.conflict.len(), 2);
//! println!("{example}");
//! ```
//!
//! A test that only wants to go on where all is well says `checker.check(&history).assert_linearizable()`.
//!
//! # How it works
//!
//! The search is Wing and Gong's ("Testing and verifying concurrent objects", 1993): linearize an operation
//! whose call comes before every return that is still ahead, go on, come back where that leads nowhere. As in
//! Lowe's refinement ("Testing for linearizability", 2017) no pair of linearized operations and state is visited
//! twice, and an operation is linearized no sooner than one has to return. Objects that do not touch each
//! other, such as the keys of a map, are checked one by one (Horn and Kroening, "Faster linearizability checking
//! via P-compositionality", 2015).
//!
//! Operations of unknown outcome never have to be linearized. Four things keep many of them from multiplying
//! the work:
//!
//! - they are tried when nothing else helps;
//! - what was reached with some of them used is not visited where the same was reached with fewer used;
//! - equal ones are used in the order of their calls, as nothing tells them apart;
//! - one is tried only where it [can matter](Model::can_matter) to what may come next.
//!
//! Deciding linearizability is NP-complete (Gibbons and Korach, 1997), so the search has a budget. What exceeds it
//! is [`Verdict::Undecided`], which is not a pass.

mod checker;
mod counterexample;
mod model;
mod models;
mod part;
mod search;
mod shrink;
#[cfg(test)]
mod tests;

pub use checker::{Checker, STEPS_MAX, Verdict};
pub use counterexample::{CounterExample, Entry};
pub use model::{HistoryOf, Model, OperationOf};
pub use models::{
    Counter, CounterOp, Keyed, KeyedOp, Log, LogOp, LogOutput, Queue, QueueOp, QueueOutput,
    Register, RegisterOp, RegisterOutput,
};

#[cfg(doc)]
use crate::history::History;

//! Replicated collections, as machines that apply what writers ask for.
//!
//! A collection is a group of its own whose commands are [batches](Batch) of operations. Every member applies the same
//! batches in the same order, so all come to the same contents; whatever is answered, refused or given up is so on
//! all of them alike.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `collection` | what the six kinds have in common: [`Collection`] |
//! | `machine` | applies commands to a collection, and keeps what `changes()` tells |
//! | `command` | batches of operations, and what came of them |
//! | `fingerprint` | tells element types apart |
//! | `history` | the latest changes, within bounds |
//! | `snapshot` | contents as chunks and back |
//! | `map`, `set`, `vec`, `queue`, `cell`, `once` | the kinds |

mod cell;
mod collection;
mod command;
mod fingerprint;
mod history;
mod machine;
mod map;
mod once;
mod queue;
mod set;
mod snapshot;
mod vec;

#[cfg(test)]
mod tests;

pub use cell::{Cell, CellOperation};
pub use collection::{Collection, Key, OutOfBounds, Reply, Value};
pub use command::{Batch, Command, Outcome, RESULTS_LEN_MAX, Results, Ticket};
pub use fingerprint::{Fingerprint, SchemaConflict};
pub use history::Noted;
pub(crate) use history::{Entry, History};
pub use machine::Machine;
pub use map::{Map, MapChange, MapOperation};
pub use once::{Once, OnceOperation};
pub use queue::{Inserted, PriorityQueue, QueueChange, QueueItem, QueueOperation};
pub use set::{Set, SetChange, SetOperation};
pub use snapshot::Frozen;
pub use vec::{Vec, VecChange, VecOperation};

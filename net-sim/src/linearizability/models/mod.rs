//! Objects that tests often need.

mod counter;
mod keyed;
mod log;
mod queue;
mod register;

pub use counter::{Counter, CounterOp};
pub use keyed::{Keyed, KeyedOp};
pub use log::{Log, LogOp, LogOutput};
pub use queue::{Queue, QueueOp, QueueOutput};
pub use register::{Register, RegisterOp, RegisterOutput};

//! The protocols, as machines without I/O: no async, no executor, and no handle knows of them.

mod backoff;
pub mod bonds;
pub mod collections;
pub(crate) mod crossing;
pub mod discovery;
pub mod groups;
mod machine;
mod mutants;
pub mod raft;
mod rtt;
pub mod streams;

pub use machine::Machine;
#[cfg(smalti_mutants)]
pub use mutants::Mutant;
#[cfg(all(test, smalti_mutants))]
pub(crate) use mutants::assert_noticed;
pub(crate) use mutants::mutant;

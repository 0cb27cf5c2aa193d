//! The protocols, as machines without I/O: no async, no executor, and no handle knows of them.

pub mod discovery;
mod machine;
pub mod raft;
pub mod streams;

pub use machine::Machine;

//! The protocols, as machines without I/O: no async, no executor, and no handle knows of them.

mod machine;

pub use machine::Machine;

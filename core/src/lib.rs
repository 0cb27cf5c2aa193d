//! The heart of Smalti.

pub mod id;
pub mod node;
pub mod protocol;
pub mod runtime;
#[doc(hidden)]
pub mod select;
pub mod time;
pub mod wire;

//! The heart of Smalti.

pub mod id;
pub mod protocol;
pub mod time;

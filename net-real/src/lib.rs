//! Self-organizing distributed systems over QUIC: discovery, typed streams.

mod random;
mod runtime;
pub mod transport;

pub use random::Random;
pub use runtime::QuicRuntime;

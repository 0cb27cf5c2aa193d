//! Self-organizing distributed systems over QUIC: discovery, typed streams.
//!
//! ```
//! use smalti::*;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), smalti::network::Error> {
//! let network = Network::new("my-app").await?;
//! println!("join me through {}", network.local().addr());
//! network.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! Everything of [`smalti_core`] is found here too. What this crate adds is the world that a node runs in:
//! [`QuicRuntime`], with the transport of [`transport`], the system's randomness ([`Random`]), and the durable
//! store of a data directory ([`storage`]).

mod network_ext;
mod quic_runtime;
mod random;
pub mod storage;
pub mod transport;

pub use network_ext::{NetworkBuilderExt, NetworkExt};
pub use quic_runtime::QuicRuntime;
pub use random::Random;
pub use smalti_core::*;

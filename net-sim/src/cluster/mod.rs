//! Whole nodes and applications in a simulated network: the level "fast".
//!
//! A [`Simulation`] has hosts, each running an application as it would in production, with a
//! [`Network`](smalti_core::Network) of its own. Under them are turmoil's hosts, one executor each with a
//! clock that stands still while anything can run; between them is the transport of [`link`](crate::link),
//! over sockets whose packets go through our own [faults](crate::faults).
//!
//! ```
//! use std::time::Duration;
//! use smalti_core::Network;
//! use smalti_sim::Simulation;
//!
//! async fn finds_the_others(network: Network) -> smalti_sim::AppResult {
//!     network.discovery().catalog_watch().wait_for(|catalog| catalog.peers_count() == 2).await?;
//!     Ok(())
//! }
//!
//! let simulation = Simulation::new(7)
//!     .host("a", finds_the_others)
//!     .host("b", finds_the_others)
//!     .host("c", finds_the_others)
//!     .script(|control| async move {
//!         control.partition("a", ["b", "c"]);
//!         control.sleep(Duration::from_secs(2)).await;
//!         control.repair_all();
//!     });
//! let report = simulation.run().unwrap();
//! assert_eq!(report.trace_hash, simulation.run().unwrap().trace_hash);
//! ```

mod control;
mod error;
#[cfg(feature = "full")]
mod full;
mod panics;
mod report;
mod running;
mod runtime;
mod simulation;
mod socket;
mod state;
mod stores;
#[cfg(test)]
mod tests;
mod transport;

pub use control::{Control, HostNames};
pub use error::{Cause, SimulationError};
pub use report::Report;
pub use simulation::{AppResult, PORT, Simulation};

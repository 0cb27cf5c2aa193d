//! Deterministic cluster simulation for Smalti and for applications built on it.

pub mod bare;
pub mod cluster;
pub mod faults;
pub mod link;
pub mod rng;
pub mod time;
pub mod trace;

use std::fmt;

pub use cluster::{AppResult, Cause, Control, Report, Simulation, SimulationError};

use serde::{Deserialize, Serialize};

/// A node of a simulated network, by the order in which the nodes were added.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NodeIndex(pub u32);

impl fmt::Display for NodeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

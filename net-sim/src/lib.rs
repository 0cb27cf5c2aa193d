//! Deterministic cluster simulation for Smalti and for applications built on it.
//!
//! A run is a function of its seed: the same seed gives the same trace hash, in debug and release, in this
//! process and another, with other seeds running beside it or not. What fails once fails again, and can be
//! looked at.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`cluster`] | [`Simulation`]: whole nodes and applications on simulated hosts, for scenarios and users' own tests; up to some ten hosts |
//! | [`bare`] | [`bare::World`]: machines in an event loop of their own, without executor and sockets; millions of events per second, thousands of nodes |
//! | [`disk`] | a disk that loses and tears what is not synced, fails, fills up and rots |
//! | [`faults`] | the one vocabulary of what goes wrong, for both levels: plans, schedules, what becomes of each packet |
//! | [`link`] | the transport under simulated nodes: QUIC's shape without its cryptography, as a machine |
//! | [`history`] | what clients called and what came of it, recorded |
//! | [`linearizability`] | whether such a history is that of one object, and if not, why |
//! | [`trace`] | all that happened as one number, with checkpoints to find where two runs part |
//! | [`rng`] | random streams, each named by its purpose, all from one seed |
//! | [`time`] | the time of a run, and clocks that drift and jump |
//!
//! How it fits together, top down: a [`Simulation`] makes a turmoil host for each of its hosts and steps them,
//! applying faults and the script in between (`cluster/simulation.rs`); a host's runtime (`cluster/runtime.rs`)
//! implements core's traits, each call going through the fence of the host's present life
//! (`cluster/state.rs`); its transport (`cluster/transport.rs`) drives a [`link::Endpoint`] over a socket
//! (`cluster/socket.rs`) on which [`faults::FaultLayer`] decides the fate of every packet. With the feature
//! `full`, `Simulation::over_quic` puts production's QUIC endpoint in that transport's place
//! (`cluster/full/`).
//!
//! What an application must not do to stay replayable: read a clock or draw randomness other than its
//! node's, start threads, iterate default-hashed maps, or use `tokio::select!` without `biased;`. Tasks of
//! `tokio::spawn` and `tokio::time` are fine: they run on the host's executor, whose clock is simulated.
//! [`Simulation::run_twice`] finds what was overlooked.

pub mod bare;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod history;
pub mod linearizability;
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

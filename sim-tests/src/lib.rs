//! Seeded scenarios over whole Smalti clusters, and the campaign command that runs them.
//!
//! A [`Scenario`] is a cluster, what happens to it, and what must hold then and afterwards, all of
//! it a function of one seed. [`campaign`] runs scenarios over many seeds, and one seed again where
//! it failed.

pub mod campaign;
pub mod cluster;
pub mod collections;
pub mod groups;
pub mod overlay;
mod panics;
pub mod raft;
mod scenario;
pub mod transport_suite;

pub use scenario::{Coverage, Nodes, Options, Outcome, Scenario};

/// All scenarios, in the order in which they are listed.
pub static SCENARIOS: &[&dyn Scenario] = &[
    &cluster::Converges,
    &cluster::Churn,
    &cluster::Deliver,
    &cluster::Crowd,
    &cluster::StreamsChaos,
    &overlay::Scale,
    &overlay::Churn,
    &raft::Chaos,
    &raft::SetBack,
    &raft::Meetings,
    &groups::Chaos,
    &collections::Chaos,
    &groups::Late,
    &overlay::Steady,
];

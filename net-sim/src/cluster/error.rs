//! How a run fails.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::Report;

/// A run has failed. Its report says what had happened until then.
#[derive(Debug)]
pub struct SimulationError {
    /// Why.
    pub cause: Cause,
    /// What happened until then; the seed among it.
    pub report: Box<Report>,
}

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}, after {} s: {}",
            self.report.seed, self.report.time, self.cause
        )
    }
}

impl std::error::Error for SimulationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::App { error, .. } => Some(&**error),
            Cause::Panic { .. }
            | Cause::Timeout { .. }
            | Cause::NotReplayable { .. }
            | Cause::Setup(_) => None,
        }
    }
}

/// Why a run has failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The application of a host has returned an error.
    #[error("the application of host {host} failed: {error}")]
    App {
        /// The host.
        host: String,
        /// What it returned.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something has panicked: an application, a task that it had spawned, a worker, or the script.
    #[error("{} panicked at {location}: {message}", .host.as_deref().unwrap_or("the simulation"))]
    Panic {
        /// The host; `None` where it was not on one, as in the script.
        host: Option<String>,
        /// What it said.
        message: String,
        /// Where in the source.
        location: String,
    },
    /// The time was over before all applications had ended.
    #[error("after {limit:?} these had not ended: {}", running.join(", "))]
    Timeout {
        /// How long the run could last.
        limit: Duration,
        /// The hosts whose applications were still running; `script` for the script.
        running: Vec<String>,
    },
    /// The same run, repeated, was another: something in it draws on a clock or on randomness that the seed
    /// does not decide.
    #[error("the run cannot be replayed: its repetition differs within events {} to {}",
        .first_divergence.start, .first_divergence.end)]
    NotReplayable {
        /// Among which events the two first differ.
        first_divergence: Range<u64>,
    },
    /// The simulation makes no sense as it is set up.
    #[error("the simulation cannot be set up: {0}")]
    Setup(String),
}

//! What a run leaves behind.

use crate::faults::{FaultEvent, FaultSchedule, LinkFaults};
use crate::time::SimTime;
use crate::trace::Trace;

/// What happened in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// The hash of the trace: equal for equal runs.
    pub trace_hash: u64,
    /// How many events the trace has.
    pub events: u64,
    /// How much time was simulated.
    pub time: SimTime,
    /// Every fault that has struck, and when.
    pub faults: Vec<FaultEvent>,
    /// The whole trace: checkpoints, and lines where they were asked for.
    pub trace: Trace,
}

impl Report {
    /// The faults as a schedule, for [`Simulation::fault_schedule`](super::Simulation::fault_schedule): it
    /// does the same again without a plan, and can be shortened.
    #[must_use]
    pub fn fault_schedule(&self) -> FaultSchedule {
        FaultSchedule {
            links: LinkFaults::default(),
            events: self.faults.clone(),
        }
    }
}

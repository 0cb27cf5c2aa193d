//! What a run leaves behind.

use crate::faults::{FaultEvent, FaultSchedule};
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
    /// does the same again without a plan, to the same trace, and can be shortened. What a script has done
    /// is among them: leave the script out, or take its faults out of the schedule.
    #[must_use]
    pub fn fault_schedule(&self) -> FaultSchedule {
        FaultSchedule::from_recorded(&self.faults)
    }
}

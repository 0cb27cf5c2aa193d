//! What a failure was made smaller to, as a file.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use smalti_sim::faults::FaultSchedule;

use super::Misuse;
use crate::{Options, Scenario};

/// All that a run is a function of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Schedule {
    pub(super) scenario: String,
    pub(super) seed: u64,
    pub(super) nodes: Option<u32>,
    pub(super) operations: Option<u64>,
    pub(super) faults: FaultSchedule,
}

impl Schedule {
    /// Reads a file. It must be of the one scenario that is `selected`, and of `seed`.
    pub(super) fn load(file: &Path, selected: &[&dyn Scenario], seed: u64) -> Result<Self, Misuse> {
        let misuse = |cause: String| Misuse::Schedule {
            file: file.to_owned(),
            cause,
        };
        let bytes = fs::read(file).map_err(|error| misuse(format!("cannot be read: {error}")))?;
        let schedule: Self = serde_json::from_slice(&bytes)
            .map_err(|error| misuse(format!("is no schedule: {error}")))?;
        let is_of = |scenario: &&dyn Scenario| scenario.name() == schedule.scenario;
        if !selected.iter().all(is_of) || schedule.seed != seed {
            return Err(misuse(format!(
                "is of {} with seed {}",
                schedule.scenario, schedule.seed
            )));
        }
        Ok(schedule)
    }

    pub(super) fn save(&self, file: &Path) -> Result<(), Misuse> {
        let misuse = |cause| Misuse::Schedule {
            file: file.to_owned(),
            cause,
        };
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| misuse(format!("cannot be made: {error}")))?;
        fs::write(file, text + "\n").map_err(|error| misuse(format!("cannot be written: {error}")))
    }

    pub(super) fn put_into(self, options: &mut Options) {
        options.nodes = self.nodes;
        options.operations = self.operations;
        options.faults = Some(self.faults);
    }
}

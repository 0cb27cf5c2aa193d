//! What a scenario is, and what a run of one gives.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use smalti_sim::faults::{FaultEvent, FaultSchedule};
use smalti_sim::trace::Trace;

/// A cluster, what happens to it, and what must hold: a function of the seed.
pub trait Scenario: Sync {
    /// What it is called on the command line.
    fn name(&self) -> &'static str;

    /// What it shows, in one line.
    fn description(&self) -> &'static str;

    /// How many nodes it has.
    fn nodes(&self) -> Nodes;

    /// States that matter and are seldom reached. A campaign says which of them no seed has
    /// reached.
    fn rare_states(&self) -> &'static [&'static str];

    /// States that excuse a run from some of its checks, each with how many runs of a million may reach it: a
    /// campaign of a thousand seeds or more fails where more do. Default: none.
    fn excuses(&self) -> &'static [(&'static str, u32)] {
        &[]
    }

    /// Whether [`Options::faults`] and [`Options::operations`] take the place of what is drawn, so that a
    /// failure can be made smaller. Default: no.
    fn takes_faults(&self) -> bool {
        false
    }

    /// Runs `seed`. What is found wrong is in the outcome; a panic is a finding too.
    fn run(&self, seed: u64, options: &Options) -> Outcome;
}

/// How many nodes a scenario has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// Where nothing else is asked for.
    pub default: u32,
    /// The fewest with which it makes sense.
    pub min: u32,
    /// The most that it can take.
    pub max: u32,
}

/// What may be chosen for a run besides its seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The number of nodes; `None` for the scenario's own. Another number is another run.
    pub nodes: Option<u32>,
    /// The events of the trace that are kept as text. It changes nothing else.
    pub lines: Range<u64>,
    /// The faults of the run, in place of those drawn from the seed. The ones that another run of the seed
    /// has recorded make it the same run again.
    pub faults: Option<FaultSchedule>,
    /// So many operations of clients at most.
    pub operations: Option<u64>,
    /// The rule that all members break.
    #[cfg(smalti_mutants)]
    pub mutant: Option<smalti_core::protocol::Mutant>,
}

impl Options {
    /// The number of nodes: what was asked for, within what `nodes` allows.
    #[must_use]
    pub fn nodes(&self, nodes: Nodes) -> u32 {
        self.nodes
            .unwrap_or(nodes.default)
            .clamp(nodes.min, nodes.max)
    }
}

/// What a run gives.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All that happened.
    pub trace: Trace,
    /// How much time passed in the simulation.
    pub simulated: Duration,
    /// What was drawn from the seed, one thing a line.
    pub drawn: Vec<String>,
    /// What was measured, one thing a line.
    pub measured: Vec<String>,
    /// The faults that struck, but for those that belong to the scenario itself.
    pub faults: Vec<FaultEvent>,
    /// How many operations its clients began.
    pub operations: u64,
    /// How often each rare state was reached.
    pub coverage: Coverage,
    /// What was found wrong.
    pub failure: Option<String>,
}

/// How often states were reached that matter and are seldom reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(BTreeMap<&'static str, u64>);

impl Coverage {
    /// Takes note that `state` was reached.
    pub fn reach(&mut self, state: &'static str) {
        self.reach_times(state, 1);
    }

    /// Takes note that `state` was reached so many times.
    pub fn reach_times(&mut self, state: &'static str, times: u64) {
        if times > 0 {
            *self.0.entry(state).or_default() += times;
        }
    }

    /// How often `state` was reached.
    #[must_use]
    pub fn count(&self, state: &str) -> u64 {
        self.0.get(state).copied().unwrap_or_default()
    }

    /// Adds what another run has reached.
    pub fn add(&mut self, other: &Self) {
        for (state, times) in &other.0 {
            self.reach_times(state, *times);
        }
    }

    /// The states reached, in the order of their names, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(state, times)| (*state, *times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_of_two_runs_adds_up() {
        let mut coverage = Coverage::default();
        coverage.reach("a");
        coverage.reach_times("b", 0);
        let mut other = coverage.clone();
        other.reach_times("c", 3);
        coverage.add(&other);
        assert_eq!(coverage.iter().collect::<Vec<_>>(), [("a", 2), ("c", 3)]);
        assert_eq!(coverage.count("b"), 0);
    }
}

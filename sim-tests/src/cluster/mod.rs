//! Whole nodes with their applications, under turmoil: what machines alone cannot show.

mod catalogs;
mod chaos;
mod churn;
mod converges;
mod crowd;
mod deliver;
mod gaps;
mod readings;

pub use chaos::StreamsChaos;
pub use churn::Churn;
pub use converges::Converges;
pub use crowd::Crowd;
pub use deliver::Deliver;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use smalti_core::discovery::Config;
use smalti_sim::faults::FaultPlan;
use smalti_sim::rng::{Streams, between, chance};
use smalti_sim::time::SimTime;
use smalti_sim::{Report, Simulation, SimulationError};

use crate::{Coverage, Nodes, Options, Outcome};

/// More hosts than these make turmoil slow.
const HOSTS: Nodes = Nodes {
    default: 8,
    min: 4,
    max: 16,
};

/// The furthest that a clock is off from the start, so that nobody is taken to be from the future.
const OFFSET_MAX: Duration = Duration::from_secs(2);

/// What a run finds out, shared by its script and its applications.
#[derive(Clone, Default)]
pub(crate) struct Findings(Rc<RefCell<Found>>);

#[derive(Default)]
struct Found {
    measured: Vec<String>,
    coverage: Coverage,
    failure: Option<String>,
}

impl Findings {
    pub(crate) fn measure(&self, line: String) {
        self.0.borrow_mut().measured.push(line);
    }

    pub(crate) fn reach(&self, state: &'static str) {
        self.0.borrow_mut().coverage.reach(state);
    }

    /// Takes note of how the script has ended.
    pub(crate) fn conclude(&self, result: Result<(), String>) {
        self.0.borrow_mut().failure = result.err();
    }
}

/// Runs `simulation` and gathers what came of it.
pub(crate) fn observe(
    simulation: Simulation,
    drawn: Vec<String>,
    findings: &Findings,
    options: &Options,
) -> Outcome {
    let result = simulation.record_lines(options.lines.clone()).run();
    let (report, cause): (Report, _) = match result {
        Ok(report) => (report, None),
        Err(SimulationError { cause, report }) => (*report, Some(cause.to_string())),
    };
    let found = std::mem::take(&mut *findings.0.borrow_mut());
    Outcome {
        trace: report.trace,
        simulated: report.time.since(SimTime::ZERO),
        drawn,
        measured: found.measured,
        faults: report.faults,
        operations: 0,
        coverage: found.coverage,
        failure: cause.or(found.failure),
    }
}

/// What each host is called.
pub(crate) fn name(host: usize) -> String {
    format!("host-{host}")
}

/// Which faults there are, within what nodes tolerate of each other's clocks.
pub(crate) fn draw_faults(streams: &Streams) -> FaultPlan {
    let mut plan = FaultPlan::swarm(&mut streams.stream("plan"));
    plan.offset_max = plan.offset_max.min(OFFSET_MAX);
    // Jumps add up beyond that.
    plan.jumps = None;
    plan
}

/// The defaults, or intervals so short that peers are given up and come back within a run.
fn draw_config(streams: &Streams) -> Config {
    let mut rng = streams.stream("configuration");
    let mut config = Config::default();
    if !chance(&mut rng, 250_000) {
        let interval = between(&mut rng, Duration::from_secs(1), Duration::from_secs(3));
        config.announce_interval = interval;
        // Twice the longest time between two announcements is the least that is valid.
        config.purge_after = interval * 4 + between(&mut rng, Duration::ZERO, interval * 6);
    }
    config
}

/// How long nodes may take to agree once nothing goes wrong any more: who crashed for good is given
/// up after `purge_after`, by clocks that run slow; after that the overlay may have to find
/// together again.
fn agrees_within(config: &Config) -> Duration {
    let purged = config.purge_after + config.purge_after / 10;
    purged + config.announce_interval * 4 + Duration::from_secs(30)
}

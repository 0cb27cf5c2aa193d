//! `campaign run`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use super::arguments::RunArguments;
use super::progress::Progress;
use super::workers::{Finished, Order, for_each_seed, run_seed};
use super::{Misuse, replay_command, select};
use crate::{Coverage, Options, Outcome, Scenario};

/// With fewer seeds nothing can be said of how often something happens.
const SEEDS_TO_JUDGE: u64 = 1_000;

/// Runs the scenarios asked for. `true` where no seed failed.
pub(super) fn run(
    arguments: &RunArguments,
    scenarios: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<Result<bool, Misuse>> {
    let selected = match select(scenarios, &arguments.scenario, arguments.nodes) {
        Ok(selected) => selected,
        Err(misuse) => return Ok(Err(misuse)),
    };
    let (mut seeds, mut failures) = (0, 0);
    for scenario in selected {
        let tally = run_scenario(scenario, arguments, out)?;
        tally.print(scenario, out)?;
        seeds += tally.seeds;
        failures += tally.failures + tally.excessive(scenario);
    }
    writeln!(
        out,
        "{}, {}",
        counted(seeds, "seed"),
        counted(failures, "failure")
    )?;
    Ok(Ok(failures == 0))
}

/// So many of something.
fn counted(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// What all seeds of a scenario have given together.
#[derive(Default)]
struct Tally {
    seeds: u64,
    failures: u64,
    events: u64,
    simulated: Duration,
    taken: Duration,
    coverage: Coverage,
    /// How many seeds have reached each state.
    seeds_with: BTreeMap<&'static str, u64>,
}

impl Tally {
    fn add(&mut self, finished: &Finished<Outcome>) {
        let outcome = &finished.result;
        self.seeds += 1;
        self.failures += u64::from(outcome.failure.is_some());
        self.events += outcome.trace.events();
        self.simulated += outcome.simulated;
        self.taken += finished.taken;
        self.coverage.add(&outcome.coverage);
        for (state, _) in outcome.coverage.iter() {
            *self.seeds_with.entry(state).or_default() += 1;
        }
    }

    /// Whether more seeds have reached a state than the scenario allows.
    fn is_excessive(&self, state: &str, limit_ppm: u32) -> bool {
        let excused = self.seeds_with.get(state).copied().unwrap_or_default();
        self.seeds >= SEEDS_TO_JUDGE
            && excused.saturating_mul(1_000_000) > self.seeds.saturating_mul(u64::from(limit_ppm))
    }

    /// How many excuses were made too often.
    fn excessive(&self, scenario: &dyn Scenario) -> u64 {
        let excuses = scenario.excuses().iter();
        let excessive = excuses.filter(|(state, limit)| self.is_excessive(state, *limit));
        excessive.count() as u64
    }

    fn print(&self, scenario: &dyn Scenario, out: &mut impl Write) -> io::Result<()> {
        let taken = self.taken.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(
            out,
            "{}: {:.0} simulated seconds, {} events; \
             for each second of one core {:.1} simulated seconds, {:.0} events",
            scenario.name(),
            self.simulated.as_secs_f64(),
            self.events,
            self.simulated.as_secs_f64() / taken,
            self.events as f64 / taken,
        )?;
        for (state, limit) in scenario.excuses() {
            let excused = self.seeds_with.get(state).copied().unwrap_or_default();
            if excused > 0 {
                let verdict = if self.is_excessive(state, *limit) {
                    "too often: failed"
                } else {
                    "allowed"
                };
                writeln!(
                    out,
                    "{}: {excused} of {} seeds are excused from some checks ({verdict}, up to {} in a hundred may be): {state}",
                    scenario.name(),
                    self.seeds,
                    f64::from(*limit) / 10_000.0,
                )?;
            }
        }
        for state in scenario.rare_states() {
            if self.coverage.count(state) == 0 {
                writeln!(out, "{}: never reached: {state}", scenario.name())?;
            }
        }
        Ok(())
    }
}

fn run_scenario(
    scenario: &dyn Scenario,
    arguments: &RunArguments,
    out: &mut impl Write,
) -> io::Result<Tally> {
    let options = Options {
        nodes: arguments.nodes,
        ..Options::default()
    };
    let progress = Progress::new(scenario.name(), arguments.seeds.count());
    let mut tally = Tally::default();
    for_each_seed(
        &arguments.seeds,
        Order::Ascending,
        arguments.jobs,
        |seed| run_seed(scenario, seed, &options),
        |finished| {
            tally.add(&finished);
            progress.step(tally.seeds, tally.failures);
            match &finished.result.failure {
                Some(cause) => progress
                    .pause(|| print_failure(scenario, finished.seed, cause, arguments.nodes, out)),
                None => Ok(()),
            }
        },
    )?;
    progress.end();
    Ok(tally)
}

/// Prints the line for a seed that has failed.
pub(super) fn print_failure(
    scenario: &dyn Scenario,
    seed: u64,
    cause: &str,
    nodes: Option<u32>,
    out: &mut impl Write,
) -> io::Result<()> {
    // One line, whatever the cause looks like.
    let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
    writeln!(
        out,
        "{} seed {seed} failed: {cause}; replay: {}",
        scenario.name(),
        replay_command(scenario, seed, nodes)
    )?;
    out.flush()
}

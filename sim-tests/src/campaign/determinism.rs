//! `campaign check-determinism`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use smalti_sim::trace::Trace;

use super::arguments::RunArguments;
use super::run::print_failure;
use super::workers::{Order, for_each_seed, run_seed};
use super::{Misuse, select};
use crate::{Options, Scenario};

/// Runs all seeds, and then all of them again in another order. `true` where no seed failed and all
/// traces were the same.
pub(super) fn check(
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
        seeds += arguments.seeds.count();
        failures += check_scenario(scenario, arguments, out)?;
    }
    writeln!(out, "{seeds} seeds, {failures} failures")?;
    Ok(Ok(failures == 0))
}

/// How many seeds of a scenario have failed, or were not the same twice.
fn check_scenario(
    scenario: &dyn Scenario,
    arguments: &RunArguments,
    out: &mut impl Write,
) -> io::Result<usize> {
    let RunArguments {
        seeds, jobs, nodes, ..
    } = arguments;
    let options = Options {
        nodes: *nodes,
        ..Options::default()
    };
    let (mut failed, mut traces) = (BTreeSet::new(), BTreeMap::new());
    for_each_seed(
        seeds,
        Order::Ascending,
        *jobs,
        |seed| run_seed(scenario, seed, &options),
        |finished| {
            traces.insert(finished.seed, finished.result.trace);
            match &finished.result.failure {
                Some(cause) => {
                    failed.insert(finished.seed);
                    print_failure(scenario, finished.seed, cause, *nodes, out)
                }
                None => Ok(()),
            }
        },
    )?;
    for_each_seed(
        seeds,
        Order::Alternating,
        *jobs,
        |seed| {
            let outcome = run_seed(scenario, seed, &options);
            let first = traces.get(&seed).expect("every seed has run once");
            let difference = difference(scenario, seed, &options, first, &outcome.trace);
            (outcome.failure, difference)
        },
        |finished| {
            let (seed, (failure, difference)) = (finished.seed, finished.result);
            // What fails both times is told of once.
            if let Some(cause) = failure
                && failed.insert(seed)
            {
                print_failure(scenario, seed, &cause, *nodes, out)?;
            }
            if let Some(difference) = difference {
                failed.insert(seed);
                writeln!(out, "{} seed {seed} differs: {difference}", scenario.name())?;
            }
            io::Result::Ok(())
        },
    )?;
    Ok(failed.len())
}

/// Where two traces of `seed` first differ; `None` where they do not.
fn difference(
    scenario: &dyn Scenario,
    seed: u64,
    options: &Options,
    first: &Trace,
    second: &Trace,
) -> Option<String> {
    let options = Options {
        lines: first.first_divergence(second)?,
        ..options.clone()
    };
    let again = || run_seed(scenario, seed, &options).trace;
    let (third, fourth) = (again(), again());
    let mut pairs = third.lines().iter().zip(fourth.lines());
    Some(match pairs.find(|(ours, theirs)| ours != theirs) {
        Some((ours, theirs)) => format!("'{ours}' and '{theirs}'"),
        None => format!(
            "hashes {:016x} and {:016x} after {} and {} events, and not when run again",
            first.hash(),
            second.hash(),
            first.events(),
            second.events()
        ),
    })
}

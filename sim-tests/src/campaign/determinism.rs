//! `campaign check-determinism`.

use std::io::{self, Write};

use super::arguments::RunArguments;
use super::workers::{for_each_seed, run_seed};
use super::{Misuse, select};
use crate::{Options, Scenario};

/// Runs each seed twice. `true` where all traces were the same.
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
        for_each_seed(
            &arguments.seeds,
            arguments.jobs,
            |seed| first_difference(scenario, seed, arguments.nodes),
            |finished| {
                seeds += 1;
                if let Some(difference) = &finished.result {
                    failures += 1;
                    let (name, seed) = (scenario.name(), finished.seed);
                    writeln!(out, "{name} seed {seed} differs: {difference}")?;
                }
                io::Result::Ok(())
            },
        )?;
    }
    writeln!(out, "{seeds} seeds, {failures} failures")?;
    Ok(Ok(failures == 0))
}

/// Where two runs of `seed` first differ.
fn first_difference(scenario: &dyn Scenario, seed: u64, nodes: Option<u32>) -> Option<String> {
    let mut options = Options {
        nodes,
        ..Options::default()
    };
    let run = |options: &Options| run_seed(scenario, seed, options).trace;
    let (first, second) = (run(&options), run(&options));
    options.lines = first.first_divergence(&second)?;
    let (again, once_more) = (run(&options), run(&options));
    let pairs = again.lines().iter().zip(once_more.lines());
    Some(
        match pairs.into_iter().find(|(ours, theirs)| ours != theirs) {
            Some((ours, theirs)) => format!("'{ours}' and '{theirs}'"),
            None => format!(
                "hashes {:016x} and {:016x} after {} and {} events, and not when run again",
                first.hash(),
                second.hash(),
                first.events(),
                second.events()
            ),
        },
    )
}

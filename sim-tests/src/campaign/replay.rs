//! `campaign replay`.

use std::io::{self, Write};

use super::arguments::ReplayArguments;
use super::schedule::Schedule;
use super::workers::run_seed;
use super::{Misuse, select};
use crate::{Options, Outcome, Scenario};

/// Runs one seed of one scenario. `true` where it did not fail.
pub(super) fn replay(
    arguments: &ReplayArguments,
    scenarios: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<Result<bool, Misuse>> {
    let selected = match select(scenarios, &arguments.scenario, arguments.nodes) {
        Ok(selected) => selected,
        Err(misuse) => return Ok(Err(misuse)),
    };
    let mut options = Options {
        nodes: arguments.nodes,
        lines: arguments.dump.clone().unwrap_or_default(),
        ..Options::default()
    };
    if let Some(file) = &arguments.schedule {
        match Schedule::load(file, &selected, arguments.seed) {
            Ok(schedule) => schedule.put_into(&mut options),
            Err(misuse) => return Ok(Err(misuse)),
        }
    }
    let mut passed = true;
    for scenario in selected {
        let outcome = run_seed(scenario, arguments.seed, &options);
        print(scenario, arguments, &options, &outcome, out)?;
        passed &= outcome.failure.is_none();
    }
    Ok(Ok(passed))
}

fn print(
    scenario: &dyn Scenario,
    arguments: &ReplayArguments,
    options: &Options,
    outcome: &Outcome,
    out: &mut impl Write,
) -> io::Result<()> {
    // A scenario may draw how many nodes it has, so only what was asked for is known here.
    let nodes = options.nodes.map(|nodes| format!(", {nodes} nodes"));
    writeln!(
        out,
        "{} seed {}{}",
        scenario.name(),
        arguments.seed,
        nodes.unwrap_or_default()
    )?;
    for line in outcome.trace.lines() {
        writeln!(out, "{line}")?;
    }
    if arguments.faults {
        for line in &outcome.drawn {
            writeln!(out, "drawn: {line}")?;
        }
        for fault in &outcome.faults {
            writeln!(out, "fault: {fault}")?;
        }
    }
    for (state, times) in outcome.coverage.iter() {
        writeln!(out, "reached {times} times: {state}")?;
    }
    for line in &outcome.measured {
        writeln!(out, "measured: {line}")?;
    }
    writeln!(out, "trace hash: {:016x}", outcome.trace.hash())?;
    writeln!(out, "events: {}", outcome.trace.events())?;
    writeln!(
        out,
        "simulated time: {:.3} s",
        outcome.simulated.as_secs_f64()
    )?;
    match &outcome.failure {
        Some(cause) => writeln!(out, "failed: {cause}"),
        None => writeln!(out, "passed"),
    }
}

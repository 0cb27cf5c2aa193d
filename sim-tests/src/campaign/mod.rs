//! The campaign command: scenarios over many seeds, and one seed again.

mod arguments;
mod determinism;
mod mutants;
mod output;
mod processor_time;
mod progress;
mod replay;
mod run;
mod schedule;
mod seeds;
mod shrink;
#[cfg(test)]
mod tests;
mod workers;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Parser;

use self::arguments::{Arguments, Command};
use self::output::WhileRead;
use crate::Scenario;

pub use seeds::{ParseSeedsError, Seeds};

/// No seed failed.
const PASSED: u8 = 0;
/// Some seed failed.
const FAILED: u8 = 1;
/// What was asked for makes no sense.
const MISUSED: u8 = 2;

/// Runs the command with `arguments`, the name of the program first, over `scenarios`. Results go
/// to `out`, progress and mistakes in the arguments to standard error. Gives the exit code: 0 where
/// no seed failed, 1 where one did, 2 where the arguments make no sense.
///
/// Where whoever reads `out` has gone (a broken pipe), the seeds run on in silence, so that the exit
/// code is the same as if all had been read.
///
/// # Errors
/// Where `out` cannot be written for any other reason.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    scenarios: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<u8> {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { MISUSED } else { PASSED };
            return match error.print() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
                Ok(()) | Err(_) => Ok(code),
            };
        }
    };
    let out = &mut WhileRead::new(out);
    let result = match arguments.command {
        Command::List => return list(scenarios, out),
        Command::Run(arguments) => run::run(&arguments, scenarios, out)?,
        Command::Replay(arguments) => replay::replay(&arguments, scenarios, out)?,
        Command::Shrink(arguments) => shrink::shrink(&arguments, scenarios, out)?,
        Command::Mutants(arguments) => mutants::mutants(&arguments, scenarios, out)?,
        Command::CheckDeterminism(arguments) => determinism::check(&arguments, scenarios, out)?,
    };
    Ok(match result {
        Ok(true) => PASSED,
        Ok(false) => FAILED,
        Err(misuse) => {
            eprintln!("error: {misuse}");
            MISUSED
        }
    })
}

fn list(scenarios: &[&dyn Scenario], out: &mut impl Write) -> io::Result<u8> {
    let width = scenarios.iter().map(|scenario| scenario.name().len()).max();
    for scenario in scenarios {
        let (name, nodes) = (scenario.name(), scenario.nodes());
        let (width, description) = (width.unwrap_or(0), scenario.description());
        writeln!(
            out,
            "{name:width$}  {:>5} nodes  {description}",
            nodes.default
        )?;
    }
    Ok(PASSED)
}

/// The command that runs a seed again.
fn replay_command(scenario: &dyn Scenario, seed: u64, nodes: Option<u32>) -> String {
    let name = scenario.name();
    let nodes = nodes.map_or_else(String::new, |nodes| format!(" --nodes {nodes}"));
    format!("cargo run --release --bin campaign -- replay {name} --seed {seed}{nodes}")
}

/// What is asked for cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Misuse {
    #[error("there is no scenario '{name}'; the scenarios are {}", .known.join(", "))]
    UnknownScenario {
        name: String,
        known: Vec<&'static str>,
    },
    #[error("{scenario} takes {min} to {max} nodes, not {nodes}")]
    Nodes {
        scenario: &'static str,
        nodes: u32,
        min: u32,
        max: u32,
    },
    #[error("{scenario} draws its faults itself and takes no other ones")]
    FixedFaults { scenario: &'static str },
    #[error("{scenario} with seed {seed} passes: there is nothing to make smaller")]
    Passes { scenario: &'static str, seed: u64 },
    #[error(
        "{scenario} with seed {seed} fails with '{drawn}', but not with the faults it has recorded: it is no function of them"
    )]
    NotReproduced {
        scenario: &'static str,
        seed: u64,
        drawn: String,
    },
    #[error("{}: {cause}", .file.display())]
    Schedule { file: PathBuf, cause: String },
    /// The mutants cannot be built, run, or found.
    #[error("mutants: {0}")]
    Mutants(String),
}

/// The scenarios that `name` means: one, or all.
fn select<'a>(
    scenarios: &[&'a dyn Scenario],
    name: &str,
    nodes: Option<u32>,
) -> Result<Vec<&'a dyn Scenario>, Misuse> {
    let selected: Vec<_> = scenarios
        .iter()
        .filter(|scenario| name == "all" || scenario.name() == name)
        .copied()
        .collect();
    if selected.is_empty() {
        let known = scenarios.iter().map(|scenario| scenario.name()).collect();
        let name = name.to_owned();
        return Err(Misuse::UnknownScenario { name, known });
    }
    for scenario in &selected {
        let bounds = scenario.nodes();
        if let Some(nodes) = nodes
            && !(bounds.min..=bounds.max).contains(&nodes)
        {
            return Err(Misuse::Nodes {
                scenario: scenario.name(),
                nodes,
                min: bounds.min,
                max: bounds.max,
            });
        }
    }
    Ok(selected)
}

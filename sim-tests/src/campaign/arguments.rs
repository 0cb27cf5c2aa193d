//! The command line.

use std::num::{NonZeroU64, NonZeroUsize};
use std::ops::Range;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::seeds::{Seeds, parse_range};

/// Runs seeded scenarios over whole clusters, in simulation.
///
/// A run is a function of its seed: what fails once fails again when it is replayed. The exit code
/// is 0 where no seed failed, 1 where one did, and 2 where the arguments make no sense.
#[derive(Debug, Parser)]
#[command(name = "campaign", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the scenarios.
    List,
    /// Runs a scenario over many seeds.
    ///
    /// Prints a line for each seed that fails, with the cause and the command that replays it; then
    /// how fast it went, and which rare states no seed has reached; last how many seeds there were
    /// and how many failed.
    Run(RunArguments),
    /// Runs one seed again and prints its trace hash.
    Replay(ReplayArguments),
    /// Makes the failure of a seed smaller.
    ///
    /// Runs the seed again and again, each time with fewer of the faults that struck, and then with
    /// fewer operations of clients, for as long as it fails in the same way. Prints the smallest list
    /// of faults found, and saves it for `replay --schedule`.
    Shrink(ShrinkArguments),
    /// Runs each seed twice and compares the traces.
    ///
    /// All seeds run once, and then again on other threads and in another order, beside other
    /// seeds. Where two traces differ, the first event that does is printed. A seed that fails
    /// counts as a failure too.
    CheckDeterminism(RunArguments),
    /// Breaks the rules of the protocol one by one, and looks whether a scenario notices.
    ///
    /// Builds itself anew with the broken rules in it, in a target folder of its own. Prints for each
    /// rule from how many starts it was noticed, and after how many seeds; then runs the same seeds
    /// with all rules in force.
    Mutants(MutantsArguments),
}

#[derive(Clone, Debug, Args)]
pub(super) struct RunArguments {
    /// The scenario, or `all`.
    pub(super) scenario: String,
    /// The seeds, as FIRST..END (END is not among them), or a single one.
    #[arg(long, value_name = "RANGE", default_value = "0..100")]
    pub(super) seeds: Seeds,
    /// How many seeds run at the same time [default: one for each processor].
    #[arg(long, short, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
    /// Another number of nodes than the scenario's own. The same seed is then another run.
    #[arg(long, value_name = "N")]
    pub(super) nodes: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct ReplayArguments {
    /// The scenario.
    pub(super) scenario: String,
    /// The seed.
    #[arg(long)]
    pub(super) seed: u64,
    /// Another number of nodes than the scenario's own.
    #[arg(long, value_name = "N")]
    pub(super) nodes: Option<u32>,
    /// Prints the trace, or the events numbered FIRST..END of it. A whole trace may have millions
    /// of lines.
    #[arg(long, value_name = "RANGE", num_args = 0..=1, require_equals = true,
        default_missing_value = "0..18446744073709551615", value_parser = parse_range)]
    pub(super) dump: Option<Range<u64>>,
    /// Prints what was drawn from the seed, and every fault that struck.
    #[arg(long)]
    pub(super) faults: bool,
    /// Runs it with the faults, the number of nodes and the operations of a file that `shrink` saved.
    #[arg(long, value_name = "FILE", conflicts_with = "nodes")]
    pub(super) schedule: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct MutantsArguments {
    /// Only this mutant; may be given several times. All where none is given
    #[arg(long, value_name = "NAME")]
    pub(super) mutant: Vec<String>,

    /// From how many seeds, far from each other, each mutant is looked for
    #[arg(long, value_name = "N", default_value = "10")]
    pub(super) starts: NonZeroU64,

    /// Minutes of processor time to look for one mutant from one start
    #[arg(long, value_name = "MINUTES", default_value_t = 10.0)]
    pub(super) minutes: f64,

    /// How many run at the same time [default: one for each processor]
    #[arg(long, short, value_name = "N")]
    pub(super) jobs: Option<NonZeroUsize>,
}

#[cfg(not(smalti_mutants))]
impl MutantsArguments {
    /// The same, as words of a command line.
    pub(super) fn as_command_line(&self) -> Vec<String> {
        let mut words = vec![
            format!("--starts={}", self.starts),
            format!("--minutes={}", self.minutes),
        ];
        words.extend(self.jobs.map(|jobs| format!("--jobs={jobs}")));
        words.extend(self.mutant.iter().map(|name| format!("--mutant={name}")));
        words
    }
}

#[derive(Clone, Debug, Args)]
pub(super) struct ShrinkArguments {
    /// The scenario.
    pub(super) scenario: String,
    /// The seed.
    #[arg(long)]
    pub(super) seed: u64,
    /// Another number of nodes than the scenario's own.
    #[arg(long, value_name = "N")]
    pub(super) nodes: Option<u32>,
    /// The most runs that it may take.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(super) runs: u32,
    /// Where the smallest schedule is saved [default: SCENARIO-SEED.json].
    #[arg(long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

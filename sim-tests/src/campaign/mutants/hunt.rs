//! Looks for a seed that shows each mutant.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use smalti_core::protocol::Mutant;

use crate::campaign::Misuse;
use crate::campaign::arguments::MutantsArguments;
use crate::campaign::processor_time::Stopwatch;
use crate::campaign::progress::Progress;
use crate::campaign::seeds::Seeds;
use crate::campaign::workers::{Order, for_each_seed, run_seed};
use crate::{Options, Scenario};

/// The scenario for the machine of consensus.
const MACHINES: &str = "raft-chaos";
/// The scenario for what is known of members that have forgotten.
const SET_BACK: &str = "raft-set-back";
/// The scenario for what becomes of two foundings.
const MEETINGS: &str = "raft-meetings";
/// The scenario for whole nodes.
const NODES: &str = "groups-chaos";
/// Seeds between two starts: so many that one hunt does not come into the next one's.
const APART: u64 = 10_000_000;
/// A mutant counts as shown where so many of ten starts show it.
const SHOWN_OF_TEN: u64 = 9;

/// A mutant that is looked for.
#[derive(Clone, Copy)]
struct Chosen {
    mutant: Mutant,
    rule: &'static str,
    scenario: &'static str,
}

/// The scenario that has to show a mutant; `None`: it takes a moment or a peer that no scenario has.
const fn scenario_of(mutant: Mutant) -> Option<&'static str> {
    match mutant {
        Mutant::ReadBeforeApplied
        | Mutant::WriteTakenForDurable
        | Mutant::UnknownRejected
        | Mutant::TimedOutUndecided => Some(NODES),
        Mutant::RunsByNumberAlone | Mutant::VoteForSetBack | Mutant::SuspicionEndsWithTerm => {
            Some(SET_BACK)
        }
        Mutant::AppliedWhileFrozen
        | Mutant::ReadWhileFrozen
        | Mutant::BothSeal
        | Mutant::SealedBehindThawed
        | Mutant::SealedByAbsence
        | Mutant::ChangeOverBeforeCommit => Some(MEETINGS),
        Mutant::OutcomeBeforeEffect
        | Mutant::TornStateTold
        | Mutant::QueryWithinTurn
        | Mutant::LifeToldBeforeDurable
        | Mutant::StoreKeptByWhoLeft
        | Mutant::ProofOfEitherEnd
        | Mutant::ProofOfAnyLink
        | Mutant::ReaderHeard => None,
        _ => Some(MACHINES),
    }
}

/// What a hunt from one start has found.
struct Hunt {
    mutant: usize,
    start: u64,
    seeds: u64,
    taken: Duration,
    cause: Option<String>,
}

pub(in crate::campaign) fn mutants(
    arguments: &MutantsArguments,
    scenarios: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<Result<bool, Misuse>> {
    let mut found_scenarios = BTreeMap::new();
    for name in [MACHINES, SET_BACK, MEETINGS, NODES] {
        let Some(scenario) = scenarios.iter().find(|it| it.name() == name) else {
            return Ok(Err(Misuse::Mutants(format!("there is no {name}"))));
        };
        found_scenarios.insert(name, *scenario);
    }
    let scenarios = found_scenarios;
    let name = |mutant: Mutant| format!("{mutant:?}");
    let known: Vec<String> = Mutant::ALL.iter().map(|(it, _)| name(*it)).collect();
    if let Some(unknown) = arguments.mutant.iter().find(|it| !known.contains(it)) {
        let cause = format!(
            "there is no mutant '{unknown}'; the mutants are {}",
            known.join(", ")
        );
        return Ok(Err(Misuse::Mutants(cause)));
    }
    let all = Mutant::ALL.iter().copied();
    let asked = |(mutant, _): &(Mutant, &str)| {
        arguments.mutant.is_empty() || arguments.mutant.contains(&name(*mutant))
    };
    let asked: Vec<(Mutant, &str)> = all.filter(asked).collect();
    let mut chosen = Vec::new();
    for (mutant, rule) in asked {
        match scenario_of(mutant) {
            Some(scenario) => chosen.push(Chosen {
                mutant,
                rule,
                scenario,
            }),
            None => writeln!(
                out,
                "{} is left to the tests of smalti-core, which are instant: no run under faults would show it",
                name(mutant)
            )?,
        }
    }
    let starts = arguments.starts.get();
    let hunts = Seeds::first_ones(chosen.len() as u64 * starts);
    let budget = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut found: Vec<Hunt> = Vec::new();
    for_each_seed(
        &hunts,
        Order::Ascending,
        arguments.jobs,
        |number| {
            let (mutant, start) = ((number / starts) as usize, number % starts);
            let Chosen {
                mutant: breaks,
                scenario,
                ..
            } = chosen[mutant];
            hunt(scenarios[scenario], mutant, breaks, start, budget)
        },
        |finished| {
            let hunt = finished.result;
            let Chosen {
                mutant, scenario, ..
            } = chosen[hunt.mutant];
            let outcome = match &hunt.cause {
                Some(cause) => format!(
                    "shown by seed {} of {scenario}: {}",
                    hunt.start * APART + hunt.seeds - 1,
                    short(cause)
                ),
                None => format!("NOT shown by {} seeds of {scenario}", hunt.seeds),
            };
            let (name, seconds) = (name(mutant), hunt.taken.as_secs_f64());
            writeln!(
                out,
                "{name} from start {}: {outcome} ({seconds:.1} s)",
                hunt.start
            )?;
            out.flush()?;
            found.push(hunt);
            io::Result::Ok(())
        },
    )?;
    let mut is_good = true;
    writeln!(
        out,
        "\nmutant                               shown    seeds    most   seconds    most  the rule that it breaks"
    )?;
    for (number, Chosen { mutant, rule, .. }) in chosen.iter().enumerate() {
        let of = || found.iter().filter(|hunt| hunt.mutant == number);
        let shown = of().filter(|hunt| hunt.cause.is_some()).count() as u64;
        let mut seeds: Vec<u64> = of().map(|hunt| hunt.seeds).collect();
        let mut taken: Vec<f64> = of().map(|hunt| hunt.taken.as_secs_f64()).collect();
        seeds.sort_unstable();
        taken.sort_by(f64::total_cmp);
        is_good &= shown * 10 >= starts * SHOWN_OF_TEN;
        writeln!(
            out,
            "{:36} {shown:>2}/{starts:<3} {:>7} {:>7} {:>9.1} {:>7.1}  {rule}",
            name(*mutant),
            seeds[seeds.len() / 2],
            seeds[seeds.len() - 1],
            taken[taken.len() / 2],
            taken[taken.len() - 1],
        )?;
    }
    writeln!(out, "\nthe same seeds with all rules in force:")?;
    for (name, scenario) in scenarios {
        let found: Vec<&Hunt> = found
            .iter()
            .filter(|hunt| chosen[hunt.mutant].scenario == name)
            .collect();
        is_good &= unmutated_passes(scenario, arguments, &found, out)?;
    }
    Ok(Ok(is_good))
}

/// Runs seed after seed until one shows the mutant, or the time is used up.
fn hunt(
    scenario: &dyn Scenario,
    number: usize,
    mutant: Mutant,
    start: u64,
    budget: Duration,
) -> Hunt {
    let options = Options {
        mutant: Some(mutant),
        ..Options::default()
    };
    let stopwatch = Stopwatch::start();
    let mut seeds = 0;
    loop {
        let seed = start * APART + seeds;
        seeds += 1;
        let cause = if mutant == Mutant::DefaultHashedOrder {
            // It breaks no promise but one: that the same seed is the same run.
            let (first, second) = (
                run_seed(scenario, seed, &options).trace.hash(),
                run_seed(scenario, seed, &options).trace.hash(),
            );
            (first != second).then(|| "the same seed gave two traces".to_owned())
        } else {
            run_seed(scenario, seed, &options).failure
        };
        let taken = stopwatch.read();
        if cause.is_some() || taken >= budget {
            return Hunt {
                mutant: number,
                start,
                seeds,
                taken,
                cause,
            };
        }
    }
}

/// What is found in a mutant counts only where the same seed finds nothing without it.
fn unmutated_passes(
    scenario: &dyn Scenario,
    arguments: &MutantsArguments,
    found: &[&Hunt],
    out: &mut impl Write,
) -> io::Result<bool> {
    let (mut seeds, mut failures) = (0, 0);
    // The seeds of each start up to the last that a mutant took.
    let count = |start| {
        let of_start = found.iter().filter(|hunt| hunt.start == start);
        let shown = of_start.filter(|hunt| hunt.cause.is_some());
        shown.map(|hunt| hunt.seeds).max().unwrap_or(0)
    };
    let counts: Vec<u64> = (0..arguments.starts.get()).map(count).collect();
    let progress = Progress::new(scenario.name(), counts.iter().sum());
    for (first, count) in (0..).step_by(APART as usize).zip(counts) {
        if count == 0 {
            continue;
        }
        for_each_seed(
            &Seeds::first_ones(count),
            Order::Ascending,
            arguments.jobs,
            |offset| run_seed(scenario, first + offset, &Options::default()),
            |finished| {
                seeds += 1;
                let Some(cause) = finished.result.failure else {
                    progress.step(seeds, failures);
                    return Ok(());
                };
                failures += 1;
                progress.step(seeds, failures);
                let seed = first + finished.seed;
                progress.pause(|| {
                    writeln!(
                        out,
                        "{} without any mutant, seed {seed} fails: {}",
                        scenario.name(),
                        short(&cause)
                    )
                })
            },
        )?;
    }
    progress.end();
    writeln!(
        out,
        "{} without any mutant: {seeds} of the same seeds, {failures} failures",
        scenario.name()
    )?;
    Ok(failures == 0)
}

/// The beginning of a cause, on one line.
fn short(cause: &str) -> String {
    let words: Vec<&str> = cause.split_whitespace().collect();
    words.join(" ").chars().take(160).collect()
}

//! `campaign shrink`: the fewest faults, and the fewest operations, with which a seed still fails.

use std::io::{self, Write};
use std::path::PathBuf;

use smalti_sim::faults::{FaultEvent, FaultSchedule};

use super::arguments::ShrinkArguments;
use super::schedule::Schedule;
use super::workers::run_seed;
use super::{Misuse, select};
use crate::{Options, Outcome, Scenario};

/// Makes the failure of one seed smaller. `false`, as it has failed.
pub(super) fn shrink(
    arguments: &ShrinkArguments,
    scenarios: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<Result<bool, Misuse>> {
    let selected = match select(scenarios, &arguments.scenario, arguments.nodes) {
        Ok(selected) => selected,
        Err(misuse) => return Ok(Err(misuse)),
    };
    for scenario in selected {
        let smallest = match smallest(scenario, arguments) {
            Ok(smallest) => smallest,
            Err(misuse) => return Ok(Err(misuse)),
        };
        let file = arguments.output.clone().unwrap_or_else(|| {
            PathBuf::from(format!("{}-{}.json", scenario.name(), arguments.seed))
        });
        if let Err(misuse) = smallest.schedule.save(&file) {
            return Ok(Err(misuse));
        }
        print(scenario, arguments, &smallest, out)?;
        writeln!(
            out,
            "replay: cargo run --release --bin campaign -- replay {} --seed {} --schedule {}",
            scenario.name(),
            arguments.seed,
            file.display()
        )?;
    }
    Ok(Ok(false))
}

/// What was found.
struct Smallest {
    schedule: Schedule,
    cause: String,
    faults_before: usize,
    operations_before: u64,
    runs: u32,
}

fn print(
    scenario: &dyn Scenario,
    arguments: &ShrinkArguments,
    smallest: &Smallest,
    out: &mut impl Write,
) -> io::Result<()> {
    let schedule = &smallest.schedule;
    writeln!(
        out,
        "{} seed {}: {} of {} faults and {} of {} operations are left after {} runs",
        scenario.name(),
        arguments.seed,
        schedule.faults.events.len(),
        smallest.faults_before,
        schedule.operations.unwrap_or(smallest.operations_before),
        smallest.operations_before,
        smallest.runs,
    )?;
    write!(out, "{}", schedule.faults)?;
    writeln!(out, "failed: {}", smallest.cause)
}

fn smallest(scenario: &dyn Scenario, arguments: &ShrinkArguments) -> Result<Smallest, Misuse> {
    let (name, seed) = (scenario.name(), arguments.seed);
    if !scenario.takes_faults() {
        return Err(Misuse::FixedFaults { scenario: name });
    }
    let options = Options {
        nodes: arguments.nodes,
        ..Options::default()
    };
    let drawn = run_seed(scenario, seed, &options);
    let Some(cause) = drawn.failure else {
        return Err(Misuse::Passes {
            scenario: name,
            seed,
        });
    };
    let recorded = FaultSchedule::from_recorded(&drawn.faults);
    let mut search = Search {
        scenario,
        seed,
        nodes: arguments.nodes,
        links: recorded.clone(),
        kind: kind_of(&cause),
        operations: None,
        cause: cause.clone(),
        runs: 0,
        runs_max: arguments.runs,
    };
    let mut events = recorded.events.clone();
    if !search.fails(&events) {
        return Err(Misuse::NotReproduced {
            scenario: name,
            seed,
            drawn: cause,
        });
    }
    events = search.fewer_faults(events);
    if search.fewer_operations(&events, drawn.operations) {
        // With fewer operations, other faults may do nothing any more.
        events = search.fewer_faults(events);
    }
    Ok(Smallest {
        schedule: Schedule {
            scenario: name.to_owned(),
            seed,
            nodes: arguments.nodes,
            operations: search.operations,
            faults: search.schedule(&events),
        },
        cause: search.cause,
        faults_before: recorded.events.len(),
        operations_before: drawn.operations,
        runs: search.runs,
    })
}

/// The failure without what differs from run to run: numbers, and names with digits.
fn kind_of(cause: &str) -> String {
    const WORDS_MAX: usize = 12;
    let words = cause.split_whitespace().take(WORDS_MAX);
    let plain = words.map(|word| {
        let has_digit = word.contains(|letter: char| letter.is_ascii_digit());
        // A place in a source file tells panics apart.
        if has_digit && !word.contains(".rs:") {
            "#"
        } else {
            word
        }
    });
    plain.collect::<Vec<_>>().join(" ")
}

struct Search<'a> {
    scenario: &'a dyn Scenario,
    seed: u64,
    nodes: Option<u32>,
    /// For how the network is at first.
    links: FaultSchedule,
    kind: String,
    operations: Option<u64>,
    /// Of the last run that failed as it should.
    cause: String,
    runs: u32,
    runs_max: u32,
}

impl Search<'_> {
    fn schedule(&self, events: &[FaultEvent]) -> FaultSchedule {
        FaultSchedule {
            links: self.links.links,
            events: events.to_vec(),
        }
    }

    /// Whether the seed fails in the same way with these faults. `false` once there were too many runs.
    fn fails(&mut self, events: &[FaultEvent]) -> bool {
        if self.runs >= self.runs_max {
            return false;
        }
        self.runs += 1;
        let options = Options {
            nodes: self.nodes,
            faults: Some(self.schedule(events)),
            operations: self.operations,
            ..Options::default()
        };
        let Outcome { failure, .. } = run_seed(self.scenario, self.seed, &options);
        let same = failure.filter(|cause| kind_of(cause) == self.kind);
        let fails = same.is_some();
        if let Some(cause) = same {
            self.cause = cause;
        }
        fails
    }

    /// Leaves out all that can be left out, in ever smaller parts, until no single fault can (Zeller and
    /// Hildebrandt, Simplifying and Isolating Failure-Inducing Input, 2002).
    fn fewer_faults(&mut self, mut events: Vec<FaultEvent>) -> Vec<FaultEvent> {
        let mut parts = 2;
        while !events.is_empty() {
            parts = parts.min(events.len());
            let len = events.len().div_ceil(parts);
            let mut starts = (0..events.len()).step_by(len);
            let left = starts.find_map(|start| {
                let end = (start + len).min(events.len());
                let mut rest = events.clone();
                rest.drain(start..end);
                self.fails(&rest).then_some(rest)
            });
            match left {
                Some(rest) => {
                    events = rest;
                    parts = (parts - 1).max(2);
                }
                None if len == 1 => break,
                None => parts *= 2,
            }
        }
        events
    }

    /// Lets the clients begin fewer operations. Gives whether that was possible.
    fn fewer_operations(&mut self, events: &[FaultEvent], begun: u64) -> bool {
        let (mut passes, mut fails) = (0, begun);
        self.operations = Some(0);
        if self.fails(events) {
            return begun > 0;
        }
        // More operations need not mean a failure: what is found is small, and not always the smallest.
        while passes + 1 < fails {
            let middle = passes + (fails - passes) / 2;
            self.operations = Some(middle);
            if self.fails(events) {
                fails = middle;
            } else {
                passes = middle;
            }
        }
        self.operations = (fails < begun).then_some(fails);
        self.operations.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use smalti_sim::NodeIndex;
    use smalti_sim::faults::{Churn, Fault, FaultPlan};
    use smalti_sim::rng::Streams;
    use smalti_sim::time::SimTime;
    use std::time::Duration;

    use super::super::main;
    use super::*;
    use crate::Nodes;

    /// Fails where a crash of `n1` comes before a pause of `n2`, and seven operations are begun. The faults
    /// are drawn.
    struct Pair {
        takes_faults: bool,
    }

    impl Pair {
        fn draw(seed: u64) -> FaultSchedule {
            let churn = Some(Churn {
                every: Duration::from_secs(1),
                lasts: Duration::from_secs(1),
            });
            let plan = FaultPlan {
                crashes: churn,
                pauses: churn,
                partitions: churn,
                ..FaultPlan::default()
            };
            let until = SimTime::from(Duration::from_secs(60));
            plan.schedule(&Streams::new(seed), 4, until)
        }
    }

    impl Scenario for Pair {
        fn name(&self) -> &'static str {
            "pair"
        }

        fn description(&self) -> &'static str {
            "fails for a pair of faults"
        }

        fn nodes(&self) -> Nodes {
            Nodes {
                default: 4,
                min: 4,
                max: 4,
            }
        }

        fn rare_states(&self) -> &'static [&'static str] {
            &[]
        }

        fn takes_faults(&self) -> bool {
            self.takes_faults
        }

        fn run(&self, seed: u64, options: &Options) -> Outcome {
            let schedule = options.faults.clone().unwrap_or_else(|| Self::draw(seed));
            let operations = options.operations.unwrap_or(100).min(100);
            let events = &schedule.events;
            let is_crash = |event: &FaultEvent| {
                matches!(
                    event.fault,
                    Fault::Crash(NodeIndex(1)) | Fault::CrashAfter(NodeIndex(1), _)
                )
            };
            let is_pause = |event: &FaultEvent| event.fault == Fault::Pause(NodeIndex(2));
            let crash = events.iter().position(is_crash);
            let pause = events.iter().rposition(is_pause);
            let fails = crash.is_some() && crash < pause && operations >= 7;
            Outcome {
                faults: events.clone(),
                operations,
                failure: fails.then(|| format!("after {} faults", events.len())),
                ..Outcome::default()
            }
        }
    }

    fn campaign(pair: &Pair, line: &str) -> (u8, String) {
        let arguments = std::iter::once("campaign").chain(line.split_whitespace());
        let mut out = Vec::new();
        let code = main(arguments.map(OsString::from), &[pair], &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    const PAIR: Pair = Pair { takes_faults: true };

    #[test]
    fn a_failure_shrinks_to_the_two_faults_that_it_needs() {
        let file = std::env::temp_dir().join(format!("smalti-shrink-{}.json", std::process::id()));
        let path = file.display();
        let (code, text) = campaign(&PAIR, &format!("shrink pair --seed 3 --output {path}"));
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(": 2 of "), "{text}");
        assert!(text.contains("7 of 100 operations"), "{text}");
        assert!(text.contains("failed: after 2 faults"), "{text}");
        assert!(
            text.contains("crash n1") && text.contains("pause n2"),
            "{text}"
        );

        let (code, text) = campaign(
            &PAIR,
            &format!("replay pair --seed 3 --faults --schedule {path}"),
        );
        assert_eq!(code, 1, "{text}");
        assert_eq!(text.matches("fault: ").count(), 2, "{text}");
        // It is of this seed and no other.
        let (code, text) = campaign(&PAIR, &format!("replay pair --seed 4 --schedule {path}"));
        assert_eq!((code, text.as_str()), (2, ""));
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn what_cannot_be_made_smaller_is_refused() {
        let fixed = Pair {
            takes_faults: false,
        };
        let passes = (0..).find(|seed| PAIR.run(*seed, &Options::default()).failure.is_none());
        let passes = format!("shrink pair --seed {}", passes.unwrap());
        for (pair, line) in [
            (&fixed, "shrink pair --seed 3"),
            (&PAIR, passes.as_str()),
            (&PAIR, "shrink nothing --seed 3"),
            (&PAIR, "replay pair --seed 3 --schedule /nowhere.json"),
        ] {
            assert_eq!(campaign(pair, line), (2, String::new()), "{line}");
        }
    }

    #[test]
    fn failures_that_differ_in_numbers_alone_are_the_same() {
        let kind = kind_of("panic at src/a.rs:7: n4 has 17 of 5.2s");
        assert_eq!(kind, kind_of("panic at src/a.rs:7: n2 has 9 of 11ms"));
        assert_ne!(kind, kind_of("panic at src/a.rs:8: n4 has 17 of 5.2s"));
        assert_ne!(kind_of("n1 is late"), kind_of("n1 is lost"));
    }
}

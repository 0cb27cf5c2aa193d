use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smalti_sim::NodeIndex;
use smalti_sim::time::SimTime;
use smalti_sim::trace::{EventKind, Trace};

use super::main;
use crate::{Coverage, Nodes, Options, Outcome, Scenario};

/// Fails as the seed says, in one way or another.
struct Brittle;

impl Scenario for Brittle {
    fn name(&self) -> &'static str {
        "brittle"
    }

    fn description(&self) -> &'static str {
        "every seventh seed fails, every eleventh panics"
    }

    fn nodes(&self) -> Nodes {
        Nodes {
            default: 3,
            min: 2,
            max: 9,
        }
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &["a seed above two", "a seed above a hundred"]
    }

    fn run(&self, seed: u64, options: &Options) -> Outcome {
        assert!(seed % 11 != 10, "seed {seed}\nis out of order");
        let mut trace = Trace::new();
        trace.record_lines(options.lines.clone());
        for number in 0..u64::from(options.nodes(self.nodes())) {
            let time = SimTime::from_nanos(number);
            trace.record(time, NodeIndex(0), EventKind::Note, seed, || {
                format!("note {number}")
            });
        }
        let mut coverage = Coverage::default();
        coverage.reach_times("a seed above two", u64::from(seed > 2));
        Outcome {
            trace,
            simulated: Duration::from_secs(60),
            drawn: vec!["nothing".to_owned()],
            coverage,
            failure: (seed % 7 == 6).then(|| "the seed is brittle".to_owned()),
            ..Outcome::default()
        }
    }
}

/// Is never the same twice.
struct Fickle(AtomicU64);

impl Scenario for Fickle {
    fn name(&self) -> &'static str {
        "fickle"
    }

    fn description(&self) -> &'static str {
        "is never the same twice"
    }

    fn nodes(&self) -> Nodes {
        Brittle.nodes()
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[]
    }

    fn run(&self, _: u64, options: &Options) -> Outcome {
        let draw = self.0.fetch_add(1, Ordering::Relaxed);
        Brittle.run(draw * 77, options)
    }
}

fn campaign(line: &str) -> (u8, String) {
    let fickle = Fickle(AtomicU64::new(0));
    let arguments = std::iter::once("campaign").chain(line.split_whitespace());
    let mut out = Vec::new();
    let code = main(
        arguments.map(OsString::from),
        &[&Brittle, &fickle],
        &mut out,
    )
    .unwrap();
    (code, String::from_utf8(out).unwrap())
}

#[test]
fn all_scenarios_are_listed() {
    let (code, text) = campaign("list");
    assert_eq!(code, 0);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "brittle      3 nodes  every seventh seed fails, every eleventh panics"
    );
    assert!(lines[1].starts_with("fickle"));
}

#[test]
fn a_run_without_failures_says_so_last_and_exits_with_zero() {
    let (code, text) = campaign("run brittle --seeds 0..6");
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("360 simulated seconds, 18 events"), "{text}");
    assert!(
        text.contains("never reached: a seed above a hundred"),
        "{text}"
    );
    assert!(!text.contains("never reached: a seed above two"), "{text}");
    assert_eq!(text.lines().last(), Some("6 seeds, 0 failures"));
}

#[test]
fn failures_and_panics_fail_their_own_seeds_with_cause_and_replay_command() {
    let (code, text) = campaign("run brittle --seeds 5..=10 --jobs 3 --nodes 4");
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.lines().last(), Some("6 seeds, 2 failures"));
    let line_of = |seed: &str| text.lines().find(|line| line.contains(seed)).unwrap();
    let replay = "replay: cargo run --release --bin campaign -- replay brittle --seed";
    assert_eq!(
        line_of("seed 6 failed"),
        format!("brittle seed 6 failed: the seed is brittle; {replay} 6 --nodes 4")
    );
    let panicked = line_of("seed 10 failed");
    assert!(
        panicked.contains("tests.rs:") && panicked.contains("seed 10 is out of order;"),
        "{panicked}"
    );
    assert!(
        panicked.ends_with(&format!("{replay} 10 --nodes 4")),
        "{panicked}"
    );
}

/// A pipe whose reader goes away after the first line.
#[derive(Default)]
struct OneLineRead(Vec<u8>);

impl Write for OneLineRead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.contains(&b'\n') {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_exit_code_is_the_same_where_nobody_reads_to_the_end() {
    for (line, expected) in [
        ("run brittle --seeds 5..=10", 1),
        ("run brittle --seeds 0..6", 0),
        ("replay brittle --seed 6 --dump", 1),
        ("check-determinism fickle --seeds 0..2", 1),
        ("list", 0),
    ] {
        let (mut out, fickle) = (OneLineRead::default(), Fickle(AtomicU64::new(0)));
        let arguments = std::iter::once("campaign").chain(line.split_whitespace());
        let arguments = arguments.map(OsString::from);
        let code = main(arguments, &[&Brittle, &fickle], &mut out).unwrap();
        assert_eq!(code, expected, "{line}");
    }
}

#[test]
fn a_replay_prints_hash_events_time_and_what_else_is_asked_for() {
    let (code, text) = campaign("replay brittle --seed 6");
    assert_eq!(code, 1);
    for part in [
        "brittle seed 6",
        "\ntrace hash: ",
        "\nevents: 3\n",
        "\nsimulated time: 60.000 s\n",
        "\nfailed: the seed is brittle\n",
    ] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
    assert!(!text.contains("note") && !text.contains("drawn"), "{text}");

    let (code, text) = campaign("replay brittle --seed 5 --dump=1..3 --faults");
    assert_eq!(code, 0);
    assert!(
        !text.contains("note 0") && text.contains("note 1"),
        "{text}"
    );
    assert!(text.contains("drawn: nothing"), "{text}");
    let (_, text) = campaign("replay brittle --seed 5 --dump");
    assert_eq!(text.matches("note").count(), 3);
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_two() {
    for line in [
        "",
        "dance",
        "run",
        "run nothing --seeds 0..3",
        "run brittle --seeds 3..3",
        "run brittle --jobs 0",
        "run brittle --nodes 1",
        "replay brittle",
        "replay brittle --seed x",
        "replay brittle --seed 1 --dump=7",
    ] {
        assert_eq!(campaign(line), (2, String::new()), "{line}");
    }
    let scenarios: [&dyn Scenario; 1] = [&Brittle];
    let unknown = super::select(&scenarios, "nothing", None).err().unwrap();
    assert_eq!(
        unknown.to_string(),
        "there is no scenario 'nothing'; the scenarios are brittle"
    );
    let few = super::select(&scenarios, "all", Some(1)).err().unwrap();
    assert_eq!(few.to_string(), "brittle takes 2 to 9 nodes, not 1");
}

#[test]
fn a_scenario_that_is_not_determined_by_its_seed_is_found() {
    let (code, text) = campaign("check-determinism brittle --seeds 0..5");
    assert_eq!((code, text.as_str()), (0, "5 seeds, 0 failures\n"));
    let (code, text) = campaign("check-determinism fickle --seeds 0..2 --jobs 1");
    assert_eq!(code, 1);
    assert!(text.starts_with("fickle seed 1 differs: '"), "{text}");
    assert_eq!(text.lines().last(), Some("2 seeds, 2 failures"));
}

#[test]
fn a_seed_that_fails_or_panics_the_same_way_twice_fails_the_check() {
    let (code, text) = campaign("check-determinism brittle --seeds 5..=10 --jobs 2");
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.lines().last(), Some("6 seeds, 2 failures"));
    for seed in [6, 10] {
        let failed = format!("brittle seed {seed} failed: ");
        assert_eq!(text.matches(&failed).count(), 1, "{text}");
    }
    assert!(!text.contains("differs"), "{text}");
}

/// Makes an excuse in every tenth run; so many of a million may.
struct Excused(&'static [(&'static str, u32)]);

impl Scenario for Excused {
    fn name(&self) -> &'static str {
        "excused"
    }

    fn description(&self) -> &'static str {
        "makes an excuse in every tenth run"
    }

    fn nodes(&self) -> Nodes {
        Brittle.nodes()
    }

    fn rare_states(&self) -> &'static [&'static str] {
        &[]
    }

    fn excuses(&self) -> &'static [(&'static str, u32)] {
        self.0
    }

    fn run(&self, seed: u64, _: &Options) -> Outcome {
        let mut outcome = Outcome::default();
        outcome
            .coverage
            .reach_times("an excuse", 5 * u64::from(seed.is_multiple_of(10)));
        outcome
    }
}

#[test]
fn a_campaign_fails_where_too_many_runs_are_excused() {
    let run = |limit, line: &str| {
        let mut out = Vec::new();
        let arguments = line.split_whitespace().map(OsString::from);
        let code = main(arguments, &[&Excused(limit)], &mut out).unwrap();
        (code, String::from_utf8(out).unwrap())
    };
    let (code, text) = run(
        &[("an excuse", 100_000)],
        "campaign run excused --seeds 0..1000",
    );
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("100 of 1000 seeds"), "{text}");
    let few = &[("an excuse", 99_000)];
    let (code, text) = run(few, "campaign run excused --seeds 0..1000");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("too often"), "{text}");
    // With so few seeds it may be chance.
    let (code, text) = run(few, "campaign run excused --seeds 0..900");
    assert_eq!(code, 0, "{text}");
}

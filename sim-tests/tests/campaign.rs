//! The campaign command as a process: every scenario, few seeds, and the same trace each time.

use std::process::{Command, Output};

fn campaign(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_campaign"))
        .args(arguments)
        .output()
        .expect("the command was built for this test")
}

fn text(output: &Output) -> String {
    let (out, error) = (&output.stdout, &output.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(error)
    )
}

/// Runs a scenario over the seeds, with so few nodes that it does not take long, and expects no
/// failure.
fn passes(scenario: &str, nodes: &str, seeds: &str) {
    let output = campaign(&["run", scenario, "--nodes", nodes, "--seeds", seeds]);
    assert!(output.status.success(), "{}", text(&output));
}

/// Replays a seed in two processes and expects the same of both.
fn is_the_same_in_two_processes(scenario: &str, nodes: &str) {
    let arguments = [
        "replay", scenario, "--seed", "5", "--nodes", nodes, "--faults",
    ];
    let (first, second) = (campaign(&arguments), campaign(&arguments));
    assert!(first.status.success(), "{}", text(&first));
    assert!(text(&first).contains("trace hash: "), "{}", text(&first));
    assert_eq!(text(&first), text(&second));
}

#[test]
fn hosts_find_each_other() {
    passes("discovery-converges", "8", "0..3");
}

#[test]
fn hosts_survive_churn() {
    passes("discovery-churn", "6", "0..3");
}

#[test]
fn streams_deliver() {
    passes("streams-deliver", "6", "0..3");
}

#[test]
fn streams_survive_chaos() {
    passes("streams-chaos", "4", "0..1");
}

#[test]
fn collections_survive_chaos() {
    passes("collections-chaos", "3", "0..1");
}

#[test]
fn machines_agree_at_some_scale() {
    passes("overlay-scale", "60", "0..3");
}

#[test]
fn machines_survive_churn() {
    passes("overlay-churn", "16", "0..6");
}

#[test]
fn machines_agree_for_an_hour() {
    passes("overlay-steady", "4", "0..3");
}

#[test]
fn groups_survive_chaos() {
    passes("raft-chaos", "3", "0..8");
    passes("raft-chaos", "5", "0..4");
    passes("raft-set-back", "3", "0..4");
    passes("raft-meetings", "5", "0..4");
}

#[test]
fn groups_run_the_same_in_two_processes() {
    is_the_same_in_two_processes("raft-chaos", "5");
}

#[test]
fn whole_nodes_run_the_same_in_two_processes() {
    is_the_same_in_two_processes("streams-deliver", "5");
}

#[test]
fn machines_run_the_same_in_two_processes() {
    is_the_same_in_two_processes("overlay-churn", "12");
}

#[test]
fn seeds_run_the_same_beside_others() {
    let output = campaign(&[
        "check-determinism",
        "overlay-churn",
        "--nodes",
        "10",
        "--seeds",
        "0..6",
        "--jobs",
        "3",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        text(&output).ends_with("6 seeds, 0 failures\n"),
        "{}",
        text(&output)
    );
}

#[test]
fn an_unknown_scenario_is_refused_with_a_list_of_those_there_are() {
    let output = campaign(&["run", "overlay-scales"]);
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    assert!(
        text.contains("no scenario 'overlay-scales'") && text.contains("streams-deliver"),
        "{text}"
    );
}

#[test]
fn the_help_tells_of_every_command_and_option() {
    let help = text(&campaign(&["--help"]));
    for word in ["list", "run", "replay", "check-determinism", "exit code"] {
        assert!(help.contains(word), "{help} lacks {word}");
    }
    let help = text(&campaign(&["run", "--help"]));
    for word in ["--seeds", "--jobs", "--nodes", "FIRST..END", "`all`"] {
        assert!(help.contains(word), "{help} lacks {word}");
    }
}

//! Script files: read, run, compared, and written anew on demand.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use smalti_core::protocol::raft::Config;

use crate::cluster::Cluster;

/// Commands and what they must lead to.
struct Block {
    /// Comments, blank lines and commands, as they are.
    head: Vec<String>,
    /// `None` at the end of a file, where no commands are left.
    expected: Option<String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/raft/scripts")
}

/// The names of all scripts.
pub(crate) fn names() -> Vec<String> {
    let files = fs::read_dir(folder()).expect("the folder of the scripts can be read");
    let names = files.map(|file| file.expect("its entries can be read").path());
    names
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into())
        .collect()
}

fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    let mut head = Vec::new();
    while let Some(line) = lines.next() {
        if line != "----" {
            head.push(line.to_owned());
            continue;
        }
        let mut expected = String::new();
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            expected.push_str(line);
            expected.push('\n');
        }
        blocks.push(Block {
            head: std::mem::take(&mut head),
            expected: Some(expected),
        });
    }
    let is_command = |line: &String| !line.is_empty() && !line.starts_with('#');
    assert!(
        !head.iter().any(is_command),
        "commands without `----` behind them: {head:?}"
    );
    blocks.push(Block {
        head,
        expected: None,
    });
    blocks
}

/// What a run of a script led to.
pub(crate) struct Run {
    /// The blocks whose trace is not what was expected, as differences.
    pub(crate) differences: Vec<String>,
    /// What must hold of every run, and did not.
    pub(crate) violations: Vec<String>,
    rewritten: String,
}

/// Runs a script on members configured by `config`.
pub(crate) fn run(name: &str, config: Config) -> Run {
    let path = folder().join(format!("{name}.txt"));
    let text = fs::read_to_string(&path).expect("the script can be read");
    let mut cluster = Cluster::new(config);
    let mut run = Run {
        differences: Vec::new(),
        violations: Vec::new(),
        rewritten: String::new(),
    };
    let mut line_number = 0;
    for block in parse(&text) {
        for line in &block.head {
            line_number += 1;
            run.rewritten.push_str(line);
            run.rewritten.push('\n');
            if !line.is_empty() && !line.starts_with('#') {
                cluster.command(line).unwrap_or_else(|error| {
                    let trace = cluster.take_trace();
                    panic!("{name}.txt:{line_number}: {line}: {error}, after\n{trace}")
                });
            }
        }
        let Some(expected) = block.expected else {
            continue;
        };
        let actual = cluster.take_trace();
        if actual != expected {
            let difference = difference(&expected, &actual);
            let head = block.head.join("\n");
            run.differences
                .push(format!("{name}.txt:{line_number}:\n{head}\n{difference}"));
        }
        line_number += 2 + expected.lines().count();
        run.rewritten.push_str("----\n");
        run.rewritten.push_str(&actual);
        run.rewritten.push('\n');
    }
    while run.rewritten.ends_with("\n\n") {
        run.rewritten.pop();
    }
    run.violations = cluster.violations().to_vec();
    run
}

/// What is in one text alone: lines between the first and the last that differ.
fn difference(expected: &str, actual: &str) -> String {
    let expected: Vec<_> = expected.lines().collect();
    let actual: Vec<_> = actual.lines().collect();
    let same = |(one, other): &(&&str, &&str)| one == other;
    let head = expected.iter().zip(&actual).take_while(same).count();
    let (left, right) = (&expected[head..], &actual[head..]);
    let tail = left.iter().rev().zip(right.iter().rev());
    let tail = tail.take_while(same).count();
    let mut text = String::new();
    let sides = [
        (' ', &expected[head.saturating_sub(2)..head]),
        ('-', &left[..left.len() - tail]),
        ('+', &right[..right.len() - tail]),
    ];
    for (sign, lines) in sides {
        for line in lines {
            writeln!(text, "{sign} {line}").expect("a string takes everything");
        }
    }
    text
}

/// Fails where the trace of a script is not the expected one; writes the present one into the file where the
/// environment says so.
pub(crate) fn check(name: &str) {
    let run = run(name, Config::default());
    if std::env::var_os("SMALTI_REWRITE").is_some() {
        let path = folder().join(format!("{name}.txt"));
        fs::write(path, &run.rewritten).expect("the script can be written");
    } else {
        assert!(
            run.differences.is_empty(),
            "the trace is another (`-` expected, `+` found):\n{}",
            run.differences.join("\n")
        );
    }
    assert_eq!(run.violations, [""; 0], "what must hold whatever happens");
}

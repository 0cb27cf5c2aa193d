//! Fuzz targets for Smalti.
//!
//! Each module is one target: `run` is its body, a function of the input's bytes alone that panics where a
//! property does not hold, and `seeds` makes the corpus that it starts from. libFuzzer calls the body in
//! `fuzz_targets/`; plain tests call it with the corpus and with inputs drawn from a seed, so that every
//! test run executes it a bounded number of times.

pub mod catalog_merge;
mod script;
pub mod storage_recovery;
pub mod wire_decode;

use std::process::ExitCode;

/// A seed input, and the name of the file that it is kept in.
pub type Seed = (String, Vec<u8>);

/// The body of a target; it panics where a property does not hold.
pub type Body = fn(&[u8]);

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Its body.
    pub body: Body,
    /// Makes the inputs that it starts from.
    pub seeds: fn() -> Vec<Seed>,
}

/// Every target.
pub const TARGETS: [Target; 3] = [
    Target {
        name: "catalog_merge",
        body: catalog_merge::run,
        seeds: catalog_merge::seeds,
    },
    Target {
        name: "storage_recovery",
        body: storage_recovery::run,
        seeds: storage_recovery::seeds,
    },
    Target {
        name: "wire_decode",
        body: wire_decode::run,
        seeds: wire_decode::seeds,
    },
];

/// Runs `body` on the files named by the program's arguments: a corpus, or inputs that failed.
pub fn run_files(body: Body) -> ExitCode {
    let mut status = ExitCode::SUCCESS;
    for path in std::env::args_os().skip(1) {
        match std::fs::read(&path) {
            Ok(input) => {
                body(&input);
                println!("{}: passed", path.display());
            }
            Err(error) => {
                eprintln!("{}: {error}", path.display());
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}

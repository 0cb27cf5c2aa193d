//! Builds the campaign with the mutants in it, in a folder of its own, and runs that.

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;

use crate::Scenario;
use crate::campaign::Misuse;
use crate::campaign::arguments::MutantsArguments;

/// Where the build with mutants goes, below the folder of the workspace: beside other builds, which it would
/// otherwise replace each time.
const TARGET: &str = "target/mutants";

pub(in crate::campaign) fn mutants(
    arguments: &MutantsArguments,
    _: &[&dyn Scenario],
    out: &mut impl Write,
) -> io::Result<Result<bool, Misuse>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = package.parent().unwrap_or(package);
    let target = workspace.join(TARGET);
    writeln!(out, "building the mutants in {}", target.display())?;
    out.flush()?;
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" --cfg smalti_mutants");
    let built = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["build", "--release", "--package", "smalti-sim-tests"])
        .args(["--bin", "campaign"])
        .current_dir(workspace)
        .env("RUSTFLAGS", flags.trim())
        .env("CARGO_TARGET_DIR", &target)
        .status();
    match built {
        Ok(status) if status.success() => {}
        Ok(status) => {
            return Ok(Err(Misuse::Mutants(format!(
                "the build ended with {status}"
            ))));
        }
        Err(error) => {
            return Ok(Err(Misuse::Mutants(format!(
                "cargo cannot be run: {error}"
            ))));
        }
    }
    let run = Command::new(target.join("release/campaign"))
        .arg("mutants")
        .args(arguments.as_command_line())
        .status();
    Ok(match run {
        Ok(status) => Ok(status.success()),
        Err(error) => Err(Misuse::Mutants(format!("it cannot be run: {error}"))),
    })
}

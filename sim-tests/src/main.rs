//! Runs seeded scenarios: `campaign --help` says how.

use std::io;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = std::env::args_os();
    let scenarios = smalti_sim_tests::SCENARIOS;
    let result = smalti_sim_tests::campaign::main(arguments, scenarios, &mut io::stdout().lock());
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("campaign: the output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `cargo fuzz run -s none raft`; run without it, executes the body on the files given as
//! arguments.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| smalti_fuzz::raft::run(data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    smalti_fuzz::run_files(smalti_fuzz::raft::run)
}

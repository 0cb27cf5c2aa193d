//! `cargo fuzz run -s none storage_recovery`; run without it, executes the body on the files given as
//! arguments.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| smalti_fuzz::storage_recovery::run(data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    smalti_fuzz::run_files(smalti_fuzz::storage_recovery::run)
}

//! `cargo fuzz run -s none catalog_merge`; run without it, executes the body on the files given as arguments.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| smalti_fuzz::catalog_merge::run(data));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    smalti_fuzz::run_files(smalti_fuzz::catalog_merge::run)
}

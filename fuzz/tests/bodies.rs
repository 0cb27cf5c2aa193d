//! Runs the bodies of the fuzz targets a bounded number of times, on inputs drawn from a seed.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use smalti_fuzz::{Body, Seed, TARGETS, catalog_merge, storage_recovery, wire_decode};

/// Inputs of each kind for the decoders, which take microseconds.
const DECODED: usize = 5_000;
/// Inputs of each kind for the scripts, which take milliseconds.
const SCRIPTS: usize = 200;
/// Inputs of each kind for files of a store, which take tens of milliseconds.
const FILES: usize = 100;
/// The longest input.
const LEN_MAX: usize = 256;

#[test]
fn decoders_hold_for_inputs_of_a_seed() {
    run_drawn(wire_decode::run, &wire_decode::seeds(), DECODED);
}

#[test]
fn merging_holds_for_inputs_of_a_seed() {
    run_drawn(catalog_merge::run, &catalog_merge::seeds(), SCRIPTS);
}

#[test]
fn recovery_holds_for_inputs_of_a_seed() {
    run_drawn(storage_recovery::run, &storage_recovery::seeds(), FILES);
}

#[test]
fn every_seed_passes() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        seeds.iter().for_each(|(_, input)| (target.body)(input));
    }
}

#[test]
fn empty_input_passes() {
    for target in TARGETS {
        (target.body)(&[]);
    }
}

/// Runs `body` on `count` random inputs and on `count` seeds with something changed.
fn run_drawn(body: Body, seeds: &[Seed], count: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..count {
        let mut random = vec![0; rng.random_range(0..=LEN_MAX)];
        rng.fill_bytes(&mut random);
        body(&random);
        let (_, seed) = &seeds[rng.random_range(0..seeds.len())];
        body(&mutate(seed.clone(), &mut rng));
    }
}

/// Changes, cuts out or puts in a few bytes.
fn mutate(mut input: Vec<u8>, rng: &mut ChaCha8Rng) -> Vec<u8> {
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=input.len());
        let byte = rng.next_u64() as u8;
        match rng.random_range(0..4) {
            0 => input.truncate(at),
            1 => input.insert(at, byte),
            _ if at == input.len() => input.push(byte),
            2 => drop(input.remove(at)),
            _ => input[at] ^= 1 << (byte % 8),
        }
    }
    input
}
